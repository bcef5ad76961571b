"""Evaluators for finished models: accuracy after each supervision step, by difficulty, and raw outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from errors import UserError
from models.act import Batch
from models.losses import IGNORE_LABEL_ID, correctness
from training.evaluation.answering import Evaluator
from training.inference.base import Predictions
from training.inference.stepwise import StepwisePredictions

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
        accuracy = num_right.double() / num_scored.clamp_min(1)
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

    def histogram(self) -> list[dict[str, int]]:
        """`step` and `count` of rows with a scored token that stopped there; steps at which none did are left out."""
        counts = {t: int(self.sums[f"stopped_{t}"]) for t in range(1, self.num_steps + 1)}
        return [{"step": t, "count": count} for t, count in counts.items() if count]


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

    def per_group(self) -> list[dict[str, int]]:
        return [
            {
                "low": group.low,
                "high": group.high,
                "exact_count": int(self.sums[f"exact_{g}"]),
                "count": int(self.sums[f"count_{g}"]),
            }
            for g, group in enumerate(self.groups)
        ]


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
    """Keeps chosen outputs of every real row (padding left out), for `arrays`. Rows of this process only."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(dict.fromkeys(("row", *names)))

    def begin(self) -> None:
        self.sums = {}
        self.batches: dict[str, list[np.ndarray]] = {name: [] for name in self.names}

    def update(self, batch: Batch, predictions: Predictions) -> None:
        real = batch["row"] >= 0
        for name in self.names:
            self.batches[name].append(OUTPUTS[name](batch, predictions)[real].cpu().numpy())

    def arrays(self) -> dict[str, np.ndarray]:
        """name -> (rows, ...), by ascending `row`; (0,) arrays where this process had no row."""
        if not self.batches["row"]:
            return {name: np.zeros(0, np.int64) for name in self.names}
        arrays = {name: np.concatenate(batches) for name, batches in self.batches.items()}
        order = np.argsort(arrays["row"], kind="stable")
        return {name: array[order] for name, array in arrays.items()}
