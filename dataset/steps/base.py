"""The step seam: which examples make a training batch, and what is done with their tokens.

A run lists its steps in `source.steps`, in the order in which they act; each has its settings under `step.<name>`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol
from zlib import crc32

import numpy as np

from dataset.puzzle_metadata import PuzzleMetadata
from dataset.source import RowLosses
from dataset.stream import stream


class Examples(Protocol):
    """The examples that a source may draw, numbered from 0."""

    metadata: PuzzleMetadata

    @property
    def num_examples(self) -> int: ...

    @cached_property
    def difficulties(self) -> np.ndarray | None:
        """(num_examples,) int64, higher = harder, as the task says; None where it does not."""
        ...


@dataclass(frozen=True)
class Moment:
    """Where a batch stands. epochs: passes over the groups that were drawn before it."""

    seed: int
    iteration: int
    batch: int
    epochs: float


class Step:
    """Base with both moments empty: a step may replace examples, or change tokens, or both.

    What it does is a function of (seed, position) and of its own state, which a run saves. Only a step with
    `wants_losses` may have state: it is told the losses of the rows of each update.
    """

    name: ClassVar[str]
    wants_losses: ClassVar[bool] = False

    def prepare(self, examples: Examples) -> None:
        """Called once, before the first batch. Errors: `UserError` when these examples do not do."""

    def choose(self, examples: np.ndarray, moment: Moment) -> np.ndarray:
        """Numbers of the examples of one global batch (B,) in place of those given."""
        return examples

    def transform(self, inputs: np.ndarray, labels: np.ndarray, moment: Moment) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of one global batch (B, S) each, after its symmetries were drawn; labels as stored."""
        return inputs, labels

    def learn(self, losses: RowLosses) -> None:
        """What the network made of rows of the last update, over all processes."""

    def numbers(self) -> dict[str, float]:
        """What is logged as `data/<name>/…` since the last call."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave. Errors: `ValueError` for anything else."""
        if state:
            raise ValueError(f"step {self.name} keeps no state but found {sorted(state)}")

    def draws(self, moment: Moment) -> np.random.Generator:
        """The step's own draws for one batch."""
        return stream(moment.seed, 1 << 32 | crc32(self.name.encode()), moment.iteration, moment.batch)


@dataclass
class StepSettings:
    """Base of a step's settings.

    metrics: what it writes under `data/`, name by name, as `docs/metrics.md` tells it.
    tried_with: settings with which it does something in a tiny run of the tests, which try it with every objective.
    """

    metrics: ClassVar[Mapping[str, str]] = {}
    tried_with: ClassVar[Mapping[str, Any]]

    def build(self) -> Step:
        raise NotImplementedError
