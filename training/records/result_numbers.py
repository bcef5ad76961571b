"""What a report says of itself for the records in `results/`: its numbers, headline first, and where they come from.

A script that measures something adds `record_entry(...)` to the JSON it writes; `scripts/record_result.py` copies it.
"""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.records.run_sessions import sessions_of

HASH_CHARACTERS = 12
Z_95 = 1.959963984540054  # the normal distribution's quantile of 0.975, `scipy.special.ndtri(0.975)`
_DIGITS = 6


@dataclass(frozen=True)
class Number:
    """One number of a result; what is not known is None.

    name: what was measured, of what, and in words what the bounds are where they are no 95 % interval. value, low,
    high: in `unit` ("%" for shares). n: how many seeds, runs or repetitions stand behind the value. of: what is counted
    from: the items of a rate, whose numerator is then `numerator`. moment: "initial", "peak" or "final".
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    of: int | None = None
    unit: str | None = None
    moment: str | None = None

    @property
    def key(self) -> tuple[str, str | None]:
        """What tells this number from the others of its record."""
        return self.name, self.moment

    @property
    def numerator(self) -> int | None:
        """Of a rate with a denominator: how many were counted."""
        return None if self.unit != "%" or self.of is None else round(self.value * self.of / 100)

    def plain(self) -> dict[str, Any]:
        """For JSON and yaml: six digits that count and at least one decimal, and nothing that is not known."""
        values = {name: _rounded(value) for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if value is not None}


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % Wilson interval of a rate; (nan, nan) without trials."""
    if total == 0:
        return math.nan, math.nan
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} successes of {total} trials")
    return wilson(successes / total, total)


def wilson(share: float, trials: float) -> tuple[float, float]:
    """95 % Wilson interval of a share in [0, 1] of a positive number of trials, which need not be whole.

    Source: Wilson 1927, as in Newcombe 1998. Written out because `scipy.stats`, whose numbers these are, takes as long
    to import as a script to start.
    """
    denominator = 2 * (trials + Z_95**2)
    middle = (2 * trials * share + Z_95**2) / denominator
    half = Z_95 / denominator * math.sqrt(4 * trials * share * (1 - share) + Z_95**2)
    return middle - half if share > 0 else 0.0, middle + half if share < 1 else 1.0


def rate(name: str, count: float, of: float, moment: str | None = None) -> Number:
    """A share of at least one item, in percent, with its 95 % Wilson interval."""
    low, high = wilson_interval(int(count), int(of))
    return Number(name, 100 * count / of, 100 * low, 100 * high, of=int(of), unit="%", moment=moment)


def judged_rates(reports: Mapping[str, Any], moment: str | None = None, before: str = "") -> list[Number]:
    """The rates among what evaluators report, by label, each as `counted_rate` has it; not those of no rows."""
    measured = []
    for report in reports.values():
        for name, value in report.items() if isinstance(report, Mapping) else ():
            if isinstance(value, Mapping) and value.get("denominator"):
                measured.append(rate(before + name, value["numerator"], value["denominator"], moment))
    return measured


def estimate(
    name: str,
    measured: Mapping[str, Any] | None,
    scale: float = 1.0,
    unit: str | None = None,
    *,
    of: int | None = None,
    moment: str | None = None,
) -> list[Number]:
    """An estimate that a report holds as {"mean" or "value", "low", "high", "n"}; none where it has no value."""
    value = None if measured is None else measured.get("mean", measured.get("value"))
    if measured is None or value is None:
        return []
    low, high = (None if measured.get(bound) is None else scale * measured[bound] for bound in ("low", "high"))
    return [Number(name, scale * value, low, high, n=measured.get("n"), of=of, unit=unit, moment=moment)]


def quartiles(name: str, measured: Mapping[str, Any], scale: float, unit: str) -> Number:
    """A median with its quartiles, which a report holds as {"median", "q1", "q3", "count"}."""
    low, high = (scale * measured[bound] for bound in ("q1", "q3"))
    return Number(f"{name} (quartiles)", scale * measured["median"], low, high, n=measured["count"], unit=unit)


def record_entry(
    numbers: Iterable[Number],
    *,
    origin: Mapping[str, Any] | None = None,
    runs: Sequence[Mapping[str, Any]] = (),
    commands: Sequence[str] = (),
    config_hashes: Sequence[str | None] = (),
    commits: Sequence[str] = (),
    datasets: Sequence[str | None] = (),
    seeds: Sequence[int | None] = (),
    hardware: Sequence[str] = (),
    seconds: float | None = None,
    finished: bool | None = None,
    findings: Sequence[str] = (),
) -> dict[str, Any]:
    """The entry `record` of a report.

    origin: what says by which command, code and machine it was measured. runs: provenance of earlier runs that were
    read, whose commits, data and hardware are added. datasets: hashes, or "synthetic". finished: whether all of those
    runs ended where their curves had become flat. findings: what the report concludes in words.
    """
    measured_by = [] if origin is None else [origin]
    read = dataset_hashes([run.get("datasets") for run in runs])
    sessions = sessions_of(runs)
    return {
        "record": {
            "numbers": [number.plain() for number in numbers],
            "findings": list(findings),
            "needs": list(dict.fromkeys(filter(None, map(command_of, sessions)))),
            "commands": [*commands, *map(command_of, measured_by)],
            "config_hashes": _shortened(config_hashes),
            "commits": list(dict.fromkeys([*commits, *map(commit_of, [*measured_by, *sessions])])),
            "dataset_hashes": _shortened([*datasets, *read]),
            "seeds": [seed for seed in dict.fromkeys(seeds) if seed is not None],
            "hardware": list(dict.fromkeys(hardware or map(machine_of, [*measured_by, *sessions]))),
            "seconds": _rounded(seconds),
            "finished": finished,
        }
    }


def command_of(record: Mapping[str, Any]) -> str:
    """The command of a report, or of a run's provenance with the launcher of its processes; empty where unknown."""
    if record.get("command") or not record.get("argv"):
        return str(record.get("command") or "")
    size = record.get("world_size") or 1
    launcher = "python " if size == 1 else f"torchrun --nproc-per-node {size} "
    return launcher + shlex.join(map(str, record["argv"]))


def machine_of(record: Mapping[str, Any]) -> str:
    """What a provenance record says of the hardware: `1× AMD EPYC (2 threads)`."""
    unit = record.get("gpu") or record.get("cpu") or "unknown hardware"
    number = record.get("num_threads", "unknown")
    return f"{record.get('world_size') or 1}× {unit} ({number} thread{'' if number == 1 else 's'})"


def commit_of(record: Mapping[str, Any]) -> str:
    """The commit of a provenance record, 12 digits, with `+dirty` where the code differed from it."""
    git = record.get("git", record)
    if not isinstance(git, Mapping) or not git.get("commit"):
        return "unknown"
    return str(git["commit"])[:HASH_CHARACTERS] + ("+dirty" if git.get("dirty") else "")


def dataset_hashes(fingerprints: Any) -> list[str]:
    """Every SHA-256 within the fingerprints of data sets, in order."""
    if isinstance(fingerprints, str):
        digits = len(fingerprints) in (40, 64) and set(fingerprints) <= set("0123456789abcdef")
        return [fingerprints] if digits else []
    items = fingerprints.values() if isinstance(fingerprints, Mapping) else fingerprints
    return [digest for item in items for digest in dataset_hashes(item)] if isinstance(items, Iterable) else []


def _shortened(hashes: Sequence[str | None]) -> list[str]:
    return list(dict.fromkeys(text[:HASH_CHARACTERS] for text in hashes if text))


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    decimals = _DIGITS - 1 - math.floor(math.log10(abs(value))) if value else 0
    short = round(value, max(1, decimals))
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
