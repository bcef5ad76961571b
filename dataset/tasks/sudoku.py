"""Sudoku of any box geometry: its symmetries, its rules, its text. Boards themselves are `dataset.sudoku`'s."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataset.sudoku import (
    BLANK_TOKEN,
    BLANKS,
    BOXES,
    Box,
    Symmetries,
    boards_from_tokens,
    box_of_shape,
    has_conflict,
    missing_digits,
    random_lines,
    random_symmetries,
    side,
    tokens_from_boards,
    units,
)
from dataset.sudoku_equivalence import equivalence_keys
from dataset.sudoku_solver import solve
from dataset.tasks.base import Grid, Known, PuzzleTask, TaskError, Views


class Task(PuzzleTask):
    """Sudokus of one size; the box is that of the augmentation, else that of the known size of this shape."""

    official_shapes = tuple((side(box) ** 2, side(box) + 2) for box in BOXES.values())
    blank = BLANK_TOKEN
    augments = True
    rules = "every row, column and box is right"

    def check(self) -> None:
        augmentation = self.augmentation
        if augmentation is None:
            if box_of_shape(self.vocab_size, self.seq_len) is None:
                raise TaskError("task", f"one that fits seq_len {self.seq_len} and vocab_size {self.vocab_size}")
            return
        box = augmentation.get("box") if isinstance(augmentation, dict) else None
        is_box = isinstance(box, list) and len(box) == 2 and all(type(n) is int and 1 <= n <= 64 for n in box)
        if not is_box or augmentation.get("kind") != self.name:
            raise TaskError("augmentation", 'null or {"kind": "sudoku", "box": [rows, cols]}')
        n = side(self.box)
        if self.seq_len != n * n or self.vocab_size != n + 2:
            raise TaskError("augmentation", f"a box that fits seq_len {self.seq_len} and vocab_size {self.vocab_size}")

    @property
    def box(self) -> Box:
        """(rows, columns) of one box."""
        if self.augmentation is not None:
            rows, columns = self.augmentation["box"]
            return int(rows), int(columns)
        box = box_of_shape(self.vocab_size, self.seq_len)
        assert box is not None  # as `check` has seen
        return box

    def __str__(self) -> str:
        return f"{self.name} with boxes of {self.box[0]}x{self.box[1]}"

    @property
    def augmentation_identity(self) -> Any:
        """The box alone: states of all versions hold it so."""
        return None if self.augmentation is None else list(self.box)

    def augment(
        self, inputs: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        return augment_sudoku(inputs, labels, self.box, rng)

    @property
    def num_views(self) -> int | None:
        return None

    def views(self, view: int, draws: Sequence[np.random.Generator]) -> Views:
        """Random symmetries, drawn as `random_symmetries` does, whatever the number of the view."""
        # No rows first: a process may have none.
        drawn = [random_symmetries(0, self.box, np.random.default_rng(0))]
        drawn += [random_symmetries(1, self.box, draw) for draw in draws]
        names = ("transpose", "rows", "columns", "digits")
        joined = {name: np.concatenate([getattr(symmetries, name) for symmetries in drawn]) for name in names}
        symmetries = Symmetries(**joined).on_tokens()
        return Views(symmetries.sources(), symmetries.digits)

    def equivalence_keys(self, rows: np.ndarray) -> np.ndarray:
        """As augmentation draws symmetries: lines, bands, stacks and digits in any order, square boxes turned too."""
        return equivalence_keys(rows, self.box)

    def judges(self) -> tuple[str, ...]:
        return ("sudoku",)

    def violations(self, answers: np.ndarray) -> np.ndarray:
        """Digits that rows, columns and boxes lack, added up."""
        return missing_digits(boards_from_tokens(answers), self.box)

    def faults(self, puzzle: np.ndarray, answer: np.ndarray) -> list[str]:
        empty = int((~self.filled(answer)).sum())
        clash = conflict_text(self._board(answer), self.box)
        faults = super().faults(puzzle, answer)
        faults += [f"{empty} cells without a digit"] if empty else []
        return faults + ([clash] if clash else [])

    def known(self, puzzle: np.ndarray) -> Known:
        """What a search finds: how many solutions there are, and how hard it is to see that."""
        solved = solve(self._board(puzzle)[None], self.box)
        if not solved.complete[0]:
            return Known("puzzle: the solver gave up before it knew how many solutions there are")
        if solved.num_solutions[0] == 0:
            return Known("puzzle: it has no solution")
        if solved.num_solutions[0] > 1:
            return Known("puzzle: it has more than one solution")
        rating = f"rating {int(solved.ratings[0])} (search nodes)"
        return Known(f"puzzle: one solution, {rating}", tokens_from_boards(solved.solutions[0]))

    @property
    def rating_meaning(self) -> str | None:
        return {"search_nodes": "guesses a search needs", "published": "as published"}.get(str(self.rating))

    @property
    def block(self) -> Grid:
        return self.box

    def symbols(self, tokens: np.ndarray) -> list[str]:
        return [str(digit) if digit else "." for digit in self._board(tokens).ravel().tolist()]

    @property
    def characters(self) -> dict[str, int]:
        """Digits, and the blanks that lists are found with."""
        tokens = {str(digit): digit + 1 for digit in range(1, side(self.box) + 1)}
        return tokens | dict.fromkeys(BLANKS, BLANK_TOKEN)

    @property
    def expected_cells(self) -> str:
        return f"digits 1-{side(self.box)}, and for a blank one of {' '.join(BLANKS)}"

    def clashes(self, puzzles: np.ndarray) -> np.ndarray:
        """A digit given twice in a row, column or box."""
        return has_conflict(self._board(puzzles), self.box)

    def clash_text(self, puzzle: np.ndarray) -> str:
        clash = conflict_text(self._board(puzzle), self.box)
        return f"{clash}, so there is no solution" if clash else ""

    def _board(self, tokens: np.ndarray) -> np.ndarray:
        """Digits, 0 where there is none."""
        return np.where(self.filled(tokens), np.asarray(tokens) - 1, 0).astype(np.uint8)


def conflict_text(board: np.ndarray, box: Box) -> str:
    """`5 stands twice in row 3`: the first conflict of a board; empty when there is none."""
    n = side(box)
    for index, unit in enumerate(units(box)):
        digits = board[unit]
        digits = digits[(digits >= 1) & (digits <= n)]
        repeated = np.flatnonzero(np.bincount(digits, minlength=n + 1) > 1)
        if len(repeated):
            kind = ("row", "column", "box")[index // n]
            return f"{int(repeated[0])} stands twice in {kind} {index % n + 1}"
    return ""


def augment_sudoku(
    inputs: np.ndarray, labels: np.ndarray, box: Box, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Apply one random symmetry per row to puzzles and, the same one, to their solutions.

    The group is the official builder's: transposition (boxes that are square), permutations of bands, of rows
    inside a band, of stacks, of columns inside a stack, and a relabelling of the digits. Each factor is drawn
    uniformly and independently per row, by sorting random keys.

    inputs, labels: (B, S) integer tokens with S = n², n = box[0]·box[1]; 0 pad, 1 blank, 2..n+1 the digits.
    `box` is (rows, cols) of one box: (2, 2), (2, 3), (3, 3). Blank stays blank, pad stays pad. Returns new
    arrays of the same shapes and dtypes.

    Errors: ValueError when shapes or tokens are not those of such boards.
    """
    box_rows, box_cols = box
    n = box_rows * box_cols
    batch = inputs.shape[0]
    if inputs.shape != (batch, n * n) or labels.shape != inputs.shape:
        raise ValueError(f"shapes {inputs.shape} and {labels.shape} are not (B, {n * n})")
    if batch == 0:
        return inputs.copy(), labels.copy()
    for tokens in (inputs, labels):
        if int(tokens.min()) < 0 or int(tokens.max()) > n + 1:
            raise ValueError(f"tokens outside 0..{n + 1} for {n}x{n} boards")
    # A band is a horizontal strip of boxes (box_rows cell rows; box_cols of them), a stack a vertical one.
    rows = random_lines(batch, box_cols, box_rows, rng)
    columns = random_lines(batch, box_rows, box_cols, rng)
    digits = np.zeros((batch, n + 1), np.uint8)
    digits[:, 1:] = rng.random((batch, n)).argsort(axis=1) + 1
    transpose = np.less(rng.random(batch), 0.5) if box_rows == box_cols else np.zeros(batch, bool)
    symmetries = Symmetries(transpose, rows, columns, digits).on_tokens()
    return symmetries.apply(inputs).astype(inputs.dtype), symmetries.apply(labels).astype(labels.dtype)
