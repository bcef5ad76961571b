"""Supervised training of K trajectories of each puzzle, clean and perturbed ones: one update per rollout.

x and y are as they are, z0 -> z0 + epsilon, the loss is that of pretraining: no KL, no Lyapunov term. As controls the
same noise may go to the embedded input or to the weights instead. Nothing is carried from batch to batch: each batch is
unrolled from the start and makes one update.

Source: trajectory augmentation of HRM and TRM, and the report that goes with it (git.blackhao.com/rrm).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from models.act import Batch, draw_min_halt_steps, halting
from models.recursion import RecurrentState
from models.recursive_model import RecursiveModel
from options import MOST_REPEATS, at_least, fraction, one_of, option
from training.noise import SITES
from training.objectives.base import Objective, ObjectiveSettings, Output, PuzzleObjective, UpdateContext, equal_slices
from training.objectives.perturbed_starts import Trajectories, input_noise, starting_state, trajectories
from training.objectives.perturbed_weights import perturbed_weights
from training.objectives.rollout import HaltingRule, rollout
from training.seeding import generator

if TYPE_CHECKING:  # the schema is made of these settings
    from training.settings.schema import ObjectiveConfig, TrainConfig


@dataclass
class Settings(ObjectiveSettings):
    """K trajectories of each puzzle, clean and perturbed ones, whose losses are added to one update."""

    rollout: str = option(
        "parallel_fixed",
        "how the K trajectories of a puzzle are followed",
        one_of("parallel_fixed", "serial_act", "act_mask"),
    )
    num_trajectories: int = option(
        1, "K per puzzle, the clean one of multi_perturbed_ce included", at_least(1, MOST_REPEATS)
    )
    perturb: str = option(
        "both", "which states; or, as a control, the input or the weights", one_of(*SITES, "input", "weights")
    )
    noise_sampling: str = option("fixed", "distribution of sigma", one_of("fixed", "loguniform", "mixture"))
    sigma: float = option(1e-3, "standard deviation of epsilon; of fixed and mixture", at_least(0))
    sigma_min: float = option(3e-5, "smallest sigma of loguniform", at_least(0))
    sigma_max: float = option(3e-3, "largest sigma of loguniform", at_least(0))
    p_clean: float = option(0.5, "of mixture: probability that a trajectory is not perturbed", fraction)
    clean_warmup_steps: int = option(0, "updates without noise first", at_least(0))
    sigma_ramp_steps: int = option(0, "further updates over which sigma grows from 0 to its value", at_least(0))
    mask_normalize: str = option(
        "trajectory",
        "of the ACT rollouts: every trajectory weighs the same, or every step",
        one_of("trajectory", "valid_steps"),
    )

    names: ClassVar = ("baseline_ce", "single_perturbed_ce", "multi_perturbed_ce")

    @classmethod
    def build(cls, config: "TrainConfig") -> Objective:
        kind = KINDS_OF_ROLLOUT[config.objective.rollout]
        return kind(config.objective, config.arch.loss.loss_type, config.accumulation_slices)


@dataclass(frozen=True)
class Group:
    """Trajectories that are rolled out together, those of index 0 of each row first.

    batch: its rows, once. state, input_noise: where each trajectory starts, and what is added to its embedded input.
    """

    batch: Batch
    state: RecurrentState
    input_noise: Tensor | None
    chosen: Trajectories
    context: UpdateContext

    def rows(self) -> Batch:
        """The batch with one row per trajectory."""
        copies = len(self.chosen.numbers) // len(self.batch["labels"])
        return {key: leaf.repeat(copies, *(1,) * (leaf.ndim - 1)) for key, leaf in self.batch.items()}


class TrajectoryPerturbation(PuzzleObjective, ABC):
    """What the three kinds of rollout share: slices of the batch, and an update at the end of the last one.

    Args:
        settings: `baseline_ce` unrolls without noise, `single_perturbed_ce` one perturbed trajectory per puzzle,
            `multi_perturbed_ce` a clean one and K-1 perturbed ones.
        loss_type, accumulation_slices: as `PuzzleObjective` takes them.
    """

    def __init__(self, settings: "ObjectiveConfig", loss_type: str, accumulation_slices: int = 1) -> None:
        super().__init__(loss_type, accumulation_slices)
        self.name = settings.name
        self.settings = settings

    def outputs(self, model: RecursiveModel, batch: Batch, context: UpdateContext) -> Iterator[Output]:
        """One output per supervision step. Errors: ValueError when the rows cannot be cut into equal slices."""
        num_rows = batch["inputs"].shape[0]
        for rows in equal_slices(num_rows, self.accumulation_slices):
            puzzles = {key: leaf[rows] for key, leaf in batch.items()}
            for indices in self.groups():
                chosen = trajectories(self.settings, context, rows, indices)
                state = starting_state(model, self.settings, context, chosen)
                noise = input_noise(model, self.settings, context, chosen)
                group = Group(puzzles, state, noise, chosen, context)
                ends = rows.stop == num_rows and indices.stop == self.settings.num_trajectories
                with perturbed_weights(model, self.settings, context, indices.start, any(chosen.perturbed)) as moved:
                    for output in self.roll(model, group):
                        output.ends_update &= ends and not moved
                        yield output
                if ends and moved:
                    # This output ends the update outside the block above, where the weights have their values back.
                    yield Output(torch.zeros((), requires_grad=True), normalizer=0.0, trained_steps=0)

    def groups(self) -> list[range]:
        """Which trajectories of a puzzle are rolled out together. Here: all, unless each has weights of its own."""
        count = self.settings.num_trajectories
        if self.settings.perturb == "weights":
            return [range(index, index + 1) for index in range(count)]
        return [range(count)]

    @abstractmethod
    def roll(self, model: RecursiveModel, group: Group) -> Iterator[Output]:
        """The outputs of one rollout; the last one would end an update."""


class ParallelFixed(TrajectoryPerturbation):
    """B puzzles become B*K trajectories, each of exactly `halt_max_steps` supervision steps.

    There is no halting and no reset. The loss is the mean over trajectories and over supervision steps: the normalizer
    of a step is its number of trajectories, so that losses and gradients have the size they have in pretraining,
    whatever K and the number of steps.
    """

    def roll(self, model: RecursiveModel, group: Group) -> Iterator[Output]:
        count, rows = len(group.chosen.numbers), group.rows()
        for step in rollout(model, group.batch, group.state, input_noise=group.input_noise):
            steps = torch.full_like(step.active, step.number, dtype=torch.int32)
            loss, metrics = self.losses(step.outputs, rows, step.halted, steps)
            answered = self.answered(step.outputs, rows, step.halted, torch.tensor(group.chosen.numbers))
            yield Output(
                loss, float(count), count, step.extra_passes, metrics, ends_update=step.last, answered=answered
            )


class ACTMask(TrajectoryPerturbation):
    """B puzzles become B*K trajectories, which halt as in pretraining; what a trajectory does after it has halted is
    in no loss, and it is never started anew.

    By `mask_normalize` the loss is, for trajectory i with losses l_it at its steps t = 1..n_i,
    `trajectory`: mean over i of (1/n_i) sum_t l_it, every trajectory weighs the same;
    `valid_steps`: sum over i and t of l_it / sum over i of n_i, every step does.
    For the former the lengths must be known beforehand, and a rollout without gradients finds them.

    With exploration as in pretraining: redrawn at every step for every trajectory, from (seed, update, step).
    """

    def roll(self, model: RecursiveModel, group: Group) -> Iterator[Output]:
        count, rows = len(group.chosen.numbers), group.rows()
        halts = self._halting_rule(model, group.context, group.chosen)
        lengths = None
        steps_for_lengths = 0
        if self.settings.mask_normalize == "trajectory":
            lengths, steps_for_lengths = _lengths(model, group, halts)
            halts = _halts_after(lengths)
        for step in rollout(model, group.batch, group.state, halts, group.input_noise):
            weights = step.active.to(step.outputs["q_halt_logits"].dtype)
            if lengths is None:
                normalizer = float(step.active.sum())
            else:
                weights = weights / lengths
                normalizer = float(count) if step.number == 1 else 0.0
            steps = torch.full_like(step.active, step.number, dtype=torch.int32)
            loss, metrics = self.losses(step.outputs, rows, step.halted, steps, weights)
            extra = step.extra_passes + (steps_for_lengths if step.number == 1 else 0)
            answered = self.answered(step.outputs, rows, step.halted, torch.tensor(group.chosen.numbers))
            yield Output(loss, normalizer, count, extra, metrics, ends_update=step.last, answered=answered)

    def _halting_rule(self, model: RecursiveModel, context: UpdateContext, chosen: Trajectories) -> HaltingRule:
        """By q, and not before a minimum that exploration draws."""
        config = model.config
        numbers = torch.tensor(chosen.numbers)
        total = context.num_slots * self.settings.num_trajectories

        def halts(step: int, q_halt: Tensor, q_continue: Tensor) -> Tensor:
            draws = generator(context.seed, f"act_exploration/{step}", context.step)
            minimum = draw_min_halt_steps(total, config.halt_max_steps, config.halt_exploration_prob, draws)
            steps = torch.full_like(q_halt, step, dtype=torch.int32)
            return halting(config, steps, q_halt, q_continue, minimum[numbers].to(q_halt.device))

        return halts


class SerialACT(ACTMask):
    """As `ACTMask`, to rounding; the K trajectories of a puzzle are rolled out one after the other.

    K times less memory, and K times as many passes over a K times smaller batch.
    """

    def groups(self) -> list[range]:
        return [range(index, index + 1) for index in range(self.settings.num_trajectories)]


@torch.no_grad()
def _lengths(model: RecursiveModel, group: Group, halts: HaltingRule) -> tuple[Tensor, int]:
    """After how many steps each trajectory halts (n,) int64, and how many steps of rows were computed for it."""
    z_H = group.state.z_H
    lengths = torch.zeros(z_H.shape[0], dtype=torch.int64, device=z_H.device)
    computed = 0
    for step in rollout(model, group.batch, group.state, halts, group.input_noise):
        lengths = torch.where(step.halted, step.number, lengths)
        computed += len(lengths) + step.extra_passes
    return lengths, computed


def _halts_after(lengths: Tensor) -> HaltingRule:
    return lambda step, q_halt, q_continue: lengths == step


KINDS_OF_ROLLOUT: dict[str, type[TrajectoryPerturbation]] = {
    "parallel_fixed": ParallelFixed,
    "serial_act": SerialACT,
    "act_mask": ACTMask,
}
