"""Cells of the flossing toy as files: which there are, claiming one, keeping its result, reading all of them."""

import fcntl
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.figures.figure_files import make_folder
from dataset.plain_data import json_object_or_refuse
from errors import UserError, writing
from files import open_lock
from projects.flossing_toy.toy_training import Cell, ToySettings
from training.storage.atomic_file import write_json_atomically

FOLDER = "cells"
_ENTRIES = ("cell", "settings", "episodes", "measures", "curve", "final", "seconds", "made_by")


@dataclass(frozen=True)
class FinishedCell:
    """A cell and what `projects.flossing_toy.toy_training.run_cell` found."""

    cell: Cell
    result: dict[str, Any]

    @property
    def accuracy(self) -> float:
        return float(self.result["final"]["accuracy"])

    @property
    def seconds(self) -> float:
        return float(sum(self.result["seconds"].values()))

    def measure(self, when: str) -> dict[str, Any]:
        """The first measure `at the start` or `after flossing`, or the one `at the end`. Errors: StopIteration."""
        return next(measure for measure in self.result["measures"] if measure["when"] == when)

    def epochs_to(self, accuracy: float) -> int | None:
        """The last epoch of the first full block whose mean accuracy is so high; None: never."""
        curve = self.result["curve"]
        for epoch, value in zip(curve["last_epoch"], curve["accuracy"], strict=True):
            if value >= accuracy and epoch % self.result["settings"]["block"] == 0:
                return int(epoch)
        return None


def all_cells(tasks: Sequence[str], delays: Sequence[int], arms: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Seed by seed, so that an interrupted comparison has whole seeds; within one the short delays first."""
    return [
        Cell(task, delay, arm, seed) for seed, delay, task, arm in itertools.product(seeds, sorted(delays), tasks, arms)
    ]


class CellFolder:
    """`<out>/cells`: one JSON per finished cell. Several processes may work in it: the kernel keeps their claims, and
    lets go of them however a process ends.
    """

    def __init__(self, out: Path, settings: ToySettings) -> None:
        """Errors: `UserError` when the folder cannot be made."""
        self.path = make_folder(out / FOLDER)
        self.settings = settings

    def file(self, cell: Cell) -> Path:
        return self.path / f"{cell.name}.json"

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Within: whether the cell is this process's to train. Not so when it is finished or another process's."""
        with writing(self.path, "name another --out"):
            descriptor = open_lock(self.path / f".{cell.name}.lock")
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            for left in self.path.glob(f".{cell.name}.json.*.tmp"):
                left.unlink(missing_ok=True)  # of a process that was killed while it wrote
            yield not self.file(cell).exists()
        finally:
            os.close(descriptor)

    def save(self, cell: Cell, result: dict[str, Any]) -> None:
        """Errors: `UserError` when the disk refuses; nothing half written stays."""
        with writing(self.file(cell), "once the disk accepts it, the same command goes on with this cell"):
            write_json_atomically(self.file(cell), result)

    def read(self, cell: Cell) -> FinishedCell | None:
        """What was found; None where the cell is not finished. Errors: `UserError` for a file of other settings."""
        path = self.file(cell)
        if not path.exists():
            return None
        again = "remove it, and the same command makes it again"
        result = json_object_or_refuse(path, again)
        missing = [name for name in _ENTRIES if name not in result]
        if missing or result["cell"] != asdict(cell):
            reason = f"it lacks {', '.join(missing)}" if missing else f"it holds {result['cell']}"
            raise UserError(f"{path} is not this cell's: {reason}; {again}")
        ours = asdict(self.settings)
        theirs = result["settings"] if isinstance(result["settings"], dict) else {}
        changed = [f"{key} {theirs.get(key)} -> {value}" for key, value in ours.items() if theirs.get(key) != value]
        if changed:
            raise UserError(
                f"{path} was made with other settings ({', '.join(changed)}): name another --out, or give "
                "the flags that it was made with"
            )
        return FinishedCell(cell, result)
