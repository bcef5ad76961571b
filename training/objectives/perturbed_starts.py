"""The trajectories of a batch: which there are, what they are called, where each one starts, and what it is shown."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.recursion import RecurrentState
from models.recursive_model import RecursiveModel
from training.noise import SITES, draw_noise, draw_sigma, draw_state_noise, perturb
from training.objectives.base import UpdateContext

if TYPE_CHECKING:  # the schema is made of objectives
    from training.settings.schema import ObjectiveConfig


@dataclass(frozen=True)
class Trajectories:
    """Trajectories of some slots: first of each slot the first one asked for, then of each the next.

    numbers: what they are called among all trajectories of the update, `index * num_slots + slot`: the same for every
    number of processes and slices, and trajectory `index` of a slot keeps its name when there are more of them.
    perturbed: which ones do not start from z0 itself.
    """

    numbers: list[int]
    perturbed: list[bool]


def trajectories(settings: "ObjectiveConfig", context: UpdateContext, rows: slice, indices: range) -> Trajectories:
    """The trajectories `indices` (of 0 to K-1) of the slots that lie in `rows` of this process's batch.

    `baseline_ce` perturbs none, `single_perturbed_ce` all, `multi_perturbed_ce` all but trajectory 0.
    """
    slots = range(context.slots.start + rows.start, context.slots.start + rows.stop)
    clean = {"baseline_ce": settings.num_trajectories, "single_perturbed_ce": 0, "multi_perturbed_ce": 1}
    num_clean = clean[settings.name]
    return Trajectories(
        numbers=[index * context.num_slots + slot for index in indices for slot in slots],
        perturbed=[index >= num_clean for index in indices for _ in slots],
    )


def starting_state(
    model: RecursiveModel, settings: "ObjectiveConfig", context: UpdateContext, chosen: Trajectories
) -> RecurrentState:
    """Where the trajectories start: z0, or z0 + sigma * epsilon at the sites `settings.perturb`; (n, P+S, D) each.

    A trajectory whose sigma is 0 starts from z0 to the bit, and no noise is drawn for it. At a site that is no state
    all of them do.
    """
    clean = model.initial_state(len(chosen.numbers))
    state = RecurrentState(*(leaf.contiguous() for leaf in clean))
    if settings.perturb not in SITES:
        return state
    moving, sigma = _moving(settings, context, chosen)
    if not moving:
        return state
    names = [chosen.numbers[i] for i in moving]
    noise = draw_state_noise(context.seed, context.step, names, tuple(state.z_H.shape[1:]), settings.perturb, "start")
    moved = perturb(model.initial_state(len(moving)), sigma, noise, settings.perturb)
    rows = torch.tensor(moving).to(state.z_H.device)
    for leaf, part in zip(state, moved, strict=True):
        leaf[rows] = part
    return state


def input_noise(
    model: RecursiveModel, settings: "ObjectiveConfig", context: UpdateContext, chosen: Trajectories
) -> Tensor | None:
    """What is added to the embedded input of each trajectory at all its steps: sigma * epsilon, (n, P+S, D) float32.

    None where no input is perturbed. 0 for a trajectory whose sigma is 0.
    """
    if settings.perturb != "input":
        return None
    moving, sigma = _moving(settings, context, chosen)
    if not moving:
        return None
    shape = (model.config.total_len, model.config.hidden_size)
    noise = torch.zeros(len(chosen.numbers), *shape)
    drawn = draw_noise(context.seed, context.step, [chosen.numbers[i] for i in moving], shape, "input")
    noise[moving] = sigma.view(-1, 1, 1) * drawn
    return noise


def _moving(settings: "ObjectiveConfig", context: UpdateContext, chosen: Trajectories) -> tuple[list[int], Tensor]:
    """Positions in `chosen` of the trajectories with a sigma above 0, and those sigmas."""
    candidates = [i for i, perturbed in enumerate(chosen.perturbed) if perturbed]
    sigma = draw_sigma(settings, context.seed, context.step, [chosen.numbers[i] for i in candidates])
    moving = sigma.nonzero()[:, 0]
    return [candidates[i] for i in moving.tolist()], sigma[moving]
