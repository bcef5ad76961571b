"""Runs as figures read them: their logged evaluations, and what they share."""

import copy
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataset.plain_data import json_object_or_refuse
from errors import UserError
from training.records.metrics_log import read_metrics
from training.records.provenance import other_data
from training.records.result_numbers import commit_of, machine_of, wilson_interval
from training.records.run_sessions import numbers_of, sessions_of
from training.settings.identity import RUN_CONTROL, counted_evaluators
from training.settings.older_names import move_older_names
from training.settings.schema import TrainConfig
from training.storage.run_folder import RunFolder

# Training compute: its key in the log, the words under the axis, and how a value is written.
AXES: dict[str, tuple[str, str, str]] = {
    "seconds": ("train/seconds", "seconds of training", "{:,.1f} s"),
    "updates": ("step", "updates", "{:,.0f} updates"),
    "flops": ("train/flops", "floating-point operations of training", "{:.3g} FLOPs"),
    "samples": ("train/samples", "rows trained", "{:,.0f} rows"),
}


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation: update, training compute spent (in the unit of --x), value, rows it is over (if logged)."""

    step: int
    x: float
    value: float
    rows: int | None


@dataclass(frozen=True)
class RunCurve:
    """One run: its evaluations in order of updates, and what else the run would have to share to be its twin."""

    folder: Path
    seed: int | None
    settings: dict[str, Any]
    points: list[CurvePoint]
    provenance: dict[str, Any]
    lost: tuple[int, int] | None = None  # first and last update of a stretch of which the log lost its lines


def read_run(folder: Path, metric: str, axis: str) -> RunCurve:
    """Read the evaluations of a run. Errors: `UserError` when it has none of `metric`, or not in this unit."""
    names = RunFolder(folder)
    provenance, config, seed = provenance_of(names)
    points: dict[int, CurvePoint] = {}
    logged: set[str] = set()
    steps: set[int] = set()
    counted = f"{metric.rpartition('/')[0]}/count"
    for record in read_metrics(names.metrics):
        steps.add(record["step"])
        logged |= {key for key in record if key.endswith("accuracy")}
        value, x, rows = (number_or_none(record.get(key)) for key in (metric, AXES[axis][0], counted))
        if value is None:
            continue
        if x is None:
            raise UserError(
                f"{names.metrics}: update {record['step']} was logged without {AXES[axis][0]} (by an earlier "
                "version); use --x updates"
            )
        step = record["step"]
        points[step] = CurvePoint(step, x, value, None if rows is None else int(rows))
    if not points:
        raise UserError(f"{names.metrics} holds no {metric}; it holds {', '.join(sorted(logged)) or 'no accuracy yet'}")
    curve = [points[step] for step in sorted(points)]
    return RunCurve(folder, seed, shared_settings(config), curve, provenance, lost_stretch(steps, provenance))


def lost_stretch(steps: Iterable[int], provenance: Mapping[str, Any]) -> tuple[int, int] | None:
    """First and last update of the first gap where a whole log has a line; None without one.

    steps: those logged. A run logs every `log_interval` updates; the longest of its sessions' counts. Lines are missing
    where the file was cut, where a full disk refused them, and where the run began in another folder.
    """
    sessions, logged = sessions_of([provenance]), sorted({0, *steps})
    begun = sessions[0].get("start_step")
    if type(begun) is int and 0 < begun <= min(logged[1:], default=0):
        return 1, begun
    configs = (session.get("config", provenance.get("config")) for session in sessions)
    intervals: list[Any] = [config.get("log_interval") for config in configs if isinstance(config, Mapping)]
    if not intervals or not all(type(interval) is int and interval > 0 for interval in intervals):
        return None  # a log of no run of today
    gaps = ((before + 1, after - 1) for before, after in itertools.pairwise(logged))
    interval = max(intervals)
    return next(((first, last) for first, last in gaps if last // interval > (first - 1) // interval), None)


def provenance_of(names: RunFolder) -> tuple[dict[str, Any], dict[str, Any], int | None]:
    """Of a run with a log: where its numbers come from (`numbers_of`), and of that settings and seed.

    Errors: `UserError`.
    """
    for path in (names.metrics, names.provenance):
        if not path.is_file():
            raise UserError(f"{names.path} has no {path.name}: name the checkpoint_path (--output-dir) of a run")
    logged = max((record["step"] for record in read_metrics(names.metrics)), default=0)
    provenance = numbers_of(json_object_or_refuse(names.provenance), logged)
    config, seeds = provenance.get("config"), provenance.get("seeds")
    if not isinstance(config, dict) or not isinstance(seeds, dict):
        raise UserError(f"{names.provenance} holds no config and seeds: name the checkpoint_path of a run")
    seed = seeds.get("seed")
    if type(seed) is not int and seed is not None:
        raise UserError(f"{names.provenance}: found seed {seed!r}, expected a whole number")
    return provenance, config, seed


def ended_summary(names: RunFolder, logged: int) -> tuple[dict[str, Any], int]:
    """summary.json of a run whose log ends at update `logged`, and its updates. Errors: `UserError`."""
    if not names.summary.is_file():
        raise UserError(f"{names.path} has no {names.summary.name}: let the run go on to its end with its own command")
    summary = json_object_or_refuse(names.summary)
    updates = summary.get("steps")
    if type(updates) is not int or not isinstance(summary.get("test"), dict):
        raise UserError(f"{names.summary} is no summary of a run: steps or test are missing")
    refuse_gone_on(names, updates, logged)
    return summary, updates


def refuse_gone_on(names: RunFolder, updates: int, logged: int) -> None:
    """Errors: `UserError` where the summary at `updates` is older than the log, which ends at update `logged`."""
    if logged > updates:
        raise UserError(
            f"{names.path} was summed up at update {updates} and has gone on to {logged}: let it go on to its end"
        )


def shared_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings in which two runs must agree to be of one group: not the seed, not run control.

    A setting that a run does not have, because it came later, is at its default. Whether a run began with given
    weights counts, but not which: each seed may go on from its own.
    """
    today = copy.deepcopy(dict(config))
    move_older_names(today, TrainConfig)
    complete = dict(_flattened(asdict(TrainConfig()))) | dict(_flattened(today))
    kept = {key: value for key, value in complete.items() if key.partition(".")[0] not in (*RUN_CONTROL, "seed")}
    kept["evaluators"] = counted_evaluators(kept["evaluators"])
    return kept | {"init_from": "given" if config.get("init_from") else None}


def _flattened(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flattened(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def number_or_none(value: Any) -> float | None:
    """A number of a record as a float; None for anything else, an integer beyond all floats included."""
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > sys.float_info.max:
        return None
    return float(value)


def whole(value: Any, name: str, *, least: int = 0, most: int = 2**53 - 1) -> int:
    """A whole number of a record. Errors: ValueError that says what was found and expected."""
    if type(value) is not int or not least <= value <= most:
        limit = f"at least {least}" if most >= 2**53 - 1 else f"{least} to {most}"
        raise ValueError(f"{name} {value!r}, expected {limit}")
    return value


def counted(number: object, noun: str) -> str:
    """`1 seed`, `3 seeds`; the number may be a word, as in `unknown threads`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def origin_of(provenances: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Commits and machines of all sessions of several runs, and their data, every one once, in order of appearance."""
    sessions = sessions_of(provenances)
    datasets = [record.get("datasets") for record in provenances]
    return {
        "commits": list(dict.fromkeys(map(commit_of, sessions))),
        "machines": list(dict.fromkeys(map(machine_of, sessions))),
        "datasets": [names for index, names in enumerate(datasets) if names not in datasets[:index]],
    }


def origin_lines(origin: Mapping[str, Any]) -> list[str]:
    """The lines of a caption that say where the runs were trained, and by which code."""
    return [f"Trained on: {'; '.join(origin['machines'])}.", f"Commits: {', '.join(origin['commits'])}."]


def refuse_repeated_seeds(runs: Iterable[tuple[int | None, Path]]) -> None:
    """Errors: `UserError` when two runs, of the same settings, have one seed. runs: seed and folder."""
    folders: dict[int | None, Path] = {}
    for seed, folder in runs:
        if seed in folders:
            raise UserError(f"{folder} repeats seed {seed} of {folders[seed]} with the same settings: name one of them")
        folders[seed] = folder


def refuse_other_data(runs: Iterable[tuple[Mapping[str, Any], Path]]) -> None:
    """Errors: `UserError` when two runs were trained or judged on different data. runs: provenance and folder.

    Those of an arm name the same folders, so that what lies there was built anew in between.
    """
    for (first, folder), (second, other) in itertools.combinations(runs, 2):
        differing = other_data(first.get("datasets"), second.get("datasets"))
        if differing:
            listed = "; ".join(f"{name} {hashes} and {others}" for name, hashes, others in differing)
            raise UserError(
                f"{folder} and {other} were trained or judged on different data ({listed}): name runs on the same "
                "data, or train one of them anew"
            )


def refuse_twice(folders: Sequence[Path]) -> None:
    """Errors: `UserError` when two of the paths are one folder: its run would count twice."""
    places = [folder.resolve() for folder in folders]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise UserError(f"{folders[index]} is named twice: name every run once")


def finished_by_end(points: Sequence[CurvePoint]) -> bool | None:
    """Whether a curve had become flat: its last value is within the 95 % Wilson interval of the one before, or below.

    A run that was stopped on the steep part of its curve ends elsewhere on a machine that rounds differently. None
    where fewer than two evaluations say over how many rows they are, and where nothing is solved yet.
    """
    if len(points) < 2 or not points[-1].value:
        return None
    before, last = points[-2:]
    if before.rows is None or not 0 < before.rows < 2**53 or not 0 <= before.value <= 1:
        return None
    return last.value <= wilson_interval(round(before.value * before.rows), before.rows)[1]


def all_finished(runs: Sequence[RunCurve]) -> bool | None:
    """`finished_by_end` of every run; None where it is unknown of one."""
    ended = [finished_by_end(run.points) for run in runs]
    return None if None in ended else all(ended)
