"""Whether the puzzles that lie in a folder are those that a command of the Sudoku builder would put there."""

import argparse
import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from dataset.build_sudoku_dataset import command_of, parser
from dataset.puzzle_metadata import read_metadata
from errors import UserError, printable

BUILDER = "dataset/build_sudoku_dataset.py"


def built_otherwise(folder: Path, words: Sequence[str]) -> str | None:
    """In words: by which command a data set was built, where it is not that of these options of the builder.

    None where it is, and where nothing tells. Options that do not show in the bytes are not compared.
    """
    try:
        build = read_metadata(folder, "test").extra.get("build")
        with contextlib.redirect_stderr(io.StringIO()):
            wanted = command_of(parser().parse_args(list(words)))
    except (UserError, SystemExit, argparse.ArgumentError):  # who reads or builds it will be told
        return None
    found = build.get("command") if isinstance(build, dict) else None
    if found == wanted:
        return None
    how = f"was built by: {printable(found)[:500]}" if isinstance(found, str) else "does not say how it was built"
    return f"{folder} {how}; that is not what is built here: {wanted}; to have that, move the folder away"
