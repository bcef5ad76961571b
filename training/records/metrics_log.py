"""`metrics.jsonl`, the truth about a run's numbers: one strict JSON object per line, cut back on resume."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from dataset.plain_data import json_bytes, parse_json, strict_values
from errors import UserError, say
from files import fault_of, open_regular, open_to_append, reason_of
from training.records.wandb_sink import WandbSink
from training.storage.atomic_file import write_atomically

_HELD_LINES = 10_000  # kept in memory while the disk refuses
_MAX_LINE_BYTES = 1 << 20


class MetricsLog:
    """Appends records to a file and hands them to an optional sink.

    Each line is flushed, so a kill loses at most the line being written. A full disk never stops the run:
    lines are held in memory and written when there is room again.
    """

    def __init__(self, path: Path | str, sink: WandbSink | None = None) -> None:
        self.path = Path(path)
        self._sink = sink
        self._file: BinaryIO | None = None
        self._held: list[bytes] = []
        self._warned = False

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; it must have an integer `step` (count of updates).

        Scalars of NumPy and torch become numbers. JSON has no NaN or infinity: such a value is written as
        null and its name listed under `nonfinite`. Errors: `ValueError` without a step, `TypeError` for a
        value JSON cannot hold.
        """
        if type(record.get("step")) is not int:
            raise ValueError(f"a metrics record needs an integer 'step', found {record.get('step')!r}")
        nonfinite: list[str] = []
        plain = strict_values(record, nonfinite)
        if nonfinite:
            plain["nonfinite"] = nonfinite
        self._held.append(json_bytes(plain, indent=None))
        self._write_held()
        if self._sink is not None:
            self._sink.log(plain)

    def truncate_to_step(self, step: int) -> int:
        """Drop every record after `step`, a torn last line and unreadable lines; returns how many.

        For a resume from a state at `step`: the updates after it will be made, and logged, again. Atomic.
        Errors: `UserError` when the disk refuses; the file is then as it was.
        """
        self._close_file()
        self._held.clear()
        if not os.path.lexists(self.path):
            return 0
        kept, dropped, damaged = [], 0, 0
        for line in _lines(self.path):
            record = _record_of(line)
            if record is not None and record["step"] <= step:
                kept.append(line)
            else:
                dropped += 1
                damaged += record is None and line.endswith(b"\n")
        if damaged:
            say(f"warning: {damaged} unreadable lines dropped from {self.path}", file=sys.stderr)
        # A link, or one file under several names (`cp -al`), would be appended to elsewhere too: this run takes a copy.
        shared = self.path.is_symlink() or self.path.stat().st_nlink > 1
        if dropped or shared:
            try:
                write_atomically(self.path, lambda file: file.writelines(kept))
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"{self.path} could not be cut back to step {step}: {reason}; free space") from error
        return dropped

    @property
    def num_held(self) -> int:
        """Lines that the disk has refused so far."""
        self._write_held()
        return len(self._held)

    def close(self) -> None:
        """Write what is still held and release the file and the sink."""
        self._write_held()
        self._close_file()
        if self._sink is not None:
            self._sink.close()

    def _write_held(self) -> None:
        if not self._held:
            return
        end = None
        try:
            if self._file is None:
                self._file = open_to_append(self.path)
            end = self._file.seek(0, 2)
            data = b"".join(self._held)
            if self._file.write(data) != len(data):
                raise OSError("no space left")
        except OSError as error:
            if end is not None and self._file is not None:
                # No half line in the middle of the file. If this fails too, a reader passes over that line.
                with suppress(OSError):
                    self._file.truncate(end)
            del self._held[:-_HELD_LINES]
            if not self._warned:
                reason = reason_of(error)
                say(f"warning: {self.path} cannot be written ({reason}); lines are held", file=sys.stderr)
            self._warned = True
            return
        self._held.clear()
        self._warned = False

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_metrics(path: Path | str) -> Iterator[dict[str, Any]]:
    """The records of a log in file order; a torn or unreadable line is passed over.

    Errors: `UserError` when the log is no file that can be read.
    """
    for line in _lines(Path(path)):
        record = _record_of(line)
        if record is not None:
            yield record


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their ends; of one longer than any record, pieces without."""
    try:
        with open_regular(path) as file:
            while line := file.readline(_MAX_LINE_BYTES):
                yield line
    except OSError as error:
        raise UserError(f"{path}: {fault_of(error)}; a run writes it: mend its permissions, or move it away") from error


def _record_of(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = parse_json(line)
    except ValueError:
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return record if type(step) is int and 0 <= step < 1 << 63 else None
