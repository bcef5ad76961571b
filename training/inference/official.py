"""The official way to answer: exactly halt_max_steps supervision steps from the initial state, q ignored."""

from collections.abc import Iterator

import torch
from torch import Tensor

from models.act import Batch, act_step, initial_carry
from models.recursive_model import RecursiveModel
from training.inference.base import Predictions


def step_outputs(model: RecursiveModel, batch: Batch) -> Iterator[dict[str, Tensor]]:
    """Outputs after each supervision step of an evaluation, from a fresh carry."""
    carry = initial_carry(model, batch)
    for _ in range(model.config.halt_max_steps):
        carry, outputs = act_step(model, carry, batch, training=False)
        yield outputs


class OfficialInference:
    """Every row takes halt_max_steps steps; the answer is the argmax after the last."""

    name = "official"

    @torch.no_grad()
    def predict(
        self, model: RecursiveModel, batch: Batch, generator: torch.Generator | None = None
    ) -> Predictions:
        *_, outputs = step_outputs(model, batch)
        steps = torch.full_like(batch["puzzle_identifiers"], model.config.halt_max_steps)
        return Predictions(
            outputs["logits"].argmax(dim=-1), outputs["q_halt_logits"], steps, outputs["logits"]
        )
