"""How far random tangents bias short spectra, how far two starts disagree, and starts that are aligned.

A random direction in D dimensions has a part of about D^(-1/2) along the one that grows most: for spectra that are
led by a few directions lambda_1 comes out too low by up to ln(D) / (2 T) after T steps. Three ways out: a warm-up of
the tangents (`lyapunov_spectrum`), the singular values (`svd_exponents`), or a start found by going there and back:
`aligned_tangents`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamics.flat_state import StateLayout
from dynamics.lyapunov import lyapunov_spectrum
from dynamics.orthonormal import orthonormalise
from dynamics.propagation import draw_tangents
from dynamics.tangents import exact_arithmetic
from dynamics.trajectory import Advance, Map, as_maps


def alignment_bias_bound(num_components: int, num_steps: int) -> float:
    """ln(D) / (2 T), nats per step: by how much lambda_1 from a random start may be too low, typically at most.

    Reached when one direction leads all others from the first step on; a bound of the order, not of every draw.
    """
    if num_components < 1 or num_steps < 1:
        raise ValueError(f"D={num_components}, T={num_steps}: expected at least 1")
    return math.log(num_components) / (2 * num_steps)


@dataclass(frozen=True)
class StartSpread:
    """Spectra of the same trajectories from several random starts of the tangents.

    Args: exponents and svd_exponents: (n_starts, B, k), nats per step.
    """

    exponents: Tensor
    svd_exponents: Tensor

    @property
    def standard_deviation(self) -> Tensor:
        """(B, k): of one start's exponents, unbiased variance over the starts: the estimator's own uncertainty."""
        return self.exponents.std(dim=0)


def spread_over_starts(
    advance: Advance, initial_state: Any, *, generator: torch.Generator, num_starts: int = 2, **options: Any
) -> StartSpread:
    """`lyapunov_spectrum` from `num_starts` independent draws of the tangents; `options` are its own.

    Errors: as there; ValueError for fewer than two starts or tangents that are given.
    """
    if num_starts < 2 or options.get("initial_tangents") is not None:
        raise ValueError(f"num_starts={num_starts}: expected at least 2, and drawn tangents")
    spectra = [lyapunov_spectrum(advance, initial_state, generator=generator, **options) for _ in range(num_starts)]
    return StartSpread(*(torch.stack([getattr(s, name) for s in spectra]) for name in ("exponents", "svd_exponents")))


def aligned_tangents(
    advance: Advance,
    initial_state: Any,
    *,
    num_exponents: int,
    num_steps: int,
    oversampling: int = 4,
    num_sweeps: int = 1,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Tangents (B, D, k) that start where growth over `num_steps` steps is largest: randomised subspace iteration.

    k + oversampling random directions are pushed to the end by the JVP and pulled back by the VJP, orthonormalised
    after each map; passed as `initial_tangents`, they bring `svd_exponents` close to those of the whole derivative. The
    states of all maps are kept: num_steps x maps x one state.

    Errors: as `lyapunov_spectrum`. A map with `no_grad` inside has a JVP but no VJP: ValueError.
    Source: Halko, Martinsson and Tropp 2011 (SIAM Review 53, 217).
    """
    maps = as_maps(advance)
    layout = StateLayout(initial_state, dtype)
    if not 1 <= num_exponents <= layout.size or num_steps < 1 or num_sweeps < 1 or oversampling < 0:
        raise ValueError(
            f"num_exponents={num_exponents}, num_steps={num_steps}, num_sweeps={num_sweeps}, "
            f"oversampling={oversampling}: expected 1 to {layout.size}, twice at least 1, and at least 0"
        )
    count = min(num_exponents + oversampling, layout.size)
    path = _path(maps, layout, initial_state, num_steps)
    tangents = draw_tangents(layout, count, generator)
    for _ in range(num_sweeps):
        forward = lyapunov_spectrum(
            advance,
            initial_state,
            num_exponents=count,
            num_steps=num_steps,
            initial_tangents=tangents,
            dtype=dtype,
        )
        tangents = forward.final_tangents
        for number in reversed(range(len(path))):
            tangents = _pull(maps[number % len(maps)], layout, path[number], tangents)
    return tangents[:, :, :num_exponents]


def _path(maps: Sequence[Map], layout: StateLayout, state: Any, num_steps: int) -> list[list[Tensor]]:
    """The leaves before each map."""
    path = []
    with exact_arithmetic():
        leaves = layout.leaves(state)
        for number in range(num_steps * len(maps)):
            path.append(leaves)
            leaves = layout.matched_leaves(maps[number % len(maps)](layout.state(leaves)))
    return path


def _pull(advance: Map, layout: StateLayout, leaves: Sequence[Tensor], tangents: Tensor) -> Tensor:
    """Orthonormal basis of DF^T applied to tangents (B, D, k)."""
    with exact_arithmetic(differentiable=True), torch.enable_grad():
        inputs = [leaf.detach().requires_grad_() for leaf in leaves]
        outputs = layout.matched_leaves(advance(layout.state(inputs)))
        if not any(leaf.requires_grad for leaf in outputs):
            raise ValueError("the map has no reverse derivative: it uses no_grad or detach inside")
        wanted = [leaf for leaf in outputs if leaf.requires_grad]
        split = layout.split_tangents(tangents)
        cotangents = [cotangent for cotangent, leaf in zip(split, outputs, strict=True) if leaf.requires_grad]
        pulled = torch.autograd.grad(
            wanted, inputs, cotangents, is_grads_batched=True, allow_unused=True, materialize_grads=True
        )
    with exact_arithmetic():
        return layout.join_tangents(orthonormalise([leaf.contiguous() for leaf in pulled]).Q)
