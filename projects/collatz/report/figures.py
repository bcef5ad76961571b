"""Pictures of Collatz runs: margins along the five orbits, violations against the lookahead, training curves."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.arms.run_curves import counted
from analysis.figures.figure_files import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, STYLE, Figure, matplotlib, plt
from projects.collatz.bounds import bounds_at
from projects.collatz.closed_forms import CLOSED_FORMS
from projects.collatz.evaluation import judge_orbits
from projects.collatz.report.arms import CollatzArm, reports_by_lookahead
from projects.collatz.report.margins import OrbitMargins
from projects.collatz.report.orbit_facts import SOURCE_VIOLATIONS
from projects.collatz.report.runs import BY_NAME
from projects.collatz.syracuse import TEST_STARTS, orbit

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, GREY)
_LINES = ("-", "--", ":", "-.")
_MARKERS = "osD^vP"
# Of the closed forms, those that are drawn along the orbits at every lookahead.
# Their lines, and their markers where they were measured.
DRAWN: dict[str, tuple[Any, str]] = {
    "V_avg": ("-", "_"), "V_min": (":", "1"), "V_max": ("--", "2"), "V_tmin_1.2": ("-.", "x"),
    "V_tmax_1": ((0, (6, 1)), "+"),
}  # fmt: skip
_THEORY = {"V_avg, theory": "-", "V_min and V_max, theory": "--", "lower bound": ":"}
_FORMS = [form for form in CLOSED_FORMS if form.name in DRAWN]
LOG_BINS = 120


def looks_of(arms: Sequence[CollatzArm]) -> dict[str, tuple[str, str, str]]:
    """Colour, line and marker of each arm, no two alike up to 24 arms."""
    styles = [(colour, line, marker) for line, marker in zip(_LINES, _MARKERS, strict=False) for colour in _COLOURS]
    return {arm.label: style for arm, style in zip(arms, itertools.cycle(styles), strict=False)}


# -- margins along the five orbits


def margin_rows(functions: Mapping[str, OrbitMargins]) -> list[dict[str, Any]]:
    """A flat row for each step of each orbit and function. margin: V(n) - V(T(n)) over dV / d ln n."""
    rows = []
    for start in TEST_STARTS:
        path = orbit(start)
        for name, along in functions.items():
            rows += [
                {"start": start, "step": step, "function": name, "n": str(path.states[step]),
                 "k": path.valuations[step], "margin": float(margin) / along.slope, "violated": bool(bad)}
                for step, (margin, bad) in enumerate(zip(along.margins[start], along.violated[start], strict=True))
            ]  # fmt: skip
    return rows


def draw_margins(functions: Mapping[str, OrbitMargins]) -> Figure:
    """A panel for each orbit: ln T^j(n) in grey, margins of the functions, violations marked at the bottom."""
    colours = dict(zip(functions, (BLUE, ORANGE), strict=True))
    with matplotlib.rc_context(STYLE):
        figure, panels = plt.subplots(len(TEST_STARTS), 1, figsize=(10, 11), constrained_layout=True)
        for axes, start in zip(panels, TEST_STARTS, strict=True):
            path = orbit(start)
            behind = axes.twinx()
            behind.fill_between(range(len(path.states)), np.log(np.array(path.states, float)), color=GREY, alpha=0.15)
            behind.set_ylim(bottom=0)
            behind.set_ylabel("ln T$^j$(n)", color=GREY)
            behind.grid(False)
            behind.spines["right"].set_visible(True)
            behind.tick_params(axis="y", colors=GREY)
            axes.set_zorder(behind.get_zorder() + 1)
            axes.patch.set_visible(False)
            counts = []
            for row, (name, along) in enumerate(functions.items()):
                scaled, bad = along.margins[start] / along.slope, along.violated[start]
                axes.plot(scaled, color=colours[name], linewidth=1.0, alpha=0.85)
                # Marked at the foot too: most violations are too small to be seen.
                where = np.flatnonzero(bad)
                axes.plot(where, scaled[bad], "x", color=colours[name], markersize=5, zorder=5)
                axes.plot(where, np.full(len(where), 0.035 + 0.06 * row), "|", color=colours[name], markersize=9,
                          markeredgewidth=1.6, transform=axes.get_xaxis_transform(), zorder=5)  # fmt: skip
                counts.append(f"{name} {int(bad.sum())}")
            axes.axhline(0, color="black", linewidth=0.7)
            axes.set_yscale("symlog", linthresh=0.01, linscale=1.0)
            axes.yaxis.set_major_locator(matplotlib.ticker.FixedLocator([-100, -1, -0.01, 0, 0.01, 1, 100]))
            axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
            axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axes.set_xlim(-1, path.steps)
            axes.set_title(f"{start}: {path.steps} steps; violated: {', '.join(counts)}", loc="left", fontsize=9)
        figure.supylabel("margin V(n) - V(T(n)), nats of ln n", fontsize=10)
        panels[-1].set_xlabel("step j of the orbit")
        for name, colour in colours.items():
            panels[0].plot([], [], color=colour, marker="x", label=name)
        figure.legend(loc="outside lower left", ncols=2, fontsize=9)
    return figure


# -- violations against the lookahead


def lookahead_rows(arms: Sequence[CollatzArm], largest: int) -> list[dict[str, Any]]:
    """Every point of the figure: theory and closed forms at lookaheads 1 to `largest`, what was measured, arms."""
    rows: list[dict[str, Any]] = []

    def add(panel: str, kind: str, name: str, lookahead: int, value: float, **more: Any) -> None:
        rows.append({"panel": panel, "kind": kind, "name": name, "lookahead": lookahead, "value": value, **more})

    for lookahead in range(1, largest + 1):
        bounds = bounds_at(lookahead)
        add("rate", "theory", "V_avg, theory", lookahead, bounds.rate_V_avg)
        add("rate", "theory", "V_min and V_max, theory", lookahead, bounds.rate_V_min)
        add("rate", "theory", "lower bound", lookahead, bounds.lower_bound)
        for name, counts in judge_orbits(_FORMS, TEST_STARTS, lookahead).items():
            add("orbits", "closed form", name, lookahead, sum(count.violations for count in counts.values()))
    for lookahead, report in reports_by_lookahead(arms).items():
        for name in DRAWN:
            on_orbit = report[name]["on_orbit"]
            low, high = on_orbit["rate_interval"]
            add("rate", "closed form", name, lookahead, on_orbit["rate"], low=low, high=high)
    for arm in arms:
        for panel, metric in (("rate", BY_NAME["on_orbit"]), ("orbits", BY_NAME["orbits"])):
            values = arm.values(metric, "best")
            assert values is not None
            for run, value in zip(arm.runs, values, strict=True):
                add(panel, "run", arm.label, arm.lookahead, value, seed=run.seed)
            mean = metric.mean(values)
            add(panel, "arm", arm.label, arm.lookahead, mean.mean, low=mean.low, high=mean.high, seeds=mean.n)
    for lookahead, violations in SOURCE_VIOLATIONS.items():
        add("orbits", "source", "source, 4.4 million parameters", lookahead, sum(violations.values()))
    return rows


def _points(rows: Sequence[Mapping[str, Any]], x: str) -> tuple[list[Any], list[Any]]:
    """The columns `x` and `value` of some rows."""
    return [row[x] for row in rows], [row["value"] for row in rows]


def draw_lookahead(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Left: on-orbit violation rate. Right: violations along the five orbits. rows: those of `lookahead_rows`.

    Formulas are black and grey, told apart by line and marker. A colour is of networks alone, of all lookaheads of one
    training; where it stands along the axis says which.
    """
    arms = [row for row in rows if row["kind"] == "arm" and row["panel"] == "rate"]
    trainings = list(dict.fromkeys(map(_training, arms)))
    looks = dict(zip(trainings, itertools.cycle(zip(_COLOURS, _MARKERS, strict=True)), strict=False))
    shifts = _shifts(arms)
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.2), constrained_layout=True)
        for axes, panel in ((left, "rate"), (right, "orbits")):
            of_panel = [row for row in rows if row["panel"] == panel]
            for name, line in _THEORY.items():
                points = [row for row in of_panel if row["name"] == name]
                axes.plot(*_points(points, "lookahead"), line, color="black", linewidth=1.2)
            for name, (line, marker) in DRAWN.items():
                points = [row for row in of_panel if row["kind"] == "closed form" and row["name"] == name]
                style: dict[str, Any] = {"linestyle": line, "linewidth": 1.1}
                if panel == "rate":
                    style = {"linestyle": "none", "marker": marker, "markersize": 8, "markeredgewidth": 1.4}
                axes.plot(*_points(points, "lookahead"), color=GREY, **style)
            for row in of_panel:
                if row["kind"] not in ("run", "arm"):
                    continue
                colour, marker = looks[_training(row)]
                at = row["lookahead"] + shifts[row["name"]]
                if row["kind"] == "run":
                    axes.plot(at, row["value"], marker, color=colour, markersize=3, alpha=0.45)
                    continue
                large = {"markersize": 6, "markeredgecolor": "white", "zorder": 6}
                axes.plot(at, row["value"], marker, color=colour, **large)
                if row["low"] is not None:
                    axes.vlines(at, max(row["low"], 1e-6), row["high"], color=colour, linewidth=1.2, zorder=5)
            source = [row for row in of_panel if row["kind"] == "source"]
            axes.plot(*_points(source, "lookahead"), "*", color="black", markersize=11)
            axes.set_xlabel("lookahead L")
        left.set_yscale("log")
        # Beyond the lookaheads of the runs the bound would take the picture over.
        left.set_ylim(bottom=0.5 * min(row["value"] for row in rows if row["panel"] == "rate"))
        left.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        left.set_ylabel("violated on-orbit steps")
        right.set_yscale("symlog", linthresh=10)
        right.yaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        right.set_yticks([0, 5, 10, 20, 50, 100, 200])
        right.set_ylim(bottom=-0.5)
        right.set_ylabel(f"violations along the five orbits (of {sum(orbit(start).steps for start in TEST_STARTS)})")
        for training, (colour, marker) in looks.items():
            counts = ", ".join(f"{row['seeds']} at {row['lookahead']}" for row in arms if _training(row) == training)
            left.plot([], [], marker, color=colour, label=f"network, {training} (runs: {counts})")
        left.plot([], [], "*", color="black", markersize=11, label="network of the source, 4.4 million parameters")
        for name, line in _THEORY.items():
            left.plot([], [], line, color="black", label=name)
        for name, (line, marker) in DRAWN.items():
            left.plot([], [], color=GREY, linestyle=line, marker=marker, label=f"closed form {name}")
        figure.legend(loc="outside lower left", ncols=3, fontsize=8)
    return figure


def _training(row: Mapping[str, Any]) -> str:
    """The name of an arm without its lookahead."""
    return str(row["name"]).replace(f" L{row['lookahead']}", "", 1)


def _shifts(arms: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Arms of one lookahead stand side by side."""
    shifts: dict[str, float] = {}
    for lookahead in {arm["lookahead"] for arm in arms}:
        labels = [arm["name"] for arm in arms if arm["lookahead"] == lookahead]
        step = min(0.7, 6 / len(labels))
        shifts |= {label: step * (place - (len(labels) - 1) / 2) for place, label in enumerate(labels)}
    return shifts


# -- training curves

PANELS = {
    "train/loss": "training loss",
    "eval/validation/violations": "violated validation steps",
    "train/lr": "learning rate",
}


def training_rows(arms: Sequence[CollatzArm]) -> list[dict[str, Any]]:
    """Every point of the curves; of the training log, means over at most `LOG_BINS` stretches of equal length."""
    rows = []
    for arm in arms:
        for run in arm.runs:
            counts = dict(run.curve("eval/validation/count"))
            for key in PANELS:
                points: Sequence[tuple[float, float]] = run.curve(key)
                if key.startswith("train/"):
                    points = binned(points)
                if key.startswith("eval/"):
                    points = [(step, value / counts[int(step)]) for step, value in points if counts.get(int(step))]
                rows += [
                    {"panel": key, "arm": arm.label, "seed": run.seed, "step": step, "value": value}
                    for step, value in points
                ]
    return rows


def binned(points: Sequence[tuple[float, float]], bins: int = LOG_BINS) -> list[tuple[float, float]]:
    """Means of (update, value) over stretches of updates of equal length; at most `bins`, empty ones left out."""
    if len(points) <= bins:
        return list(points)
    steps, values = np.array(points).T
    place = np.minimum((bins * (steps - steps[0]) / (steps[-1] - steps[0])).astype(int), bins - 1)
    return [
        (float(steps[place == stretch].mean()), float(values[place == stretch].mean())) for stretch in np.unique(place)
    ]


def draw_training(arms: Sequence[CollatzArm], rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, violated validation steps and rate against updates, a thin line for each run."""
    looks = looks_of(arms)
    with matplotlib.rc_context(STYLE):
        figure, panels = plt.subplots(len(PANELS), 1, figsize=(8.5, 9), sharex=True, constrained_layout=True)
        for axes, (key, label) in zip(panels, PANELS.items(), strict=True):
            of_panel = [row for row in rows if row["panel"] == key]
            for arm in arms:
                colour, line, _ = looks[arm.label]
                for run in arm.runs:
                    mine = [row for row in of_panel if row["arm"] == arm.label and row["seed"] == run.seed]
                    axes.plot(*_points(mine, "step"), color=colour, linestyle=line, linewidth=0.9, alpha=0.8)
            above = [row["value"] for row in of_panel if row["value"] > 0]
            # A logarithmic axis has hardly a number on it within one decade.
            if above and max(above) > 10 * min(above):
                axes.set_yscale("log")
            axes.set_ylabel(label)
        panels[1].yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        panels[-1].set_xlabel("updates")
        panels[-1].set_xlim(left=0)
        for arm in arms:
            colour, line, _ = looks[arm.label]
            label = f"{arm.label} ({counted(len(arm.runs), 'seed')})"
            panels[0].plot([], [], color=colour, linestyle=line, label=label)
        figure.legend(loc="outside lower left", ncols=2, fontsize=8)
    return figure
