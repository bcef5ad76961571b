"""The inference seam: ways of producing predictions. Evaluators only judge what these return."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.act import Batch
from models.recursive_model import RecursiveModel


@dataclass
class Predictions:
    """answers (B, S) tokens, q_halt (B,) logits, steps (B,) supervision steps spent, logits (B, S, V)."""

    answers: Tensor
    q_halt: Tensor
    steps: Tensor
    logits: Tensor


class Inference(Protocol):
    """How a batch is answered; a generator for those that draw."""

    name: str

    def predict(
        self, model: RecursiveModel, batch: Batch, generator: torch.Generator | None = None
    ) -> Predictions: ...
