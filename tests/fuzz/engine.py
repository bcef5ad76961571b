"""The fuzzer's rules: how a case is run, and what counts as read, refused or failed.

A case is a pure function of (seed, target, index). Its reader must either return, and the target's judge finds
nothing wrong with the result, or raise exactly one `UserError` of one printable line. Anything else is a
failure: another exception, an exit, a warning of Python's, a process that takes too long or too much memory,
a payload that ran, a result that is silently wrong, a sound input that is refused.
"""

import contextlib
import ctypes
import io
import os
import random
import resource
import shutil
import signal
import stat
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from errors import UserError
from tests.fuzz import canary
from training.records.provenance import peak_memory

SECONDS = 5.0  # per case
BLOCKED_SECONDS = 20.0  # per case that hardly computes: it waits for something, or the machine is busy
MAX_GROWTH = 500 << 20  # bytes of resident memory, per case
ADDRESS_ROOM = 2 << 30  # bytes that a case may ask for before the system refuses, lest the machine suffer
MAX_MESSAGE = 4000

Kind = Literal["read", "refused", "failure"]


class TakesTooLong(BaseException):
    """Raised into a case by the timer; no `except Exception` of a reader can swallow it."""


@dataclass
class Case:
    """One input: how it was made, how it is read, and what would be wrong with a result.

    `judge` returns None or what is wrong. `must_read`: the input is sound, so a refusal is a failure.
    `exits`: codes with which the reader may leave (`--help`).
    """

    changes: list[str]
    read: Callable[[], Any]
    judge: Callable[[Any], str | None]
    must_read: bool = False
    exits: tuple[int, ...] = ()
    shown: str = ""  # the input in words, where it is no file


class Target(Protocol):
    """One reader. `share` says how many of the cases are its own, relative to the other targets."""

    name: str
    share: float

    def prepare(self) -> None:
        """Make the sound inputs, once; always the same ones."""

    def case(self, rng: random.Random, folder: Path) -> Case:
        """Write one input below the empty `folder`. Draws from `rng` only."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    target: str
    seed: int
    index: int
    kind: Kind
    detail: str
    changes: tuple[str, ...]
    seconds: float

    @property
    def command(self) -> str:
        """Runs this very case again."""
        return f"python scripts/fuzz.py --target {self.target} --seed {self.seed} --index {self.index}"


@dataclass
class Report:
    """Counts of one target and its failures."""

    target: str
    read: int = 0
    refused: int = 0
    failures: list[Outcome] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """All cases run."""
        return self.read + self.refused + len(self.failures)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if outcome.kind == "failure":
            self.failures.append(outcome)
        else:
            self.read += outcome.kind == "read"
            self.refused += outcome.kind == "refused"


def shares(targets: list[Target], cases: int) -> dict[str, int]:
    """Cases of each target: by `share`, at least one each, `cases` together."""
    total = sum(target.share for target in targets)
    counts = {target.name: max(1, int(cases * target.share / total)) for target in targets}
    largest = max(targets, key=lambda target: target.share).name
    counts[largest] += max(0, cases - sum(counts.values()))
    return counts


def make_case(target: Target, seed: int, index: int, folder: Path) -> Case:
    """Write the input of a case into `folder`, which is emptied first."""
    empty(folder)
    return target.case(random.Random(f"{seed}/{target.name}/{index}"), folder)


def run_case(target: Target, seed: int, index: int, folder: Path) -> Outcome:
    """Make and run one case in `folder`, which is emptied first and left as the case left it."""
    case = make_case(target, seed, index, folder)
    canary.reset(folder)
    start = time.monotonic()
    kind, detail = _run(case)
    seconds = time.monotonic() - start
    if canary.executed(folder):
        kind, detail = "failure", f"a payload was executed ({detail})"
    return Outcome(target.name, seed, index, kind, detail, tuple(case.changes), seconds)


def _run(case: Case) -> tuple[Kind, str]:
    forget_peak()
    before = peak_memory()["rss_bytes"]
    kind, detail = _read(case)
    growth = peak_memory()["rss_bytes"] - before
    if growth > MAX_GROWTH:
        return "failure", f"memory grew by {growth >> 20} MiB ({kind}: {detail})"
    return kind, detail


def _read(case: Case) -> tuple[Kind, str]:
    output = io.StringIO()
    try:
        with (
            _deadline(),
            warnings.catch_warnings(record=True) as noise,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            warnings.simplefilter("always")
            result = case.read()
    except UserError as error:
        return _refused(case, error)
    except TakesTooLong as error:
        return "failure", f"a hang: {error}"
    except SystemExit as error:
        if error.code in case.exits:
            return "read", f"exit {error.code}"
        return "failure", f"left with exit code {error.code!r}: {output.getvalue()[-500:]!r}"
    except Exception:
        return "failure", traceback.format_exc(limit=-6)
    if noise:
        return "failure", f"a Python warning reached the user: {str(noise[0].message)[:300]!r}"
    if "Traceback (most recent call last)" in output.getvalue():
        return "failure", f"a traceback was printed: {output.getvalue()[-500:]}"
    try:
        wrong = case.judge(result)
    except Exception:
        return "failure", f"the result cannot be judged: {traceback.format_exc(limit=-6)}"
    return ("failure", f"silently wrong: {wrong}") if wrong else ("read", "")


def _refused(case: Case, error: UserError) -> tuple[Kind, str]:
    message = str(error)
    if not message.strip() or not message.isprintable():
        return "failure", f"the refusal is no printable line: {message[:300]!r}"
    if len(message) > MAX_MESSAGE:
        return "failure", f"the refusal has {len(message)} characters: {message[:300]!r}"
    if case.must_read:
        return "failure", f"a sound input was refused: {message}"
    return "refused", message


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Raise `TakesTooLong` into the body when it computes or waits too long.

    A busy machine may stop a process for seconds; so a case that has hardly computed gets more time.
    """
    start, used = time.monotonic(), time.process_time()

    def ring(signum: int, frame: Any) -> None:
        seconds, computed = time.monotonic() - start, time.process_time() - used
        if seconds >= BLOCKED_SECONDS or computed >= SECONDS / 2:
            raise TakesTooLong(f"{seconds:.1f} s, {computed:.1f} s of them computing")

    handler = signal.signal(signal.SIGALRM, ring)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, SECONDS, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:  # a test runner's own timer
            left = max(1e-3, remaining - (time.monotonic() - start))
            signal.setitimer(signal.ITIMER_REAL, left, interval)


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Limit the address space, so that a blow-up fails here instead of taking the machine with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    if not status.exists():  # no such limit outside Linux
        yield
        return
    size = int(status.read_text().split()[0]) * resource.getpagesize() + ADDRESS_ROOM
    limit = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def forget_peak() -> bool:
    """Let this process's peak begin again at what it holds now; False where the system cannot (outside Linux).

    Growth shows only above what is resident. That is an earlier peak, and also what earlier work has freed and the
    heap has kept for the next allocation (`keep_freed_memory`, which any training in this process has called).
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library keeps nothing
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def empty(folder: Path) -> None:
    """Remove everything in `folder`, whatever a case has put there; make it when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def save_input(folder: Path, place: Path, outcome: Outcome) -> Path:
    """Keep the files of a failed case and its description; pipes and devices are described only."""
    kept = place / f"{outcome.target}-{outcome.seed}-{outcome.index}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    lines = [outcome.command, "", "changes:", *outcome.changes, "", outcome.detail, ""]
    (kept / "failure.txt").write_text("\n".join(lines), "utf-8", "backslashreplace")
    if folder.is_dir():
        shutil.copytree(folder, kept / "input", symlinks=True, ignore=_special)
    return kept


def _special(parent: str, names: list[str]) -> list[str]:
    modes = {name: os.lstat(os.path.join(parent, name)).st_mode for name in names}
    plain = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)
    return [name for name, mode in modes.items() if not any(test(mode) for test in plain)]
