"""The one way to open a file for reading and the one for writing: regular files only, and nothing is waited for.

Reading: a link is followed, as users expect of data on another disk; what it leads to must be a regular file. A pipe,
which would be waited for, and a device, which may have no end, are refused before they are opened.
Writing: never into what is there. A new file is created under a name that was free, and no link is followed at that
name; a finished one is renamed over its target, which may be a regular file or a link to one (the link gives way, what
it leads to stays as it is) but no device, pipe, socket or folder. A *folder* may be a link anywhere.

It stands beside `errors.py`, not in `dataset` or `training`, because builders, runs, analyses and projects all need it.
Every fault is an `OSError`; where the system has no words for it, an `UnusableFile`.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

MAX_NAME_BYTES = 255  # of Linux and macOS
MAX_TEXT_BYTES = 16 << 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_LOCK_CONTENT = re.compile(rb"[0-9\n\0]{0,32}")  # the holder's process; zeros are what a power cut may leave


class UnusableFile(OSError):
    """Why a file cannot be used, without its name, which stands beside as `path`."""

    def __init__(self, reason: str, path: object) -> None:
        super().__init__(reason)
        self.path = path


class MissingFile(UnusableFile, FileNotFoundError):
    """There is none."""


def reason_of(error: BaseException) -> str:
    """The system's words for an error, without the file's name, on one line of at most 200 characters."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200]


def fault_of(error: BaseException) -> str:
    """Why a file cannot be read, as a clause."""
    return str(error) if isinstance(error, UnusableFile) else f"it cannot be read ({reason_of(error)})"


def regular_size(path: Path | str) -> int:
    """Bytes of a regular file (through links). Errors: `UnusableFile`, also where there is none."""
    return _regular_size(os.stat, path, path)


def open_regular(path: Path | str) -> BufferedReader:
    """Open a regular file (through links) to read its bytes. Errors: `UnusableFile`."""

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # should a pipe have come since: no waiting
        try:
            _regular_size(os.fstat, descriptor, path)
        except UnusableFile:
            os.close(descriptor)
            raise
        return descriptor

    regular_size(path)
    try:
        return open(path, "rb", opener=opener)
    except UnusableFile:
        raise
    except OSError as error:
        raise UnusableFile(fault_of(error), path) from error


def bounded_bytes(path: Path | str, max_bytes: int) -> bytes:
    """The whole file, refused when it has more than `max_bytes`. Errors: `UnusableFile`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > max_bytes else _read(path, file, max_bytes + 1)
    if max(size, len(data)) > max_bytes:  # a file of /proc has content and no size
        raise UnusableFile(f"it has {max(size, len(data)):,} bytes, expected at most {max_bytes:,}", path)
    return data


def bounded_text(path: Path | str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """The whole UTF-8 text, line ends as they are. Errors: `UnusableFile`, also for bytes that are no UTF-8."""
    try:
        return bounded_bytes(path, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableFile(f"it is no UTF-8 text (byte {error.start})", path) from error


def file_sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes. Errors: `UnusableFile`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_target(path: Path | str) -> None:
    """Whether a file may be put there: the name is free, or a regular file's, or a link's to one or to nothing.

    Errors: `UnusableFile` that says what is there instead, `OSError`.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return
    except ValueError as error:  # a NUL inside the name
        raise UnusableFile(reason_of(error), path) from error
    if not stat.S_ISREG(status.st_mode):
        raise UnusableFile(f"{_kind(status.st_mode)} is there, expected a file or a free name", path)


def temporary_for(path: Path) -> Path:
    """A hidden name in the same folder that nobody can foresee: `.<name>.<16 hexadecimal digits>.tmp`.

    A long name is cut, so that it fits where `path` does.
    """
    ending = f".{secrets.token_hex(8)}.tmp"
    name = os.fsencode(path.name)[: MAX_NAME_BYTES - 1 - len(ending)]
    return path.with_name(f".{os.fsdecode(name)}{ending}")


def open_new(path: Path | str, *, buffering: int = -1) -> BinaryIO:
    """Create a file that is not there yet and open it to write; no link at its name is followed.

    Errors: `FileExistsError`, also for a link, and `OSError`.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    return cast(BinaryIO, open(path, "wb", buffering, opener=opener))


def open_to_append(path: Path | str) -> BinaryIO:
    """Open a regular file, made if need be, to write at its end, unbuffered.

    A file that this program did not make is not written into: neither through a link, nor where the same file has
    another name too. Errors: `UnusableFile`, `OSError`.
    """

    def opener(name: str, flags: int) -> int:
        return _open_own(name, os.O_WRONLY | os.O_APPEND, alone=True)

    return open(path, "ab", 0, opener=opener)


def overwrite_small(path: Path | str, data: bytes) -> None:
    """Write `data` over a regular file's own bytes, for a disk that has no room for a second file.

    Not atomic: for what is at most a block, which a reader sees old or new. Errors: `UnusableFile` for a link, a file
    under several names and what is no file; `OSError`.
    """
    if not os.path.lexists(path):
        raise MissingFile("there is no such file", path)
    with open(_open_own(path, os.O_RDWR, alone=True), "r+b", 0) as file:
        before = file.read(len(data))
        try:
            if file.seek(0) or file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.truncate()
        except OSError:
            file.seek(0)
            file.write(before)
            raise


def open_lock(path: Path | str) -> int:
    """A descriptor to lock by, of a file that is made if need be and holds nothing but a process number.

    Errors: `UnusableFile` for a link, for what is no file, and for one with anything else in it; `OSError`.
    """
    descriptor = _open_own(path, os.O_RDWR, alone=False)
    content = os.pread(descriptor, 64, 0)
    if not _LOCK_CONTENT.fullmatch(content):
        os.close(descriptor)
        raise UnusableFile("it holds something else than a process number", path)
    return descriptor


def open_folder(path: Path | str) -> int:
    """A descriptor of a folder, to lock it or to force its entries to the disk. Errors: `OSError`."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _open_own(path: Path | str, flags: int, *, alone: bool) -> int:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        pass
    else:
        _require_own(path, status, alone)
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnusableFile("it is a link, expected a file", path) from error
        raise
    try:
        _require_own(path, os.fstat(descriptor), alone)
    except UnusableFile:
        os.close(descriptor)
        raise
    return descriptor


def _require_own(path: object, status: os.stat_result, alone: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnusableFile(f"it is {_kind(status.st_mode)}, expected a file", path)
    if alone and status.st_nlink > 1:
        raise UnusableFile("it is one file under several names (hard links), expected one of its own", path)


def _regular_size(status_of: Callable[[Any], os.stat_result], where: Any, path: object) -> int:
    try:
        status = status_of(where)
    except FileNotFoundError:
        raise MissingFile("there is no such file", path) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the name
        raise UnusableFile(fault_of(error), path) from error
    if not stat.S_ISREG(status.st_mode):
        raise UnusableFile(f"it is not a regular file but {_kind(status.st_mode)}", path)
    return status.st_size


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link"
    return next((words for test, words in _KINDS if test(mode)), "something else")


def _read(path: object, file: BinaryIO, most: int) -> bytes:
    try:
        return file.read(most)
    except OSError as error:
        raise UnusableFile(fault_of(error), path) from error
