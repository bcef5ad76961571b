"""What a launcher writes down beside its runs: commands, sessions, durations, and the number of threads."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dataset.plain_data import JsonError, read_json_object
from errors import UserError
from files import file_sha256
from scripts.grid_file import GridRun
from training.records.provenance import without_home
from training.storage.atomic_file import warning_when_refused, write_json_atomically
from training.storage.run_folder import RunFolder

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

    def begin(self, run: GridRun, needs: Iterable[GridRun] = ()) -> None:
        """A session of this run starts now, from what those that it needs have made."""
        entry = self.runs.setdefault(run.name, {"sessions": []})
        made = {need.name: made_by(need) for need in needs}
        entry |= {"kind": run.kind, "form": run.form, "command": list(run.command), "needs": made}
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
        self.note_made(run)

    def note_made(self, run: GridRun) -> None:
        """Keep what a run that has finished has made."""
        if run.is_finished and run.name in self.runs:
            self.runs[run.name]["made"] = made_by(run)
        self.write()

    def seconds(self, name: str) -> float:
        """Seconds of all sessions of a run that have ended."""
        sessions = self.runs.get(name, {}).get("sessions", [])
        return float(sum(session["seconds"] for session in sessions))

    def changed_command(self, run: GridRun) -> bool:
        """Whether the run was last started by another command than the grid has now; the run's own record may say."""
        before = self.runs.get(run.name, {}).get("command")
        if before is not None:
            return bool(before != list(run.command))
        argv = _own_command(run)
        script = next((place for place, word in enumerate(run.command) if word.endswith(".py")), 0)
        return argv is not None and argv != without_home(list(run.command[script:]))

    def gone_on(self, run: GridRun) -> str | None:
        """What has become of a finished run that is not as it was when the grid finished it; else None."""
        then = self.runs.get(run.name, {}).get("made")
        if not run.is_finished or not isinstance(then, dict) or then == (now := made_by(run)):
            return None
        steps = then.get("steps"), now.get("steps")
        if None in steps or steps[0] == steps[1]:
            return f"its {run.finished_file.name} is another one"
        return f"it had {steps[0]} updates, now {steps[1]}"

    def outdated(self, runs: Iterable[GridRun], by_name: Mapping[str, GridRun]) -> dict[str, str]:
        """Finished runs that started from what one that they need has made no more: by name, that need.

        That one was made again or has gone on since, or one that it needs in its turn.
        """
        found: dict[str, str] = {}
        for run in runs:  # each after those that it needs
            started = self._started(run.name)
            older = [
                need
                for need in run.needs
                if need in found or self._started(need) > started or self._took_another(run, by_name[need])
            ]
            if older and run.is_finished and started:
                found[run.name] = older[0]
        return found

    def _took_another(self, run: GridRun, need: GridRun) -> bool:
        """Whether the run started from what a run that it needs had made, and that has made something else since."""
        needs = self.runs.get(run.name, {}).get("needs")
        then = needs.get(need.name) if isinstance(needs, dict) else None
        return isinstance(then, dict) and need.is_finished and then != made_by(need)

    def _started(self, name: str) -> str:
        """When the last session of a run started, in an order that is that of time; empty where none is known."""
        sessions = self.runs.get(name, {}).get("sessions") or [{}]
        return str(sessions[-1].get("started_utc", ""))


def made_by(run: GridRun) -> dict[str, Any]:
    """What tells the end of a run from another one: the SHA-256 of its last file, its updates where this says them."""
    try:
        digest = file_sha256(run.finished_file)
        summary = read_json_object(run.finished_file) if run.finished_file.suffix == ".json" else {}
    except OSError:
        return {}
    except JsonError:
        summary = {}
    return {"sha256": digest, "steps": summary.get("steps") if type(summary.get("steps")) is int else None}


def _own_command(run: GridRun) -> list[str] | None:
    """The command of the last session that the run itself has noted; None where it notes none."""
    path = RunFolder(run.finished_file.parent).provenance
    try:
        sessions = read_json_object(path).get("sessions") if path.is_file() else None
    except JsonError:
        return None
    last = sessions[-1] if isinstance(sessions, list) and sessions else None
    argv = last.get("argv") if isinstance(last, dict) else None
    return list(map(str, argv)) if isinstance(argv, list) else None


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
