"""Derivatives along a direction by central differences: what tangents are compared with."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynamics.flat_state import StateLayout
from dynamics.trajectory import Map


def one_direction(layout: StateLayout) -> Tensor:
    """A normal direction, the same at each call and for all examples: (B, D) float64."""
    draws = torch.Generator().manual_seed(0)
    direction = torch.randn(layout.size, dtype=torch.float64, generator=draws).to(layout.device)
    return direction.expand(layout.batch_size, -1)


class Difference(NamedTuple):
    """Of one leaf, in float64: DF(z) d (B, n), what rounding may add to its norm (B,), half of the kink (B,).

    The kink is |F(z + h d) - 2 F(z) + F(z - h d)| / h: small where F is smooth; else the derivative at z may be off by
    half of it.
    """

    derivative: Tensor
    noise: Tensor
    half_kink: Tensor


def central_differences(
    advance: Map, layout: StateLayout, leaves: Sequence[Tensor], direction: Tensor
) -> list[Difference]:
    """By leaf, the derivative along a direction d, (B, D) float64. Three applications of the map."""
    eps = torch.finfo(layout.dtype).eps
    norm = torch.linalg.vector_norm
    point = layout.flatten(leaves).double()
    step = eps ** (1 / 3) * (1 + norm(point, dim=1, keepdim=True)) / norm(direction, dim=1, keepdim=True)
    values = []
    for sign in (1, -1, 0):
        start = layout.unflatten((point + sign * step * direction).to(layout.dtype))
        moved = layout.matched_leaves(advance(layout.state(start)))
        values.append([leaf.double().reshape(layout.batch_size, -1) for leaf in moved])
    return [
        Difference(
            (forward - backward) / (2 * step),
            10 * eps * torch.maximum(norm(forward, dim=1), norm(backward, dim=1)) / step[:, 0],
            norm((forward + backward) / 2 - centre, dim=1) / step[:, 0],
        )
        for forward, backward, centre in zip(*values, strict=True)
    ]
