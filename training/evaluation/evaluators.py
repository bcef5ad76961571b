"""Evaluators for finished models: accuracy after each supervision step, by difficulty, and raw outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from errors import UserError
from models.act import Batch
from models.losses import IGNORE_LABEL_ID, correctness
from training.devices import wide
from training.distributed import World
from training.evaluation.answering import Evaluator, counted_rate, describe_rate
from training.inference.base import Predictions
from training.inference.stepwise import StepwisePredictions
from training.storage.atomic_file import write_npz_atomically

Halts = Callable[[Tensor, Tensor], Tensor]


def _stepwise(predictions: Predictions) -> StepwisePredictions:
    if not isinstance(predictions, StepwisePredictions):
        raise TypeError(f"needs StepwiseInference, found {type(predictions).__name__}")
    return predictions


class StepAccuracyEvaluator(Evaluator):
    """Solved rows and right tokens after each of T supervision steps, and when stopping by q.

    `halts(q_halt, q_continue)` says where the model would stop by itself. Sums: `exact_t`, `accuracy_t` and
    `halted_t` (rows that stop first at t) for t = 1..T, `halting_exact`, `halting_steps`, `count`.
    """

    def __init__(self, num_steps: int, halts: Halts) -> None:
        self.num_steps, self.halts = num_steps, halts

    def begin(self) -> None:
        names = [f"{kind}_{t + 1}" for kind in ("exact", "accuracy", "halted") for t in range(self.num_steps)]
        self.sums = dict.fromkeys([*names, "halting_exact", "halting_steps", "count"], 0.0)

    def update(self, batch: Batch, predictions: Predictions) -> None:
        predictions = _stepwise(predictions)
        num_scored, num_right, exact = correctness(predictions.step_answers, batch["labels"])
        scored = num_scored[:, 0] > 0
        accuracy = wide(num_right) / num_scored.clamp_min(1)
        stops = self.halts(predictions.step_q_halt, predictions.step_q_continue)
        stops[:, -1] = True
        first = stops.int().argmax(dim=1)
        steps = torch.arange(self.num_steps, device=first.device)
        counted = scored[:, None]
        per_step = {
            "exact": (counted & exact).sum(dim=0),
            "accuracy": (counted * accuracy).sum(dim=0),
            "halted": (counted & (first[:, None] == steps)).sum(dim=0),
        }
        for kind, values in per_step.items():
            for t, value in enumerate(values.tolist(), start=1):
                self.sums[f"{kind}_{t}"] += value
        chosen = exact.gather(1, first[:, None])[:, 0]
        self.sums["halting_exact"] += float((scored & chosen).sum())
        self.sums["halting_steps"] += float((scored * (first + 1)).sum())
        self.sums["count"] += float(scored.sum())

    def report(self) -> dict[str, Any]:
        """`per_step` and `halting`, as `docs/metrics.md` has them."""
        return {"per_step": self.per_step(), "halting": self.halting()}

    def lines(self) -> list[str]:
        halting = self.halting()
        lines = [
            f"  stopping where q_halt says so: {describe_rate(halting)}, {halting['mean_steps']:.2f} steps on average",
            "  step  exact accuracy  token accuracy  first wants to stop here",
        ]
        for step in self.per_step():
            bar = "#" * round(20 * step["exact_accuracy"])
            lines.append(
                f"  {step['step']:>4}  {step['exact_accuracy']:>14.4f}  {step['accuracy']:>14.4f}  "
                f"{step['halted_count']:>24}  {bar}".rstrip()
            )
        return lines

    def per_step(self) -> list[dict[str, float]]:
        """One entry per step: `step`, `exact_count`, `count`, `exact_accuracy`, `accuracy`, `halted_count`."""
        count = self.sums["count"]
        return [
            {
                "step": t,
                "exact_count": int(self.sums[f"exact_{t}"]),
                "count": int(count),
                "exact_accuracy": self.sums[f"exact_{t}"] / max(1.0, count),
                "accuracy": self.sums[f"accuracy_{t}"] / max(1.0, count),
                "halted_count": int(self.sums[f"halted_{t}"]),
            }
            for t in range(1, self.num_steps + 1)
        ]

    def halting(self) -> dict[str, float]:
        """Accuracy and mean number of steps if each row stopped where q says so."""
        count = max(1.0, self.sums["count"])
        return {
            "exact_count": int(self.sums["halting_exact"]),
            "count": int(self.sums["count"]),
            "exact_accuracy": self.sums["halting_exact"] / count,
            "mean_steps": self.sums["halting_steps"] / count,
        }


class StepCountEvaluator(Evaluator):
    """How many rows stopped after t of at most T supervision steps. Sums: `stopped_t` for t = 1..T."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def begin(self) -> None:
        self.sums = dict.fromkeys([f"stopped_{t + 1}" for t in range(self.num_steps)], 0.0)

    def update(self, batch: Batch, predictions: Predictions) -> None:
        scored = (batch["labels"] != IGNORE_LABEL_ID).any(dim=-1)
        for steps in predictions.steps[scored].tolist():
            self.sums[f"stopped_{steps}"] += 1

    def report(self) -> list[dict[str, int]]:
        """`step` and `count` of rows with a scored token that stopped there; steps at which none did are left out."""
        counts = {t: int(self.sums[f"stopped_{t}"]) for t in range(1, self.num_steps + 1)}
        return [{"step": t, "count": count} for t, count in counts.items() if count]

    def lines(self) -> list[str]:
        counts = self.report()
        most = max((entry["count"] for entry in counts), default=0)
        lines = ["  step  rows that stopped here"]
        for entry in counts:
            bar = "#" * round(20 * entry["count"] / most)
            lines.append(f"  {entry['step']:>4}  {entry['count']:>22}  {bar}".rstrip())
        return lines


@dataclass(frozen=True)
class DifficultyGroup:
    """Rows whose rating lies in [low, high]."""

    low: int
    high: int


def difficulty_groups(ratings: np.ndarray) -> list[DifficultyGroup]:
    """At most four groups of about equal size; puzzles of one rating are never split between groups."""
    values, counts = np.unique(ratings, return_counts=True)
    groups: list[DifficultyGroup] = []
    total, seen, low = int(counts.sum()), 0, None
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        low = value if low is None else low
        quarter = 4 * seen // total
        seen += count
        if 4 * seen // total > quarter or seen == total:
            groups.append(DifficultyGroup(low, value))
            low = None
    return groups


class DifficultyEvaluator(Evaluator):
    """Solved rows per difficulty group. `ratings` (N,) are those of the whole set, indexed by `batch["row"]`."""

    def __init__(self, ratings: np.ndarray, groups: Sequence[DifficultyGroup]) -> None:
        self.ratings = torch.from_numpy(np.asarray(ratings).astype(np.int64))
        self.groups = list(groups)

    def begin(self) -> None:
        names = [f"{kind}_{g}" for kind in ("exact", "count") for g in range(len(self.groups))]
        self.sums = dict.fromkeys(names, 0.0)

    def update(self, batch: Batch, predictions: Predictions) -> None:
        num_scored, _, exact = (counts.cpu() for counts in correctness(predictions.answers, batch["labels"]))
        scored = num_scored > 0
        ratings = self.ratings[batch["row"].cpu().clamp_min(0)]
        for g, group in enumerate(self.groups):
            inside = scored & (ratings >= group.low) & (ratings <= group.high)
            self.sums[f"exact_{g}"] += float((inside & exact).sum())
            self.sums[f"count_{g}"] += float(inside.sum())

    def report(self) -> list[dict[str, Any]]:
        """One entry per group: its `low` and `high` rating and the rate of exact rows."""
        return [
            {"low": group.low, "high": group.high, **counted_rate(self.sums[f"exact_{g}"], self.sums[f"count_{g}"])}
            for g, group in enumerate(self.groups)
        ]

    def lines(self) -> list[str]:
        lines = ["  by difficulty rating (quarters of the rows; equal ratings stay together)"] if self.groups else []
        for group in self.report():
            span = f"{group['low']}" if group["low"] == group["high"] else f"{group['low']} to {group['high']}"
            counts = {"exact_count": group["numerator"], "count": group["denominator"]}
            lines.append(f"    rating {span}: {describe_rate(counts)}")
        return lines


# The names are those of the official `save_outputs`.
OUTPUTS: dict[str, Callable[[Batch, Predictions], Tensor]] = {
    "inputs": lambda batch, _: batch["inputs"],
    "labels": lambda batch, _: batch["labels"],
    "puzzle_identifiers": lambda batch, _: batch["puzzle_identifiers"],
    "row": lambda batch, _: batch["row"],
    "preds": lambda _, predictions: predictions.answers.int(),
    "steps": lambda _, predictions: predictions.steps,
    "logits": lambda _, predictions: predictions.logits.float(),
    "q_halt_logits": lambda _, predictions: predictions.q_halt.float(),
    "q_continue_logits": lambda _, predictions: _stepwise(predictions).step_q_continue[:, -1],
    "step_preds": lambda _, predictions: _stepwise(predictions).step_answers.int(),
    "step_q_halt_logits": lambda _, predictions: _stepwise(predictions).step_q_halt,
}
STEPWISE_OUTPUTS = ("q_continue_logits", "step_preds", "step_q_halt_logits")


def check_outputs(names: Sequence[str], option: str, *, stepwise: bool) -> None:
    """Refuse unknown outputs, and those of single steps where the inference is not stepwise. Errors: `UserError`."""
    for name in names:
        if name not in OUTPUTS:
            raise UserError(f"{option}: {name!r} is none of {', '.join(OUTPUTS)}")
        if name in STEPWISE_OUTPUTS and not stepwise:
            raise UserError(
                f"{option}: {name!r} needs the answers after every step, which eval.adaptive_halt=true, "
                "votes (eval.vote.views above 1) and rollouts do not keep; leave one of them out"
            )


class OutputRecorder(Evaluator):
    """Keeps chosen outputs of every real row (padding left out) for a `.npz` file. Rows of this process only.

    Args:
        file: its name, another one on every process. set_number: kept for each row as `set`, where there are several.
    """

    keeps_shares = True

    def __init__(
        self, names: Sequence[str], file: str, set_number: int | None = None, *, compressed: bool = False
    ) -> None:
        self.names = list(dict.fromkeys(("row", *names)))
        self.file, self.set_number, self.compressed = file, set_number, compressed

    def begin(self) -> None:
        self.batches: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        self.others: list[dict[str, np.ndarray]] = []

    def update(self, batch: Batch, predictions: Predictions) -> None:
        real = batch["row"] >= 0
        for name in self.names:
            self.batches[name].append(OUTPUTS[name](batch, predictions)[real].cpu().numpy())

    def gather(self, world: World) -> None:
        """Outputs are too large for it."""

    def add(self, other: Self) -> None:
        """The other one's rows stand behind these."""
        self.others.append(other.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        """name -> (rows, ...), by ascending `row`, added rows behind; (0,) arrays where this process had no row."""
        order = np.argsort(np.concatenate([np.zeros(0, np.int64), *self.batches["row"]]), kind="stable")
        arrays = {
            name: np.concatenate(batches)[order] if batches else np.zeros(0, np.int64)
            for name, batches in self.batches.items()
        }
        if self.set_number is not None:
            arrays["set"] = np.full(len(order), self.set_number, np.int64)
        for other in self.others:
            for name, array in other.items():
                parts = [part for part in (arrays[name], array) if len(part)]
                arrays[name] = np.concatenate(parts) if parts else array
        return arrays

    def report(self) -> dict[str, list[int]]:
        """Shapes of the arrays of this process."""
        return {name: list(array.shape) for name, array in self.arrays().items()}

    def files(self, folder: Path) -> list[Path]:
        write_npz_atomically(folder / self.file, self.arrays(), compressed=self.compressed)
        return [folder / self.file]
