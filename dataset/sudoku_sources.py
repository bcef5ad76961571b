"""Where Sudoku puzzles are read from: files as given, folders of published sets, Hugging Face.

Solving is left to the caller, so that a subsample solves only what it needs.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset.puzzle_csv import PuzzleTable, read_puzzle_csv
from dataset.puzzle_lists import PuzzleList, read_puzzle_list
from dataset.puzzle_text import BadLines
from dataset.safe_files import file_size
from dataset.sudoku import BLANK_TOKEN, BOXES, side
from dataset.tasks import sudoku
from errors import UserError, say

ROOT = Path(__file__).resolve().parents[1]
BOX = BOXES["9x9"]
TASK = sudoku.Task(side(BOX) ** 2, side(BOX) + 2)
FEWEST_CLUES = 17
PUBLISHED_REPO = "sapientinc/sudoku-extreme"


def concatenated(parts: Sequence[object], *names: str) -> dict[str, np.ndarray]:
    """The arrays of these names of all parts, one after the other along the first axis."""
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}


def resolve_input(name: str) -> Path:
    """The file as given, else below the project's root (so that `dataset/raw/…` works anywhere)."""
    path = Path(os.path.expanduser(name))
    if not os.path.exists(path) and not path.is_absolute() and os.path.exists(ROOT / path):
        return ROOT / path
    file_size(path, "give an existing file to --input-file")
    return path


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


def published_files(folder: Path) -> tuple[Path, Path]:
    """train.csv and test.csv (or .csv.gz) in a folder."""
    paths = []
    for name in ("train.csv", "test.csv"):
        candidates = [folder / name, folder / f"{name}.gz"]
        existing = [path for path in candidates if os.path.isfile(path)]
        if not existing:
            raise UserError(f"{candidates[0]}: no such file; --input-dir expects train.csv and test.csv")
        paths.append(existing[0])
    return paths[0], paths[1]


def fetch_published(repo: str) -> tuple[Path, Path]:
    """train.csv and test.csv of a Hugging Face data set, from its cache or the network.

    Errors: `UserError` that says which files to place by hand when they cannot be had.
    """
    by_hand = (
        f"download train.csv and test.csv of https://huggingface.co/datasets/{repo} by hand into a folder "
        "and pass --input-dir FOLDER, or build from the shipped puzzles: "
        "--input-file dataset/raw/royle_17clue.txt.gz, or --generate 6x6"
    )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub import logging as hub_logging
    except ImportError as error:
        raise UserError(f"{repo}: huggingface_hub is not installed; {by_hand}") from error
    hub_logging.set_verbosity_error()  # its warnings about retries; the outcome is reported below
    say(f"fetching {repo} (without a network this gives up within a minute)", flush=True)
    try:
        train, test = (Path(hf_hub_download(repo, name, repo_type="dataset")) for name in ("train.csv", "test.csv"))
    # The client raises its own errors, its HTTP library's and plain OSError, which all mean the same to a user.
    except Exception as error:
        raise UserError(f"{repo}: could not be fetched ({type(error).__name__}, no network?); {by_hand}") from error
    return train, test
