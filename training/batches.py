"""The batches of a run on its device; where that is a GPU, the next one is drawn and pinned while it computes."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from dataset.source import Position, Source
from training.devices import upload

Drawn = tuple[dict[str, Tensor], Position]


class Batches:
    """This process's rows of the global batches of a source, by position; a context manager.

    A pageable copy to a GPU makes the host wait for it, and a host that draws lets the GPU run dry. So there a thread
    draws one batch ahead and puts it into pinned memory. A source that is told the losses of an update is not asked
    ahead, since its next batch may depend on them. On a CPU a thread would take the cores that compute.

    Args:
        slots: of the global batch, those of this process.
        ahead: overrides that rule, for tests.
    """

    def __init__(self, source: Source, device: torch.device, slots: slice, *, ahead: bool | None = None) -> None:
        self._source, self._device, self._slots = source, device, slots
        if ahead is None:
            ahead = device.type == "cuda" and not source.wants_losses
        self._thread = ThreadPoolExecutor(1, "batches") if ahead else None
        self._next: tuple[Position, Future[Drawn]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def next(self, position: Position) -> Drawn:
        """The rows at `position` on the device, and the position after them. Errors: those of the source."""
        if self._next is not None and self._next[0] == position:
            batch, following = self._next[1].result()
        else:
            batch, following = self._draw(position)
        self._next = None
        if self._thread is not None:
            self._next = following, self._thread.submit(self._draw, following)
        return {key: upload(leaf, self._device) for key, leaf in batch.items()}, following

    def _draw(self, position: Position) -> Drawn:
        batch, following = self._source.next(position)
        rows = {key: leaf[self._slots] for key, leaf in batch.items()}
        if self._device.type == "cuda":
            rows = {key: leaf.pin_memory() for key, leaf in rows.items()}
        return rows, following
