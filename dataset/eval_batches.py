"""Batches as the model takes them, and the examples that evaluation uses: which, and in what order."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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
    ordered. Examples of equal content are all among them or all in the rest, and where the task says so those of a
    group too: hence there are fewer where the next ones together would be too many. `test_rows` is the rest.
    """
    unit = _units(puzzle_set)
    fits = np.cumsum(np.bincount(unit)) <= min(size, puzzle_set.num_examples // 5)
    return np.flatnonzero(fits[unit])


def _units(puzzle_set: PuzzleSet) -> np.ndarray:
    """(N,) int64: examples of one number stay together; numbers follow the smallest hash among their examples."""
    content = np.unique(row_hashes(puzzle_set), return_inverse=True)[1]
    if puzzle_set.metadata.task.validation_unit == "example":
        return content
    puzzles = puzzle_set.puzzle_of(np.arange(puzzle_set.num_examples))
    group = np.searchsorted(puzzle_set.group_indices, puzzles, side="right") - 1
    # Groups that share a content stay together too: each is linked to the contents that it has.
    contents = content.max(initial=-1) + 1
    nodes = contents + len(puzzle_set.group_indices)
    links = coo_array((np.ones(len(group)), (content, contents + group)), (nodes, nodes))
    joined = connected_components(links, directed=False)[1][content]
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
    chunk = max(1, (1 << 22) // puzzle_set.metadata.seq_len)
    return np.concatenate([token_hashes(*puzzle_set.read_rows(rows)) for rows in _chunks(puzzle_set, chunk)])


def _chunks(puzzle_set: PuzzleSet, size: int) -> Iterator[np.ndarray]:
    """All examples in order, `size` at a time."""
    for start in range(0, puzzle_set.num_examples, size):
        yield np.arange(start, min(start + size, puzzle_set.num_examples))
