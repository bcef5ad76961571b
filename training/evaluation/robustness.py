"""How often rows are solved from perturbed starts: over all rollouts, and by all, some or none of a row's."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from models.act import Batch
from models.losses import correctness
from models.recursive_model import RecursiveModel
from training.devices import wide
from training.distributed import World
from training.evaluation.answering import Evaluator, effective_wilson, evaluate
from training.inference.base import Predictions
from training.inference.perturbed_starts import PerturbedInference, PerturbedPredictions, Settings
from training.settings.schema import AnswerConfig

RATES = (
    "exact_accuracy", "exact_low", "exact_high", "exact_count", "count", "solved_always", "solved_partly",
    "solved_never", "puzzles", "accuracy", "steps",
)  # fmt: skip


class RobustnessEvaluator(Evaluator):
    """Judges K rollouts of each row that has a scored token. Sums are over rows.

    `solved_k` for k = 0..K: rows that exactly k rollouts solve. `accuracy` and `steps`: of a row, mean over its
    rollouts.
    """

    def __init__(self, rollouts: int) -> None:
        self.rollouts = rollouts
        self.begin()

    def begin(self) -> None:
        names = [f"solved_{k}" for k in range(self.rollouts + 1)]
        self.sums = dict.fromkeys([*names, "accuracy", "steps"], 0.0)

    def update(self, batch: Batch, predictions: Predictions) -> None:
        if not isinstance(predictions, PerturbedPredictions):
            raise TypeError(f"needs PerturbedInference, found {type(predictions).__name__}")
        num_scored, num_right, exact = correctness(predictions.rollout_answers, batch["labels"])
        scored = num_scored[:, 0] > 0
        solved_by = exact.sum(dim=-1)[scored]
        for k, rows in enumerate(torch.bincount(solved_by, minlength=self.rollouts + 1).tolist()):
            self.sums[f"solved_{k}"] += rows
        accuracy = (wide(num_right) / num_scored.clamp_min(1)).mean(dim=-1)
        self.sums["accuracy"] += float(accuracy[scored].sum())
        self.sums["steps"] += float(wide(predictions.rollout_steps).mean(dim=-1)[scored].sum())

    def histogram(self) -> list[int]:
        """Rows by the number of rollouts that solve them: (K + 1) counts."""
        return [int(self.sums[f"solved_{k}"]) for k in range(self.rollouts + 1)]

    def report(self) -> dict[str, Any]:
        """The rates of `docs/metrics.md`, with numerators and denominators; without rows counts alone."""
        return self.metrics() | {"histogram": self.histogram()}

    def lines(self) -> list[str]:
        found = self.metrics()
        return [f"  solved rollouts, puzzles always, partly, never: {_columns(found)}"] if found["puzzles"] else []

    def metrics(self) -> dict[str, float]:
        counts = self.histogram()
        puzzles = sum(counts)
        exact = sum(k * rows for k, rows in enumerate(counts))
        numbers: dict[str, float] = {
            "exact_count": exact, "count": self.rollouts * puzzles, "puzzles": puzzles,
            "always_count": counts[-1], "partly_count": sum(counts[1:-1]), "never_count": counts[0],
        }  # fmt: skip
        if not puzzles:
            return numbers
        low, high = clustered_interval(counts)
        shares = {f"solved_{name}": numbers[f"{name}_count"] / puzzles for name in ("always", "partly", "never")}
        means = {name: self.sums[name] / puzzles for name in ("accuracy", "steps")}
        rate = {"exact_accuracy": exact / (self.rollouts * puzzles), "exact_low": low, "exact_high": high}
        return rate | shares | means | numbers


def clustered_interval(counts: Sequence[int]) -> tuple[float, float]:
    """95 % interval of the rate at which rollouts succeed, when puzzles are drawn and each brings its K rollouts.

    `effective_wilson` of the puzzles' shares: with as many trials as puzzles, as if each had one rollout, where the
    rollouts of every puzzle agree, and never with more than there are rollouts.

    Args:
        counts: (K + 1), puzzles by the number of their rollouts that succeed; at least one puzzle.
    """
    rows = np.asarray(counts, np.float64)
    shares = np.arange(len(rows)) / (len(rows) - 1)
    puzzles = rows.sum()
    rate = float(rows @ shares / puzzles)
    variance = float(rows @ (shares - rate) ** 2 / puzzles)
    return effective_wilson(rate, variance, float(puzzles), float(puzzles * (len(rows) - 1)))


def measure_robustness(
    model: RecursiveModel,
    row_sets: Sequence[Iterable[Batch]],
    sigmas: Sequence[float],
    settings: AnswerConfig,
    world: World,
    *,
    show_progress: bool = False,
) -> list[dict[str, Any]]:
    """Evaluate the rows of all `row_sets` together from starts perturbed by each of `sigmas`. Collective.

    `settings` say at which site, from how many starts and for how many steps.

    One record for each sigma: `sigma`, `site`, `rollouts`, the report of `RobustnessEvaluator`,
    `forward_passes` and `seconds`.
    """
    records = []
    asked = Settings.of(settings)
    for sigma in sigmas:
        inference = PerturbedInference(sigma, asked.site, asked.starts, settings.max_steps)
        total = RobustnessEvaluator(asked.starts)
        spent = {"forward_passes": 0.0, "seconds": 0.0}
        for batches in row_sets:
            evaluator = RobustnessEvaluator(asked.starts)
            result = evaluate(
                model, batches, inference, [evaluator], world, description=f"sigma {sigma:g}",
                show_progress=show_progress,
            )  # fmt: skip
            total.add(evaluator)
            spent = {name: value + result[name] for name, value in spent.items()}
        records.append({
            "sigma": sigma, "site": asked.site, "rollouts": asked.starts, **total.report(),
            "forward_passes": int(spent["forward_passes"]), "seconds": spent["seconds"],
        })  # fmt: skip
    return records


def robustness_lines(measured: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """For people, a line for each noise scale: rollouts that succeed, and rows that all, some and none solve."""
    if not measured or not measured[0]["puzzles"]:
        return []
    first = measured[0]
    lines = [
        f"  from perturbed starts ({first['rollouts']} rollouts of each row, {first['site']}); 95 % interval over rows",
        "     sigma  solved rollouts  always  partly  never",
    ]
    return lines + [f"  {scale['sigma']:>8g}  {_columns(scale)}" for scale in measured]


def _columns(found: Mapping[str, Any]) -> str:
    interval = f"{found['exact_low']:.3f}-{found['exact_high']:.3f}"
    return (
        f"{found['exact_accuracy']:>15.4f}  {found['always_count']:>6}  {found['partly_count']:>6}  "
        f"{found['never_count']:>5}  ({found['exact_count']}/{found['count']}, 95% {interval})"
    )
