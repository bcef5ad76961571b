"""A fixed number of steps, with the answer and the halting values after every supervision step kept beside it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.act import Batch
from models.recursion import RecurrentState
from models.recursive_model import RecursiveModel
from training.inference.base import Predictions
from training.inference.fixed import FixedInference, start_state, step_of, unroll


@dataclass
class StepwisePredictions(Predictions):
    """Also, for T steps: step_answers (B, T, S) int, step_q_halt and step_q_continue (B, T) float32."""

    step_answers: Tensor
    step_q_halt: Tensor
    step_q_continue: Tensor


class StepwiseInference(FixedInference):
    """As `FixedInference`, to the bit; only more is kept. The logits are those of the last step alone.

    Args:
        watched: goes through the states as they come, such as a progress bar.
    """

    name = "fixed_stepwise"

    def __init__(
        self,
        max_steps: int | None = None,
        watched: Callable[[Iterable[RecurrentState]], Iterable[RecurrentState]] = iter,
    ) -> None:
        super().__init__(max_steps)
        self.watched = watched

    @torch.no_grad()
    def predict(self, model: RecursiveModel, batch: Batch) -> StepwisePredictions:
        num_steps = self.num_steps(model)
        answers, q_halts, q_continues = [], [], []
        states = unroll(step_of(model, batch), start_state(model, len(batch["inputs"])), num_steps)
        for state in self.watched(states):
            logits, q_halt, q_continue = model.readout(state)
            answers.append(logits.argmax(dim=-1))
            q_halts.append(q_halt.float())
            q_continues.append(q_continue.float())
        return StepwisePredictions(
            answers=answers[-1],
            q_halt=q_halt,
            steps=torch.full_like(batch["puzzle_identifiers"], num_steps),
            logits=logits,
            forward_passes=len(q_halt) * num_steps,
            step_answers=torch.stack(answers, dim=1),
            step_q_halt=torch.stack(q_halts, dim=1),
            step_q_continue=torch.stack(q_continues, dim=1),
        )
