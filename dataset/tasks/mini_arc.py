"""Mini-ARC: pairs of grids under generated rules, in ARC's token form on a square canvas of any side.

Which rule a puzzle obeys is said by its identifier alone: a view of a pair obeys another rule. So views are stored
puzzles with identifiers of their own, as officially, and `training.judges.mini_arc` lets their answers vote.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np

from dataset import mini_arc
from dataset.arc_tokens import FIRST_COLOUR, NUM_COLOURS, PAD, TOKEN_COLOURS, VOCAB_SIZE, cropped, grids_of, tokens_of
from dataset.mini_arc_pairs import GridSizes, class_keys, draw_pairs
from dataset.tasks.base import Baseline, Known, PuzzleTask, TaskError

_AUGMENTATION = 'null or {"kind": "mini_arc", "sides": [smallest, largest], "num_colours": 1 to 9}'


class Task(PuzzleTask):
    """Pairs on one canvas. The augmentation, if any, is which grids fresh pairs of the same rules are drawn of."""

    augments = True

    def check(self) -> None:
        side = isqrt(self.seq_len)
        if side * side != self.seq_len or self.vocab_size != VOCAB_SIZE:
            raise TaskError("task", f"one that fits seq_len {self.seq_len} and vocab_size {self.vocab_size}")
        if self.augmentation is not None and not _is_augmentation(self.augmentation, side, self.name):
            raise TaskError("augmentation", _AUGMENTATION)

    @property
    def canvas(self) -> int:
        """Its side."""
        return isqrt(self.seq_len)

    def __str__(self) -> str:
        return f"{self.name} on a canvas of {self.canvas}x{self.canvas}"

    def augment_puzzles(
        self, inputs: np.ndarray, labels: np.ndarray, descriptors: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fresh pairs of the rules of these puzzles."""
        assert descriptors is not None  # as `descriptor_fault` has seen
        smallest, largest = self.augmentation["sides"]
        sizes = GridSizes(self.canvas, smallest, largest, self.augmentation["num_colours"])
        return draw_pairs(mini_arc.Rules(descriptors), sizes, rng, test=False)

    def descriptor_fault(self, descriptors: np.ndarray | None) -> str:
        if descriptors is None:
            return "no such file, of which training pairs are drawn" if self.augmentation is not None else ""
        return mini_arc.fault(descriptors)

    def equivalence_keys(self, rows: np.ndarray) -> np.ndarray:
        """Grids turned, mirrored, recoloured (black apart) or moved on the canvas have the same."""
        return class_keys(rows, self.canvas)

    def judges(self) -> tuple[str, ...]:
        return ("mini_arc",)

    def baselines(self, inputs: np.ndarray, frequent: int) -> dict[str, Baseline]:
        """An input of which every cell is made black."""
        return {"black": Baseline(np.where(inputs >= FIRST_COLOUR, FIRST_COLOUR, inputs))}

    def as_judged(self, answers: np.ndarray) -> np.ndarray:
        """Of answers (..., S) the grids that are cut out, as officially, and their ends."""
        return tokens_of(cropped(answers, self.canvas)).reshape(answers.shape)

    def difficulty(self, inputs: np.ndarray) -> np.ndarray:
        """Cells of the grid."""
        return np.asarray((inputs >= FIRST_COLOUR).sum(axis=1))

    def known(self, puzzle: np.ndarray) -> Known:
        grids = grids_of(puzzle[None], self.canvas)
        shape = f"{int(grids.heights[0])}x{int(grids.widths[0])}"
        return Known(f"puzzle: a grid of {shape} cells, whose rule is that of its identifier")

    @property
    def alphabet(self) -> str:
        return "_~.123456789"

    @property
    def characters(self) -> dict[str, int]:
        """Black is written as a digit too."""
        return super().characters | {"0": FIRST_COLOUR}

    @property
    def colours(self) -> Sequence[str] | None:
        return TOKEN_COLOURS

    def symbols(self, tokens: np.ndarray) -> list[str]:
        """Colours as digits, black as a dot, the end of the grid as ~, and padding as nothing."""
        return [" " if token == PAD else self.alphabet[token] for token in np.ravel(tokens).tolist()]


def _is_augmentation(value: Any, canvas: int, name: str) -> bool:
    if not isinstance(value, dict) or value.keys() != {"kind", "sides", "num_colours"} or value["kind"] != name:
        return False
    sides, colours = value["sides"], value["num_colours"]
    whole = isinstance(sides, list) and len(sides) == 2 and all(type(number) is int for number in (*sides, colours))
    return whole and 1 <= sides[0] <= sides[1] <= canvas and 1 <= colours < NUM_COLOURS
