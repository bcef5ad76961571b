"""Data files that anyone may have written: bounded bytes, and arrays whose header is checked before use.

Nothing here executes, imports or allocates what a file merely claims: sizes are compared with the file itself
first. Every failure is a `UserError` of one line that names the file and ends with `mend`, the way out.
"""

import io
import math
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.lib import format as npy_format

from errors import UserError
from files import UnusableFile, bounded_bytes, fault_of, open_regular, reason_of, regular_size

MAX_HEADER_BYTES = 10_000  # numpy's own limit for headers that need no pickle
MAX_DIMENSIONS = 4


def refuse(path: Path, reason: str, mend: object) -> NoReturn:
    """Raise the one-line `UserError` for a damaged or foreign file."""
    raise UserError(f"{path}: {reason}; {mend}")


def file_size(path: Path, mend: object) -> int:
    """As `regular_size`. Errors: `UserError`, ending with `mend`."""
    try:
        return regular_size(path)
    except UnusableFile as error:
        refuse(path, str(error), mend)


def read_bytes(path: Path, max_bytes: int, mend: object) -> bytes:
    """As `bounded_bytes`. Errors: `UserError`, ending with `mend`."""
    try:
        return bounded_bytes(path, max_bytes)
    except UnusableFile as error:
        refuse(path, str(error), mend)


@dataclass(frozen=True)
class ArrayHeader:
    """What a `.npy` file says about itself, already found consistent with the file's size."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


def read_array_header(path: Path, mend: object) -> ArrayHeader:
    """Header of a C-ordered integer `.npy` file; its claim must match the file's size to the byte.

    Errors: `UserError` for anything else (object, structured or floating dtypes, Fortran order, a truncated
    or lengthened file, an unparsable header). The payload is not touched.
    """
    size = file_size(path, mend)
    try:
        with open_regular(path) as handle:
            head = io.BytesIO(handle.read(MAX_HEADER_BYTES + 64))
    except OSError as error:
        refuse(path, fault_of(error), mend)
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
        refuse(path, f"is not a readable .npy file ({reason_of(error)[:120] or type(error).__name__})", mend)
    if dtype.hasobject or dtype.fields is not None or dtype.subdtype is not None or dtype.kind not in "iu":
        refuse(path, f"holds {reason_of(TypeError(str(dtype)))[:60]} values, expected integers", mend)
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


def map_array(header: ArrayHeader, mend: object) -> np.ndarray:
    """Read-only memory map of an array whose header has been checked (a plain array when it is empty)."""
    if math.prod(header.shape) == 0:
        return np.zeros(header.shape, header.dtype)
    try:
        with open_regular(header.path) as file:
            return np.memmap(file, header.dtype, "r", header.offset, header.shape)
    except (OSError, ValueError) as error:
        refuse(header.path, f"cannot be mapped ({reason_of(error)})", mend)
