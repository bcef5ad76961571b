"""Ordered work in several processes, with a bounded number of items under way."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ordered(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """`map` in order, in this process or in `num_workers` fresh ones; `items` may be endless.

    Errors: `UserError` when a worker is killed.
    """
    if num_workers <= 1:
        yield from map(function, items)
        return
    # Workers are spawned, not forked: numpy may already run threads here, which a fork would leave locked.
    pool = ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"))
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process ended before its work was done (out of memory?); use a smaller --num-workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
