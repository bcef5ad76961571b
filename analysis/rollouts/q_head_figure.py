"""The figure of Q head against stability: its numbers from a table of rollouts, its files, and how it is drawn.

`read_figure` takes the files that `save_figure_data` wrote, so that the figure can be drawn again without a model.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

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
    save_csv,
    save_json,
    share_axis,
)
from analysis.rollouts.within_puzzle import mixed_success, pooled, standardised, within, within_auroc, within_given
from dataset.plain_data import JsonError, read_json_object
from errors import UserError
from files import bounded_text
from training.evaluation.rollout_report import NOISELESS, accuracies
from training.evaluation.rollout_table import RolloutTable
from training.records.result_numbers import Number, estimate, rate, record_entry

NAME = "Fig4_optional_PTRM_Q_head_vs_stability"
SUMMARY = "summary.json"
MOST_POINTS = 4000
BINS = 10
FEWEST_POINTS = 50  # of which tenths are drawn: a mean of fewer than five rollouts is no curve
# name in the files -> (words, colour, marker, line)
LOOKS = {
    "q": ("highest Q", BLUE, "o", "-"),
    "stability": ("most stable", GREEN, "s", "-"),
    "majority": ("majority of answers", ORANGE, "^", "-"),
    "random": ("at random", GREY, "", "--"),
    "oracle": ("oracle (any is right)", PURPLE, "D", ":"),
    NOISELESS: ("one trajectory without noise", "black", "*", "-."),
}


@dataclass(frozen=True)
class FigureData:
    """What is drawn.

    Args:
        points: (n, 3) of rollouts of mixed-success puzzles: growth and Q, each standardised within its puzzle, exact.
        bins: (m, 2) means of growth and Q of tenths of all such rollouts, by growth; none of fewer than 50 rollouts.
        curves: entries of `accuracies` flattened: selector, steps, rollouts, forward_passes, value, low, high.
        summary: what `summarise` gives.
    """

    points: np.ndarray
    bins: np.ndarray
    curves: list[dict[str, Any]]
    summary: dict[str, Any]


def summarise(table: RolloutTable, settings: Mapping[str, Any], draws: int) -> dict[str, Any]:
    """Correlations and AUROCs at the last judged step, for each size of the probes, and accuracies at all steps.

    `growth` is that of the probes: a negative correlation says that Q prefers stable rollouts. Errors: `UserError` for
    a table without probes, or settings that do not say how they were made.
    """
    probe, flops = settings.get("stability"), settings.get("step_flops")
    if not len(table.sizes) or not isinstance(probe, Mapping) or not isinstance(flops, int | float):
        raise UserError(
            "the rollouts were made without probes of their stability: make them with "
            "eval.stochastic_rollouts.probes.sizes=[1e-3]"
        )
    exact = table.exact[..., -1]
    q, margin = (np.nan_to_num(values[..., -1], nan=-np.inf) for values in (table.q, table.margin))
    growth = np.nan_to_num(table.growth[:, :, -1], nan=np.inf)
    mixed = mixed_success(exact)
    correlation = [
        {
            "size": size,
            "within": asdict(within(q[mixed], growth[mixed, :, k], draws)),
            "within_given_margin": asdict(within_given(q[mixed], growth[mixed, :, k], margin[mixed], draws)),
            "pooled": asdict(pooled(q, growth[..., k], draws)),
            "pooled_mixed": asdict(pooled(q[mixed], growth[mixed, :, k], draws)),
        }
        for k, size in enumerate(table.sizes.tolist())
    ]
    scores = {"q": q, "stability": -growth[..., 0], "margin": margin}
    passes = int(probe["steps"]) * (1 + int(probe["directions"]))
    return {
        "settings": json.loads(json.dumps(settings, sort_keys=True)),
        "puzzles": len(exact),
        "rollouts": table.rollouts,
        "steps": table.steps.tolist(),
        "solved_always": int(exact.all(axis=1).sum()),
        "solved_partly": int(mixed.sum()),
        "solved_never": int((~exact.any(axis=1)).sum()),
        "bootstrap_draws": draws,
        "correlation_of_q_and_growth": correlation,
        "auroc_within_mixed": {
            name: asdict(within_auroc(exact[mixed], score[mixed], draws)) for name, score in scores.items()
        },
        "accuracy": accuracies(table, probe_passes=passes, flops_per_step=float(flops)),
    }


def figure_data(table: RolloutTable, summary: dict[str, Any]) -> FigureData:
    """What is drawn of a table and its summary."""
    exact = table.exact[..., -1]
    mixed = mixed_success(exact)
    growth, q = (
        standardised(values[mixed].astype(np.float64)) for values in (table.growth[:, :, -1, 0], table.q[..., -1])
    )
    known = np.isfinite(growth) & np.isfinite(q)
    points = np.stack([growth[known], q[known], exact[mixed][known]], axis=1)
    order = np.argsort(points[:, 0], kind="stable")
    tenths = np.array_split(points[order], BINS) if len(points) >= FEWEST_POINTS else []
    bins = np.array([tenth[:, :2].mean(axis=0) for tenth in tenths]).reshape(-1, 2)
    # Evenly over all puzzles where there are more than can be told apart.
    shown = points[np.unique(np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).astype(int))]
    curves = []
    for entry in summary["accuracy"]:
        low, high = entry["expected"]["interval95"]
        kept = {name: entry[name] for name in ("selector", "steps", "rollouts", "forward_passes", "flops")}
        curves.append(kept | {"value": entry["expected"]["value"], "low": low, "high": high})
    return FigureData(shown if len(points) else points, bins, curves, summary)


def rollout_entry(summary: Mapping[str, Any]) -> dict[str, Any]:
    """For the records of results: correlations of Q and growth, then each way to choose at the last step."""
    settings, correlation = summary["settings"], summary["correlation_of_q_and_growth"][0]
    measured = []
    for name, words in (("within", "within puzzles"), ("within_given_margin", "within puzzles, given the margin"),
                        ("pooled", "pooled")):  # fmt: skip
        low, high = correlation[name]["interval95"] or (None, None)
        value = {"value": correlation[name]["value"], "low": low, "high": high}
        measured += estimate(f"rank correlation of Q and growth, {words}", value)
    for name in ("always", "partly", "never"):
        measured.append(rate(f"puzzles solved {name} by {summary['rollouts']} rollouts", summary[f"solved_{name}"],
                          summary["puzzles"]))  # fmt: skip
    for entry in summary["accuracy"]:
        if entry["steps"] != max(summary["steps"]):
            continue
        if entry["selector"] == NOISELESS:
            words, exact = f"one trajectory of {entry['steps']} steps without noise", entry["exact_accuracy"]
            measured.append(rate(f"{words}: exact_accuracy", exact["numerator"], exact["denominator"]))
        elif entry["rollouts"] in (1, summary["rollouts"]):
            name = f"{entry['selector']} of {entry['rollouts']}"
            measured += [
                Number(f"{name}: exact_accuracy", 100 * entry["exact_accuracy"]["value"], unit="%"),
                Number(f"{name}: forward passes", entry["forward_passes"]),
            ]
    noise = f"sigma {settings.get('sigma')} on {settings.get('site')}, steps {settings.get('steps')}"
    return record_entry(
        measured,
        origin=summary,
        config_hashes=[settings.get("weights_sha256")],
        datasets=[settings.get("dataset")],
        seeds=[settings.get("noise_seed")],
        findings=[f"rollouts noise with {noise}; the seed is the noise's"],
    )


def save_figure_data(data: FigureData, folder: Path) -> None:
    """`summary.json`, and what is drawn as CSV. Errors: `UserError`."""
    rows: list[dict[str, Any]] = [
        {"panel": "rollout", "growth": growth, "q": q, "exact": int(exact)} for growth, q, exact in data.points.tolist()
    ]
    rows += [{"panel": "tenth", "growth": growth, "q": q} for growth, q in data.bins.tolist()]
    rows += [{"panel": "accuracy", **curve} for curve in data.curves]
    save_json(data.summary, folder / SUMMARY)
    save_csv(rows, folder / f"{NAME}.csv")


_MEND = "make it again with: python analysis/rollouts/q_head_vs_stability.py --checkpoint RUN/best.pt --out DIR"
_DAMAGED = (JsonError, OSError, KeyError, IndexError, TypeError, ValueError, csv.Error)


def _not_of_it(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UserError(f"{path} does not hold this figure's numbers ({reason}); {_MEND}")


def read_summary(folder: Path) -> dict[str, Any]:
    """`summary.json`, where it is one of `summarise`. Errors: `UserError` naming the file."""
    path = folder / SUMMARY
    try:
        summary = read_json_object(path)
        correlation = summary["correlation_of_q_and_growth"][0]["within"]
        _ = correlation["value"], correlation["interval95"], summary["puzzles"], summary["solved_partly"]
        _ = summary["steps"][-1]
    except _DAMAGED as error:
        raise _not_of_it(path, error) from error
    return summary


def read_figure(folder: Path) -> FigureData:
    """What `save_figure_data` wrote. Errors: `UserError` naming the file."""
    summary, path = read_summary(folder), folder / f"{NAME}.csv"
    try:
        text = bounded_text(path)
        if '"' in text:  # up to the next one all rows would be one field
            raise ValueError("a quote, where none was written")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        points = _numbers(rows, "rollout", ("growth", "q", "exact"))
        bins = _numbers(rows, "tenth", ("growth", "q"))
        curves = [
            {"selector": row["selector"]}
            | {name: int(row[name]) for name in ("steps", "rollouts", "forward_passes")}
            | {name: float(row[name]) for name in ("flops", "value", "low", "high")}
            for row in rows
            if row["panel"] == "accuracy"
        ]
    except _DAMAGED as error:
        raise _not_of_it(path, error) from error
    if not curves or any(curve["selector"] not in LOOKS for curve in curves):
        raise UserError(f"{path} holds no accuracy of the selectors {', '.join(LOOKS)}; {_MEND}")
    return FigureData(points, bins, curves, summary)


def _numbers(rows: Sequence[Mapping[str, str]], panel: str, names: Sequence[str]) -> np.ndarray:
    values = [[float(row[name]) for name in names] for row in rows if row["panel"] == panel]
    return np.array(values).reshape(-1, len(names))


def draw(data: FigureData) -> Figure:
    """Left: Q against growth, each standardised within its puzzle. Right: accuracy against passes for each selector."""
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.6), constrained_layout=True)
        _draw_rollouts(left, data)
        _draw_accuracies(right, data.curves)
        sides: tuple[tuple[Any, Literal["outside lower left", "outside lower right"]], ...]
        sides = ((left, "outside lower left"), (right, "outside lower right"))
        for axes, place in sides:
            handles, words = axes.get_legend_handles_labels()
            if words:
                figure.legend(handles, words, loc=place, ncols=3, fontsize=9)
    return figure


def _draw_rollouts(axes: Any, data: FigureData) -> None:
    axes.set_xlabel("growth of small perturbations (less stable →),\nstandardised within its puzzle")
    axes.set_ylabel("Q of the rollout,\nstandardised within its puzzle")
    if not len(data.points):
        words = "no puzzle is solved by some rollouts\nand missed by others, or Q or growth is constant"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=GREY)
        return
    exact = data.points[:, 2] > 0.5
    for kind, colour, marker, words in ((~exact, RED, "x", "wrong"), (exact, BLUE, "o", "right")):
        look: dict[str, Any] = {"color": colour, "marker": marker, "label": f"{words} rollout"}
        axes.scatter(*data.points[kind, :2].T, s=9, alpha=0.35, linewidths=0.8, **look)
    if len(data.bins):
        axes.plot(data.bins[:, 0], data.bins[:, 1], color="black", marker="o", markersize=4, label="mean of each tenth")
    lines = [
        f"{words}: {_written(data.summary['correlation_of_q_and_growth'][0][name])}"
        for name, words in (("within", "rank correlation within puzzles"), ("pooled", "pooled, all puzzles"))
    ]
    axes.set_title("\n".join(lines), loc="left", fontsize=9)


def _draw_accuracies(axes: Any, curves: Sequence[Mapping[str, Any]]) -> None:
    last = max(curve["steps"] for curve in curves)
    for name, (words, colour, marker, line) in LOOKS.items():
        # Without noise, what is spent is spent on more steps.
        drawn = [curve for curve in curves if curve["selector"] == name]
        chosen = drawn if name == NOISELESS else [curve for curve in drawn if curve["steps"] == last]
        if not chosen:
            continue
        passes = [curve["forward_passes"] for curve in chosen]
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": line, "label": words}
        axes.plot(passes, [curve["value"] for curve in chosen], markersize=4.5, **look)
        if name in ("q", "stability"):
            low, high = ([curve[end] for curve in chosen] for end in ("low", "high"))
            axes.fill_between(passes, low, high, color=colour, alpha=0.12, linewidth=0)
    for steps in sorted({curve["steps"] for curve in curves} - {last}):
        chosen = [curve for curve in curves if curve["selector"] == "q" and curve["steps"] == steps]
        passes = [curve["forward_passes"] for curve in chosen]
        axes.plot(passes, [curve["value"] for curve in chosen], color=BLUE, linewidth=0.8, alpha=0.7)
        beside: dict[str, Any] = {"xytext": (-4, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        axes.annotate(f"{steps}", (passes[0], chosen[0]["value"]), fontsize=8, color=BLUE, **beside)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    share_axis(axes)
    axes.set_xlabel("forward passes per puzzle (supervision steps, logarithmic)")
    axes.set_ylabel("solved puzzles")
    title = f"Choosing among rollouts of {last} steps; thin: highest Q after fewer steps"
    axes.set_title(title, loc="left", fontsize=9)


def caption(data: FigureData, command: str) -> str:
    """What is shown, with n, intervals and the numbers at all rollouts."""
    summary = data.summary
    settings = summary["settings"]
    first = summary["correlation_of_q_and_growth"][0]
    last, rollouts = summary["steps"][-1], summary["rollouts"]
    tenths = "Black: means of tenths of these rollouts, by growth. " if len(data.bins) else ""
    lines = [
        f"Stochastic rollouts (Probabilistic TRM, arXiv:2605.19943): noise of {settings.get('sigma')} on "
        f"{settings.get('site')} before each of {last} supervision steps; {summary['puzzles']} puzzles, {rollouts} "
        f"rollouts each; {summary['solved_always']} puzzles are solved by all rollouts, {summary['solved_partly']} by "
        f"some, {summary['solved_never']} by none.",
        "Left: rollouts of puzzles that some rollouts solve and some do not. Growth: ln of the factor by which the "
        f"distance to a trajectory {first['size']:g} of the state's norm away grows per supervision step, noise off, "
        f"from the rollout's end; no label enters it. {tenths}Rank "
        "correlation of Q and growth, 95 % bootstrap interval over puzzles:",
    ]
    for correlation in summary["correlation_of_q_and_growth"]:
        names = ("within", "within_given_margin", "pooled", "pooled_mixed")
        inside, given_margin, pooled_all, pooled_mixed = (_written(correlation[name]) for name in names)
        lines.append(
            f"  d0 {correlation['size']:g}: within puzzles {inside}; given the margin of the logits {given_margin}; "
            f"pooled over rollouts of all puzzles {pooled_all}, of these puzzles {pooled_mixed}."
        )
    lines.append(
        "  Share of pairs of a right and a wrong rollout of one puzzle that are ranked rightly: "
        + ", ".join(f"{name} {_written(area, '.2f')}" for name, area in summary["auroc_within_mixed"].items())
        + "."
    )
    lines.append(
        "Right: exact accuracy of the chosen answer with 1, 2, 4, ... rollouts; mean over all sets of so many of the "
        "rollouts, for the majority over groups that follow one another. Bands: 95 % interval over puzzles. Thin lines:"
        " the highest Q after fewer steps of the same rollouts, their number beside it. The passes of stability hold "
        "the probes that it needs. At random: the mean of all rollouts, whatever is spent. Stars: one trajectory "
        "without noise of so many steps. With all rollouts:"
    )
    for entry in summary["accuracy"]:
        if (entry["steps"], entry["rollouts"]) == (last, 1 if entry["selector"] == NOISELESS else rollouts):
            exact = entry["exact_accuracy"]
            low, high = exact["interval95"]
            lines.append(
                f"  {entry['selector']}: {exact['numerator']} of {exact['denominator']} = {exact['value']:.1%} (95 % "
                f"{low:.1%} to {high:.1%}), {entry['forward_passes']:,} passes and {entry['flops']:.3g} operations a "
                "puzzle."
            )
    return "\n".join([*lines, f"Figure: {command}"])


def _written(estimate: Mapping[str, Any], form: str = "+.2f") -> str:
    if estimate["value"] is None:
        return "not defined"
    interval = estimate["interval95"]
    ends = "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"
    return f"{estimate['value']:{form}}{ends} (n={estimate['puzzles']})"
