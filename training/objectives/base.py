"""The objective seam: how a batch becomes updates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from models.act import EXAMPLE, Batch, Carry
from models.losses import IGNORE_LABEL_ID, TOKEN_LOSSES, act_loss
from models.recursive_model import RecursiveModel
from training.devices import wide
from training.terms.base import View, WeightedTerm, add_terms

if TYPE_CHECKING:  # the schema is made of objectives
    from training.settings.schema import TrainConfig


@dataclass(frozen=True)
class Apart:
    """A loss whose gradient is kept apart from the others until the update, with a normalizer of its own.

    There it is summed over outputs of this name and over processes, divided by their normalizers, measured
    (`train/<name>/grad_norm`), clipped to norm `clip` (None: not), and `weight` times it is added to the update's.
    The puzzle table gets nothing of it. Every process must yield such an output where one does.
    """

    name: str
    weight: float = 1.0
    clip: float | None = None


@dataclass
class Output:
    """What one back-propagation needs. The loop calls backward on `loss_sum` as it comes.

    Args:
        loss_sum: unnormalised loss, summed over this process's rows.
        normalizer: what the gradient is divided by once it is summed over outputs and processes.
        trained_steps: supervision steps with a gradient, counted per row of this process.
        extra_passes: likewise those computed beside them without a gradient (targets, look-ahead).
        metric_sums: sums over rows (`count`, `accuracy`, `lm_loss`, ...), not differentiated.
        ends_update: the optimizer steps after this output.
        answered: rows that are done with this output, where the batch says which examples they are.
        apart: how its gradient is kept apart; None: it is part of the update's own.
    """

    loss_sum: Tensor
    normalizer: float
    trained_steps: int
    extra_passes: int = 0
    metric_sums: dict[str, Tensor] = field(default_factory=dict)
    ends_update: bool = True
    apart: Apart | None = None
    answered: Tensor | None = None


def equal_slices(num_rows: int, number: int) -> list[slice]:
    """The rows of a batch in `number` slices of equal size. Errors: ValueError where they cannot be cut so."""
    if num_rows % number:
        raise ValueError(f"{num_rows} slots cannot be cut into {number} equal slices")
    size = num_rows // number
    return [slice(start, start + size) for start in range(0, num_rows, size)]


@dataclass
class UpdateContext:
    """Where an update stands: how many were made before it, the run's seed, and this process's global slots.

    `step` moves on with each update of a batch.
    """

    step: int
    seed: int
    slots: slice
    num_slots: int


class Objective(Protocol):
    """A training idea. `carry` lives between batches, its leaves' first axis is the slot; None = nothing."""

    name: str
    carry: Carry | None
    terms: Sequence[WeightedTerm]  # losses beside its own; none may be given where `takes_terms` is false
    takes_terms: bool
    updates_per_batch: int  # how often a batch ends an update, as planned

    def carry_names(self, model: RecursiveModel) -> tuple[str, ...]:
        """Leaves of every carry with this model: a saved state whose carry lacks one is refused."""
        ...

    def outputs(self, model: RecursiveModel, batch: Batch, context: UpdateContext) -> Iterator[Output]:
        """Yield the supervision steps of one batch (this process's rows); the last must end an update."""
        ...

    def state_dict(self) -> dict[str, object]:
        """Everything but the carry that a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, object]) -> None: ...


class ObjectiveSettings:
    """Base of what one objective reads of `objective.*`, the dataclass `Settings` of its file.

    `objective.name` is the file's name, or one of `names` where it serves several. Two objectives may read a setting of
    one name only if it is the same one.
    """

    names: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def build(cls, config: "TrainConfig") -> Objective:
        raise NotImplementedError


class Stateless:
    """The part of an objective that keeps nothing between updates but its carry, if any."""

    name: str
    carry: Carry | None = None
    terms: Sequence[WeightedTerm] = ()
    takes_terms = False
    updates_per_batch = 1

    def carry_names(self, model: RecursiveModel) -> tuple[str, ...]:
        return ()

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        if state:
            raise ValueError(f"objective {self.name} keeps no state but found {sorted(state)}")


class PuzzleObjective(Stateless):
    """What the objectives on puzzles share: the ACT loss, the terms beside it, and slices of the batch.

    Args:
        loss_type: key of `models.losses.TOKEN_LOSSES`.
        accumulation_slices: equal slices of the rows, whose graphs follow one another.
    """

    takes_terms = True

    def __init__(self, loss_type: str, accumulation_slices: int = 1) -> None:
        self.loss_type = loss_type
        self.accumulation_slices = accumulation_slices

    def losses(
        self,
        outputs: dict[str, Tensor],
        rows: Batch,
        halted: Tensor,
        steps: Tensor,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metric sums of one supervision step, terms included.

        Args:
            outputs: as `models.losses.act_loss` takes them, and `z_H`, `z_L` (n, P+S, D) with the step's graph.
            rows: what of the batch belongs to the n rows. halted, steps, weights: (n,).
        """
        loss, metrics = act_loss(outputs, rows["labels"], halted, steps, self.loss_type, weights)
        if not self.terms:
            return loss, metrics
        view = View(
            z_H=outputs["z_H"],
            z_L=outputs["z_L"],
            logits=outputs["logits"],
            q_halt=outputs["q_halt_logits"],
            q_continue=outputs["q_continue_logits"] if "target_q_continue" in outputs else None,
            labels=rows["labels"],
            steps=steps,
            weights=weights,
            rows=rows,
        )
        return add_terms(self.terms, view, loss, metrics)

    @torch.no_grad()
    def answered(self, outputs: dict[str, Tensor], rows: Batch, done: Tensor, numbers: Tensor) -> Tensor | None:
        """What became of rows that are done (n,) bool; None where the batch does not say which examples they are.

        (m, 3) float64 (float32 on MPS): the row's number in the update, the same on any number of processes, as
        `numbers` (n,) gives it; its example; its token loss.
        """
        if EXAMPLE not in rows:
            return None
        examples, labels = rows[EXAMPLE][done], rows["labels"][done]
        losses = TOKEN_LOSSES[self.loss_type](outputs["logits"][done], labels).sum(dim=-1)
        scored = (labels != IGNORE_LABEL_ID).sum(dim=-1).clamp_min(1)
        return torch.stack([wide(numbers.to(done.device)[done]), wide(examples), wide(losses) / scored], dim=1)
