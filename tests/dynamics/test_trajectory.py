"""Where a trajectory settles: residual, recurrence."""

import math

import torch
from torch import Tensor

from dynamics.trajectory import apply_once, recurrence, residual, trajectory
from tests.dynamics.maps import normal, rows


def quadratic(z: Tensor) -> Tensor:
    """Per example a logistic map of another rate, (B, 2) with the rate as a component that stays."""
    return torch.stack((z[:, 1] * z[:, 0] * (1 - z[:, 0]), z[:, 1]), dim=1)


def test_trajectory_is_the_map_again_and_again() -> None:
    start = rows((0.3, 3.9))
    states = list(trajectory([quadratic, quadratic], start, 3))
    expected = start
    for state in states:
        expected = quadratic(quadratic(expected))
        assert torch.equal(state, expected)
    assert len(states) == 3 and torch.equal(apply_once(quadratic, start), quadratic(start))


def test_residual_is_relative_and_zero_at_a_fixed_point() -> None:
    start = {"a": normal(3, 4), "b": normal(3, 2, 2, seed=1)}

    def advance(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"a": state["a"] + 1, "b": state["b"]}

    sizes = torch.cat((start["a"], start["b"].flatten(1)), dim=1).norm(dim=1)
    torch.testing.assert_close(residual(advance, start), 2 / sizes)
    assert residual(lambda z: z, torch.zeros(2, 3)).tolist() == [0, 0]
    fixed = rows((1 - 1 / 2.9, 2.9))
    assert residual(quadratic, fixed).item() < 1e-15


def test_periods_of_the_logistic_map() -> None:
    """Rates with a stable fixed point, cycles of 2, 4 and 3, chaos, and one that is not finite."""
    rates = [2.9, 3.2, 3.5, 3.83, 3.9, math.nan]
    state = rows(*[(0.3, rate) for rate in rates])
    for later in trajectory(quadratic, state, 3000):
        state = later
    periods, distances = recurrence(quadratic, state, 8, 1e-9)
    assert periods.tolist() == [1, 2, 4, 3, 0, 0]
    assert distances.shape == (6, 8) and distances[1, 1] < 1e-9 < 1e-3 < distances[1, 0]
    assert recurrence(quadratic, state, 3, 1e-9)[0].tolist() == [1, 2, 0, 3, 0, 0]
    # In steps of two maps.
    assert recurrence([quadratic, quadratic], state, 4, 1e-9)[0].tolist() == [1, 1, 2, 3, 0, 0]
