"""Collatz runs beside each other, beside the closed forms and beside the source's findings: tables and pictures.

    python projects/collatz/report/compare_runs.py RUN [RUN ...] --out DIR

RUN: folders of finished runs of collatz.py. Runs that differ in nothing but the seed are one arm; the first arm named
is the baseline. Numbers are means over seeds with their 95 % Student t intervals; differences are paired by seed.
Validation states choose the best weights and are in no other number. The closed forms, V_avg, V_min, V_max, V_tmin and
V_tmax among them, are judged on the same steps at the same lookahead; a run that does not beat the best of them says
so, with the bound below which no function of ln n and the window comes beside it.

Writes to DIR collatz_report.txt, .csv (a line for each run and moment) and .json, and three figures as .png and .svg,
with their numbers as .csv and .json and a caption as .txt: collatz_margins (along the five orbits), collatz_lookahead
(violations against the lookahead) and collatz_training (loss, validation, learning rate).
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from arguments import FlagParser
from errors import exit_on_user_error, require_packages, say

require_packages()

import numpy as np

from analysis.arms.labels import names_of_folders
from analysis.arms.run_curves import origin_lines, origin_of, refuse_twice
from analysis.arms.seed_pairs import INTERVAL
from analysis.figures.figure_files import Figure, save_caption, save_csv, save_json, save_picture
from analysis.figures.made_of import results_folder
from projects.collatz.closed_forms import Tilted
from projects.collatz.report.arms import CollatzArm, collatz_arms
from projects.collatz.report.comparisons import (
    BEATS_IN_WORDS,
    against_closed,
    arm_records,
    closed_records,
    differences,
    run_records,
    run_verdicts,
)
from projects.collatz.report.figures import (
    draw_lookahead,
    draw_margins,
    draw_training,
    lookahead_rows,
    margin_rows,
    training_rows,
)
from projects.collatz.report.findings import finding_lines, findings
from projects.collatz.report.margins import closed_form_margins, run_margins
from projects.collatz.report.runs import CollatzRun, read_collatz_run
from projects.collatz.report.tables import (
    closed_lines,
    comparison_table,
    difference_lines,
    hard_seed_records,
    hard_seed_table,
    peak_and_final_table,
    words_table,
)
from training.evaluation.summary_table import wrapped
from training.records.result_numbers import Number, estimate, record_entry

SCHEMA_VERSION = 1
# Names of all that is written, without endings.
WRITTEN = ("collatz_report", "collatz_margins", "collatz_lookahead", "collatz_training")
_LOOKED_AHEAD = 40  # of the figure, at least


def best_run(arms: Sequence[CollatzArm]) -> CollatzRun:
    """The run whose best weights pass most validation states, which are reported nowhere."""
    runs = [run for arm in arms for run in arm.runs]
    return max(runs, key=lambda run: float((run.summary.get("best") or {}).get("value") or 0.0))


def origin(runs: Sequence[CollatzRun], command: str) -> dict[str, Any]:
    """What made the numbers: command, commits, machines, data, seeds, n."""
    first = runs[0].report["samples"]
    return {
        "command": command,
        **origin_of([run.provenance for run in runs]),
        "seeds": sorted({run.seed for run in runs if run.seed is not None}),
        "n_runs": len(runs),
        "n_on_orbit": first["on_orbit"]["states"],
        "n_rows": next((run.rows for run in runs if run.rows is not None), None),
        "n_orbit_steps": sum(count["steps"] for count in runs[0].entries["final"]["orbits"].values()),
        "n_fresh_steps": sum(count["steps"] for count in runs[0].entries["final"]["fresh"].values()),
        "interval": INTERVAL.replace("puzzles", "numbers"),
    }


def source_lines(origin: dict[str, Any]) -> list[str]:
    """The last lines of every caption."""
    return [
        f"n = {origin['n_on_orbit']:,} on-orbit steps, {origin['n_orbit_steps']} steps along five orbits, "
        f"{origin['n_fresh_steps']:,} along seven fresh ones, {origin['n_rows'] or 'no'} rows of an evaluation file; "
        f"runs: {origin['n_runs']}, seeds {', '.join(map(str, origin['seeds']))}.",
        *origin_lines(origin),
        f"Figure: {origin['command']}",
    ]


def save_with_source(
    figure: Figure, stem: Path, rows: Sequence[dict[str, Any]], words: str, origin: dict[str, Any]
) -> None:
    """The picture, its numbers and its caption."""
    text, numbers = "\n".join([words, *source_lines(origin)]), origin | {"points": rows}
    save_picture(figure, stem, caption=text, rows=rows, numbers=numbers, formats=("png", "svg"))


_SHARES = {"on_orbit": "violated on-orbit steps", "pass": "passed rows of the file",
           "growth_weighted_pass": "passed rows, weighted by growth", "growth_pass": "passed growth steps of the file",
           "decay_pass": "passed decay steps of the file"}  # fmt: skip
_MOMENTS = {"best": "peak", "final": "final"}


def numbers(report: Mapping[str, Any]) -> list[Number]:
    """For the records of results, of collatz_report.json: arms, then every arm against the best closed form."""
    counts = {"orbits": ("violations along five orbits", report["n_orbit_steps"]),
              "fresh": ("violations along fresh orbits", report["n_fresh_steps"])}  # fmt: skip
    measured = []
    for arm in report["arms"]:
        for moment, name in _MOMENTS.items():
            for key, words in _SHARES.items():
                measured += estimate(f"{arm['label']}: {words}", arm[moment].get(key), 100, "%", moment=name)
            for key, (words, total) in counts.items():
                measured += estimate(f"{arm['label']}: {words}", arm[moment].get(key), of=total, moment=name)
    for comparison in report["against_closed"]:
        if comparison["moment"] == "best" and comparison["metric"] == "on_orbit":
            closed = f"{comparison['closed_form']}: violated on-orbit steps"
            measured += estimate(
                f"{comparison['arm']} minus {closed}", comparison["interval"], 100, "points", moment="peak"
            )
            measured.append(
                Number(f"{closed} (beside {comparison['arm']})", 100 * comparison["closed_value"], unit="%")
            )
    return [*measured, Number("training runs", report["n_runs"])]


def conclusions(report: Mapping[str, Any]) -> list[str]:
    """For the records of results: what came out of every claim that could be looked at."""
    beaten = []
    for comparison in report["against_closed"]:
        if comparison["moment"] == "best" and comparison["metric"] == "on_orbit":
            alone = comparison["interval"]["low"] is None
            verb = "has no interval against" if alone else BEATS_IN_WORDS[comparison["beats"]]
            beaten.append(f"{comparison['arm']} {verb} {comparison['closed_form']}, on-orbit, best")
    claims = []
    for finding in report["findings"]:
        parts = [f"{measure['what']}, {measure['between']}: {measure['text']}" for measure in finding["measures"]]
        if finding["verdict"] != "not run":
            claims.append(f"{finding['verdict']}: {finding['claim']} ({'; '.join(parts)})")
    return [*beaten, *claims]


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs (--output-dir)")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for tables and figures")
    options = parser.parse_args(argv)
    refuse_twice(options.runs)
    runs = [read_collatz_run(folder) for folder in options.runs]
    arms = collatz_arms(runs)
    margins = {run.folder: run_margins(run, "final") for run in runs}
    judged, gaps, closed = findings(arms, margins), differences(arms), against_closed(arms)
    verdicts = dict(zip(names_of_folders(options.runs), map(run_verdicts, runs), strict=True))
    hard = hard_seed_records(arms)
    table = [
        *comparison_table(arms), "", *wrapped([*closed_lines(closed), *(words["best"] for words in verdicts.values())]),
        "", *words_table(arms), "", *wrapped(difference_lines(arms, gaps)), "", *peak_and_final_table(arms), "",
        *hard_seed_table(hard), "", *wrapped(finding_lines(judged)),
    ]  # fmt: skip
    say(*table)

    command = "python projects/collatz/report/compare_runs.py " + shlex.join(
        [*map(str, options.runs), "--out", str(options.out)]
    )
    folder, source = results_folder(options.out, WRITTEN, options.runs, script=__file__), origin(runs, command)
    save_caption("\n".join(table), folder / "collatz_report.txt")
    save_csv(run_records(arms), folder / "collatz_report.csv")
    report = {
        "schema_version": SCHEMA_VERSION, **source,
        "arms": arm_records(arms),
        "closed_forms": closed_records(arms),
        "against_closed": [asdict(comparison) for comparison in closed],
        "verdicts": verdicts,
        "differences": [asdict(difference) for difference in gaps],
        "findings": [asdict(finding) | {"verdict": finding.verdict} for finding in judged],
        "hard_seeds": hard,
        "runs": run_records(arms),
    }  # fmt: skip
    seconds = [run.summary.get("train_seconds") for run in runs]
    entry = record_entry(
        numbers(report),
        commands=[command],
        config_hashes=[arm.settings_sha256 for arm in arms],
        runs=[run.provenance for run in runs],
        datasets=["synthetic"],
        seeds=source["seeds"],
        seconds=sum(filter(None, seconds)) or None,
        findings=conclusions(report),
    )
    save_json(report | entry, folder / "collatz_report.json")

    best, tmax = best_run(arms), Tilted(np.argmax, 1.0)
    functions = {
        f"{best.name}, best weights": run_margins(best, "best"),
        f"{tmax.name} at L = {best.lookahead}": closed_form_margins(tmax, best.lookahead),
    }
    save_with_source(
        draw_margins(functions), folder / "collatz_margins", margin_rows(functions),
        f"Margins V(n) - V(T(n)) along the five orbits, over the slope dV / d ln n. Learned: {best.name} (seed "
        f"{best.seed}), the run whose best weights pass most validation states. Crosses, and strokes at the foot of "
        "the panel: violated steps. Grey: ln T^j(n). The scale is linear within 0.01 and logarithmic beyond.", source,
    )  # fmt: skip
    points = lookahead_rows(arms, max([_LOOKED_AHEAD, *(arm.lookahead for arm in arms)]))
    save_with_source(
        draw_lookahead(points), folder / "collatz_lookahead", points,
        "Violations against the lookahead. Left: share of on-orbit steps; black lines: theory on uniform residues "
        "(projects/collatz/bounds.py), grey signs: closed forms on the steps that the runs are judged on. Right: along "
        "the five orbits; grey lines: closed forms at every lookahead, stars: the source's runs 5 and 6. Coloured: "
        "networks, large the mean of an arm's best weights, small its runs. Vertical lines: "
        f"{source['interval']}. Arms of one lookahead stand side by side.", source,
    )  # fmt: skip
    curves = training_rows(arms)
    save_with_source(
        draw_training(arms, curves), folder / "collatz_training", curves,
        "Training, a thin line for each run, a colour and line for each arm. Above: loss, means over stretches of "
        "updates; losses of arms with different lookaheads, targets or weights are not comparable. Middle: share of "
        "violated on-orbit validation steps, which choose the best weights. Below: learning rate.", source,
    )  # fmt: skip
    say(
        f"written: {folder / 'collatz_report.txt'} (also .csv .json), {folder / 'collatz_margins.png'}, "
        "collatz_lookahead.png, collatz_training.png (also .svg .csv .json .txt)"
    )


if __name__ == "__main__":
    main()
