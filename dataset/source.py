"""The source seam: where the loop's batches come from."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

Position = dict[str, int]
START: Position = {"iteration": 0, "batch": 0, "cursor": 0}


@dataclass(frozen=True)
class RowLosses:
    """Rows that were answered in an update, over all processes, in an order that does not depend on their number.

    examples (N,) int64: as the source numbers them. losses (N,) float64: token loss after the last supervision step.
    """

    examples: np.ndarray
    losses: np.ndarray


class Source(Protocol):
    """Global batches by position.

    A batch is a pure function of (seed, position), unless a source is given feedback from the network; then what it
    has made of it is its state. `total_groups` x `mean_examples` rows are an epoch, `epochs_per_iteration` epochs an
    iteration; a position counts iterations under that name.
    """

    epochs_per_iteration: int
    wants_losses: bool  # whether `learn` is to be called after each update; batches then have a leaf `example`

    @property
    def total_groups(self) -> int: ...

    @property
    def mean_examples(self) -> float: ...

    def next(self, position: Position) -> tuple[dict[str, Tensor], Position]:
        """The batch at `position`, its leaves' first axis the slot, and the position of the one after it."""
        ...

    def learn(self, losses: RowLosses) -> None:
        """What the network made of rows of the last update."""
        ...

    def numbers(self) -> dict[str, float]:
        """What is to be logged, by its full name; since the last call."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the position; plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a saved position to mean the same batches."""
        ...
