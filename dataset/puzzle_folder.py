"""The official on-disk format of TRM and HRM data sets: write it, and read it without trusting it.

    <root>/{train,test}/dataset.json
    <root>/{train,test}/<set>__{inputs,labels,puzzle_identifiers,puzzle_indices,group_indices}.npy
    <root>/identifiers.json                     names of the puzzle identifiers; 0 is "<blank>"

A *group* is a base puzzle with its stored augmentations, a *puzzle* one of them, an *example* one (input,
label) pair. `group_indices` holds puzzle offsets, `puzzle_indices` example offsets. Files written here are
read by the official code, which ignores the further keys of `dataset.json` and the further files
`<set>__ratings.npy` (difficulty per example), `<set>__answer_counts.npy` (how many answers are as good as the label,
where there may be several) and `<set>__descriptors.npy` (of the rule of each puzzle what "descriptors" names); files
written by the official builders, HRM's without `total_puzzles` too, are read here.

Further keys: "task" (a name, see `dataset.tasks`), "augmentation" (null, or {"kind": the task's name, ...}: what it
may draw on the fly, such as {"kind": "sudoku", "box": [rows, cols]}), "rating" (how ratings were made), "sha256"
({file: hex} of the split's arrays), "build" (how it was made).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dataset.find_task import PLAIN
from dataset.puzzle_metadata import (
    PuzzleFolder,
    PuzzleMetadata,
    RebuildHint,
    brief,
    metadata_as_json,
    offsets_header,
)
from dataset.safe_files import (
    ArrayHeader,
    file_size,
    map_array,
    read_array_header,
    refuse,
)
from errors import UserError
from files import file_sha256, open_new, open_regular

ARRAYS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
_STORED: dict[str, type[np.integer]] = {"inputs": np.uint8, "labels": np.uint8, "answer_counts": np.int64}
OF_EXAMPLES = ("ratings", "answer_counts")
STORED_ARRAYS = (*ARRAYS, *OF_EXAMPLES, "descriptors")  # a folder may lack the last three; no official code knows them
MAX_DESCRIPTORS = 64
CHECK_CHUNK_BYTES = 1 << 24
# Larger arrays (ARC has gigabytes) are checked row by row as they are read, and not as a whole at every start.
FULL_CHECK_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class PuzzleSet:
    """One opened set: arrays of N examples of length S, P puzzles, G groups.

    inputs, labels (N, S) are memory maps of an integer dtype (uint8 as built here); the index arrays are in
    memory as int64. `ratings` (N,) int32, `answer_counts` (N,) int64 and `descriptors` (P, F) int64 are None where the
    folder has none.
    """

    folder: PuzzleFolder
    split: str
    set_name: str
    metadata: PuzzleMetadata
    inputs: np.ndarray
    labels: np.ndarray
    puzzle_identifiers: np.ndarray
    puzzle_indices: np.ndarray
    group_indices: np.ndarray
    ratings: np.ndarray | None
    answer_counts: np.ndarray | None
    descriptors: np.ndarray | None
    values_checked: bool

    @property
    def root(self) -> Path:
        return self.folder.root

    @property
    def num_examples(self) -> int:
        """N."""
        return int(self.inputs.shape[0])

    def puzzle_of(self, rows: np.ndarray) -> np.ndarray:
        """Index of the puzzle that each example belongs to, (len(rows),) int64."""
        return np.searchsorted(self.puzzle_indices, rows, side="right") - 1

    def read_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, labels) of some examples in the stored dtype, copied out of the memory maps."""
        inputs, labels = np.asarray(self.inputs[rows]), np.asarray(self.labels[rows])
        if not self.values_checked:
            mend, folder = RebuildHint(self.root), self.root / self.split
            for name, tokens in (("inputs", inputs), ("labels", labels)):
                _check_tokens(folder / f"{self.set_name}__{name}.npy", tokens, self.metadata, mend)
        return inputs, labels


def write_puzzle_folder(
    root: str | Path,
    split: str,
    *,
    metadata: PuzzleMetadata,
    arrays: Mapping[str, np.ndarray],
    set_name: str = "all",
) -> None:
    """Write one set of one split below `root` (a folder still under construction) with checksums.

    arrays: "inputs", "labels" (N, S); "puzzle_identifiers" (P,); "puzzle_indices" (P+1,); "group_indices"
    (G+1,); and optionally "ratings" and "answer_counts" (N,), "descriptors" (P, F). Tokens are stored as uint8, counts
    as int64, everything else as int32. The bytes depend on the arguments only. With several sets, call once per set
    with the same metadata.

    Errors: ValueError when arrays and metadata contradict each other; OSError when the disk refuses.
    """
    unknown = set(arrays) - set(STORED_ARRAYS)
    if unknown or not set(ARRAYS) <= set(arrays) or set_name not in metadata.sets:
        raise ValueError(f"arrays {sorted(arrays)} of set {set_name!r} do not fit {metadata.sets}")
    folder = Path(root) / split
    folder.mkdir(parents=True, exist_ok=True)
    known = {f"{other}__{name}.npy" for other in metadata.sets for name in STORED_ARRAYS if other != set_name}
    checksums = {path.name: file_sha256(path) for path in sorted(folder.glob("*.npy")) if path.name in known}
    for name, array in arrays.items():
        dtype = np.dtype(_STORED.get(name, np.int32))
        limits = np.iinfo(dtype)
        if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
            raise ValueError(f"{name} does not fit {dtype}")
        path = folder / f"{set_name}__{name}.npy"
        with _renewed(path) as file:
            np.save(file, np.ascontiguousarray(array, dtype=dtype), allow_pickle=False)
        checksums[path.name] = file_sha256(path)
    metadata = replace(metadata, extra={**metadata.extra, "sha256": dict(sorted(checksums.items()))})
    text = json.dumps(metadata_as_json(metadata), indent=2, allow_nan=False)
    with _renewed(folder / "dataset.json") as file:
        file.write(text.encode() + b"\n")
    try:
        open_puzzle_set(root, split, set_name, verify=False)
    except UserError as error:
        raise ValueError(f"refusing to write a folder that could not be read: {error}") from error


def write_identifiers(root: str | Path, identifiers: Sequence[str] = ("<blank>",)) -> None:
    """Write `<root>/identifiers.json`, the names of the puzzle identifiers in order."""
    Path(root).mkdir(parents=True, exist_ok=True)
    with _renewed(Path(root) / "identifiers.json") as file:
        file.write(json.dumps(list(identifiers)).encode())


def _renewed(path: Path) -> BinaryIO:
    """A new file in a folder under construction, in place of the one that an earlier set has left."""
    path.unlink(missing_ok=True)
    return open_new(path)


def _opened(folder: str | Path | PuzzleFolder) -> PuzzleFolder:
    return folder if isinstance(folder, PuzzleFolder) else PuzzleFolder(folder)


def open_puzzle_set(
    folder: str | Path | PuzzleFolder, split: str, set_name: str = "all", *, verify: bool = True
) -> PuzzleSet:
    """Open one set of a split; tokens stay on disk, memory-mapped.

    Headers are compared with `dataset.json` and the files' sizes before anything is mapped; offsets,
    identifiers and tokens are checked before anything is returned (tokens of arrays above 1 GiB: as rows
    are read), and in the end every file of the set is compared with the SHA-256 that `dataset.json` has for it.

    Args:
        verify: False where another process of the same run compares the sums, or nothing but counts is read.
    Errors: `UserError` naming the file, what was found, what was expected, and the command that builds a
    good one.
    """
    opened = _opened(folder)
    metadata, mend = opened.metadata(split), RebuildHint(opened.root)
    path = opened.root / split
    if set_name not in metadata.sets:
        refuse(path / "dataset.json", f"lists the sets {brief(list(metadata.sets))}, not {set_name!r}", mend)
    paths = {name: path / f"{set_name}__{name}.npy" for name in ARRAYS}
    puzzle_header = offsets_header(path, set_name, "puzzle_indices", mend)
    group_header = offsets_header(path, set_name, "group_indices", mend)
    headers = {name: read_array_header(paths[name], mend) for name in ("inputs", "labels", "puzzle_identifiers")}
    num_puzzles, num_groups = puzzle_header.shape[0] - 1, group_header.shape[0] - 1
    num_examples = headers["inputs"].shape[0] if headers["inputs"].shape else 0
    for name, shape in {
        "inputs": (num_examples, metadata.seq_len),
        "labels": (num_examples, metadata.seq_len),
        "puzzle_identifiers": (num_puzzles,),
    }.items():
        if headers[name].shape != shape:
            refuse(paths[name], f"has shape {headers[name].shape}, expected {shape}", mend)
    if num_examples == 0:
        refuse(paths["inputs"], "holds no example", mend)
    _check_counts(metadata, path / "dataset.json", num_groups, num_puzzles, mend)

    group_indices = _read_offsets(group_header, num_puzzles, 1, mend)
    puzzle_indices = _read_offsets(puzzle_header, num_examples, 0, mend)
    largest = int(np.diff(puzzle_indices).max())
    if len(metadata.sets) == 1 and metadata.mean_puzzle_examples > largest * (1 + 1e-6):
        refuse(
            path / "dataset.json",
            f"'mean_puzzle_examples' is {metadata.mean_puzzle_examples}, but no puzzle exceeds {largest}",
            mend,
        )
    identifiers = map_array(headers["puzzle_identifiers"], mend)
    if int(identifiers.min()) < 0 or int(identifiers.max()) >= metadata.num_puzzle_identifiers:
        refuse(
            paths["puzzle_identifiers"],
            f"holds identifiers from {int(identifiers.min())} to {int(identifiers.max())}, expected 0 to "
            f"{metadata.num_puzzle_identifiers - 1}",
            mend,
        )
    _check_identifier_names(opened, metadata, mend)
    inputs, labels = map_array(headers["inputs"], mend), map_array(headers["labels"], mend)
    checked = max(inputs.nbytes, labels.nbytes) <= FULL_CHECK_BYTES
    if checked:
        _check_tokens(paths["inputs"], inputs, metadata, mend)
        _check_tokens(paths["labels"], labels, metadata, mend)
    ratings = _read_of_examples(path, set_name, "ratings", num_examples, np.int32, mend)
    answer_counts = _read_of_examples(path, set_name, "answer_counts", num_examples, np.int64, mend)
    descriptors = _read_descriptors(path, set_name, num_puzzles, mend)
    if fault := metadata.task.descriptor_fault(descriptors):
        refuse(path / f"{set_name}__descriptors.npy", fault, mend)
    if verify:
        verify_checksums(opened, split, [f"{set_name}__{name}.npy" for name in STORED_ARRAYS])
    return PuzzleSet(
        folder=opened,
        split=split,
        set_name=set_name,
        metadata=metadata,
        inputs=inputs,
        labels=labels,
        puzzle_identifiers=np.array(identifiers, dtype=np.int64),
        puzzle_indices=puzzle_indices,
        group_indices=group_indices,
        ratings=ratings,
        answer_counts=answer_counts,
        descriptors=descriptors,
        values_checked=checked,
    )


def open_puzzle_sets(
    folders: Sequence[str | Path | PuzzleFolder], split: str, *, verify: bool = True
) -> list[PuzzleSet]:
    """All sets of a split of several folders, in their order. Args, errors: as `open_puzzle_set`.

    Also `UserError` where two of them are one folder: its rows would count twice.
    """
    opened = [_opened(folder) for folder in folders]
    places: dict[str, Path] = {}
    for folder in opened:
        place = os.path.realpath(folder.root)
        if place in places:
            both = f"{places[place]} and {folder.root}"
            raise UserError(f"{both} are one data folder, whose rows would count twice; name it once")
        places[place] = folder.root
    return [
        open_puzzle_set(folder, split, name, verify=verify) for folder in opened for name in folder.metadata(split).sets
    ]


def recognised_tasks(sets: Iterable[PuzzleSet]) -> list[str]:
    """A line for each folder that does not name its task and is taken for one by the shape of its tokens."""
    found = {str(one.root): one.metadata for one in sets if not one.metadata.names_task}
    return [
        f"{root} names no task: {metadata.seq_len} cells of {metadata.vocab_size} tokens are taken for {metadata.task}"
        for root, metadata in found.items()
        if metadata.task.name != PLAIN
    ]


def _check_counts(metadata: PuzzleMetadata, path: Path, num_groups: int, num_puzzles: int, mend: object) -> None:
    """The official Sudoku and Maze builders store the number of groups in `total_puzzles`: accepted too."""
    single = len(metadata.sets) == 1
    if num_groups > metadata.total_groups or (single and num_groups != metadata.total_groups):
        refuse(path, f"'total_groups' is {metadata.total_groups}, but the arrays hold {num_groups} groups", mend)
    if single and metadata.total_puzzles not in (num_groups, num_puzzles):
        refuse(
            path,
            f"'total_puzzles' is {metadata.total_puzzles}, but the arrays hold {num_puzzles} puzzles",
            mend,
        )


def _check_identifier_names(folder: PuzzleFolder, metadata: PuzzleMetadata, mend: object) -> None:
    """`identifiers.json` may be missing (training does not need it), but must not contradict the table."""
    count = folder.num_identifiers
    if count is not None and count != metadata.num_puzzle_identifiers:
        refuse(
            folder.root / "identifiers.json",
            f"names {count} identifiers, but dataset.json says {metadata.num_puzzle_identifiers}",
            mend,
        )


def _read_offsets(header: ArrayHeader, last: int, step: int, mend: object) -> np.ndarray:
    """Offsets as int64: from 0 to `last`, each at least `step` above the one before."""
    stored = map_array(header, mend)
    if int(stored.min()) < 0 or int(stored.max()) > last or int(stored[0]) != 0 or int(stored[-1]) != last:
        refuse(
            header.path,
            f"runs from {int(stored[0])} to {int(stored[-1])} (lowest {int(stored.min())}, highest "
            f"{int(stored.max())}), "
            f"expected from 0 to {last}",
            mend,
        )
    offsets = np.array(stored, dtype=np.int64)
    if int(np.diff(offsets).min()) < step:
        refuse(header.path, f"is not {'strictly ' if step else ''}increasing", mend)
    return offsets


def _read_of_examples(
    folder: Path, set_name: str, name: str, num_examples: int, dtype: type[np.signedinteger], mend: object
) -> np.ndarray | None:
    path = folder / f"{set_name}__{name}.npy"
    if not path.exists():
        return None
    header = read_array_header(path, mend)
    if header.shape != (num_examples,):
        refuse(path, f"has shape {header.shape}, expected {(num_examples,)}", mend)
    numbers = map_array(header, mend)
    limits = np.iinfo(dtype)
    if int(numbers.min()) < limits.min or int(numbers.max()) > limits.max:
        refuse(path, f"holds a number that does not fit {limits.bits} bits", mend)
    return np.array(numbers, dtype=dtype)


def _read_descriptors(folder: Path, set_name: str, num_puzzles: int, mend: object) -> np.ndarray | None:
    path = folder / f"{set_name}__descriptors.npy"
    if not path.exists():
        return None
    header = read_array_header(path, mend)
    if len(header.shape) != 2 or header.shape[0] != num_puzzles or not 1 <= header.shape[1] <= MAX_DESCRIPTORS:
        refuse(path, f"has shape {header.shape}, expected ({num_puzzles}, 1 to {MAX_DESCRIPTORS})", mend)
    return np.array(map_array(header, mend), dtype=np.int64)


def _check_tokens(path: Path, tokens: np.ndarray, metadata: PuzzleMetadata, mend: object) -> None:
    """Every token is in [0, vocab_size), or is the label to ignore; in chunks, so that memory stays small."""
    ignore = metadata.ignore_label_id if path.name.endswith("__labels.npy") else None
    rows = max(1, CHECK_CHUNK_BYTES // max(1, tokens.shape[1] * tokens.dtype.itemsize))
    for start in range(0, tokens.shape[0], rows):
        chunk = tokens[start : start + rows]
        low, high = int(chunk.min()), int(chunk.max())
        if low >= 0 and high < metadata.vocab_size:
            continue
        wrong = (chunk < 0) | (chunk >= metadata.vocab_size)
        if ignore is not None:
            wrong &= chunk != ignore
        if wrong.any():
            row = start + int(np.flatnonzero(wrong.any(axis=1))[0])
            value = int(chunk[wrong][0])
            refuse(path, f"holds token {value} in row {row}, expected 0 to {metadata.vocab_size - 1}", mend)


def verify_checksums(folder: str | Path | PuzzleFolder, split: str, names: Iterable[str] | None = None) -> int:
    """Compare files of a split with the SHA-256 sums in its `dataset.json`, each once for a `PuzzleFolder`.

    Folders of the official builders carry no sums, and are read as they are. In one that does every file must have one.

    Args:
        names: files, of which one may be missing where it has no sum; None = all that have one.
    Returns: how many have one.
    Errors: `UserError` naming the file that differs, is gone, or is none of those that were built.
    """
    opened = _opened(folder)
    checksums, mend = opened.metadata(split).extra.get("sha256", {}), RebuildHint(opened.root)
    count = 0
    for name in (checksums if names is None else names) if checksums else ():
        path = opened.root / split / name
        if name not in checksums:
            if path.exists():
                refuse(path, "is none of the files that were built (dataset.json has no SHA-256 for it)", mend)
            continue
        count += 1
        if (split, name) not in opened.verified:
            file_size(path, mend)
            if file_sha256(path) != checksums[name]:
                refuse(path, "has other bytes than when it was built (SHA-256 differs)", mend)
            opened.verified.add((split, name))
    return count


def fingerprint(folder: str | Path | PuzzleFolder, split: str) -> str:
    """SHA-256 that identifies the content of a split, cheaply: run states store it to refuse other data.

    Covers `dataset.json` except its "build" key (the same data built by another command line is the same
    data), names and sizes of the arrays and, where no checksum of an array is stored, its first and last 64
    KiB.
    """
    opened = _opened(folder)
    metadata, mend = opened.metadata(split), RebuildHint(opened.root)
    content = metadata_as_json(metadata)
    content.pop("build", None)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(f"{set_name}__{array}.npy" for set_name in metadata.sets for array in ARRAYS):
        path = opened.root / split / name
        size = file_size(path, mend)
        digest.update(f"{name}:{size}".encode())
        if name not in metadata.extra.get("sha256", {}):
            with open_regular(path) as handle:
                digest.update(handle.read(1 << 16))
                handle.seek(max(0, size - (1 << 16)))
                digest.update(handle.read(1 << 16))
    return digest.hexdigest()
