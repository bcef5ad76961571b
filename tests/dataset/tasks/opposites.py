"""A task that only the tests know, as its file would stand in dataset/tasks, and a folder of it.

Two rows of three cells: one row is given, and the other is to hold the opposite of each of its letters.
"""

from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path

import numpy as np

from dataset.puzzle_folder import write_identifiers, write_puzzle_folder
from dataset.puzzle_metadata import PuzzleMetadata
from dataset.tasks.base import Known, PuzzleTask, Views

# Columns in any order, rows in any order, letters exchanged or not: the element 0 is the identity.
GROUP = [
    ([3 * row + column for row in rows for column in columns], [0, 1, *letters])
    for rows, letters, columns in product(permutations(range(2)), permutations((2, 3)), permutations(range(3)))
]


class Task(PuzzleTask):
    """Tokens: 1 is blank, 2 and 3 the letters."""

    official_shapes = ((6, 4),)
    blank = 1
    augments = True
    rules = "every column holds both letters"

    def augment(
        self, inputs: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        views = self._elements(rng.integers(len(GROUP), size=len(inputs)))
        return views.apply(inputs), views.apply(labels)

    @property
    def num_views(self) -> int | None:
        return len(GROUP)

    def views(self, view: int, draws: Sequence[np.random.Generator]) -> Views:
        return self._elements(np.full(len(draws), view))

    def _elements(self, numbers: np.ndarray) -> Views:
        cells, tokens = (np.array([element[part] for element in GROUP]) for part in (0, 1))
        return Views(cells[numbers], tokens[numbers])

    def violations(self, answers: np.ndarray) -> np.ndarray:
        pairs = np.sort(answers.reshape(-1, 2, 3), axis=1)
        return ((pairs[:, 0] != 2) | (pairs[:, 1] != 3)).sum(axis=1)

    def faults(self, puzzle: np.ndarray, answer: np.ndarray) -> list[str]:
        wrong = int(self.violations(answer[None])[0])
        return super().faults(puzzle, answer) + ([f"{wrong} columns without both letters"] if wrong else [])

    def known(self, puzzle: np.ndarray) -> Known:
        return Known("puzzle: one solution", np.where(puzzle == 1, 5 - puzzle.reshape(2, 3)[::-1].ravel(), puzzle))

    @property
    def grid(self) -> tuple[int, int]:
        return 2, 3

    @property
    def alphabet(self) -> str:
        return "._ab"


def all_puzzles() -> tuple[np.ndarray, np.ndarray]:
    """All 16 inputs and their labels, (16, 6) uint8."""
    top = np.array(list(product((2, 3), repeat=3)))
    labels = np.concatenate([top, 5 - top], axis=1)
    inputs = np.concatenate([np.where(np.arange(6) // 3 == row, labels, 1) for row in range(2)])
    return inputs.astype(np.uint8), np.concatenate([labels, labels]).astype(np.uint8)


def write_opposites(root: Path) -> Path:
    """Both splits hold all puzzles; symmetries are drawn while training."""
    inputs, labels = all_puzzles()
    count = len(inputs)
    extra = {"task": "opposites", "augmentation": {"kind": "opposites"}}
    metadata = PuzzleMetadata(seq_len=6, vocab_size=4, total_groups=count, total_puzzles=count, extra=extra)
    offsets = np.arange(count + 1)
    arrays = {"inputs": inputs, "labels": labels, "puzzle_identifiers": np.zeros(count)}
    arrays |= {"puzzle_indices": offsets, "group_indices": offsets}
    write_identifiers(root)
    for split in ("train", "test"):
        write_puzzle_folder(root, split, metadata=metadata, arrays=arrays)
    return root
