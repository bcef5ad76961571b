"""Evaluators for finished models: accuracy after each supervision step, by difficulty, and raw outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from training.inference.base import Predictions
from training.inference.stepwise import StepwisePredictions

Halts = Callable[[Tensor, Tensor], Tensor]


def _stepwise(predictions: Predictions) -> StepwisePredictions:
    if not isinstance(predictions, StepwisePredictions):
        raise TypeError(f"needs StepwiseInference, found {type(predictions).__name__}")
    return predictions


def _solved(answers: Tensor, labels: Tensor) -> Tensor:
    """(B,) or (B, T) bool: every scored token right."""
    valid = labels != IGNORE_LABEL_ID
    if answers.ndim == 3:
        valid, labels = valid[:, None], labels[:, None]
    return ((answers == labels) | ~valid).all(dim=-1)


class StepAccuracyEvaluator:
    """Solved rows and right tokens after each of T supervision steps, and when stopping by q.

    `halts(q_halt, q_continue)` says where the model would stop by itself. Sums: `exact_t`, `accuracy_t` and
    `halted_t` (rows that stop first at t) for t = 1..T, `halting_exact`, `halting_steps`, `count`.
    """

    def __init__(self, num_steps: int, halts: Halts) -> None:
        self.num_steps, self.halts = num_steps, halts
        self.sums: dict[str, float] = {}

    def begin(self) -> None:
        names = [f"{kind}_{t + 1}" for kind in ("exact", "accuracy", "halted") for t in range(self.num_steps)]
        self.sums = dict.fromkeys([*names, "halting_exact", "halting_steps", "count"], 0.0)

    def update(self, batch: Batch, predictions: Predictions) -> None:
        predictions = _stepwise(predictions)
        labels = batch["labels"]
        valid = labels != IGNORE_LABEL_ID
        scored = valid.any(dim=-1)
        exact = _solved(predictions.step_answers, labels)
        right = ((predictions.step_answers == labels[:, None]) & valid[:, None]).sum(dim=-1)
        accuracy = right.double() / valid.sum(dim=-1).clamp_min(1)[:, None]
        stops = self.halts(predictions.step_q_halt, predictions.step_q_continue)
        stops[:, -1] = True
        first = stops.int().argmax(dim=1)
        for t in range(self.num_steps):
            self.sums[f"exact_{t + 1}"] += float((scored & exact[:, t]).sum())
            self.sums[f"accuracy_{t + 1}"] += float(accuracy[scored, t].sum())
            self.sums[f"halted_{t + 1}"] += float((scored & (first == t)).sum())
        chosen = exact.gather(1, first[:, None])[:, 0]
        self.sums["halting_exact"] += float((scored & chosen).sum())
        self.sums["halting_steps"] += float((scored * (first + 1)).sum())
        self.sums["count"] += float(scored.sum())

    def result(self) -> dict[str, float]:
        """Nothing scalar: `per_step` and `halting` hold the numbers."""
        return {}

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


class DifficultyEvaluator:
    """Solved rows per difficulty group. `ratings` (N,) are those of the whole set, indexed by `batch["row"]`."""

    def __init__(self, ratings: np.ndarray, groups: Sequence[DifficultyGroup]) -> None:
        self.ratings = torch.from_numpy(np.asarray(ratings).astype(np.int64))
        self.groups = list(groups)
        self.sums: dict[str, float] = {}

    def begin(self) -> None:
        names = [f"{kind}_{g}" for kind in ("exact", "count") for g in range(len(self.groups))]
        self.sums = dict.fromkeys(names, 0.0)

    def update(self, batch: Batch, predictions: Predictions) -> None:
        labels = batch["labels"]
        exact = _solved(predictions.answers, labels).cpu()
        scored = (labels != IGNORE_LABEL_ID).any(dim=-1).cpu()
        ratings = self.ratings[batch["row"].cpu().clamp_min(0)]
        for g, group in enumerate(self.groups):
            inside = scored & (ratings >= group.low) & (ratings <= group.high)
            self.sums[f"exact_{g}"] += float((inside & exact).sum())
            self.sums[f"count_{g}"] += float(inside.sum())

    def result(self) -> dict[str, float]:
        """Nothing scalar: `per_group` holds the numbers."""
        return {}

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


# Names after the official `save_outputs`, and what each is.
OUTPUTS: dict[str, Callable[[Batch, StepwisePredictions], Tensor]] = {
    "inputs": lambda batch, _: batch["inputs"],
    "labels": lambda batch, _: batch["labels"],
    "puzzle_identifiers": lambda batch, _: batch["puzzle_identifiers"],
    "row": lambda batch, _: batch["row"],
    "preds": lambda _, made: made.answers.int(),
    "logits": lambda _, made: made.logits.float(),
    "q_halt_logits": lambda _, made: made.step_q_halt[:, -1],
    "q_continue_logits": lambda _, made: made.step_q_continue[:, -1],
    "step_preds": lambda _, made: made.step_answers.int(),
    "step_q_halt_logits": lambda _, made: made.step_q_halt,
}


class OutputRecorder:
    """Keeps chosen outputs of every real row (padding left out), for `arrays`. Rows of this process only."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(dict.fromkeys(("row", *names)))
        self.sums: dict[str, float] = {}
        self.parts: dict[str, list[np.ndarray]] = {}

    def begin(self) -> None:
        self.parts = {name: [] for name in self.names}

    def update(self, batch: Batch, predictions: Predictions) -> None:
        predictions = _stepwise(predictions)
        real = batch["row"] >= 0
        for name in self.names:
            self.parts[name].append(OUTPUTS[name](batch, predictions)[real].cpu().numpy())

    def result(self) -> dict[str, float]:
        """Nothing scalar."""
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """name -> (rows, ...), in the order in which the rows were evaluated."""
        return {name: np.concatenate(parts) for name, parts in self.parts.items() if parts}
