"""Thin QR of the tangents of every example, R_ii >= 0, with what is needed to know how far R can be trusted.

Two routes. Householder (LAPACK) for small blocks on a CPU and wherever the other is not safe. CholeskyQR2 for the rest:
two products per pass instead of a factorisation per example, which on CUDA loops over the batch. Columns are scaled to
length 1 before the Gram matrix is formed, so that only their angles decide whether it can be factorised.
Source: Yamamoto et al. 2015 (ETNA 44, 306), "Roundoff error analysis of the CholeskyQR2 algorithm": orthogonal to
rounding while the condition is below u^(-1/2)/8.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Below this many numbers per example one call of LAPACK is faster than a dozen small operations.
_SMALL_BLOCK = 1 << 14
_ONE = torch.tensor(1.0)  # made once: numbers would be made into tensors at each call


@dataclass(frozen=True)
class Factorisation:
    """V = Q R of the tangents of each example; float64 except for Q, which has the tangents' dtype.

    Args:
        Q: by leaf, (k, B, ...); orthonormal. Zero in examples that are not finite.
        R: (B, k, k) upper triangular, R_ii >= 0.
        finite: (B,) bool: the tangents were finite. Where not, R is NaN.
    """

    Q: list[Tensor]
    R: Tensor
    finite: Tensor

    @property
    def log_diagonal(self) -> Tensor:
        """ln R_ii: (B, k)."""
        return self.R.diagonal(dim1=-2, dim2=-1).log()

    @cached_property
    def trust(self) -> "Trust":
        """How far R can be trusted; computed when asked for."""
        return trust_of(self.R, self.finite, torch.finfo(self.Q[0].dtype).eps)


@dataclass(frozen=True)
class Trust:
    """How far triangular factors can be trusted.

    Args:
        vanished: (B, k) bool: column i of V was exactly zero, hence R_ii = 0 and ln R_ii = -inf.
        lost: (B, k) bool: column i of V lies in the span of those before it up to rounding, so that R_ii is noise, an
            upper bound at best, and q_i an arbitrary direction orthogonal to the others.
        log_condition: (B,) ln of the largest 1 / dist(v_i / |v_i|, span of the other columns), nats. 0 for orthogonal
            columns; ln R_ii has an error of about u e^log_condition; inf where a column is lost; NaN where not finite.
    """

    vanished: Tensor
    lost: Tensor
    log_condition: Tensor


def orthonormalise(tangents: Sequence[Tensor], *, householder: bool | None = None) -> Factorisation:
    """Factorise the k tangents of each example, leaves (k, B, ...).

    Args:
        householder: take this route (True) or try CholeskyQR2 (False); None chooses by size and device.
    """
    first = tangents[0]
    blocks = [leaf if leaf.ndim == 3 else leaf.reshape(*leaf.shape[:2], -1) for leaf in tangents]
    if householder is None:
        size = first.shape[0] * sum(block.shape[2] for block in blocks)
        householder = first.device.type == "cpu" and size <= _SMALL_BLOCK
    if householder:
        Q, R, finite = _householder(blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2))
        factors = [Q] if len(blocks) == 1 else list(Q.split([block.shape[2] for block in blocks], dim=2))
    else:
        factors, R = _cholesky_qr2(blocks)
        finite = torch.isfinite(R).flatten(1).all(dim=1)
    shaped = [Q.reshape(leaf.shape) for Q, leaf in zip(factors, tangents, strict=True)]
    return Factorisation(shaped, R, finite)


def _householder(block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q (k, B, D), R (B, k, k) float64 and which examples are finite (B,), of a block (k, B, D)."""
    columns = block.permute(1, 2, 0)
    Q, R = torch.linalg.qr(columns)
    every = math.isfinite(float(R.sum()))  # nothing that is not finite leaves R finite
    if not every:
        finite = torch.isfinite(columns).flatten(1).all(dim=1)
        Q, R = torch.linalg.qr(torch.where(finite[:, None, None], columns, 0.0))
    signs = _ONE.copysign(R.diagonal(dim1=-2, dim2=-1))
    Q = (Q * signs.unsqueeze(1)).permute(2, 0, 1).contiguous()
    R = (R * signs.unsqueeze(2)).double()
    if every:
        return Q, R, R.new_ones(R.shape[0], dtype=torch.bool)
    R = torch.where(finite[:, None, None], R, torch.nan)
    return torch.where(finite[None, :, None], Q, 0.0), R, torch.isfinite(R).flatten(1).all(dim=1)


def _cholesky_qr2(blocks: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Q, by leaf (k, B, n), and R (B, k, k) float64, of blocks (k, B, n)."""
    dtype = blocks[0].dtype
    gram = _gram(blocks)
    squares = gram.diagonal(dim1=-2, dim2=-1)
    limits = torch.finfo(dtype)
    # Squares that overflow or underflow tell nothing about the angles.
    safe = ((squares > limits.tiny / limits.eps**2) & (squares < limits.max)).all(dim=1)
    norms = squares.sqrt()
    R1, failed = torch.linalg.cholesky_ex(gram / (norms[:, :, None] * norms[:, None, :]), upper=True)
    safe &= failed == 0
    identity = torch.eye(R1.shape[1], dtype=R1.dtype, device=R1.device)
    R1 = torch.where(safe[:, None, None], R1, identity)
    inverse = torch.linalg.solve_triangular(R1, identity.expand_as(R1), upper=True)
    safe &= torch.linalg.vector_norm(inverse, dim=2).amax(dim=1) < 0.1 * limits.eps**-0.5
    norms = torch.where(safe[:, None], norms, 1.0)
    factors = _apply(inverse / norms[:, :, None], blocks)
    # The second pass removes the error of the first, which is the squared condition times the unit roundoff.
    R2, failed = torch.linalg.cholesky_ex(_gram(factors), upper=True)
    safe &= failed == 0
    R2 = torch.where(safe[:, None, None], R2, identity)
    factors = _apply(torch.linalg.solve_triangular(R2, identity.expand_as(R2), upper=True), factors)
    R = R2 @ R1 * norms[:, None, :]
    if not bool(safe.all()):
        rest = torch.nonzero(~safe).flatten()
        Q, R[rest], _ = _householder(torch.cat([block[:, rest] for block in blocks], dim=2))
        for factor, part in zip(factors, Q.split([block.shape[2] for block in blocks], dim=2), strict=True):
            factor[:, rest] = part
    return factors, R


def _gram(blocks: list[Tensor]) -> Tensor:
    """V^T V of each example: (B, k, k) float64, from products in the tangents' dtype."""
    views = [block.transpose(0, 1) for block in blocks]
    return torch.stack([torch.bmm(view, view.mT) for view in views]).sum(dim=0, dtype=torch.float64)


def _apply(matrix: Tensor, blocks: list[Tensor]) -> list[Tensor]:
    """V M for matrices (B, k, k): new blocks (k, B, n)."""
    rows = matrix.mT.to(blocks[0].dtype).contiguous()
    results = []
    for block in blocks:
        result = torch.empty(block.shape, dtype=block.dtype, device=block.device)
        torch.bmm(rows, block.transpose(0, 1), out=result.transpose(0, 1))
        results.append(result)
    return results


def scaled_norm(values: Tensor, dim: int) -> Tensor:
    """Euclidean norm in float64 of numbers whose squares may over- or underflow."""
    values = values.double()
    largest = values.abs().amax(dim=dim, keepdim=True)
    divisor = torch.where(largest == 0, 1.0, largest)
    return torch.linalg.vector_norm(values / divisor, dim=dim) * largest.squeeze(dim)


def trust_of(R: Tensor, finite: Tensor, eps: float) -> Trust:
    """Of factors (N, k, k) float64 of tangents in a precision with the unit roundoff `eps`; finite (N,) bool."""
    columns = scaled_norm(R, dim=1)
    diagonal = R.diagonal(dim1=-2, dim2=-1)
    vanished = columns == 0
    lost = (diagonal <= 100 * eps * columns) & ~vanished
    identity = torch.eye(R.shape[1], dtype=R.dtype, device=R.device)
    replaced = vanished | lost | ~finite[:, None]
    scaled = torch.where(replaced[:, None, :], identity, R / columns[:, None, :])
    inverse = torch.linalg.solve_triangular(scaled, identity.expand_as(scaled), upper=True)
    log_condition = torch.linalg.vector_norm(inverse, dim=2).amax(dim=1).log()
    log_condition = torch.where(lost.any(dim=1), torch.inf, log_condition)
    return Trust(vanished, lost, torch.where(finite, log_condition, torch.nan))
