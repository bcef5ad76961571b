"""The pictures of endings: what becomes of failures, how long they move, from where they are solved."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.endings.ending_statistics import KINDS, EndingTable
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
from analysis.spectra.long_trajectories import survival

Rows = list[dict[str, Any]]
# A colour and a hatch, so that the kinds are told apart without colour too.
LOOKS = dict(zip(KINDS, ((RED, ""), (PURPLE, "xx"), (ORANGE, "//"), (BLUE, "..")), strict=True))
LINES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (RED, "v"), (GREY, "P"))
WIDEST = 4  # panels in a row


def ending_rows(summary: Mapping[str, Any]) -> Rows:
    """Per group of runs and kind: mean share over runs and interval, and the counts behind it."""
    rows: Rows = []
    for group, joint in summary["groups"].items():
        settings = next(run["settings"] for run in summary["runs"] if run["group"] == group)
        for kind in KINDS:
            counted, mean = joint["kinds_counted"][kind], joint["kinds"][kind] or {}
            rows.append({
                "group": group, "model": settings["model"], "width": settings["width"], "data": settings["data"],
                "updates": settings["updates"], "runs": len(joint["runs"]), "accuracy": joint["accuracy"]["mean"],
                "kind": kind, "failures": counted["denominator"], "count": counted["numerator"],
                "mean_share": mean.get("mean"), "low": mean.get("low"), "high": mean.get("high"),
            })  # fmt: skip
    return rows


def _panel_of(row: Mapping[str, Any]) -> str:
    return f"{row['model']}, width {row['width']}\n{row['data']}"


def draw_endings(rows: Rows) -> Figure:
    """A panel per network, width and data; a bar for each number of updates: of the failures, what they end as."""
    panels: dict[str, Rows] = {}
    for row in rows:
        panels.setdefault(_panel_of(row), []).append(row)
    columns = min(WIDEST, len(panels))
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure, grid = plt.subplots(
            lines, columns, figsize=(3.2 * columns + 0.6, 3.1 * lines + 0.7), squeeze=False, sharey=True,
            constrained_layout=True,
        )  # fmt: skip
        for axes, (name, of_panel) in zip(grid.flat, panels.items(), strict=False):
            _endings_panel(axes, of_panel)
            axes.set_title(name, fontsize=9)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("share of failures")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(KINDS), fontsize=9)
    return figure


def _endings_panel(axes: Any, rows: Rows) -> None:
    bars = list(dict.fromkeys((row["updates"], row["group"]) for row in rows))
    for place, (_, group) in enumerate(bars):
        of_bar = {row["kind"]: row for row in rows if row["group"] == group}
        below = 0.0
        for kind in KINDS:
            color, hatch = LOOKS[kind]
            share = of_bar[kind]["mean_share"] or 0.0
            axes.bar(place, share, 0.72, bottom=below, color=color, hatch=hatch, edgecolor="white", linewidth=0.6,
                     label=kind if place == 0 else None)  # fmt: skip
            below += share
        first = of_bar[KINDS[0]]
        axes.text(place, 1.01, f"{first['accuracy']:.0%} solved\nn = {first['failures']:,}", ha="center", va="bottom",
                  fontsize=7)  # fmt: skip
    axes.set_xticks(range(len(bars)), ["?" if updates is None else f"{updates:,}" for updates, _ in bars])
    axes.set_xlabel("updates trained")
    axes.grid(axis="x", visible=False)
    share_axis(axes)
    axes.set_ylim(0, 1.2)
    axes.set_yticks(np.linspace(0, 1, 6))


def survival_rows(tables: Sequence[EndingTable]) -> Rows:
    """Per group, outcome after T steps and step: trajectories that have not settled for good, all runs together."""
    groups: dict[str, list[EndingTable]] = {}
    for table in tables:
        groups.setdefault(table.group, []).append(table)
    rows: Rows = []
    for group, of_group in groups.items():
        drift = np.concatenate([table.arrays["drift"] for table in of_group])
        failed = np.concatenate([table.failed for table in of_group])
        for outcome, mask in (("failed", failed), ("solved", ~failed)):
            if mask.any():
                curve = survival(drift[mask])
                rows += [
                    {"group": group, "outcome": outcome, "n": curve.total, "step": int(step), "unsettled": int(count)}
                    for step, count in zip(curve.steps, curve.unsettled, strict=True)
                ]
    return rows


def draw_survival(rows: Rows) -> Figure:
    """Share of trajectories that have not settled, step by step, both axes logarithmic: failed solid, solved dashed."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.6, 4.0), constrained_layout=True)
        for group, (color, _) in zip(groups, _looks(len(groups)), strict=True):
            for outcome, line in (("failed", "-"), ("solved", "--")):
                chosen = [row for row in rows if (row["group"], row["outcome"]) == (group, outcome)]
                if chosen:
                    # A logarithmic axis has no 0: the line ends there.
                    shares = [row["unsettled"] / row["n"] if row["unsettled"] else np.nan for row in chosen]
                    label = f"{group}: {outcome}, n = {chosen[0]['n']:,}"
                    axes.plot([row["step"] for row in chosen], shares, color=color, linestyle=line, label=label)
        axes.set_xscale("log", base=2)
        if any(row["unsettled"] for row in rows):
            axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_xlabel("supervision step")
        axes.set_ylabel("share not settled yet")
        figure.legend(loc="outside lower center", ncols=1, fontsize=8)
    return figure


def restart_rows(summary: Mapping[str, Any]) -> Rows:
    """Per group and noise scale: what is solved from starts at that distance, mean over runs and interval."""
    rows: Rows = []
    for group, joint in summary["groups"].items():
        for restart in joint["restarts"]:
            for name in ("failed_starts_solved", "failed_solved_from_some_start", "solved_starts_kept"):
                mean = restart[name]
                if mean is not None:
                    rows.append({
                        "group": group, "sigma": restart["sigma"], "quantity": name, "mean_share": mean["mean"],
                        "low": mean["low"], "high": mean["high"], "runs": mean["n"],
                        "failures": joint["failures_measured"],
                    })  # fmt: skip
    return rows


def draw_restarts(rows: Rows) -> Figure:
    """Left: of failed puzzles, starts from which they are solved. Right: of solved ones, starts that keep that."""
    groups, scales = list(dict.fromkeys(row["group"] for row in rows)), sorted({row["sigma"] for row in rows})
    panels = (("failed_starts_solved", "failed puzzles: starts that solve"),
              ("solved_starts_kept", "solved puzzles: starts that solve"))  # fmt: skip
    with matplotlib.rc_context(STYLE):
        figure, grid = plt.subplots(1, 2, figsize=(8.4, 3.6), sharey=True, constrained_layout=True)
        for axes, (quantity, title) in zip(grid, panels, strict=True):
            for group, (color, marker) in zip(groups, _looks(len(groups)), strict=True):
                chosen = [row for row in rows if (row["group"], row["quantity"]) == (group, quantity)]
                sigma = [row["sigma"] for row in chosen]
                n = f" ({chosen[0]['failures']:,} failures)" if chosen else ""
                axes.plot(sigma, [row["mean_share"] for row in chosen], color=color, marker=marker, markersize=4,
                          label=group + n)  # fmt: skip
                banded = [row for row in chosen if row["low"] is not None]
                axes.fill_between([row["sigma"] for row in banded], [row["low"] for row in banded],
                                  [row["high"] for row in banded], color=color, alpha=0.2, linewidth=0)  # fmt: skip
            axes.set_xscale("log")
            axes.set_xlim(0.8 * scales[0], 1.25 * scales[-1])
            axes.set_xlabel(r"$\sigma$ of the noise at the start")
            axes.set_title(title, fontsize=10)
            share_axis(axes, whole=True)
        grid[0].set_ylabel("share of starts")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=1, fontsize=8)
    return figure


def _looks(number: int) -> Sequence[tuple[str, str]]:
    return [LINES[i % len(LINES)] for i in range(number)]
