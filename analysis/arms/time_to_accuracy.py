"""How long runs trained before they reached an accuracy: in seconds, updates, operations or rows, off one logged curve.

    python analysis/arms/time_to_accuracy.py RUN [RUN ...] [--target 0.75] [--metric eval/fast/exact_accuracy]
        [--x seconds|updates|flops|samples] [--output-dir DIR]

For every run the first logged evaluation at the target or above, and the first from which on all of them are. Runs
that differ in nothing but the seed are one group, with the median of its runs and their range. A run that never gets
there counts as later than all that do, and is listed with the length in which it did not.

Reads each RUN's metrics.jsonl and provenance.json (a run still going on too). Prints a table and writes
time_to_accuracy.png, .pdf and .svg, the table as .csv, table and curves as .json, and the caption as .txt, to the
figures folder of the first RUN unless told otherwise.
"""

import argparse
import itertools
import math
import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import exit_on_user_error, require_packages, say

require_packages()

import numpy as np

from analysis.arms.labels import arm_labels
from analysis.arms.run_curves import (
    AXES,
    CurvePoint,
    RunCurve,
    all_finished,
    counted,
    origin_lines,
    origin_of,
    read_run,
    refuse_other_data,
    refuse_twice,
)
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
from errors import UserError
from files import file_sha256
from training.evaluation.summary_table import aligned
from training.records.provenance import settings_sha256
from training.records.result_numbers import Number, record_entry
from training.storage.run_folder import RunFolder

_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE)
LEGEND_WIDTH = 95  # characters; a longer line would leave the axes no room
_LINES = ("-", "--", ":")
_ORIGIN = ("argv", "config_hash", "datasets", "cpu", "gpu", "num_threads", "world_size")


@dataclass(frozen=True)
class Crossing:
    """Where a run reaches the target: `first`, and `stays`, from which on no evaluation is below it. None: never."""

    first: CurvePoint | None
    stays: CurvePoint | None


@dataclass(frozen=True)
class Group:
    """Runs of the same settings. `median`, `low`, `high`: of the first crossings; None where that run has none."""

    label: str
    settings_sha256: str
    runs: list[RunCurve]
    crossings: list[Crossing]
    median: float | None
    low: float | None
    high: float | None

    @property
    def reached(self) -> int:
        return sum(crossing.first is not None for crossing in self.crossings)


def crossing_of(points: Sequence[CurvePoint], target: float) -> Crossing:
    """First point with `value >= target`, and the first with none below it from there on."""
    first = next((point for point in points if point.value >= target), None)
    kept = list(itertools.takewhile(lambda point: point.value >= target, reversed(points)))
    return Crossing(first, kept[-1] if kept else None)


def grouped(runs: Sequence[RunCurve], target: float) -> list[Group]:
    """Groups in the order in which their first runs are named, each labelled by what it does not share.

    Errors: `UserError` where the runs of one are on other data.
    """
    members_of: dict[str, list[RunCurve]] = {}
    for run in runs:
        members_of.setdefault(settings_sha256(run.settings), []).append(run)
    groups = []
    labels = arm_labels([members[0].settings for members in members_of.values()])
    for label, (digest, members) in zip(labels, members_of.items(), strict=True):
        refuse_other_data((run.provenance, run.folder) for run in members)
        crossings = [crossing_of(run.points, target) for run in members]
        # Later than every number: a median over the runs that got there alone would flatter the group.
        reached = [math.inf if crossing.first is None else crossing.first.x for crossing in crossings]
        numbers = (_finite(np.median(reached)), _finite(min(reached)), _finite(max(reached)))
        groups.append(Group(label, digest, members, crossings, *numbers))
    return groups


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def table(groups: Sequence[Group], target: float, axis: str) -> list[str]:
    """Lines for people: a line per run, then one per group."""
    rows: list[Sequence[str]] = [("run", "group", "seed", f"first at {target:g}", "stays from", "best", "rows")]
    for group, run, crossing in _runs_with_crossings(groups):
        first = _missed(run, axis) if crossing.first is None else _written(crossing.first.x, axis)
        lost = "-" if crossing.first is None else "lost again"
        stays = lost if crossing.stays is None else _written(crossing.stays.x, axis)
        best = max(point.value for point in run.points)
        counts = " or ".join(map(str, _counts([run]))) or "not logged"
        rows.append((run.folder.name, group.label, str(run.seed), first, stays, f"{best:.4f}", counts))
    return [*aligned(rows), "", *(f"{group.label}: {spread(group, axis)}" for group in groups)]


def spread(group: Group, axis: str) -> str:
    """`median 12 s (9 s to not reached), 2 of 3 seeds`."""
    runs, seeds = len(group.runs), len({run.seed for run in group.runs})
    of = f"{group.reached} of {'' if seeds == runs else f'{runs} runs of '}{counted(seeds, 'seed')}"
    if not group.reached:
        return f"not reached, {of}"
    low, high, median = (_written(value, axis) for value in (group.low, group.high, group.median))
    return f"median {median} ({low} to {high}), {of}" if runs > 1 else f"{median}, {of}"


def _written(value: float | None, axis: str) -> str:
    return "not reached" if value is None else AXES[axis][2].format(value)


def _missed(run: RunCurve, axis: str) -> str:
    return f"not reached in {_written(run.points[-1].x, axis)}"


def _counts(runs: Sequence[RunCurve]) -> list[int]:
    return sorted({point.rows for run in runs for point in run.points if point.rows is not None})


def _runs_with_crossings(groups: Sequence[Group]) -> Iterator[tuple[Group, RunCurve, Crossing]]:
    for group in groups:
        for run, crossing in zip(group.runs, group.crossings, strict=True):
            yield group, run, crossing


def records(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One flat row per run, of numbers and names; empty where the target was not reached."""
    rows = []
    for group, run, crossing in _runs_with_crossings(groups):
        row: dict[str, Any] = {
            "run": run.folder.name,
            "group": group.label,
            "settings_sha256": group.settings_sha256,
            "seed": run.seed,
        }
        for name, point in (("first", crossing.first), ("stays", crossing.stays), ("last", run.points[-1])):
            values = asdict(point) if point is not None else dict.fromkeys(("step", "x", "value", "rows"))
            row |= {f"{name}_{key}": value for key, value in values.items()}
        rows.append(row | {"best_value": max(point.value for point in run.points), "evaluations": len(run.points)})
    return rows


def numbers(groups: Sequence[Group], target: float, metric: str, axis: str) -> list[Number]:
    """For the records of results: of each group where its runs first reach the target, median and range over runs."""
    measured = []
    for group in groups:
        label = f"{group.label}: " if len(groups) > 1 else ""
        rows = " or ".join(map(str, _counts(group.runs))) or "an unknown number of"
        name = f"{label}{metric} first at {100 * target:g} % on {rows} rows"
        total, reached = len(group.runs), [crossing.first for crossing in group.crossings if crossing.first is not None]
        for unit in dict.fromkeys((axis, "updates")):
            values = [point.step if unit == "updates" else point.x for point in reached]
            everybody = [*values, *[math.inf] * (total - len(values))]
            median, high = _finite(np.median(everybody)), _finite(max(everybody))
            what = name if unit == "updates" else f"{name}, {unit}"
            if median is not None:
                measured.append(Number(f"{what} (range over runs)", median, min(values), high, len(values), unit=unit))
        if len(reached) < total:
            measured.append(Number(f"{name}: runs that get there", len(reached), of=total))
        measured.append(Number(f"{label}last update", max(run.points[-1].step for run in group.runs)))
    return measured


def draw(groups: Sequence[Group], target: float, metric: str, axis: str) -> Figure:
    """All curves against --x: a colour per group, a thin line per run, the target, and where each first reaches it."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.6), constrained_layout=True)
        styles = [(colour, line) for line in _LINES for colour in _COLOURS]
        for group, (colour, line) in zip(groups, itertools.cycle(styles), strict=False):
            for run, crossing in zip(group.runs, group.crossings, strict=True):
                x, values = [point.x for point in run.points], [point.value for point in run.points]
                axes.plot(x, values, color=colour, linestyle=line, linewidth=0.9, alpha=0.8)
                if crossing.first is not None:
                    at = crossing.first.x, crossing.first.value
                    axes.plot(*at, "o", color=colour, markersize=5, markeredgecolor="white", zorder=5)
            label = textwrap.fill(f"{group.label}: {spread(group, axis)}", LEGEND_WIDTH)
            axes.plot([], [], color=colour, linestyle=line, marker="o", markersize=5, label=label)
            if group.median is not None:
                axes.vlines(group.median, 0, target, color=colour, linestyle=":", linewidth=1.4)
        axes.axhline(target, color=GREY, linestyle="--", linewidth=1.2, label=f"target {target:.4g}", zorder=1)
        axes.set_xlim(left=0)
        share_axis(axes, whole=True)
        axes.set_ylabel(metric)
        axes.set_xlabel(AXES[axis][1])
        figure.legend(loc="outside lower left", fontsize=9)
    return figure


def caption(groups: Sequence[Group], target: float, metric: str, axis: str, command: str) -> str:
    """What is shown, with the denominators, the seeds, the machines, and what was not reached."""
    runs = [run for group in groups for run in group.runs]
    counts = " or ".join(map(str, _counts(runs))) or "an unknown number of"
    lines = [
        f"{metric} against {AXES[axis][1]}. Thin lines: one run each, a colour per group of runs that differ in "
        f"nothing but the seed. Dots: the first logged evaluation at {target:.4g} or above; dotted: the median of the "
        "group's runs, of which those that never get there count as later than all others. Between two evaluations "
        "nothing is interpolated: a run may have been there earlier, by up to one interval.",
        f"n = {counts} rows per evaluation; {len(runs)} runs in {counted(len(groups), 'group')}.",
    ]
    for group in groups:
        seeds = ", ".join(str(run.seed) for run in group.runs)
        lines.append(f"{group.label} (settings {group.settings_sha256[:12]}, seeds {seeds}): {spread(group, axis)}.")
    for _, run, crossing in _runs_with_crossings(groups):
        if crossing.first is None:
            best = max(point.value for point in run.points)
            lines.append(f"{run.folder.name}: {_missed(run, axis)} (best {best:.4f}).")
        elif crossing.stays is None:
            lines.append(f"{run.folder.name}: below the target again at its last evaluation.")
    return "\n".join([*lines, *origin_lines(origin_of([run.provenance for run in runs])), f"Figure: {command}"])


def _origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers of a run are traced by; the whole is in its provenance.json."""
    git = record.get("git") or {}
    commit = {name: git.get(name) for name in ("commit", "dirty")}
    return {name: record.get(name) for name in _ORIGIN} | {"git": commit}


def _target(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and up to 1, such as 0.75, found {text!r}")
    return value


def _metric(text: str) -> str:
    if not text.endswith("accuracy"):
        raise argparse.ArgumentTypeError(f"expected an accuracy, such as eval/fast/exact_accuracy, found {text!r}")
    return text


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders (checkpoint_path)")
    parser.add_argument("--target", type=_target, default=0.75, help="share to reach (default: %(default)s)")
    parser.add_argument(
        "--metric", type=_metric, default="eval/fast/exact_accuracy", help="key of the log (default: %(default)s)"
    )
    parser.add_argument("--x", choices=AXES, default="seconds", help="training compute (default: %(default)s)")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="default: figures in the first RUN")
    options = parser.parse_args(argv)
    refuse_twice(options.runs)
    runs = [read_run(folder, options.metric, options.x) for folder in options.runs]
    refuse_copies((file_sha256(RunFolder(folder).metrics), folder) for folder in options.runs)
    for run in runs:
        if run.lost is not None:
            first, last = run.lost
            raise UserError(
                f"{RunFolder(run.folder).metrics} has no line of updates {first} to {last}, so that when the run got "
                "where is not known: name runs with a whole log"
            )
    groups = grouped(runs, options.target)
    figures = options.output_dir or options.runs[0] / "figures"
    shown = {"target": options.target, "metric": options.metric, "x": options.x}
    asked = {f"--{name}": value for name, value in shown.items()}
    folder = results_folder(figures, ["time_to_accuracy"], options.runs, asked, flag="--output-dir", script=__file__)
    say(*table(groups, options.target, options.x))
    stem = folder / "time_to_accuracy"
    rows = records(groups)
    typed = [*map(str, options.runs), *(f"{flag}={value}" for flag, value in asked.items())]
    command = f"python analysis/arms/time_to_accuracy.py {shlex.join(typed)}"
    kept = ("label", "settings_sha256", "reached", "median", "low", "high")
    described = [{"runs": len(group.runs)} | {name: getattr(group, name) for name in kept} for group in groups]
    curves = [
        row | {"points": [asdict(point) for point in run.points], "provenance": _origin(run.provenance)}
        for row, (_, run, _) in zip(rows, _runs_with_crossings(groups), strict=True)
    ]
    entry = record_entry(
        numbers(groups, options.target, options.metric, options.x),
        commands=[command],
        runs=[run.provenance for run in runs],
        config_hashes=[run.provenance.get("config_hash") for run in runs],
        seeds=[run.seed for run in runs],
        finished=all_finished(runs),
        seconds=sum(run.points[-1].x for run in runs) if options.x == "seconds" else None,
    )
    files = save_picture(
        draw(groups, options.target, options.metric, options.x),
        stem,
        caption=caption(groups, options.target, options.metric, options.x, command),
        rows=rows,
        numbers={"command": command, **shown, "groups": described, "runs": curves} | entry,
    )
    say(f"written: {files}")


if __name__ == "__main__":
    main()
