"""Hard rows are drawn again: a queue of examples whose loss was high when they were answered.

An example enters when its loss is at or above a quantile of the latest losses, moves to the end when it is hard again,
and leaves as the oldest of a full queue. Source: in the spirit of Schaul et al. 2016, arXiv:1511.05952.
Differs: the queue is drawn from uniformly, without importance weights, so that nothing in the loss changes.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dataset.source import RowLosses
from dataset.steps.base import Examples, Moment, Step, StepSettings
from options import at_least, fraction, option

LATEST_LOSSES = 1024


@dataclass
class Settings(StepSettings):
    """Rows whose loss was among the highest when they were answered are drawn again."""

    share: float = option(0.2, "of a batch: rows that come from the queue", fraction)
    capacity: int = option(10_000, "examples in the queue at most", at_least(1))
    quantile: float = option(0.8, f"of the latest {LATEST_LOSSES} losses: where a hard row begins", fraction)

    metrics: ClassVar = {
        "replay/share": "`replay` in `source.steps`: rows that came from the queue, as a share of all",
        "replay/queue": "examples in the queue",
    }

    tried_with: ClassVar = {"share": 0.5, "quantile": 0.3}

    def build(self) -> Step:
        return Replay(self)


class Replay(Step):
    name = "replay"
    wants_losses = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.queue: dict[int, None] = {}  # in order of entry
        self.losses: deque[float] = deque(maxlen=LATEST_LOSSES)
        self.num_examples = 0
        self.drawn = self.replayed = 0

    def prepare(self, examples: Examples) -> None:
        self.num_examples = examples.num_examples

    def choose(self, examples: np.ndarray, moment: Moment) -> np.ndarray:
        draws = self.draws(moment)
        chosen = draws.random(len(examples)) < self.settings.share
        places = draws.random(len(examples))
        self.drawn += len(examples)
        if not self.queue:
            return examples
        queue = np.fromiter(self.queue, np.int64, len(self.queue))
        self.replayed += int(chosen.sum())
        return np.where(chosen, queue[(places * len(queue)).astype(np.int64)], examples)

    def learn(self, losses: RowLosses) -> None:
        self.losses.extend(losses.losses.tolist())
        if not len(losses.examples):
            return
        border = np.quantile(np.fromiter(self.losses, np.float64), self.settings.quantile)
        for example in losses.examples[losses.losses >= border].tolist():
            self.queue.pop(example, None)
            self.queue[example] = None
        while len(self.queue) > self.settings.capacity:
            del self.queue[next(iter(self.queue))]

    def numbers(self) -> dict[str, float]:
        share = self.replayed / max(1, self.drawn)
        self.drawn = self.replayed = 0
        return {"share": share, "queue": float(len(self.queue))}

    def state_dict(self) -> dict[str, Any]:
        return {
            "queue": torch.tensor(list(self.queue), dtype=torch.int64),
            "losses": torch.tensor(list(self.losses), dtype=torch.float64),
            "drawn": self.drawn,
            "replayed": self.replayed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Errors: `ValueError` for what `state_dict` never gives."""
        if state.keys() != self.state_dict().keys():
            raise ValueError(f"step {self.name}: its entries are {sorted(map(str, state))}")
        for key, dtype in (("queue", torch.int64), ("losses", torch.float64)):
            if not isinstance(state[key], torch.Tensor) or state[key].dtype != dtype or state[key].ndim != 1:
                raise ValueError(f"step {self.name}: its {key} are no {dtype} of shape (n,)")
        queue, losses = dict.fromkeys(state["queue"].tolist()), state["losses"]
        known = all(0 <= example < self.num_examples for example in queue)
        if not known or len(queue) < len(state["queue"]) or len(queue) > self.settings.capacity:
            raise ValueError(f"step {self.name}: a queue of other data")
        if len(losses) > LATEST_LOSSES or not losses.isfinite().all() or (losses < 0).any():
            raise ValueError(f"step {self.name}: losses that are none")
        drawn, replayed = state["drawn"], state["replayed"]
        if not type(drawn) is type(replayed) is int or not 0 <= replayed <= drawn < 1 << 63:
            raise ValueError(f"step {self.name}: counts that are none")
        self.drawn, self.replayed, self.queue = drawn, replayed, queue
        self.losses = deque(losses.tolist(), maxlen=LATEST_LOSSES)
