"""Every row takes the same number of supervision steps, which may be another than in training."""

from collections import deque
from collections.abc import Iterator

import torch

from models.act import Batch
from models.recursion import RecurrentState, SupervisionStep
from models.recursive_model import RecursiveModel
from training.inference.base import Inference, Predictions


def start_state(model: RecursiveModel, size: int) -> RecurrentState:
    """The initial state of `size` rows, in memory of its own."""
    return RecurrentState(*(leaf.contiguous() for leaf in model.initial_state(size)))


def step_of(model: RecursiveModel, batch: Batch) -> SupervisionStep:
    """The supervision step of these rows, whose input is embedded once."""
    return model.supervision_step(model.embed(model.begun(batch)))


def unroll(step: SupervisionStep, state: RecurrentState, num_steps: int) -> Iterator[RecurrentState]:
    """The states after supervision steps 1 to `num_steps` from `state`, as they come.

    From `start_state` bit for bit those of `models.act.act_step` in evaluation, for any number of steps.
    """
    for _ in range(num_steps):
        state = step(state)
        yield state


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
    def predict(self, model: RecursiveModel, batch: Batch) -> Predictions:
        num_steps = self.num_steps(model)
        start = start_state(model, len(batch["inputs"]))
        (state,) = deque(unroll(step_of(model, batch), start, num_steps), maxlen=1)
        logits, q_halt, _ = model.readout(state)
        steps = torch.full_like(batch["puzzle_identifiers"], num_steps)
        return Predictions(logits.argmax(dim=-1), q_halt, steps, logits, len(steps) * num_steps)


class OfficialInference(FixedInference):
    """The official way to answer: halt_max_steps steps from the initial state."""

    name = "official"

    def __init__(self) -> None:
        super().__init__(None)
