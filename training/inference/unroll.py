"""The map applied again and again: what every inference with a fixed number of steps computes."""

from collections.abc import Iterator

from models.act import Batch
from models.recursion import RecurrentState
from models.recursive_model import RecursiveModel


def start_state(model: RecursiveModel, size: int) -> RecurrentState:
    """The initial state of `size` rows, in memory of its own."""
    return RecurrentState(*(leaf.contiguous() for leaf in model.initial_state(size)))


def unroll(
    model: RecursiveModel, batch: Batch, num_steps: int, start: RecurrentState | None = None
) -> Iterator[RecurrentState]:
    """The states after supervision steps 1 to `num_steps`, as they come, from `start` or else from the initial state.

    From there bit for bit those of `models.act.act_step` in evaluation, for any number of steps; the input is
    embedded once.
    """
    state = start_state(model, batch["inputs"].shape[0]) if start is None else start
    step = model.supervision_step(model.embed(batch["inputs"], batch["puzzle_identifiers"]))
    for _ in range(num_steps):
        state = step(state)
        yield state
