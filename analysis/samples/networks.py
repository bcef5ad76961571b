"""A trained network and the test puzzles that it is measured on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.command_line import refuse_copies
from analysis.samples.measured_rows import Arrays, MeasuredRows, part_blocks
from analysis.samples.trajectory_readings import CountViolations
from dataset.eval_batches import EvalBatches, test_rows
from dataset.plain_data import json_object_or_refuse
from dataset.puzzle_folder import PuzzleSet, fingerprint
from errors import UserError
from long_work import progress_bar
from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from models.recursive_model import RecursiveModel
from training.devices import resolve_device
from training.storage.run_folder import RunFolder
from training.trained_model import Checkpoint, open_puzzle_checkpoint, open_test_set, restore_model

CPU = torch.device("cpu")
_BLOCK = 4096  # rows of a test set that are looked at together


@dataclass(frozen=True)
class Job:
    """One checkpoint and the folder for what is measured of it."""

    checkpoint: Checkpoint
    folder: Path
    label: str


def jobs_of(paths: Sequence[Path], out: Path, *, device: str, dtype: str) -> list[Job]:
    """One job per checkpoint. Errors: `UserError` for checkpoints that cannot be read or told apart."""
    checkpoints = [open_puzzle_checkpoint(path, device=device, dtype=dtype) for path in paths]
    labels = [f"{checkpoint.path.resolve().parent.name}_{checkpoint.name}" for checkpoint in checkpoints]
    if len(set(labels)) < len(labels):
        raise UserError(f"two checkpoints are called {max(labels, key=labels.count)}: rename one of the run folders")
    refuse_copies((checkpoint.sha256, checkpoint.path) for checkpoint in checkpoints)
    folders = [out] if len(labels) == 1 else [out / label for label in labels]
    return [Job(*job) for job in zip(checkpoints, folders, labels, strict=True)]


@dataclass(frozen=True)
class Network:
    """Weights in a model in evaluation mode on its device, and the test set: the run's, or the one that is named."""

    checkpoint: Checkpoint
    model: RecursiveModel
    puzzle_set: PuzzleSet
    device: torch.device

    @property
    def name(self) -> str:
        """`TRM-att`, `TRM-MLP`, `HRM`, `SRM`: how figures call it."""
        arch = self.checkpoint.config.arch
        if "trm" in arch.name:
            return "TRM-MLP" if arch.mlp_t else "TRM-att"
        return arch.name.split("_")[0].upper()

    @property
    def updates(self) -> int | None:
        """Updates after which the weights are, as the run's folder says; None where it does not."""
        checkpoint = self.checkpoint
        if (number := checkpoint.name.removeprefix("step_")).isdigit():
            return int(number)
        summary = RunFolder(checkpoint.path.parent).summary
        if not summary.is_file() or checkpoint.name not in ("final", "best"):
            return None
        told = json_object_or_refuse(summary)
        best = told.get("best")
        updates = told.get("steps") if checkpoint.name == "final" else best.get("step") if isinstance(best, dict) else 0
        return updates if isinstance(updates, int) and updates > 0 else None

    def described(self) -> dict[str, Any]:
        """What a measurement says of the network and its data, JSON-able."""
        config = self.checkpoint.config
        return {
            "weights_sha256": self.checkpoint.sha256,
            "data_sha256": fingerprint(self.puzzle_set.folder, "test"),
            "model": self.name,
            "trained_steps": config.arch.halt_max_steps,
            "objective": config.objective.name,
            "train_seed": config.seed,
        }

    def rows(self, count: int | None = None) -> np.ndarray:
        """`chosen_rows` of the test set, all without a count."""
        count = self.puzzle_set.num_examples if count is None else count
        return chosen_rows(self.puzzle_set, self.checkpoint.config.validation_size, count)

    @property
    def violations(self) -> CountViolations | None:
        """Counts broken rules of answers; None for a task whose rules are not known."""
        return violations_of(self.puzzle_set)

    def difficulty(self, rows: np.ndarray) -> np.ndarray:
        """`harder` of these rows, whose inputs are read."""
        inputs = [self.puzzle_set.read_rows(block)[0] for block in part_blocks(rows, _BLOCK)]
        return harder(**difficulty_of(self.puzzle_set, rows, np.concatenate(inputs)))

    def measured(
        self,
        store: MeasuredRows,
        rows: np.ndarray,
        measure: Callable[[Batch], Arrays],
        *,
        batch_size: int,
        desc: str,
        weight: np.ndarray | None = None,
    ) -> Arrays:
        """What `measure` says of these rows and their difficulty, block by block; what the store knows is not asked.

        desc: of the progress. weight: of a sample, see `MeasuredRows.finish`.
        """
        left = [block for block in part_blocks(rows, batch_size) if len(store.missing(block))]
        # Not in their number: what is known already.
        for block in progress_bar(left, desc=desc, unit="batch", smoothing=0):
            batch = one_batch(self.puzzle_set, block, self.device)
            store.add(measure(batch) | difficulty_of(self.puzzle_set, block, batch["inputs"].cpu().numpy()))
        return store.finish(rows, weight)


def open_network(checkpoint: Checkpoint, data_path: str | None) -> Network:
    """Errors: `UserError` for data that the run was not judged on, weights that do not fit, no float64."""
    puzzle_set = open_test_set(checkpoint, data_path)
    device = resolve_device(checkpoint.config.device, float64="states are compared")
    return Network(checkpoint, restore_model(checkpoint, puzzle_set.metadata, device), puzzle_set, device)


def chosen_rows(puzzle_set: PuzzleSet, validation_size: int, count: int) -> np.ndarray:
    """The first `count` test rows that choose no checkpoint and have something to answer. Errors: `UserError`."""
    chosen: list[int] = []
    for block in part_blocks(test_rows(puzzle_set, validation_size), _BLOCK):
        batch = one_batch(puzzle_set, block)
        chosen += block[(batch["labels"] != IGNORE_LABEL_ID).any(dim=1).numpy()].tolist()
        if len(chosen) >= count:
            break
    if not chosen:
        raise UserError(f"{puzzle_set.root} holds no test puzzles besides those that choose checkpoints")
    return np.array(chosen[:count])


def violations_of(puzzle_set: PuzzleSet) -> CountViolations | None:
    """Counts broken rules of answers; None for a task whose rules are not known."""
    task = puzzle_set.metadata.task
    return None if task.rules is None else task.violations


def one_batch(puzzle_set: PuzzleSet, rows: np.ndarray, device: torch.device = CPU) -> Batch:
    """These rows as a batch, none of padding."""
    (batch,) = EvalBatches(puzzle_set, rows, len(rows))
    return {key: leaf.to(device) for key, leaf in batch.items()}


def difficulty_of(puzzle_set: PuzzleSet, rows: np.ndarray, inputs: np.ndarray) -> Arrays:
    """Cells given and the data set's own rating; -1 where it has none."""
    ratings = puzzle_set.ratings
    return {
        "givens": puzzle_set.metadata.task.filled(inputs).sum(axis=1),
        "rating": np.full(len(rows), -1, np.int64) if ratings is None else np.asarray(ratings[rows], np.int64),
    }


def harder(givens: np.ndarray, rating: np.ndarray) -> np.ndarray:
    """(n,) more = harder, of cells given and ratings (n,): the rating where it varies, else what is not given."""
    if rating.min() >= 0 and rating.min() < rating.max():
        return rating.astype(float)
    return -givens.astype(float)
