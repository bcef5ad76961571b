"""Evaluators judge predictions; `evaluate` runs them over rows, on any number of processes."""

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Protocol

import torch
from scipy.stats import binomtest
from tqdm import tqdm

from models.act import Batch
from models.losses import IGNORE_LABEL_ID, TOKEN_LOSSES, correctness
from models.recursive_model import RecursiveModel
from training.distributed import World
from training.inference.base import Inference, Predictions


class Evaluator(Protocol):
    """Accumulates sums over batches; `sums` are added over processes before `result`."""

    sums: dict[str, float]

    def begin(self) -> None: ...

    def update(self, batch: Batch, predictions: Predictions) -> None: ...

    def result(self) -> dict[str, float]: ...


class AccuracyEvaluator:
    """Exact and token accuracy, losses, halting accuracy: means over rows that have a scored token.

    `exact_accuracy` comes with `exact_count` and `count`, its numerator and denominator.
    """

    def __init__(self, loss_type: str) -> None:
        self.loss_type = loss_type
        self.sums: dict[str, float] = {}

    def begin(self) -> None:
        names = ("count", "exact_count", "accuracy", "lm_loss", "q_halt_accuracy", "steps")
        self.sums = dict.fromkeys(names, 0.0)

    @torch.no_grad()
    def update(self, batch: Batch, predictions: Predictions) -> None:
        labels = batch["labels"]
        counts, correct, _ = correctness(predictions.logits, labels)
        valid = labels != IGNORE_LABEL_ID
        exact = ((predictions.answers == labels) | ~valid).all(dim=-1)
        scored = counts > 0
        losses = TOKEN_LOSSES[self.loss_type](predictions.logits, labels).sum(dim=-1) / counts.clamp_min(1)
        batch_sums = {
            "count": scored.sum(),
            "exact_count": (scored & exact).sum(),
            "accuracy": (scored * (correct.double() / counts.clamp_min(1))).sum(),
            "lm_loss": (scored * losses).sum(),
            "q_halt_accuracy": (scored & ((predictions.q_halt >= 0) == exact)).sum(),
            "steps": (scored * predictions.steps).sum(),
        }
        for name, value in batch_sums.items():
            self.sums[name] += float(value)

    def result(self) -> dict[str, float]:
        count = self.sums["count"]
        if not count:
            return {"count": 0.0, "exact_count": 0.0}
        means = {name: value / count for name, value in self.sums.items() if not name.endswith("count")}
        exact = self.sums["exact_count"]
        return means | {"exact_accuracy": exact / count, "exact_count": exact, "count": count}


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % Wilson interval of a rate; (nan, nan) without trials."""
    if total == 0:
        return math.nan, math.nan
    interval = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def describe_rate(result: Mapping[str, float]) -> str:
    """`exact_accuracy 0.8520 (426/500, 95% 0.818-0.881)`."""
    exact, count = int(result["exact_count"]), int(result["count"])
    if not count:
        return "exact_accuracy of 0 rows"
    low, high = wilson_interval(exact, count)
    return f"exact_accuracy {exact / count:.4f} ({exact}/{count}, 95% {low:.3f}-{high:.3f})"


def evaluate(
    model: RecursiveModel,
    batches: Iterable[Batch],
    inference: Inference,
    evaluators: Sequence[Evaluator],
    world: World,
    *,
    generator: torch.Generator | None = None,
    description: str = "evaluate",
    show_progress: bool = False,
) -> dict[str, float]:
    """Run `evaluators` over `batches` (every rank sees all batches and takes its share of each one's rows).

    The model's mode is restored. Rows are cut by rank, so one process and several judge the same rows.
    """
    device = model.H_init.device
    was_training = model.training
    model.eval()
    for evaluator in evaluators:
        evaluator.begin()
    total = len(batches) if isinstance(batches, Sized) else None
    progress = tqdm(
        batches, desc=description, total=total, leave=False, disable=None if show_progress else True
    )
    with torch.no_grad():
        for batch in progress:
            rows = range(batch["inputs"].shape[0])[world.rank :: world.size]
            mine = {key: leaf[rows.start :: world.size].to(device) for key, leaf in batch.items()}
            predictions = inference.predict(model, mine, generator)
            for evaluator in evaluators:
                evaluator.update(mine, predictions)
    model.train(was_training)
    result: dict[str, float] = {}
    for evaluator in evaluators:
        names = sorted(evaluator.sums)
        summed = world.sum_numbers([evaluator.sums[name] for name in names], device)
        evaluator.sums = dict(zip(names, summed, strict=True))
        result |= evaluator.result()
    return result
