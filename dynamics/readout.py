"""Growth as the answer sees it: tangents after a linear or any other readout."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynamics.orthonormal import scaled_norm
from dynamics.propagation import TangentFlow
from dynamics.tangents import exact_arithmetic
from dynamics.trajectory import Advance, as_maps

Readout = Callable[[Any], Tensor]


def readout_growth(
    advance: Advance,
    initial_state: Any,
    readout: Readout,
    *,
    num_steps: int,
    num_tangents: int = 1,
    initial_tangents: Tensor | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """ln |DG(z_t) DF^t t_i| after each step, for tangents that start orthonormal: what a small change does to G(z).

    The tangents are not made orthogonal to one another on the way, only kept at a length that numbers can hold, so
    that each is one perturbation followed from start to end: soon all point in the leading direction.

    Args:
        readout: G, from the state's pytree to a tensor (B, ...); without `detach`, which is not looked for here.
        others: as `lyapunov_spectrum`; `num_tangents` counts the tangents.
    Returns:
        (B, num_tangents, T+1) float64, column 0 before the first step: differences along the last axis are nats per
        step. -inf where the readout does not see the tangent; NaN where the state or the tangent is not finite.
    Errors: as `lyapunov_spectrum`; ValueError for a readout whose result has another batch axis.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}, expected at least 1")
    flow = TangentFlow(advance, initial_state, num_tangents, initial_tangents, generator, dtype)
    num_maps = len(as_maps(advance))
    scale = torch.zeros(flow.layout.batch_size, num_tangents, dtype=torch.float64, device=flow.layout.device)
    logs = [_seen(flow, readout) + scale]
    for _ in range(num_steps):
        scale = scale + flow.advance_separately(num_maps)
        logs.append(_seen(flow, readout) + scale)
    return torch.stack(logs, dim=2)


def _seen(flow: TangentFlow, readout: Readout) -> Tensor:
    """ln |DG(z) t_i|: (B, k)."""
    layout = flow.layout
    with exact_arithmetic():
        pushed = _push_readout(flow, readout)
    if pushed.ndim < 2 or pushed.shape[1] != layout.batch_size:
        raise ValueError(f"the readout returns {tuple(pushed.shape[1:])}, expected ({layout.batch_size}, ...)")
    lengths = scaled_norm(pushed.reshape(*pushed.shape[:2], -1), dim=2)
    return torch.where(flow.finite[:, None], lengths.mT.log(), torch.nan)


def _push_readout(flow: TangentFlow, readout: Readout) -> Tensor:
    """DG(z) t_i: (k, B, ...)."""
    layout = flow.layout
    leaves = [leaf.contiguous() for leaf in flow.leaves]

    def push(*directions: Tensor) -> Tensor:
        _, pushed, *_ = torch.func.jvp(lambda *primals: readout(layout.state(primals)), tuple(leaves), directions)
        return pushed

    return torch.func.vmap(push)(*flow.tangents)
