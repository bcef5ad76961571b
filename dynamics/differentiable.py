"""Lyapunov exponents as a differentiable function of whatever the map depends on: for gradient flossing.

The same propagation as `lyapunov_spectrum`, with a QR through which gradients pass. The gradient of an exponent of a
chaotic trajectory grows like e^(lambda_1 T): keep windows short, clip, and look at gradient norms.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamics.propagation import TangentFlow
from dynamics.tangents import exact_arithmetic
from dynamics.trajectory import Advance, as_maps


@dataclass(frozen=True)
class DifferentiableExponents:
    """Exponents with a graph, and where there is none.

    Args:
        exponents: (B, k) in the state's dtype, nats per step, in QR order. Without a graph in examples that are
            `degenerate`, in which it may be -inf or NaN: leave those out of a loss, as `mean_square` does.
        degenerate: (B,) bool: some QR found dependent or vanished tangents, or numbers that are not finite. Such an
            example has no gradient instead of one that is NaN. Where no example is finite, nothing has a gradient.
    """

    exponents: Tensor
    degenerate: Tensor

    def mean_square(self, target: float = 0.0) -> Tensor:
        """Mean over k of (lambda - target)^2, summed over the examples that are not degenerate; a scalar.

        Source: the flossing loss of Engelken 2023 (arXiv:2312.17306), there for one example.
        """
        kept = self.exponents[~self.degenerate]
        return (kept - target).square().mean(dim=1).sum()


def differentiable_exponents(
    advance: Advance,
    initial_state: Any,
    *,
    num_exponents: int,
    num_steps: int,
    transient_steps: int = 0,
    qr_interval: int = 1,
    initial_tangents: Tensor | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> DifferentiableExponents:
    """Exponents over `num_steps` steps, with a graph; memory grows with num_steps.

    Args: as `lyapunov_spectrum`. The start is a constant and the transient has no graph: gradients begin where
        the measurement does.
    Errors: as `lyapunov_spectrum`; ValueError where nothing that wants a gradient reaches the exponents, as with
        `no_grad` around the call or inside the map (under which a JVP is right and a gradient is zero).
    """
    num_maps = len(as_maps(advance))
    total = num_steps * num_maps
    if num_steps < 1 or transient_steps < 0 or qr_interval < 1 or total % qr_interval:
        raise ValueError(
            f"num_steps={num_steps}, transient_steps={transient_steps}, qr_interval={qr_interval}: expected at least "
            f"1, 0 and a divisor of the {total} maps"
        )
    flow = TangentFlow(advance, initial_state, num_exponents, initial_tangents, generator, dtype)
    flow.skip(transient_steps * num_maps, qr_interval)
    growth, degenerate, finite = _measure(flow, flow.leaves, flow.tangents, total, qr_interval)
    if not bool(finite.any()):
        return DifferentiableExponents(growth.detach() / num_steps, degenerate)
    if not bool(finite.all()):
        # A gradient of zero becomes NaN where it passes through NaN, so all is computed again with another example in
        # the place of each that is not finite.
        stand_in = torch.where(finite, torch.arange(len(finite), device=finite.device), finite.int().argmax())
        leaves = [leaf[stand_in] for leaf in flow.leaves]
        tangents = [leaf[:, stand_in] for leaf in flow.tangents]
        clean, _, still_finite = _measure(flow, leaves, tangents, total, qr_interval)
        if not bool(still_finite.all()):
            raise ValueError("examples that are not finite have inputs on which no state is: leave them out")
        growth = torch.where(finite[:, None], clean, growth.detach())
    if not growth.requires_grad:
        raise ValueError("nothing that wants a gradient reaches the exponents: no_grad around or inside the map?")
    exponents = growth / num_steps
    return DifferentiableExponents(torch.where(degenerate[:, None], exponents.detach(), exponents), degenerate)


def _measure(
    flow: TangentFlow, leaves: list[Tensor], tangents: list[Tensor], num_maps: int, qr_interval: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of ln R_ii (B, k), which examples were degenerate, and which finite throughout (B,)."""
    layout = flow.layout
    finite = layout.finite(leaves)
    degenerate = ~finite
    growth: Tensor | float = 0.0
    with exact_arithmetic(differentiable=True):
        for number in range(num_maps):
            leaves, tangents = flow.maps[number % len(flow.maps)](leaves, tangents)
            finite = finite & layout.finite(leaves)
            if (number + 1) % qr_interval == 0:
                block = layout.join_tangents(tangents)
                finite = finite & torch.isfinite(block).flatten(1).all(dim=1)
                # A degenerate example stays so, and goes on without a graph.
                Q, diagonal, degenerate = _qr(block, degenerate | ~finite)
                growth = growth + diagonal.log()
                tangents = layout.split_tangents(Q)
    assert isinstance(growth, Tensor)
    return growth, degenerate, finite


def _qr(block: Tensor, degenerate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q (B, D, k), |R_ii| (B, k) and what is degenerate now, of tangents (B, D, k).

    The derivative of a QR divides by R; a block without full rank is replaced by one that has nothing to derive before
    it is factorised, so that no NaN is multiplied by the zero that `where` puts on what it leaves out.
    """
    limits = torch.finfo(block.dtype)
    with torch.no_grad():
        finite = torch.isfinite(block).flatten(1).all(dim=1)
        safe = torch.where(finite[:, None, None], block, 0.0)
        Q, R = torch.linalg.qr(safe)
        diagonal = R.diagonal(dim1=1, dim2=2).abs()
        columns = torch.linalg.vector_norm(R, dim=1)
        bad = degenerate | ~finite | (diagonal <= 100 * limits.eps * columns).any(dim=1)
        lengths = torch.where(finite[:, None], diagonal, torch.nan)
    fixed = torch.where(bad[:, None, None], Q, block)
    new_Q, new_R = torch.linalg.qr(fixed)
    signed = new_R.diagonal(dim1=1, dim2=2)
    signs = torch.where(signed < 0, -1.0, 1.0).to(block.dtype)
    return new_Q * signs[:, None, :], torch.where(bad[:, None], lengths, signed.abs()), bad
