"""Reading JSON objects that somebody else may have written: bounded, strict, one kind of error."""

import stat
from pathlib import Path
from typing import Any

from dataset.safe_files import parse_json

MAX_BYTES = 64 << 20


class JsonError(Exception):
    """The file is no usable JSON object; the message is the reason, without the file's name."""


def read_json_object(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read one JSON object. Errors: `JsonError` when unreadable, too large, not strict JSON or no object."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device read without end
            raise JsonError("it is not a regular file")
        if status.st_size > max_bytes:
            raise JsonError(f"it has {status.st_size} bytes, expected at most {max_bytes}")
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise JsonError(f"it cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise JsonError(f"it is no JSON ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(value, dict):
        raise JsonError(f"expected an object, found a {type(value).__name__}")
    return value
