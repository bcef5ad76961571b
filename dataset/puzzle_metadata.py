"""`dataset.json` and `identifiers.json` of a puzzle data set, read strictly and field by field."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from dataset.find_task import find_task
from dataset.plain_data import JsonError, json_object_or_refuse, read_json, read_json_object
from dataset.safe_files import ArrayHeader, read_array_header, refuse
from dataset.tasks.base import PuzzleTask, TaskError
from errors import UserError
from options import is_utf8

ROOT = Path(__file__).resolve().parents[1]
MAX_METADATA_BYTES = 1 << 20
MAX_IDENTIFIER_BYTES = 64 << 20
MAX_SETS = 64
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,200}")


@dataclass(frozen=True, kw_only=True)
class PuzzleMetadata:
    """`dataset.json`: the official fields, and every further key in `extra`. Defaults are those of a Sudoku set."""

    pad_id: int = 0
    ignore_label_id: int | None = 0
    blank_identifier_id: int = 0
    vocab_size: int
    seq_len: int
    num_puzzle_identifiers: int = 1
    total_groups: int
    mean_puzzle_examples: float = 1
    total_puzzles: int
    sets: tuple[str, ...] = ("all",)
    extra: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def task(self) -> PuzzleTask:
        """What must be known of the puzzles beside their tokens. Errors: `TaskError`, not in a folder that was read."""
        return find_task(self.extra, self.seq_len, self.vocab_size, self.pad_id)

    @property
    def names_task(self) -> bool:
        """Whether the folder says what its task is; the official ones do not, and are recognised by their shape."""
        return self.extra.get("task") is not None or self.extra.get("augmentation") is not None


PART_PREFIX = "held_out_"  # of the name of a data set that lies in another one and is built with it
# What folders are named after, beside sudoku.
_KINDS = ("maze", "mini_arc", "arc")
_BUILDER = re.compile(r"dataset/build_[a-z0-9_]+_dataset\.py")
_RAW = ROOT / "dataset" / "raw"
_MAX_COMMAND = 1000  # characters: a message has room for it


@dataclass(frozen=True)
class RebuildHint:
    """The end of an error message, read only where there is one: the command that makes a good folder at `root`.

    It is the one that built the folder, where its `dataset.json` says so; else that of the puzzles it is named after.
    """

    root: Path

    def __str__(self) -> str:
        root = self.root.parent if self.root.name.startswith(PART_PREFIX) else self.root
        name = str(root) if is_utf8(str(root)) else "data/NAME"  # another could not be copied from a line
        place = f"--output-dir {shlex.quote(name)}"
        splits = [path for split in ("train", "test") if os.path.isfile(path := root / split / "dataset.json")]
        if recorded := next(filter(None, map(_recorded_command, splits)), None):
            return f"build it again with: {recorded} {place} --overwrite"
        kind = next(
            (kind for kind in _KINDS if re.search(rf"(?<![a-z]){kind}", root.name.lower().replace("-", "_"))), "sudoku"
        )
        builder = f"dataset/build_{kind}_dataset.py"
        if not (ROOT / builder).is_file():
            return f"a folder that {builder} of the official HRM code has made is read as it is"
        return f"build one with: python {builder} {place}{' --overwrite' if splits else ''} ..."


def _recorded_command(path: Path) -> str | None:
    """The command that `dataset.json` keeps; None for one that is not of a builder here: a person will run it."""
    try:
        build = read_json_object(path, max_bytes=MAX_METADATA_BYTES).get("build")
        words = shlex.split(build["command"]) if isinstance(build, dict) and isinstance(build["command"], str) else []
    except (JsonError, KeyError, ValueError):  # ValueError: a quotation that does not end
        return None
    if words[:1] != ["python"] or not _BUILDER.fullmatch(" ".join(words[1:2])) or not (ROOT / words[1]).is_file():
        return None
    if any(word.startswith(("--output", "--over")) for word in words):
        return None
    # Of files only the names are kept; those that are shipped lie in one place.
    words = [f"dataset/raw/{word}" if "/" not in word and os.path.isfile(_RAW / word) else word for word in words]
    command = shlex.join(words)
    return command if len(command) <= _MAX_COMMAND else None


def metadata_as_json(metadata: PuzzleMetadata) -> dict[str, Any]:
    """What `dataset.json` holds, in this order."""
    names = [item.name for item in fields(metadata) if item.name != "extra"]
    return {name: getattr(metadata, name) for name in names} | metadata.extra


def data_folder(path: str) -> str:
    """A data folder named in a run's settings: relative to the present folder, else to the suite's root."""
    if not Path(path).is_absolute() and not os.path.exists(path) and os.path.exists(ROOT / path):
        return str(ROOT / path)
    return path


def read_identifiers(root: str | Path) -> list[str]:
    """Names of the puzzle identifiers of a data set, in order. Errors: `UserError`."""
    path, mend = Path(root) / "identifiers.json", RebuildHint(Path(root))
    try:
        names = read_json(path, max_bytes=MAX_IDENTIFIER_BYTES)
    except JsonError as error:
        refuse(path, str(error), mend)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        refuse(path, "is not a list of names", mend)
    return names


def read_metadata(root: str | Path, split: str) -> PuzzleMetadata:
    """Read and check `<root>/<split>/dataset.json`; HRM's lack of `total_puzzles` is filled from the arrays.

    Errors: `UserError` naming the file, what is wrong, and the command that builds a good one.
    """
    root, mend = Path(root), RebuildHint(Path(root))
    folder = _split_folder(root, split, mend)
    path = folder / "dataset.json"
    data = json_object_or_refuse(path, mend, max_bytes=MAX_METADATA_BYTES)
    extra = dict(data)

    def bad(key: str, expected: str) -> NoReturn:
        value = brief(data[key]) if key in data else "nothing"
        refuse(path, f"{key!r} is {value}, expected {expected}", mend)

    def integer(key: str, low: int, high: int) -> int:
        value = extra.pop(key, None)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            bad(key, f"an integer from {low} to {high}")
        return value

    known: dict[str, Any] = {name: integer(name, 1, 1 << 20) for name in ("seq_len", "vocab_size")}
    known["pad_id"] = integer("pad_id", 0, known["vocab_size"] - 1)
    known["num_puzzle_identifiers"] = integer("num_puzzle_identifiers", 1, (1 << 31) - 1)
    known["blank_identifier_id"] = integer("blank_identifier_id", 0, known["num_puzzle_identifiers"] - 1)
    known["total_groups"] = integer("total_groups", 1, (1 << 48) - 1)
    ignore = None
    if "ignore_label_id" not in data:
        bad("ignore_label_id", "an integer or null")
    if data["ignore_label_id"] is not None:
        ignore = integer("ignore_label_id", -(1 << 31), (1 << 31) - 1)
    extra.pop("ignore_label_id", None)
    mean = extra.pop("mean_puzzle_examples", None)
    if not isinstance(mean, int | float) or isinstance(mean, bool) or not 0 < mean < 1e12:
        bad("mean_puzzle_examples", "a positive number")
    sets = extra.pop("sets", None)
    if (
        not isinstance(sets, list)
        or not 1 <= len(sets) <= MAX_SETS
        or len({str(name) for name in sets}) != len(sets)
        or not all(isinstance(name, str) and _SET_NAME.fullmatch(name) for name in sets)
    ):
        bad("sets", "a list of different simple names")
    if "total_puzzles" in data:
        total_puzzles = integer("total_puzzles", 1, (1 << 48) - 1)
    else:
        total_puzzles = sum(offsets_header(folder, name, "puzzle_indices", mend).shape[0] - 1 for name in sets)
    _check_sums(extra, bad)
    known |= {"ignore_label_id": ignore, "mean_puzzle_examples": float(mean), "total_puzzles": total_puzzles}
    metadata = PuzzleMetadata(**known, sets=tuple(sets), extra=extra)
    try:
        _ = metadata.task
    except TaskError as error:
        bad(error.key, error.expected)
    return metadata


class PuzzleFolder:
    """A data folder with what `dataset.json` and `identifiers.json` say, each read when first asked for, and only then.

    It describes the folder as it was: whoever opens a folder anew makes another of these.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.verified: set[tuple[str, str]] = set()  # (split, file) whose bytes have the SHA-256 of dataset.json
        self._metadata: dict[str, PuzzleMetadata] = {}

    def metadata(self, split: str) -> PuzzleMetadata:
        """As `read_metadata`."""
        if split not in self._metadata:
            self._metadata[split] = read_metadata(self.root, split)
        return self._metadata[split]

    @cached_property
    def num_identifiers(self) -> int | None:
        """Names in `identifiers.json`; None where there is no such file. Errors: as `read_identifiers`."""
        return len(read_identifiers(self.root)) if (self.root / "identifiers.json").exists() else None


class PuzzleFolders:
    """Folders that are read for one purpose, as those of a run: for a path always the same `PuzzleFolder`."""

    def __init__(self) -> None:
        self._by_root: dict[Path, PuzzleFolder] = {}

    def __getitem__(self, path: str) -> PuzzleFolder:
        return self._by_root.setdefault(Path(path), PuzzleFolder(path))


def _split_folder(root: Path, split: str, mend: object) -> Path:
    if not _SET_NAME.fullmatch(split):
        raise UserError(f"{split!r} is not the name of a split, expected train or test")
    folder = root / split
    try:
        root_found, is_folder, found = root.exists(), root.is_dir(), folder.is_dir()
        present = sorted(entry.name for entry in root.iterdir()) if is_folder else []
    except (OSError, ValueError) as error:
        raise UserError(f"{root}: cannot be read ({error}); {mend}") from error
    if not root_found:
        refuse(root, "no data here", mend)
    if not is_folder:
        refuse(root, "is a file, expected a data set folder", mend)
    if not found:
        what = "is empty" if not present else f"has no {split!r} folder (it holds {brief(present)})"
        refuse(root, f"{what}: not a finished data set", mend)
    if not (folder / "dataset.json").exists():
        refuse(folder / "dataset.json", "no such file: the folder is half-built or of another kind", mend)
    return folder


def _check_sums(extra: Mapping[str, Any], bad: Any) -> None:
    checksums = extra.get("sha256", {})
    if not isinstance(checksums, dict) or not all(
        _FILE_NAME.fullmatch(name) and isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)
        for name, value in checksums.items()
    ):
        bad("sha256", "an object of file names and SHA-256 sums")


def brief(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 256 else "a huge integer"
    return text if len(text) <= 80 else text[:77] + "..."


def offsets_header(folder: Path, set_name: str, name: str, mend: object) -> ArrayHeader:
    header = read_array_header(folder / f"{set_name}__{name}.npy", mend)
    if len(header.shape) != 1 or header.shape[0] < 2:
        refuse(header.path, f"has shape {header.shape}, expected a vector of at least two offsets", mend)
    return header
