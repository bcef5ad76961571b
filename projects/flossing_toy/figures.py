"""Figures of the flossing toy: exponents before and after, accuracy against delay, learning curves."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from analysis.figures.figure_files import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, STYLE, Figure, matplotlib, plt
from projects.flossing_toy.cells import FinishedCell
from projects.flossing_toy.summary import AFTER_FLOSSING, AT_START, Accuracy, accuracies
from projects.flossing_toy.toy_training import ARMS

# Colour, marker and line of each arm: the same in every figure; controls are dashed.
LOOKS: dict[str, dict[str, Any]] = {
    "none": {"color": GREY, "marker": "o"},
    "pre": {"color": BLUE, "marker": "s"},
    "inter": {"color": PURPLE, "marker": "v"},
    "pre_inter": {"color": RED, "marker": "^"},
    "shuffled": {"color": ORANGE, "marker": "D", "linestyle": "--"},
    "shuffled_inter": {"color": PURPLE, "marker": "P", "linestyle": "--"},
    "orthogonal": {"color": GREEN, "marker": "X", "linestyle": "--"},
    "unclipped": {"color": "black", "marker": "x", "linestyle": ":"},
}
NAMES = {
    "none": "not flossed (clipped)",
    "pre": "flossed before",
    "inter": "flossed during",
    "pre_inter": "flossed before and during",
    "shuffled": "control: shuffled target before",
    "shuffled_inter": "control: shuffled target before and during",
    "orthogonal": "control: orthogonal J, not flossed",
    "unclipped": "control: not flossed, not clipped",
}


def spectra(cells: Sequence[FinishedCell]) -> list[dict[str, Any]]:
    """Rows seed, arm, moment, rank, exponent: the first cell of each seed and first episode, and its J's kind."""
    rows, seen = [], set()
    for finished in cells:
        arm = ARMS[finished.cell.arm]
        kind = "shuffled" if arm.shuffled else "orthogonal" if arm.orthogonal else "zero"
        for moment in (AT_START, AFTER_FLOSSING):
            measured = [
                measure
                for measure in finished.result["measures"]
                if measure["when"] == moment and measure["epochs"] == 0
            ]
            # All arms from one matrix begin alike.
            key = (finished.cell.seed, "zero" if moment == AT_START and kind == "shuffled" else kind, moment)
            if measured and key not in seen:
                seen.add(key)
                rows += [
                    {"seed": key[0], "target": key[1], "moment": moment, "rank": rank, "exponent": value}
                    for rank, value in enumerate(measured[0]["exponents"], start=1)
                ]
    return rows


_SPECTRA: dict[tuple[str, str], tuple[str, str, str]] = {
    ("zero", AT_START): (GREY, "-", "Gaussian J, at the start"),
    ("zero", AFTER_FLOSSING): (BLUE, "-", "after flossing towards 0"),
    ("shuffled", AFTER_FLOSSING): (ORANGE, "--", "after as many updates towards the shuffled spectrum"),
    ("orthogonal", AT_START): (GREEN, "--", "orthogonal J, at the start"),
}


def draw_spectra(rows: Sequence[dict[str, Any]]) -> Figure:
    """Exponent against rank, a thin line per seed, a thick one for the mean over seeds."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.2), constrained_layout=True)
        for (target, moment), (color, line, label) in _SPECTRA.items():
            chosen = [row for row in rows if (row["target"], row["moment"]) == (target, moment)]
            if not chosen:
                continue
            seeds = sorted({row["seed"] for row in chosen})
            by_seed = np.array([[row["exponent"] for row in chosen if row["seed"] == seed] for seed in seeds])
            ranks = np.arange(1, by_seed.shape[1] + 1)
            for values in by_seed:
                axes.plot(ranks, values, color=color, linestyle=line, linewidth=0.6, alpha=0.5)
            axes.plot(ranks, by_seed.mean(axis=0), color=color, linestyle=line, label=f"{label} (n = {len(seeds)})")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xlabel("rank i of the exponent")
        axes.set_ylabel(r"$\lambda_i$ (nats per step)")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    return figure


def _arms(present: Sequence[str]) -> list[str]:
    return [arm for arm in LOOKS if arm in present]


def _arm_legend(figure: Figure, axes: Any, arms: Sequence[str]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    order = [labels.index(NAMES[arm]) for arm in arms if NAMES[arm] in labels]
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside upper center", ncols=3, fontsize=8.5
    )


def draw_accuracies(cells: Sequence[FinishedCell]) -> Figure:
    """Final accuracy against delay, a panel per task; bars: 95 % t interval over seeds, small marks: seeds."""
    table = accuracies(cells)
    tasks, arms = list(dict.fromkeys(point.task for point in table)), _arms([point.arm for point in table])
    delays = sorted({point.delay for point in table})
    width = 0.012 * (max(delays) - min(delays) or 10)
    with matplotlib.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, len(tasks), figsize=(1.2 + 4.4 * len(tasks), 4.4), sharey=True, squeeze=False, constrained_layout=True
        )
        for axes, task in zip(panels[0], tasks, strict=True):
            for place, arm in enumerate(arms):
                points = [point for point in table if (point.task, point.arm) == (task, arm)]
                # Beside each other, so that intervals do not hide one another.
                _draw_arm(axes, points, width * (place - (len(arms) - 1) / 2), arm)
            axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
            axes.set_title(task)
            axes.set_xlabel("delay d (steps)")
            axes.set_xticks(delays)
            axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        panels[0][0].set_ylabel("accuracy on new sequences")
        panels[0][0].set_ylim(0.4, 1.02)
        _arm_legend(figure, panels[0][0], arms)
    return figure


def _draw_arm(axes: Any, points: Sequence[Accuracy], shift: float, arm: str) -> None:
    if not points:
        return
    look = LOOKS[arm]
    x = [point.delay + shift for point in points]
    means = [point.interval.mean for point in points]
    axes.plot(x, means, label=NAMES[arm], markersize=5, linewidth=1.5, **look)
    for position, point in zip(x, points, strict=True):
        if point.interval.bounds is not None:
            axes.vlines(position, *point.interval.bounds, color=look["color"], linewidth=1.0)
        axes.plot([position] * len(point.values), point.values, ".", color=look["color"], markersize=3, alpha=0.6)


def curves(cells: Sequence[FinishedCell]) -> list[dict[str, Any]]:
    """Rows task, delay, arm, seed, epoch, loss, accuracy, grad_norm: block means."""
    rows = []
    for finished in cells:
        curve = finished.result["curve"]
        for index, epoch in enumerate(curve["last_epoch"]):
            values = {name: curve[name][index] for name in ("loss", "accuracy", "grad_norm")}
            rows.append(asdict(finished.cell) | {"epoch": epoch} | values)
    return rows


def draw_curves(cells: Sequence[FinishedCell]) -> Figure:
    """Accuracy against epochs: a row of panels per task, a column per delay; thin lines are seeds, thick ones means.

    A run that ended early stands at its last value in the mean.
    """
    tasks = list(dict.fromkeys(finished.cell.task for finished in cells))
    delays, arms = sorted({finished.cell.delay for finished in cells}), _arms([finished.cell.arm for finished in cells])
    with matplotlib.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(tasks), len(delays), figsize=(1.0 + 2.7 * max(2, len(delays)), 0.9 + 2.3 * len(tasks)), sharex=True,
            sharey=True, squeeze=False, constrained_layout=True,
        )  # fmt: skip
        for row, task in enumerate(tasks):
            for column, delay in enumerate(delays):
                axes = panels[row][column]
                for arm in arms:
                    wanted = (task, delay, arm)
                    _draw_curve(axes, [finished for finished in cells if _key(finished) == wanted], arm)
                axes.set_title(f"{task}, d = {delay}", fontsize=9)
                axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        panels[0][0].set_ylim(0.4, 1.02)
        figure.supxlabel("epochs (updates of the task)", fontsize=10)
        figure.supylabel("accuracy on fresh batches", fontsize=10)
        _arm_legend(figure, panels[0][0], arms)
    return figure


def _key(finished: FinishedCell) -> tuple[str, int, str]:
    return finished.cell.task, finished.cell.delay, finished.cell.arm


def _draw_curve(axes: Any, group: Sequence[FinishedCell], arm: str) -> None:
    if not group:
        return
    style = {name: value for name, value in LOOKS[arm].items() if name != "marker"}
    longest = max((finished.result["curve"]["last_epoch"] for finished in group), key=len)
    lines = []
    for finished in group:
        values = finished.result["curve"]["accuracy"]
        axes.plot(finished.result["curve"]["last_epoch"], values, linewidth=0.5, alpha=0.35, **style)
        lines.append([*values, *[values[-1]] * (len(longest) - len(values))])
    axes.plot(longest, np.mean(lines, axis=0), label=NAMES[arm], linewidth=1.6, **style)
