"""Files that a person may edit between two runs of the script that writes them: an edited one is never overwritten."""

import hashlib
from pathlib import Path

from dataset.plain_data import JsonError, read_json_object
from errors import UserError, writing
from files import bounded_bytes, reason_of
from training.storage.atomic_file import write_bytes_atomically, write_json_atomically

RECORD = ".written.json"  # name -> SHA-256 of what the script wrote there last
_MAX_BYTES = 64 << 20


def place(staged: Path, folder: Path) -> list[str]:
    """Put every file below `staged` into `folder`, and remove what an earlier call put there and this one lacks.

    A file that was edited since, or that the script never wrote, stays; what would have replaced it is written beside
    it as `<name>_new.<ending>`, unless it is what the script wrote there before. Returns a line about each such file.
    Errors: `UserError` when the disk refuses, or the folder holds what cannot be read.
    """
    written, said = _record(folder), []
    fresh = {str(path.relative_to(staged)): path for path in sorted(staged.rglob("*")) if path.is_file()}
    for name, path in fresh.items():
        data = bounded_bytes(path, _MAX_BYTES)
        there = name
        if _is_edited(folder / name, data, written.get(name)):
            if _sha256(data) == written.get(name):
                said.append(f"{folder / name} was edited and stays; there is nothing new for it")
                continue
            there = _beside(folder, name, data, written)
            said.append(f"{folder / name} was edited and stays; the new one is {Path(there).name}")
        target = folder / there
        with writing(target, "name another folder"):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(target, data, durable=False)
        written[there] = _sha256(data)
    for name in sorted(written.keys() - fresh.keys()):
        original = fresh.keys() & {name.replace(f"_new{number}", "") for number in ("", *range(2, 100))}
        if original or not (folder / name).exists():
            continue  # the new one beside an edited one
        if _is_edited(folder / name, b"", written[name]):
            said.append(f"{folder / name} was edited and stays, though it no longer belongs to the rest")
        else:
            (folder / name).unlink()
            del written[name]
    with writing(folder / RECORD, "name another folder"):
        write_json_atomically(folder / RECORD, dict(sorted(written.items())), durable=False)
    return said


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


def _beside(folder: Path, name: str, data: bytes, written: dict[str, str]) -> str:
    path = Path(name)
    for number in ("", *range(2, 100)):
        candidate = str(path.with_name(f"{path.stem}_new{number}{path.suffix}"))
        if not _is_edited(folder / candidate, data, written.get(candidate)):
            return candidate
    raise UserError(f"{folder / name}: a hundred edited ones stand beside it; name another folder")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
