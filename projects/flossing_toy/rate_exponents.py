"""Lyapunov exponents of a `RateNetwork` over a short window, with their gradient written by hand.

What `dynamics.differentiable` does for any map, for this one many times as fast: 500 flossing updates of the toy are
27,500 steps of 75 tangents, forward and backward. The tests hold the two against each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from projects.flossing_toy.rate_network import Gradients, RateNetwork


@dataclass(frozen=True)
class WindowExponents:
    """Exponents (k,) in nats per step, in QR order, and a function from their gradient (k,) to that of J, w_s and b."""

    exponents: Tensor
    pull: Callable[[Tensor], Gradients]


def qr_steps(num_steps: int, transient: int, interval: int) -> list[int]:
    """After which of the steps 1..num_steps tangents are orthonormalised: every `interval`, at both ends of the
    measurement in any case. How often does not change the exponents, only their rounding errors.
    """
    if not 0 <= transient < num_steps or interval < 1:
        raise ValueError(f"transient={transient}, interval={interval}: expected 0 to {num_steps - 1}, and at least 1")
    return [step for step in range(1, num_steps + 1) if (step - transient) % interval == 0 or step == num_steps]


@torch.no_grad()
def window_exponents(
    network: RateNetwork, start: Tensor, inputs: Tensor, tangents: Tensor, *, transient: int, qr_interval: int = 1
) -> WindowExponents:
    """Exponents of the rate map over the steps transient+1 .. T of one sequence.

    The gradient passes through all T steps, the transient's included, as in the source; it is that of J, w_s and b:
    start and tangents are constants.

    Args:
        start: (N,), the state x before the first step. inputs: (T, S). tangents: (N, k), orthonormal.
        transient: steps in which state and tangents advance and nothing is recorded.
        qr_interval: see `qr_steps`. The smallest of k columns loses the digits that the tangents lose in one interval.
    Source: E1 of Engelken 2023 (arXiv:2312.17306); the derivative of a QR: Walter and Lehmann 2018 (arXiv:1001.1654).
    """
    J = network.J
    drive = network.drive(inputs[:, None])[:, 0]
    transposed = J.mT.contiguous()
    rate, rates = start.tanh(), [start.tanh()]
    slopes: list[Tensor] = []
    befores, pusheds = [tangents], []  # V_{t-1} and J V_{t-1}, N x k
    factors: dict[int, tuple[Tensor, Tensor]] = {}
    stops = set(qr_steps(len(drive), transient, qr_interval))
    growth = torch.zeros(tangents.shape[1], dtype=J.dtype, device=J.device)
    for step, push in enumerate(drive.unbind(), start=1):
        rate = torch.addmv(push, J, rate).tanh()
        slope = 1 - rate.square()
        pushed = J @ tangents
        tangents = slope[:, None] * pushed
        if step in stops:
            tangents, R = torch.linalg.qr(tangents)
            factors[step] = tangents, R
            if step > transient:
                growth += R.diagonal().abs().log()
        rates.append(rate)
        slopes.append(slope)
        pusheds.append(pushed)
        befores.append(tangents)
    num_measured = len(drive) - transient

    @torch.no_grad()
    def pull(to_exponents: Tensor) -> Gradients:
        per_growth = to_exponents / num_measured
        to_tangents = torch.zeros_like(tangents)
        to_rate = torch.zeros_like(rate)
        to_states = torch.empty_like(drive)
        to_J = torch.zeros_like(J)
        for step in range(len(drive), 0, -1):
            if step in factors:
                measured = per_growth if step > transient else torch.zeros_like(per_growth)
                to_tangents = _pull_qr(*factors[step], to_tangents, measured)
            slope, pushed = slopes[step - 1], pusheds[step - 1]
            to_slope = (to_tangents * pushed).sum(dim=1)
            to_pushed = slope[:, None] * to_tangents
            to_J.addmm_(to_pushed, befores[step - 1].mT)
            to_tangents = transposed @ to_pushed
            # The slope of tanh is 1 - rate^2.
            to_state = (to_rate - 2 * rates[step] * to_slope) * slope
            to_states[step - 1] = to_state
            to_rate = torch.mv(transposed, to_state)
        to_J.addmm_(to_states.mT, torch.stack(rates[:-1]))
        return {"J": to_J, "w_s": to_states.mT @ inputs / inputs.shape[1], "b": to_states.sum(dim=0)}

    return WindowExponents(growth / num_measured, pull)


def _pull_qr(Q: Tensor, R: Tensor, to_Q: Tensor, to_growth: Tensor) -> Tensor:
    """The gradient with respect to A = QR, from that with respect to Q and to ln |R_ii|: N x k.

    Of M = R dR^T - dQ^T Q, the lower triangle, mirrored: R times the gradient of R is diagonal here, because nothing
    depends on R but the logarithms of its diagonal. The columns' signs, which LAPACK chooses, do not matter.
    """
    lower = (to_Q.mT @ Q).tril().neg_()
    lower.diagonal().add_(to_growth)
    mirrored = lower + lower.tril(-1).mT
    return torch.linalg.solve_triangular(R.mT, to_Q + Q @ mirrored, upper=False, left=False)
