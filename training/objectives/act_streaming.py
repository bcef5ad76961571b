"""ACT streaming, the objective of HRM and TRM: one supervision step per batch, slots restart when they halt."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from models.act import Batch, Carry, act_step, carry_names, draw_min_halt_steps, initial_carry
from models.recursive_model import RecursiveModel
from training.devices import upload
from training.objectives.base import Objective, ObjectiveSettings, Output, PuzzleObjective, UpdateContext, equal_slices
from training.seeding import generator

if TYPE_CHECKING:  # the schema is made of these settings
    from training.settings.schema import TrainConfig


@dataclass
class Settings(ObjectiveSettings):
    """Pretraining as officially: one supervision step per batch, slots restart when they halt."""

    @classmethod
    def build(cls, config: "TrainConfig") -> Objective:
        return ACTStreaming(config.arch.loss.loss_type, config.accumulation_slices)


class ACTStreaming(PuzzleObjective):
    """Per batch one step of every slot; one update, from `accumulation_slices` slices of the slots.

    The normalizer is the number of slots, halted or not, as officially: the gradient is that of the loss sum
    over the global batch divided by the global batch size.
    """

    name = "act_streaming"

    def carry_names(self, model: RecursiveModel) -> tuple[str, ...]:
        return carry_names(model)

    def outputs(self, model: RecursiveModel, batch: Batch, context: UpdateContext) -> Iterator[Output]:
        if self.carry is None:
            self.carry = initial_carry(model, batch)
        config = model.config
        exploration = draw_min_halt_steps(
            context.num_slots,
            config.halt_max_steps,
            config.halt_exploration_prob,
            generator(context.seed, "act_exploration", context.step),
        )
        minimum = upload(exploration[context.slots], batch["inputs"].device)
        num_rows = batch["inputs"].shape[0]
        carries: list[Carry] = []
        for rows in equal_slices(num_rows, self.accumulation_slices):
            carry, step_outputs = act_step(
                model,
                {key: leaf[rows] for key, leaf in self.carry.items()},
                {key: leaf[rows] for key, leaf in batch.items()},
                training=True,
                min_halt_steps=minimum[rows],
            )
            carries.append(carry)
            loss, metrics = self.losses(step_outputs, carry, carry["halted"], carry["steps"])
            slots = torch.arange(context.slots.start + rows.start, context.slots.start + rows.stop)
            answered = self.answered(step_outputs, carry, carry["halted"], slots)
            last = rows.stop == num_rows
            if last:
                self.carry = {key: torch.cat([sliced[key] for sliced in carries]) for key in carry}
            size = rows.stop - rows.start
            targets = 0 if config.no_ACT_continue else size
            yield Output(loss, float(size), size, targets, metrics, ends_update=last, answered=answered)
