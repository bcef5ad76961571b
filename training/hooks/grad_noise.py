"""Gaussian noise on the gradients, after they were clipped.

sigma(t) = end + (begin - end)/2 (1 + cos(pi min(t, steps)/steps)); absolute, or as a part of each parameter's root mean
square gradient. Source: Neelakantan et al. 2015, arXiv:1511.06807.
Differs: the paper's sigma^2 falls as 1/(1+t)^0.55; here it follows half a cosine down to a value that stays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from options import at_least, one_of, option
from training.hooks.base import Hook, HookSettings, TrainState
from training.seeding import generator


@dataclass
class Settings(HookSettings):
    """Gaussian noise on the gradients of all dense parameters, after clipping. The puzzle table has none."""

    mode: str = option("relative", "unit of the scales", one_of("relative", "absolute"))
    begin: float = option(0.03, "standard deviation at the first update", at_least(0))
    end: float = option(0.0, "standard deviation from update `steps` on", at_least(0))
    steps: int = option(100_000, "updates over which it goes from the one to the other", at_least(1))

    metrics: ClassVar = {
        "grad_noise/relative_norm": "`hook.grad_noise`: norm of the noise over that of the gradient, mean over updates",
        "grad_noise/updates": "number of updates with a gradient since the last line: the denominator",
    }

    tried_with: ClassVar = {"begin": 0.2, "steps": 20}

    def unread(self, config: Any) -> tuple[str, str] | None:
        if config.freeze_weights:
            return "enabled", "False: freeze_weights=True trains the puzzle table only, which has no noise"
        if self.begin == self.end == 0:
            return "begin", "a number above 0, or one in hook.grad_noise.end: no update has noise"
        return None

    def build(self) -> Hook:
        return GradientNoise(self)


class GradientNoise(Hook):
    """The noise of an update is a function of (seed, update) alone: equal on every process, and without state."""

    name = "grad_noise"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def scale(self, step: int) -> float:
        """sigma at update `step`, which is 1 at the first."""
        settings = self.settings
        progress = min(step - 1, settings.steps) / settings.steps
        return settings.end + 0.5 * (settings.begin - settings.end) * (1 + math.cos(math.pi * progress))

    @torch.no_grad()
    def before_update(self, state: TrainState) -> Mapping[str, Tensor]:
        sigma = self.scale(state.step)
        gradients = [parameter.grad for parameter in state.parameters.values() if parameter.grad is not None]
        if sigma == 0 or not gradients:
            return {}
        before = torch.nn.utils.get_total_norm(gradients)
        draws = generator(state.seed, self.name, state.step)
        noises = []
        for gradient in gradients:
            noise = torch.randn(gradient.shape, generator=draws).to(gradient.device, gradient.dtype)
            scale = gradient.square().mean().sqrt() if self.settings.mode == "relative" else 1.0
            noises.append(noise * (sigma * scale))
        torch._foreach_add_(gradients, noises)
        # An update whose gradients are all 0 has no such ratio, and would spoil the mean of the others.
        ratio = torch.where(before > 0, torch.nn.utils.get_total_norm(noises) / before, 0)
        return {"grad_noise/relative_norm": ratio, "grad_noise/updates": (before > 0).to(ratio.dtype)}
