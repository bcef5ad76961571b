"""Entropy of the halting decision: what a step leaves undecided between halting and going on, in nats.

With p = sigmoid(q) the entropy of {p, 1 - p} is softplus(-q) sigmoid(q) + softplus(q) sigmoid(-q), at most ln 2.
Differs: the plan asks for the mean over late rows; here the sum over them is divided by the objective's normalizer, so
that a row weighs the same however many others are late.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import ModelConfig
from options import at_least, option
from training.terms.base import Term, TermSettings, View


@dataclass
class Settings(TermSettings):
    """Entropy of the halting decision of rows that have taken more than `after_step` supervision steps."""

    after_step: int = option(4, "supervision steps that a row may be undecided", at_least(0))

    metrics: ClassVar = {
        "halt_entropy_loss": "`term.halt_entropy`: entropy of the halting decision in nats over late rows, per slot",
        "halt_entropy/entropy": "the same, mean over late rows",
        "halt_entropy/rows": "number of late rows since the last line: the denominator",
    }

    tried_with: ClassVar = {"weight": 0.5, "after_step": 1}

    def unread(self, config: Any) -> tuple[str, str] | None:
        if self.after_step >= config.arch.halt_max_steps:
            return "after_step", f"less than arch.halt_max_steps={config.arch.halt_max_steps}, or no row is ever late"
        return None

    def build(self, config: ModelConfig, generator: torch.Generator) -> Term:
        return HaltEntropy(self.after_step)


class HaltEntropy(Term):
    def __init__(self, after_step: int) -> None:
        self.after_step = after_step

    def __call__(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        # Of two values the softmax decides, which is a sigmoid of their difference.
        q = view.q_halt if view.q_continue is None else view.q_halt - view.q_continue
        late = view.counted & (view.steps > self.after_step)
        entropy = torch.where(late, F.softplus(-q) * q.sigmoid() + F.softplus(q) * (-q).sigmoid(), 0)
        metrics = {"halt_entropy/entropy": entropy.detach().sum(), "halt_entropy/rows": late.sum()}
        return view.sum(entropy), metrics
