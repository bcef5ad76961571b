"""What the cells of the flossing toy say: conditioning, speed, accuracy against delay, and the source's claims."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.arms.seed_pairs import MeanInterval, mean_interval
from projects.flossing_toy.cells import FinishedCell
from projects.flossing_toy.toy_training import ARMS

SOLVED = 0.95
AT_START, AFTER_FLOSSING = "at the start", "after flossing"
# What a reproduction is asked for: loss ratio at least, |lambda_1| below, last exponent above, orders of magnitude of
# the condition number at least, epochs of the flossed arm over the baseline's at most.
LOSS_RATIO, LAMBDA_1, LAMBDA_LAST, CONDITION_ORDERS, EPOCHS_RATIO = 50, 0.05, -0.3, 2, 0.5
RANKS = (1, 40, 75)


@dataclass(frozen=True)
class FlossingEffect:
    """One seed's first episode towards zero. The same in all tasks and delays: it comes before any training.

    exponents: by rank (from 1), before and after. log10_condition: mean over sequences, of d x_T / d x_0.
    """

    seed: int
    mean_square: tuple[float, float]
    exponents: dict[int, tuple[float, float]]
    log10_condition: tuple[float, float]
    first_grad_norm: float
    largest_grad_norm: float

    @property
    def ratio(self) -> float:
        return self.mean_square[0] / self.mean_square[1]


@dataclass(frozen=True)
class Accuracy:
    """Final accuracy of an arm at one delay, over seeds."""

    task: str
    delay: int
    arm: str
    seeds: list[int]
    values: list[float]
    interval: MeanInterval


@dataclass(frozen=True)
class Speed:
    """Epochs to 95 % at one delay, by seed; None: not reached in `epochs`."""

    task: str
    delay: int
    arm: str
    seeds: list[int]
    epochs: list[int | None]


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim of the source; `holds` is None where cells that it speaks of are not there."""

    name: str
    words: str
    holds: bool | None
    found: str


def flossing_effects(cells: Sequence[FinishedCell]) -> list[FlossingEffect]:
    """The effects in order of seeds, for every seed with a cell that was flossed towards zero before training."""
    effects: dict[int, FlossingEffect] = {}
    for finished in cells:
        arm = ARMS[finished.cell.arm]
        if not arm.before or arm.shuffled or arm.orthogonal or finished.cell.seed in effects:
            continue
        before, after = finished.measure(AT_START), finished.measure(AFTER_FLOSSING)
        k = len(before["exponents"])
        condition = [
            sum(measured["log10_condition"]) / len(measured["log10_condition"]) for measured in (before, after)
        ]
        norms = finished.result["episodes"][0]["grad_norms"]
        effects[finished.cell.seed] = FlossingEffect(
            seed=finished.cell.seed,
            mean_square=(before["mean_square"], after["mean_square"]),
            exponents={
                rank: (before["exponents"][rank - 1], after["exponents"][rank - 1])
                for rank in sorted({min(rank, k) for rank in RANKS})
            },
            log10_condition=(condition[0], condition[1]),
            first_grad_norm=norms[0],
            largest_grad_norm=max(norms),
        )
    return [effects[seed] for seed in sorted(effects)]


def _groups(cells: Sequence[FinishedCell]) -> dict[tuple[str, int, str], list[FinishedCell]]:
    groups: dict[tuple[str, int, str], list[FinishedCell]] = {}
    for finished in sorted(cells, key=lambda by_seed: by_seed.cell.seed):
        groups.setdefault((finished.cell.task, finished.cell.delay, finished.cell.arm), []).append(finished)
    return groups


def accuracies(cells: Sequence[FinishedCell]) -> list[Accuracy]:
    return [
        Accuracy(*key, [finished.cell.seed for finished in group], values, mean_interval(values).within(0, 1))
        for key, group in _groups(cells).items()
        for values in [[finished.accuracy for finished in group]]
    ]


def speeds(cells: Sequence[FinishedCell]) -> list[Speed]:
    return [
        Speed(*key, [finished.cell.seed for finished in group], [finished.epochs_to(SOLVED) for finished in group])
        for key, group in _groups(cells).items()
    ]


def claims(cells: Sequence[FinishedCell]) -> list[ClaimVerdict]:
    """(a) to (d) of a reproduction; the controls stand beside the arms in the tables."""
    effects = flossing_effects(cells)
    verdicts = [_spectrum_claim(effects), _condition_claim(effects)]
    table, accuracy = speeds(cells), accuracies(cells)
    for task in dict.fromkeys(speed.task for speed in table):
        verdicts.append(_speed_claim(task, [speed for speed in table if speed.task == task]))
        verdicts.append(_order_claim(task, [mean for mean in accuracy if mean.task == task]))
    return verdicts


def _spectrum_claim(effects: Sequence[FlossingEffect]) -> ClaimVerdict:
    words = (
        f"(a) flossing divides its loss by at least {LOSS_RATIO}, |lambda_1| < {LAMBDA_1}, the last exponent "
        f"> {LAMBDA_LAST}, on every seed"
    )
    if not effects:
        return ClaimVerdict("spectrum", words, None, "no cell was flossed before training")
    last = max(effects[0].exponents)
    holds = all(
        effect.ratio >= LOSS_RATIO
        and abs(effect.exponents[1][1]) < LAMBDA_1
        and effect.exponents[last][1] > LAMBDA_LAST
        for effect in effects
    )
    ratios, leading = [effect.ratio for effect in effects], [effect.exponents[1][1] for effect in effects]
    ends = [effect.exponents[last][1] for effect in effects]
    text = (
        f"loss divided by {_span(ratios, '.0f')}, lambda_1 {_span(leading, '+.3f')}, lambda_{last} "
        f"{_span(ends, '+.3f')}; n = {len(effects)} seeds"
    )
    return ClaimVerdict("spectrum", words, holds, text)


def _condition_claim(effects: Sequence[FlossingEffect]) -> ClaimVerdict:
    words = (
        f"(b) the condition number of d x_T / d x_0 on the subspace of the tangents falls by at least "
        f"{CONDITION_ORDERS} orders of magnitude, on every seed"
    )
    if not effects:
        return ClaimVerdict("condition", words, None, "no cell was flossed before training")
    before, after = zip(*(effect.log10_condition for effect in effects), strict=True)
    holds = all(high - low >= CONDITION_ORDERS for high, low in zip(before, after, strict=True))
    text = f"log10 from {_span(before, '.1f')} to {_span(after, '.1f')}; n = {len(effects)} seeds"
    return ClaimVerdict("condition", words, holds, text)


def _speed_claim(task: str, table: Sequence[Speed]) -> ClaimVerdict:
    delay = min(speed.delay for speed in table)
    words = (
        f"(c) {task}, delay {delay}: flossed before training, {SOLVED:.0%} is reached in at most "
        f"{EPOCHS_RATIO:g} of the baseline's epochs, on every seed"
    )
    by_arm = {speed.arm: dict(zip(speed.seeds, speed.epochs, strict=True)) for speed in table if speed.delay == delay}
    pairs = [
        (by_arm["pre"][seed], by_arm["none"][seed]) for seed in by_arm.get("pre", {}) if seed in by_arm.get("none", {})
    ]
    if not pairs:
        return ClaimVerdict(f"speed, {task}", words, None, "needs the arms pre and none on a common seed")
    # A baseline that never gets there is slower than any number of epochs.
    kept = [flossed is not None and (plain is None or flossed <= EPOCHS_RATIO * plain) for flossed, plain in pairs]
    listed = ", ".join(f"{flossed or 'never'} against {plain or 'never'}" for flossed, plain in pairs)
    return ClaimVerdict(f"speed, {task}", words, all(kept), f"epochs, seed by seed: {listed}")


def _order_claim(task: str, table: Sequence[Accuracy]) -> ClaimVerdict:
    words = f"(d) {task}: mean accuracy is ordered pre_inter >= pre >= none at every delay"
    means = {(accuracy.arm, accuracy.delay): accuracy.interval.mean for accuracy in table}
    delays = sorted({accuracy.delay for accuracy in table})
    arms = ("pre_inter", "pre", "none")
    if any((arm, delay) not in means for arm in arms for delay in delays):
        return ClaimVerdict(f"order, {task}", words, None, "needs the arms pre_inter, pre and none at every delay")
    holds = all(means["pre_inter", delay] >= means["pre", delay] >= means["none", delay] for delay in delays)
    listed = "; ".join(f"delay {d}: " + ", ".join(f"{100 * means[arm, d]:.1f} %" for arm in arms) for d in delays)
    return ClaimVerdict(f"order, {task}", words, holds, listed)


def _span(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def summary(cells: Sequence[FinishedCell]) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        "claims": [asdict(claim) for claim in claims(cells)],
        "flossing": [asdict(effect) | {"ratio": effect.ratio} for effect in flossing_effects(cells)],
        "accuracy": [asdict(accuracy) for accuracy in accuracies(cells)],
        "epochs_to_95": [asdict(speed) for speed in speeds(cells)],
    }


def tables(cells: Sequence[FinishedCell]) -> list[list[str]]:
    """Cells of a table for people: a header, then a row per task, delay and arm."""
    epochs = {(result.task, result.delay, result.arm): result.epochs for result in speeds(cells)}
    rows = [["task", "delay", "arm", "accuracy", "95 % t interval", "seeds", f"epochs to {SOLVED:.0%}, by seed"]]
    for result in accuracies(cells):
        bounds = result.interval.bounds
        interval = "-" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"
        reached = " ".join(
            "-" if epoch is None else str(epoch) for epoch in epochs[result.task, result.delay, result.arm]
        )
        accuracy, seeds = f"{100 * result.interval.mean:.1f} %", str(result.interval.n)
        rows.append([result.task, str(result.delay), result.arm, accuracy, interval, seeds, reached])
    return rows
