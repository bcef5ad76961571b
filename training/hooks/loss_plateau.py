"""The source's learning-rate schedule: halved whenever the loss of a single mini-batch has found no new minimum."""

from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from training.hooks.base import Hook, TrainState

FACTOR, PATIENCE = 0.5, 2000


class LossPlateau(Hook):
    """ReduceLROnPlateau stepped on every mini-batch loss. The rate of update s follows from the losses before it.

    A noisy loss sets a record early by chance and rarely again, so that the rate collapses: to lr / 2^16 for lr = 1e-3,
    below which torch changes nothing any more.
    """

    name = "loss_plateau"
    reads_losses = True

    def __init__(self, lr: float) -> None:
        self._base = lr
        # The scheduler needs an optimizer whose rate it sets; this one holds a parameter that is never trained.
        self._holder = torch.optim.SGD([torch.zeros(1)], lr)
        self._scheduler = ReduceLROnPlateau(self._holder, factor=FACTOR, patience=PATIENCE)

    @property
    def lr(self) -> float:
        return float(self._holder.param_groups[0]["lr"])

    def rate(self, state: TrainState, scheduled: float, initial: float) -> float:
        return self.lr if initial == self._base else initial * (self.lr / self._base)

    def settled(self, step: int, loss: float) -> None:
        self._scheduler.step(loss)

    def state_dict(self) -> dict[str, Any]:
        return {"lr": self.lr, **self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Errors: `ValueError` for other entries than `state_dict` gives."""
        present = self.state_dict()
        if state.keys() != present.keys() or any(type(state[key]) is not type(present[key]) for key in present):
            raise ValueError(f"hook {self.name}: its entries are not those it saves")
        rest = dict(state)
        self._holder.param_groups[0]["lr"] = rest.pop("lr")
        self._scheduler.load_state_dict(rest)
