"""Sudoku boards of any box geometry: text, tokens, validity and symmetries.

Boards are rows of a (N, n*n) uint8 array in reading order, 0 = blank, digits 1..n. `box` = (rows, columns)
of one box, n = rows * columns: 4x4 has 2x2 boxes, 6x6 boxes of 2 rows and 3 columns, 9x9 3x3 boxes. Tokens
are digit + 1 (blank 1; 0 is padding), so the vocabulary holds n + 2.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

Box = tuple[int, int]
BLANK_TOKEN = 1
BLANKS = ".0*xX_-?"  # what an empty cell is written as, in one list or another
BOXES: dict[str, Box] = {"4x4": (2, 2), "6x6": (2, 3), "9x9": (3, 3)}


@dataclass(frozen=True)
class Puzzles:
    """boards and solutions (N, n*n) uint8; ratings (N,) int32, as published or as defined in `sudoku_solver`."""

    boards: np.ndarray
    solutions: np.ndarray
    ratings: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Puzzles":
        """These rows, in this order."""
        return Puzzles(self.boards[rows], self.solutions[rows], self.ratings[rows])


def side(box: Box) -> int:
    """n, the number of digits and the length of a row."""
    return box[0] * box[1]


def tokens_from_boards(boards: np.ndarray) -> np.ndarray:
    """Tokens (uint8, same shape): digit + 1, blank 1."""
    return (boards + 1).astype(np.uint8)


def boards_from_tokens(tokens: np.ndarray) -> np.ndarray:
    """Boards (uint8, same shape) of tokens without padding."""
    return (np.asarray(tokens) - 1).astype(np.uint8)


def parse_board(text: str, box: Box = (3, 3)) -> np.ndarray:
    """(n*n,) uint8 from n*n characters, '.' or '0' = blank. Raises ValueError saying what is wrong."""
    n = side(box)
    if len(text) != n * n:
        raise ValueError(f"{len(text)} characters, expected {n * n}")
    allowed = "0123456789"[: n + 1]
    for position, character in enumerate(text):
        if character != "." and character not in allowed:
            raise ValueError(f"character {character!r} at position {position + 1}, expected digits 1-{n}, '.' or '0'")
    return np.frombuffer(text.replace(".", "0").encode("ascii"), np.uint8) - np.uint8(ord("0"))


def board_text(board: np.ndarray, blank: str = ".") -> str:
    """One line of n*n characters; `parse_board` reads it back."""
    return "".join(str(digit) if digit else blank for digit in np.asarray(board).ravel().tolist())


@lru_cache
def units(box: Box) -> np.ndarray:
    """(3n, n) cell indices: the rows, then the columns, then the boxes."""
    rows, columns = box
    n = side(box)
    grid = np.arange(n * n).reshape(n, n)
    boxes = grid.reshape(columns, rows, rows, columns).transpose(0, 2, 1, 3).reshape(n, n)
    return np.concatenate([grid, grid.T, boxes])


def has_conflict(boards: np.ndarray, box: Box) -> np.ndarray:
    """(N,) bool: some digit stands twice in a row, column or box. Blanks never conflict."""
    conflict = np.zeros(len(boards), bool)
    for unit in units(box):
        members = np.sort(boards[:, unit], axis=1)
        conflict |= ((members[:, 1:] == members[:, :-1]) & (members[:, 1:] != 0)).any(axis=1)
    return conflict


def is_solution(boards: np.ndarray, box: Box) -> np.ndarray:
    """(N,) bool: no blanks, digits within 1..n, every unit holds each digit once."""
    in_range = ((boards >= 1) & (boards <= side(box))).all(axis=1)
    return in_range & ~has_conflict(boards, box)


def missing_digits(boards: np.ndarray, box: Box) -> np.ndarray:
    """(N,) int64: digits that rows, columns and boxes lack, added up; 0 for a valid filled grid only."""
    n = side(box)
    present = boards[:, units(box), None] == np.arange(1, n + 1)  # (N, 3n, n, n)
    return (~present.any(axis=2)).sum(axis=(1, 2))


def box_of_shape(vocab_size: int, seq_len: int) -> Box | None:
    """The box of the Sudokus that have tokens of this shape; None where no known Sudoku has."""
    boxes = {(side(box) + 2, side(box) ** 2): box for box in BOXES.values()}
    return boxes.get((vocab_size, seq_len))


@dataclass(frozen=True)
class Symmetries:
    """N symmetries: out[i, j] = digits[board[rows[i], columns[j]]], of the transposed board where asked.

    transpose (N,) bool, rows (N, n) and columns (N, n) int64, digits (N, n+1) uint8 with digits[:, 0] = 0.
    """

    transpose: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    digits: np.ndarray

    def apply(self, boards: np.ndarray) -> np.ndarray:
        """Transform boards (N, n*n), one symmetry each (a single board is broadcast to all)."""
        sources = self.sources()
        moved = np.take_along_axis(np.broadcast_to(boards, sources.shape), sources, axis=1)
        return np.take_along_axis(self.digits, moved.astype(np.intp), axis=1)

    def sources(self) -> np.ndarray:
        """(N, n*n) int64: for each cell of an image, the cell of the board that it is read from."""
        count, n = self.rows.shape
        upright = self.rows[:, :, None] * n + self.columns[:, None, :]
        turned = self.columns[:, None, :] * n + self.rows[:, :, None]
        return np.where(self.transpose[:, None, None], turned, upright).reshape(count, n * n)

    def inverse(self) -> "Symmetries":
        """The symmetries that undo these, one each."""
        rows, columns = self.rows.argsort(axis=1), self.columns.argsort(axis=1)
        turned = self.transpose[:, None]
        return Symmetries(
            transpose=self.transpose,
            rows=np.where(turned, columns, rows),
            columns=np.where(turned, rows, columns),
            digits=self.digits.argsort(axis=1).astype(self.digits.dtype),
        )

    def on_tokens(self) -> "Symmetries":
        """The same symmetries of boards written as tokens; padding and blank stay. `digits` is (N, n+2)."""
        padding = np.zeros((len(self.digits), 1), self.digits.dtype)
        return replace(self, digits=np.concatenate([padding, self.digits + 1], axis=1, dtype=self.digits.dtype))


def random_symmetries(count: int, box: Box, rng: np.random.Generator) -> Symmetries:
    """The augmentation of the HRM and TRM Sudoku builders, `count` at a time.

    Transpose with probability 1/2 (square boxes only), bands and the rows in each band, stacks and the
    columns in each stack, digits.
    """
    rows, columns = box
    n = side(box)
    transpose = rng.random(count) < 0.5 if rows == columns else np.zeros(count, bool)
    digits = np.zeros((count, n + 1), np.uint8)
    digits[:, 1:] = rng.random((count, n)).argsort(axis=1) + 1
    return Symmetries(
        transpose=transpose,
        rows=random_lines(count, n // rows, rows, rng),
        columns=random_lines(count, n // columns, columns, rng),
        digits=digits,
    )


def random_lines(count: int, num_blocks: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """(count, num_blocks * size) permutations of lines that keep blocks of `size` lines together."""
    blocks = rng.random((count, num_blocks)).argsort(axis=1)
    within = rng.random((count, num_blocks, size)).argsort(axis=2)
    return (blocks[:, :, None] * size + within).reshape(count, num_blocks * size)


def number_by_appearance(boards: np.ndarray, n: int) -> np.ndarray:
    """Relabel each board (N, cells) so that its digits first appear in the order 1, 2, 3, …"""
    count = len(boards)
    lanes = np.arange(count)
    labels = np.zeros((count, n + 1), np.uint8)
    used = np.zeros(count, np.uint8)
    result = np.empty_like(boards)
    for cell in range(boards.shape[1]):
        digit = boards[:, cell]
        label = labels[lanes, digit]
        fresh = (digit != 0) & (label == 0)
        used += fresh
        label = np.where(fresh, used, label)
        labels[lanes, digit] = label  # for blanks this writes the 0 that is there
        result[:, cell] = label
    return result
