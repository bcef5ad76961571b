"""Draw how a run learned: accuracy on the validation rows and training loss over updates.

    python analysis/arms/training_curve.py RUN [--output-dir DIR]

Reads RUN's metrics.jsonl, summary.json and provenance.json (a run still going on too). Writes training_curve.png,
.pdf and .svg, the plotted numbers as .csv and .json, and the caption as .txt, to RUN/figures unless told otherwise.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from analysis.arms.run_curves import commit_of
from analysis.figures.figure_files import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
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
from training.records.metrics_log import read_metrics
from training.records.result_numbers import command_of, wilson_interval
from training.records.run_sessions import numbers_of, sessions_of
from training.storage.run_folder import RunFolder


@dataclass(frozen=True)
class Curves:
    """What a run's log holds for this picture. Each row has `step` (update) and the named values."""

    validation: list[dict[str, Any]]  # exact_accuracy, low, high, exact_count, count, accuracy
    training: list[dict[str, Any]]  # lm_loss, accuracy, exact_accuracy (of rows that halted)
    summary: dict[str, Any]
    provenance: dict[str, Any]


def read_curves(folder: Path) -> Curves:
    """Read a run folder. Errors: `UserError` when it is none, or holds nothing to draw yet."""
    run = RunFolder(folder)
    if not run.metrics.is_file():
        raise UserError(f"{folder} has no {run.metrics.name}: name the checkpoint_path of a run")
    validation, training, step = [], [], 0
    for record in read_metrics(run.metrics):
        step = record["step"]
        # Small sets have one validation; large ones a fast one more often than the full one.
        for kind in ("eval/validation", "eval/fast"):
            if record.get(f"{kind}/count") and f"{kind}/exact_count" in record:
                exact, count = int(record[f"{kind}/exact_count"]), int(record[f"{kind}/count"])
                low, high = wilson_interval(exact, count)
                validation.append(
                    {
                        "step": step,
                        "rows": kind.split("/")[1],
                        "exact_accuracy": exact / count,
                        "low": low,
                        "high": high,
                        "exact_count": exact,
                        "count": count,
                        "accuracy": record[f"{kind}/accuracy"],
                    }
                )
                break
        if record.get("train/lm_loss") is not None:
            names = ("lm_loss", "accuracy", "exact_accuracy")
            training.append({"step": step} | {name: record.get(f"train/{name}") for name in names})
    if not validation and not training:
        raise UserError(
            f"{run.metrics} holds no losses and no evaluations of a run on puzzles yet: let it go on for a while"
        )
    summary, provenance = (
        json_object_or_refuse(path) if path.is_file() else {} for path in (run.summary, run.provenance)
    )
    return Curves(validation, training, summary, numbers_of(provenance, step))


def draw(curves: Curves) -> Figure:
    """Two panels over updates: accuracies with 95 % intervals and the trivial predictor; training loss."""
    with matplotlib.rc_context(STYLE):
        figure, (upper, lower) = plt.subplots(
            2, 1, figsize=(7.2, 5.6), sharex=True, height_ratios=(3, 2), constrained_layout=True
        )
        rows = curves.validation
        if rows:
            _draw_accuracies(upper, curves)
        share_axis(upper, whole=True)
        upper.set_ylabel("accuracy on validation rows")
        if curves.training:
            steps = [row["step"] for row in curves.training]
            lower.plot(steps, [row["lm_loss"] for row in curves.training], color=ORANGE, label="training loss")
            lower.set_ylim(bottom=0)
        lower.set_ylabel("training loss\n(nats per token)")
        lower.set_xlabel("updates")
        lower.set_xlim(left=0)
        lower.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        figure.align_ylabels((upper, lower))
    return figure


def _draw_accuracies(axes: Any, curves: Curves) -> None:
    rows = curves.validation
    steps = [row["step"] for row in rows]
    marker = "o" if len(rows) <= 40 else None
    exact = [row["exact_accuracy"] for row in rows]
    low, high = [row["low"] for row in rows], [row["high"] for row in rows]
    axes.plot(steps, exact, color=BLUE, marker=marker, markersize=3.5, label="puzzles solved")
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0, label="its 95 % interval")
    tokens = [row["accuracy"] for row in rows]
    axes.plot(steps, tokens, color=GREEN, marker=marker, markersize=3.5, label="cells right")
    trivial = best_baseline(curves.summary)
    if trivial is not None:
        name, value = trivial
        axes.axhline(value, color=GREY, linestyle="--", linewidth=1.2, label=f"cells right, {name}")
    best = curves.summary.get("best")
    if best and best.get("denominator"):
        label = f"best: {best['value']:.1%} at update {best['step']}"
        star: dict[str, Any] = {"markersize": 14, "markeredgecolor": "white", "zorder": 5, "clip_on": False}
        axes.plot(best["step"], best["value"], "*", color=RED, label=label, **star)
    axes.figure.legend(loc="outside lower center", ncols=3, fontsize=9)


def best_baseline(summary: dict[str, Any]) -> tuple[str, float] | None:
    """The trivial predictor with the highest token accuracy, in words, and that accuracy."""
    words = {
        "copy_input": "input copied",
        "most_frequent_token": "most frequent digit",
        "constant": "one digit everywhere",
        "copy_givens": "givens copied, rest guessed",
    }
    accuracies = {
        name: item["accuracy"]
        for name, item in (summary.get("baselines") or {}).items()
        if isinstance(item, dict) and "accuracy" in item
    }
    if not accuracies:
        return None
    name = max(accuracies, key=lambda key: accuracies[key])
    return words.get(name, name), float(accuracies[name])


def caption(folder: Path, curves: Curves, command: str) -> str:
    """What is shown, from which run, with n and intervals."""
    record = curves.provenance
    lines = [
        f"Training of {folder.name}. Above: share of validation puzzles solved (every cell right) and of cells "
        "right, after the full number of supervision steps; band: 95 % Wilson interval over puzzles; star: the "
        "evaluation that chose best.pt; dashed: the best trivial predictor's share of cells. Below: training loss "
        "of the rows of each update, averaged between log lines."
    ]
    counts = sorted({row["count"] for row in curves.validation})
    if counts:
        lines.append(
            f"n = {' or '.join(map(str, counts))} validation puzzles per point, one run "
            f"(seed {(record.get('seeds') or {}).get('seed', 'unknown')})."
        )
    for which, test in (curves.summary.get("test") or {}).items():
        if test.get("denominator"):
            low, high = wilson_interval(test["numerator"], test["denominator"])
            lines.append(
                f"Test puzzles, which chose nothing, {which} weights (update {test['step']}): {test['numerator']} of "
                f"{test['denominator']} solved = {test['value']:.1%} (95 % {low:.1%} to {high:.1%})."
            )
    sessions = sessions_of([record])
    commands = dict.fromkeys(filter(None, map(command_of, sessions)))
    lines.append(f"Run: {', then '.join(commands) or 'command not recorded'}")
    commits = ", ".join(dict.fromkeys(map(commit_of, sessions)))
    lines.append(f"Commit {commits}; {curves.summary.get('num_params', 'unknown number of')} parameters.")
    lines.append(f"Figure: {command}")
    return "\n".join(lines)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder (checkpoint_path)")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="default: RUN/figures")
    options = parser.parse_args(argv)
    curves = read_curves(options.run)
    folder = results_folder(
        options.output_dir or options.run / "figures",
        ["training_curve"],
        [options.run],
        flag="--output-dir",
        script=__file__,
    )
    stem = folder / "training_curve"
    kinds = {"validation": curves.validation, "training": curves.training}
    files = save_picture(
        draw(curves),
        stem,
        caption=caption(options.run, curves, f"python analysis/arms/training_curve.py {options.run}"),
        rows=[{"curve": kind, **row} for kind, rows in kinds.items() for row in rows],
        numbers=kinds | {"summary": curves.summary},
    )
    say(f"written: {files}")


if __name__ == "__main__":
    main()
