"""Grid files: runs with placeholders, what makes that from which they start, and the sizes of data that one makes."""

import json
from pathlib import Path
from random import Random
from typing import Any

import yaml

from scripts.grid_file import Grid, read_grid
from tests.fuzz.byte_edits import TEXT, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace
from tests.fuzz.tree_edits import edit_tree

_DATA = "dataset/build_sudoku_dataset.py --output-dir {data} --generate 6x6"
GRID = {
    "out": "runs/fuzzed",
    "threads": 1,
    "common": {"data": "data/fuzzed", "train": "pretrain.py seed={seed} checkpoint_path={out}/{name}"},
    "earlier": [
        {"name": "puzzles", "makes": "{data}/test/dataset.json", "command": _DATA,
         "sizes": {"side": 6, "train": 100, "test": 20}},
        {"name": "before", "needs": "puzzles", "makes": "{out}/before/final.pt", "command": "{train} seed=9",
         "for": {"seed": [9]}},
    ],
    "runs": [
        {"name": "plain_{seed}", "for": {"seed": [0, 1]}, "kind": "confirmatory", "command": "{train}"},
        {"name": "{arm}_{seed}", "for": {"arm": ["a", "b"], "seed": [0]}, "needs": "plain_{seed}",
         "command": "{train} term.{arm}.weight=1"},
    ],
}  # fmt: skip


class GridFiles:
    """`read_grid`: names are one folder each, and whatever a run needs is there."""

    name = "grid-files"
    share = 2.0

    def prepare(self) -> None:
        """Nothing is made."""

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        path, sound = folder / "grid.yaml", rng.random() < 0.05
        data = _written(GRID if sound else edit_tree(rng, GRID, changes))
        if not sound and rng.random() < 0.3:
            data = damage(rng, data, TEXT, changes)
        path.write_bytes(data)
        if not sound and rng.random() < 0.04:
            misplace(rng, path, changes)
        return Case(changes, lambda: read_grid(path), _wrong_grid, must_read=sound)


def _written(tree: Any) -> bytes:
    try:
        text = yaml.safe_dump(tree)
    except (yaml.YAMLError, ValueError, RecursionError):
        try:
            text = json.dumps(tree)
        except (ValueError, RecursionError):
            text = "[" * 2000
    return text.encode("utf-8", "surrogatepass")


def _wrong_grid(grid: Grid) -> str | None:
    runs = [*grid.earlier, *grid.runs]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        return f"two runs are called alike among {names}"
    for run in runs:
        if run.name in ("", ".", "..") or "/" in run.name or not run.name.isprintable():
            return f"{run.name!r} is no name of a folder"
        if not set(run.needs) <= set(names) or run.name in run.needs:
            return f"{run.name} needs {run.needs} among {names}"
        if not run.command or not all(type(word) is str for word in run.command):
            return f"{run.name}: the command {run.command}"
        if run.sizes is not None and not (len(run.sizes) == 3 and all(type(n) is int and n > 0 for n in run.sizes)):
            return f"{run.name}: the sizes {run.sizes}"
    return None
