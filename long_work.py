"""What long work shows while it lasts: a bar on a terminal, elsewhere a line a minute."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

from errors import say

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 60.0


class _Lines:
    """A stream for tqdm in which each state of a bar is a line of its own, and clearing the bar is nothing."""

    def write(self, text: str) -> None:
        if line := text.strip():
            say(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(items: Iterable[T] | None = None, *, shown: bool = True, **options: Any) -> "tqdm[T]":
    """tqdm's bar with its options; where stderr is no terminal, a line with the time left every minute.

    Work of less than a minute prints nothing there.

    Args:
        shown: False for the processes that are silent.
    """
    if not shown or sys.stderr.isatty():
        return tqdm(items, disable=not shown, **options)
    seconds = SECONDS_BETWEEN_LINES
    # The width is that of a line in a log. A count is looked at after each item: the next one may take long.
    lines = {"file": _Lines(), "ncols": 100, "ascii": True, "leave": False, "miniters": 1}
    bar: tqdm[T] = tqdm(items, delay=seconds, mininterval=seconds, maxinterval=seconds, **(options | lines))
    return bar
