"""Batches as the model takes them, and the examples that evaluation uses: which, and in what order."""

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import numpy as np
import torch

from dataset.hashing import token_hashes
from dataset.puzzle_folder import PuzzleSet
from dataset.puzzle_metadata import PuzzleMetadata

Batch = dict[str, torch.Tensor]
IGNORE_LABEL = -100


def as_batch(inputs: np.ndarray, labels: np.ndarray, identifiers: np.ndarray, metadata: PuzzleMetadata) -> Batch:
    """Stored tokens (B, S) and identifiers (B,) as the int32 tensors of a batch, ignored labels as -100."""
    labels = labels.astype(np.int32)
    if metadata.ignore_label_id is not None:
        labels[labels == metadata.ignore_label_id] = IGNORE_LABEL
    return {
        "inputs": torch.from_numpy(inputs.astype(np.int32)),
        "labels": torch.from_numpy(labels),
        "puzzle_identifiers": torch.from_numpy(identifiers.astype(np.int32)),
    }


class EvalBatches:
    """Chosen examples of one set in order, in batches of one size.

    Each batch has the keys of a training batch and "row" (B,) int64, the example's index; the last batch is
    filled up with rows of pad_id, labels -100, the blank identifier, and row -1.
    """

    def __init__(self, puzzle_set: PuzzleSet, rows: np.ndarray, batch_size: int) -> None:
        self.puzzle_set, self.batch_size = puzzle_set, batch_size
        self.rows = np.asarray(rows, dtype=np.int64)
        if batch_size < 1 or self.rows.ndim != 1:
            raise ValueError(f"batch_size {batch_size} and rows of shape {self.rows.shape} make no batches")
        if self.rows.size and not (0 <= self.rows.min() and self.rows.max() < puzzle_set.num_examples):
            raise ValueError(f"rows must be in [0, {puzzle_set.num_examples})")

    def __len__(self) -> int:
        return -(-self.rows.size // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        metadata = self.puzzle_set.metadata
        for start in range(0, self.rows.size, self.batch_size):
            rows = self.rows[start : start + self.batch_size]
            inputs, labels = self.puzzle_set.read_rows(rows)
            identifiers = self.puzzle_set.puzzle_identifiers[self.puzzle_set.puzzle_of(rows)]
            batch = as_batch(inputs, labels, identifiers, metadata)
            batch["row"] = torch.from_numpy(rows.copy())
            missing = self.batch_size - rows.size
            fill = {
                "inputs": metadata.pad_id,
                "labels": IGNORE_LABEL,
                "puzzle_identifiers": metadata.blank_identifier_id,
                "row": -1,
            }
            yield {
                name: torch.cat([tensor, tensor.new_full((missing, *tensor.shape[1:]), fill[name])])
                for name, tensor in batch.items()
            }


def validation_rows(puzzle_set: PuzzleSet, size: int = 1024) -> np.ndarray:
    """Examples that choose checkpoints, int64, ascending: at most `size` and a fifth of all.

    They are those with the smallest hashes of their content, so the same puzzles are chosen however the rows are
    ordered. Examples of equal content, or whose inputs are equal up to a symmetry of the task, are all among them or
    all in the rest, and where the task says so those of a group too: hence there are fewer where the next ones
    together would be too many. `test_rows` is the rest.
    """
    unit = _units(puzzle_set)
    fits = np.cumsum(np.bincount(unit)) <= min(size, puzzle_set.num_examples // 5)
    return np.flatnonzero(fits[unit])


def _units(puzzle_set: PuzzleSet) -> np.ndarray:
    """(N,) int64: examples of one number stay together; numbers follow the smallest hash among their examples."""
    if puzzle_set not in _UNITS:
        content, equivalent = _hashes(puzzle_set)
        links = [equivalent]
        if puzzle_set.metadata.task.validation_unit == "group":
            puzzles = puzzle_set.puzzle_of(np.arange(puzzle_set.num_examples))
            links.append(np.searchsorted(puzzle_set.group_indices, puzzles, side="right") - 1)
        _UNITS[puzzle_set] = _joined(np.unique(content, return_inverse=True)[1], links)
    return _UNITS[puzzle_set]


_UNITS: WeakKeyDictionary[PuzzleSet, np.ndarray] = WeakKeyDictionary()  # asked for again by every part of a start


def _joined(content: np.ndarray, links: list[np.ndarray]) -> np.ndarray:
    """(N,) numbers of examples that share a content (N,) or a link (each (N,)), or are tied by others that do."""
    from scipy.sparse import coo_array  # here, as the import is a tenth of what a script takes to start
    from scipy.sparse.csgraph import connected_components

    places, nodes, ends = [], int(content.max(initial=-1)) + 1, []
    for link in links:
        numbers = np.unique(link, return_inverse=True)[1]
        places.append(content)
        ends.append(nodes + numbers)
        nodes += int(numbers.max(initial=-1)) + 1
    first, second = np.concatenate(places), np.concatenate(ends)
    graph = coo_array((np.ones(len(first)), (first, second)), (nodes, nodes))
    joined = connected_components(graph, directed=False)[1][content]
    smallest = np.full(nodes, nodes)
    np.minimum.at(smallest, joined, content)
    return np.unique(smallest[joined], return_inverse=True)[1]


def test_rows(puzzle_set: PuzzleSet, size: int = 1024) -> np.ndarray:
    """Examples that are reported on: all that `validation_rows` of the same size leaves, ascending."""
    return np.setdiff1d(np.arange(puzzle_set.num_examples), validation_rows(puzzle_set, size))


# pytest collects what is called test_*; this is not one.
test_rows.__test__ = False  # type: ignore[attr-defined]


def row_hashes(puzzle_set: PuzzleSet) -> np.ndarray:
    """(N,) uint64 hash of each example's tokens, input and label; the stored dtype does not matter."""
    return _hashes(puzzle_set, with_keys=False)[0]


def _hashes(puzzle_set: PuzzleSet, *, with_keys: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(N,) uint64 of the contents of examples, and (N,) uint64 keys that inputs equal up to symmetry share."""
    chunk = max(1, (1 << 22) // puzzle_set.metadata.seq_len)
    contents, keys = [], []
    for start in range(0, puzzle_set.num_examples, chunk):
        inputs, labels = puzzle_set.read_rows(np.arange(start, min(start + chunk, puzzle_set.num_examples)))
        contents.append(token_hashes(inputs, labels))
        if with_keys:
            keys.append(puzzle_set.metadata.task.equivalence_keys(inputs))
    return np.concatenate(contents), np.concatenate(keys) if with_keys else np.empty(0, np.uint64)
