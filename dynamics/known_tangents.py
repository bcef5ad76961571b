"""Maps that know their own tangents, from an analytic Jacobian: no forward AD, many times faster on small states.

    lyapunov_spectrum(henon, state, jacobian=henon_jacobian, ...)               # the Jacobian of a map
    lyapunov_spectrum(RungeKuttaStep(velocity, 0.01, velocity_jacobian), ...)   # the one of a flow's velocity

Whatever takes a map takes one that has `with_tangents`: `WithJacobian`, `RungeKuttaStep`, or a class of one's own for
derivatives with a structure (sparse, banded) that a matrix would hide. What it says is compared with central
differences at its first application.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dynamics.central_differences import central_differences, one_direction
from dynamics.flat_state import StateLayout
from dynamics.trajectory import Advance, Map, as_maps

Jacobian = Callable[[Any], Tensor]


@runtime_checkable
class MapWithTangents(Protocol):
    """A pure map that also pushes tangents."""

    def __call__(self, state: Any) -> Any:
        """F(z)."""
        ...

    def with_tangents(self, state: Any, tangents: Tensor) -> tuple[Any, Tensor]:
        """F(z), and DF(z) V for tangents V (B, D, k) over the flat state (leaves in the pytree's order)."""
        ...


class WithJacobian:
    """A map beside its Jacobian, state -> (B, D, D), entry (b, i, j) the derivative of component i by component j."""

    def __init__(self, advance: Map, jacobian: Jacobian) -> None:
        self._advance = advance
        self._jacobian = jacobian

    def __call__(self, state: Any) -> Any:
        return self._advance(state)

    def with_tangents(self, state: Any, tangents: Tensor) -> tuple[Any, Tensor]:
        """As `MapWithTangents`."""
        # First, since the map may work in place; as V^T J^T, since tangents lie in memory as rows.
        moved = torch.bmm(tangents.mT, _transposed(self._jacobian(state), tangents)).mT
        return self._advance(state), moved


class RungeKuttaStep:
    """One classical Runge-Kutta step of fourth order of dz/dt = f(z), states (B, D): a map with its tangents.

    Its derivative is the exact one of the step, not a step of the linearised flow along another trajectory.

    Args:
        velocity: f, (B, D) -> (B, D). jacobian: Df, (B, D) -> (B, D, D). time_step: h; exponents are nats per step,
            divided by h nats per unit of time.
    """

    def __init__(self, velocity: Callable[[Tensor], Tensor], time_step: float, jacobian: Jacobian) -> None:
        self._velocity = velocity
        self._time_step = time_step
        self._jacobian = jacobian

    def __call__(self, state: Tensor) -> Tensor:
        return self._step(state)[0]

    def with_tangents(self, state: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """As `MapWithTangents`."""
        result, (first, second, third, fourth) = self._step(state)
        jacobian, h, start = self._jacobian, self._time_step, tangents.mT
        # The tangents at those points; the sum of the four slopes is written with them.
        b = torch.baddbmm(start, start, _transposed(jacobian(first), tangents), alpha=h / 2)
        c = torch.baddbmm(start, b, _transposed(jacobian(second), tangents), alpha=h / 2)
        d = torch.baddbmm(start, c, _transposed(jacobian(third), tangents), alpha=h)
        known = torch.add(b, c, alpha=2).add_(d).sub_(start)
        last = _transposed(jacobian(fourth), tangents)
        return result, torch.baddbmm(known, d, last, beta=1 / 3, alpha=h / 6).mT

    def _step(self, state: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """F(z), and the four points at which the velocity was taken."""
        f, h = self._velocity, self._time_step
        first = f(state)
        b = torch.add(state, first, alpha=h / 2)
        second = f(b)
        c = torch.add(state, second, alpha=h / 2)
        third = f(c)
        d = torch.add(state, third, alpha=h)
        slopes = torch.add(first + f(d), second + third, alpha=2)
        return torch.add(state, slopes, alpha=h / 6), (state, b, c, d)


def with_jacobian(advance: Advance, jacobian: Jacobian | Sequence[Jacobian]) -> list[WithJacobian]:
    """The maps of a sequence, each beside its Jacobian. Errors: ValueError for another number of Jacobians."""
    maps = as_maps(advance)
    jacobians = list(jacobian) if isinstance(jacobian, Sequence) else [jacobian]
    if len(maps) != len(jacobians):
        raise ValueError(f"{len(jacobians)} Jacobians for {len(maps)} maps: expected one for each map")
    return [WithJacobian(map_, one) for map_, one in zip(maps, jacobians, strict=True)]


class KnownTangentMap:
    """The tangents that a map itself gives, in the engine's form; compared at its first application.

    Errors: ValueError where they or the state have another shape or precision than asked for, where the state is not
        the one that the map itself returns, or where the tangents are not the derivative that central differences see
        along a random direction. What rounding and kinks near the start explain is allowed: no part of a Jacobian
        that is wrong by more than about 1e-4 of the derivative passes in float64, 1e-2 in float32.
    """

    def __init__(self, advance: MapWithTangents, layout: StateLayout) -> None:
        self._advance = advance
        self._layout = layout
        self._compared = False

    def __call__(self, leaves: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As `push_tangents`."""
        if not self._compared:
            self._compare(leaves, tangents[0].shape[0])
            self._compared = True
        return self._push(leaves, tangents)

    def _push(self, leaves: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        layout = self._layout
        # In rows (B, k, D), as products leave them.
        joined = layout.join_tangents(tangents).mT.contiguous().mT
        state, pushed = self._advance.with_tangents(layout.state(leaves), joined)
        moved = layout.matched_leaves(state)
        if pushed.shape != joined.shape or any(one.dtype != layout.dtype for one in (*moved, pushed)):
            raise ValueError(
                f"the map gives tangents {tuple(pushed.shape)} in {pushed.dtype}, expected {tuple(joined.shape)}, and "
                f"them and the state in {layout.dtype}"
            )
        return moved, layout.tangent_views(pushed)

    def _compare(self, leaves: Sequence[Tensor], num_tangents: int) -> None:
        layout, norm = self._layout, torch.linalg.vector_norm
        tolerance = torch.finfo(layout.dtype).eps ** 0.5
        direction = one_direction(layout)
        # The map may work in place: each call gets leaves of its own.
        # As many tangents as later, since a map may be compiled for their number.
        directions = layout.split_tangents(direction[:, :, None].expand(-1, -1, num_tangents))
        moved, pushed = self._push([leaf.clone() for leaf in leaves], directions)
        alone = layout.flatten(layout.matched_leaves(self._advance(layout.state([leaf.clone() for leaf in leaves]))))
        apart = (layout.flatten(moved) - alone).abs()
        if bool((apart > tolerance * alone.abs().amax(dim=1, keepdim=True)).any()):
            raise ValueError(f"with_tangents returns a state up to {float(apart.max()):.3g} off the map's own")
        for (expected, noise, half_kink), pushed_leaf in zip(
            central_differences(self._advance, layout, leaves, direction), pushed, strict=True
        ):
            given = pushed_leaf[0].double().reshape(expected.shape)
            allowed = noise + 2 * half_kink + tolerance * norm(expected, dim=1)
            wrong = norm(given - expected, dim=1) > allowed
            if bool(wrong.any()):
                raise ValueError(_disagreement(expected, given, wrong))


def _disagreement(expected: Tensor, given: Tensor, wrong: Tensor) -> str:
    difference = torch.where(wrong[:, None], (given - expected).abs(), 0.0)
    row, component = divmod(int(difference.argmax()), difference.shape[1])
    return (
        f"the Jacobian is not the map's derivative: along a random direction they differ by up to "
        f"{difference[row, component]:.3g} (component {component} of example {row}: {given[row, component]:.6g}, by "
        f"central differences {expected[row, component]:.6g}); expected that of one application, and of a flow's "
        "velocity in RungeKuttaStep only"
    )


def _transposed(jacobian: Tensor, tangents: Tensor) -> Tensor:
    batch, size, _ = tangents.shape
    if jacobian.shape != (batch, size, size) or jacobian.dtype != tangents.dtype:
        raise ValueError(
            f"the Jacobian is {tuple(jacobian.shape)} in {jacobian.dtype}, expected (B, D, D) = "
            f"{(batch, size, size)} in {tangents.dtype}"
        )
    return jacobian.mT
