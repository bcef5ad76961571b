"""A state and its orthonormal tangents, advanced together map by map."""

from collections.abc import Callable, Iterable
from numbers import Integral

import torch
from torch import Tensor

from dynamics.flat_state import StateLayout
from dynamics.known_tangents import KnownTangentMap, MapWithTangents
from dynamics.orthonormal import Factorisation, orthonormalise, scaled_norm
from dynamics.tangents import TangentMap, exact_arithmetic
from dynamics.trajectory import Advance, as_maps


def draw_tangents(layout: StateLayout, num_exponents: int, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal directions (B, D, k) in the layout's dtype, drawn on the generator's device.

    The first k of more are not the k of fewer: pass `initial_tangents` where that matters.
    """
    device = layout.device if generator is None else generator.device
    shape = (layout.batch_size, layout.size, num_exponents)
    return torch.randn(shape, dtype=layout.dtype, device=device, generator=generator)


def check_counts(counts: Iterable[tuple[str, int, int]]) -> None:
    """Refuse a (name, value, least) whose value is no integer of at least so much. Errors: ValueError."""
    for name, value, least in counts:
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}={value!r}, expected an integer of at least {least}")


class TangentFlow:
    """State, tangents and the position in the cycle of maps. Advanced by whole intervals.

    Args: as `lyapunov_spectrum`.
    Errors: ValueError for more exponents than the state has components, or tangents that are misshapen, not finite or
        linearly dependent.
    """

    def __init__(
        self,
        advance: Advance,
        initial_state: object,
        num_exponents: int,
        initial_tangents: Tensor | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        maps = as_maps(advance)
        self.layout = StateLayout(initial_state, dtype)
        if not 1 <= num_exponents <= self.layout.size:
            raise ValueError(
                f"num_exponents={num_exponents}: the state has {self.layout.size} components, expected 1 to that many"
            )
        self.maps = [
            KnownTangentMap(map_, self.layout) if isinstance(map_, MapWithTangents) else TangentMap(map_, self.layout)
            for map_ in maps
        ]
        # These are copies, because a map that works in place would otherwise change the caller's tensors.
        self.leaves = [
            leaf.detach().clone(memory_format=torch.contiguous_format) for leaf in self.layout.leaves(initial_state)
        ]
        self.tangents = self._first_tangents(num_exponents, initial_tangents, generator)
        self.num_applied = 0
        # It is called with the state after each whole step while a measurement is made.
        self.on_step: Callable[[object], None] | None = None
        # These examples have been finite so far and get a number.
        self.finite = self.layout.finite(self.leaves)

    def _first_tangents(self, count: int, given: Tensor | None, generator: torch.Generator | None) -> list[Tensor]:
        layout = self.layout
        if given is not None:
            expected = (layout.batch_size, layout.size, count)
            if tuple(given.shape) != expected:
                raise ValueError(f"initial_tangents is {tuple(given.shape)}, expected (B, D, k) = {expected}")
        start = draw_tangents(layout, count, generator) if given is None else given
        with exact_arithmetic():
            first = orthonormalise(layout.split_tangents(start))
        if not bool(first.finite.all()):
            raise ValueError("initial_tangents holds numbers that are not finite")
        if bool((first.trust.lost | first.trust.vanished).any()):
            raise ValueError("initial_tangents has linearly dependent columns")
        return first.Q

    @property
    def state(self) -> object:
        """The present state, as a pytree of the initial state's structure."""
        return self.layout.state(self.leaves)

    def advance(self, num_maps: int) -> Factorisation:
        """Apply the next `num_maps` maps in cyclic order, then orthonormalise the tangents.

        `finite` turns False for examples whose state or tangents are not finite any more, and stays False.
        """
        with exact_arithmetic():
            self._push(num_maps)
            factors = orthonormalise(self.tangents)
        self.tangents = factors.Q
        self.finite = self.finite & factors.finite
        return factors

    def advance_separately(self, num_maps: int) -> Tensor:
        """Apply the next `num_maps` maps and bring each tangent back to length 1 on its own: ln of the lengths, (B, k).

        -inf for a tangent that vanished, and stays zero.
        """
        with exact_arithmetic():
            self._push(num_maps)
        lengths = scaled_norm(torch.cat([leaf.flatten(2) for leaf in self.tangents], dim=2), dim=2)  # (k, B)
        self.finite = self.finite & lengths.isfinite().all(dim=0)
        divisors = torch.where(lengths == 0, 1.0, lengths)
        self.tangents = [
            (leaf / divisors.view(*lengths.shape, *(1,) * (leaf.ndim - 2))).to(leaf.dtype) for leaf in self.tangents
        ]
        return lengths.mT.log()

    def _push(self, num_maps: int) -> None:
        for _ in range(num_maps):
            map_ = self.maps[self.num_applied % len(self.maps)]
            self.leaves, self.tangents = map_(self.leaves, self.tangents)
            self.num_applied += 1
            if not self.layout.surely_finite(self.leaves):
                self.finite = self.finite & self.layout.finite(self.leaves)
            if self.on_step is not None and self.num_applied % len(self.maps) == 0:
                self.on_step(self.state)

    def skip(self, num_maps: int, qr_interval: int) -> None:
        """Advance without handing anything back, orthonormalising every `qr_interval` maps and at the end."""
        while num_maps > 0:
            self.advance(min(qr_interval, num_maps))
            num_maps -= qr_interval
