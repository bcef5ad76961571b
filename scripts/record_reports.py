"""Cells of a row of PROVENANCE.md from reports.

Reports are what `evaluate.py` (evaluation_NAME.json), `scripts/benchmark/updates.py --json`,
`scripts/benchmark/trajectories.py --json`, `scripts/benchmark/lyapunov.py --json` and scripts of `analysis/` write:
`time_to_accuracy.py` (time_to_accuracy.json), `peak_vs_final.py` (peak_vs_final.json), `lyapunov_spectrum.py` and
`q_head_vs_stability.py` (summary.json), `gradient_flossing_toy.py` (flossing_toy.json), `collatz_report.py` and
`collatz_orbits.py`; and `collatz.py --json`. Which of them a file is, its entries tell.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dataset.plain_data import JsonError, read_json_object
from errors import UserError
from scripts.record_collatz import COLLATZ_READERS
from scripts.record_comparisons import arms_over_seeds, flossing_toy, trajectories
from scripts.record_dynamics import cost, rollouts, spectra
from scripts.report_entries import (
    NOT_RECORDED,
    Entry,
    Report,
    dataset_hashes,
    distinct,
    git_commit,
    hardware_of,
    measured_here,
    rate,
    run_command,
    seed_of,
    short,
    span,
    three_digits,
)

# What --x of time_to_accuracy.py names, with its unit here. Updates are printed anyway.
_UNITS = {"seconds": "s", "updates": None, "flops": "FLOPs", "samples": "rows trained"}


def read_report(path: Path) -> Report:
    """Read a report of any kind.

    Errors: `UserError` for a file that is none of them, or that lacks an entry or holds one of another kind.
    """
    try:
        report = Entry(path, "", read_json_object(path))
    except JsonError as error:
        raise UserError(f"--reports {path}: {error}; name a report as evaluate.py writes it") from error
    for names, read in _READERS.items():
        if all(name in report.values for name in names):
            return read(report)
    raise UserError(
        f"--reports {path}: expected the JSON of evaluate.py, of a benchmark's --json or of a script of analysis/, "
        f"found {', '.join(list(report.values)[:5]) or 'nothing in it'}; a run's folder is named with --runs"
    )


def report_cells(reports: Sequence[Report]) -> list[str]:
    """The measured cells of a row, from the command to the hardware, in the order of its columns."""
    # Repeated measurements and seeds stand one by one; a report on several runs counts them itself.
    alone = all(len(report.seeds) == 1 for report in reports)
    groups = [[seed for report in reports for seed in report.seeds]] if alone else [each.seeds for each in reports]
    return [
        distinct(f"`{command}`" for report in reports for command in report.commands),
        distinct(digest for report in reports for digest in report.config_hashes),
        distinct(commit for report in reports for commit in report.commits),
        distinct(dataset for report in reports for dataset in report.datasets),
        distinct(f"{', '.join(seeds)}; n={len(seeds)}" for seeds in groups),
        " // ".join(report.result for report in reports),
        distinct(unit for report in reports for unit in report.hardware),
    ]


def _evaluation(report: Entry) -> Report:
    results = report.parts("results")
    kinds = [result.text("rows") for result in results]
    texts = []
    for kind, result in zip(kinds, results, strict=True):
        of = f" of {result.text('data')} ({result.text('set')})" if kinds.count(kind) > 1 else ""
        texts.append(f"{kind} rows{of}: {_evaluated(result)}")
    seconds = sum(result.part("compute").number("seconds") for result in results)
    hashes = dataset_hashes(report.values.get("datasets"))
    size = f"{report.count('num_params'):,} parameters"
    return Report(
        commands=[report.text("command")],
        config_hashes=[short(report.text("config_hash"))],
        commits=[git_commit(report.part("git"))],
        datasets=[hashes if hashes == NOT_RECORDED else f"{hashes} (test split)"],
        seeds=[str(report.count("seed"))],
        result="; ".join(texts),
        hardware=[f"{hardware_of(report, 'num_threads')}, {report.text('dtype')}, {three_digits(seconds)} s, {size}"],
    )


def _evaluated(result: Entry) -> str:
    mode, compute = result.part("mode"), result.part("compute")
    adaptive = ", adaptive" if mode.flag("adaptive_halt") else ""
    vote = f", vote of {mode.count('vote')}" if mode.count("vote") > 1 else ""
    rollouts = f", highest q of {mode.count('rollouts')} stochastic rollouts" if "rollouts" in mode.values else ""
    return (
        f"{_exact(result.part('exact_accuracy'))}; {mode.count('max_steps')} steps{adaptive}{vote}{rollouts}; "
        f"mean steps {compute.number('mean_steps'):.2f}, {compute.count('forward_passes'):,} forward passes, "
        f"{compute.number('flops'):.3g} FLOPs, {compute.number('rows_per_second'):.1f} rows/s"
    )


def _exact(part: Entry) -> str:
    numerator, denominator = part.count("numerator"), part.count("denominator")
    if numerator > denominator:
        raise UserError(
            f"{part.path}: '{part.place}numerator' is {numerator}, expected at most the denominator {denominator}; "
            "make the report again"
        )
    if not denominator:
        return "no row with a label"
    return rate({"value": numerator / denominator, "numerator": numerator, "denominator": denominator})


def _benchmark(report: Entry) -> Report:
    environment, results = report.part("environment"), report.parts("results")
    units = [
        hardware_of(Entry(each.path, each.place, {"cpu": environment.values.get("cpu"), **each.values}), "threads")
        for each in results
    ]
    return measured_here(environment, "; ".join(map(_measured, results)), units)


def _measured(result: Entry) -> str:
    compiled = ", compiled" if result.flag("compiled") else ""
    memory = result.part("peak_memory")
    peak = memory.optional(memory.number, "bytes")
    parts = [
        f"update {_beside_floor(result.part('training'))}",
        f"evaluation step {_beside_floor(result.part('evaluation'))}",
        f"loader {100 * result.part('loader').number('share'):.2f} %",
        *([] if peak is None else [f"peak {peak / 2**20:.0f} MiB"]),
    ]
    what = f"{result.text('preset')} ({result.count('batch_size')} rows, {result.text('dtype')}{compiled})"
    return f"{what}: {'; '.join(parts)}"


def _beside_floor(part: Entry) -> str:
    seconds = part.part("seconds")
    median, q1, q3 = (three_digits(1e3 * seconds.number(name)) for name in ("median", "q1", "q3"))
    return (
        f"{median} ms [quartiles {q1}-{q3}, n={seconds.count('count')}], "
        f"floor {three_digits(1e3 * part.number('floor_seconds'))} ms, ratio {part.number('ratio'):.3f}, "
        f"{three_digits(part.number('flops_per_second') / 1e9)} GFLOP/s"
    )


def _time_to_accuracy(report: Entry) -> Report:
    axis = report.text("x")
    if axis not in _UNITS:
        raise UserError(f"{report.path}: 'x' is {axis[:60]!r}, expected {', '.join(_UNITS)}; make the report again")
    runs = report.parts("runs")
    groups: dict[str, list[Entry]] = {}
    for run in runs:
        groups.setdefault(run.text("settings_sha256"), []).append(run)
    texts = []
    for members in groups.values():
        label = f"{members[0].text('group')}: " if len(groups) > 1 else ""
        texts.append(label + _reached(members, report.number("target"), axis))
    origins = [run.part("provenance") for run in runs]
    ends = [run.count("last_step") for run in runs]
    spent = [run.number("last_x") for run in runs]
    time = f", {span(spent)} s" if axis == "seconds" else ""
    return Report(
        commands=[report.text("command"), *map(run_command, origins)],
        config_hashes=[short(origin.optional(origin.text, "config_hash")) for origin in origins],
        commits=[git_commit(origin.part("git")) for origin in origins],
        datasets=[dataset_hashes(origin.values.get("datasets")) for origin in origins],
        seeds=list(map(seed_of, runs)),
        result=f"{report.text('metric')}: {'; '.join(texts)}",
        hardware=[f"{hardware_of(origin, 'num_threads')}{time}, {span(ends)} updates" for origin in origins],
    )


def _reached(runs: Sequence[Entry], target: float, axis: str) -> str:
    """`75 % on 200 rows first at 320-400 updates (median 360; n=4 of 4 seeds), 45-60 s (median 52)`."""
    counts = sorted({run.count("last_rows") for run in runs if run.values.get("last_rows") is not None})
    share = f"{100 * target:g} % on {' or '.join(map(str, counts)) or 'an unknown number of'} rows"
    there = [run for run in runs if run.values.get("first_step") is not None]
    number = len(runs)
    noun = "run" if len(set(map(seed_of, runs))) < number else "seed"
    of = f"n={len(there)} of {number} {noun}{'s' if number > 1 else ''}"
    if not there:
        return f"{share} not reached in {span([run.count('last_step') for run in runs])} updates ({of})"
    missing = number - len(there)
    steps = [run.count("first_step") for run in there]
    text = f"{share} first at {span(steps, missing)} updates ({_median(steps, missing)}; {of})"
    unit = _UNITS[axis]
    if unit is None:
        return text
    spent = [run.number("first_x") for run in there]
    return f"{text}, {span(spent, missing)} {unit} ({_median(spent, missing)})"


def _median(values: Sequence[float], missing: int) -> str:
    """Of all runs: those that did not get there are later than all that did."""
    median = float(np.median([*values, *[math.inf] * missing]))
    return f"median {three_digits(median)}" if math.isfinite(median) else "median not reached"


# The entries that only this kind of report has together.
_READERS: dict[tuple[str, ...], Callable[[Entry], Report]] = {
    ("checkpoint", "results"): _evaluation,
    ("environment", "results", "num_trajectories"): trajectories,
    ("environment", "results"): _benchmark,
    ("environment", "result", "growth"): cost,
    ("target", "metric", "runs"): _time_to_accuracy,
    ("arms", "differences", "signature"): arms_over_seeds,
    ("runs", "models", "burn_in"): spectra,
    ("correlation_of_q_and_growth", "accuracy"): rollouts,
    ("toy", "claims", "accuracy"): flossing_toy,
    **COLLATZ_READERS,
}
