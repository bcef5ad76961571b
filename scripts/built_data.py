"""Whether the puzzles that lie in a folder are those that a command of a builder would put there."""

import argparse
import contextlib
import importlib
import io
from collections.abc import Sequence
from pathlib import Path

from dataset.build_command import command_of
from dataset.puzzle_metadata import read_metadata
from errors import UserError, printable

ROOT = Path(__file__).resolve().parents[1]
BUILDERS = frozenset(f"dataset/{path.name}" for path in (ROOT / "dataset").glob("build_*_dataset.py"))


def built_otherwise(folder: Path, builder: str, words: Sequence[str]) -> str | None:
    """In words: by which command a data set was built, where it is not that of these options of one of `BUILDERS`.

    None where it is, and where nothing tells. Options that do not show in the bytes are not compared.
    """
    module = importlib.import_module(builder.removesuffix(".py").replace("/", "."))
    try:
        build = read_metadata(folder, "test").extra.get("build")
        with contextlib.redirect_stderr(io.StringIO()):
            wanted = command_of(module.parser().parse_args(list(words)), builder, getattr(module, "PUBLISHED_REPO", ""))
    except (UserError, SystemExit, argparse.ArgumentError):  # who reads or builds it will be told
        return None
    found = build.get("command") if isinstance(build, dict) else None
    if found == wanted:
        return None
    how = f"was built by: {printable(found)[:500]}" if isinstance(found, str) else "does not say how it was built"
    return f"{folder} {how}; that is not what is built here: {wanted}; to have that, move the folder away"
