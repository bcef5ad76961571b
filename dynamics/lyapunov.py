"""Finite-time Lyapunov spectra of any map on any pytree, by tangent propagation.

`lyapunov_spectrum(advance, state, num_exponents=8, num_steps=16).exponents` is (B, 8), in nats per step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamics.graded_product import GradedProduct
from dynamics.known_tangents import Jacobian, with_jacobian
from dynamics.orthonormal import Factorisation, trust_of
from dynamics.propagation import TangentFlow, check_counts
from dynamics.trajectory import Advance, as_maps

# From this ln of the scaled rows' condition on, a singular value may be off by more than about 1e-4.
_SVD_TRUST = -torch.log(torch.tensor(torch.finfo(torch.float64).eps, dtype=torch.float64)).item() - 9
# So many numbers of triangular factors are gathered before they are reduced: 8 MB.
_GATHERED_NUMBERS = 1 << 20


@dataclass(frozen=True)
class LyapunovResult:
    """What `lyapunov_spectrum` found. A step is one application of a single map, or one pass through the sequence.

    Args:
        exponents: (B, k) float64, nats per step, in QR order: of decreasing growth once the tangents are aligned, not
            sorted. -inf where the map annihilates a direction; NaN where the state or the tangents were not finite.
        local_growth: (B, n_qr, k) float64: ln R_ii of each QR, nats per interval of `qr_interval` maps.
        svd_exponents: (B, k) float64, nats per step, largest first: ln of the singular values of the product of all
            R, that is of DF^T restricted to the span of the tangents at the start of the measurement. For k = D the
            finite-time exponents proper, whatever the tangents; for k < D each is a lower bound of its own.
        final_state: pytree like the initial one. final_tangents: (B, D, k), with which a further call goes on.
        condition_log: (B, n_qr) float64: nats of cancellation in each QR, `Factorisation.log_condition`; the error of
            ln R_ii is about u e^condition_log.
        flags: by name, what is wrong with which numbers:
            `nonfinite_state` (B,): the state became (or was) infinite or NaN; exponents NaN.
            `nonfinite_tangents` (B,): the tangents did while the state was finite: qr_interval is too long, or the map
                has no derivative there; exponents NaN.
            `rank_lost` (B, k): some QR found column i in the span of those before it up to rounding, because
                qr_interval is too long or the map annihilates a direction: the exponent is an upper bound set by
                rounding.
            `zero_growth` (B, k): some tangent was mapped to exactly zero; exponent -inf.
            `ill_conditioned` (B,): some interval cancelled more than half of the digits, ln R_ii has fewer than the
                other half: shorten qr_interval.
            `svd_inaccurate` (B,): the smaller `svd_exponents` are lost in rounding (they are upper bounds).
        first_nonfinite: (B,) int64: index of the QR interval of the measurement at which `nonfinite_*` appeared, 0
            for before or in the first; -1 where all is finite.
        num_steps, num_maps, qr_interval, dtype: what was asked for; num_maps is the length of the sequence.
    """

    exponents: Tensor
    local_growth: Tensor
    svd_exponents: Tensor
    final_state: Any
    final_tangents: Tensor
    condition_log: Tensor
    flags: dict[str, Tensor]
    first_nonfinite: Tensor
    num_steps: int
    num_maps: int
    qr_interval: int
    dtype: torch.dtype

    @property
    def exponents_per_map(self) -> Tensor:
        """(B, k), nats per map of the sequence: per sub-update where a step is a sequence of them."""
        return self.exponents / self.num_maps

    @property
    def any_flag(self) -> Tensor:
        """(B,) bool: examples of which something is flagged."""
        batch = self.exponents.shape[0]
        return torch.stack([flag.reshape(batch, -1).any(dim=1) for flag in self.flags.values()]).any(dim=0)

    def window(self, start_step: int, stop_step: int) -> Tensor:
        """Exponents of the steps start_step <= t < stop_step of the measurement: (B, k), nats per step.

        Errors: ValueError where the window is empty, outside, or does not begin and end at a QR.
        """
        edges = [step * self.num_maps for step in (start_step, stop_step)]
        if not 0 <= start_step < stop_step <= self.num_steps or any(edge % self.qr_interval for edge in edges):
            raise ValueError(
                f"window {start_step}..{stop_step} of {self.num_steps} steps: expected a non-empty part of them whose "
                f"ends are multiples of qr_interval={self.qr_interval} maps ({self.num_maps} a step)"
            )
        first, last = (edge // self.qr_interval for edge in edges)
        return self.local_growth[:, first:last].sum(dim=1) / (stop_step - start_step)


def lyapunov_spectrum(
    advance: Advance,
    initial_state: Any,
    *,
    num_exponents: int,
    num_steps: int,
    transient_steps: int = 0,
    tangent_warmup_steps: int = 0,
    qr_interval: int = 1,
    initial_tangents: Tensor | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    jacobian: Jacobian | Sequence[Jacobian] | None = None,
    on_step: Callable[[Any], None] | None = None,
) -> LyapunovResult:
    """The leading Lyapunov exponents along the trajectory of each example of a batch.

    k orthonormal tangents follow the derivative of the map; every `qr_interval` maps they are re-orthonormalised and
    ln R_ii is recorded. Short runs depend on the tangents that they start from: a random start in D dimensions lowers
    lambda_1 by up to ln(D) / (2 num_steps), see `dynamics.alignment`; `tangent_warmup_steps` removes most of that, and
    `svd_exponents` depend on it less.

    Args:
        advance: a pure map, or a sequence of pure maps applied cyclically, on any pytree of (B, ...) tensors. Examples
            must not influence each other. No `detach` inside; `no_grad` is harmless.
        num_exponents: k, at most the number D of components of one example's state.
        num_steps: measured applications of a single map, or passes through the whole sequence.
        transient_steps: steps before, in which state and tangents advance and nothing is recorded.
        tangent_warmup_steps: further such steps after the transient, there for the tangents to align.
        qr_interval: maps between two QRs. Must divide num_steps times the number of maps.
        initial_tangents: (B, D, k) over the flattened state (leaves in the pytree's order), orthonormalised first
            without being counted; None draws normal ones.
        generator: source of the drawn tangents; None means torch's default one.
        dtype: float32 or float64, to which the state is cast; None keeps the state's.
        jacobian: where it is known analytically: state -> (B, D, D) over the flattened state, for a sequence one for
            each map. Instead of forward AD, and compared with central differences once. `dynamics.known_tangents` says
            more: flows, derivatives with a structure.
        on_step: called with the state after each measured step, so that what is said about a trajectory (solved or
            not) is read from the very one that the tangents follow: another run of a chaotic map may end elsewhere.
    Errors: ValueError, in one line, for impossible counts, k > D, states or tangents in lower precision than float32,
        autocast, a map that hides its state from differentiation, a Jacobian that is not the map's, dependent initial
        tangents. States that turn NaN,
        lost rank and ill-conditioned intervals are flagged per example and leave the others alone.
    Source: Benettin et al. 1980 (Meccanica 15, 9); Engelken, Wolf and Abbott 2023 (Phys. Rev. Research 5, 043044).
    """
    num_maps = len(as_maps(advance))
    check_counts((
        ("num_exponents", num_exponents, 1),
        ("num_steps", num_steps, 1),
        ("transient_steps", transient_steps, 0),
        ("tangent_warmup_steps", tangent_warmup_steps, 0),
        ("qr_interval", qr_interval, 1),
    ))  # fmt: skip
    total = num_steps * num_maps
    if total % qr_interval:
        raise ValueError(
            f"qr_interval={qr_interval} does not divide the {total} maps of {num_steps} steps of {num_maps}: the last "
            "interval would be shorter than the others"
        )
    if jacobian is not None:
        advance = with_jacobian(advance, jacobian)
    flow = TangentFlow(advance, initial_state, num_exponents, initial_tangents, generator, dtype)
    flow.skip(transient_steps * num_maps, qr_interval)
    flow.skip(tangent_warmup_steps * num_maps, qr_interval)
    record = _Record(flow, num_exponents)
    flow.on_step = on_step
    for _ in range(total // qr_interval):
        record.add(flow.advance(qr_interval))
    return record.result(num_steps, num_maps, qr_interval)


class _Record:
    """The measurement as it grows. Triangular factors are gathered, and looked at many at a time."""

    def __init__(self, flow: TangentFlow, k: int) -> None:
        layout = flow.layout
        self._flow = flow
        self._factors: list[Tensor] = []
        self._finite: list[Tensor] = [flow.finite]
        self._growth: list[Tensor] = []
        self._conditions: list[Tensor] = []
        self._product = GradedProduct(layout.batch_size, k, layout.device)
        self._vanished = torch.zeros(layout.batch_size, k, dtype=torch.bool, device=layout.device)
        self._lost = self._vanished.clone()

    def add(self, factors: Factorisation) -> None:
        """What an interval gave; `finite` is the flow's after it."""
        self._factors.append(factors.R)
        self._finite.append(self._flow.finite)
        if len(self._factors) * factors.R.numel() >= _GATHERED_NUMBERS:
            self._look()

    def _look(self) -> None:
        """Reduce the gathered factors to what is kept of them."""
        finite = torch.stack(self._finite[-len(self._factors) :])  # (n, B)
        # They lie in memory as columns, and stay so, since the order of sums follows it.
        gathered = torch.stack([R.mT for R in self._factors]).mT
        factors = torch.where(finite[:, :, None, None], gathered, torch.nan)
        self._factors.clear()
        self._growth.append(factors.diagonal(dim1=2, dim2=3).log())
        found = trust_of(factors.flatten(0, 1), finite.flatten(), torch.finfo(self._flow.layout.dtype).eps)
        self._conditions.append(found.log_condition.view_as(finite))
        self._product.multiply(factors)
        for total, flag in ((self._vanished, found.vanished), (self._lost, found.lost)):
            total |= (flag.view(*finite.shape, -1) & finite[:, :, None]).any(dim=0)

    def result(self, num_steps: int, num_maps: int, qr_interval: int) -> LyapunovResult:
        flow = self._flow
        if self._factors:
            self._look()
        growth = torch.cat(self._growth).transpose(0, 1).contiguous()
        conditions = torch.cat(self._conditions).mT.contiguous()
        first_finite, *later = self._finite
        # An interval is named by its own place, and what was not finite before the first counts to it.
        num_finite = torch.stack(later).sum(dim=0)
        first_nonfinite = torch.where(later[-1], -1, torch.where(first_finite, num_finite, 0))
        log_singular, log_condition = self._product.log_singular_values()
        finite_state = flow.layout.finite(flow.leaves)
        half = -0.5 * torch.tensor(torch.finfo(flow.layout.dtype).eps, dtype=torch.float64).log().item()
        flags = {
            "nonfinite_state": ~flow.finite & ~finite_state,
            "nonfinite_tangents": ~flow.finite & finite_state,
            "rank_lost": self._lost,
            "zero_growth": self._vanished,
            "ill_conditioned": (conditions > half).any(dim=1),
            "svd_inaccurate": log_condition > _SVD_TRUST,
        }
        return LyapunovResult(
            exponents=growth.sum(dim=1) / num_steps,
            local_growth=growth,
            svd_exponents=log_singular / num_steps,
            final_state=flow.state,
            final_tangents=flow.layout.join_tangents(flow.tangents),
            condition_log=conditions,
            flags=flags,
            first_nonfinite=first_nonfinite,
            num_steps=num_steps,
            num_maps=num_maps,
            qr_interval=qr_interval,
            dtype=flow.layout.dtype,
        )
