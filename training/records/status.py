"""`status.json`: what a run is doing now, for people and programs that look at it from outside."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dataset.plain_data import json_bytes, strict_values
from errors import say
from files import overwrite_small
from training.storage.atomic_file import write_json_atomically
from training.storage.run_folder import FolderGone

SCHEMA_VERSION = 1
STATES = ("running", "eval", "done", "failed", "stopped")

# Every field is always present; null means not known (yet).
_FIELDS = (
    "run_id",
    "epoch",
    "global_step",
    "update_step",
    "micro_step",
    "samples_seen",
    "lr",
    "grad_norm",
    "clip_events",
    "last_fast_eval_step",
    "last_full_eval_step",
    "last_ckpt",
    "best",
    "git_sha",
    "config_hash",
    "error",
)
# The loop gives these; the remaining times are computed from them.
_TARGETS = ("total_steps", "next_fast_eval_step", "next_full_eval_step")


class StatusWriter:
    """Keeps `status.json` current: every `interval_seconds` through `update`, at once through `event`.

    Always parseable: replaced atomically, strict JSON (a non-finite number becomes null). A disk that refuses
    costs a warning, never the run. As a context manager it records `failed`, `stopped` (Ctrl-C) or `done` at
    the end.

    `clock` is monotonic, in seconds; `window` is the number of updates over which rates are averaged.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        interval_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        window: int = 50,
        **fields: Any,
    ) -> None:
        self.path = Path(path)
        self.state = "running"
        self._interval = interval_seconds
        self._clock = clock
        self._fields: dict[str, Any] = dict.fromkeys((*_FIELDS, *_TARGETS))
        self._marks: deque[tuple[float, int, int | None]] = deque(maxlen=window + 1)
        self._written_at: float | None = None
        self._warned = False
        self._set(fields)

    def update(self, **fields: Any) -> bool:
        """Take over fields; write when the interval has passed. True when written.

        Fields: those of the file that are not derived, plus `total_steps`, `next_fast_eval_step` and
        `next_full_eval_step` for the ETAs. Errors: `TypeError` for an unknown field.
        """
        self._set(fields)
        due = self._written_at is None or self._clock() - self._written_at >= self._interval
        return self._write() if due else False

    def event(self, *, state: str | None = None, **fields: Any) -> bool:
        """Take over fields and the state (`running`, `eval`, `done`, `failed`, `stopped`) and write now."""
        if state is not None:
            if state not in STATES:
                raise ValueError(f"state {state!r}: expected one of {', '.join(STATES)}")
            if self.state == "eval" and state == "running":
                # A new window from the present update on: the pause before it is no part of the training rate.
                self._marks.clear()
                self._set(self._fields)
            self.state = state
        self._set(fields)
        return self._write()

    def snapshot(self) -> dict[str, Any]:
        """The content of the file as it would be written now."""
        rates = self._rates()
        fields = self._fields
        best = fields["best"] if isinstance(fields["best"], Mapping) else {}
        return strict_values(
            {
                "schema_version": SCHEMA_VERSION,
                "state": self.state,
                "pid": os.getpid(),
                "timestamp_utc": datetime.now(UTC).isoformat(timespec="seconds"),
                **{name: fields[name] for name in _FIELDS},
                "total_steps": fields["total_steps"],
                "steps_per_sec": rates[0],
                "samples_per_sec": rates[1],
                "best_eval_acc": best.get("value"),
                "best_eval_step": best.get("step"),
                "eta_sec": self._eta("total_steps", rates[0]),
                "eta_to_next_fast_eval_sec": self._eta("next_fast_eval_step", rates[0]),
                "eta_to_next_full_eval_sec": self._eta("next_full_eval_step", rates[0]),
            },
            nonfinite=[],
        )

    def __enter__(self) -> Self:
        self.event()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, FolderGone):
            return  # what is at the path now is not this run's
        if error is None:
            self.event(state="done" if self.state in ("running", "eval") else self.state)
        elif isinstance(error, KeyboardInterrupt):
            self.event(state="stopped")
        else:
            self.event(state="failed", error=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")

    def _set(self, fields: Mapping[str, Any]) -> None:
        unknown = fields.keys() - self._fields.keys()
        if unknown:
            raise TypeError(f"status has no field {', '.join(sorted(unknown))}")
        self._fields.update(fields)
        step = fields.get("global_step")
        if step is not None and (not self._marks or step > self._marks[-1][1]):
            self._marks.append((self._clock(), int(step), self._fields["samples_seen"]))

    def _rates(self) -> tuple[float | None, float | None]:
        """Updates and samples per second over the window; None until two updates have been seen."""
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return None, None
        (start, step, samples), (end, last_step, last_samples) = self._marks[0], self._marks[-1]
        seen = None if samples is None or last_samples is None else last_samples - samples
        return (last_step - step) / (end - start), None if seen is None else seen / (end - start)

    def _eta(self, target: str, steps_per_second: float | None) -> float | None:
        goal, step = self._fields[target], self._fields["global_step"]
        if goal is None or step is None or not steps_per_second:
            return None
        return max(0.0, (goal - step) / steps_per_second)

    def _write(self) -> bool:
        self._written_at = self._clock()
        try:
            # The write is not synced: two syncs a minute cost more than a minute of status lost in a power cut.
            write_json_atomically(self.path, self.snapshot(), durable=False)
        except OSError as error:
            if self.state in ("failed", "stopped", "done") and self._write_over():
                return True
            if not self._warned:
                say(f"warning: {self.path} cannot be written ({error.strerror or error})", file=sys.stderr)
            self._warned = True
            return False
        self._warned = False
        return True

    def _write_over(self) -> bool:
        """The last word of a run on a full disk: in the blocks that the file has. True when written."""
        try:
            overwrite_small(self.path, json_bytes(self.snapshot()))
        except OSError:
            return False
        return True
