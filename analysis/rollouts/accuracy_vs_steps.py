"""Draw how accuracy depends on the number of supervision steps, from the reports of evaluate.py.

    python analysis/rollouts/accuracy_vs_steps.py RUN/evaluation_best.json [MORE.json ...] [--output-dir DIR]

Of each report the test rows are drawn, or the validation rows where it has no others. Writes accuracy_vs_steps.png,
.pdf and .svg, the plotted numbers as .csv and .json, and the caption as .txt, to the folder `figures` beside the
first report unless told otherwise.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np

from analysis.arms.run_curves import whole
from analysis.command_line import refuse_copies
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
    save_picture,
    share_axis,
)
from analysis.figures.made_of import results_folder
from dataset.plain_data import json_object_or_refuse
from files import file_sha256
from training.records.result_numbers import wilson_interval

# Colour and marker together, so that a curve is known without either.
LOOKS = ((BLUE, "o"), (ORANGE, "s"), (RED, "^"), (PURPLE, "D"), (GREEN, "v"), (GREY, "P"))
MOST_LINEAR_STEPS = 16
MAX_NAME = 48


@dataclass(frozen=True)
class StepPoint:
    """What `per_step` of a report says about one step, and the 95 % Wilson interval of its exact accuracy."""

    step: int
    exact_count: int
    count: int
    exact_accuracy: float
    low: float
    high: float
    accuracy: float
    halted_count: int


@dataclass(frozen=True)
class StepCurve:
    """One result of a report. trained_steps and mode are None where the report does not say."""

    name: str
    rows: str
    data: str
    points: list[StepPoint]
    trained_steps: int | None
    mode: dict[str, Any] | None

    @property
    def num_steps(self) -> int:
        return self.points[-1].step


def read_curves(reports: Sequence[Path]) -> list[StepCurve]:
    """The curves of some reports, in order. Errors: `UserError` when one has none, or there are too many to tell."""
    curves: list[StepCurve] = []
    for path, name in zip(reports, report_names(reports), strict=True):
        curves += _read_report(path, name)
    if len(curves) > len(LOOKS):
        raise UserError(f"{len(curves)} curves in the reports, expected at most {len(LOOKS)}: name fewer reports")
    return curves


def report_names(reports: Sequence[Path]) -> list[str]:
    """`run/best` for run/evaluation_best.json, or the path as given where that would name two reports alike."""
    short = [f"{path.resolve().parent.name}/{path.stem.removeprefix('evaluation_')}" for path in reports]
    names = short if len(set(short)) == len(short) else [str(path) for path in reports]
    return [name if len(name) <= MAX_NAME else "…" + name[1 - MAX_NAME :] for name in names]


def _read_report(path: Path, name: str) -> list[StepCurve]:
    mend = "make a report with: python evaluate.py checkpoint=RUN/best.pt"
    results = json_object_or_refuse(path, mend).get("results")
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise UserError(f"{path} is no report of evaluate.py, it has no list of results; {mend}")
    with_steps = [result for result in results if result.get("per_step")]
    chosen = [result for result in with_steps if result.get("rows") == "test"] or with_steps
    if not chosen:
        raise UserError(
            f"{path} holds no accuracy after each step (per_step): evaluate again without "
            "eval.adaptive_halt=True and eval.vote.views=N, which keep the last answers only"
        )
    curves = []
    for result in chosen:
        try:
            points = [_point(entry) for entry in result["per_step"]]
            trained = result.get("trained_steps")
            steps = [0, *(point.step for point in points)]
            if any(after <= before for before, after in zip(steps, steps[1:], strict=False)):
                raise ValueError("its steps do not ascend from 1")
            curves.append(StepCurve(
                name=name if len(chosen) == 1 else f"{name}, {Path(str(result.get('data'))).name}",
                rows=str(result.get("rows")), data=str(result.get("data")), points=points,
                trained_steps=None if trained is None else whole(trained, "trained_steps", least=1),
                mode=result["mode"] if isinstance(result.get("mode"), dict) else None,
            ))  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            rows = result.get("rows")
            raise UserError(f"{path}: per_step of the {rows} rows is damaged ({reason}); {mend}") from error
    return curves


def _point(entry: Any) -> StepPoint:
    """One entry of `per_step`. Errors: KeyError, TypeError or ValueError when it is none."""
    if not isinstance(entry, dict):
        raise TypeError(f"found {type(entry).__name__} in place of an entry")
    step = whole(entry["step"], "step", least=1)
    count = whole(entry["count"], "count", least=1)
    exact, halted = (whole(entry[name], name, most=count) for name in ("exact_count", "halted_count"))
    accuracy = entry["accuracy"]
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1 + 1e-9:
        raise ValueError(f"accuracy {accuracy!r}, expected a share")
    low, high = wilson_interval(exact, count)
    return StepPoint(step, exact, count, exact / count, low, high, float(accuracy), halted)


def draw(curves: Sequence[StepCurve]) -> Figure:
    """Two panels over supervision steps: exact and token accuracy; the share of rows that q would stop there."""
    trained = sorted({curve.trained_steps for curve in curves if curve.trained_steps is not None})
    last = max(*(curve.num_steps for curve in curves), *trained, 1)
    logarithmic = last > MOST_LINEAR_STEPS
    with matplotlib.rc_context(STYLE):
        figure, (upper, lower) = plt.subplots(
            2, 1, figsize=(7.2, 5.6), sharex=True, height_ratios=(3, 1), constrained_layout=True
        )
        if logarithmic:
            lower.set_xscale("log", base=2)
            lower.xaxis.set_major_locator(matplotlib.ticker.LogLocator(base=2, numticks=16))
            lower.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:.0f}"))
            lower.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
            limits = 0.9, last * 1.12
        else:
            lower.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
            limits = 0.5, last + 0.5
        lower.set_xlim(*limits)
        for curve, (color, marker) in zip(curves, LOOKS, strict=False):
            _draw_accuracies(upper, curve, color, marker, token_color=GREEN if len(curves) == 1 else color)
            _draw_stops(lower, curve, color, limits, fill=len(curves) == 1)
        for steps in trained:
            for axes in (upper, lower):
                axes.axvline(steps, color="black", linestyle=":", linewidth=1.4, zorder=1)
        share_axis(upper, whole=True)
        upper.set_ylabel("accuracy")
        share_axis(lower)
        lower.set_ylabel("rows that q\nwould stop here")
        lower.set_xlabel("supervision step" + (" (logarithmic)" if logarithmic else ""))
        lower.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, steps=[1, 2, 5, 10]))
        figure.align_ylabels((upper, lower))
        _legend(figure, curves, trained)
    return figure


def _draw_accuracies(axes: Any, curve: StepCurve, color: str, marker: str, *, token_color: str) -> None:
    points = curve.points
    steps = [point.step for point in points]
    # Markers at the powers of two, where a logarithmic axis has its ticks; at all steps of a short one.
    marked = [i for i, t in enumerate(steps) if len(steps) <= MOST_LINEAR_STEPS or t & (t - 1) == 0]
    style: dict[str, Any] = {"marker": marker, "markersize": 4.0, "markevery": marked, "clip_on": False}
    low, high = [point.low for point in points], [point.high for point in points]
    axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(steps, [point.exact_accuracy for point in points], color=color, **style)
    tokens = [point.accuracy for point in points]
    axes.plot(steps, tokens, color=token_color, linestyle="--", markerfacecolor="white", **style)


def _draw_stops(axes: Any, curve: StepCurve, color: str, limits: tuple[float, float], *, fill: bool) -> None:
    """A histogram with a bar from t - 1/2 to t + 1/2; the outline shows also bars thinner than a line."""
    steps = np.array([point.step for point in curve.points])
    shares = [point.halted_count / point.count for point in curve.points]
    edges = np.concatenate([steps - 0.5, steps[-1:] + 0.5]).clip(*limits)
    if fill:
        axes.stairs(shares, edges, fill=True, color=color, alpha=0.25, linewidth=0)
    axes.stairs(shares, edges, color=color, linewidth=1.2)


def _legend(figure: Figure, curves: Sequence[StepCurve], trained: Sequence[int]) -> None:
    """Above the axes, where it hides nothing; with one curve by what is drawn, with several by name too."""
    single = len(curves) == 1
    entries: list[tuple[Any, str]] = []
    if not single:
        entries = [
            (matplotlib.lines.Line2D([], [], color=color, marker=marker, markersize=4), curve.name)
            for curve, (color, marker) in zip(curves, LOOKS, strict=False)
        ]
    color, marker = LOOKS[0] if single else ("black", "")
    style: dict[str, Any] = {"marker": marker, "markersize": 4}
    tokens: dict[str, Any] = {"color": GREEN if single else color, "linestyle": "--", "markerfacecolor": "white"}
    entries += [
        (matplotlib.lines.Line2D([], [], color=color, **style), "exact accuracy"),
        (matplotlib.patches.Patch(color=color, alpha=0.2, linewidth=0), "its 95 % interval"),
        (matplotlib.lines.Line2D([], [], **tokens, **style), "token accuracy"),
    ]
    if trained:
        label = f"steps trained with: {', '.join(map(str, trained))}"
        entries.append((matplotlib.lines.Line2D([], [], color="black", linestyle=":", linewidth=1.4), label))
    handles, labels = zip(*entries, strict=True)
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=4 if single else 2, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a folder may be called run$1


def caption(curves: Sequence[StepCurve], command: str) -> str:
    """What is shown, of which reports, with n and intervals at the first, the best and the last step."""
    lines = [
        "Accuracy of the answer after each supervision step. Above: exact accuracy (every scored token right; solid, "
        "band: 95 % Wilson interval over rows) and token accuracy (mean over rows; dashed, open markers). Below: share "
        "of rows that the halting head q would stop at this step; the last step also holds the rows it would not stop."
    ]
    for curve in curves:
        best = max(curve.points, key=lambda point: point.exact_accuracy)
        lines.append(
            f"{curve.name}: n = {curve.points[-1].count} {curve.rows} rows of {curve.data}, "
            f"{curve.num_steps} steps evaluated{_conditions(curve)}."
        )
        lines.append(
            "  Exact: "
            + "; ".join(
                f"{words} {point.step}: {point.exact_count} of {point.count} = {point.exact_accuracy:.1%} "
                f"(95 % {point.low:.1%} to {point.high:.1%})"
                for words, point in (("step", curve.points[0]), ("best step", best), ("last step", curve.points[-1]))
            )
            + "."
        )
    lines.append("The best step is chosen on the rows it is reported on; the interval is of one model on other rows.")
    lines.append(f"Figure: {command}")
    return "\n".join(lines)


def _conditions(curve: StepCurve) -> str:
    words = "" if curve.trained_steps is None else f", {curve.trained_steps} trained with (dotted line)"
    if curve.mode is not None:
        words += ", mode " + ", ".join(f"{name} {value}" for name, value in curve.mode.items())
    return words


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT", help="evaluation_NAME.json of evaluate.py")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="default: figures beside the first report")
    options = parser.parse_args(argv)
    curves = read_curves(options.reports)
    refuse_copies((file_sha256(path), path) for path in options.reports)
    figures = options.output_dir or options.reports[0].parent / "figures"
    folder = results_folder(figures, ["accuracy_vs_steps"], options.reports, flag="--output-dir", script=__file__)
    stem = folder / "accuracy_vs_steps"
    command = f"python analysis/rollouts/accuracy_vs_steps.py {' '.join(map(str, options.reports))}"
    files = save_picture(
        draw(curves),
        stem,
        caption=caption(curves, command),
        rows=[{"curve": curve.name, "rows": curve.rows, **asdict(point)} for curve in curves for point in curve.points],
        numbers={"curves": [asdict(curve) for curve in curves]},
    )
    say(f"written: {files}")


if __name__ == "__main__":
    main()
