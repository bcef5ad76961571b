"""What must not depend on how it is computed: determinants, bases, numbers of tangents, cadence, batches, dtypes."""

import math

import pytest
import torch
from torch import Tensor

from dynamics.lyapunov import LyapunovResult, lyapunov_spectrum
from tests.dynamics.maps import Map, jacobians, linear, normal, random_network, rate_network

SIZE = 7
WEIGHTS = random_network(SIZE, 1.6, seed=2)
NETWORK = rate_network(WEIGHTS)
START = normal(4, SIZE, seed=3)
TANGENTS = normal(4, SIZE, SIZE, seed=4)


def spectrum(
    advance: Map | list[Map] = NETWORK, k: int = SIZE, num_steps: int = 12, **changes: object
) -> LyapunovResult:
    request = {"initial_tangents": TANGENTS[:, :, :k]} | changes
    return lyapunov_spectrum(advance, START, num_exponents=k, num_steps=num_steps, **request)  # type: ignore[arg-type]


def same(found: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_the_sum_is_the_determinant_at_every_time() -> None:
    sums = spectrum().local_growth.sum(dim=2)
    for row in range(4):
        logs = torch.stack([torch.linalg.slogdet(one).logabsdet for one in jacobians(NETWORK, START[row], 12)])
        torch.testing.assert_close(sums[row], logs, rtol=1e-12, atol=1e-12)


def test_an_orthogonal_change_of_basis_changes_nothing() -> None:
    basis = torch.linalg.qr(normal(SIZE, SIZE, seed=5)).Q
    turned = lyapunov_spectrum(
        lambda z: NETWORK(z @ basis.T) @ basis, START @ basis, num_exponents=SIZE, num_steps=12,
        initial_tangents=basis.T @ TANGENTS,
    )  # fmt: skip
    same(turned.exponents, spectrum().exponents, 1e-10)
    same(turned.svd_exponents, spectrum().svd_exponents, 1e-9)


def test_other_tangents_change_qr_exponents_and_not_those_of_svd() -> None:
    first, second = spectrum(), spectrum(initial_tangents=normal(4, SIZE, SIZE, seed=6))
    assert (first.exponents - second.exponents).abs().amax() > 0.01
    same(first.svd_exponents, second.svd_exponents, 1e-9)


@pytest.mark.parametrize("k", [1, 3])
def test_fewer_tangents_see_the_same_leading_exponents(k: int) -> None:
    same(spectrum(k=k).local_growth, spectrum().local_growth[:, :, :k], 1e-12)


@pytest.mark.parametrize("qr_interval", [2, 3, 6])
def test_cadence_changes_nothing(qr_interval: int) -> None:
    every = spectrum()
    found = spectrum(qr_interval=qr_interval)
    same(found.exponents, every.exponents, 1e-9)
    same(found.svd_exponents, every.svd_exponents, 1e-9)
    grouped = every.local_growth.unflatten(1, (-1, qr_interval)).sum(dim=2)
    same(found.local_growth, grouped, 1e-9)


def test_two_steps_in_one_have_twice_the_exponents() -> None:
    once = spectrum()
    same(spectrum(lambda z: NETWORK(NETWORK(z)), num_steps=6).exponents, 2 * once.exponents, 1e-10)
    sequence = spectrum([NETWORK, NETWORK], num_steps=6)
    same(sequence.exponents, 2 * once.exponents, 1e-12)
    same(sequence.exponents_per_map, once.exponents, 1e-12)
    same(sequence.local_growth, once.local_growth, 1e-12)


def test_a_batch_is_so_many_single_runs_in_any_order() -> None:
    whole = spectrum()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = lyapunov_spectrum(
        NETWORK, START[order], num_exponents=SIZE, num_steps=12, initial_tangents=TANGENTS[order]
    )
    same(shuffled.local_growth, whole.local_growth[order], 1e-10)
    for row in range(4):
        alone = lyapunov_spectrum(
            NETWORK, START[row : row + 1], num_exponents=SIZE, num_steps=12,
            initial_tangents=TANGENTS[row : row + 1],
        )  # fmt: skip
        same(alone.local_growth[0], whole.local_growth[row], 1e-10)


def test_float32_and_float64_on_a_trajectory_that_does_not_part_them() -> None:
    advance = linear(WEIGHTS)
    exact = spectrum(advance)
    single = lyapunov_spectrum(
        linear(WEIGHTS.float()), START.float(), num_exponents=SIZE, num_steps=12,
        initial_tangents=TANGENTS.float(),
    )  # fmt: skip
    same(single.exponents, exact.exponents, 1e-5)


def test_householder_and_cholesky_are_one_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    small = spectrum(k=4)
    monkeypatch.setattr("dynamics.orthonormal._SMALL_BLOCK", 0)
    same(spectrum(k=4).local_growth, small.local_growth, 1e-12)


def test_the_bias_of_random_tangents() -> None:
    """One direction of 10,000 doubles; 16 steps from a random start see little of it: 0.3646 on average, not ln 2."""
    size, count = 10_000, 400
    factors = torch.ones(size)
    factors[0] = 2
    found = lyapunov_spectrum(
        lambda z: factors * z, torch.zeros(count, size), num_exponents=1, num_steps=16, qr_interval=4,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    mean = found.exponents.mean().item()
    # Standard deviation of one: that of ln |normal| / 16 = 0.069.
    assert mean == pytest.approx(0.3646, abs=4 * 0.069 / count**0.5)
    aligned = lyapunov_spectrum(
        lambda z: factors * z, torch.zeros(20, size), num_exponents=1, num_steps=16, tangent_warmup_steps=40,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    same(aligned.exponents, torch.full((20, 1), math.log(2), dtype=torch.float64), 1e-6)
