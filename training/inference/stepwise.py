"""The official answer, with the answer and the halting values after every supervision step kept beside it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.act import Batch
from models.recursive_model import RecursiveModel
from training.inference.base import Predictions
from training.inference.official import step_outputs


@dataclass
class StepwisePredictions(Predictions):
    """Also, for T steps: step_answers (B, T, S) int, step_q_halt and step_q_continue (B, T) float32."""

    step_answers: Tensor
    step_q_halt: Tensor
    step_q_continue: Tensor


class StepwiseInference:
    """As `OfficialInference`, to the bit; only more is kept."""

    name = "official_stepwise"

    @torch.no_grad()
    def predict(
        self, model: RecursiveModel, batch: Batch, generator: torch.Generator | None = None
    ) -> StepwisePredictions:
        answers, q_halt, q_continue = [], [], []
        outputs: dict[str, Tensor] = {}
        for outputs in step_outputs(model, batch):
            answers.append(outputs["logits"].argmax(dim=-1))
            q_halt.append(outputs["q_halt_logits"].float())
            q_continue.append(outputs["q_continue_logits"].float())
        return StepwisePredictions(
            answers=answers[-1],
            q_halt=outputs["q_halt_logits"],
            steps=torch.full_like(batch["puzzle_identifiers"], len(answers)),
            logits=outputs["logits"],
            step_answers=torch.stack(answers, dim=1),
            step_q_halt=torch.stack(q_halt, dim=1),
            step_q_continue=torch.stack(q_continue, dim=1),
        )


def wants_to_halt(model: RecursiveModel, q_halt: Tensor, q_continue: Tensor) -> Tensor:
    """Where a model would stop by itself (bool, same shape): the rule of training, without exploration."""
    return q_halt > 0 if model.config.no_ACT_continue else q_halt > q_continue
