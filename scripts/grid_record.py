"""What a launcher writes down beside its runs: commands, sessions, durations, and the number of threads."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dataset.plain_data import JsonError, read_json_object
from errors import UserError
from scripts.grid_file import GridRun
from training.storage.atomic_file import warning_when_refused, write_json_atomically

FILE_NAME = "grid.json"
SCHEMA_VERSION = 1


class GridRecord:
    """`grid.json` of an output folder. It outlives launches: a run's sessions add up.

    A record that cannot be written (a full disk) costs a warning and no run.
    """

    def __init__(self, folder: Path) -> None:
        """Errors: `UserError` when the folder holds a record that cannot be read."""
        self.path = folder / FILE_NAME
        self.threads: int | None = None
        self.runs: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            try:
                self._take(read_json_object(self.path))
            except JsonError as error:
                raise UserError(
                    f"{self.path}: {error}; move it away (finished runs stay finished, the number of threads is "
                    "chosen anew)"
                ) from None

    def _take(self, record: Mapping[str, Any]) -> None:
        threads, runs = record.get("threads"), record.get("runs")
        if type(threads) is not int or threads < 1 or not isinstance(runs, dict):
            raise JsonError("it is no record of a grid: threads or runs are missing")
        for name, run in runs.items():
            sessions = run.get("sessions") if isinstance(run, dict) else None
            if not isinstance(sessions, list) or not all(
                isinstance(session, dict) and isinstance(session.get("seconds"), int | float) for session in sessions
            ):
                raise JsonError(f"the run {name!r} has no sessions with their seconds")
        self.threads, self.runs = threads, runs

    def write(self) -> None:
        record = {"schema_version": SCHEMA_VERSION, "threads": self.threads, "runs": self.runs}
        with warning_when_refused(self.path):
            write_json_atomically(self.path, record)

    def begin(self, run: GridRun) -> None:
        """A session of this run starts now."""
        entry = self.runs.setdefault(run.name, {"sessions": []})
        entry |= {"kind": run.kind, "form": run.form, "command": list(run.command)}
        entry["sessions"].append(
            {"started_utc": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0, "outcome": "running"}
        )
        self.write()

    def end(self, run: GridRun, seconds: float, outcome: str, exit_code: int | None) -> None:
        """The last session of this run has ended: `finished`, `stopped` or `failed`."""
        self.runs[run.name]["sessions"][-1] |= {
            "seconds": round(seconds, 3),
            "outcome": outcome,
            "exit_code": exit_code,
        }
        self.write()

    def seconds(self, name: str) -> float:
        """Seconds of all sessions of a run that have ended."""
        sessions = self.runs.get(name, {}).get("sessions", [])
        return float(sum(session["seconds"] for session in sessions))

    def changed_command(self, run: GridRun) -> bool:
        """Whether the run was last started by another command than the grid has now."""
        before = self.runs.get(run.name, {}).get("command")
        return before is not None and before != list(run.command)

    def outdated(self, runs: Iterable[GridRun]) -> dict[str, str]:
        """Finished runs that started before one that they need, or one that this needs, was made: by name, the need."""
        found: dict[str, str] = {}
        for run in runs:  # each after those that it needs
            older = [need for need in run.needs if need in found or self._started(need) > self._started(run.name)]
            if older and run.is_finished and self._started(run.name):
                found[run.name] = older[0]
        return found

    def _started(self, name: str) -> str:
        """When the last session of a run started, in an order that is that of time; empty where none is known."""
        sessions = self.runs.get(name, {}).get("sessions") or [{}]
        return str(sessions[-1].get("started_utc", ""))


class Clock:
    """Durations seen so far, and what they say about the time that is left.

    A run's duration is taken for the mean of the finished runs of its form, else of all finished runs whose duration
    is known.
    """

    def __init__(self, record: GridRecord) -> None:
        self.record = record
        self.started: dict[str, float] = {}

    def start(self, name: str) -> None:
        self.started[name] = time.monotonic()

    def stop(self, name: str) -> float:
        """Seconds since `start`."""
        return time.monotonic() - self.started.pop(name)

    def seconds_left(self, finished: Iterable[GridRun], ahead: Sequence[GridRun], jobs: int) -> float | None:
        """Seconds until the runs `ahead`, some of them on their way, have ended; None where no duration is known."""
        by_form: dict[str, list[float]] = {}
        for run in finished:
            seconds = self.record.seconds(run.name)
            if seconds > 0:
                by_form.setdefault(run.form, []).append(seconds)
        known = [value for values in by_form.values() for value in values]
        if not known:
            return None
        left = []
        for run in ahead:
            values = by_form.get(run.form, known)
            spent = self.record.seconds(run.name)
            if run.name in self.started:
                spent += time.monotonic() - self.started[run.name]
            left.append(max(0.0, sum(values) / len(values) - spent))
        return max([sum(left) / jobs, *left]) if left else 0.0


def in_words(seconds: float) -> str:
    """`45 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
