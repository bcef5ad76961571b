"""Arms against their baseline at equal updates, equal passes and equal time, read off their validation curves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arms.finished_runs import VALIDATION, Arm, FinishedRun
from analysis.arms.run_curves import CurvePoint, read_run
from analysis.arms.seed_pairs import MeanInterval, mean_interval, with_baseline
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
    curves = {axis: {run.curve.folder: points_by(run, axis) for arm in arms for run in arm.runs} for axis in BUDGETS}
    comparisons = []
    for baseline, arm in with_baseline(arms):
        ours, theirs = arm.by_seed, baseline.by_seed
        for axis, unit in BUDGETS.items():
            budgets, differences = {}, {}
            for seed in (seed for seed in ours if seed in theirs):
                pair = [curves[axis][run.curve.folder] for run in (ours[seed], theirs[seed])]
                if not all(pair):
                    continue
                budget = min(points[-1].x for points in pair)
                own_point, baseline_point = (_last_within(points, budget) for points in pair)
                if own_point is not None and baseline_point is not None:
                    budgets[seed], differences[seed] = budget, own_point.value - baseline_point.value
            if budgets:
                values = list(differences.values())
                names, spent = (arm.label, baseline.label, unit), list(budgets.values())
                comparisons.append(EqualBudget(*names, list(budgets), spent, values, mean_interval(values)))
    return comparisons


def budget_table(comparisons: Sequence[EqualBudget]) -> list[str]:
    """Lines for people: one per arm and budget."""
    return [
        f"{comparison.arm} minus {comparison.baseline} on validation at equal {comparison.unit} "
        f"({np.mean(comparison.budgets):,.0f}): {comparison.interval.in_words()}"
        for comparison in comparisons
    ]


def points_by(run: FinishedRun, axis: str) -> Sequence[CurvePoint]:
    """The validation curve over this axis; none where the log is of an earlier version, or not whole."""
    if run.curve.lost is not None:
        return []
    if axis == "updates":
        return run.curve.points
    try:
        return read_run(run.curve.folder, VALIDATION, axis).points
    except UserError:
        return []


def _last_within(points: Sequence[CurvePoint], budget: float) -> CurvePoint | None:
    return next((point for point in reversed(points) if point.x <= budget), None)
