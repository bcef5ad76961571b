"""Runs as figures read them: their logged evaluations, what they share, how they are named."""

import copy
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataset.plain_data import json_object_or_refuse
from errors import UserError
from options import JUDGING, settings_of
from training.records.metrics_log import read_metrics
from training.records.provenance import other_data, settings_sha256
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
_LABELLED = 3  # settings named in a label before the rest is counted
_MULTIPLES = {"global_batch_size": "batch", "updates": "updates"}
_OBJECTIVES = {"baseline_ce": "baseline", "single_perturbed_ce": "single", "multi_perturbed_ce": "multi"}
_JUDGING = {setting.key for setting in settings_of(TrainConfig) if setting.role == JUDGING}


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


def apart(settings: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings in which one of the groups stands apart: others differ, and most are not as it is.

    So of four arms the one that is like the others but for its rate is named by the rate alone, and they are not. What
    only judges a run is named where nothing else sets it apart, a planned length where the length does not say it.
    """
    names = []
    for name in dict.fromkeys(name for others in groups for name in others):
        alike = sum(others.get(name) == settings.get(name) for others in groups)
        if 2 * alike <= len(groups):
            names.append(name)
    if "updates" in names:
        names = [name for name in names if name != "epochs"]
    return [name for name in names if name not in _JUDGING] or names


def arm_labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each arm, no two alike: network and objective, and what sets apart arms that share them.

    Of those the first is what multiples of batch and updates are of: `TRM baseline`, `TRM baseline (4× batch)`.
    """
    short = [_short_label(of_arm) for of_arm in settings]
    labels = []
    for of_arm, label in zip(settings, short, strict=True):
        alike = [other for other, its in zip(settings, short, strict=True) if its == label]
        words = [_difference(name, of_arm.get(name), alike[0].get(name)) for name in apart(of_arm, alike)]
        different = shortened([word for word in words if word])
        labels.append(f"{label} ({different})" if different else label)
    # Settings beyond those that a label has room for.
    return told_apart(labels, settings)


def _difference(name: str, value: Any, first: Any) -> str:
    """`4× batch` where it is a multiple of what the first arm has, nothing where it is as that, else name and value."""
    if name not in _MULTIPLES or not all(type(number) is int and number > 0 for number in (value, first)):
        return f"{name}={value}"
    if value == first:
        return ""
    return f"{name}={value}" if value % first else f"{value // first}× {_MULTIPLES[name]}"


def _short_label(settings: Mapping[str, Any]) -> str:
    """Network and objective, as the registered runs name them: `HRM baseline`, `HRM multi4 loguniform`."""
    words = [str(settings.get("arch.name", "run")).upper()]
    name = settings.get("objective.name")
    if name is not None:
        number = settings.get("objective.num_trajectories") if name == "multi_perturbed_ce" else ""
        words.append(f"{_OBJECTIVES.get(name, name)}{number}")
    if str(name).endswith("perturbed_ce"):
        words.append(str(settings.get("objective.noise_sampling")))
    return " ".join(words)


def shortened(words: Sequence[str]) -> str:
    """The first words, and how many more there are: `lr=0.1, beta1=0.5, beta2=0.5, 2 more`."""
    rest = [f"{len(words) - _LABELLED} more"] if len(words) > _LABELLED else []
    return ", ".join([*words[:_LABELLED], *rest])


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


def told_apart(labels: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels, with some digits of the hash of its settings where two are alike."""
    return [
        label if labels.count(label) == 1 else f"{label} {settings_sha256(its_settings)[:6]}"
        for label, its_settings in zip(labels, settings, strict=True)
    ]


def names_of_folders(folders: Sequence[Path]) -> list[str]:
    """The names of folders; where two share one, all by their paths."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [folder.as_posix() for folder in folders]


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
