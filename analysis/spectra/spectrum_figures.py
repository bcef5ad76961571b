"""The pictures of Lyapunov spectra: lambda_1 of solved and failed puzzles, and the whole spectrum of both."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from analysis.figures.figure_files import BLUE, GREY, ORANGE, STYLE, Figure, matplotlib, plt
from analysis.spectra.long_trajectories import survival
from analysis.spectra.spectrum_table import SpectrumTable, by_model

Rows = list[dict[str, Any]]
MOST_BINS = 32
# Filled and outlined, so that they are told apart without colour.
OUTCOMES = (("solved", False, BLUE), ("failed", True, ORANGE))


def lambda1_rows(tables: Sequence[SpectrumTable], burn_in: int) -> Rows:
    """One row per puzzle: model, run, row, solved, lambda_1 per step and per sub-update."""
    rows: Rows = []
    for table in tables:
        leading = table.exponents(table.whole(burn_in))[:, 0]
        for i in np.flatnonzero(np.isfinite(leading)):
            rows.append({
                "model": table.model, "run": table.label, "row": int(table.arrays["row"][i]),
                "solved": int(not table.failed[i]), "lambda1_per_step": float(f"{leading[i]:.9g}"),
                "lambda1_per_sub_update": float(f"{leading[i] / table.sub_updates:.9g}"),
            })  # fmt: skip
    return rows


def _panels(rows: Rows, *, sharex: bool = False, sharey: bool = False) -> tuple[Figure, Any, list[str]]:
    """One panel beside the other, an empty one where there is nothing to draw; the models that they are of."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    number = max(len(models), 1)
    figure, grid = plt.subplots(
        1,
        number,
        figsize=(3.4 * number + 0.6, 3.3),
        squeeze=False,
        constrained_layout=True,
        sharex=sharex,
        sharey=sharey,
    )
    return figure, grid[0], models


def draw_lambda1(rows: Rows, notes: dict[str, str] | None = None) -> Figure:
    """A panel per model: histograms of lambda_1 with medians; counts and `notes` by model stand above the panel."""
    with matplotlib.rc_context(STYLE):
        figure, panels, models = _panels(rows, sharex=True)
        for axes, model in zip(panels, models, strict=False):
            of_model = [row for row in rows if row["model"] == model]
            _lambda1_panel(axes, of_model)
            solved = sum(row["solved"] for row in of_model)
            counts = f"{model}: {solved:,} solved, {len(of_model) - solved:,} failed"
            axes.set_title(f"{counts}\n{(notes or {}).get(model, '')}".strip(), fontsize=9)
        panels[0].set_ylabel("share of puzzles per bin")
        _one_legend(figure, panels)
    return figure


def _one_legend(figure: Figure, panels: Sequence[Any]) -> None:
    """Below all panels: inside one it would lie on its lines."""
    entries: dict[str, Any] = {}
    for axes in panels:
        entries = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)) | entries
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4, fontsize=9)


def _lambda1_panel(axes: Any, rows: Rows) -> None:
    values = np.array([row["lambda1_per_sub_update"] for row in rows])
    failed = np.array([not row["solved"] for row in rows])
    low, high = np.quantile(values, [0.002, 0.998])
    bins = min(MOST_BINS, max(8, int(1.5 * len(values) ** 0.5)))
    edges = np.linspace(low, high if high > low else low + 1e-6, bins + 1)
    for name, is_failed, color in OUTCOMES:
        of_outcome = values[failed == is_failed].clip(low, high)
        if not len(of_outcome):
            axes.plot([], [], color=color, label=f"{name}: none")
            continue
        shares = np.histogram(of_outcome, edges)[0] / len(of_outcome)
        look = {"alpha": 1.0, "linewidth": 1.8} if is_failed else {"alpha": 0.45, "linewidth": 0}
        axes.stairs(shares, edges, fill=not is_failed, color=color, label=name, **look)
        median, line = np.median(values[failed == is_failed]), "--" if is_failed else "-"
        axes.axvline(median, color=color, linestyle=line, linewidth=1.6, label=f"median of {name}")
    if low < 0 < high:
        axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axes.set_xlabel(r"$\lambda_1$, nats per sub-update")


def spectrum_rows(tables: Sequence[SpectrumTable], burn_in: int) -> Rows:
    """Per model, outcome and index: quartiles of lambda_i over puzzles (all runs together), nats per sub-update."""
    rows: Rows = []
    for model, group in by_model(tables).items():
        for name, is_failed, _ in OUTCOMES:
            exponents = [
                table.exponents(table.whole(burn_in))[table.usable & (table.failed == is_failed)] / table.sub_updates
                for table in group
            ]
            values = np.concatenate(exponents)
            for index in range(values.shape[1] if len(values) else 0):
                low, middle, high = np.quantile(values[:, index], [0.25, 0.5, 0.75])
                rows.append({
                    "model": model, "outcome": name, "n": len(values), "index": index + 1,
                    "quartile1": float(f"{low:.9g}"), "median": float(f"{middle:.9g}"),
                    "quartile3": float(f"{high:.9g}"),
                })  # fmt: skip
    return rows


def _shown(rows: Rows, model: str) -> Iterator[tuple[Rows, bool, dict[str, Any]]]:
    """For each outcome that a model has: its rows, whether it is failure, and the look of its line."""
    for name, is_failed, color in OUTCOMES:
        chosen = [row for row in rows if row["model"] == model and row["outcome"] == name]
        if chosen:
            yield chosen, is_failed, {"color": color, "linestyle": "--" if is_failed else "-", "label": name}


def _titled(axes: Any, model: str, shown: Iterator[tuple[Rows, bool, dict[str, Any]]]) -> None:
    counts = ", ".join(f"{chosen[0]['n']:,} {chosen[0]['outcome']}" for chosen, *_ in shown)
    axes.set_title(f"{model}: {counts}", fontsize=10)


def draw_spectrum(rows: Rows) -> Figure:
    """A panel per model: median and quartiles of each exponent, solved and failed."""
    with matplotlib.rc_context(STYLE):
        figure, panels, models = _panels(rows, sharey=True)
        for axes, model in zip(panels, models, strict=False):
            for shown, is_failed, look in _shown(rows, model):
                index, low, median, high = (
                    [row[name] for row in shown] for name in ("index", "quartile1", "median", "quartile3")
                )
                axes.fill_between(index, low, high, color=look["color"], alpha=0.25, linewidth=0)
                axes.plot(index, median, marker="s" if is_failed else "o", markersize=4, **look)
            axes.axhline(0, color=GREY, linewidth=0.8)
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
            axes.set_xlabel("index $i$")
            _titled(axes, model, _shown(rows, model))
        _one_legend(figure, panels)
        panels[0].set_ylabel(r"$\lambda_i$, nats per sub-update")
    return figure


def long_trajectory_rows(tables: Sequence[SpectrumTable]) -> Rows:
    """Per model, outcome at the end and step: puzzles that have not settled for good, over all runs that went on."""
    rows: Rows = []
    for model, group in by_model(tables).items():
        longer = [table for table in group if "extended_drift" in table.arrays]
        if not longer:
            continue
        drift = np.concatenate([table.to_the_end("drift") for table in longer])
        failed = ~np.concatenate([table.to_the_end("exact") for table in longer])[:, -1]
        for name, is_failed, _ in OUTCOMES:
            of_outcome = drift[failed == is_failed]
            if len(of_outcome):
                curve = survival(of_outcome)
                rows += [
                    {"model": model, "outcome": name, "n": curve.total, "step": int(step), "unsettled": int(count)}
                    for step, count in zip(curve.steps, curve.unsettled, strict=True)
                ]
    return rows


def draw_long_trajectories(rows: Rows) -> Figure:
    """A panel per model: share of trajectories that have not settled, step by step, logarithmic."""
    with matplotlib.rc_context(STYLE):
        figure, panels, models = _panels(rows, sharey=True)
        for axes, model in zip(panels, models, strict=False):
            for shown, _, look in _shown(rows, model):
                # A logarithmic axis has no 0: the line ends there.
                shares = [row["unsettled"] / row["n"] if row["unsettled"] else np.nan for row in shown]
                axes.plot([row["step"] for row in shown], shares, **look)
            if any(row["unsettled"] for row in rows):
                axes.set_yscale("log")
            axes.set_xlabel("supervision step")
            _titled(axes, model, _shown(rows, model))
        _one_legend(figure, panels)
        panels[0].set_ylabel("share not settled yet")
    return figure
