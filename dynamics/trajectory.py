"""Iterating a map, and what a long trajectory settles on: residual and recurrence period."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dynamics.flat_state import StateLayout

Map = Callable[[Any], Any]
Advance = Map | Sequence[Map]


def as_maps(advance: Advance) -> list[Map]:
    """A single map as a sequence of one. Errors: ValueError for an empty sequence or something not callable."""
    maps = list(advance) if isinstance(advance, Sequence) else [advance]
    if not maps or not all(callable(map_) for map_ in maps):
        raise ValueError(f"advance is {advance!r}, expected a map or a non-empty sequence of maps")
    return maps


def apply_once(advance: Advance, state: Any) -> Any:
    """One step: the map, or one pass through the whole sequence."""
    for map_ in as_maps(advance):
        state = map_(state)
    return state


@torch.no_grad()
def trajectory(advance: Advance, initial_state: Any, num_steps: int) -> Iterator[Any]:
    """The states after 1, 2, ... num_steps steps, as they come; the start itself is not among them."""
    state = initial_state
    for _ in range(num_steps):
        state = apply_once(advance, state)
        yield state


@torch.no_grad()
def residual(advance: Advance, state: Any) -> Tensor:
    """|F(z) - z| / |z| of each example, Euclidean norms over the whole state: (B,) float64. 0 at a fixed point."""
    return _distance(StateLayout(state, torch.float64), state, apply_once(advance, state))


@torch.no_grad()
def recurrence(advance: Advance, state: Any, max_period: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """The period of the cycle on which each example's state lies.

    Args:
        max_period: longest period looked for, in steps.
        tolerance: relative distance |F^p(z) - z| / |z| that counts as a return.
    Returns:
        period (B,) int64: smallest p with a return, 1 at a fixed point, 0 where there is none (also for a state that
        is not finite); distances (B, max_period) float64, column p-1 for p steps.
    """
    layout = StateLayout(state, torch.float64)
    later_states = trajectory(advance, state, max_period)
    distances = torch.stack([_distance(layout, state, later) for later in later_states], dim=1)
    returned = distances <= tolerance  # NaN does not return
    first = returned.to(torch.int64).argmax(dim=1) + 1
    return torch.where(returned.any(dim=1), first, 0), distances


def _distance(layout: StateLayout, before: Any, after: Any) -> Tensor:
    start = layout.flatten(layout.leaves(before))
    moved = layout.flatten(layout.leaves(after)) - start
    tiny = torch.finfo(torch.float64).tiny  # a state at the origin that stays there has residual 0
    return torch.linalg.vector_norm(moved, dim=1) / torch.linalg.vector_norm(start, dim=1).clamp_min(tiny)
