"""Files that are either the old one or the new one, never half of either.

A writer fills a hidden temporary file in the same folder, forces it to the disk, renames it over the target
and forces the folder's entry to the disk too. A process killed in between leaves the target as it was and one
temporary file, named by `files.temporary_for`, which `run_folder.sweep_temporaries` removes at the next start.
"""

import contextlib
import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dataset.plain_data import json_bytes
from errors import say
from files import check_target, open_folder, open_new, open_regular, temporary_for

SLEEP_HOOK = "RRS_TEST_SLEEP_IN_SAVE"  # seconds to wait between write and rename; tests kill there


def fsync_folder(folder: Path) -> None:
    """Force the folder's entries to the disk; a rename is durable only after this."""
    descriptor = open_folder(folder)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder and say so; there is nothing more to do on those.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def pause_for_tests() -> None:
    """Sleep where a kill would hurt most, when a test asks for it through the environment."""
    seconds = os.environ.get(SLEEP_HOOK, "")
    if re.fullmatch(r"[0-9]{0,4}(\.[0-9]+)?", seconds, re.ASCII):  # anything else would cost a run its save
        time.sleep(float(seconds or 0))


def replace_file(temporary: Path, target: Path) -> None:
    """Rename over a file, a link to one, or nothing. Errors: `OSError`, `UnusableFile` where anything else is."""
    check_target(target)
    os.replace(temporary, target)


def install(temporary: Path, target: Path) -> None:
    """Rename a finished, synced temporary file over its target and sync the folder."""
    pause_for_tests()
    replace_file(temporary, target)
    fsync_folder(target.parent)


def write_atomically(path: Path, fill: Callable[[BinaryIO], None], *, durable: bool = True) -> None:
    """Replace `path` by what `fill(file)` writes.

    `durable=False` skips the two syncs: still never half a file to a reader, but a power cut may bring back
    the old one. Errors: whatever `fill` raises, and `OSError`; the old file is intact and the temporary one
    removed.
    """
    check_target(path)
    temporary = temporary_for(path)
    try:
        with open_new(temporary) as file:
            fill(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if durable:
            install(temporary, path)
        else:
            replace_file(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` by these bytes. Errors: `OSError`."""
    write_atomically(path, lambda file: file.writelines([data]), durable=durable)


def write_json_atomically(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace `path` by `value` as `json_bytes` writes it. Errors: `TypeError` for what JSON cannot hold, `OSError`."""
    write_bytes_atomically(path, json_bytes(value), durable=durable)


def write_npz_atomically(path: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> None:
    """Replace `path` by arrays that `np.load` reads with allow_pickle=False. Errors: `OSError`."""
    save = np.savez_compressed if compressed else np.savez
    write_atomically(path, lambda file: save(file, **arrays))  # type: ignore[arg-type]


@contextlib.contextmanager
def warning_when_refused(path: Path) -> Iterator[None]:
    """For files without which a run goes on: a disk that refuses `path` inside costs a warning."""
    try:
        yield
    except OSError as error:
        say(f"warning: {path} cannot be written ({error.strerror or error})", file=sys.stderr)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` (a hard link; a copy where links are refused), atomically."""
    if target.exists() and target.samefile(source):
        return
    temporary = temporary_for(target)
    try:
        try:
            os.link(os.path.realpath(source), temporary)  # of a link, what it leads to
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT):
                raise
            with open_regular(source) as read, open_new(temporary) as file:
                shutil.copyfileobj(read, file)
                file.flush()
                os.fsync(file.fileno())
        replace_file(temporary, target)
        fsync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
