"""Linear maps inside a map: as many products as tangents and one, and the same derivative."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dynamics.flat_state import StateLayout
from dynamics.tangents import push_tangents

B, L, D, K = 2, 5, 7, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


WEIGHT, BIAS, INPUT = draw(D, D, seed=1), draw(D, seed=2), draw(B, L, D, seed=3)


def with_bias(z: Tensor) -> Tensor:
    return F.linear(z, WEIGHT, BIAS).tanh()


def without_bias(z: Tensor) -> Tensor:
    return F.linear(z.sin(), WEIGHT) * z


def named_arguments(z: Tensor) -> Tensor:
    return F.linear(input=z, weight=WEIGHT, bias=BIAS).tanh()


def of_a_constant(z: Tensor) -> Tensor:
    return z + F.linear(INPUT, WEIGHT)


def moving_bias(z: Tensor) -> Tensor:
    return F.linear(z, WEIGHT, z.mean(dim=(0, 1)) * 0 + BIAS) if z.ndim == 3 else z


def sums_and_products_with_constants(z: Tensor) -> Tensor:
    scaled = 2 * (z * INPUT) / (1 + INPUT**2) + torch.bmm(WEIGHT[:L, :L].expand(B, L, L), z / 3)
    return INPUT[:1] * scaled.sin() + INPUT + 1.5


def matrix_products(z: Tensor) -> Tensor:
    left = torch.stack([torch.mm(WEIGHT[:L, :L], one) + WEIGHT[:L, :L].mm(one) for one in z])
    return left @ WEIGHT + torch.matmul(INPUT, (z.mT @ INPUT)) + z.matmul(z.mT @ z) + z.bmm(WEIGHT.expand(B, D, D))


def divisor_moves(z: Tensor) -> Tensor:
    return INPUT / (2 + z.cos()) - torch.bmm(z, WEIGHT.expand(B, D, D))


def broadcast_operands(z: Tensor) -> Tensor:
    return z[:, :1] + INPUT + z[:, :1] * INPUT


def sum_written_into(z: Tensor) -> Tensor:
    moved = z + INPUT
    return moved.mul_(3) + z


def squares(z: Tensor) -> Tensor:
    return z * torch.rsqrt(z.square().mean(dim=-1, keepdim=True) + torch.square(INPUT)) + torch.square(z.sin())


def factors_that_move(z: Tensor) -> Tensor:
    narrow = z[..., :3] * z[..., 4:] * z.sum(dim=1, keepdim=True)[..., :3]
    return torch.cat((narrow, z[:, :1, 3:4] * z[..., 3:]), dim=-1) * z.cos().mean()


def gates(z: Tensor) -> Tensor:
    return F.silu(z) * (z + INPUT) + F.silu(INPUT) + F.silu(z.sin(), inplace=True)


def moving_weight(z: Tensor) -> Tensor:
    return torch.stack([F.linear(one, WEIGHT + one.T @ one) for one in z])


@pytest.mark.parametrize(
    "advance",
    [
        with_bias,
        without_bias,
        named_arguments,
        of_a_constant,
        moving_bias,
        moving_weight,
        sums_and_products_with_constants,
        matrix_products,
        divisor_moves,
        broadcast_operands,
        sum_written_into,
        squares,
        factors_that_move,
        gates,
    ],
)
def test_tangents_are_those_of_the_jacobian(advance) -> None:  # type: ignore[no-untyped-def]
    z, tangents = draw(B, L, D, seed=4), draw(K, B, L, D, seed=5)
    primal, pushed = push_tangents(advance, StateLayout(z), [z], [tangents])
    torch.testing.assert_close(primal[0], advance(z), rtol=0, atol=0)
    jacobian = torch.autograd.functional.jacobian(advance, z)  # (B, L, D, B, L, D), by the reverse mode
    expected = torch.einsum("blducv,kucv->kbld", jacobian, tangents)
    torch.testing.assert_close(pushed[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("advance", [with_bias, without_bias, lambda z: z @ WEIGHT])
def test_one_product_for_the_primal_and_one_for_each_tangent(advance) -> None:  # type: ignore[no-untyped-def]
    z, tangents = draw(B, L, D, seed=4), draw(K, B, L, D, seed=5)
    with FlopCounterMode(display=False) as counter:
        push_tangents(advance, StateLayout(z), [z], [tangents])
    assert counter.get_total_flops() == (K + 1) * 2 * B * L * D * D
