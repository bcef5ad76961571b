"""A model and a batch of puzzles as pure maps of the recurrent state: what `dynamics` takes.

Each puzzle is a dynamical system of its own: weights and input are fixed, the state moves. Sub-updates and supervision
steps are the model's own (`RecursiveModel.supervision_step`), ACT is left out: a trajectory may go on as long as
wanted, and whether its answer is right is read from the trajectory itself, at any time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from errors import UserError
from models.losses import correctness
from models.recursion import RecurrentState, SubUpdate, SupervisionStep
from models.recursive_model import RecursiveModel

_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Readings:
    """What the model says at a state.

    Args:
        logits: (B, S, V). q_halt: (B,). exact: (B,) bool, every scored token right.
    """

    logits: Tensor
    q_halt: Tensor
    exact: Tensor


class RecursionMaps:
    """The maps of B puzzles.

    `sub_updates` as `advance` gives exponents per supervision step and, by `exponents_per_map`, per sub-update; with
    `step` a QR comes after whole supervision steps only.

    Args:
        model: in float32 or float64, not compiled; the weights as they are now (after an update make new maps).
        batch: `inputs` (B, S), `puzzle_identifiers` (B,), what else the model's `begin` and `embed` read and, for
            `read`, `labels` (B, S); on the model's device.
        puzzle_rows: of the puzzle table, as the model's method of that name gives them; None gathers them.
    Errors: `UserError` for a model or states in lower precision.
    """

    def __init__(self, model: RecursiveModel, batch: dict[str, Tensor], puzzle_rows: Tensor | None = None) -> None:
        config = model.config
        for name, dtype in (("layers", config.dtype), ("states", config.carry_dtype)):
            if dtype not in _DTYPES:
                raise UserError(
                    f"the model's {name} are {str(dtype).removeprefix('torch.')}, in which tangents are lost: open the "
                    "checkpoint with dtype=float32 or dtype=float64"
                )
        self.model = model
        self.batch = batch
        embeddings = model.embed(model.begun(batch), puzzle_rows)
        self.step: SupervisionStep = model.supervision_step(embeddings)

    @property
    def sub_updates(self) -> list[SubUpdate]:
        """The ordered maps of one supervision step, each of which replaces z_L or z_H (SRM: both)."""
        return list(self.step.sub_updates)

    @property
    def initial_state(self) -> RecurrentState:
        """Where inference starts: (B, P+S, D) each."""
        return self.model.initial_state(self.batch["inputs"].shape[0])

    def logits(self, state: RecurrentState) -> Tensor:
        """(B, S, V), the answer's cells only: a readout for `dynamics.readout`."""
        return self.model.readout(state)[0]

    @torch.no_grad()
    def read(self, state: RecurrentState) -> Readings:
        """Answer, halting value and whether the answer is exact."""
        logits, q_halt, _ = self.model.readout(state)
        return Readings(logits, q_halt, correctness(logits.argmax(dim=-1), self.batch["labels"]).exact)
