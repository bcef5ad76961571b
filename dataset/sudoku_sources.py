"""Files of 9x9 Sudokus, read and checked; solving is left to the caller, who needs to solve a subsample only."""

from pathlib import Path

import numpy as np

from dataset.puzzle_csv import PuzzleTable, read_puzzle_csv
from dataset.puzzle_lists import PuzzleList, read_puzzle_list
from dataset.puzzle_text import BadLines
from dataset.sudoku import BLANK_TOKEN, BOXES, side
from dataset.tasks import sudoku

BOX = BOXES["9x9"]
TASK = sudoku.Task(side(BOX) ** 2, side(BOX) + 2)
FEWEST_CLUES = 17
PUBLISHED_REPO = "sapientinc/sudoku-extreme"


def read_list(path: Path) -> PuzzleList:
    """A list of 9x9 puzzles, checked for what shows without solving.

    Errors: as `read_puzzle_list`, and for fewer than 17 clues, which never have one solution.
    """
    found = read_puzzle_list(path, TASK)
    bad = BadLines(path, "correct or remove the line")
    for row in np.flatnonzero((found.tokens != BLANK_TOKEN).sum(axis=1) < FEWEST_CLUES):
        bad.add(int(found.lines[row]), f"has fewer than {FEWEST_CLUES} clues, so more than one solution")
    bad.refuse()
    return found


def read_table(path: Path) -> PuzzleTable:
    """Rows of 9x9 puzzles with answers. Errors: as `read_puzzle_csv`."""
    return read_puzzle_csv(path, TASK)
