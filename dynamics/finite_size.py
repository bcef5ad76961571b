"""Growth of real perturbations: the map applied to the start and to starts nearby, no derivative anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamics.flat_state import StateLayout
from dynamics.trajectory import Advance, trajectory


@dataclass(frozen=True)
class FiniteSizeGrowth:
    """Separation of perturbed trajectories from the reference.

    Args:
        log_distance: (B, n_sizes, n_directions, T+1) float64: ln |z'_t - z_t| after t steps, column 0 the distance
            that the state's dtype left of the one asked for; -inf where both coincide, NaN where either is not finite.
        sizes: (B, n_sizes) float64: the distance asked for.
    """

    log_distance: Tensor
    sizes: Tensor

    def growth(self, start_step: int = 0, stop_step: int | None = None) -> Tensor:
        """(B, n_sizes, n_directions): nats per step from one time to another (the end when None).

        An estimate of lambda_1 where it agrees between sizes: too small ones drown in rounding, too large ones
        saturate. Errors: ValueError for an empty or outside window.
        """
        last = self.log_distance.shape[3] - 1
        stop = last if stop_step is None else stop_step
        if not 0 <= start_step < stop <= last:
            raise ValueError(f"window {start_step}..{stop} of {last} steps: expected a non-empty part of them")
        return (self.log_distance[..., stop] - self.log_distance[..., start_step]) / (stop - start_step)


@torch.no_grad()
def finite_size_growth(
    advance: Advance,
    initial_state: Any,
    *,
    sizes: Sequence[float],
    num_steps: int,
    directions: Tensor | None = None,
    num_directions: int = 1,
    relative: bool = True,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> FiniteSizeGrowth:
    """Follow perturbed starts z0 + d0 u beside z0 for a sweep of d0.

    One trajectory per size and direction, each of the batch's own shape, so that maps that hold B inputs fixed can be
    passed. Nothing is rescaled on the way: a perturbation that has grown large saturates, as a real one does.

    Args:
        sizes: d0 of the sweep, for instance 1e-6 to 1e-1.
        num_steps: applications of a map, or passes through the sequence.
        directions: (B, D, n) over the flattened state, normalised here; drawn normal, `num_directions` of them, when
            None.
        relative: sizes are parts of the norm |z0| of each example's whole state; else they are distances.
        dtype: float32 or float64, to which the state is cast; None keeps the state's.
    Errors: ValueError for sizes that are not positive, counts below 1, directions that are misshapen, zero or not
        finite, states in lower precision than float32.
    Source: d0 sweep as in Aurell et al. 1997 (J. Phys. A 30, 1), "Predictability in the large".
    """
    layout = StateLayout(initial_state, dtype)
    if not sizes or any(not 0 < size < float("inf") for size in sizes):
        raise ValueError(f"sizes={list(sizes)}, expected positive distances")
    if num_steps < 1 or num_directions < 1:
        raise ValueError(f"num_steps={num_steps}, num_directions={num_directions}: expected at least 1")
    units = _unit_directions(layout, directions, num_directions, generator)
    leaves = layout.leaves(initial_state)
    start = layout.flatten(leaves).double()
    scale = torch.linalg.vector_norm(start, dim=1) if relative else torch.ones_like(start[:, 0])
    distances = scale[:, None] * torch.tensor(sizes, dtype=torch.float64, device=scale.device)
    # The T+1 states of the batch are kept as leaves in the state's own dtype.
    path = [start.to(layout.dtype)]
    path += [layout.flatten(layout.leaves(state)) for state in trajectory(advance, layout.state(leaves), num_steps)]
    rows = []
    for column in range(len(sizes)):
        for direction in units.unbind(2):
            moved = (start + distances[:, column, None] * direction).to(layout.dtype)
            state = layout.state(layout.unflatten(moved))
            logs = [_log_distance(moved, path[0])]
            for before, after in zip(path[1:], trajectory(advance, state, num_steps), strict=True):
                logs.append(_log_distance(layout.flatten(layout.leaves(after)), before))
            rows.append(torch.stack(logs, dim=1))
    shape = (layout.batch_size, len(sizes), units.shape[2], num_steps + 1)
    return FiniteSizeGrowth(torch.stack(rows, dim=1).view(shape), distances)


def _unit_directions(
    layout: StateLayout, given: Tensor | None, count: int, generator: torch.Generator | None
) -> Tensor:
    """(B, D, n) float64 of length 1 on the layout's device."""
    if given is None:
        device = layout.device if generator is None else generator.device
        shape = (layout.batch_size, layout.size, count)
        given = torch.randn(shape, dtype=torch.float64, device=device, generator=generator)
    if given.ndim != 3 or given.shape[:2] != (layout.batch_size, layout.size) or not given.shape[2]:
        raise ValueError(
            f"directions is {tuple(given.shape)}, expected (B, D, n) = ({layout.batch_size}, {layout.size}, n)"
        )
    given = given.to(layout.device, torch.float64)
    lengths = torch.linalg.vector_norm(given, dim=1, keepdim=True)
    if not bool((lengths.isfinite() & (lengths > 0)).all()):
        raise ValueError("directions holds vectors that are zero or not finite")
    return given / lengths


def _log_distance(moved: Tensor, reference: Tensor) -> Tensor:
    distance = torch.linalg.vector_norm(moved.double() - reference.double(), dim=1)
    return torch.where(distance.isfinite(), distance, torch.nan).log()
