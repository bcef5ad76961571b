"""Cells of a row of PROVENANCE.md from reports, and the texts of a cell that runs and reports share.

Reports are what `evaluate.py` (evaluation_NAME.json), `scripts/benchmark.py --json`,
`scripts/benchmark_trajectories.py --json` and `analysis/time_to_accuracy.py` (time_to_accuracy.json) write; which of
them a file is, its entries tell.
"""

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.stats import binomtest

from errors import UserError
from training.strict_json import JsonError, read_json_object

T = TypeVar("T")

NOT_RUN = "not run"
NOT_RECORDED = "not recorded"
_HASH_CHARACTERS = 12
_LARGEST_COUNT = 1 << 53
_LARGEST = 1e30
# What --x of time_to_accuracy.py names, with its unit here. Updates are printed anyway.
_UNITS = {"seconds": "s", "updates": None, "flops": "FLOPs", "samples": "rows trained"}


@dataclass(frozen=True)
class Report:
    """One report as texts of a row: what has several values has them in the order of the report."""

    commands: list[str]
    config_hashes: list[str]
    commits: list[str]
    datasets: list[str]
    seeds: list[str]
    result: str
    hardware: list[str]


@dataclass(frozen=True)
class Entry:
    """An object inside a report, and where it stands there. Errors of every method: `UserError`."""

    path: Path
    place: str
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        value = self.values.get(name)
        return value if isinstance(value, str) else self._refuse(name, "a text")

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        return value if isinstance(value, bool) else self._refuse(name, "true or false")

    def number(self, name: str) -> float:
        """A number of at least 0: times, counts, operations and shares are."""
        value = self.values.get(name)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST
        return float(value) if fits else self._refuse(name, "a number of at least 0")  # type: ignore[arg-type]

    def count(self, name: str) -> int:
        value = self.values.get(name)
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT
        return value if fits else self._refuse(name, "a whole number of at least 0")  # type: ignore[return-value]

    def words(self, name: str) -> list[str]:
        value = self.values.get(name)
        if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
            return value
        return self._refuse(name, "a list of texts")

    def part(self, name: str) -> "Entry":
        value = self.values.get(name)
        if isinstance(value, dict):
            return Entry(self.path, f"{self.place}{name}.", value)
        return self._refuse(name, "an object")

    def parts(self, name: str) -> list["Entry"]:
        value = self.values.get(name)
        if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
            return [Entry(self.path, f"{self.place}{name}.{i}.", part) for i, part in enumerate(value)]
        return self._refuse(name, "a list of objects")

    def optional(self, read: Callable[[str], T], name: str) -> T | None:
        """What `read` gives, or None where the entry is null or absent."""
        return None if self.values.get(name) is None else read(name)

    def _refuse(self, name: str, expected: str) -> Any:
        found = f"is {str(self.values[name])[:60]!r}" if name in self.values else "is missing"
        raise UserError(f"{self.path}: '{self.place}{name}' {found}, expected {expected}; make the report again")


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
        f"--reports {path}: expected the JSON of evaluate.py, scripts/benchmark.py --json, "
        "scripts/benchmark_trajectories.py --json or "
        f"analysis/time_to_accuracy.py, found {', '.join(list(report.values)[:5]) or 'nothing in it'}; a run's folder "
        "is named with --runs"
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


def rate(part: Mapping[str, Any] | None) -> str:
    """`74.00 % = 740/1000 [71.19, 76.62] @ update 500`; the bare value where no denominator is known."""
    if not part or part.get("value") is None:
        return NOT_RUN
    numerator, denominator, step = part.get("numerator"), part.get("denominator"), part.get("step")
    at = f" @ update {step}" if step is not None else ""
    if numerator is None or not denominator:
        return f"{float(part['value']):.6g} (no denominator){at}"
    if not 0 <= numerator <= denominator or numerator % 1 or denominator % 1:
        raise UserError(f"a rate of {numerator}/{denominator} is impossible; the record that holds it is wrong")
    interval = binomtest(int(numerator), int(denominator)).proportion_ci(0.95, method="wilson")
    percent = 100 * numerator / denominator
    bounds = f"[{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    return f"{percent:.2f} % = {int(numerator)}/{int(denominator)} {bounds}{at}"


def command_of(argv: Sequence[Any] | None, world_size: int | None) -> str:
    """The command line of a recorded `argv`, with the launcher that starts so many processes."""
    launcher = "python " if (world_size or 1) == 1 else f"torchrun --nproc-per-node {world_size} "
    return NOT_RECORDED if argv is None else launcher + shlex.join(map(str, argv))


def commit_of(commit: Any, dirty: Any) -> str:
    """`1a2b3c4d5e6f+dirty`; "none" without a commit."""
    return short(commit) + ("+dirty" if dirty else "")


def dataset_hashes(fingerprints: Any) -> str:
    """Short forms of every SHA-256 within, in order; "not recorded" where there is none."""
    return " ".join(map(short, dict.fromkeys(_hashes(fingerprints)))) or NOT_RECORDED


def short(value: Any) -> str:
    """The beginning of a hash; "none" where there is none."""
    return str(value)[:_HASH_CHARACTERS] if value else "none"


def distinct(texts: Iterable[str]) -> str:
    """Each text once, in order."""
    return " // ".join(dict.fromkeys(texts))


def _hashes(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if re.fullmatch(r"[0-9a-f]{40,64}", value) else []
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [found for item in items for found in _hashes(item)]


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
        commits=[_commit(report.part("git"))],
        datasets=[hashes if hashes == NOT_RECORDED else f"{hashes} (test split)"],
        seeds=[str(report.count("seed"))],
        result="; ".join(texts),
        hardware=[f"{_hardware(report, 'num_threads')}, {report.text('dtype')}, {_three_digits(seconds)} s, {size}"],
    )


def _evaluated(result: Entry) -> str:
    mode, compute = result.part("mode"), result.part("compute")
    adaptive = ", adaptive" if mode.flag("adaptive_halt") else ""
    vote = f", vote of {mode.count('vote')}" if mode.count("vote") > 1 else ""
    return (
        f"{_exact(result.part('exact_accuracy'))}; {mode.count('max_steps')} steps{adaptive}{vote}; "
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
        _hardware(Entry(each.path, each.place, {"cpu": environment.values.get("cpu"), **each.values}), "threads")
        for each in results
    ]
    return Report(
        commands=[command_of(environment.words("argv"), 1)],
        config_hashes=[NOT_RECORDED],
        commits=[_commit(environment)],
        datasets=["synthetic"],
        seeds=[str(environment.count("seed"))],
        result="; ".join(map(_measured, results)),
        hardware=units,
    )


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
    median, q1, q3 = (_three_digits(1e3 * seconds.number(name)) for name in ("median", "q1", "q3"))
    return (
        f"{median} ms [quartiles {q1}-{q3}, n={seconds.count('count')}], "
        f"floor {_three_digits(1e3 * part.number('floor_seconds'))} ms, ratio {part.number('ratio'):.3f}, "
        f"{_three_digits(part.number('flops_per_second') / 1e9)} GFLOP/s"
    )


def _trajectories(report: Entry) -> Report:
    environment, run = report.part("environment"), report.part("run")
    machine = Entry(run.path, run.place, {"cpu": environment.values.get("cpu"), **run.values})
    steps = "equal steps" if report.flag("equal_steps") else "not of equal steps"
    compiled = ", compiled" if run.flag("compiled") else ""
    what = f"{report.text('preset')} ({run.count('batch_size')} puzzles, {run.text('dtype')}{compiled}, {steps})"
    return Report(
        commands=[command_of(environment.words("argv"), 1)],
        config_hashes=[NOT_RECORDED],
        commits=[_commit(environment)],
        datasets=["synthetic"],
        seeds=[str(environment.count("seed"))],
        result=f"{what}: {'; '.join(map(_rollout, report.parts('rollouts')))}; "
        f"serial_act / parallel_fixed {_paired(report.part('comparisons').part('serial_over_parallel'))}",
        hardware=[_hardware(machine, "threads")],
    )


def _rollout(rollout: Entry) -> str:
    """`serial_act K=4 229 ms [quartiles 228-241, n=7], 5.27 x clean [5.25-5.45], 128+128 passes, ...`."""
    seconds = rollout.part("seconds")
    median, q1, q3 = (_three_digits(1e3 * seconds.number(name)) for name in ("median", "q1", "q3"))
    peak, ratio = (rollout.optional(rollout.number, name) for name in ("peak_bytes", "peak_over_clean"))
    steps = rollout.optional(rollout.number, "mean_steps")
    return (
        f"{rollout.text('name')} K={rollout.count('num_trajectories')} {median} ms [quartiles {q1}-{q3}, "
        f"n={seconds.count('count')}], {_paired(rollout.part('over_clean'))} x clean, "
        f"{rollout.number('trained_passes'):g}+{rollout.number('extra_passes'):g} passes"
        + ("" if steps is None else f", {steps:.2f} steps")
        + ("" if peak is None or ratio is None else f", peak {peak / 2**20:.3g} MiB ({ratio:.2f} x clean)")
    )


def _paired(ratio: Entry) -> str:
    return f"{ratio.number('median'):.3f} [{ratio.number('q1'):.3f}-{ratio.number('q3'):.3f}]"


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
    time = f", {_span(spent)} s" if axis == "seconds" else ""
    return Report(
        commands=[report.text("command"), *map(_run_command, origins)],
        config_hashes=[short(origin.optional(origin.text, "config_hash")) for origin in origins],
        commits=[_commit(origin.part("git")) for origin in origins],
        datasets=[dataset_hashes(origin.values.get("datasets")) for origin in origins],
        seeds=list(map(_seed, runs)),
        result=f"{report.text('metric')}: {'; '.join(texts)}",
        hardware=[f"{_hardware(origin, 'num_threads')}{time}, {_span(ends)} updates" for origin in origins],
    )


def _reached(runs: Sequence[Entry], target: float, axis: str) -> str:
    """`75 % on 200 rows first at 320-400 updates (median 360; n=4 of 4 seeds), 45-60 s (median 52)`."""
    counts = sorted({run.count("last_rows") for run in runs if run.values.get("last_rows") is not None})
    share = f"{100 * target:g} % on {' or '.join(map(str, counts)) or 'an unknown number of'} rows"
    there = [run for run in runs if run.values.get("first_step") is not None]
    number = len(runs)
    noun = "run" if len(set(map(_seed, runs))) < number else "seed"
    of = f"n={len(there)} of {number} {noun}{'s' if number > 1 else ''}"
    if not there:
        return f"{share} not reached in {_span([run.count('last_step') for run in runs])} updates ({of})"
    missing = number - len(there)
    steps = [run.count("first_step") for run in there]
    text = f"{share} first at {_span(steps, missing)} updates ({_median(steps, missing)}; {of})"
    unit = _UNITS[axis]
    if unit is None:
        return text
    spent = [run.number("first_x") for run in there]
    return f"{text}, {_span(spent, missing)} {unit} ({_median(spent, missing)})"


def _median(values: Sequence[float], missing: int) -> str:
    """Of all runs: those that did not get there are later than all that did."""
    median = float(np.median([*values, *[math.inf] * missing]))
    return f"median {_three_digits(median)}" if math.isfinite(median) else "median not reached"


def _span(values: Sequence[float], missing: int = 0) -> str:
    texts = [_three_digits(min(values)), "not reached" if missing else _three_digits(max(values))]
    return texts[0] if texts[0] == texts[1] else (" to " if missing else "-").join(texts)


def _three_digits(value: float) -> str:
    """At least three digits that count; powers of ten only far from 1."""
    return f"{value:.0f}" if 100 <= value < 1e9 else f"{value:.3g}"


def _seed(run: Entry) -> str:
    seed = run.optional(run.count, "seed")
    return NOT_RECORDED if seed is None else str(seed)


def _run_command(origin: Entry) -> str:
    return command_of(origin.optional(origin.words, "argv"), origin.optional(origin.count, "world_size"))


def _commit(git: Entry) -> str:
    return commit_of(git.optional(git.text, "commit"), git.optional(git.flag, "dirty"))


def _hardware(record: Entry, threads: str) -> str:
    named = (record.optional(record.text, name) for name in ("gpu", "cpu", "device"))
    unit = next(filter(None, named), "unknown hardware")
    number = record.optional(record.count, threads)
    known = "threads not recorded" if number is None else f"{number} thread{'' if number == 1 else 's'}"
    return f"{record.optional(record.count, 'world_size') or 1}× {unit} ({known})"


# The entries that only this kind of report has together.
_READERS: dict[tuple[str, ...], Callable[[Entry], Report]] = {
    ("checkpoint", "results"): _evaluation,
    ("environment", "results"): _benchmark,
    ("environment", "rollouts"): _trajectories,
    ("target", "metric", "runs"): _time_to_accuracy,
}
