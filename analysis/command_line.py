"""What the command lines of measurements share: checks of numbers, the report that `--json` asks for."""

import argparse
import os
import shlex
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dataset.plain_data import read_json_object
from errors import UserError
from files import reason_of
from training.records.provenance import collect_provenance, recorded_command
from training.records.result_numbers import Number, record_entry
from training.storage.atomic_file import write_json_atomically
from training.storage.result_target import MEASUREMENT, check_result_target
from training.storage.run_folder import ALL_CONFIG


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """The `type` of an argument that is a whole number from `least` to `most`, of at most 19 digits."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 19 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {least} to {most}")
        return int(text)

    return read


def whole_numbers(least: int, most: int) -> Callable[[str], list[int]]:
    """Likewise of one or more with commas between."""
    read = whole_number(least, most)
    return lambda text: [read(word.strip()) for word in text.split(",")]


def outside_runs(text: str) -> Path:
    """The `type` of a folder for a summary.json and more, which is no run's: that one says how the run has ended."""
    folder = Path(text)
    if os.path.lexists(folder / ALL_CONFIG):
        raise argparse.ArgumentTypeError(
            f"{text} is the folder of a run, whose summary.json would be replaced; name another, such as "
            f"{folder / 'analysis'}"
        )
    return folder


def check_at_least(options: argparse.Namespace, **smallest: int) -> None:
    """Errors: `UserError` for the first option below the value that its name is given here."""
    for name, limit in smallest.items():
        if getattr(options, name) < limit:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected at least {limit}")


def refuse_copies(inputs: Iterable[tuple[Hashable, str | Path]]) -> None:
    """Errors: `UserError` when two inputs, each after what it holds, hold the same: it would count twice."""
    seen: dict[Hashable, str | Path] = {}
    for content, name in inputs:
        if content in seen:
            raise UserError(f"{name} holds the same as {seen[content]} and would count twice: name one of them")
        seen[content] = name


def environment(*more: str, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Where a measurement comes from: command, versions, machine, commit, and `more` entries of the provenance."""
    session = collect_provenance({}, device=device)
    names = ("started_utc", "argv", "versions", "platform", "cpu", "num_threads", *more)
    git = {name: session["git"][name] for name in ("commit", "dirty")}
    return {name: session[name] for name in names} | git


def benchmark_entry(numbers: Iterable[Number], described: Mapping[str, Any]) -> dict[str, Any]:
    """`record_entry` of a benchmark, which makes its own data; `described` is its `environment` and seed."""
    return record_entry(
        numbers,
        origin=described,
        datasets=["synthetic"],
        seeds=[described["seed"]],
    )


def check_json_target(path: Path | None) -> None:
    """Errors: `UserError` where a report could not be written there, before minutes are spent on it.

    Also where another command's report lies there: the same one measures again.
    """
    if path is None:
        return
    check_result_target("--json ", path, MEASUREMENT)
    if path.exists():
        earlier = read_json_object(path).get("environment")
        before = earlier.get("argv") if isinstance(earlier, Mapping) else None
        if isinstance(before, list) and _measured(before) != _measured(recorded_command()):
            raise UserError(
                f"--json {path} is there and reports what another command measured ({shlex.join(map(str, before))}); "
                "name another, or remove it"
            )


def _measured(argv: Iterable[object]) -> list[str]:
    """What of a command says what is measured: all but where the report goes."""
    words, skip = [], False
    for word in map(str, argv):
        if not skip and word != "--json" and not word.startswith("--json="):
            words.append(word)
        skip = word == "--json"
    return words


def save_json_target(path: Path | None, report: dict[str, Any]) -> None:
    """Write what `--json` asked for, if it did. Errors: `UserError` when the disk refuses."""
    if path is None:
        return
    try:
        write_json_atomically(path, report)
    except (OSError, ValueError) as error:
        raise UserError(f"--json {path} cannot be written: {reason_of(error)}") from error
