"""Initial, best and final accuracy of runs on test puzzles, and what separates their arms, paired over seeds.

    python analysis/arms/peak_vs_final.py RUN [RUN ...] --out DIR

Runs that differ in nothing but the seed are one arm. In every network (equal arch.*) the first arm named is the
baseline: name its runs first. Validation puzzles chose the best weights of a run; every accuracy of the table is on
test puzzles, which chose nothing. An arm is compared with its baseline on the seeds that both have: the difference
for each seed, their mean with its 95 % t interval, and for each seed McNemar's exact test of the puzzles that only
one of the two solves. Runs with the same eval.sigma, eval.site and eval.rollouts are also compared in the share of
rollouts from perturbed starts that end in a solution. Then arms at equal updates, passes and seconds, read off the
validation curves, and the signs by which training on perturbed trajectories would be seen to work.

Reads each RUN's summary.json, metrics.jsonl, provenance.json and, for McNemar's test, test_rows.json; accuracy from
perturbed starts also from evaluation_final_perturbed.json and evaluation_best_perturbed.json, as
`evaluate.py checkpoint=RUN/final.pt "eval.sigma=[0.1,1]"` writes them. Writes to DIR the table as peak_vs_final.txt,
.csv (a line per run) and .json, and the figure Fig3_trajectory_perturbation_improves_peak_accuracy.png and .svg with
its numbers as .csv and .json and its caption as .txt.
"""

import argparse
import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from analysis.arms.equal_budgets import at_equal_budgets, budget_table
from analysis.arms.finished_runs import COMPARED, MOMENTS, Arm, Tested, arms_of, read_finished
from analysis.arms.run_curves import commit_of, distinct, machine_of, refuse_twice
from analysis.arms.seed_pairs import (
    CLEAN,
    INTERVAL,
    Difference,
    MeanInterval,
    compared,
    mean_interval,
    with_baseline,
)
from analysis.arms.success_signature import signature_table, success_signature
from analysis.figures.figure_files import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    STYLE,
    make_folder,
    save_caption,
    save_csv,
    save_figure,
    save_json,
)
from errors import exit_on_user_error
from training.evaluation.answering import wilson_interval
from training.evaluation.summary_table import aligned

FIGURE = "Fig3_trajectory_perturbation_improves_peak_accuracy"
_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
_MARKERS = "osD^vP"


def snapshot(arms: Sequence[Arm]) -> list[str]:
    """One line per arm, as `HRM baseline_ce: initial 0.5176, best 0.6328 @ 5000, final 0.5801`; means over seeds."""
    width = max(len(arm.label) for arm in arms) + 1
    lines = []
    for arm in arms:
        parts = []
        for moment in MOMENTS:
            values = arm.values(moment)
            number = f"{np.mean(values):.4f}" if len(values) == len(arm.runs) else "-"
            steps = distinct(str(run.tested["best"].step) for run in arm.runs) if moment == "best" else []
            at = f" @ {', '.join(steps)}" if steps else ""
            parts.append(f"{moment} {number}{at}")
        mean = f" (mean of {len(arm.runs)} seeds)" if len(arm.runs) > 1 else ""
        lines.append(f"{arm.label + ':':<{width}} {', '.join(parts)}{mean}")
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
                str(run.tested["best"].step), rates["final"], str(run.updates), _number(cost["flops"], ".3g"),
                _number(cost["seconds"], ".0f"),
            ))  # fmt: skip
    return aligned(rows)


def difference_table(arms: Sequence[Arm], differences: Sequence[Difference]) -> list[str]:
    """For people: mean difference and interval, then each seed, from the initial state with McNemar's test."""
    lines = []
    for each in differences:
        start = "" if each.start == CLEAN else f", from perturbed starts ({each.start})"
        lines.append(f"{each.arm} minus {each.baseline}, {each.moment}{start}: {_points(each.interval)}")
        for seed, value, test in zip(each.seeds, each.values, each.mcnemar, strict=True):
            found = "" if start else "; no rows saved for McNemar's test"
            if test is not None:
                alone = f"only this arm {test.only_arm}, only the baseline {test.only_baseline}"
                found = f"; solved by {alone}, McNemar p = {test.p:.3g}"
            lines.append(f"  seed {seed}: {100 * value:+.2f} points{found}")
    lines += [
        f"{arm.label}: no seed in common with {baseline.label}, not compared"
        for baseline, arm in with_baseline(arms)
        if not arm.by_seed.keys() & baseline.by_seed.keys()
    ]
    return lines or ["one arm for each network: nothing to compare"]


def _points(interval: MeanInterval) -> str:
    mean = f"{100 * interval.mean:+.2f} points"
    if interval.bounds is None:
        alike = "one seed" if interval.n == 1 else f"the same on {interval.n} seeds"
        return f"{mean}, {alike}: no interval"
    low, high = interval.bounds
    return f"{mean}, 95 % t interval {100 * low:+.2f} to {100 * high:+.2f}, {interval.n} seeds"


def _rate(tested: Tested | None) -> str:
    return "-" if tested is None else f"{tested.value:.4f} ({tested.solved}/{tested.count})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


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
                found = run.tested.get(moment)
                low, high = (None, None) if found is None else wilson_interval(found.solved, found.count)
                row |= {
                    f"{moment}_accuracy": None if found is None else found.value,
                    f"{moment}_solved": None if found is None else found.solved,
                    f"{moment}_low": low,
                    f"{moment}_high": high,
                }
                for start, (solved, rollouts) in ({} if found is None else found.perturbed).items():
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
            moment: asdict(mean_interval(values)) if len(values) == len(arm.runs) else None
            for moment in MOMENTS
            for values in [arm.values(moment)]
        }
        cost = {f"mean_{name}": arm.spent(name) for name in ("flops", "seconds", "samples")}
        seeds = [run.curve.seed for run in arm.runs]
        records.append({"label": arm.label, "settings_sha256": arm.settings_sha256, "seeds": seeds, **means, **cost})
    return records


def plotted(arms: Sequence[Arm], differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """Every point of the figure, one flat row each, named by its panel."""
    rows: list[dict[str, Any]] = []
    for arm in arms:
        for run in arm.runs:
            rows += [
                {"panel": "validation", "arm": arm.label, "seed": run.curve.seed, "step": point.step,
                 "value": point.value, "count": point.rows}
                for point in run.curve.points
            ]  # fmt: skip
    for arm in arms:
        for run in arm.runs:
            rows += [
                {"panel": "test", "arm": arm.label, "seed": run.curve.seed, "moment": moment,
                 "step": run.tested[moment].step, "value": run.tested[moment].value, "count": run.tested[moment].count}
                for moment in MOMENTS
                if moment in run.tested
            ]  # fmt: skip
    for each in (each for each in differences if each.start == CLEAN):
        shared = {"panel": "difference", "arm": each.arm, "moment": each.moment}
        rows += [{**shared, "seed": seed, "value": value} for seed, value in zip(each.seeds, each.values, strict=True)]
        interval = each.interval
        rows.append({**shared, "value": interval.mean, "low": interval.low, "high": interval.high, "seeds": interval.n})
    return rows


def draw(arms: Sequence[Arm], differences: Sequence[Difference]) -> Figure:
    """A row of panels for each network: validation curves, test accuracy by moment, paired differences."""
    networks = distinct(arm.network for arm in arms)
    looks = {arm.label: look for arm, look in zip(arms, itertools.cycle(zip(_COLOURS, _MARKERS, strict=True)))}
    with matplotlib.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(networks),
            3,
            figsize=(12, 3.6 * len(networks)),
            squeeze=False,
            width_ratios=(5, 4, 4),
            constrained_layout=True,
        )
        for network, (curves, tests, gaps) in zip(networks, panels, strict=True):
            own = [arm for arm in arms if arm.network == network]
            _draw_curves(curves, own, looks)
            curves.set_title(own[0].label.split()[0], loc="left", fontsize=10)
            _draw_tests(tests, own, looks)
            labels = [arm.label for arm in own]
            _draw_differences(gaps, [each for each in differences if each.arm in labels and each.start == CLEAN], looks)
        for arm in arms:
            colour, marker = looks[arm.label]
            cost = f"{_number(arm.spent('flops'), '.3g')} FLOPs, {_number(arm.spent('seconds'), ',.0f')} s"
            label = f"{arm.label} ({len(arm.runs)} {'seed' if len(arm.runs) == 1 else 'seeds'}; {cost} a run)"
            panels[0][0].plot([], [], color=colour, marker=marker, markersize=5, label=label)
        figure.legend(loc="outside lower left", fontsize=9)
    return figure


def _draw_curves(axes: Any, arms: Sequence[Arm], looks: Mapping[str, tuple[str, str]]) -> None:
    for arm in arms:
        colour, marker = looks[arm.label]
        for run in arm.runs:
            points = run.curve.points
            axes.plot([p.step for p in points], [p.value for p in points], color=colour, linewidth=0.9, alpha=0.8)
            best = run.tested["best"].step
            chosen = [point for point in points if point.step == best]
            axes.plot(
                [p.step for p in chosen],
                [p.value for p in chosen],
                marker,
                color=colour,
                markersize=5,
                markeredgecolor="white",
                zorder=5,
            )
    axes.set_xlim(left=0)
    axes.set_xlabel("updates")
    axes.set_ylabel("solved validation puzzles")
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))


def _draw_tests(axes: Any, arms: Sequence[Arm], looks: Mapping[str, tuple[str, str]]) -> None:
    for arm, shift in zip(arms, _shifts(len(arms)), strict=True):
        colour, marker = looks[arm.label]
        for place, moment in enumerate(MOMENTS):
            values = arm.values(moment)
            axes.plot([place + shift] * len(values), values, marker, color=colour, markersize=3.5, alpha=0.55)
            if values:
                _mean_bar(axes, place + shift, mean_interval(values), colour, 1.0)
    axes.set_xticks(range(len(MOMENTS)), MOMENTS)
    axes.set_xlim(-0.5, len(MOMENTS) - 0.5)
    axes.set_ylabel("solved test puzzles")
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))


def _draw_differences(axes: Any, differences: Sequence[Difference], looks: Mapping[str, tuple[str, str]]) -> None:
    axes.axhline(0, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    arms = distinct(each.arm for each in differences)
    for each in differences:
        colour, marker = looks[each.arm]
        at = COMPARED.index(each.moment) + _shifts(len(arms))[arms.index(each.arm)]
        points = [100 * value for value in each.values]
        axes.plot([at] * len(points), points, marker, color=colour, markersize=3.5, alpha=0.55)
        _mean_bar(axes, at, each.interval, colour, 100.0)
    axes.set_xticks(range(len(COMPARED)), COMPARED)
    axes.set_xlim(-0.5, len(COMPARED) - 0.5)
    axes.set_ylabel("difference to the baseline\n(percentage points)")
    if not differences:
        axes.text(0.5, 0.5, "nothing to compare", transform=axes.transAxes, ha="center", va="bottom", color=GREY)


def _mean_bar(axes: Any, at: float, interval: MeanInterval, colour: str, scale: float) -> None:
    axes.plot([at - 0.05, at + 0.05], [scale * interval.mean] * 2, color=colour, linewidth=2.5, zorder=4)
    if interval.bounds is not None:
        low, high = interval.bounds
        axes.vlines(at, scale * low, scale * high, color=colour, linewidth=1.2, zorder=4)


def _shifts(number: int) -> list[float]:
    return [0.16 * (index - (number - 1) / 2) * min(1.0, 4 / number) for index in range(number)]


def caption(arms: Sequence[Arm], differences: Sequence[Difference], command: str) -> str:
    """What is shown and what came out, with n, seeds, intervals, compute, machines and commits."""
    runs = [run for arm in arms for run in arm.runs]
    validation = sorted({point.rows for run in runs for point in run.curve.points if point.rows is not None})
    tests = sorted({run.tested["final"].count for run in runs})
    lines = [
        "Left: exact accuracy on validation puzzles over updates, a thin line for each run; markers: the evaluation "
        "that chose the best weights. Middle: exact accuracy of the initial, best and final weights on test puzzles, "
        "which chose nothing; small markers: runs, bars: mean over seeds. Right: difference to the baseline (the first "
        f"arm of the network) for each seed. Vertical lines: {INTERVAL}.",
        f"n = {' or '.join(map(str, tests))} test puzzles for each weights, {' or '.join(map(str, validation))} "
        f"validation puzzles for each evaluation; runs: {len(runs)}, arms: {len(arms)}.",
        *snapshot(arms),
    ]
    for arm in arms:
        seeds = ", ".join(str(run.curve.seed) for run in arm.runs)
        cost = f"{_number(arm.spent('flops'), '.3g')} FLOPs and {_number(arm.spent('seconds'), ',.0f')} s of training"
        lines.append(f"{arm.label}: settings {arm.settings_sha256[:12]}, seeds {seeds}; {cost} a run on average.")
    lines += difference_table(arms, differences)
    lines.append(f"Trained on: {'; '.join(distinct(machine_of(run.curve.provenance) for run in runs))}.")
    lines.append(f"Commits: {', '.join(distinct(commit_of(run.curve.provenance) for run in runs))}.")
    lines.append(f"Figure: {command}")
    return "\n".join(lines)


def record(arms: Sequence[Arm], differences: Sequence[Difference], command: str) -> dict[str, Any]:
    """Everything as plain values: n, seeds, commits, command, interval, arms, differences, runs."""
    runs = [run for arm in arms for run in arm.runs]
    datasets = [run.curve.provenance.get("datasets") for run in runs]
    return {
        "command": command,
        "commits": distinct(commit_of(run.curve.provenance) for run in runs),
        "machines": distinct(machine_of(run.curve.provenance) for run in runs),
        "datasets": [each for index, each in enumerate(datasets) if each not in datasets[:index]],
        "n_test": sorted({run.tested["final"].count for run in runs}),
        "seeds": sorted({run.curve.seed for run in runs if run.curve.seed is not None}),
        "interval": INTERVAL,
        "arms": arm_records(arms),
        "differences": [asdict(each) for each in differences],
        "runs": run_records(arms),
    }


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs (checkpoint_path)")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for table and figure")
    options = parser.parse_args(argv)
    refuse_twice(options.runs)
    arms = arms_of([read_finished(folder) for folder in options.runs])
    differences = compared(arms)
    budgets, signs = at_equal_budgets(arms), success_signature(arms, differences)
    table = [*snapshot(arms), "", *run_table(arms), "", *difference_table(arms, differences)]
    table += ["", *budget_table(budgets), "", *signature_table(signs)]
    print("\n".join(table))
    command = "python analysis/arms/peak_vs_final.py " + shlex.join(
        [*map(str, options.runs), "--out", str(options.out)]
    )
    folder = make_folder(options.out)
    everything = record(arms, differences, command) | {
        "equal_budgets": [asdict(each) for each in budgets],
        "signature": [asdict(each) | {"verdict": each.verdict} for each in signs],
    }
    save_caption("\n".join(table), folder / "peak_vs_final.txt")
    save_csv(run_records(arms), folder / "peak_vs_final.csv")
    save_json(everything, folder / "peak_vs_final.json")
    figure = draw(arms, differences)
    paths = save_figure(figure, folder / FIGURE, ("png", "svg"))
    plt.close(figure)
    points = plotted(arms, differences)
    save_csv(points, folder / f"{FIGURE}.csv")
    save_json(
        {key: value for key, value in everything.items() if key != "runs"} | {"points": points},
        folder / f"{FIGURE}.json",
    )
    save_caption(caption(arms, differences, command), folder / f"{FIGURE}.txt")
    print(f"written: {folder / 'peak_vs_final.txt'} (also .csv .json), {paths[0]} (also .svg .csv .json .txt)")


if __name__ == "__main__":
    main()
