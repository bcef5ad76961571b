"""Trajectories under perturbed weights: a control of perturbed starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from models.recursive_model import RecursiveModel
from training.noise import draw_noise, draw_sigma
from training.objectives.base import UpdateContext

if TYPE_CHECKING:  # the schema is made of objectives
    from training.settings.schema import ObjectiveConfig


@contextmanager
def perturbed_weights(
    model: RecursiveModel, settings: "ObjectiveConfig", context: UpdateContext, index: int, perturbed: bool
) -> Iterator[bool]:
    """Within: the dense trained weights are w + sigma * epsilon, where `settings.perturb` asks for it.

    Sigma and epsilon belong to trajectory `index` of the update, all slots and processes share them; each weight has
    the same sigma. Gradients made within are those at the perturbed weights. On the way out, by whatever way, every
    weight has its bits again, in its old place. Puzzle embeddings and buffers are not perturbed.

    Yields whether weights were moved: an update must not be made while they are.
    """
    sigma = 0.0
    number = [index * context.num_slots]
    if perturbed and settings.perturb == "weights":
        sigma = float(draw_sigma(settings, context.seed, context.step, number))
    if sigma == 0.0:
        yield False
        return
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    clean = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                noise = draw_noise(context.seed, context.step, number, tuple(weight.shape), f"weights/{name}")[0]
                weight.add_(noise.to(weight.device, weight.dtype), alpha=sigma)
        yield True
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(clean[name])
