"""What all readers of reports share: entries that are checked as they are read, and the texts of a row's cells."""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scipy.stats import binomtest

from errors import UserError

T = TypeVar("T")

NOT_RUN = "not run"
NOT_RECORDED = "not recorded"
_HASH_CHARACTERS = 12
_LARGEST_COUNT = 1 << 53
_LARGEST = 1e30


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

    def signed(self, name: str) -> float:
        """A number of either sign: differences are."""
        value = self.values.get(name)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
        return float(value) if fits else self._refuse(name, "a number")  # type: ignore[arg-type]

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


def span(values: Sequence[float], missing: int = 0) -> str:
    texts = [three_digits(min(values)), "not reached" if missing else three_digits(max(values))]
    return texts[0] if texts[0] == texts[1] else (" to " if missing else "-").join(texts)


def three_digits(value: float) -> str:
    """At least three digits that count; powers of ten only far from 1."""
    return f"{value:.0f}" if 100 <= value < 1e9 else f"{value:.3g}"


def seed_of(run: Entry) -> str:
    seed = run.optional(run.count, "seed")
    return NOT_RECORDED if seed is None else str(seed)


def run_command(origin: Entry) -> str:
    return command_of(origin.optional(origin.words, "argv"), origin.optional(origin.count, "world_size"))


def git_commit(git: Entry) -> str:
    return commit_of(git.optional(git.text, "commit"), git.optional(git.flag, "dirty"))


def hardware_of(record: Entry, threads: str) -> str:
    named = (record.optional(record.text, name) for name in ("gpu", "cpu", "device"))
    unit = next(filter(None, named), "unknown hardware")
    number = record.optional(record.count, threads)
    known = "threads not recorded" if number is None else f"{number} thread{'' if number == 1 else 's'}"
    return f"{record.optional(record.count, 'world_size') or 1}× {unit} ({known})"
