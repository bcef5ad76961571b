"""Linear maps and residual units that are 1-Lipschitz whatever their weights: what `models/srm.py` is made of.

All norms are Euclidean, over all that a map acts on (tokens and channels together). Bounds hold in exact arithmetic;
rounding adds a few units in the last place of the dtype in which a map is applied.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def almost_orthogonal(weight: Tensor) -> Tensor:
    """P of spectral norm at most 1 from any matrices W (..., m, n), in at least float32, of the shape of W.

    For m >= n, P = W D with D diagonal, D_ii = (sum_j |W^T W|_ij)^(-1/2). For any v, since |ab| <= (a^2 + b^2) / 2,

        |P v|^2 <= sum_ij |W^T W|_ij |D_ii v_i| |D_jj v_j| <= sum_i (D_ii v_i)^2 sum_j |W^T W|_ij = |v|^2.

    For m < n the same of the transpose, so that orthonormal rows or columns are left as they are. P does not change
    when W is multiplied by a number; columns of zeros stay zero.
    Source: Prach and Lampert 2022, arXiv:2208.03160. Differs: the smaller of the two Gram matrices is used.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    tiny = torch.finfo(wide.dtype).tiny
    # W is scaled so that squares neither overflow nor underflow. P does not depend on its size, nor does the gradient.
    largest = wide.detach().abs().amax(dim=(-2, -1), keepdim=True)
    wide = wide / torch.where(largest == 0, 1, largest)
    tall = wide.shape[-2] >= wide.shape[-1]
    gram = wide.mT @ wide if tall else wide @ wide.mT
    rescaling = gram.abs().sum(dim=-1).clamp_min(tiny).rsqrt()
    return wide * (rescaling.unsqueeze(-2) if tall else rescaling.unsqueeze(-1))


def cayley(weight: Tensor) -> Tensor:
    """Orthogonal matrices (I - K) (I + K)^-1 with K = M - M^T, from any M (..., n, n), in at least float32.

    Rotations without the eigenvalue -1. I + K is normal with eigenvalues 1 + i t: always invertible, and the result is
    orthogonal up to rounding times the norm of I + K.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    identity = torch.eye(wide.shape[-1], dtype=wide.dtype, device=wide.device)
    # (I - K) (I + K)^-1 = (2 I - (I + K)) (I + K)^-1.
    return 2 * torch.linalg.inv(identity + (wide - wide.mT)) - identity


def mix_tokens(y: Tensor, mixers: Tensor) -> Tensor:
    """Apply matrix g of mixers (G, L, L) along the tokens of the g-th of G equal groups of channels of y (B, L, C).

    Its norm, jointly over tokens and channels, is the largest of the G matrices'.
    """
    by_group = rearrange(y, "b l (g c) -> g l (b c)", g=mixers.shape[0])
    return rearrange(torch.bmm(mixers, by_group), "g l (b c) -> b l (g c)", b=y.shape[0])


def reflect_channels(y: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """y - 2 P relu(P^T y + shift) at every token of y (..., C), with P (C, W) of norm at most 1, shift (..., W).

    1-Lipschitz in y for each shift, however large. Where differentiable, its Jacobian is I - 2 P S P^T with S diagonal,
    0 or 1 where the unit is off or on; and 0 <= P S P^T <= P P^T <= I as quadratic forms, so that it lies between -I
    and I. An input that enters by `shift` chooses which directions are reflected and which are left alone.

    Source: the residual layers of Meunier et al. 2022, arXiv:2110.12690, and Araujo et al. 2023, arXiv:2303.03169.
    """
    return y - 2 * (F.relu(y @ weight + shift) @ weight.mT)
