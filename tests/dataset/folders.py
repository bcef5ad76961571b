"""Small puzzle folders for the tests: valid by construction, with every kind of group structure."""

import json
from pathlib import Path

import numpy as np

from dataset.puzzle_folder import PuzzleSet, open_puzzle_set, write_identifiers, write_puzzle_folder
from dataset.puzzle_metadata import PuzzleMetadata
from dataset.tasks import sudoku


def sudoku_task(box: tuple[int, int]) -> sudoku.Task:
    """Sudokus with boxes of (rows, columns), symmetries drawn on the fly."""
    n = box[0] * box[1]
    return sudoku.Task(n * n, n + 2, augmentation={"kind": "sudoku", "box": list(box)})


def solved_board(box: tuple[int, int]) -> np.ndarray:
    """A valid solution (n*n,) of digits 1..n: each line is the one above, shifted by a box or by a digit."""
    rows, cols = box
    n = rows * cols
    return np.array([(cols * (i % rows) + i // rows + j) % n + 1 for i in range(n) for j in range(n)])


def make_folder(
    root: Path,
    *,
    puzzles_per_group: list[int],
    examples_per_puzzle: list[int],
    split: str = "train",
    box: tuple[int, int] = (2, 2),
    on_the_fly: bool = False,
    num_identifiers: int = 1,
    seed: int = 0,
) -> PuzzleSet:
    """A folder of permuted digits: row `i` of the inputs spells `i` in its first eight cells, base n."""
    rng = np.random.default_rng(seed)
    n = box[0] * box[1]
    count = sum(examples_per_puzzle)
    labels = rng.integers(2, n + 2, (count, n * n))
    inputs = labels.copy()
    for place in range(8):
        inputs[:, place] = np.arange(count) // n**place % n + 2
    inputs[:, 8:][rng.random((count, n * n - 8)) < 0.5] = 1
    num_puzzles = len(examples_per_puzzle)
    metadata = PuzzleMetadata(
        seq_len=n * n,
        vocab_size=n + 2,
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        num_puzzle_identifiers=num_identifiers,
        total_groups=len(puzzles_per_group),
        mean_puzzle_examples=count / num_puzzles,
        total_puzzles=num_puzzles,
        sets=("all",),
        extra={
            "augmentation": {"kind": "sudoku", "box": list(box)} if on_the_fly else None,
            "task": "sudoku",
        },
    )
    write_identifiers(root, ["<blank>", *(f"puzzle {i}" for i in range(1, num_identifiers))])
    write_puzzle_folder(
        root,
        split,
        metadata=metadata,
        arrays={
            "inputs": inputs,
            "labels": labels,
            "puzzle_identifiers": np.arange(num_puzzles) % num_identifiers,
            "puzzle_indices": np.concatenate([[0], np.cumsum(examples_per_puzzle)]),
            "group_indices": np.concatenate([[0], np.cumsum(puzzles_per_group)]),
        },
    )
    return open_puzzle_set(root, split)


def row_numbers(inputs: np.ndarray, n: int = 4) -> np.ndarray:
    """The row that `make_folder` spelled into the first eight cells."""
    digits = np.asarray(inputs)[:, :8].astype(np.int64) - 2
    return (digits * n ** np.arange(8)).sum(axis=1)


def edit_metadata(folder: Path, **changes: object) -> None:
    """Overwrite keys of a split's dataset.json; a value of `...` removes the key."""
    path = folder / "dataset.json"
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))
