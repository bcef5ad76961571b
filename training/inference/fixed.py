"""Every row takes the same number of supervision steps, which may be another than in training."""

from collections import deque

import torch

from models.act import Batch
from models.recursive_model import RecursiveModel
from training.inference.base import Inference, Predictions
from training.inference.unroll import unroll


class FixedInference(Inference):
    """Exactly `max_steps` supervision steps, q ignored; the answer is the argmax after the last.

    Args:
        max_steps: at least 1; None means the model's halt_max_steps.
    """

    name = "fixed"

    def __init__(self, max_steps: int | None = None) -> None:
        self.max_steps = max_steps

    def num_steps(self, model: RecursiveModel) -> int:
        """Supervision steps that each row takes."""
        return self.max_steps or model.config.halt_max_steps

    @torch.no_grad()
    def predict(self, model: RecursiveModel, batch: Batch, generator: torch.Generator | None = None) -> Predictions:
        num_steps = self.num_steps(model)
        (state,) = deque(unroll(model, batch, num_steps), maxlen=1)
        logits, q_halt, _ = model.readout(state)
        steps = torch.full_like(batch["puzzle_identifiers"], num_steps)
        return Predictions(logits.argmax(dim=-1), q_halt, steps, logits, len(steps) * num_steps)
