"""What is made of spectra: dimension, covariant vectors, alignment."""

import math

import pytest
import torch

from dynamics.alignment import aligned_tangents, alignment_bias_bound, spread_over_starts
from dynamics.covariant import CovariantVectors, covariant_vectors
from dynamics.dimension import dimension
from dynamics.lyapunov import lyapunov_spectrum
from tests.dynamics.maps import henon, jacobian, jacobians, linear, normal, random_network, rate_network, rows

# -- dimension


def test_dimension_of_henon_and_lorenz() -> None:
    """Reference: Sprott, 1.258267 and 2.06215. The order of the exponents does not matter."""
    assert dimension(rows((-1.623190, 0.419217))).kaplan_yorke.item() == pytest.approx(1.258267, abs=2e-6)
    found = dimension(rows((0.90563, 0, -14.57219)))
    assert found.kaplan_yorke.item() == pytest.approx(2.06215, abs=5e-6)
    assert found.entropy.item() == 0.90563 and found.entropy_complete.item() and found.at_least.item() == 2


def test_dimension_only_where_the_sum_crosses_zero() -> None:
    spectra = rows(
        (0.3, 0.2, 0.1),  # nothing contracts so far
        (0.3, -0.1, -0.1),  # contracts, the sum is still positive
        (0.5, -0.25, -0.25),  # the sum ends at zero: what follows does not matter
        (-0.1, -0.2, -0.3),
        (0.5, -math.inf, -math.inf),
        (0.5, math.nan, -3),
    )
    found = dimension(spectra)
    nan = math.nan
    expected = torch.tensor([nan, nan, 3, 0, 1, nan]).double()
    torch.testing.assert_close(found.kaplan_yorke, expected, equal_nan=True)
    assert found.at_least.tolist()[:2] == [3, 3] and found.at_least.tolist()[3:] == [0, 1, 0]
    assert found.entropy_complete.tolist() == [False, True, True, True, True, False]
    entropy = torch.tensor([0.6, 0.3, 0.5, 0, 0.5, nan], dtype=torch.float64)
    torch.testing.assert_close(found.entropy, entropy, equal_nan=True)
    # With all exponents known there is nothing that could still contract.
    assert dimension(spectra[:2], num_components=3).kaplan_yorke.tolist() == [3, 3]
    assert dimension(spectra[:1], num_components=3).entropy_complete.item()
    for wrong in (torch.zeros(3), torch.zeros(3, 0)):
        with pytest.raises(ValueError, match="expected"):
            dimension(wrong)
    with pytest.raises(ValueError, match="3 exponents of 2"):
        dimension(spectra, num_components=2)


# -- covariant vectors


def window(advance: object, start: torch.Tensor, k: int, **changes: object) -> CovariantVectors:
    request = {"num_steps": 6, "forward_steps": 100, "backward_steps": 100, "keep_vectors": True} | changes
    return covariant_vectors(advance, start, num_exponents=k, **request)  # type: ignore[arg-type]


def test_covariant_vectors_of_a_matrix_are_its_eigenvectors() -> None:
    """All k of D, far from orthogonal; QR vectors are orthogonal and hence others."""
    basis = rows((1, 0.9, 0.3), (0, 1, 0.8), (0.2, 0, 1))
    basis = basis / basis.norm(dim=0)
    matrix = basis @ rows((2, 0, 0), (0, -0.9, 0), (0, 0, 0.3)) @ basis.inverse()
    found = window(linear(matrix), torch.zeros(1, 3).double(), 3)
    cosine = (found.vectors[0] * basis).sum(dim=1).abs()
    torch.testing.assert_close(cosine, torch.ones(7, 3).double(), rtol=0, atol=1e-12)
    expected = rows((math.log(2), math.log(0.9), math.log(0.3)))
    torch.testing.assert_close(found.exponents, expected, rtol=0, atol=1e-12)
    angles = (basis.T @ basis).abs()
    torch.testing.assert_close(found.cosines[0, 3].abs(), angles, rtol=0, atol=1e-12)
    smallest = angles.triu(1).max().acos()
    torch.testing.assert_close(found.smallest_angle[0, 0], smallest, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backward_steps", [100, 50])
def test_the_map_takes_each_vector_into_the_next_ones_line(backward_steps: int) -> None:
    found = window(henon, rows((0.1, 0.1), (0.2, -0.1)), 2, backward_steps=backward_steps)
    assert found.states is not None and found.states.shape == (2, 7, 2) and found.finite.all()
    for row in range(2):
        for time in range(6):
            pushed = jacobian(henon, found.states[row, time]) @ found.vectors[row, time]
            cosine = (pushed * found.vectors[row, time + 1]).sum(dim=0).abs() / pushed.norm(dim=0)
            torch.testing.assert_close(cosine, torch.ones(2).double(), rtol=0, atol=1e-10)
            torch.testing.assert_close(pushed.norm(dim=0).log(), found.growth[row, time], rtol=0, atol=1e-9)


def test_covariant_vectors_do_not_depend_on_the_basis() -> None:
    """Of the first k of D exponents, in another metric: the growth over a period is a property of the map."""
    matrices = normal(3, 4, 4, seed=1)
    maps = [linear(one) for one in matrices]
    product = matrices[2] @ matrices[1] @ matrices[0]
    expected = torch.linalg.eigvals(product).abs().log().sort(descending=True).values
    found = window(maps, torch.zeros(1, 4).double(), 1, qr_interval=3)
    torch.testing.assert_close(found.growth[0, :, 0], expected[:1].expand(6), rtol=0, atol=1e-10)
    assert found.growth.shape == (1, 6, 1)


def test_a_bad_example_and_bad_requests() -> None:
    found = window(henon, rows((0.1, 0.1), (math.nan, 0)), 2, keep_vectors=False)
    assert found.finite.tolist() == [True, False]
    assert found.coordinates[1].isnan().all() and found.growth[1].isnan().all()
    assert found.growth[0].isfinite().all()
    with pytest.raises(ValueError, match="keep_vectors"):
        _ = found.vectors
    with pytest.raises(ValueError, match="does not divide"):
        window(henon, rows((0.1, 0.1)), 2, qr_interval=4)
    with pytest.raises(ValueError, match="annihilates"):
        window(linear(rows((1, 0), (0, 0))), rows((0.1, 0.1)), 2)


# -- alignment


NETWORK = rate_network(random_network(60, 2.0, seed=5))


def test_two_starts_show_how_uncertain_the_estimator_is() -> None:
    def run(num_steps: int) -> torch.Tensor:
        spread = spread_over_starts(
            NETWORK, normal(4, 60), generator=torch.Generator().manual_seed(0), num_starts=3,
            num_exponents=2, num_steps=num_steps,
        )  # fmt: skip
        assert spread.exponents.shape == (3, 4, 2) and spread.svd_exponents.shape == (3, 4, 2)
        expected = spread.exponents.var(dim=0).sqrt()
        torch.testing.assert_close(spread.standard_deviation, expected)
        return spread.standard_deviation.mean()

    # Tangents forget their start: the difference is about a constant number of nats.
    assert run(5) > 0.01 > run(200)
    with pytest.raises(ValueError, match="num_starts=1"):
        spread_over_starts(
            NETWORK, normal(4, 60), generator=torch.Generator(), num_starts=1, num_exponents=1, num_steps=1
        )


def test_there_and_back_finds_the_singular_vectors() -> None:
    start, steps = normal(2, 60), 12
    tangents = aligned_tangents(
        [NETWORK, NETWORK], start, num_exponents=3, num_steps=steps // 2, num_sweeps=3,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    found = lyapunov_spectrum(
        [NETWORK, NETWORK], start, num_exponents=3, num_steps=steps // 2, initial_tangents=tangents
    )
    drawn = lyapunov_spectrum(
        [NETWORK, NETWORK], start, num_exponents=3, num_steps=steps // 2,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for row in range(2):
        product = torch.linalg.multi_dot(jacobians(NETWORK, start[row], steps)[::-1])
        expected = torch.linalg.svdvals(product)[:3].log() / (steps // 2)
        torch.testing.assert_close(found.svd_exponents[row], expected, rtol=0, atol=0.01)
        assert (drawn.svd_exponents[row] < expected - 0.02).all()


def test_a_map_without_reverse_derivative() -> None:
    def advance(z: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return 2 * z

    with pytest.raises(ValueError, match="no reverse derivative"):
        aligned_tangents(advance, normal(1, 3), num_exponents=1, num_steps=2)


def test_the_bound_of_the_bias() -> None:
    """TRM at 9x9: 0.017 nats per sub-update over 336 of them."""
    assert alignment_bias_bound(99_328, 336) == pytest.approx(0.01712, abs=5e-6)
    with pytest.raises(ValueError, match="at least 1"):
        alignment_bias_bound(3, 0)
