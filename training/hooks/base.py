"""The hook seam: things that happen around an update and are no loss."""

from typing import Any

from models.act import Batch
from models.network import Network


class Hook:
    """Base with every moment empty. A hook may change rates, noise, gradients or averages; it has state.

    `name` keys its state in the full state; two hooks of a run must not share it.
    """

    name = "hook"
    reads_losses = False  # True: `settled` must be called before the next update, whatever the device

    def before_batch(self, model: Network, batch: Batch, step: int) -> Batch:
        """See and replace the rows of this process before the objective does."""
        return batch

    def before_update(self, model: Network, step: int) -> None:
        """Gradients are reduced, divided and clipped; the optimizers step next as update `step`."""

    def after_update(self, model: Network, step: int) -> None:
        """Update `step` has been made, the EMA included."""

    def learning_rate(self, step: int, scheduled: float) -> float:
        """The rate of update `step` in place of the scheduled one."""
        return scheduled

    def settled(self, step: int, loss: float) -> None:
        """The loss of update `step` is known, per unit of its normalizer."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
