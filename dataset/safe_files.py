"""Data files that anyone may have written: bounded JSON, and arrays whose header is checked before use.

Nothing here executes, imports or allocates what a file merely claims: sizes are compared with the file itself
first. Every failure is a `UserError` of one line that names the file and ends with `mend`, the way out.
"""

import hashlib
import io
import json
import math
import os
import stat
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.lib import format as npy_format

from errors import UserError

MAX_HEADER_BYTES = 10_000  # numpy's own limit for headers that need no pickle
MAX_DIMENSIONS = 4
MAX_JSON_DEPTH = 32


def refuse(path: Path, found: str, mend: str) -> NoReturn:
    """Raise the one-line `UserError` for a damaged or foreign file."""
    raise UserError(f"{path}: {found}; {mend}")


def file_size(path: Path, mend: str) -> int:
    """Bytes of a regular file (through links); pipes and devices, which could block, are refused unopened."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        refuse(path, "no such file", mend)
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the name
        refuse(path, f"cannot be read ({_reason(error)})", mend)
    if not stat.S_ISREG(status.st_mode):
        refuse(path, "is not a regular file", mend)
    return status.st_size


def read_bytes(path: Path, max_bytes: int, mend: str) -> bytes:
    """The whole file, refused unread when it is larger than `max_bytes`."""
    size = file_size(path, mend)
    if size > max_bytes:
        refuse(path, f"has {size:,} bytes, expected at most {max_bytes:,}", mend)
    try:
        with open(path, "rb") as handle:
            return handle.read(max_bytes)
    except OSError as error:
        refuse(path, f"cannot be read ({_reason(error)})", mend)


def read_json(path: Path, max_bytes: int, mend: str) -> Any:
    """The value of a JSON file of bounded size, read as `parse_json` does. Errors: `UserError`."""
    data = read_bytes(path, max_bytes, mend)
    try:
        return parse_json(data)
    except ValueError as error:
        refuse(path, f"is not valid JSON ({_reason(error)})", mend)


def parse_json(data: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN or infinity, no repeated key, bounded depth, texts that can be written again.

    Errors: `ValueError` with the reason.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            object_pairs_hook=_unique_keys,
        )
        _check_depth(value)
    except RecursionError:
        raise ValueError("it is nested too deeply for a file of this suite") from None
    if "\\u" in text:
        _check_texts(value)
    return value


def _check_texts(value: Any) -> None:
    """Half of a surrogate pair can be escaped in JSON, but be written to no file."""
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, list):
        for item in value:
            _check_texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_texts(key)
            _check_texts(item)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _check_depth(value: Any) -> None:
    """Refuse what the parser could still follow but `repr` or a later dump could not."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        containers = [node for node in level if isinstance(node, list | dict)]
        if not containers:
            return
        level = []
        for node in containers:
            children = node.values() if isinstance(node, dict) else node
            level.extend(child for child in children if isinstance(child, list | dict))
    if level:
        raise RecursionError


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200]


@dataclass(frozen=True)
class ArrayHeader:
    """What a `.npy` file says about itself, already found consistent with the file's size."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


def read_array_header(path: Path, mend: str) -> ArrayHeader:
    """Header of a C-ordered integer `.npy` file; its claim must match the file's size to the byte.

    Errors: `UserError` for anything else (object, structured or floating dtypes, Fortran order, a truncated
    or lengthened file, an unparsable header). The payload is not touched.
    """
    size = file_size(path, mend)
    try:
        with open(path, "rb") as handle:
            head = io.BytesIO(handle.read(MAX_HEADER_BYTES + 64))
    except OSError as error:
        refuse(path, f"cannot be read ({_reason(error)})", mend)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy comments on headers written by Python 2
            version = npy_format.read_magic(head)
            if version == (1, 0):
                shape, fortran, dtype = npy_format.read_array_header_1_0(head, max_header_size=MAX_HEADER_BYTES)
            elif version == (2, 0):
                shape, fortran, dtype = npy_format.read_array_header_2_0(head, max_header_size=MAX_HEADER_BYTES)
            else:
                raise ValueError(f"format version {version[0]}.{version[1]}")
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        SyntaxError,
        OverflowError,
        EOFError,
        RecursionError,
        MemoryError,
        tokenize.TokenError,
    ) as error:
        refuse(path, f"is not a readable .npy file ({_reason(error)[:120] or type(error).__name__})", mend)
    if dtype.hasobject or dtype.fields is not None or dtype.subdtype is not None or dtype.kind not in "iu":
        refuse(path, f"holds {_reason(TypeError(str(dtype)))[:60]} values, expected integers", mend)
    if len(shape) > MAX_DIMENSIONS or any(isinstance(n, bool) or not 0 <= n < 2**48 for n in shape):
        refuse(path, "has a header with an impossible shape", mend)
    if fortran and len(shape) > 1:
        refuse(path, "is stored in Fortran order, expected C order", mend)
    expected = head.tell() + math.prod(shape) * dtype.itemsize
    if size != expected:
        refuse(
            path,
            f"has {size:,} bytes, but its header ({dtype} values of shape {shape}) needs {expected:,}",
            mend,
        )
    return ArrayHeader(path, shape, dtype, head.tell())


def map_array(header: ArrayHeader, mend: str) -> np.ndarray:
    """Read-only memory map of an array whose header has been checked (a plain array when it is empty)."""
    if math.prod(header.shape) == 0:
        return np.zeros(header.shape, header.dtype)
    try:
        return np.memmap(header.path, header.dtype, "r", header.offset, header.shape)
    except (OSError, ValueError) as error:
        refuse(header.path, f"cannot be mapped ({_reason(error)})", mend)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
