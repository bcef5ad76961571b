"""Any objective with gradient flossing around it: alone in the first updates, or beside the task's loss in later ones.

    pre        updates 1 to `pre_steps` floss and do nothing else; then the objective as it is
    inter      every `every`-th update has the flossing gradient added to the task's
    pre_inter  both

Source: Engelken 2023 (arXiv:2312.17306).
Differs: the run's one optimizer makes all updates, where the source has one for flossing, and episodes during training
are spread: `weight` times a clipped gradient beside the task's, where the source makes hundreds of updates of flossing
alone. Equal updates of a flossed and an unflossed run then remain equal updates of the task, but those of `pre`.
"""

from collections.abc import Iterator, Sequence

from models.act import Batch, Carry
from models.recursive_model import RecursiveModel
from training.objectives.base import Apart, Objective, Output, UpdateContext
from training.settings.schema import FlossConfig
from training.terms.base import WeightedTerm
from training.terms.gradient_flossing import NAME, flossing_loss


class Flossing:
    """Wraps an objective: carry, state and name are its own. Flossing itself has no state.

    Args:
        settings: not off (`training.settings.resolving.flosses`): an objective that is not wrapped is how off is off.
    """

    def __init__(self, inner: Objective, settings: FlossConfig) -> None:
        self.inner = inner
        self.settings = settings
        self.name = inner.name
        self.takes_terms = inner.takes_terms
        self.updates_per_batch = inner.updates_per_batch

    def carry_names(self, model: RecursiveModel) -> tuple[str, ...]:
        return self.inner.carry_names(model)

    @property
    def carry(self) -> Carry | None:
        return self.inner.carry

    @carry.setter
    def carry(self, carry: Carry | None) -> None:
        self.inner.carry = carry

    @property
    def terms(self) -> Sequence[WeightedTerm]:
        return self.inner.terms

    @terms.setter
    def terms(self, terms: Sequence[WeightedTerm]) -> None:
        self.inner.terms = terms

    def flosses_alone(self, step: int) -> bool:
        """Whether the update after `step` updates is one of flossing alone."""
        return "pre" in self.settings.mode and step < self.settings.pre_steps

    def flosses_beside(self, step: int) -> bool:
        """Whether it has flossing beside the task."""
        return "inter" in self.settings.mode and step % self.settings.every == 0

    def outputs(self, model: RecursiveModel, batch: Batch, context: UpdateContext) -> Iterator[Output]:
        if self.flosses_alone(context.step):
            yield self._flossed(model, batch, context)
            return
        for output in self.inner.outputs(model, batch, context):
            beside = output.ends_update and self.flosses_beside(context.step)
            output.ends_update &= not beside
            yield output
            if beside:
                yield self._flossed(model, batch, context)

    def _flossed(self, model: RecursiveModel, batch: Batch, context: UpdateContext) -> Output:
        slots = range(context.slots.start, context.slots.stop)
        flossed = flossing_loss(model, batch, slots, self.settings, context.seed, context.step)
        return Output(
            flossed.loss_sum,
            float(flossed.rows),
            trained_steps=0,
            extra_passes=flossed.passes,
            metric_sums=flossed.metric_sums,
            apart=Apart(NAME, self.settings.weight, self.settings.clip),
        )

    def state_dict(self) -> dict[str, object]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.inner.load_state_dict(state)
