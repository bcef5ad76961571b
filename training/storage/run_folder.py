"""The run folder: the names of its files, who may use it, and whether a state is of the same run.

One folder is one run.
"""

import errno
import fcntl
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from errors import UserError, say
from files import open_lock, reason_of

ALL_CONFIG = "all_config.yaml"
LATEST_STATE, PREVIOUS_STATE, BEST_STATE, FINAL_STATE = (
    f"{kind}_state.pt" for kind in ("latest", "previous", "best", "final")
)
BEST, FINAL = "best.pt", "final.pt"
METRICS, STATUS, PROVENANCE, SUMMARY = "metrics.jsonl", "status.json", "provenance.json", "summary.json"
TEST_ROWS = "test_rows.json"
WEIGHTS_RECORD, TRAINING_PUZZLES = "weights.json", "training_puzzles.npy"
STEP_FILE = re.compile(r"step_(\d+)(?:\.safetensors)?")
FIXED_NAMES = (
    ALL_CONFIG, LATEST_STATE, PREVIOUS_STATE, BEST_STATE, FINAL_STATE, BEST, FINAL, METRICS, STATUS, PROVENANCE,
    SUMMARY, TEST_ROWS, WEIGHTS_RECORD, TRAINING_PUZZLES,
)  # fmt: skip
# What a run writes. Only temporaries of these names (`files.temporary_for`) are ours to sweep.
_TEMPORARY = re.compile(
    rf"\.(?:{'|'.join(map(re.escape, FIXED_NAMES))}|(?:best|final)\.safetensors|{STEP_FILE.pattern}"
    r"|step_\d+_all_preds\.\d+\.npz)\.(?:[0-9a-f]{16}|\d+)\.tmp"  # the process number of earlier code
)
_SHOWN = 8  # differences listed before the rest is counted
_LOCK_REFUSED = (errno.EAGAIN, errno.EACCES)


class FolderGone(UserError):
    """The run folder was removed, moved or replaced while the run was using it."""


class RunFolder:
    """Names of everything in a run folder. `path` is `checkpoint_path`; creating it is a separate step."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._held: tuple[int, int] | None = None  # device and number of the folder that is locked
        self.all_config = self.path / ALL_CONFIG
        self.latest_state = self.path / LATEST_STATE
        self.previous_state = self.path / PREVIOUS_STATE
        self.best_state = self.path / BEST_STATE
        self.final_state = self.path / FINAL_STATE
        self.best = self.path / BEST
        self.best_archive = self.path / "best"
        self.final = self.path / FINAL
        self.metrics = self.path / METRICS
        self.status = self.path / STATUS
        self.provenance = self.path / PROVENANCE
        self.summary = self.path / SUMMARY
        self.test_rows = self.path / TEST_ROWS
        self.weights_record = self.path / WEIGHTS_RECORD
        self.lock_file = self.path / ".lock"

    def step(self, step: int) -> Path:
        """Weights saved at update `step`, under the official name."""
        return self.path / f"step_{step}"

    def outputs(self, step: int, rank: int) -> Path:
        """The outputs of validation rows that process `rank` recorded at update `step`, under the official name."""
        return self.path / f"step_{step}_all_preds.{rank}.npz"

    def judged(self, evaluator: str, when: str) -> Path:
        """The folder of an evaluator's files, `when` step_N or test_WEIGHTS, named as officially."""
        return self.path / f"evaluator_{evaluator}_{when}"

    @property
    def newest_state(self) -> Path | None:
        """The state a resume reads first; None when the folder holds none that was written as the newest."""
        return next((path for path in (self.latest_state, self.previous_state) if path.exists()), None)

    @property
    def states(self) -> list[Path]:
        """Every full state present, newest first."""
        named = (self.latest_state, self.previous_state, self.final_state, self.best_state)
        return [path for path in named if path.exists()]

    @property
    def results(self) -> list[Path]:
        """What of a run is worth having without its states: weights, numbers, log."""

        def steps(folder: Path) -> list[Path]:
            return (
                sorted(path for path in folder.iterdir() if STEP_FILE.fullmatch(path.name)) if folder.is_dir() else []
            )

        archive = [self.best_archive] if steps(self.best_archive) else []
        named = [self.final, self.best, *archive, self.summary, self.test_rows, *steps(self.path), self.metrics]
        return [path for path in named if path.is_file() or path is self.best_archive]  # a device is none

    def create(self) -> None:
        """Make the folder. Errors: `UserError` when a file is in the way or it cannot be written to."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "a file is in the way" if error.errno in (errno.EEXIST, errno.ENOTDIR) else error.strerror
            raise UserError(f"checkpoint_path={self.path} cannot be made a folder: {reason}; name another") from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UserError(f"checkpoint_path={self.path} is not writable; mend its permissions or name another")

    @contextmanager
    def lock(self, wait_seconds: float = 2.0) -> Iterator[None]:
        """Hold the folder for this process; the kernel lets go when the process ends, however it ends.

        Waits a little, since a killed process may still be on its way out when its successor starts.
        Errors: `UserError` naming the holder when another process keeps it.
        """
        try:
            descriptor = open_lock(self.lock_file)
        except OSError as error:
            raise UserError(
                f"{self.lock_file} cannot be used as the lock of this folder: {reason_of(error)}; move it away, or "
                "name another checkpoint_path"
            ) from error
        try:
            self._take(descriptor, wait_seconds)
            self._held = _number(self.path)
            yield
        finally:
            os.close(descriptor)

    @property
    def is_there(self) -> bool:
        """Whether the path leads to the folder that was locked; True where none was."""
        return self._held is None or self._held == _number(self.path)

    def require_there(self) -> None:
        """Errors: `FolderGone` where the path no longer leads to the folder that was locked."""
        if self.is_there:
            return
        found = "another folder is in its place" if os.path.isdir(self.path) else "it is no longer there"
        raise FolderGone(
            f"{self.path}: {found}, so nothing of this run can be saved; put the folder back, and the same command "
            "goes on from its newest state"
        )

    def _take(self, descriptor: int, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in _LOCK_REFUSED:
                    say(f"warning: {self.path} cannot be locked here ({error.strerror})", file=sys.stderr)
                    return
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 20, 0).decode("ascii", errors="replace").strip()
                    raise UserError(
                        f"{self.path} is in use by another run{f' (process {holder})' if holder else ''}; "
                        "wait for it, stop it, or name another checkpoint_path"
                    ) from error
            time.sleep(0.05)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            # The lock itself is held; only the hint for others is missing (full disk).
            say(f"warning: {self.lock_file} could not be written ({error.strerror})", file=sys.stderr)


def _number(folder: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def sweep_temporaries(folder: Path) -> list[Path]:
    """Remove what killed writers left in a run folder; returns the removed paths.

    Call it at start-up, from one process, while holding the folder's lock: a living writer's file would go
    too. Files of other names, hidden or not, are left alone.
    """
    removed = []
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


def compare_run_identity(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Name what differs between two nested descriptions: `arch.hidden_size: saved 96, now 128`."""
    before, now = dict(_flattened(saved)), dict(_flattened(current))
    differences = []
    for key in [*before, *(key for key in now if key not in before)]:
        if key not in now:
            differences.append(f"{key}: saved {before[key]!r}, now absent")
        elif key not in before:
            differences.append(f"{key}: saved without, now {now[key]!r}")
        elif not _equal(before[key], now[key]):
            differences.append(f"{key}: saved {before[key]!r}, now {now[key]!r}")
    return differences


def refuse_if_different(saved: Mapping[str, Any], current: Mapping[str, Any], source: Path | str) -> None:
    """Raise `UserError` naming the differences when the state in `source` belongs to another run."""
    differences = compare_run_identity(saved, current)
    if differences:
        rest = len(differences) - _SHOWN
        listed = "; ".join(differences[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
        raise UserError(
            f"{source} is the state of another run: {listed}. Use the saved options, or start a new run with "
            "another checkpoint_path (init_from=FILE takes over weights only)"
        )


def _flattened(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            yield from _flattened(item, f"{name}.")
        else:
            yield name, item


def _equal(first: Any, second: Any) -> bool:
    """Equality as a config means it: lists equal tuples, 1 equals 1.0 but not True, NaN equals itself."""
    if isinstance(first, bool) != isinstance(second, bool):
        return False
    if _is_sequence(first) and _is_sequence(second):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, float) and isinstance(second, float) and first != first:
        return second != second
    return (first == second) is True  # of a tensor, which no identity holds, it is another tensor


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
