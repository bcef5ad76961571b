"""Which test rows a run answered, one by one: what a paired comparison of two runs needs and no sum can give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from dataset.eval_batches import row_hashes
from dataset.plain_data import json_object_or_refuse
from dataset.puzzle_folder import PuzzleSet
from errors import UserError
from models.act import Batch
from models.losses import correctness
from training.distributed import World
from training.evaluation.answering import Evaluator
from training.inference.base import Predictions
from training.storage.atomic_file import write_json_atomically


class RowOutcomes(Evaluator):
    """Keeps for each row with a scored token whether it is exact; after `gather`, the rows of all processes.

    `batch["row"]` must number the rows.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._rows = [torch.zeros(0, dtype=torch.int64)]
        self._exact = [torch.zeros(0, dtype=torch.bool)]

    def update(self, batch: Batch, predictions: Predictions) -> None:
        num_scored, _, exact = correctness(predictions.answers, batch["labels"])
        scored = num_scored > 0
        self._rows.append(batch["row"][scored].cpu().long())
        self._exact.append(exact[scored].cpu())

    def gather(self, world: World) -> None:
        self._rows = [world.gather_ragged(torch.cat(self._rows))]
        self._exact = [world.gather_ragged(torch.cat(self._exact))]

    def add(self, other: Self) -> None:
        self._rows, self._exact = self._rows + other._rows, self._exact + other._exact

    def report(self) -> dict[str, Any]:
        """`row`, the numbers, and `exact`, a text of a 1 or 0 for each."""
        rows, exact = self.outcomes()
        return {"row": rows.tolist(), "exact": _as_text(exact)}

    def outcomes(self) -> tuple[np.ndarray, np.ndarray]:
        """row (N,) int64, ascending, and exact (N,) bool."""
        rows, exact = torch.cat(self._rows).numpy(), torch.cat(self._exact).numpy()
        order = np.argsort(rows, kind="stable")
        return rows[order], exact[order]


@dataclass(frozen=True)
class TestRows:
    """puzzle: N hashes of the rows' content; exact: name of the weights -> (N,) bool, in the same order."""

    puzzle: list[str]
    exact: dict[str, np.ndarray]


# pytest collects what is called Test*; this is not one.
TestRows.__test__ = False  # type: ignore[attr-defined]


def save_test_rows(path: Path, sets: Sequence[PuzzleSet], outcomes: Mapping[str, Sequence[RowOutcomes]]) -> None:
    """Write a JSON object: `puzzle`, a list of hashes, and for each name of weights a text of a 1 or 0 for each row.

    `outcomes` has one entry per set, in the order of `sets`. The order of the rows is that of the sets, then of
    the rows in them. Errors: `OSError` when the disk refuses.
    """
    numbers = [of_set.outcomes()[0] for of_set in next(iter(outcomes.values()))]
    puzzle = np.concatenate([row_hashes(puzzle_set)[rows] for puzzle_set, rows in zip(sets, numbers, strict=True)])
    record: dict[str, Any] = {"puzzle": [f"{value:016x}" for value in puzzle.tolist()]}
    for name, of_sets in outcomes.items():
        exact = np.concatenate([of_set.outcomes()[1] for of_set in of_sets])
        record[name] = _as_text(exact)
    write_json_atomically(path, record)


def _as_text(exact: np.ndarray) -> str:
    return "".join("1" if value else "0" for value in exact.tolist())


def read_test_rows(path: Path) -> TestRows:
    """Read what `save_test_rows` wrote. Errors: `UserError` when it is something else."""
    record = json_object_or_refuse(path, "remove it to go on without a comparison by row")
    puzzle = record.pop("puzzle", None)
    if not isinstance(puzzle, list) or not all(isinstance(digest, str) for digest in puzzle):
        raise UserError(f"{path} holds no list of puzzles: remove it to go on without a comparison by row")
    for name, exact in record.items():
        if not isinstance(exact, str) or len(exact) != len(puzzle) or not set(exact) <= {"0", "1"}:
            raise UserError(f"{path}: {name} is not one 0 or 1 for each of {len(puzzle)} puzzles: remove the file")
    return TestRows(puzzle, {name: np.array([char == "1" for char in exact]) for name, exact in record.items()})
