"""What a record copies: the numbers that run folders and reports carry, and what says where they come from."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os.path import commonprefix
from pathlib import Path
from typing import Any

from analysis.arms.run_curves import finished_by_end, read_run, refuse_gone_on, refuse_other_data, shared_settings
from analysis.arms.seed_pairs import mean_interval
from analysis.command_line import refuse_copies
from dataset.plain_data import json_object_or_refuse
from errors import UserError
from files import file_sha256
from scripts.record_file import checked_fields
from training.records.metrics_log import read_metrics
from training.records.provenance import settings_sha256
from training.records.result_numbers import HASH_CHARACTERS, Number, command_of, commit_of, dataset_hashes, machine_of
from training.records.run_sessions import numbers_of, sessions_of
from training.storage.run_folder import RunFolder

_read = partial(json_object_or_refuse, mend="name a run folder or a report that a script wrote")
_AGAIN = "make it again: it was written by an earlier version, or is no result"


def gathered(outputs: Sequence[Path]) -> dict[str, Any]:
    """The measured fields of a record, of run folders (finished ones) or of reports.

    What several outputs call by one name is told apart by the names of folder or file. Errors: `UserError`.
    """
    runs = [path for path in outputs if os.path.isdir(path)]  # unlike pathlib's, of any name
    sources = [_of_run(path) if path in runs else _entry(path, _read(path), {}) for path in outputs]
    refuse_copies((file_sha256(RunFolder(path).summary if path in runs else path), path) for path in outputs)
    short = [path.name if path in runs else path.stem for path in outputs]
    names = short if len(set(short)) == len(short) else [path.as_posix() for path in outputs]
    numbers = _means_over_seeds(runs, sources, names) if len(runs) == len(outputs) > 1 else []
    numbers += _told_apart({name: source["numbers"] for name, source in zip(names, sources, strict=True)})
    merged = {
        name: list(dict.fromkeys(entry for source in sources for entry in source[name]))
        for name in ("needs", "commands", "config_hashes", "commits", "dataset_hashes", "seeds", "hardware", "findings")
    }
    merged["needs"] = [command for command in merged["needs"] if command not in merged["commands"]]
    seconds = [source["seconds"] for source in sources if source["seconds"] is not None]
    ended = [source["finished"] for source in sources]
    return merged | {
        "outputs": [path.as_posix() for path in outputs],
        "seconds": round(sum(seconds), 1) if seconds else None,
        "finished": None if None in ended else all(ended),
        "numbers": numbers,
    }


def _of_run(folder: Path) -> dict[str, Any]:
    names = RunFolder(folder)
    if not names.provenance.is_file():
        raise UserError(f"{folder} has no provenance.json; name the checkpoint_path of a run")
    if not names.summary.is_file():
        raise UserError(f"{folder} has no summary.json: the run has not ended; go on with its command, then record it")
    log = read_metrics(names.metrics) if names.metrics.is_file() else ()
    logged = max((record["step"] for record in log), default=0)
    provenance, summary = numbers_of(_read(names.provenance), logged), _read(names.summary)
    config, best = provenance.get("config"), summary.get("best")
    sessions = sessions_of([provenance])
    if not isinstance(config, Mapping) or any(
        not isinstance(session.get("argv"), list) or not isinstance(session.get("world_size", 1), int)
        for session in sessions
    ):
        raise UserError(f"{names.provenance} lacks the command, the settings or the number of processes; {_AGAIN}")
    if type(summary.get("steps")) is int:
        refuse_gone_on(names, summary["steps"], logged)
    # Runs that patience ended are of one arm, however long they are.
    length = summary.get("steps") if config.get("early_stop_patience") is None else None
    metric = best.get("metric") if isinstance(best, Mapping) else None
    finished = finished_by_end(read_run(folder, metric, "updates").points) if isinstance(metric, str) else None
    hashes = [str(provenance.get("config_hash")), *dataset_hashes(provenance.get("datasets"))]
    return _entry(names.summary, summary, {
        "commands": list(dict.fromkeys(map(command_of, sessions))),
        "config_hashes": [hashes[0][:HASH_CHARACTERS]],
        "commits": list(dict.fromkeys(map(commit_of, sessions))),
        "dataset_hashes": [digest[:HASH_CHARACTERS] for digest in hashes[1:]],
        "seeds": [config["seed"]] if "seed" in config else [],
        "hardware": list(dict.fromkeys(map(machine_of, sessions))),
        "seconds": summary.get("train_seconds"),
        "finished": finished,
    }) | {
        "arm": settings_sha256(shared_settings(config) | {"updates": length}),
        "datasets": provenance.get("datasets"),
    }  # fmt: skip


def starts_elsewhere(folder: Path) -> str | None:
    """The file of another run that this one, which `gathered` took, began from; None where it began by itself."""
    provenance = _read(RunFolder(folder).provenance)
    config = provenance.get("config") or {}
    begun = sessions_of([provenance])[0].get("start_step")
    found = config.get("resume") if begun else config.get("init_from")
    return str(found) if found and found not in ("auto", "must", "never") else None


def _entry(path: Path, report: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    entry = report.get("record")
    if not isinstance(entry, Mapping) or not entry.get("numbers"):
        raise UserError(f"{path} has no numbers for a record; {_AGAIN}")
    return checked_fields(path, {**entry, **known})


def _means_over_seeds(runs: Sequence[Path], sources: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Number]:
    """The headline of runs that differ in nothing but the seed, mean and 95 % t interval; of one length each.

    Errors: `UserError` where runs of one arm are on other data.
    """
    groups: dict[str, list[int]] = {}
    for place, source in enumerate(sources):
        groups.setdefault(source["arm"], []).append(place)
    means = []
    for places in groups.values():
        refuse_other_data((sources[place], runs[place]) for place in places)
        headlines = [sources[place]["numbers"][0] for place in places]
        seeds = {tuple(sources[place]["seeds"]) for place in places}
        if len(places) == len(seeds) > 1 and len({number.key for number in headlines}) == 1:
            first, mean = headlines[0], mean_interval([number.value for number in headlines])
            if first.unit == "%":
                mean = mean.within(0, 100)
            name = f"{common_name([names[place] for place in places])}: {first.name}, mean over seeds"
            means.append(Number(name, mean.mean, mean.low, mean.high, mean.n, unit=first.unit, moment=first.moment))
    return means


def common_name(names: Sequence[str]) -> str:
    """What the folders of runs with different seeds share: `trm_mlp` of `trm_mlp_seed0` and `trm_mlp_seed1`."""
    return commonprefix(list(names)).rstrip("0123456789").removesuffix("seed").rstrip("-_") or "runs"


def _told_apart(numbers: Mapping[str, Sequence[Number]]) -> list[Number]:
    """The numbers of several outputs: what they call by one name goes by theirs too, unless it is the same in all."""
    named: dict[tuple[str, str | None], list[Number]] = {}
    for number in itertools.chain.from_iterable(numbers.values()):
        named.setdefault(number.key, []).append(number)
    told = []
    for output, its_numbers in numbers.items():
        for number in its_numbers:
            alike = named[number.key]
            same = all(other == number for other in alike)
            told.append(number if same else replace(number, name=f"{output}: {number.name}"))
    return list(dict.fromkeys(told))
