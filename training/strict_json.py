"""Reading JSON objects that somebody else may have written: bounded, strict, one kind of error."""

import json
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 64 << 20


class JsonError(Exception):
    """The file is no usable JSON object; the message is the reason, without the file's name."""


def read_json_object(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read one JSON object. Errors: `JsonError` when unreadable, too large, not JSON or no object."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise JsonError(f"it has {size} bytes, expected at most {max_bytes}")
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise JsonError(f"it cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # also wrong Unicode, a subclass of ValueError
        raise JsonError(f"it is no JSON ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(value, dict):
        raise JsonError(f"expected an object, found a {type(value).__name__}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")
