"""Singular values of a long product of upper triangular matrices, small ones included.

The product R_n ... R_1 of Lyapunov analysis is graded: its rows differ by e^(T (lambda_1 - lambda_k)), soon more than
float64 resolves within one matrix or even holds. Here each row carries its own logarithmic scale, so that no row is
rounded away beside a larger one, and the singular values are found by one-sided Jacobi rotations, which see the rows'
angles only: each has a relative error of about u times the condition of the rows scaled to length 1.
Source: Demmel and Veselic 1992 (SIAM J. Matrix Anal. Appl. 13, 1204), "Jacobi's method is more accurate than QR".
"""

import torch
from torch import Tensor

_MAX_SWEEPS = 40
_LOWEST = torch.finfo(torch.float64).min
_LEAST = torch.finfo(torch.float64).smallest_normal * torch.finfo(torch.float64).eps  # above 0, and no number below


class GradedProduct:
    """Batch of products of upper triangular (k, k) matrices, multiplied from the left; begins as the identity."""

    def __init__(self, batch_size: int, k: int, device: torch.device) -> None:
        identity = torch.eye(k, dtype=torch.float64, device=device)
        self.rows = identity.repeat(batch_size, 1, 1)
        self.log_scales = torch.zeros(batch_size, k, dtype=torch.float64, device=device)

    def multiply(self, factors: Tensor) -> None:
        """Replace the product P by R_n ... R_1 P, factors R (n, B, k, k) float64. What is not finite gives NaN rows."""
        for log_sizes, signs in zip(factors.abs().log(), factors.sign(), strict=True):
            terms = log_sizes + self.log_scales[:, None, :]  # (row, l): size of R_il times row l
            largest = terms.amax(dim=2)
            # A row of zeros has no scale: neither -inf - -inf nor 0 / 0 may arise.
            weights = signs * (terms - largest.clamp_min(_LOWEST)[:, :, None]).exp()
            rows = torch.bmm(weights, self.rows)
            sizes = rows.abs().amax(dim=2)
            self.rows = rows / sizes.clamp_min(_LEAST)[:, :, None]
            self.log_scales = largest + sizes.log()

    def log_singular_values(self) -> tuple[Tensor, Tensor]:
        """ln sigma_i, largest first, (B, k) float64, -inf for 0; and ln of the condition of the scaled rows, (B,).

        NaN in both for products that are not finite.
        """
        finite = torch.isfinite(self.rows).flatten(1).all(dim=1)
        rows = torch.where(finite[:, None, None], self.rows, 0.0)
        lengths = torch.linalg.vector_norm(rows, dim=2)
        log_lengths = torch.where(finite[:, None], self.log_scales + lengths.log(), -torch.inf)
        units = rows / torch.where(lengths == 0, 1.0, lengths)[:, :, None]
        log_values = _jacobi(units, log_lengths).sort(dim=1, descending=True).values
        log_condition = _log_condition(units, log_lengths == -torch.inf)
        return (
            torch.where(finite[:, None], log_values, torch.nan),
            torch.where(finite, log_condition, torch.nan),
        )


def _log_condition(units: Tensor, absent: Tensor) -> Tensor:
    """ln of 1 over the smallest singular value of unit rows (B, k, k), leaving out rows that are zero."""
    k = units.shape[1]
    gram = torch.eye(k, dtype=units.dtype, device=units.device) * absent[:, :, None]
    smallest = torch.linalg.svdvals(torch.cat((units, gram), dim=2))[:, -1]
    return -smallest.log()


def _jacobi(units: Tensor, log_lengths: Tensor) -> Tensor:
    """ln of the singular values of the matrices with rows e^log_length times unit vectors; sorted by nobody.

    Rows are rotated in disjoint pairs until all are orthogonal. With a the longer row of a pair, r <= 1 the ratio of
    lengths and c the cosine, the rotation by the angle of tangent t = u r makes them orthogonal, where
    u = 2c / (1 - r^2 + sqrt((1 - r^2)^2 + 4 c^2 r^2)); written with u, no length is ever squared or subtracted.
    """
    batch, k, _ = units.shape
    players = k + k % 2
    if players > k:  # a row of zeros, that never meets anything
        units = torch.cat((units, units.new_zeros(batch, 1, k)), dim=1)
        log_lengths = torch.cat((log_lengths, log_lengths.new_full((batch, 1), -torch.inf)), dim=1)
    schedule = _round_robin(players, units.device)
    tolerance = 4 * torch.finfo(units.dtype).eps
    for _ in range(_MAX_SWEEPS):
        worst = torch.zeros((), dtype=units.dtype, device=units.device)
        for left, right in schedule:
            swap = log_lengths[:, left] < log_lengths[:, right]
            longer = torch.where(swap, right, left)
            shorter = torch.where(swap, left, right)
            log_a, log_b = log_lengths.gather(1, longer), log_lengths.gather(1, shorter)
            index_a, index_b = (rows[:, :, None].expand(-1, -1, k) for rows in (longer, shorter))
            a, b = units.gather(1, index_a), units.gather(1, index_b)
            cosine = (a * b).sum(dim=2)
            worst = torch.maximum(worst, cosine.abs().amax())
            ratio = torch.where(log_b == -torch.inf, 0.0, (log_b - log_a).exp())
            gap = 1 - ratio**2
            root = gap + (gap**2 + (2 * cosine * ratio) ** 2).sqrt()
            u = torch.where(root == 0, 0.0, 2 * cosine / root)
            t = u * ratio
            shrink = (1 + t**2).rsqrt()
            new_a = (a + (t * ratio)[:, :, None] * b) * shrink[:, :, None]
            new_b = (b - u[:, :, None] * a) * shrink[:, :, None]
            for new, index, where, log_length in (
                (new_a, index_a, longer, log_a),
                (new_b, index_b, shorter, log_b),
            ):
                length = torch.linalg.vector_norm(new, dim=2)
                units = units.scatter(1, index, new / torch.where(length == 0, 1.0, length)[:, :, None])
                log_lengths = log_lengths.scatter(1, where, log_length + length.log())
        if bool(worst <= tolerance):
            break
    return log_lengths[:, :k]


def _round_robin(players: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Rounds of disjoint pairs in which everybody meets everybody once; `players` is even."""
    circle = list(range(1, players))
    rounds = []
    for turn in range(players - 1):
        order = [0, *circle[turn:], *circle[:turn]]
        half = players // 2
        pairs = (order[:half], order[half:][::-1])
        rounds.append(tuple(torch.tensor(side, device=device) for side in pairs))
    return rounds  # type: ignore[return-value]
