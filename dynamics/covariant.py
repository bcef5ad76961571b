"""Covariant Lyapunov vectors: the directions that grow at one rate for ever, and the angles between them.

QR vectors depend on the inner product; covariant ones do not, and a map takes each into the next one's line. Only the
triangular factors are kept: what is found are coordinates C with respect to the QR vectors, angles come from C^T C.
Source: Ginelli et al. 2007 (Phys. Rev. Lett. 99, 130601).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamics.propagation import TangentFlow, check_counts
from dynamics.trajectory import Advance, as_maps


@dataclass(frozen=True)
class CovariantVectors:
    """At the times t = 0 ... T of a window, after the QR of the time (0: where the window begins).

    Args:
        coordinates: (B, T+1, k, k) float64: column i is vector i in the basis of the QR vectors, length 1.
        cosines: (B, T+1, k, k) float64: of the angles between vectors, C^T C.
        growth: (B, T, k) float64: ln of the growth of each vector from one time to the next, nats.
        states, tangents: the flat states (B, T+1, D) and QR vectors (B, T+1, D, k); None unless `keep_vectors`.
        finite: (B,) bool: state and tangents were finite throughout; elsewhere all is NaN.
    """

    coordinates: Tensor
    cosines: Tensor
    growth: Tensor
    states: Tensor | None
    tangents: Tensor | None
    finite: Tensor

    @property
    def exponents(self) -> Tensor:
        """(B, k): mean growth, nats per interval between two QRs."""
        return self.growth.mean(dim=1)

    @property
    def vectors(self) -> Tensor:
        """(B, T+1, D, k), length 1. Errors: ValueError unless `keep_vectors` was asked for."""
        if self.tangents is None:
            raise ValueError("the QR vectors were not kept: pass keep_vectors=True")
        return self.tangents.double() @ self.coordinates

    @property
    def smallest_angle(self) -> Tensor:
        """(B, T+1) radians, between any two different vectors; 0 at a tangency."""
        k = self.cosines.shape[2]
        off = self.cosines.abs().masked_fill(torch.eye(k, dtype=torch.bool, device=self.cosines.device), 0.0)
        return off.flatten(2).amax(dim=2).clamp(max=1.0).acos()


def covariant_vectors(
    advance: Advance,
    initial_state: Any,
    *,
    num_exponents: int,
    num_steps: int,
    forward_steps: int,
    backward_steps: int,
    qr_interval: int = 1,
    keep_vectors: bool = False,
    initial_tangents: Tensor | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> CovariantVectors:
    """The k leading covariant vectors over a window of `num_steps` steps.

    Args:
        forward_steps: before the window, for the QR vectors to align. backward_steps: after it, for the coordinates,
            which begin there as a random triangular matrix and align on the way back.
        qr_interval: in maps; must divide num_steps and backward_steps times the number of maps.
        others: as `lyapunov_spectrum`. One k x k matrix is kept per QR; with `keep_vectors` also D x k numbers.
    Errors: as `lyapunov_spectrum`; ValueError where two exponents cannot be told apart because a map annihilates a
        direction (singular R).
    """
    num_maps = len(as_maps(advance))
    check_counts((
        ("num_steps", num_steps, 1),
        ("forward_steps", forward_steps, 0),
        ("backward_steps", backward_steps, 0),
        ("qr_interval", qr_interval, 1),
    ))  # fmt: skip
    if num_steps * num_maps % qr_interval or backward_steps * num_maps % qr_interval:
        raise ValueError(
            f"qr_interval={qr_interval} does not divide the {num_steps * num_maps} maps of the window and the "
            f"{backward_steps * num_maps} after it"
        )
    flow = TangentFlow(advance, initial_state, num_exponents, initial_tangents, generator, dtype)
    flow.skip(forward_steps * num_maps, qr_interval)
    window, after = (steps * num_maps // qr_interval for steps in (num_steps, backward_steps))
    states, tangents = [], []
    factors = []
    for number in range(window + after + 1):
        if keep_vectors and number <= window:
            states.append(flow.layout.flatten(flow.leaves))
            tangents.append(flow.layout.join_tangents(flow.tangents))
        if number < window + after:
            interval = flow.advance(qr_interval)
            if bool(((interval.trust.vanished | interval.trust.lost) & flow.finite[:, None]).any()):
                raise ValueError("the map annihilates a direction: fewer exponents have covariant vectors")
            factors.append(interval.R)
    finite = flow.finite
    identity = torch.eye(num_exponents, dtype=torch.float64, device=flow.layout.device)
    factors = [torch.where(finite[:, None, None], R, identity) for R in factors]
    coordinates, growth = _backward(factors, window, generator)
    bad = ~finite[:, None, None, None]
    coordinates = coordinates.masked_fill(bad, torch.nan)
    return CovariantVectors(
        coordinates,
        coordinates.mT @ coordinates,
        growth.masked_fill(bad[:, :, :, 0], torch.nan),
        torch.stack(states, dim=1) if keep_vectors else None,
        torch.stack(tangents, dim=1) if keep_vectors else None,
        finite,
    )


def _backward(factors: list[Tensor], window: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Coordinates (B, window+1, k, k) and growth (B, window, k) from the R of each interval."""
    batch, k, _ = factors[0].shape
    device = factors[0].device if generator is None else generator.device
    start = torch.randn(k, k, dtype=torch.float64, device=device, generator=generator).triu()
    # The diagonal of the random upper triangle is kept away from zero: a vector would lack its own direction.
    start = start - start.diag().diag() + torch.diag(1 + start.diag().abs())
    C = start.to(factors[0].device).expand(batch, k, k)
    C = C / torch.linalg.vector_norm(C, dim=1, keepdim=True)
    coordinates, growth = [], []
    if len(factors) == window:
        coordinates.append(C)
    for number in reversed(range(len(factors))):
        C = torch.linalg.solve_triangular(factors[number], C, upper=True)
        lengths = torch.linalg.vector_norm(C, dim=1, keepdim=True)
        C = C / lengths
        if number <= window:
            coordinates.append(C)
        if number < window:
            growth.append(-lengths[:, 0].log())
    return torch.stack(coordinates[::-1], dim=1), torch.stack(growth[::-1], dim=1)
