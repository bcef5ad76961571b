"""Opening files: what is no regular file is refused at once, and nothing is ever written into what is there."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.command_line import check_json_target
from dataset.plain_data import read_json
from errors import UserError
from files import (
    MAX_NAME_BYTES,
    UnusableFile,
    bounded_bytes,
    bounded_text,
    check_target,
    file_sha256,
    open_lock,
    open_new,
    open_regular,
    open_to_append,
    temporary_for,
)
from training.storage.atomic_file import link_or_copy, write_bytes_atomically, write_json_atomically

PRECIOUS = b"somebody's only copy\n"


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def listening(path: Path) -> Path:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may have a hundred bytes only
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


NO_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pipe": (pipe, "a pipe"),
    "socket": (listening, "a socket"),
    "folder": (folder, "a folder"),
    "device": (device, "a device"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_regular_file_is_neither_read_nor_replaced(tmp_path: Path, kind: str) -> None:
    make, words = NO_FILES[kind]
    path = make(tmp_path / "it")
    before = os.lstat(path)
    for read in (open_regular, file_sha256, bounded_text, lambda path: bounded_bytes(path, 1000)):
        with pytest.raises(UnusableFile, match=f"not a regular file but {words}"):
            read(path)
    with pytest.raises(UnusableFile, match=f"{words} is there"):
        check_target(path)
    for write in (write_bytes_atomically, write_json_atomically):
        with pytest.raises(UnusableFile, match=f"{words} is there"):
            write(path, b"" if write is write_bytes_atomically else {})
    (tmp_path / "source").write_bytes(PRECIOUS)
    with pytest.raises(OSError):
        link_or_copy(tmp_path / "source", path)
    with pytest.raises(OSError):
        open_to_append(path)
    with pytest.raises(OSError):
        open_lock(path)
    after = os.lstat(path)
    assert (after.st_ino, stat.S_IFMT(after.st_mode)) == (before.st_ino, stat.S_IFMT(before.st_mode))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["it", "source"], "no temporary file stays"


def test_a_link_is_followed_to_read_and_gives_way_to_what_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(PRECIOUS)
    link.symlink_to(target)
    assert bounded_bytes(link, 100) == PRECIOUS
    write_bytes_atomically(link, b"new")
    assert target.read_bytes() == PRECIOUS and link.read_bytes() == b"new" and not link.is_symlink()
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    write_bytes_atomically(dangling, b"new")
    assert dangling.read_bytes() == b"new" and not (tmp_path / "nowhere").exists()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    target, link, other = tmp_path / "target", tmp_path / "link", tmp_path / "other name"
    target.write_bytes(PRECIOUS)
    link.symlink_to(target)
    os.link(target, other)
    with pytest.raises(FileExistsError):
        open_new(link)
    with pytest.raises(UnusableFile, match="a link"):
        open_to_append(link)
    with pytest.raises(UnusableFile, match="several names"):
        open_to_append(other)
    with pytest.raises(UnusableFile, match="a link"):
        open_lock(link)
    with pytest.raises(UnusableFile, match="something else"):
        open_lock(target)
    assert target.read_bytes() == PRECIOUS


def test_the_name_of_a_temporary_file_cannot_be_foreseen_and_fits(tmp_path: Path) -> None:
    for name in ("a", "ä" * (MAX_NAME_BYTES // 2), "x" * MAX_NAME_BYTES, os.fsdecode(b"\xff" * MAX_NAME_BYTES)):
        first, second = temporary_for(tmp_path / name), temporary_for(tmp_path / name)
        assert first != second and first.parent == tmp_path and len(os.fsencode(first.name)) <= MAX_NAME_BYTES
        write_bytes_atomically(tmp_path / name, PRECIOUS)
        assert (tmp_path / name).read_bytes() == PRECIOUS


def test_a_name_that_is_too_long_or_holds_a_nul_is_refused_as_a_file(tmp_path: Path) -> None:
    for name in ("x" * (MAX_NAME_BYTES + 1), "a\0b"):
        with pytest.raises(UnusableFile):
            bounded_bytes(tmp_path / name, 10)
        with pytest.raises(OSError):
            write_bytes_atomically(tmp_path / name, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert bounded_bytes(path, 5) == b"12345"
    with pytest.raises(UnusableFile, match="5 bytes, expected at most 4"):
        bounded_bytes(path, 4)
    # The system gives no size of these beforehand.
    assert os.path.getsize("/proc/self/status") == 0
    with pytest.raises(UnusableFile, match="11 bytes, expected at most 10"):
        bounded_bytes("/proc/self/status", 10)
    path.write_bytes(b"ab\xffc")
    with pytest.raises(UnusableFile, match="no UTF-8 text .byte 2"):
        bounded_text(path)


def test_a_lock_holds_a_process_number_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    for content in (b"", b"123\n", b"\0\0\0\0"):
        path.write_bytes(content)
        os.close(open_lock(path))
        assert path.read_bytes() == content
    made = tmp_path / "made"
    os.close(open_lock(made))
    assert made.read_bytes() == b""


def test_appending_goes_to_the_end(tmp_path: Path) -> None:
    for line in (b"one\n", b"two\n"):
        with open_to_append(tmp_path / "log") as file:
            file.write(line)
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def test_bytes_of_a_name_that_are_no_text_become_escapes_in_json(tmp_path: Path) -> None:
    write_json_atomically(tmp_path / "it.json", {"path": os.fsdecode(b"/x/\xff")})
    assert read_json(tmp_path / "it.json") == {"path": "/x/\\udcff"}


@pytest.mark.parametrize("kind", NO_FILES)
def test_reports_are_refused_before_work_where_they_could_not_be_written(tmp_path: Path, kind: str) -> None:
    make, words = NO_FILES[kind]
    path = make(tmp_path / "it")
    with pytest.raises(UserError, match=f"--json .*{words} is there"):
        check_json_target(path)
    for name in ("x" * (MAX_NAME_BYTES + 1), "none/report.json"):
        with pytest.raises(UserError, match="--json "):
            check_json_target(tmp_path / name)
    check_json_target(tmp_path / "free")
    check_json_target(None)


@pytest.mark.parametrize("name", ["best.pt", "summary.json", "step_3", "evaluation_best.json", "notes.json", "x.txt"])
def test_a_report_replaces_nothing_but_a_report(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content in (b'{"mine": true}', b"[]", b"\x00weights", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="a file of a run|is no report of a measurement"):
            check_json_target(path)
        assert path.read_bytes() == content
    (tmp_path / "speed.json").write_text('{"record": {"numbers": []}}')
    check_json_target(tmp_path / "speed.json")
    (tmp_path / "mine.json").write_text('{"record": {"numbers": []}, "checkpoint_sha256": "0", "results": []}')
    with pytest.raises(UserError, match="is no report of a measurement"):
        check_json_target(tmp_path / "mine.json")
