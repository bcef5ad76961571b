"""Stopping politely: a signal is noted, the batch at hand is finished, the state saved."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Under torchrun a Ctrl-C reaches the workers twice: from the terminal, and forwarded by the agent.
_SAME_KEYPRESS_SECONDS = 1.0
_NOTICE = "finishing this batch, then saving (Ctrl-C again aborts)"


class StopRequested(Exception):
    """An evaluation ends before its last batch, because a process of the run was asked to stop."""


class Stoppable(Generic[T]):
    """`items`, such as batches, until `stop_asked` says to stop, which is asked before each: then `StopRequested`.

    items: anything of known length that can be gone through.
    """

    def __init__(self, items: Any, stop_asked: Callable[[], bool]) -> None:
        self.items, self.stop_asked = items, stop_asked

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        for item in self.items:
            if self.stop_asked():
                raise StopRequested
            yield item


class InterruptHandler:
    """Context manager: the first SIGTERM or SIGINT sets `requested`, a second SIGINT aborts.

    Handlers are installed in the main thread only (elsewhere `requested` stays False) and put back at exit.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal_name: str | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._first_time = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler of non-Python code, which signal.signal cannot put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            self.signal_name = signal.Signals(number).name
            self._first_time = time.monotonic()
            # `print` would raise where the handler runs inside another write to the same buffered stream.
            os.write(2, f"\n{self.signal_name}: {_NOTICE}\n".encode())
            return
        if number == signal.SIGINT and not self._is_forwarded_copy():
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt("aborted: what was saved before is intact, and the same command goes on from it")

    def _is_forwarded_copy(self) -> bool:
        launched = "TORCHELASTIC_RUN_ID" in os.environ
        return launched and time.monotonic() - self._first_time < _SAME_KEYPRESS_SECONDS
