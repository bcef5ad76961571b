"""Write a built file whole or not at all, and never over something else."""

import os
from pathlib import Path

from errors import UserError


def check_target(path: Path, option: str) -> None:
    """Before any work is done: the folder exists and the name is free or a regular file's. Errors: `UserError`."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"{option} {path}: there is no such folder; make it with: mkdir -p {path.absolute().parent}")
    if path.exists() and not path.is_file():
        raise UserError(f"{option} {path}: is not a regular file; name another")


def write_new_file(path: Path, data: bytes, option: str) -> bool:
    """Write `data` to `path`: temporary file in the same folder, synced, renamed, folder synced.

    Returns False, having written nothing, where the file already holds these bytes. Errors: `UserError` where it holds
    others, or cannot be written; the old file is as it was, and the temporary one is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists():
            _refuse_other(path, data, option)
            return False
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.absolute().parent)
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written: {error.strerror or error}; name another") from error
    return True


def _refuse_other(path: Path, data: bytes, option: str) -> None:
    if path.stat().st_size != len(data) or path.read_bytes() != data:
        raise UserError(
            f"{option} {path}: another file is there and is not overwritten; remove it yourself or name another"
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
