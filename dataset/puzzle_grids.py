"""Puzzles of tasks in which a space is a cell, as text: nothing is drawn around their cells, and no line is a comment.

A puzzle stands on one line, or on as many lines of equal length as it has rows, with an empty line behind it.
"""

from collections.abc import Iterator
from math import isqrt
from pathlib import Path

import numpy as np

from dataset.puzzle_lists import PuzzleList, tokens_of
from dataset.puzzle_text import MAX_LINE_LENGTH, BadLines, text_lines
from dataset.tasks.base import PuzzleTask
from errors import UserError

_LONGEST_ROW = 1 << 20
_Block = list[tuple[int, str]]  # lines without an empty one between them, each with its number


def side_of_first(path: Path) -> int:
    """n of the first puzzle of a file, which has n*n cells. Errors: `UserError` where there is no such one."""
    block = next(_blocks(path, _LONGEST_ROW), None)
    if block is None:
        raise UserError(f"{path}: holds no puzzle; give rows of cells a line, or a puzzle a line")
    line, first = block[0]
    longer = {len(text) for _, text in block}
    side = isqrt(len(first))
    if side * side == len(first) and side > 1 and longer == {len(first)} and len(block) != len(first):
        return side
    if len(block) < 2:
        raise UserError(f"{path}:{line}: a puzzle of {len(first)} cells is no square; give n rows of n cells, or n*n")
    return len(block)


def read_puzzle_grids(path: Path, task: PuzzleTask, max_puzzles: int | None = None) -> PuzzleList:
    """All puzzles of a file. Errors: `UserError` with the number and the first of the lines that cannot be used."""
    rows, columns = task.grid
    bad = BadLines(
        path, f"give {rows} lines of {columns} cells, an empty line behind them, or {task.seq_len} cells a line"
    )
    puzzles, begins = [], []
    for block in _blocks(path, max(MAX_LINE_LENGTH, task.seq_len)):
        whole = all(len(text) == task.seq_len for _, text in block)
        for lines in [[line] for line in block] if whole else [block]:
            fault = None if whole else _shape_fault(lines, task)
            fault = fault or next(filter(None, (_strange(line, task) for line in lines)), None)
            if fault is not None:
                bad.add(*fault)
                continue
            puzzles.append("".join(text for _, text in lines))
            begins.append(lines[0][0])
            if max_puzzles is not None and len(puzzles) > max_puzzles:
                raise UserError(f"{path}: more than {max_puzzles:,} puzzle{'s' * (max_puzzles > 1)}; give fewer")
    bad.refuse()
    if not puzzles:
        raise UserError(f"{path}: holds no puzzle; {bad.mend}")
    tokens = tokens_of(puzzles, task.characters, task.seq_len)
    clashing = BadLines(path, "correct or remove what is no puzzle")
    for row in np.flatnonzero(task.clashes(tokens)).tolist():
        clashing.add(begins[row], task.clash_text(tokens[row]))
    clashing.refuse()
    return PuzzleList(path, tokens, np.array(begins), ())


def _blocks(path: Path, longest: int) -> Iterator[_Block]:
    block: _Block = []
    for number, text in text_lines(path, longest):
        if text:
            block.append((number, text))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _shape_fault(block: _Block, task: PuzzleTask) -> tuple[int, str] | None:
    """The line at which a puzzle is not of the shape of the task's, and how."""
    rows, columns = task.grid
    first = len(block[0][1])
    for number, text in block:
        if len(text) != first:
            return number, (
                f"has {len(text)} cells where the row before has {first}: rows end in their last cell, also where that "
                "is a space"
            )
    if (len(block), first) != (rows, columns):
        return block[0][0], f"begins a puzzle of {len(block)} rows of {first} cells, expected {rows} of {columns}"
    return None


def _strange(line: tuple[int, str], task: PuzzleTask) -> tuple[int, str] | None:
    number, text = line
    place = next((place for place, cell in enumerate(text) if cell not in task.characters), None)
    if place is None:
        return None
    return number, f"has {text[place]!r} at position {place + 1}, expected {task.expected_cells}"
