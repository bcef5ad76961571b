"""The hook seam: things that happen around an update and are no loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from dataset.source import RowLosses
from errors import UserError
from models.act import Batch
from models.network import Network
from options import anything, option
from training.averages import Average


@dataclass(frozen=True)
class TrainState:
    """What a hook sees of a run, and may change: weights, gradients, averages.

    parameters: the dense trained ones, by name. optimizers: `dense` and `sparse`, where they exist. averages: by name
    (`ema`, `swa`). step: the number of the update. planned_updates: what the schedule of the rate is drawn over.
    answered: after an update, the rows that are done with it, of all processes, where a hook or a step wants them.
    """

    model: Network
    parameters: Mapping[str, nn.Parameter]
    optimizers: Mapping[str, Any]
    averages: Mapping[str, Average[Network]]
    step: int
    planned_updates: int
    seed: int
    answered: RowLosses | None = None


class Hook:
    """Base with every moment empty. A hook may change rates, noise, gradients or averages; it has state.

    `name` keys its state in the full state; two hooks of a run must not share it. What a moment returns is logged: sums
    under `<name>/…`, with `<name>/updates` beside them where they are to be divided by a number of updates.
    """

    name = "hook"
    reads_losses = False  # True: `settled` must be called before the next update, whatever the device
    wants_losses = False  # True: `after_update` is told the losses of rows, which makes the host wait for the device
    excludes: ClassVar[frozenset[str]] = frozenset()  # names of hooks that a run cannot have beside it

    def averages(self, model: Network, owned: Mapping[str, nn.Module]) -> dict[str, Average[Network]]:
        """Averages of the weights that this hook keeps, by name. Called once, while the run is built."""
        return {}

    def before_batch(self, state: TrainState, batch: Batch) -> Batch:
        """See and replace the rows of this process before the objective does; `state.step` updates have been made."""
        return batch

    def before_update(self, state: TrainState) -> Mapping[str, Tensor]:
        """Gradients are reduced, divided and clipped; the optimizers step next as update `state.step`."""
        return {}

    def after_update(self, state: TrainState) -> Mapping[str, Tensor]:
        """Update `state.step` has been made, the EMA included."""
        return {}

    def rate(self, state: TrainState, scheduled: float, initial: float) -> float:
        """The rate of update `state.step` in place of the scheduled one, for parameters whose rate began as `initial`.

        Asked of each group of dense parameters and of the puzzle table. Only one hook of a run may have this method.
        """
        return scheduled

    def settled(self, step: int, loss: float) -> None:
        """The loss of update `step` is known, per unit of its normalizer; not called for one without such a loss."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave. Errors: `ValueError` for anything else."""
        if state:
            raise ValueError(f"hook {self.name} keeps no state but found {sorted(map(str, state))}")


@dataclass
class HookSettings:
    """Base of a hook's settings.

    metrics: what it writes under `train/`, name by name, as `docs/metrics.md` tells it.
    tried_with: settings with which it does something in a tiny run of the tests, which try it with every objective.
    """

    enabled: bool = option(False, "whether the run has this hook", anything)

    switch: ClassVar[str] = "enabled"
    metrics: ClassVar[Mapping[str, str]] = {}
    tried_with: ClassVar[Mapping[str, Any]]

    @property
    def in_use(self) -> bool:
        return self.enabled

    @property
    def epochs_shape_weights(self) -> bool:
        """Whether the planned number of updates decides what the hook does."""
        return False

    def unread(self, config: Any) -> tuple[str, str] | None:
        """(one of its settings, what is expected of it) where the hook would do nothing in a run of these settings."""
        return None

    def build(self) -> Hook:
        raise NotImplementedError


def refuse_conflicts(hooks: Sequence[Hook]) -> None:
    """Errors: `UserError` for two hooks that exclude each other, or that both set the learning rate."""
    for number, hook in enumerate(hooks):
        for other in hooks[:number]:
            both_rates = type(hook).rate is not Hook.rate and type(other).rate is not Hook.rate
            if both_rates or hook.name in other.excludes or other.name in hook.excludes:
                reason = "both set the learning rate" if both_rates else "exclude each other"
                raise UserError(f"hooks {other.name} and {hook.name} {reason}: leave out one of them")
