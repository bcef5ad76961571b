"""Evaluators judge predictions; `evaluate` runs them over rows, on any number of processes."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from long_work import progress_bar
from models.act import Batch
from models.losses import TOKEN_LOSSES, correctness
from models.recursive_model import RecursiveModel
from training.devices import wide
from training.distributed import World
from training.inference.base import Inference, Predictions, real_rows
from training.records.result_numbers import wilson, wilson_interval


class Evaluator(ABC):
    """Judges groups of answered rows of one set, of any size and with rows in any order, one group after the other.

    The order of calls: `begin`, `update` for each group, `gather`, and then what is asked of it, on any process.
    `sums` hold what this process has seen; their names are the same on all processes, whatever the rows.
    """

    sums: dict[str, float]
    keeps_shares: ClassVar[bool] = False  # True: after `gather` too a process has its own rows only, and its own files

    @abstractmethod
    def begin(self) -> None:
        """Forget everything: an evaluation starts."""

    @abstractmethod
    def update(self, batch: Batch, predictions: Predictions) -> None:
        """Judge some rows of this process."""

    def gather(self, world: World) -> None:
        """Bring the processes' shares together. Collective. Here: `sums` are added up."""
        if self.sums:
            self.sums = dict(zip(self.sums, world.sum_numbers(list(self.sums.values())), strict=True))

    def add(self, other: Self) -> None:
        """Take in what another one has seen of other rows, both gathered. Here: `sums` are added up."""
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    @abstractmethod
    def report(self) -> Any:
        """What it found, as JSON."""

    def metrics(self) -> dict[str, float]:
        """The numbers of it that a run writes to `metrics.jsonl`, by name; those that are not defined are left out."""
        return {}

    def lines(self) -> list[str]:
        """What it found, for people."""
        return []

    def files(self, folder: Path) -> list[Path]:
        """Write its files into `folder`, which is made for them, and return their paths. Errors: `OSError`.

        Called on the first process, or on all where it `keeps_shares`.
        """
        return []


class AccuracyEvaluator(Evaluator):
    """Exact and token accuracy, losses, halting accuracy: means over rows that have a scored token.

    `exact_accuracy` comes with `exact_count` and `count`, its numerator and denominator.
    """

    summed = ("count", "exact_count", "accuracy", "lm_loss", "q_halt_accuracy", "steps")
    metric_names = (*summed, "exact_accuracy")

    def __init__(self, loss_type: str) -> None:
        self.loss_type = loss_type

    def begin(self) -> None:
        self.sums = dict.fromkeys(self.summed, 0.0)

    @torch.no_grad()
    def update(self, batch: Batch, predictions: Predictions) -> None:
        labels = batch["labels"]
        num_scored, num_right, _ = correctness(predictions.logits.argmax(dim=-1), labels)
        exact = correctness(predictions.answers, labels).exact
        scored = num_scored > 0
        losses = TOKEN_LOSSES[self.loss_type](predictions.logits, labels).sum(dim=-1) / num_scored.clamp_min(1)
        batch_sums = {
            "count": scored.sum(),
            "exact_count": (scored & exact).sum(),
            "accuracy": (scored * (wide(num_right) / num_scored.clamp_min(1))).sum(),
            "lm_loss": (scored * losses).sum(),
            "q_halt_accuracy": (scored & ((predictions.q_halt >= 0) == exact)).sum(),
            "steps": (scored * predictions.steps).sum(),
        }
        # The sums are read together: the host waits for the device once instead of six times.
        values = torch.stack([wide(value) for value in batch_sums.values()]).tolist()
        for name, value in zip(batch_sums, values, strict=True):
            self.sums[name] += value

    def report(self) -> dict[str, float]:
        count = self.sums["count"]
        if not count:
            return {"count": 0.0, "exact_count": 0.0}
        means = {name: value / count for name, value in self.sums.items() if not name.endswith("count")}
        exact = self.sums["exact_count"]
        return means | {"exact_accuracy": exact / count, "exact_count": exact, "count": count}

    def metrics(self) -> dict[str, float]:
        return self.report()

    def lines(self) -> list[str]:
        found = self.report()
        lines = [f"  {describe_rate(found)}"]
        if found["count"]:
            lines.append(
                f"  token accuracy {found['accuracy']:.4f}, loss {found['lm_loss']:.4f}, "
                f"q_halt accuracy {found['q_halt_accuracy']:.4f}"
            )
        return lines


def effective_wilson(rate: float, variance: float, puzzles: float, most: float) -> tuple[float, float]:
    """95 % Wilson interval of a mean over puzzles of shares in [0, 1], with the trials that its variance speaks of.

    Wilson's interval with the number of independent trials that has the variance observed between puzzles
    (effective sample size: Kish 1965; in intervals of a rate: Korn and Graubard 1998): that of `wilson_interval`
    where every share is 0 or 1.

    Args:
        rate, variance: mean and variance (divided by n) of the shares. puzzles: their number, at least 1.
        most: an upper limit of the number of trials, for instance that of all answers of all puzzles.
    """
    trials = float(puzzles)
    if 0 < rate < 1:
        trials = min(most, puzzles * rate * (1 - rate) / variance) if variance else most
    return wilson(rate, trials)


def describe_rate(result: Mapping[str, float]) -> str:
    """`exact_accuracy 0.8520 (426/500, 95% 0.818-0.881)`."""
    exact, count = int(result["exact_count"]), int(result["count"])
    if not count:
        return "exact_accuracy of 0 rows"
    low, high = wilson_interval(exact, count)
    return f"exact_accuracy {exact / count:.4f} ({exact}/{count}, 95% {low:.3f}-{high:.3f})"


def counted_rate(successes: float, total: float) -> dict[str, Any]:
    """A rate as reports have it, with numerator, denominator and 95 % Wilson interval; nulls without trials."""
    successes, total = int(successes), int(total)
    if not total:
        return {"value": None, "numerator": 0, "denominator": 0, "interval95": None}
    low, high = wilson_interval(successes, total)
    return {"value": successes / total, "numerator": successes, "denominator": total, "interval95": [low, high]}


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards it is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def evaluate(
    model: RecursiveModel,
    batches: Iterable[Batch],
    inference: Inference,
    evaluators: Sequence[Evaluator],
    world: World,
    *,
    description: str = "evaluate",
    show_progress: bool = False,
) -> dict[str, float]:
    """Run `evaluators` over `batches` (every rank sees all batches and takes its share of each one's rows).

    The model's mode is restored. Rows are cut by rank, so one process and several judge the same rows. What the
    evaluators found is asked of them.

    Returns:
        what it cost, over all processes: `rows` (without padding), `forward_passes` (supervision steps computed,
        padding included) and `seconds` of wall clock, until the last process is done.
    """
    start = time.perf_counter()
    num_rows = forward_passes = 0
    for evaluator in evaluators:
        evaluator.begin()
    total = len(batches) if isinstance(batches, Sized) else None
    progress = progress_bar(batches, desc=description, total=total, leave=False, shown=show_progress)

    def shares() -> Iterator[Batch]:
        nonlocal num_rows
        for batch in progress:
            mine = {key: leaf[world.rank :: world.size] for key, leaf in batch.items()}
            num_rows += int(real_rows(mine).sum())
            if len(mine["inputs"]):
                yield mine

    with torch.no_grad(), evaluating(model):
        for rows, predictions in inference.answer(model, shares()):
            forward_passes += predictions.forward_passes
            for evaluator in evaluators:
                evaluator.update(rows, predictions)
    for evaluator in evaluators:
        evaluator.gather(world)
    counted = dict(zip(("rows", "forward_passes"), world.sum_numbers([num_rows, forward_passes]), strict=True))
    return counted | {"seconds": time.perf_counter() - start}
