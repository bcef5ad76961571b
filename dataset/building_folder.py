"""Build a data set folder beside its final place, then rename it: half a folder never has its name."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset.puzzle_folder import STORED_ARRAYS
from dataset.puzzle_metadata import PART_PREFIX, read_metadata
from errors import UserError
from files import open_folder, open_regular, reason_of

_SPLITS = ("train", "test")
_BESIDE_THEM = {"identifiers.json", "test_puzzles.json"}  # the second is of the official ARC builder


@contextmanager
def building_folder(output_dir: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder `.NAME.building-<pid>` beside `output_dir`; rename it to `output_dir` at success.

    An existing folder with anything in it is refused before any work is done, unless `overwrite`: then it
    must be a data set and hold nothing that no builder wrote, in its splits either, and is replaced only once
    the new one is complete. When the body raises, the temporary folder is removed and the old one is as it was.
    Left-overs of killed builds (their process no longer runs) are swept first.

    Errors: `UserError` when the place is taken or cannot be written.
    """
    target = Path(os.path.abspath(os.path.expanduser(output_dir)))
    if target.is_symlink():
        target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        _check_place(target, overwrite)
        temporary = target.with_name(f".{target.name}.building-{os.getpid()}")
        temporary.mkdir()
    except (OSError, ValueError) as error:
        raise UserError(f"{target}: cannot build here ({error}); give another --output-dir") from error
    try:
        yield temporary
        _sync(temporary)
        _check_place(target, overwrite)
        _swap(temporary, target)
    except OSError as error:
        # numpy's own words for a full disk, without a number, are how many values were asked for and written.
        raise UserError(
            f"{target}: the build could not be written ({reason_of(error)}) and is removed; free some space, "
            "or give another --output-dir"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_place(target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise UserError(f"{target}: is a file, expected a folder to build into; give another --output-dir")
    entries = list(target.iterdir())
    if not entries:
        return
    if not overwrite:
        raise UserError(f"{target}: exists and is not empty; give another --output-dir, or --overwrite to replace it")
    finished = any((target / split / "dataset.json").is_file() for split in _SPLITS)
    stranger = next(_not_of_a_builder(target, entries), None)
    if stranger is not None or not finished:
        what = "holds no dataset.json" if stranger is None else f"holds {os.fspath(stranger.relative_to(target))!r}"
        raise UserError(
            f"{target}: is not a data set folder as builders leave it ({what}) and is not overwritten; move that "
            "elsewhere, or give another --output-dir"
        )


def _not_of_a_builder(target: Path, entries: list[Path]) -> Iterator[Path]:
    """What lies in a data set folder, in its splits or in its parts, and is no file of a name that builders give."""
    for entry in sorted(entries):
        if entry.name in _SPLITS and entry.is_dir():
            names = _files_of_split(target, entry.name)
            yield from (path for path in sorted(entry.iterdir()) if path.name not in names or path.is_dir())
        elif _is_part(entry, target):
            yield from _not_of_a_builder(entry, list(entry.iterdir()))
        elif entry.name not in _BESIDE_THEM or entry.is_dir():
            yield entry


def _is_part(entry: Path, target: Path) -> bool:
    """Whether a folder in a data set is one itself, built with it by one command."""
    if not entry.name.startswith(PART_PREFIX) or entry.is_symlink() or not entry.is_dir():
        return False
    command = _command(entry)
    return command is not None and command == _command(target)


def _command(folder: Path) -> object:
    """The command that a data set keeps; None where none tells."""
    for split in _SPLITS:
        try:
            build = read_metadata(folder, split).extra.get("build")
        except UserError:
            continue
        return build.get("command") if isinstance(build, dict) else None
    return None


def _files_of_split(target: Path, split: str) -> set[str]:
    """Names of the files of a split: of the sets in its `dataset.json`, or of the only one where that is damaged."""
    try:
        sets = read_metadata(target, split).sets
    except UserError:
        sets = ("all",)
    return {"dataset.json", *(f"{name}__{array}.npy" for name in sets for array in STORED_ARRAYS)}


def _swap(temporary: Path, target: Path) -> None:
    """Rename into place; an old folder steps aside, comes back on failure, and is removed at the end."""
    aside = target.with_name(f".{target.name}.replaced-{os.getpid()}")
    replaces = target.is_dir() and any(target.iterdir())
    if replaces:
        os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except OSError:
        if replaces:
            os.rename(aside, target)
        raise
    _sync_entry(target.parent)
    if replaces:
        shutil.rmtree(aside, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what killed builds of this name left; a set-aside folder without a successor comes back."""
    for kind in ("replaced", "building"):
        prefix = f".{target.name}.{kind}-"
        for entry in sorted(target.parent.iterdir()):
            pid = entry.name.removeprefix(prefix)
            if not entry.name.startswith(prefix) or not pid.isdigit() or _runs(int(pid)):
                continue
            if kind == "replaced" and not target.exists():
                os.rename(entry, target)
            else:
                shutil.rmtree(entry, ignore_errors=True)


def _runs(pid: int) -> bool:
    if pid == os.getpid():
        return False  # ours from an earlier life: one process builds one folder at a time
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # of another user
    return True


def _sync(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _sync_entry(Path(parent) / name)
        _sync_entry(Path(parent))


def _sync_entry(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    if path.is_dir():
        descriptor = open_folder(path)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    else:
        with open_regular(path) as file:
            os.fsync(file.fileno())
