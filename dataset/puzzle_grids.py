"""Puzzles of tasks in which a space is a cell, as text: nothing is drawn around their cells, and no line is a comment.

A puzzle stands on one line, or on as many lines of equal length as it has rows, with an empty line behind it.
"""

from collections.abc import Callable
from itertools import islice, takewhile
from math import isqrt
from pathlib import Path

import numpy as np

from dataset.puzzle_lists import PuzzleList, tokens_of
from dataset.puzzle_text import MAX_BAD_LINES, MAX_LINE_LENGTH, BadLines, text_lines
from dataset.tasks.base import PuzzleTask
from errors import UserError

_LONGEST_ROW = 1 << 20
_SPACE_AT_END = "rows end in their last cell, also where that is a space"


def side_of_first(path: Path, is_whole: Callable[[str], bool]) -> int:
    """n of the first puzzle of a file, which has n*n cells.

    is_whole: whether a line looks like a whole puzzle; asked where there are as many as a larger puzzle has rows.
    Errors: `UserError` where there is no such puzzle.
    """
    lines = text_lines(path, _LONGEST_ROW)
    line, first = next(((number, text) for number, text in lines if text), (0, ""))
    if not first:
        raise UserError(f"{path}: holds no puzzle; give rows of cells a line, or a puzzle a line")
    block = [first, *takewhile(bool, (text for _, text in islice(lines, len(first))))]
    side = isqrt(len(first))
    if side > 1 and side * side == len(first) and (len(block) != len(first) or all(map(is_whole, block))):
        return side
    if len(block) < 2 or len(first) < 2:
        raise UserError(f"{path}:{line}: a puzzle of {len(first)} cells is no square; give n rows of n cells, or n*n")
    return len(first)


def read_puzzle_grids(path: Path, task: PuzzleTask, max_puzzles: int | None = None) -> PuzzleList:
    """All puzzles of a file. Errors: `UserError` with the number and the first of the lines that cannot be used."""
    reader = _Reader(path, task)
    for number, text in text_lines(path, max(MAX_LINE_LENGTH, task.seq_len)):
        reader.take(number, text)
        if max_puzzles is not None and len(reader.puzzles) > max_puzzles:
            raise UserError(f"{path}: more than {max_puzzles:,} puzzle{'s' * (max_puzzles > 1)}; give fewer")
    reader.close()
    reader.bad.refuse()
    if not reader.puzzles:
        raise UserError(f"{path}: holds no puzzle; {reader.bad.mend}")
    tokens = tokens_of(reader.puzzles, task.characters, task.seq_len)
    clashing = BadLines(path, "correct or remove what is no puzzle")
    for row in np.flatnonzero(task.clashes(tokens)).tolist():
        clashing.add(reader.lines[row], task.clash_text(tokens[row]))
    clashing.refuse()
    return PuzzleList(path, tokens, np.array(reader.lines), ())


class _Reader:
    """Puzzles of the lines taken so far, and a puzzle of which only some rows have been read."""

    def __init__(self, path: Path, task: PuzzleTask) -> None:
        self.task = task
        self.cells = frozenset(task.characters)
        self.rows, self.columns = task.grid
        shape = f"{self.rows} lines of {self.columns} cells"
        self.bad = BadLines(path, f"give {shape}, an empty line behind them, or {task.seq_len} cells a line")
        self.puzzles: list[str] = []
        self.lines: list[int] = []
        self.begun: list[str] = []  # rows of a puzzle that stands on several lines, no more than it may have
        self.begun_on = self.count = 0
        self.told = False  # a fault in one of its rows

    def take(self, number: int, text: str) -> None:
        """The next line."""
        if not text:
            self.close()
        elif len(text) == self.task.seq_len:
            self.close()
            if not self._strange(number, text):
                self._finish(text, number)
        else:
            self.begun_on = self.begun_on if self.count else number
            self.count += 1
            if self.count == self.rows + MAX_BAD_LINES:  # something else, of which no more has to be read
                self.close()
                self.bad.refuse()
            if self.begun and len(text) != len(self.begun[0]):
                row = len(self.begun[0])
                self._fault(number, f"has {len(text)} cells where the row before has {row}: {_SPACE_AT_END}")
            elif not self._strange(number, text) and self.count <= self.rows:
                self.begun.append(text)

    def close(self) -> None:
        """No more rows of the puzzle that was begun."""
        rows, count, told = self.begun, self.count, self.told
        self.begun, self.count, self.told = [], 0, False
        if not count or told:
            return
        if (count, len(rows[0])) == (self.rows, self.columns):
            self._finish("".join(rows), self.begun_on)
        else:
            found = f"{count} rows of {len(rows[0])} cells"
            self.bad.add(self.begun_on, f"begins a puzzle of {found}, expected {self.rows} of {self.columns}")

    def _fault(self, number: int, fault: str) -> None:
        """Of one puzzle the first one is told."""
        if not self.told:
            self.bad.add(number, fault)
        self.told = True

    def _strange(self, number: int, text: str) -> bool:
        """Whether a line has what is no cell, which is told."""
        if self.cells.issuperset(text):
            return False
        place = next(place for place, cell in enumerate(text) if cell not in self.cells)
        self._fault(number, f"has {text[place]!r} at position {place + 1}, expected {self.task.expected_cells}")
        return True

    def _finish(self, puzzle: str, number: int) -> None:
        self.puzzles.append(puzzle)
        self.lines.append(number)
