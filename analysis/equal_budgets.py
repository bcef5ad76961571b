"""Arms against their baseline at equal updates, equal passes and equal time, read off their validation curves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.finished_runs import VALIDATION, Arm, FinishedRun
from analysis.run_curves import Point, read_run
from analysis.seed_pairs import MeanInterval, mean_interval, with_baseline
from errors import UserError

# What is equal: the axis of a curve, and its unit. A pass is one supervision step of one row, with a gradient.
BUDGETS = {"updates": "updates", "samples": "passes", "seconds": "seconds of training"}


@dataclass(frozen=True)
class EqualBudget:
    """Validation accuracy of an arm minus that of its baseline at equal budgets, by seed.

    The budget of a pair is what the cheaper of its two runs spent in all; of each run the last evaluation within it
    counts. budgets: by seed. Pairs in which one run was not evaluated within the budget are left out.
    """

    arm: str
    baseline: str
    unit: str
    seeds: list[int | None]
    budgets: list[float]
    values: list[float]
    interval: MeanInterval


def at_equal_budgets(arms: Sequence[Arm]) -> list[EqualBudget]:
    """Every arm against the first of its network, by each of `BUDGETS`."""
    found = []
    for baseline, arm in with_baseline(arms):
        ours, theirs = arm.by_seed, baseline.by_seed
        for axis, unit in BUDGETS.items():
            pairs = {seed: _pair(ours[seed], theirs[seed], axis) for seed in ours if seed in theirs}
            known = {seed: pair for seed, pair in pairs.items() if pair is not None}
            if known:
                values = [value for _, value in known.values()]
                budgets = [budget for budget, _ in known.values()]
                found.append(
                    EqualBudget(arm.label, baseline.label, unit, list(known), budgets, values, mean_interval(values))
                )
    return found


def budget_table(comparisons: Sequence[EqualBudget]) -> list[str]:
    """For people: one line per arm and budget."""
    lines = []
    for each in comparisons:
        low, high = each.interval.low, each.interval.high
        interval = "no interval"
        if low is not None and high is not None:
            interval = f"95 % t interval {100 * low:+.2f} to {100 * high:+.2f}"
        lines.append(
            f"{each.arm} minus {each.baseline} on validation at equal {each.unit} "
            f"({np.mean(each.budgets):,.0f}): {100 * each.interval.mean:+.2f} points, {interval}, "
            f"{each.interval.n} {'seed' if each.interval.n == 1 else 'seeds'}"
        )
    return lines


def _pair(one: FinishedRun, other: FinishedRun, axis: str) -> tuple[float, float] | None:
    """(budget, difference), or None; also for runs that an earlier version logged without this axis."""
    try:
        curves = [read_run(run.curve.folder, VALIDATION, axis).points for run in (one, other)]
    except UserError:
        return None
    budget = min(points[-1].x for points in curves)
    within = [_last_within(points, budget) for points in curves]
    if within[0] is None or within[1] is None:
        return None
    return budget, within[0].value - within[1].value


def _last_within(points: Sequence[Point], budget: float) -> Point | None:
    return next((point for point in reversed(points) if point.x <= budget), None)
