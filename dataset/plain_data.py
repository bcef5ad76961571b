"""The one reader of JSON and the one of YAML: plain data that anyone may have written, bounded, nothing taken silently.

They stand beside the data sets because everything else of the suite may import from here.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from dataset.safe_files import read_bytes
from errors import UserError
from files import UnusableFile, bounded_bytes

MAX_JSON_BYTES = 64 << 20
MAX_JSON_DEPTH = 32
MAX_YAML_BYTES = 1 << 17  # the parser is slow: a megabyte takes it many seconds
MAX_YAML_ALIASES = 16
MAX_YAML_DEPTH = 32
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same language, ten times as fast


class JsonError(Exception):
    """The file is no usable JSON; the message is the reason, without the file's name."""


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON file, as `parse_json`. Errors: `JsonError` when unreadable, too large or not strict JSON."""
    try:
        return parse_json(bounded_bytes(path, max_bytes))
    except UnusableFile as error:
        raise JsonError(str(error)) from error
    except ValueError as error:
        raise JsonError(f"it is no JSON ({' '.join(str(error).split())[:120]})") from error


def read_json_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """As `read_json`; a value that is no object is a `JsonError` too."""
    value = read_json(path, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise JsonError(f"expected an object, found a {type(value).__name__}")
    return value


def json_object_or_refuse(path: Path, mend: object = "", *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """As `read_json_object`. Errors: `UserError` that names the file and, where given, what mends it."""
    try:
        return read_json_object(path, max_bytes=max_bytes)
    except JsonError as error:
        raise UserError(f"{path}: {error}" + (f"; {mend}" if mend else "")) from error


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
        # Half of a surrogate pair can be escaped in JSON, but be written to no file.
        json.dumps(value, ensure_ascii=False).encode()
    return value


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


def strict_values(value: Any, nonfinite: list[str], name: str = "") -> Any:
    """A copy that strict JSON can hold: scalars of torch and NumPy as numbers, paths as text, NaN and infinity as null.

    The dotted names of the nulls are added to `nonfinite`.
    """
    if hasattr(value, "item") and not isinstance(value, str | bytes):  # 0-d tensors and NumPy scalars
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): strict_values(item, nonfinite, f"{name}{key}.") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_values(item, nonfinite, f"{name}{index}.") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(name.removesuffix("."))
        return None
    return str(value) if isinstance(value, Path) else value


def json_bytes(value: Any, *, indent: int | None = 2) -> bytes:
    """Strict JSON: NaN and infinity are null. Errors: `TypeError` for what JSON cannot hold.

    Bytes of a file name that are no UTF-8 are half surrogate pairs in a text, which `parse_json` refuses; they become
    the text of their escape, as `errors.printable` shows them.
    """
    text = json.dumps(strict_values(value, []), allow_nan=False, indent=indent, ensure_ascii=False) + "\n"
    return _HALF_PAIR.sub(lambda match: f"\\\\u{ord(match[0]):04x}", text).encode()


def read_yaml(path: Path, expected: str) -> Any:
    """The value of a yaml file. Errors: `UserError` naming the file and ending with `expected`."""
    try:
        text = read_bytes(path, MAX_YAML_BYTES, expected).decode("utf-8")
        _check_events(path, text, expected)
        doubled = _doubled_key(yaml.compose(text, _LOADER))
        if doubled is not None:
            raise UserError(f"{path}: {doubled!r} stands twice in one place, {expected}")
        return yaml.load(text, _LOADER)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not safe yaml ({' '.join(str(error).split())[:200]}): {expected}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): {expected}") from None


def _check_events(path: Path, text: str, expected: str) -> None:
    """Refuse what makes a small file expand without bound (aliases) or the parser crawl (depth)."""
    aliases = depth = 0
    for event in yaml.parse(text, _LOADER):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if aliases > MAX_YAML_ALIASES:
            raise UserError(f"{path}: more than {MAX_YAML_ALIASES} yaml aliases, {expected} without")
        if depth > MAX_YAML_DEPTH:
            raise UserError(f"{path} is nested deeper than {MAX_YAML_DEPTH} levels, {expected}")


def _doubled_key(node: Any) -> str | None:
    """A key that a yaml mapping has twice, of which the loader would silently take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    return str(key.value)
                seen.add(key.value)
            below = _doubled_key(value)
            if below is not None:
                return below
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            below = _doubled_key(item)
            if below is not None:
                return below
    return None
