"""Stochastic weight averaging: near the end the rate goes up and down, and the weights at its lows are averaged.

Source: Izmailov et al. 2018, arXiv:1803.05407.
Differs: the rate falls and rises linearly instead of falling and jumping, and it is a multiple of the scheduled one;
the puzzle table, trained by SignSGD, is averaged too. There are no batch statistics to recompute: the norms have none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from errors import UserError
from models.network import Network
from options import Numbers, at_least, fraction, option
from training.averages import Average, MeanOfSamples
from training.hooks.base import Hook, HookSettings, TrainState

MOST = 1000.0  # times the largest rate that may be set: what float32 holds


@dataclass
class Settings(HookSettings):
    """Mean of the weights at the lowest points of a learning rate that goes up and down over the last updates."""

    start_fraction: float = option(0.8, "of the planned updates: the first ones, which are left as they are", fraction)
    start_update: int | None = option(None, "the same in updates, where given", at_least(0))
    period: int = option(4000, "updates from one highest rate to the next", at_least(1))
    lowest: float = option(0.5, "the lowest rate, as a multiple of the scheduled one", at_least(0, MOST))
    highest: float = option(1.0, "the highest rate, likewise", Numbers(0, MOST, low_open=True))

    metrics: ClassVar = {"swa/samples": "`hook.swa`: weights added to the average since the last line"}

    tried_with: ClassVar = {"start_update": 2, "period": 4}

    @property
    def epochs_shape_weights(self) -> bool:
        return self.enabled and self.start_update is None

    def build(self) -> Hook:
        if self.lowest > self.highest:
            raise UserError(
                f"option 'hook.swa.lowest': found {self.lowest:g}, expected at most hook.swa.highest={self.highest:g}"
            )
        return WeightAveraging(self)


class WeightAveraging(Hook):
    name = "swa"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.average: MeanOfSamples[Network] | None = None

    def averages(self, model: Network, owned: Mapping[str, nn.Module]) -> dict[str, Average[Network]]:
        self.average = MeanOfSamples(model, owned)
        return {self.name: self.average}

    def phase(self, step: int, planned_updates: int) -> int | None:
        """Updates since the last highest rate, 0 to `period - 1`; None before the averaging begins."""
        start = self.settings.start_update
        if start is None:
            start = math.ceil(self.settings.start_fraction * planned_updates)
        return None if step <= start else (step - start - 1) % self.settings.period

    def factor(self, step: int, planned_updates: int) -> float:
        """What the scheduled rate of an update is multiplied by."""
        phase = self.phase(step, planned_updates)
        if phase is None:
            return 1.0
        period, low, high = self.settings.period, self.settings.lowest, self.settings.highest
        turn = period // 2
        share = 1 - phase / turn if phase < turn else (phase - turn) / (period - turn)
        return low + (high - low) * share

    def rate(self, state: TrainState, scheduled: float, initial: float) -> float:
        return scheduled * self.factor(state.step, state.planned_updates)

    def after_update(self, state: TrainState) -> Mapping[str, Tensor]:
        if self.phase(state.step, state.planned_updates) != self.settings.period // 2 or self.average is None:
            return {}
        self.average.sample()
        return {"swa/samples": torch.ones(())}

    def state_dict(self) -> dict[str, Any]:
        return {"samples": 0 if self.average is None else self.average.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Errors: `ValueError` for other entries than `state_dict` gives."""
        samples = state.get("samples")
        if state.keys() != {"samples"} or type(samples) is not int or samples < 0 or self.average is None:
            raise ValueError(f"hook {self.name}: its entries are not those it saves")
        self.average.samples = samples
