"""Starting the runs of a grid, so many at a time, each after those that it needs; stopping them politely."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from tqdm import tqdm

from errors import printable
from files import open_regular, open_to_append, reason_of
from scripts.grid_file import LOGS, ROOT, Grid, GridRun
from scripts.grid_record import Clock, GridRecord, in_words
from training.interrupt import InterruptHandler

State = Literal["waiting", "running", "finished", "failed", "skipped", "stopped"]

_POLL_SECONDS = 0.1
_TAIL_BYTES = 1 << 16
_SHOWN_LINE = 200
_STOPPED_CODES = (0, -signal.SIGINT, -signal.SIGTERM)


@dataclass
class _Started:
    """A run on its way. `begin`: where this session's part of its log begins."""

    run: GridRun
    process: subprocess.Popen[bytes]
    log: Path
    begin: int


class Launcher:
    """Runs `selected`, in their order as far as their needs let it; `states` says where each one stands.

    A run that fails takes those that need it with it and no other. The runs are processes in sessions of their own:
    a Ctrl-C in the terminal reaches this process only, which passes it on once, since a second one would abort them.
    """

    def __init__(self, grid: Grid, selected: Sequence[GridRun], *, jobs: int, threads: int, record: GridRecord) -> None:
        self.grid, self.selected, self.jobs, self.threads, self.record = grid, selected, jobs, threads, record
        self.clock = Clock(record)
        self.states: dict[str, State] = {run.name: "finished" if run.is_finished else "waiting" for run in grid.runs}
        self.stop_reason: str | None = None
        self._started: list[_Started] = []
        self._elsewhere: list[GridRun] = []  # on their way, started by an earlier launcher that was killed
        self._bar: tqdm | None = None

    def count(self, state: State) -> int:
        """How many of the selected runs are in this state."""
        return sum(self.states[run.name] == state for run in self.selected)

    def run(self, interrupt: InterruptHandler, max_seconds: float | None = None) -> None:
        """Start and watch the runs until all have ended, or `interrupt` or `max_seconds` come.

        Then the runs are asked to stop and waited for. Runs of an earlier launcher are waited for, and left running.

        Errors: KeyboardInterrupt at a second Ctrl-C, after the runs have been aborted.
        """
        deadline = None if max_seconds is None else time.monotonic() + max_seconds
        with self._progress():
            try:
                while True:
                    self._collect()
                    if self.stop_reason is None:
                        self._stop_if_asked(interrupt, deadline)
                    if self.stop_reason is None:
                        self._start_ready()
                    if not self._started and (self.stop_reason is not None or not self._elsewhere):
                        for run in self._elsewhere:
                            self._say(f"{run.name} goes on by itself, as an earlier launcher started it")
                        return
                    self._show_status()
                    time.sleep(_POLL_SECONDS)
            except BaseException:
                self._abort()
                raise

    def _start_ready(self) -> None:
        for run in self.selected:
            if len(self._started) + len(self._elsewhere) >= self.jobs:
                return
            if self.states[run.name] == "waiting" and all(self.states[need] == "finished" for need in run.needs):
                self._start(run)

    def _start(self, run: GridRun) -> None:
        log = log_of(self.grid, run)
        if is_running(log):
            self._elsewhere.append(run)
            self.states[run.name] = "running"
            self._say(f"{run.name} is running, started by an earlier launcher: waiting for it")
            return
        command = [sys.executable, *run.command]
        # MKL's own variable would win over OpenMP's. Unbuffered: the log is looked into while the run goes on.
        threads = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        try:
            log.parent.mkdir(exist_ok=True)
            with open_to_append(log) as file:
                # The run inherits the lock with its output, and keeps it as long as it lives, whatever becomes of us.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                begin = _write_header(file, run)
                process = subprocess.Popen(
                    command, cwd=ROOT, env=os.environ | threads | {"PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL,
                    stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            self._fail(run, f"cannot be started ({reason_of(error)}: {error.filename or log})")
            return
        self._started.append(_Started(run, process, log, begin))
        self.states[run.name] = "running"
        self.clock.start(run.name)
        self.record.begin(run, [self.grid.by_name[need] for need in run.needs])
        self._say(f"started {run.name} ({run.kind})")

    def _collect(self) -> None:
        """Note which runs have ended, and how."""
        for run in [candidate for candidate in self._elsewhere if not is_running(log_of(self.grid, candidate))]:
            self._elsewhere.remove(run)
            self.record.note_made(run)
            self.states[run.name] = "finished" if run.is_finished else "waiting"
            self._say(f"{run.name} of an earlier launcher {'is finished' if run.is_finished else 'has ended half-way'}")
        for started in [candidate for candidate in self._started if candidate.process.poll() is not None]:
            self._started.remove(started)
            run, code = started.run, started.process.returncode
            seconds = self.clock.stop(run.name)
            asked = self.stop_reason is not None and code in _STOPPED_CODES
            # A run that was done may be met by the signal on its way out.
            state: State = "finished" if run.is_finished and (asked or code == 0) else "stopped" if asked else "failed"
            self.record.end(run, seconds, state, code)
            if state == "failed":
                self._fail(run, _how_it_ended(started))
            else:
                self.states[run.name] = state
                self._say(f"{state} {run.name} after {in_words(self.record.seconds(run.name))}")

    def _fail(self, run: GridRun, reason: str) -> None:
        self.states[run.name] = "failed"
        self._say(f"FAILED {run.name}: {reason}")
        for other in self.selected:
            if self.states[other.name] == "waiting" and run.name in self._all_needs(other):
                self.states[other.name] = "skipped"
                self._say(f"skipped {other.name}: it needs {run.name}")

    def _all_needs(self, run: GridRun) -> set[str]:
        by_name = self.grid.by_name
        needs: set[str] = set()
        ahead = list(run.needs)
        while ahead:
            name = ahead.pop()
            if name not in needs:
                needs.add(name)
                ahead += by_name[name].needs
        return needs

    def _stop_if_asked(self, interrupt: InterruptHandler, deadline: float | None) -> None:
        if interrupt.requested:
            self.stop_reason = interrupt.signal_name or "a signal"
            self._pass_on(signal.Signals[self.stop_reason])
        elif deadline is not None and time.monotonic() >= deadline:
            self.stop_reason = "the time is up"
            self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: signal.Signals) -> None:
        if self._started:
            self._say(f"{self.stop_reason}: waiting for {len(self._started)} runs to save their state")
        for started in self._started:
            started.process.send_signal(number)

    def _abort(self) -> None:
        """Leave no process behind: a second SIGINT, or the first one; a further Ctrl-C kills."""
        self.stop_reason = self.stop_reason or "aborted"
        try:
            for started in self._started:
                started.process.send_signal(signal.SIGINT)
            for started in self._started:
                started.process.wait()
        except KeyboardInterrupt:
            for started in self._started:
                if started.process.poll() is None:
                    os.killpg(started.process.pid, signal.SIGKILL)
                    started.process.wait()
        self._collect()

    @contextmanager
    def _progress(self) -> Iterator[None]:
        """One line that is written anew on a terminal; elsewhere each event has the numbers behind it."""
        with tqdm(bar_format="{desc}", disable=None, leave=False, file=sys.stderr) as bar:
            self._bar = None if bar.disable else bar
            yield
        self._bar = None

    def _show_status(self) -> None:
        if self._bar is not None and self._bar.desc != (status := self._status()):
            self._bar.set_description_str(status)

    def _status(self) -> str:
        counts = [f"{self.count('finished')}/{len(self.selected)} done", f"{self.count('running')} running"]
        counts.append(f"{self.count('failed')} failed")
        if skipped := self.count("skipped"):
            counts.append(f"{skipped} skipped")
        ended = [run for run in self.grid.runs if self.states[run.name] == "finished"]
        ahead = [run for run in self.selected if self.states[run.name] in ("waiting", "running")]
        left = self.clock.seconds_left(ended, ahead, self.jobs)
        if left is not None and self.stop_reason is None:
            counts.append(f"about {in_words(left)} left")
        return ", ".join(counts)

    def _say(self, event: str) -> None:
        text = event if self._bar is not None else f"{event} [{self._status()}]"
        tqdm.write(printable(text), file=sys.stdout)
        sys.stdout.flush()


def log_of(grid: Grid, run: GridRun) -> Path:
    """Where the output of a run goes."""
    return grid.out / LOGS / f"{run.name}.log"


def is_running(log: Path) -> bool:
    """Whether a run still holds its log, and with it the lock on it."""
    try:
        with open_regular(log) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no log, or no lock here
        return False
    return False


def _write_header(file: BinaryIO, run: GridRun) -> int:
    """A line that separates the sessions of a log; returns where this session's output begins."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    file.write(f"== {now} python {' '.join(run.command)}\n".encode())
    file.flush()
    return file.tell()


def _how_it_ended(started: _Started) -> str:
    code = started.process.returncode
    if code == 0:
        how = f"it ended without {started.run.finished_file}"
    elif code < 0:
        how = f"ended by {_signal_name(-code)}"
    else:
        how = f"exit code {code}"
    return f"{how}; last line of {started.log}: {_last_line(started.log, started.begin)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(log: Path, begin: int) -> str:
    """The last line that is not empty, of what was written from `begin` on; printable and not too long."""
    try:
        with open_regular(log) as file:
            file.seek(max(begin, log.stat().st_size - _TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    except OSError as error:
        return f"(cannot be read: {reason_of(error)})"
    last = next((line for line in reversed(lines) if line), "(nothing was printed)")
    shown = printable(last)
    return shown if len(shown) <= _SHOWN_LINE else f"{shown[:_SHOWN_LINE]}..."
