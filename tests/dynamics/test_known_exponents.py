"""Maps whose exponents are known in closed form or from the literature."""

import math

import pytest
import torch

from dynamics.lyapunov import lyapunov_spectrum
from tests.dynamics.maps import (
    baker,
    cat,
    henon,
    linear,
    logistic,
    lorenz,
    normal,
    random_network,
    rate_network,
    rows,
    standard,
    tent,
)

EXACT = {"rtol": 0, "atol": 1e-12}
LN2 = math.log(2)


def identity(batch: int, size: int, count: int | None = None) -> torch.Tensor:
    return torch.eye(size, dtype=torch.float64)[:, :count].expand(batch, -1, -1)


# -- linear maps


@pytest.mark.parametrize("k", [1, 2, 4])
def test_diagonal_in_the_order_of_the_tangents(k: int) -> None:
    """Negative factors count by size; nothing is sorted."""
    factors = torch.tensor([0.3, -1.5, 0.8, -0.05], dtype=torch.float64)
    found = lyapunov_spectrum(
        lambda z: factors * z, normal(3, 4), num_exponents=k, num_steps=50, initial_tangents=identity(3, 4, k)
    )
    torch.testing.assert_close(found.exponents, factors[:k].abs().log().expand(3, -1), **EXACT)
    assert found.exponents.dtype == torch.float64 and not found.any_flag.any()
    descending = factors[:k].abs().log().sort(descending=True).values
    torch.testing.assert_close(found.svd_exponents, descending.expand(3, -1), **EXACT)


def test_a_direction_that_is_annihilated() -> None:
    factors = torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)
    found = lyapunov_spectrum(
        lambda z: factors * z, normal(2, 3), num_exponents=3, num_steps=9, initial_tangents=identity(2, 3)
    )
    expected = torch.tensor([LN2, -LN2, -math.inf], dtype=torch.float64).expand(2, -1)
    torch.testing.assert_close(found.exponents, expected, **EXACT)
    torch.testing.assert_close(found.svd_exponents, expected, **EXACT)
    assert found.flags["zero_growth"].tolist() == [[False, False, True]] * 2


def test_an_annihilated_direction_is_flagged_from_any_start() -> None:
    """From random tangents the last one turns into noise: a number far below, no NaN, and a flag."""
    factors = torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)
    found = lyapunov_spectrum(
        lambda z: factors * z, normal(2, 3), num_exponents=3, num_steps=40,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert not found.exponents.isnan().any() and (found.exponents[:, 2] < -20).all()
    # What is left of two exponents that differ after the start has been forgotten.
    torch.testing.assert_close(found.exponents[:, :2].sum(dim=1), torch.zeros(2).double(), rtol=0, atol=0.1)
    assert (found.flags["rank_lost"] | found.flags["zero_growth"])[:, 2].all()


def test_the_zero_map() -> None:
    found = lyapunov_spectrum(lambda z: 0 * z, normal(2, 3), num_exponents=2, num_steps=3)
    assert (found.exponents == -math.inf).all() and (found.svd_exponents == -math.inf).all()
    assert found.flags["zero_growth"].all()


def test_scaled_rotation() -> None:
    angle, scale = 0.7, 0.83
    turn = scale * rows((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle)))
    found = lyapunov_spectrum(linear(turn), normal(2, 2), num_exponents=2, num_steps=30)
    expected = torch.full((2, 30, 2), math.log(scale), dtype=torch.float64)
    torch.testing.assert_close(found.local_growth, expected, **EXACT)


def test_complex_pair_in_another_basis() -> None:
    """Not orthogonal any more: the exponents are those of the rotation, reached like 1/T."""
    basis = rows((1, 2), (0, 1))
    turn = basis @ (0.9 * rows((0, -1), (1, 0))) @ basis.inverse()
    found = lyapunov_spectrum(linear(turn), normal(1, 2), num_exponents=2, num_steps=400)
    torch.testing.assert_close(found.exponents, torch.full((1, 2), math.log(0.9)).double(), rtol=0, atol=5e-3)


def test_non_normal_shear() -> None:
    """At 16 steps far from the asymptotic values; the sum is right at any time."""
    shear, start = rows((0.9, 10), (0, 0.8)), rows((1, -1), (1, 1))[None]
    found = lyapunov_spectrum(linear(shear), normal(1, 2), num_exponents=2, num_steps=16, initial_tangents=start)
    torch.testing.assert_close(found.exponents[0], rows((0.15124, -0.47974))[0], rtol=0, atol=5e-6)
    torch.testing.assert_close(found.svd_exponents[0], rows((0.17217, -0.50067))[0], rtol=0, atol=5e-6)
    assert found.exponents.sum().item() == pytest.approx(math.log(0.72), abs=1e-12)
    settled = lyapunov_spectrum(linear(shear), normal(1, 2), num_exponents=2, num_steps=10, tangent_warmup_steps=300)
    torch.testing.assert_close(settled.exponents[0], rows((math.log(0.9), math.log(0.8)))[0], rtol=0, atol=1e-10)


def test_periodic_cocycle_of_matrices_that_do_not_commute() -> None:
    """The eigenvalues of A3 A2 A1. A1 A2 A3, and with it the product of the transposed, has others."""
    first, second, third = normal(3, 3, 3, seed=1)
    product = third @ second @ first
    expected = torch.linalg.eigvals(product).abs().log().sort(descending=True).values
    other = torch.linalg.eigvals(first @ second @ third).abs().log().max()
    assert (other - expected[0]).abs() > 0.05
    found = lyapunov_spectrum(
        [linear(first), linear(second), linear(third)], normal(1, 3), num_exponents=3, num_steps=200,
        tangent_warmup_steps=200,
    )  # fmt: skip
    torch.testing.assert_close(found.exponents[0], expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.exponents_per_map[0], expected / 3, rtol=0, atol=1e-10)
    assert found.num_maps == 3


# -- one- and two-dimensional maps


def test_logistic_at_every_time() -> None:
    start = torch.tensor([[0.2], [0.37], [0.911]], dtype=torch.float64)
    steps = torch.arange(1, 19, dtype=torch.float64)
    found = lyapunov_spectrum(logistic, start, num_exponents=1, num_steps=len(steps))
    mean = found.local_growth[:, :, 0].cumsum(dim=1) / steps
    angle = 2 * start.sqrt().asin()
    expected = LN2 + ((2**steps * angle).sin().abs() / angle.sin()).log() / steps
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.svd_exponents, found.exponents, **EXACT)


@pytest.mark.parametrize("advance", [tent, baker, cat])
def test_uniformly_expanding(advance: object) -> None:
    size = 1 if advance is tent else 2
    start = torch.rand(5, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    golden = (1 + 5**0.5) / 2
    tangents = rows((golden, -1), (1, golden)).expand(5, -1, -1) if advance is cat else identity(5, size)
    found = lyapunov_spectrum(
        advance, start, num_exponents=size, num_steps=40, initial_tangents=tangents  # type: ignore[arg-type]
    )  # fmt: skip
    rate = 0.9624236501192069 if advance is cat else LN2
    torch.testing.assert_close(found.exponents, rows([rate, -rate][:size]).expand(5, -1), **EXACT)


def test_henon() -> None:
    """Reference: Sprott, 0.419217 and -1.623190. 256 trajectories of 300 steps on the attractor."""
    start = rows((-0.3332501594, 0.2743725483)) + 1e-3 * normal(256, 2)
    found = lyapunov_spectrum(henon, start, num_exponents=2, num_steps=300, transient_steps=80, tangent_warmup_steps=20)
    assert found.exponents[:, 0].mean().item() == pytest.approx(0.419217, abs=0.006)
    torch.testing.assert_close(
        found.exponents.sum(dim=1), torch.full((256,), math.log(0.3), dtype=torch.float64), **EXACT
    )


def test_lorenz() -> None:
    """Reference: Sprott, 0.90563, 0 and -14.57219 per unit of time. Jacobians transposed would give 0.646."""
    dt = 0.01
    start = rows((1.0, 1.0, 20.0)) + normal(400, 3)
    found = lyapunov_spectrum(
        lorenz(dt), start, num_exponents=3, num_steps=800, transient_steps=300, tangent_warmup_steps=300,
        qr_interval=20,
    )  # fmt: skip
    per_time = found.exponents.mean(dim=0) / dt
    assert per_time[0].item() == pytest.approx(0.9056, abs=0.04)
    assert per_time[1].item() == pytest.approx(0, abs=0.02)
    # The flow's is -13.66667; the Runge-Kutta map has its own.
    assert per_time.sum().item() == pytest.approx(-13.66656, abs=4e-5)
    assert found.local_growth.shape == (400, 40, 3)


def test_standard_map() -> None:
    """K = 5: about ln(K/2) = 0.916, measured 0.977. Area is kept, so that the exponents are a pair."""
    start = 2 * math.pi * torch.rand(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = lyapunov_spectrum(
        standard(5.0), start, num_exponents=2, num_steps=100, tangent_warmup_steps=20, qr_interval=2
    )
    assert found.exponents[:, 0].mean().item() == pytest.approx(0.977, abs=0.02)
    torch.testing.assert_close(found.exponents[:, 0], -found.exponents[:, 1], **EXACT)


# -- many dimensions


def test_globally_coupled_logistic_maps() -> None:
    """On the synchronous state all transverse exponents are the longitudinal one plus ln(1 - coupling)."""
    size, coupling = 6, 0.7
    basis = torch.linalg.qr(torch.cat((torch.ones(size, 1).double(), normal(size, size - 1)), dim=1)).Q

    def advance(z: torch.Tensor) -> torch.Tensor:
        moved = logistic(z)
        return (1 - coupling) * moved + coupling * moved.mean(dim=1, keepdim=True)

    start = torch.tensor([[0.2], [0.6]], dtype=torch.float64).expand(-1, size)
    found = lyapunov_spectrum(
        advance, start, num_exponents=size, num_steps=30, initial_tangents=basis.expand(2, -1, -1)
    )
    growth = found.local_growth.cumsum(dim=1) / torch.arange(1, 31)[:, None]
    longitudinal = growth[:, :, :1]
    torch.testing.assert_close(
        growth[:, :, 1:], (longitudinal + math.log(1 - coupling)).expand(-1, -1, size - 1), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(("gain", "expected"), [(2.0, 0.154724), (3.0, 0.310276)])
def test_random_network_against_mean_field(gain: float, expected: float) -> None:
    """lambda_1 = ln(g^2 <sech^4>) / 2 for infinitely many units; 1,000 are within 0.01 of it."""
    found = lyapunov_spectrum(
        rate_network(random_network(1000, gain)), normal(3, 1000), num_exponents=1, num_steps=300, transient_steps=100,
        tangent_warmup_steps=20,
    )  # fmt: skip
    assert found.exponents.mean().item() == pytest.approx(expected, abs=0.01)


def test_mean_exponent_of_a_random_network() -> None:
    """ln g - 1/2 + <ln sech^2> = -1.149 at g = 2, from the determinant: a full spectrum."""
    found = lyapunov_spectrum(
        rate_network(random_network(400, 2.0)), normal(1, 400), num_exponents=400, num_steps=40,
        transient_steps=60, qr_interval=2,
    )  # fmt: skip
    assert found.exponents.mean().item() == pytest.approx(-1.149, abs=0.05)
