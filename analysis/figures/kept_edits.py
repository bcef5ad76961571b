"""Files that a person may edit between two runs of the script that writes them: an edited one is never overwritten.

All figures, tables, numbers and captions are written so, of single scripts by `put`, of a bundle by `place`. What a
script itself wrote is replaced without a word; that it is of the same inputs and options, `results_folder` has seen to.
"""

import glob
import hashlib
from collections.abc import Collection
from pathlib import Path

from dataset.plain_data import JsonError, read_json_object
from errors import UserError, writing
from files import bounded_bytes, reason_of
from training.storage.atomic_file import write_bytes_atomically, write_json_atomically

RECORD = ".written.json"  # name -> SHA-256 of what the script wrote there last
_MAX_BYTES = 64 << 20


def place(staged: Path, folder: Path) -> list[str]:
    """Put every file below `staged` into `folder`, and remove what an earlier call put there and this one lacks.

    A file that was edited since, or that the script never wrote, stays, as `put` has it. Returns a line about each such
    file, and about each that is removed. Errors: `UserError` when the disk refuses, or the folder holds what cannot be
    read.
    """
    written, said = _record(folder), []
    files = (path for path in sorted(staged.rglob("*")) if path.is_file() and path.name != RECORD)
    fresh = {str(path.relative_to(staged)): path for path in files}
    for name, path in fresh.items():
        with writing(folder / name, "name another folder"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        said += _put(folder, name, bounded_bytes(path, _MAX_BYTES), written, fresh.keys())[1]
    beside = {new for name in fresh for new in _new_names(name)}
    for name in sorted(written.keys() - fresh.keys() - beside):
        if not (folder / name).exists():
            continue
        if _is_edited(folder / name, b"", written[name]):
            said.append(f"{folder / name} was edited and stays, though it no longer belongs to the rest")
        else:
            (folder / name).unlink()
            said.append(f"{folder / name} is removed: it no longer belongs to the rest")
            del written[name]
    _save_record(folder, written)
    return said


def unedited(folder: Path, stem: str) -> list[Path]:
    """The files `<stem>.<ending>` of a folder that are as a script wrote them, be it as part of a bundle above.

    Errors: `UserError` when one cannot be read.
    """
    inside = f"{folder.resolve().name}/"
    of_bundle = {
        name.removeprefix(inside): digest
        for name, digest in _record(folder.resolve().parent).items()
        if name.startswith(inside)
    }
    written = of_bundle | _record(folder)
    there = (path for path in sorted(folder.glob(f"{glob.escape(stem)}.*")) if path.is_file())
    return [path for path in there if path.name in written and not _is_edited(path, b"", written[path.name])]


def put(path: Path, data: bytes) -> tuple[Path, list[str]]:
    """Write one file; returns where its content stands now, and lines to say.

    A file that was edited since a script wrote it here, or that none wrote, stays; what would have replaced it is
    written beside it as `<name>_new.<ending>`, unless it is what the script wrote there before. There is one such new
    file, which the next one replaces; only where it was edited too, the next one is `<name>_new2.<ending>`.
    Errors: `UserError` when the disk refuses, or the path holds what cannot be read.
    """
    written = _record(path.parent)
    name, said = _put(path.parent, path.name, data, written, ())
    _save_record(path.parent, written)
    return path.with_name(name), said


def _put(
    folder: Path, name: str, data: bytes, written: dict[str, str], others: Collection[str]
) -> tuple[str, list[str]]:
    """As `put`. others: names that are no new files, whatever they are called."""
    there, said = name, []
    if _is_edited(folder / name, data, written.get(name)):
        is_new = _sha256(data) != written.get(name)
        there = _beside(folder, name, data, written) if is_new else name
        news = f"the new one is {Path(there).name}" if is_new else "there is nothing new for it"
        why = "was edited" if name in written else "is not known to be a script's"
        said.append(f"{folder / name} {why} and stays; {news}")
    if there != name or not said:
        with writing(folder / there, "name another folder"):
            write_bytes_atomically(folder / there, data, durable=False)
        written[there] = _sha256(data)
    for old in written.keys() & {*_new_names(name)} - {there, *others}:
        if not _is_edited(folder / old, b"", written[old]):
            if (folder / old).exists():
                (folder / old).unlink()
                said.append(f"{folder / old} is removed: {Path(there).name} is what is new")
            del written[old]
    return there, said


def _record(folder: Path) -> dict[str, str]:
    try:
        found = read_json_object(folder / RECORD) if (folder / RECORD).exists() else {}
    except JsonError:
        return {}  # then everything counts as edited
    # The record is a file like others: it names nothing outside the folder, be it by a link.
    inside = folder.resolve()
    return {
        name: digest
        for name, digest in found.items()
        if isinstance(digest, str) and (folder / name).resolve().is_relative_to(inside)
    }


def _is_edited(path: Path, data: bytes, digest: str | None) -> bool:
    """Whether there is something at the path that is neither `data` nor what the script wrote there."""
    if not path.exists():
        return False
    try:
        present = bounded_bytes(path, _MAX_BYTES)
    except OSError as error:
        raise UserError(f"{path}: {reason_of(error)}; name another folder") from error
    return present != data and _sha256(present) != digest


def _new_names(name: str) -> list[str]:
    path = Path(name)
    return [str(path.with_name(f"{path.stem}_new{number}{path.suffix}")) for number in ("", *range(2, 100))]


def _beside(folder: Path, name: str, data: bytes, written: dict[str, str]) -> str:
    for candidate in _new_names(name):
        if not _is_edited(folder / candidate, data, written.get(candidate)):
            return candidate
    raise UserError(f"{folder / name}: a hundred edited ones stand beside it; name another folder")


def _save_record(folder: Path, written: dict[str, str]) -> None:
    with writing(folder / RECORD, "name another folder"):
        write_json_atomically(folder / RECORD, dict(sorted(written.items())), durable=False)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
