"""The spectrum against closed forms and explicit products of Jacobians; what is refused, what is flagged."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from dynamics.lyapunov import lyapunov_spectrum


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


class Pair(NamedTuple):
    slow: Tensor
    fast: Tensor


def test_a_diagonal_map() -> None:
    """ln|a_i|, in nats per step, whatever the interval between two QRs."""
    factors = torch.tensor([2.0, 0.5, -1.5, 0.1], dtype=torch.float64)
    for interval in (1, 2, 5):
        result = lyapunov_spectrum(
            lambda z: factors * z, normal(3, 4), num_exponents=4, num_steps=40, tangent_warmup_steps=40,
            qr_interval=interval, generator=generator(),
        )  # fmt: skip
        expected = factors.abs().log().sort(descending=True).values.expand(3, 4)
        torch.testing.assert_close(result.exponents, expected, rtol=0, atol=1e-9)
        assert not result.any_flag.any()


def test_the_logistic_map_at_4() -> None:
    """ln 2, by the conjugacy with the tent map."""
    start = torch.rand(64, 1, generator=generator(), dtype=torch.float64) * 0.8 + 0.1
    result = lyapunov_spectrum(
        lambda x: 4 * x * (1 - x), start, num_exponents=1, num_steps=2000, transient_steps=100, generator=generator()
    )
    assert float(result.exponents.mean()) == pytest.approx(math.log(2), abs=0.01)


def test_products_that_do_not_commute() -> None:
    """Finite-time values at T = 5 against the singular values of the explicit product, and QR against the volume."""
    matrices = [normal(4, 4, seed=seed) for seed in range(5)]
    maps = [lambda z, a=a: z @ a.T for a in matrices]
    result = lyapunov_spectrum(maps, normal(2, 4), num_exponents=4, num_steps=1, generator=generator(7))
    product = torch.eye(4, dtype=torch.float64)
    for matrix in matrices:
        product = matrix @ product
    expected = torch.linalg.svdvals(product).log().expand(2, 4)
    torch.testing.assert_close(result.svd_exponents, expected, rtol=0, atol=1e-6)
    volume = torch.linalg.slogdet(product).logabsdet.expand(2)
    torch.testing.assert_close(result.exponents.sum(dim=1), volume, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.exponents_per_map, result.exponents / 5)


def test_given_tangents_make_one_number() -> None:
    """The growth of one tangent by hand, nonlinear map, no warm-up."""
    weights = normal(3, 3, seed=1)

    def advance(z: Tensor) -> Tensor:
        return torch.tanh(z @ weights.T)

    state = normal(2, 3)
    tangent = normal(2, 3, 1, seed=2)
    result = lyapunov_spectrum(advance, state, num_exponents=1, num_steps=4, initial_tangents=tangent)
    for row in range(2):
        z, v = state[row], tangent[row, :, 0] / tangent[row, :, 0].norm()
        for _ in range(4):
            v = torch.autograd.functional.jacobian(advance, z) @ v  # type: ignore[no-untyped-call]
            z = advance(z)
        assert float(result.exponents[row, 0]) == pytest.approx(float(v.norm().log()) / 4, abs=1e-10)
        torch.testing.assert_close(result.final_state[row], z)


def test_sub_updates_that_move_half_of_a_pytree() -> None:
    slow, fast = normal(3, 3, seed=3), normal(3, 3, seed=4)

    def move_fast(z: Pair) -> Pair:
        return z._replace(fast=torch.tanh(z.slow + z.fast @ fast.T))

    def move_slow(z: Pair) -> Pair:
        return z._replace(slow=torch.tanh(z.fast @ slow.T))

    start = Pair(normal(2, 3, seed=5), normal(2, 3, seed=6))
    result = lyapunov_spectrum(
        [move_fast, move_fast, move_slow], start, num_exponents=6, num_steps=3, generator=generator(), qr_interval=1
    )

    def three_steps(flat: Tensor) -> Tensor:
        z = Pair(flat[:3], flat[3:])
        for _ in range(3):
            z = move_slow(move_fast(move_fast(z)))
        return torch.cat(z)

    for row in range(2):
        flat = torch.cat((start.slow[row], start.fast[row]))
        jacobian = torch.autograd.functional.jacobian(three_steps, flat)  # type: ignore[no-untyped-call]
        # Half of the state is forgotten in every step: three directions are annihilated, the others are finite.
        expected = torch.linalg.svdvals(jacobian).log() / 3
        torch.testing.assert_close(result.svd_exponents[row, :3], expected[:3], rtol=0, atol=1e-6)
        assert bool((result.svd_exponents[row, 3:] < -8).all())


def test_one_bad_example_leaves_the_others_alone() -> None:
    start = torch.tensor([[0.3], [2.0], [0.6]], dtype=torch.float64)  # the second escapes to infinity
    together = lyapunov_spectrum(lambda x: 4 * x * (1 - x), start, num_exponents=1, num_steps=50)
    alone = lyapunov_spectrum(lambda x: 4 * x * (1 - x), start[[0, 2]], num_exponents=1, num_steps=50)
    assert together.flags["nonfinite_state"].tolist() == [False, True, False]
    assert bool(together.exponents[1].isnan().all())
    torch.testing.assert_close(together.exponents[[0, 2]].abs(), alone.exponents.abs(), rtol=0, atol=1e-12)


def test_no_grad_is_harmless_and_detach_is_refused() -> None:
    def under_no_grad(z: Tensor) -> Tensor:
        with torch.no_grad():
            return 3 * z

    result = lyapunov_spectrum(under_no_grad, normal(1, 2), num_exponents=1, num_steps=3)
    assert float(result.exponents) == pytest.approx(math.log(3))
    with pytest.raises(ValueError, match="detach|differentiat"):
        lyapunov_spectrum(lambda z: 3 * z.detach(), normal(1, 2), num_exponents=1, num_steps=3)


@pytest.mark.parametrize(
    "options",
    [
        {"num_exponents": 3},
        {"num_exponents": 0},
        {"num_steps": 0},
        {"qr_interval": 2},
        {"dtype": torch.bfloat16},
        {"initial_tangents": torch.zeros(1, 2, 1, dtype=torch.float64)},
    ],
)
def test_impossible_requests(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        lyapunov_spectrum(
            lambda z: 2 * z,
            normal(1, 2),
            **{"num_exponents": 1, "num_steps": 3, **options},  # type: ignore[arg-type]
        )
