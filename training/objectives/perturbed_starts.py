"""The trajectories of a batch: which there are, what they are called, and where each one starts."""

from dataclasses import dataclass

import torch

from models.recursion import RecurrentState
from models.recursive_model import RecursiveModel
from training.config_schema import ObjectiveConfig
from training.noise import draw_sigma, draw_state_noise, perturb
from training.objectives.base import UpdateContext


@dataclass(frozen=True)
class Trajectories:
    """Trajectories of some slots: first of each slot the first one asked for, then of each the next.

    numbers: what they are called among all trajectories of the update, `index * num_slots + slot`: the same for every
    number of processes and slices, and trajectory `index` of a slot keeps its name when there are more of them.
    perturbed: which ones do not start from z0 itself.
    """

    numbers: list[int]
    perturbed: list[bool]


def trajectories(
    settings: ObjectiveConfig, context: UpdateContext, rows: slice, indices: range
) -> Trajectories:
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
    model: RecursiveModel, settings: ObjectiveConfig, context: UpdateContext, chosen: Trajectories
) -> RecurrentState:
    """Where the trajectories start: z0, or z0 + sigma * epsilon at the sites `settings.perturb`; (n, P+S, D) each.

    A trajectory whose sigma is 0 starts from z0 to the bit, and no noise is drawn for it.
    """
    clean = model.initial_state(len(chosen.numbers))
    state = RecurrentState(*(leaf.contiguous() for leaf in clean))
    candidates = [i for i, perturbed in enumerate(chosen.perturbed) if perturbed]
    numbers = [chosen.numbers[i] for i in candidates]
    sigma = draw_sigma(settings, context.seed, context.step, numbers)
    moving = sigma.nonzero()[:, 0].tolist()
    if not moving:
        return state
    noise = draw_state_noise(
        context.seed, context.step, [numbers[i] for i in moving], tuple(state.z_H.shape[1:]), settings.perturb, "start"
    )
    moved = perturb(model.initial_state(len(moving)), sigma[moving], noise, settings.perturb)
    rows = torch.tensor([candidates[i] for i in moving]).to(state.z_H.device)
    for leaf, part in zip(state, moved, strict=True):
        leaf[rows] = part
    return state
