"""The figure of `peak_vs_final.py`: validation curves, test accuracy by moment, differences to the baseline."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.arms.equal_budgets import BUDGETS, points_by
from analysis.arms.finished_runs import COMPARED, MOMENTS, Arm
from analysis.arms.run_curves import counted
from analysis.arms.seed_pairs import CLEAN, Difference, MeanInterval, mean_interval
from analysis.figures.figure_files import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    STYLE,
    Figure,
    matplotlib,
    plt,
    share_axis,
)

FIGURE = "Fig3_trajectory_perturbation_improves_peak_accuracy"
_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
_MARKERS = "osD^vP"


def number_or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def cost_of(arm: Arm) -> str:
    """Mean training compute of a run: `3.2e+12 FLOPs, 410 s`."""
    return f"{number_or_dash(arm.spent('flops'), '.3g')} FLOPs, {number_or_dash(arm.spent('seconds'), ',.0f')} s"


def plotted(arms: Sequence[Arm], differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """Every point of the figure, one flat row each, named by its panel."""
    rows: list[dict[str, Any]] = []
    for arm in arms:
        for run in arm.runs:
            passes = {point.step: point.x for point in points_by(run, "samples")}
            rows += [
                {"panel": "validation", "arm": arm.label, "seed": run.curve.seed, "step": point.step,
                 "passes": passes.get(point.step), "value": point.value, "count": point.rows}
                for point in run.curve.points
            ]  # fmt: skip
    for arm in arms:
        for run in arm.runs:
            rows += [
                {"panel": "test", "arm": arm.label, "seed": run.curve.seed, "moment": moment,
                 "step": run.tested[moment].step, "value": run.tested[moment].value, "count": run.tested[moment].count}
                for moment in MOMENTS
                if moment in run.tested
            ]  # fmt: skip
    for difference in (difference for difference in differences if difference.start == CLEAN):
        shared = {"panel": "difference", "arm": difference.arm, "moment": difference.moment}
        rows += [
            {**shared, "seed": seed, "value": value}
            for seed, value in zip(difference.seeds, difference.values, strict=True)
        ]
        interval = difference.interval
        rows.append({**shared, "value": interval.mean, "low": interval.low, "high": interval.high, "seeds": interval.n})
    return rows


@dataclass(frozen=True)
class MeanCurve:
    """Mean over an arm's runs of their evaluations on validation puzzles, at the updates at which all have one.

    xs: passes spent up to there, or updates where a run's log does not hold its passes.
    """

    unit: str
    xs: list[float]
    means: list[MeanInterval]


def mean_curves(arms: Sequence[Arm]) -> list[MeanCurve]:
    """One for each arm, all over passes, or all over updates."""
    read = {axis: [[points_by(run, axis) for run in arm.runs] for arm in arms] for axis in ("samples", "updates")}
    axis = "samples" if all(points for runs in read["samples"] for points in runs) else "updates"
    curves = []
    for runs in read[axis]:
        by_step = [{point.step: point for point in points} for points in runs]
        shared = [step for step in by_step[0] if all(step in points for points in by_step)]
        at = [[points[step] for points in by_step] for step in shared]
        xs = [sum(point.x for point in points) / len(points) for points in at]
        means = [mean_interval([point.value for point in points]).within(0, 1) for points in at]
        curves.append(MeanCurve(BUDGETS[axis], xs, means))
    return curves


def draw(arms: Sequence[Arm], differences: Sequence[Difference]) -> Figure:
    """A row of panels for each network: validation curves, test accuracy by moment, paired differences."""
    networks = dict.fromkeys(arm.network for arm in arms)
    looks = {arm.label: look for arm, look in zip(arms, itertools.cycle(zip(_COLOURS, _MARKERS, strict=True)))}
    with matplotlib.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(networks),
            3,
            figsize=(12, 3.6 * len(networks)),
            squeeze=False,
            width_ratios=(5, 4, 4),
            constrained_layout=True,
        )
        for network, (curves, tests, gaps) in zip(networks, panels, strict=True):
            of_network = [arm for arm in arms if arm.network == network]
            _draw_curves(curves, of_network, looks)
            curves.set_title(of_network[0].label.split()[0], loc="left", fontsize=10)
            _draw_tests(tests, of_network, looks)
            labels = [arm.label for arm in of_network]
            _draw_differences(
                gaps,
                [difference for difference in differences if difference.arm in labels and difference.start == CLEAN],
                looks,
            )
        for arm in arms:
            colour, marker = looks[arm.label]
            label = f"{arm.label} ({counted(len(arm.runs), 'seed')}; {cost_of(arm)} a run)"
            panels[0][0].plot([], [], color=colour, marker=marker, markersize=5, label=label)
        figure.legend(loc="outside lower left", fontsize=9)
    return figure


def _draw_curves(axes: Any, arms: Sequence[Arm], looks: Mapping[str, tuple[str, str]]) -> None:
    curves = mean_curves(arms)
    for arm, curve in zip(arms, curves, strict=True):
        colour, marker = looks[arm.label]
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "markeredgecolor": "white"}
        axes.plot(curve.xs, [mean.mean for mean in curve.means], linewidth=1.4, **look)
        bands = [(x, *mean.bounds) for x, mean in zip(curve.xs, curve.means, strict=True) if mean.bounds is not None]
        if bands:
            axes.fill_between(*zip(*bands, strict=True), color=colour, alpha=0.12, linewidth=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel(curves[0].unit)
    axes.set_ylabel("solved validation puzzles")
    share_axis(axes)


def _draw_tests(axes: Any, arms: Sequence[Arm], looks: Mapping[str, tuple[str, str]]) -> None:
    for arm, shift in zip(arms, _shifts(len(arms)), strict=True):
        colour, marker = looks[arm.label]
        for place, moment in enumerate(MOMENTS):
            values = arm.values(moment)
            axes.plot([place + shift] * len(values), values, marker, color=colour, markersize=3.5, alpha=0.55)
            if values:
                _mean_bar(axes, place + shift, mean_interval(values).within(0, 1), colour, 1.0)
    axes.set_xticks(range(len(MOMENTS)), MOMENTS)
    axes.set_xlim(-0.5, len(MOMENTS) - 0.5)
    axes.set_ylabel("solved test puzzles")
    share_axis(axes)


def _draw_differences(axes: Any, differences: Sequence[Difference], looks: Mapping[str, tuple[str, str]]) -> None:
    axes.axhline(0, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    arms = list(dict.fromkeys(difference.arm for difference in differences))
    for difference in differences:
        colour, marker = looks[difference.arm]
        at = COMPARED.index(difference.moment) + _shifts(len(arms))[arms.index(difference.arm)]
        points = [100 * value for value in difference.values]
        axes.plot([at] * len(points), points, marker, color=colour, markersize=3.5, alpha=0.55)
        _mean_bar(axes, at, difference.interval, colour, 100.0)
    axes.set_xticks(range(len(COMPARED)), COMPARED)
    axes.set_xlim(-0.5, len(COMPARED) - 0.5)
    axes.set_ylabel("difference to the baseline\n(percentage points)")
    if not differences:
        axes.text(0.5, 0.5, "nothing to compare", transform=axes.transAxes, ha="center", va="bottom", color=GREY)


def _mean_bar(axes: Any, at: float, interval: MeanInterval, colour: str, scale: float) -> None:
    axes.plot([at - 0.05, at + 0.05], [scale * interval.mean] * 2, color=colour, linewidth=2.5, zorder=4)
    if interval.bounds is not None:
        low, high = interval.bounds
        axes.vlines(at, scale * low, scale * high, color=colour, linewidth=1.2, zorder=4)


def _shifts(number: int) -> list[float]:
    return [0.16 * (index - (number - 1) / 2) * min(1.0, 4 / number) for index in range(number)]
