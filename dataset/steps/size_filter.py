"""A curriculum by size: at first only examples up to some difficulty are drawn, later all of them.

What size means is the task's: of a Sudoku, the cells that are left open.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.steps.base import Examples, Moment, Step, StepSettings
from errors import UserError
from options import above_zero, at_least, option


@dataclass
class Settings(StepSettings):
    """Examples above a size that grows over the first epochs are replaced by random ones below it."""

    begin: int = option(0, "the largest size at the start: of a Sudoku, the cells that are left open", at_least(0))
    epochs: float = option(1000.0, "epochs after which every size is allowed; the limit grows linearly", above_zero)

    tried_with: ClassVar = {"begin": 26, "epochs": 2}

    def build(self) -> Step:
        return SizeFilter(self)


class SizeFilter(Step):
    name = "size_filter"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def prepare(self, examples: Examples) -> None:
        sizes = examples.difficulties
        if sizes is None:
            raise UserError("source.steps: size_filter needs a task that knows how large its puzzles are; leave it out")
        if int(sizes.min()) > self.settings.begin:
            raise UserError(
                f"option 'step.size_filter.begin': found {self.settings.begin}, expected at least {int(sizes.min())}, "
                "the smallest size in these data"
            )
        self.sizes = sizes
        self.by_size = np.argsort(sizes, kind="stable")
        self.sorted_sizes = sizes[self.by_size]

    def limit(self, moment: Moment) -> float:
        """The largest size of a batch."""
        begin, largest = self.settings.begin, int(self.sorted_sizes[-1])
        return begin + max(0, largest - begin) * min(1.0, moment.epochs / self.settings.epochs)

    def choose(self, examples: np.ndarray, moment: Moment) -> np.ndarray:
        limit = self.limit(moment)
        too_large = self.sizes[examples] > limit
        allowed = int(np.searchsorted(self.sorted_sizes, limit, side="right"))
        # As many are drawn as the batch has rows, so that a row's draw does not depend on the others.
        instead = self.by_size[self.draws(moment).integers(0, allowed, len(examples))]
        return np.where(too_large, instead, examples)
