"""Norms of the building blocks of SRM, for weights of any size, against singular values."""

import pytest
import torch
from torch import Tensor

from models.lipschitz import almost_orthogonal, cayley, mix_tokens, reflect_channels

SHAPES = [(7, 7), (9, 4), (4, 9), (3, 6, 6), (2, 8, 3), (1, 5), (5, 1)]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def norm(matrices: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrices.double(), ord=2).max())


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e-3, 1.0, 100.0, 1e30, 1e300])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_weights_have_a_norm_above_one(shape: tuple[int, ...], scale: float) -> None:
    for seed in range(5):
        weight = normal(*shape, seed=seed)
        # Columns of very different sizes, one of zeros, and repeated ones, which the rescaling must pay for.
        weight = weight * 10 ** (3 * normal(shape[-1], seed=seed + 50))
        weight[..., -1] = 0 if seed % 2 else weight[..., 0]
        rescaled = almost_orthogonal(scale * weight)
        assert rescaled.shape == weight.shape and rescaled.isfinite().all()
        assert norm(rescaled) <= 1 + 1e-12


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 1e37])
def test_in_float32_too(scale: float) -> None:
    for shape in SHAPES:
        rescaled = almost_orthogonal(scale * normal(*shape, dtype=torch.float32))
        assert rescaled.dtype == torch.float32 and 0.3 < norm(rescaled) <= 1 + 1e-6
    assert almost_orthogonal(normal(4, 4).bfloat16()).dtype == torch.float32


def test_zero_stays_zero_with_a_finite_gradient() -> None:
    weight = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    rescaled = almost_orthogonal(weight)
    (gradient,) = torch.autograd.grad(rescaled.sum(), weight)
    assert not rescaled.any() and gradient.isfinite().all()


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)], ids=str)
def test_orthonormal_weights_are_left_alone_at_any_size(shape: tuple[int, int]) -> None:
    weight = torch.nn.init.orthogonal_(torch.empty(shape, dtype=torch.float64))
    for scale in (1.0, 3e-5, 7e4):
        torch.testing.assert_close(almost_orthogonal(scale * weight), weight, rtol=0, atol=1e-13)
    assert torch.equal(almost_orthogonal(8 * weight), almost_orthogonal(weight)), "a power of two moves no bit"


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 3, 3)], ids=str)
def test_gradients_of_the_rescaling(shape: tuple[int, ...]) -> None:
    """That the size is divided out beforehand is no reason for a missing term."""
    assert torch.autograd.gradcheck(almost_orthogonal, (normal(*shape).requires_grad_(),))


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_cayley_gives_rotations(scale: float) -> None:
    rotations = cayley(scale * normal(3, 8, 8))
    identity = torch.eye(8, dtype=torch.float64).expand(3, 8, 8)
    torch.testing.assert_close(rotations @ rotations.mT, identity, rtol=0, atol=1e-11)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(3).double(), rtol=0, atol=1e-10)
    if scale == 0:
        assert torch.equal(rotations, identity)


def test_cayley_is_its_formula() -> None:
    skew = normal(6, 6) - normal(6, 6).T
    identity = torch.eye(6, dtype=torch.float64)
    expected = (identity - skew) @ torch.linalg.inv(identity + skew)
    torch.testing.assert_close(cayley(normal(6, 6)), expected, rtol=0, atol=1e-12)


def test_token_matrices_act_on_their_group_of_channels_only() -> None:
    y, mixers = normal(2, 5, 6), normal(3, 5, 5, seed=1)
    expected = torch.empty_like(y)
    for row in range(2):
        for channel in range(6):
            expected[row, :, channel] = mixers[channel // 2] @ y[row, :, channel]
    torch.testing.assert_close(mix_tokens(y, mixers), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [4, 9])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_a_residual_unit_reflects_what_its_input_switches_on(width: int, size: float) -> None:
    """Jacobian I - 2 P S P^T, symmetric, of norm at most 1, for any shift; all off is the identity."""
    channels = almost_orthogonal(normal(6, width))
    for seed in range(10):
        y, shift = normal(6, seed=seed), size * normal(width, seed=seed + 50)
        jacobian = torch.autograd.functional.jacobian(
            lambda v, shift=shift: reflect_channels(v[None, None], channels, shift[None, None])[0, 0], y
        )
        torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-12)
        assert norm(jacobian) <= 1 + 1e-12
    off = torch.full((1, 1, width), -1e6, dtype=torch.float64)
    assert torch.equal(reflect_channels(y[None, None], channels, off)[0, 0], y)


def test_where_all_gates_are_on_orthonormal_channels_are_turned_round() -> None:
    channels = torch.nn.init.orthogonal_(torch.empty(6, 6, dtype=torch.float64))
    on = torch.full((1, 1, 6), 1e6, dtype=torch.float64)
    one, other = normal(1, 1, 6), normal(1, 1, 6, seed=1)
    difference = reflect_channels(one, channels, on) - reflect_channels(other, channels, on)
    torch.testing.assert_close(difference, other - one, rtol=0, atol=1e-8)
