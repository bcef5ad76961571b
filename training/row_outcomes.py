"""Which test rows a run answered, one by one: what a paired comparison of two runs needs and no sum can give."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dataset.eval_batches import row_hashes
from dataset.puzzle_folder import PuzzleSet
from errors import UserError
from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from training.atomic_file import write_atomically
from training.distributed import World
from training.evaluation import Evaluator
from training.inference.base import Predictions

FILE_NAME = "test_rows.npz"


class RowOutcomes(Evaluator):
    """Keeps for each row with a scored token whether it is exact; after `gather`, the rows of all processes.

    `batch["row"]` must number the rows.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        self._rows = [torch.zeros(0, dtype=torch.int64)]
        self._exact = [torch.zeros(0, dtype=torch.bool)]

    def update(self, batch: Batch, predictions: Predictions) -> None:
        labels = batch["labels"]
        valid = labels != IGNORE_LABEL_ID
        scored = valid.any(dim=-1)
        exact = ((predictions.answers == labels) | ~valid).all(dim=-1)
        self._rows.append(batch["row"][scored].cpu().long())
        self._exact.append(exact[scored].cpu())

    def gather(self, world: World) -> None:
        self._rows = [world.gather_ragged(torch.cat(self._rows))]
        self._exact = [world.gather_ragged(torch.cat(self._exact))]

    def result(self) -> dict[str, float]:
        """Nothing scalar: `outcomes` holds them."""
        return {}

    def outcomes(self) -> tuple[np.ndarray, np.ndarray]:
        """row (N,) int64, ascending, and exact (N,) bool."""
        rows, exact = torch.cat(self._rows).numpy(), torch.cat(self._exact).numpy()
        order = np.argsort(rows, kind="stable")
        return rows[order], exact[order]


@dataclass(frozen=True)
class TestRows:
    """puzzle (N,) uint64, hashes of the rows' content; exact: name of the weights -> (N,) bool, in the same order."""

    puzzle: np.ndarray
    exact: dict[str, np.ndarray]


# pytest collects what is called Test*; this is not one.
TestRows.__test__ = False  # type: ignore[attr-defined]


def save_test_rows(
    path: Path, sets: Sequence[PuzzleSet], outcomes: Mapping[str, Sequence[RowOutcomes]]
) -> None:
    """Write `puzzle` and, for each name of weights, whether each row was exact.

    `outcomes` has one entry per set, in the order of `sets`. The order of the rows is that of the sets, then of
    the rows in them. Errors: `OSError` when the disk refuses.
    """
    numbers = [part.outcomes()[0] for part in next(iter(outcomes.values()))]
    arrays = {"puzzle": np.concatenate([row_hashes(own)[rows] for own, rows in zip(sets, numbers, strict=True)])}
    arrays |= {name: np.concatenate([part.outcomes()[1] for part in parts]) for name, parts in outcomes.items()}
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def read_test_rows(path: Path) -> TestRows:
    """Read what `save_test_rows` wrote. Errors: `UserError` when it is something else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}; remove it to go on without a comparison by row") from error
    puzzle = arrays.pop("puzzle", np.zeros(0))
    fits = all(array.dtype == np.bool_ and array.shape == puzzle.shape for array in arrays.values())
    if puzzle.dtype != np.uint64 or puzzle.ndim != 1 or not arrays or not fits:
        raise UserError(f"{path} does not hold one puzzle and one truth value per row: remove it")
    return TestRows(puzzle, arrays)
