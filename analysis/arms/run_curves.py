"""Runs as figures read them: their logged evaluations, what they share, how they are named."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataset.plain_data import JsonError, read_json_object
from errors import UserError
from training.records.metrics_log import read_metrics
from training.settings.resolving import RUN_CONTROL, TrainConfig
from training.storage.run_folder import RunFolder

# Training compute: its key in the log, the words under the axis, and how a value is written.
AXES: dict[str, tuple[str, str, str]] = {
    "seconds": ("train/seconds", "seconds of training", "{:,.1f} s"),
    "updates": ("step", "updates", "{:,.0f} updates"),
    "flops": ("train/flops", "floating-point operations of training", "{:.3g} FLOPs"),
    "samples": ("train/samples", "rows trained", "{:,.0f} rows"),
}
_LABELLED = 3  # settings named in a label before the rest is counted


@dataclass(frozen=True)
class Point:
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
    points: list[Point]
    provenance: dict[str, Any]


def read_run(folder: Path, metric: str, axis: str) -> RunCurve:
    """Read the evaluations of a run. Errors: `UserError` when it has none of `metric`, or not in this unit."""
    names = RunFolder(folder)
    for path in (names.metrics, names.provenance):
        if not path.is_file():
            raise UserError(f"{folder} has no {path.name}: name the checkpoint_path of a run")
    try:
        provenance = read_json_object(names.provenance)
    except JsonError as error:
        raise UserError(f"{names.provenance}: {error}") from error
    points: dict[int, Point] = {}
    logged: set[str] = set()
    counted = f"{metric.rpartition('/')[0]}/count"
    for record in read_metrics(names.metrics):
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
        points[step] = Point(step, x, value, None if rows is None else int(rows))
    if not points:
        raise UserError(f"{names.metrics} holds no {metric}; it holds {', '.join(sorted(logged)) or 'no accuracy yet'}")
    config, seeds = provenance.get("config"), provenance.get("seeds")
    if not isinstance(config, Mapping) or not isinstance(seeds, Mapping):
        raise UserError(f"{names.provenance} holds no config and seeds: name the checkpoint_path of a run")
    ordered = [points[step] for step in sorted(points)]
    return RunCurve(folder, seeds.get("seed"), shared_settings(config), ordered, provenance)


def shared_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings in which two runs must agree to be of one group: not the seed, not run control.

    A setting that a run does not have, because it came later, is at its default. Whether a run began with given
    weights counts, but not which: each seed may go on from its own.
    """
    complete = dict(_flattened(asdict(TrainConfig()))) | dict(_flattened(config))
    kept = {key: value for key, value in complete.items() if key.partition(".")[0] not in (*RUN_CONTROL, "seed")}
    return kept | {"init_from": "given" if config.get("init_from") else None}


def differing_settings(own: Mapping[str, Any], everybody: Sequence[Mapping[str, Any]]) -> str:
    """What `own` does not share with everybody, as `lr=0.1, arch.L_layers=3`; the network where all are alike."""
    names = dict.fromkeys(name for settings in everybody for name in settings)
    different = [name for name in names if any(each.get(name) != own.get(name) for each in everybody)]
    shown = [f"{name}={own.get(name)}" for name in different[:_LABELLED]]
    rest = len(different) - _LABELLED
    more = [f"{rest} more"] if rest > 0 else []
    return ", ".join(shown + more) or f"{own.get('arch.name', 'all runs')}"


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


def machine_of(record: Mapping[str, Any]) -> str:
    """What a provenance record says of the hardware: `1× AMD EPYC (2 threads)`."""
    unit = record.get("gpu") or record.get("cpu") or "unknown hardware"
    number = record.get("num_threads", "unknown")
    return f"{record.get('world_size') or 1}× {unit} ({number} thread{'' if number == 1 else 's'})"


def commit_of(record: Mapping[str, Any]) -> str:
    """The commit of a provenance record, 12 digits, with `+dirty` where the code differed from it."""
    git = record.get("git")
    if not isinstance(git, Mapping) or not git.get("commit"):
        return "unknown"
    return str(git["commit"])[:12] + ("+dirty" if git.get("dirty") else "")


def distinct(texts: Iterable[str]) -> list[str]:
    """Each text once, in order of appearance."""
    return list(dict.fromkeys(texts))


def refuse_twice(folders: Sequence[Path]) -> None:
    """Errors: `UserError` when two of the paths are one folder: its run would count twice."""
    places = [folder.resolve() for folder in folders]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise UserError(f"{folders[index]} is named twice: name every run once")
