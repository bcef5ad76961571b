"""Run a record again in a clone of the repository, and compare its numbers with those recorded."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from dataset.plain_data import read_yaml
from errors import UserError, say
from files import bounded_text, open_new, open_to_append
from scripts.record_file import RESULTS, Record
from scripts.record_render import number_text
from scripts.record_sources import gathered
from training.records.result_numbers import Number

_DONE = ".commands_done"  # in the clone: what need not be run again
# They speak of the machine, and differ from one call to the next.
_UNITS_OF_SPEED = ("ms", "MiB", "GFLOP/s", "rows/s", "seconds", "million steps/s", "times")


def translated(command: str, root: Path) -> list[str]:
    """The words of a command, with the paths of scripts that have moved since it was recorded."""
    moved = read_yaml(root / RESULTS.name / "_moved_paths.yaml", "expected a mapping of old to new paths")
    return [moved.get(word, word) for word in shlex.split(command)]


def absolute_paths(commands: Sequence[str]) -> list[str]:
    """Those that some commands, or paths, name: what they write or read lies in one place only."""
    found = (re.findall(r"(?:^|[\s='\",\[])(/[^\s'\",\]]+)", command) for command in commands)
    return list(dict.fromkeys(itertools.chain(*found)))


def commands_of(record: Record, root: Path) -> list[list[str]]:
    """All that has to be run, in order. Errors: `UserError` for a record without commands."""
    if not record.commands or not record.outputs:
        raise UserError(f"{record.id} has no commands or no outputs: it cannot be run again")
    if apart := absolute_paths([*record.outputs, *record.needs, *record.commands]):
        raise UserError(
            f"{record.id} names {', '.join(apart)}, which is not in a clone: what was recorded there would be compared "
            "with itself, or go on; run its commands by hand, with relative paths"
        )
    return [translated(command, root) for command in (*record.data_commands, *record.needs, *record.commands)]


def plan_lines(record: Record, root: Path) -> list[str]:
    """What `rerun` would do, and what is known of its cost."""
    seconds = "unknown" if record.seconds is None else f"{record.seconds:,.0f} s"
    cost = f"{seconds} on {'; '.join(record.hardware) or 'unknown hardware'}"
    return [
        f"{record.id} runs these commands in a clone, given with --to DIR. Recorded time of the measured runs, without "
        f"data and earlier runs: {cost}",
        *(shlex.join(words) for words in commands_of(record, root)),
    ]


def rerun(record: Record, folder: Path, root: Path) -> int:
    """Clone, run and compare; returns 1 where the headline differs. Errors: `UserError`, also for a failed command."""
    commands = commands_of(record, root)
    say(*plan_lines(record, root), flush=True)
    _clone(root, folder)
    measured = ", ".join(record.commits) or "no known"
    say(f"{folder} is at commit {_commit(folder)}, {record.id} was measured at {measured}")
    done = folder / _DONE
    finished = bounded_text(done).splitlines() if done.is_file() else []
    for words in commands:
        line = shlex.join(words)
        if line in finished:
            continue
        say(f"== {line}", flush=True)
        _make_output_folders(folder, words)
        code = subprocess.run(_started(words), cwd=folder, env=os.environ | _threads(record)).returncode
        if code:
            raise UserError(f"{line} ended with exit code {code}; the same --rerun goes on from there")
        with open_to_append(done) as file:
            file.write(f"{line}\n".encode())
    here = Path.cwd()
    os.chdir(folder)
    try:
        numbers = gathered([Path(output) for output in record.outputs])["numbers"]
    finally:
        os.chdir(here)
    return compare(record, numbers)


def compare(record: Record, again: Sequence[Number]) -> int:
    """Print a verdict for each number, the headline first; returns 1 where the headline differs or is missing.

    A number that is not there by its name is the one in its place, where that is as little known to the record and
    there are as many: what is measured was named otherwise then.
    """
    measured, counts = {number.key: number for number in again}, {"equal": 0, "within the interval": 0, "differs": 0}
    headline, known = "differs", {number.key for number in record.numbers}
    for place, old in enumerate(record.numbers):
        new = measured.get(old.key)
        if new is None and len(again) == len(record.numbers) and again[place].key not in known:
            new = again[place] if again[place].unit == old.unit else None
        word = verdict(old, new)
        headline = word if place == 0 else headline
        if place and old.unit in _UNITS_OF_SPEED:
            continue
        counts[word] += 1
        now = "not there" if new is None else number_text(new)
        if place == 0 or word != "equal":
            moment = f", {old.moment}" if old.moment else ""
            say(f"{'headline: ' if place == 0 else ''}{word}: {old.name}{moment}: recorded {number_text(old)}, "
                  f"now {now}")  # fmt: skip
    say(f"{record.id}: headline {headline}; " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    if headline == "differs" and record.finished is False:
        say("a recorded run was stopped on the steep part of its curve: other rounding ends it elsewhere")
    return int(headline == "differs")


def verdict(old: Number, new: Number | None) -> str:
    """`equal` to the digits recorded; else by the recorded interval, or by the new one where none is recorded."""
    if new is None:
        return "differs"
    if _to_digits_of(new.value, old.value) == Decimal(str(old.value)):
        return "equal"
    value, (low, high) = (new.value, (old.low, old.high)) if old.low is not None else (old.value, (new.low, new.high))
    return "within the interval" if low is not None and high is not None and low <= value <= high else "differs"


def _to_digits_of(value: float, recorded: float) -> Decimal:
    """Rounded to the decimals of what was recorded; large counts, which were recorded in short, to its digits."""
    exponent = Decimal(str(recorded)).as_tuple().exponent
    if abs(recorded) >= 1e7:
        exponent = Decimal(str(recorded)).normalize().as_tuple().exponent
    return round(Decimal(str(value)) / Decimal(10) ** int(exponent)) * Decimal(10) ** int(exponent)


def _clone(root: Path, folder: Path) -> None:
    """Errors: `UserError` where there is no repository, or `folder` holds something else than a clone made here.

    Any other clone, this one first of all, may hold the recorded run itself, which would be read and be equal.
    """
    if (folder / ".git").is_dir() and (folder / _DONE).is_file() and not folder.samefile(root):
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--to {folder} is not empty and no clone of an earlier --rerun; name a new folder")
    cloned = subprocess.run(["git", "clone", "-q", str(root), str(folder)], capture_output=True, text=True)
    if cloned.returncode:
        raise UserError(f"{root} cannot be cloned to {folder}: {cloned.stderr.strip().splitlines()[-1:]}")
    open_new(folder / _DONE).close()


def _commit(folder: Path) -> str:
    asked = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "unknown"


def _started(words: Sequence[str]) -> list[str]:
    """With this interpreter, whatever `python` is there."""
    launchers = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}
    return [*launchers.get(words[0], [words[0]]), *words[1:]]


def _threads(record: Record) -> dict[str, str]:
    """As many threads as recorded: sums in another order are other bits."""
    numbers = {match[1] for text in record.hardware if (match := re.search(r"\((\d+) threads?\)", text))}
    return {"OMP_NUM_THREADS": numbers.pop()} if len(numbers) == 1 else {}


def _make_output_folders(folder: Path, words: Sequence[str]) -> None:
    """Scripts write a --json FILE into folders that exist."""
    for option, value in itertools.pairwise(words):
        if option in ("--json", "--output-csv"):
            (folder / value).parent.mkdir(parents=True, exist_ok=True)
