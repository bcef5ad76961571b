"""Exponents with gradients: closed forms, differences, and examples that have none."""

import math

import pytest
import torch
from torch import Tensor

from dynamics.differentiable import differentiable_exponents
from dynamics.lyapunov import lyapunov_spectrum
from tests.dynamics.maps import normal, random_network, rate_network, rows


def test_the_flossing_gradient_of_a_diagonal_map() -> None:
    """L = mean (ln |a_i| - target)^2 has the derivative 2 (ln |a_i| - target) / (k a_i), for each example."""
    factors = torch.tensor([1.7, -0.6, 0.2], dtype=torch.float64, requires_grad=True)
    found = differentiable_exponents(
        lambda z: factors * z, normal(2, 3), num_exponents=3, num_steps=5, qr_interval=5,
        initial_tangents=torch.eye(3).expand(2, 3, 3),
    )  # fmt: skip
    found.mean_square(target=-0.1).backward()
    plain = factors.detach()
    expected = 2 * 2 * (plain.abs().log() + 0.1) / (3 * plain)
    torch.testing.assert_close(factors.grad, expected, rtol=0, atol=1e-12)
    assert not found.degenerate.any()


@pytest.mark.parametrize(("qr_interval", "transient"), [(1, 0), (2, 0), (1, 3)])
def test_values_and_gradients_of_a_network(qr_interval: int, transient: int) -> None:
    """Values are those of `lyapunov_spectrum`; the gradient is that of differences, along one direction of weights."""
    weights, change = random_network(6, 1.5), normal(6, 6, seed=8)
    start, tangents = normal(3, 6), normal(3, 6, 4, seed=1)
    with torch.no_grad():
        # Where the measurement begins, so that nothing before it moves with the weights.
        begun = lyapunov_spectrum(
            rate_network(weights),
            start,
            num_exponents=4,
            num_steps=max(transient, 1),
            initial_tangents=tangents,
        )
    if transient:
        later, later_tangents = begun.final_state, begun.final_tangents
    else:
        later, later_tangents = start, tangents

    def exponents(W: Tensor) -> Tensor:
        return lyapunov_spectrum(
            rate_network(W), later, num_exponents=4, num_steps=6, qr_interval=qr_interval,
            initial_tangents=later_tangents,
        ).exponents  # fmt: skip

    wanted = weights.clone().requires_grad_()
    found = differentiable_exponents(
        rate_network(wanted), start, num_exponents=4, num_steps=6, transient_steps=transient,
        qr_interval=qr_interval, initial_tangents=tangents,
    )  # fmt: skip
    torch.testing.assert_close(found.exponents.detach(), exponents(weights), rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(found.exponents.square().sum(), wanted)
    h = 1e-4
    at = {step: exponents(weights + step * h * change).square().sum() for step in (-2, -1, 1, 2)}
    expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    torch.testing.assert_close((gradient * change).sum(), expected, rtol=1e-8, atol=1e-8)


def test_an_example_without_rank_or_numbers_has_no_gradient_and_harms_nobody() -> None:
    gain = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def advance(z: Tensor) -> Tensor:
        """Rank is lost where the second component is zero."""
        return torch.stack((gain * z[:, 0], gain * z[:, 1] ** 2), dim=1)

    start = rows((1, 1), (1, 0), (math.nan, 1), (1, 1e160))
    eye = torch.eye(2).expand(len(start), 2, 2)
    found = differentiable_exponents(advance, start, num_exponents=2, num_steps=2, initial_tangents=eye)
    assert found.degenerate.tolist() == [False, True, True, True]
    found.mean_square().backward()
    assert found.exponents[1].tolist() == [pytest.approx(math.log(1.5)), -math.inf]
    alone = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def single(z: Tensor) -> Tensor:
        return torch.stack((alone * z[:, 0], alone * z[:, 1] ** 2), dim=1)

    differentiable_exponents(
        single, start[:1], num_exponents=2, num_steps=2, initial_tangents=eye[:1]
    ).mean_square().backward()
    assert gain.grad is not None and alone.grad is not None and gain.grad.isfinite()
    torch.testing.assert_close(gain.grad, alone.grad, rtol=0, atol=1e-12)

    nothing = differentiable_exponents(advance, start[2:], num_exponents=2, num_steps=2)
    assert nothing.degenerate.all() and not nothing.exponents.requires_grad
    assert nothing.mean_square().item() == 0


@pytest.mark.parametrize(("height", "degenerate"), [(0.0, True), (1e-15, True), (1e-13, False), (0.5, False)])
def test_rank_is_lost_where_rounding_is_all_that_is_left(height: float, degenerate: bool) -> None:
    """Two tangents become (g, 0) and (g, g h): R_22 is g h, beside a column of length g."""
    gain = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    found = differentiable_exponents(
        lambda z: gain * torch.stack((z[:, 0] + z[:, 1], height * z[:, 1]), dim=1),
        rows((1, 1)),
        num_exponents=2,
        num_steps=1,
        initial_tangents=torch.eye(2)[None],
    )
    assert found.degenerate.tolist() == [degenerate]
    expected = [math.log(3), math.log(3 * height) if height else -math.inf]
    torch.testing.assert_close(found.exponents.detach()[0], torch.tensor(expected).double(), rtol=1e-4, atol=1e-12)
    (slope,) = torch.autograd.grad(found.exponents[0, 0], gain)
    assert slope.item() == pytest.approx(0 if degenerate else 1 / 3)


def test_nothing_to_differentiate_is_an_error() -> None:
    weights = random_network(3, 1.0).requires_grad_()

    def hidden(z: Tensor) -> Tensor:
        with torch.no_grad():
            return z @ weights.T

    request = {"num_exponents": 2, "num_steps": 2}
    with pytest.raises(ValueError, match="wants a gradient"):
        differentiable_exponents(hidden, normal(1, 3), **request)
    with torch.no_grad(), pytest.raises(ValueError, match="wants a gradient"):
        differentiable_exponents(lambda z: z @ weights.T, normal(1, 3), **request)
    with pytest.raises(ValueError, match="divisor"):
        differentiable_exponents(lambda z: z @ weights.T, normal(1, 3), qr_interval=3, **request)
