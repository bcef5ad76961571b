"""The network on which gradient flossing was shown, with gradients written by hand.

    x_t = J phi(x_{t-1}) + b + w_s s_t / S,  phi = tanh,  logits r_t = w_r x_t + offset

Its passes are hundreds of products of small matrices, of which autograd would spend more on its graph than on the
numbers. Here a step is one product and one tanh forward, one product and one fused multiplication backward.

Source: Engelken 2023 (arXiv:2312.17306), and the call in the README of github.com/RainerEngelken/GradientFlossing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RELAXED_STEPS = 100
OFFSET = 1e-3

Gradients = dict[str, Tensor]
RateMap = Callable[[Tensor], Tensor]


class RateNetwork(nn.Module):
    """N rate units, S inputs, one readout; B starting states, one per sequence of a batch, which are trained too.

    J, w_s, b, w_r are drawn in float32 from N(0, 1/N) g^2, N(0, 1), 0.1 U(0, 1), N(0, 1), in this order, so that every
    dtype and both kinds of J begin from the same draws; x0 is what normal states come to without input.

    Args:
        gain: g. orthogonal: J is g times the orthogonal factor of the matrix drawn.
    """

    def __init__(
        self,
        num_units: int,
        batch_size: int,
        generator: torch.Generator,
        *,
        num_inputs: int = 1,
        gain: float = 1.0,
        orthogonal: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        J = torch.randn(num_units, num_units, generator=generator) / num_units**0.5
        w_s = torch.randn(num_units, num_inputs, generator=generator)
        b = 0.1 * torch.rand(num_units, generator=generator)
        w_r = torch.randn(1, num_units, generator=generator)
        x0 = torch.randn(batch_size, num_units, generator=generator).to(dtype)
        # Rows in memory as all gradients have them: LAPACK's Q lies by columns, and the fused optimizers walk through
        # weights and gradients by address.
        J = gain * (torch.linalg.qr(J).Q.contiguous() if orthogonal else J)
        self.J, self.w_s, self.b, self.w_r = (nn.Parameter(leaf.to(dtype)) for leaf in (J, w_s, b, w_r))
        self.offset = nn.Parameter(torch.full((1,), OFFSET, dtype=dtype))
        with torch.no_grad():
            for _ in range(RELAXED_STEPS):
                x0 = x0.tanh() @ self.J.mT + self.b
        self.x0 = nn.Parameter(x0)

    def drive(self, inputs: Tensor) -> Tensor:
        """b + w_s s_t / S for inputs (T, B, S): (T, B, N)."""
        return F.linear(inputs, self.w_s / self.w_s.shape[1], self.b)

    def state_maps(self, inputs: Tensor) -> list[RateMap]:
        """x_{t-1} -> x_t for each of the T inputs (T, B, S); states (B, N)."""
        return [partial(self._next_state, drive) for drive in self.drive(inputs).unbind()]

    def _next_state(self, drive: Tensor, x: Tensor) -> Tensor:
        return x.tanh() @ self.J.mT + drive


@dataclass(frozen=True)
class TaskPass:
    """One pass over a batch: mean loss in nats, share of right answers (threshold 1/2), and the gradient of the loss
    by parameter (None where not asked for).
    """

    loss: Tensor
    accuracy: Tensor
    gradients: Gradients | None


@torch.no_grad()
def task_pass(network: RateNetwork, inputs: Tensor, targets: Tensor, first: int, *, gradients: bool = True) -> TaskPass:
    """Binary cross-entropy of the logits from step `first` on, mean over steps and sequences.

    Args:
        inputs: (T, B, S). targets: (T, B), 0 or 1. B is the number of starting states.
    """
    J, w_r = network.J, network.w_r
    drive = network.drive(inputs)
    states = torch.empty_like(drive)
    rates = torch.empty(len(drive) + 1, *drive.shape[1:], dtype=drive.dtype, device=drive.device)
    torch.tanh(network.x0, out=rates[0])
    transposed = J.mT.contiguous()
    rate = rates[0]
    for push, state, following in zip(drive.unbind(), states.unbind(), rates[1:].unbind(), strict=True):
        torch.addmm(push, rate, transposed, out=state)
        rate = torch.tanh(state, out=following)
    logits = (states[first:] @ w_r.mT + network.offset)[..., 0]
    scored = targets[first:]
    loss = F.binary_cross_entropy_with_logits(logits, scored)
    accuracy = ((logits >= 0) == (scored > 0.5)).to(loss.dtype).mean()
    if not gradients:
        return TaskPass(loss, accuracy, None)

    to_logits = (logits.sigmoid() - scored) / scored.numel()
    to_states = torch.zeros_like(states)
    torch.mul(to_logits[..., None], w_r[0], out=to_states[first:])
    slopes = 1 - rates.square()
    pulled = torch.empty_like(states[0])
    backwards = to_states.unbind()
    for later, earlier, slope in zip(backwards[:0:-1], backwards[-2::-1], slopes[1:-1].unbind()[::-1], strict=True):
        torch.mm(later, J, out=pulled)
        earlier.addcmul_(pulled, slope)
    flat = to_states.flatten(0, 1)
    return TaskPass(loss, accuracy, {
        "J": flat.mT @ rates[:-1].flatten(0, 1),
        "w_s": flat.mT @ inputs.flatten(0, 1) / inputs.shape[2],
        "b": flat.sum(dim=0),
        "w_r": to_logits.flatten()[None] @ states[first:].flatten(0, 1),
        "offset": to_logits.sum()[None],
        "x0": to_states[0] @ J * slopes[0],
    })  # fmt: skip
