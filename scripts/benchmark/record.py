"""The record that a benchmark writes with --json: looked at before anything is measured, then written whole."""

from pathlib import Path
from typing import Any

from errors import UserError
from training.storage.atomic_file import write_json_atomically


def check_json_target(path: Path | None) -> None:
    """Errors: `UserError` where a record could not be written there, before minutes are spent on it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UserError(f"--json {path}: expected a file in a folder that exists")


def save_record(path: Path | None, record: dict[str, Any]) -> None:
    """Write it, where a path was given. Errors: `UserError` when the disk refuses."""
    if path is None:
        return
    try:
        write_json_atomically(path, record)
    except OSError as error:
        raise UserError(f"--json {path} cannot be written: {error.strerror or error}") from error
