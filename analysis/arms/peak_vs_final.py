"""Initial, best and final accuracy of runs on test puzzles, and what separates their arms, paired over seeds.

    python analysis/arms/peak_vs_final.py RUN [RUN ...] --out DIR

Runs that differ in nothing but the seed are one arm, and are refused where their data differ. In every network
(equal arch.*) the first arm named is the baseline: name its runs first. Validation puzzles chose the best weights of a
run; every accuracy of the table is on test puzzles, which chose nothing. An arm is compared with its baseline on the
seeds that both have: the difference for each seed, their mean with its 95 % t interval, and for each seed McNemar's
exact test of the puzzles that only one of the two solves. Runs with the same eval.perturbed_starts are also compared in
the share of rollouts from perturbed starts that end in a solution. Then arms at equal updates, passes and seconds, read
off the validation curves, and the signs by which training on perturbed trajectories would be seen to work.

Reads each RUN's summary.json, metrics.jsonl, provenance.json and, for McNemar's test, test_rows.json; accuracy from
perturbed starts also from evaluation_final_perturbed*.json and evaluation_best_perturbed*.json, as
`evaluate.py checkpoint=RUN/final.pt "eval.perturbed_starts.sigma=[0.1,1]"` writes them. Writes to DIR the table as
peak_vs_final.txt, .csv (a line per run) and .json, and the figure
Fig3_trajectory_perturbation_improves_peak_accuracy.png and .svg with its numbers as .csv and .json and its caption as
.txt.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import exit_on_user_error, require_packages, say

require_packages()

import numpy as np

from analysis.arms.equal_budgets import at_equal_budgets, budget_table
from analysis.arms.finished_runs import COMPARED, MOMENTS, Arm, TestAccuracy, arms_of, read_finished
from analysis.arms.peak_vs_final_figure import FIGURE, cost_of, draw, number_or_dash, plotted
from analysis.arms.run_curves import all_finished, origin_lines, origin_of, refuse_twice
from analysis.arms.seed_pairs import CLEAN, INTERVAL, Difference, MeanInterval, compared, mean_interval, with_baseline
from analysis.figures.figure_files import save_caption, save_csv, save_json, save_picture
from analysis.figures.made_of import results_folder
from training.evaluation.summary_table import aligned
from training.records.result_numbers import Number, estimate, record_entry, wilson_interval

_MOMENT_NAMES = {"initial": "initial", "best": "peak", "final": "final"}


def snapshot(arms: Sequence[Arm]) -> list[str]:
    """One line per arm, as `HRM baseline: initial 0.5176, best 0.6328 @ 5000, final 0.5801`; means over seeds."""
    width = max(len(arm.label) for arm in arms) + 1
    lines = []
    for arm in arms:
        moments = []
        for moment in MOMENTS:
            values = arm.values(moment)
            number = f"{np.mean(values):.4f}" if len(values) == len(arm.runs) else "-"
            steps = dict.fromkeys(str(run.tested["best"].step) for run in arm.runs) if moment == "best" else ()
            at = f" @ {', '.join(steps)}" if steps else ""
            moments.append(f"{moment} {number}{at}")
        mean = f" (mean of {len(arm.runs)} seeds)" if len(arm.runs) > 1 else ""
        lines.append(f"{arm.label + ':':<{width}} {', '.join(moments)}{mean}")
    return lines


def run_table(arms: Sequence[Arm]) -> list[str]:
    """A line per run: accuracies with their counts, and what training cost."""
    rows: list[Sequence[str]] = [
        ("run", "arm", "seed", "initial", "best", "@ update", "final", "updates", "FLOPs", "seconds")
    ]
    for arm in arms:
        for run in arm.runs:
            rates = {moment: _rate(run.tested.get(moment)) for moment in MOMENTS}
            cost = run.spent["final"]
            rows.append((
                run.name, arm.label, str(run.curve.seed), rates["initial"], rates["best"],
                str(run.tested["best"].step), rates["final"], str(run.updates), number_or_dash(cost["flops"], ".3g"),
                number_or_dash(cost["seconds"], ".0f"),
            ))  # fmt: skip
    return aligned(rows)


def difference_table(arms: Sequence[Arm], differences: Sequence[Difference]) -> list[str]:
    """Lines for people: mean difference and interval, then the seeds, with McNemar's test from the initial state."""
    lines = []
    for difference in differences:
        start = "" if difference.start == CLEAN else f", from perturbed starts ({difference.start})"
        lines.append(
            f"{difference.arm} minus {difference.baseline}, {difference.moment}{start}: "
            f"{difference.interval.in_words()}"
        )
        for seed, value, test in zip(difference.seeds, difference.values, difference.mcnemar, strict=True):
            paired_test = "" if start else "; no rows saved for McNemar's test"
            if test is not None:
                alone = f"only this arm {test.only_arm}, only the baseline {test.only_baseline}"
                paired_test = f"; solved by {alone}, McNemar p = {test.p:.3g}"
            lines.append(f"  seed {seed}: {100 * value:+.2f} points{paired_test}")
    lines += [
        f"{arm.label}: no seed in common with {baseline.label}, not compared"
        for baseline, arm in with_baseline(arms)
        if not arm.by_seed.keys() & baseline.by_seed.keys()
    ]
    return lines or ["one arm for each network: nothing to compare"]


def _rate(tested: TestAccuracy | None) -> str:
    return "-" if tested is None else f"{tested.value:.4f} ({tested.solved}/{tested.count})"


def run_records(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """One flat row per run; empty where something is not known. `*_low` and `*_high`: 95 % Wilson over puzzles."""
    rows = []
    for arm in arms:
        for run in arm.runs:
            row: dict[str, Any] = {
                "run": run.name,
                "arm": arm.label,
                "settings_sha256": arm.settings_sha256,
                "seed": run.curve.seed,
            }
            for moment in MOMENTS:
                test = run.tested.get(moment)
                low, high = (None, None) if test is None else wilson_interval(test.solved, test.count)
                row |= {
                    f"{moment}_accuracy": None if test is None else test.value,
                    f"{moment}_solved": None if test is None else test.solved,
                    f"{moment}_low": low,
                    f"{moment}_high": high,
                }
                for start, (solved, rollouts) in ({} if test is None else test.perturbed).items():
                    row |= {f"{moment}, {start}, solved": solved, f"{moment}, {start}, of": rollouts}
            row |= {"count": run.tested["final"].count, "best_step": run.tested["best"].step, "updates": run.updates}
            row |= {f"{which}_{name}": value for which in COMPARED for name, value in run.spent[which].items()}
            rows.append(row)
    return rows


def arm_records(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """One entry per arm: seeds, mean and t interval at each moment where all runs were tested, mean compute."""
    records = []
    for arm in arms:
        means = {
            moment: asdict(mean_interval(values).within(0, 1)) if len(values) == len(arm.runs) else None
            for moment in MOMENTS
            for values in [arm.values(moment)]
        }
        cost = {f"mean_{name}": arm.spent(name) for name in ("flops", "seconds", "samples")}
        seeds = [run.curve.seed for run in arm.runs]
        records.append({"label": arm.label, "settings_sha256": arm.settings_sha256, "seeds": seeds, **means, **cost})
    return records


def numbers(results: Mapping[str, Any]) -> list[Number]:
    """For the records of results, of what peak_vs_final.json holds: the final differences first, then all others."""
    measured = []
    for difference in sorted(results["differences"], key=lambda one: (one["start"] != CLEAN, one["moment"] != "final")):
        start = "" if difference["start"] == CLEAN else f" ({difference['start']})"
        name = f"{difference['arm']} minus {difference['baseline']}: test exact_accuracy{start}"
        measured += estimate(name, difference["interval"], 100, "points", moment=_MOMENT_NAMES[difference["moment"]])
    for arm in results["arms"]:
        for moment in MOMENTS[::-1]:
            name = f"{arm['label']}: test exact_accuracy"
            measured += estimate(name, arm[moment], 100, "%", moment=_MOMENT_NAMES[moment])
    for budget in results["equal_budgets"]:
        name = f"{budget['arm']} minus its baseline: validation exact_accuracy at equal {budget['unit']}"
        measured += estimate(name, budget["interval"], 100, "points")
    return [*measured, Number("training runs", len(results["runs"]))]


def caption(arms: Sequence[Arm], differences: Sequence[Difference], command: str) -> str:
    """What is shown and what came out, with n, seeds, intervals, compute, machines and commits."""
    runs = [run for arm in arms for run in arm.runs]
    validation = sorted({point.rows for run in runs for point in run.curve.points if point.rows is not None})
    tests = sorted({run.tested["final"].count for run in runs})
    lines = [
        "Left: exact accuracy on validation puzzles against passes (supervision steps of a row with a gradient; "
        "updates where a log does not hold them), mean over seeds. Middle: exact accuracy of the initial, best and "
        "final weights on test puzzles, which chose nothing; small markers: runs, bars: mean over seeds. Right: "
        "difference to the baseline (the first arm of the network) for each seed. Vertical lines and bands: "
        f"{INTERVAL}.",
        f"n = {' or '.join(map(str, tests))} test puzzles for each weights, {' or '.join(map(str, validation))} "
        f"validation puzzles for each evaluation; runs: {len(runs)}, arms: {len(arms)}.",
        *snapshot(arms),
    ]
    for arm in arms:
        seeds = ", ".join(str(run.curve.seed) for run in arm.runs)
        settings = arm.settings_sha256[:12]
        lines.append(f"{arm.label}: settings {settings}, seeds {seeds}; {cost_of(arm)} of training a run on average.")
    lines += difference_table(arms, differences)
    return "\n".join([*lines, *origin_lines(origin_of([run.curve.provenance for run in runs])), f"Figure: {command}"])


def record(arms: Sequence[Arm], differences: Sequence[Difference], command: str) -> dict[str, Any]:
    """Everything as plain values: n, seeds, commits, command, interval, arms, differences, runs."""
    runs = [run for arm in arms for run in arm.runs]
    return {
        "command": command,
        **origin_of([run.curve.provenance for run in runs]),
        "n_test": sorted({run.tested["final"].count for run in runs}),
        "seeds": sorted({run.curve.seed for run in runs if run.curve.seed is not None}),
        "interval": INTERVAL,
        "arms": arm_records(arms),
        "differences": [asdict(difference) for difference in differences],
        "runs": run_records(arms),
    }


@dataclass(frozen=True)
class Sign:
    """One line: `seen` where the interval lies above 0, `against` where below, `open` where it holds 0 or is none."""

    arm: str
    sign: str
    interval: MeanInterval

    @property
    def verdict(self) -> str:
        return {1: "seen", -1: "against", 0: "open"}[self.interval.side]


def success_signature(arms: Sequence[Arm], differences: Sequence[Difference]) -> list[Sign]:
    """The signs of every arm but the baselines, each with its mean over seeds and its interval.

    Source: the trajectory augmentation notes name them: better success from perturbed starts, clean accuracy that does
    not regress, and both the peak and the final value of it.
    """
    signs = []
    for baseline, arm in with_baseline(arms):
        compared_here = [
            difference
            for difference in differences
            if (difference.arm, difference.baseline) == (arm.label, baseline.label)
        ]
        for difference in compared_here:
            if difference.start != CLEAN and difference.moment == "final":
                name = f"better success from perturbed starts than {baseline.label} ({difference.start})"
                signs.append(Sign(arm.label, name, difference.interval))
        for moment in ("best", "final"):
            changes = [
                run.tested[moment].value - run.tested["initial"].value for run in arm.runs if "initial" in run.tested
            ]
            if changes:
                name = f"clean accuracy above the initial weights', {moment}"
                signs.append(Sign(arm.label, name, mean_interval(changes)))
        for difference in compared_here:
            if difference.start == CLEAN:
                name = f"clean accuracy above {baseline.label}'s, {'peak' if difference.moment == 'best' else 'final'}"
                signs.append(Sign(arm.label, name, difference.interval))
    return signs


def signature_table(signs: Sequence[Sign]) -> list[str]:
    """Lines for people: verdict, mean and interval in percentage points."""
    return [f"{sign.verdict:>7}  {sign.arm}: {sign.sign}: {sign.interval.in_words()}" for sign in signs]


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs (checkpoint_path)")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for table and figure")
    options = parser.parse_args(argv)
    refuse_twice(options.runs)
    arms = arms_of([read_finished(folder) for folder in options.runs])
    differences = compared(arms)
    budgets, signs = at_equal_budgets(arms), success_signature(arms, differences)
    folder = results_folder(options.out, ["peak_vs_final", FIGURE], options.runs, script=__file__)
    table = [*snapshot(arms), "", *run_table(arms), "", *difference_table(arms, differences)]
    table += ["", *budget_table(budgets), "", *signature_table(signs)]
    say(*table)
    command = "python analysis/arms/peak_vs_final.py " + shlex.join(
        [*map(str, options.runs), "--out", str(options.out)]
    )
    results = record(arms, differences, command) | {
        "equal_budgets": [asdict(comparison) for comparison in budgets],
        "signature": [asdict(sign) | {"verdict": sign.verdict} for sign in signs],
    }
    save_caption("\n".join(table), folder / "peak_vs_final.txt")
    save_csv(run_records(arms), folder / "peak_vs_final.csv")
    curves = [run.curve for arm in arms for run in arm.runs]
    seconds = [run["final_seconds"] for run in results["runs"] if run["final_seconds"] is not None]
    entry = record_entry(
        numbers(results),
        commands=[command],
        config_hashes=[arm.settings_sha256 for arm in arms],
        runs=[curve.provenance for curve in curves],
        seeds=results["seeds"],
        seconds=sum(seconds) if seconds else None,
        finished=all_finished(curves),
        findings=[f"{sign.verdict}: {sign.arm}: {sign.sign}" for sign in signs],
    )
    save_json(results | entry, folder / "peak_vs_final.json")
    points = plotted(arms, differences)
    files = save_picture(
        draw(arms, differences),
        folder / FIGURE,
        caption=caption(arms, differences, command),
        rows=points,
        numbers={key: value for key, value in results.items() if key != "runs"} | {"points": points},
        formats=("png", "svg"),
    )
    say(f"written: {folder / 'peak_vs_final.txt'} (also .csv .json), {files}")


if __name__ == "__main__":
    main()
