"""What the command lines of builders share: numbers, the command that a folder keeps, and what to do with it."""

import argparse
import re
import shlex
from functools import partial
from pathlib import Path

from dataset.published_files import published_files


def _at_least(smallest: int, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= smallest):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {smallest} to 999999999")
    return int(text)


natural, positive = partial(_at_least, 0), partial(_at_least, 1)


def command_of(args: argparse.Namespace, builder: str, published_repo: str = "") -> str:
    """The command that builds the same bytes where its files lie: without what does not show in them.

    Args:
        builder: its file, from the suite's root. published_repo: the data set that is fetched by default, if any.
    """
    words = ["python", builder]
    for name, value in sorted(vars(args).items()):
        if name in ("output_dir", "overwrite", "num_workers") or value is None or value is False:
            continue
        if name == "source_repo" and value == published_repo:
            continue
        if name == "input_dir":
            name, value = "input_file", [path.name for path in published_files(Path(value))]
        elif name == "input_file":
            value = [Path(item).name for item in value]
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.extend(str(item) for item in (value if isinstance(value, list) else [value]))
    return shlex.join(words)


def next_command(output_dir: Path) -> str:
    """What trains on a folder, as a shell takes it."""
    folder = str(output_dir)
    if not re.fullmatch(r"[A-Za-z0-9_.-]*/[A-Za-z0-9_./-]+", folder):  # as Hydra quotes: a comma would part two
        folder = "'" + re.sub(r"(\\*)'", r"\1\1\'", folder) + "'"
    return f"python pretrain.py arch=trm {shlex.quote(f'data_paths=[{folder}]')} 'evaluators=[]'"
