"""Torch archives that carry their own checksum, so that one renamed file is complete and verifiable.

`torch.load` checks no CRC: a flipped payload bit loads silently, and the CRCs leave headers and padding
uncovered. Here the SHA-256 of everything before it is the zip archive's comment, the last bytes of the file,
which zip readers and `torch.load` ignore. Every single flipped bit and every truncation is found. The hash is
taken while writing.
"""

import contextlib
import errno
import hashlib
import os
import re
import signal
import struct
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any, BinaryIO, cast

import torch

from files import fault_of, open_new, open_regular

_PREFIX = b"rrs-archive-1 sha256="
_COMMENT_BYTES = len(_PREFIX) + 64
_END_RECORD = b"PK\x05\x06"
_END_RECORD_BYTES = 22  # of which the last two are the length of the comment that follows
_CHUNK = 1 << 20
FAILURE_HOOK = "RRS_TEST_SAVE_FAILURE"  # "enospc": every write fails as on a full disk


class ArchiveError(Exception):
    """A file is not a sound archive; the message is the reason, without the file's name."""


class ChecksumMissing(ArchiveError):
    """A zip archive without our checksum: written by something else, or its very end is damaged."""


class _HashingWriter:
    """Passes bytes on to `file` and hashes all but the last two (the comment length, rewritten at the end).

    The first `OSError` is remembered and later bytes are dropped: an exception raised through torch's C++
    writer is turned into an unrelated one, or ends the process.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.failure: OSError | None = None
        self.hash = hashlib.sha256()
        self.tail = b""
        self._file = file

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        if self.failure is None and size:
            try:
                if os.environ.get(FAILURE_HOOK) == "enospc":
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                rest = view
                while len(rest):  # an unbuffered write may be partial, and is above 2 GiB
                    rest = rest[self._file.write(rest) :]
            except OSError as error:
                self.failure = error
                return size
            if size >= 2:
                self.hash.update(self.tail)
                self.hash.update(view[:-2])
                self.tail = bytes(view[-2:])
            else:
                joined = self.tail + bytes(view)
                self.hash.update(joined[:-2])
                self.tail = joined[-2:]
        return size

    def flush(self) -> None:
        """Asked for by torch; the file below is unbuffered."""


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """A Ctrl-C inside the block takes effect at its end.

    Raised through torch's C++ writer, `KeyboardInterrupt` would come out as an unrelated error, or end the
    process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[tuple[int, FrameType | None]] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler if handler is not None else signal.SIG_DFL)
        if pressed and callable(handler):
            handler(*pressed[0])
        elif pressed and handler is not signal.SIG_IGN:
            os.kill(os.getpid(), signal.SIGINT)


def write_archive(path: Path, value: Any) -> None:
    """`torch.save` with the checksum as zip comment, synced to the disk. Not atomic: `path` is temporary.

    Memory: tensors are streamed one by one, nothing is doubled. Errors: `OSError` as the disk reports it.
    """
    with open_new(path, buffering=0) as file:
        writer = _HashingWriter(file)
        with _ctrl_c_waits():
            torch.save(value, cast(IO[bytes], writer))
        if writer.failure is not None:
            raise writer.failure
        if writer.tail != b"\0\0":
            raise RuntimeError("torch.save ends its archive otherwise than expected: no room for the checksum")
        file.seek(-2, os.SEEK_END)
        ending = struct.pack("<H", _COMMENT_BYTES) + _PREFIX + writer.hash.hexdigest().encode()
        if file.write(ending) != len(ending):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())


def stored_digest(path: Path) -> str | None:
    """The checksum a file carries, unverified (equal ones mean copies); None where there is none."""
    try:
        with open_regular(path) as file:
            return _read_ending(file)
    except (OSError, ArchiveError):
        return None


def verify_archive(path: Path) -> None:
    """Raise `ArchiveError` with the reason unless every byte of `path` is as `write_archive` left it."""
    try:
        with open_regular(path) as file:
            digest = _read_ending(file)
            covered = file.seek(0, os.SEEK_END) - _COMMENT_BYTES - 2
            file.seek(0)
            computed = hashlib.sha256()
            while covered:
                block = file.read(min(_CHUNK, covered))
                if not block:
                    raise ArchiveError("it became shorter while it was read")
                computed.update(block)
                covered -= len(block)
    except OSError as error:
        raise ArchiveError(fault_of(error)) from error
    if computed.hexdigest() != digest:
        raise ArchiveError("its checksum does not fit its content: at least one bit has changed")
    check_zip_bounds(path)


def check_zip_bounds(path: Path, *, crc: bool = False) -> None:
    """Refuse a zip that is unreadable, packed, or claims more bytes than the file has; with `crc` read all.

    Torch stores members unpacked, so the sum of their sizes cannot exceed the file: nothing to inflate into
    memory.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ArchiveError("it is a packed zip, which torch.save never writes")
            if min((member.header_offset for member in members), default=0):
                # Python passes over it; torch counts from the file's start, and would read what was not checked.
                raise ArchiveError("something stands before its first member")
            total, size = sum(member.file_size for member in members), os.fstat(file.fileno()).st_size
            if total > size:
                raise ArchiveError(f"its members claim {total} bytes and the file has {size}")
            broken = archive.testzip() if crc else None
    except ArchiveError:
        raise
    except Exception as error:  # zipfile raises many types on crafted bytes (struct, value, key)
        raise ArchiveError(f"its zip directory is damaged ({type(error).__name__}: {error})") from error
    if broken is not None:
        raise ArchiveError(f"the CRC of its member {broken} does not fit: at least one bit has changed")


def read_archive(path: Path, map_location: Any = "cpu") -> Any:
    """`torch.load(weights_only=True)` of an already verified file; any failure becomes an `ArchiveError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch thinks of garbage's pickle protocol helps nobody
            with open_regular(path) as file:
                return torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # garbage makes the unpickler raise nearly any type
        # Torch advises at length, also to load without protection; only what it found is passed on.
        finding = re.search(r"WeightsUnpickler error: *([^\n]*?)(?:\n|$| Please)|(Trying to load [^\n]*)", str(error))
        text = (finding[1] or finding[2] or "a damaged pickle") if finding else str(error)
        reason = " ".join(text.split())[:160]
        raise ArchiveError(f"torch refuses it ({type(error).__name__}: {reason})") from error


def _read_ending(file: BinaryIO) -> str:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise ArchiveError("it is empty")
    file.seek(0)
    start = file.read(4)
    if start != b"PK\x03\x04":
        raise ArchiveError(f"it is no torch archive (it begins with {start!r})")
    file.seek(max(0, size - _COMMENT_BYTES - _END_RECORD_BYTES))
    ending = file.read()
    record, comment = ending[:-_COMMENT_BYTES], ending[-_COMMENT_BYTES:]
    sound = len(record) == _END_RECORD_BYTES and record.startswith(_END_RECORD)
    if sound and record[-2:] == struct.pack("<H", _COMMENT_BYTES) and comment.startswith(_PREFIX):
        return comment[len(_PREFIX) :].decode("ascii", errors="replace")
    try:
        is_zip = zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # raised, of all places, here: a zip said to span several disks
        is_zip = False
    if is_zip:
        raise ChecksumMissing("it is a zip without our checksum: another program's file, or its end is damaged")
    raise ArchiveError("it is cut short: the archive's end is missing")
