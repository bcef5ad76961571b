"""Growth of real perturbations and growth as a readout sees it, against Jacobian products."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dynamics.finite_size import finite_size_growth
from dynamics.readout import readout_growth
from tests.dynamics.maps import henon, jacobians, linear, normal, random_network, rate_network, rows

SIZES = [1e-8, 1e-6, 1e-4]
CLOSE = {"rtol": 0, "atol": 1e-9}


# -- real perturbations


def test_a_similarity_grows_alike_at_every_size() -> None:
    turn = 1.3 * rows((0, -1), (1, 0))
    start = normal(3, 2)
    found = finite_size_growth(linear(turn), start, sizes=[1e-3, 0.1, 10], num_steps=8, num_directions=2)
    assert found.log_distance.shape == (3, 3, 2, 9)
    sizes = rows((1e-3, 0.1, 10)) * start.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.sizes, sizes)
    torch.testing.assert_close(found.log_distance[..., 0], sizes.log()[:, :, None].expand(-1, -1, 2), **CLOSE)
    torch.testing.assert_close(
        found.growth(), torch.full((3, 3, 2), math.log(1.3), dtype=torch.float64), rtol=0, atol=1e-7
    )
    with pytest.raises(ValueError, match="window"):
        found.growth(3, 3)


def test_small_perturbations_follow_the_tangent_and_large_ones_do_not() -> None:
    """The error is proportional to d0; a perturbation as large as the attractor does not grow."""
    start, directions = rows((0.1, 0.1), (-0.3, 0.2)), normal(2, 2, 1, seed=1)
    found = finite_size_growth(
        henon, start, sizes=[1e-7, 1e-6, 1e-5], num_steps=9, directions=directions, relative=False
    )
    for row in range(2):
        product = torch.linalg.multi_dot(jacobians(henon, start[row], 9)[::-1])
        unit = directions[row, :, 0] / directions[row].norm()
        expected = (product @ unit).norm().log() / 9
        errors = (found.growth()[row, :, 0] - expected).abs()
        assert errors[0] < 1e-5 and 5 < errors[2] / errors[1] < 20
    late = finite_size_growth(henon, rows((0.1, 0.1)), sizes=[1e-9, 1e-2], num_steps=30, relative=False)
    assert late.growth(0, 20)[0, 0] > 0.2 and late.log_distance[0, :, 0, 30].exp().max() < 4


def test_a_tree_a_sequence_and_a_broken_example() -> None:
    def double(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"a": 2 * state["a"], "b": state["b"]}

    start = {"a": normal(2, 3), "b": normal(2, 1, 2)}
    start["a"][1, 0] = math.nan
    along = torch.zeros(2, 5, 2).double()
    along[:, 0, 0] = along[:, 4, 1] = 3
    found = finite_size_growth([double, double], start, sizes=SIZES, num_steps=3, directions=along, relative=False)
    expected = rows((math.log(4), 0)).expand(3, -1)
    torch.testing.assert_close(found.growth()[0], expected, rtol=0, atol=1e-7)
    assert found.log_distance[1].isnan().all()


def test_rounding_swallows_what_is_too_small() -> None:
    start = torch.ones(1, 3)
    found = finite_size_growth(lambda z: 2 * z, start, sizes=[1e-12, 1e-2], num_steps=2)
    assert (found.log_distance[0, 0] == -math.inf).all()
    assert found.growth()[0, 1, 0].item() == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": []}, "positive distances"),
        ({"sizes": [0.0]}, "positive distances"),
        ({"sizes": [math.nan]}, "positive distances"),
        ({"num_steps": 0}, "at least 1"),
        ({"num_directions": 0}, "at least 1"),
        ({"directions": torch.ones(3, 2, 1)}, "expected \\(B, D, n\\)"),
        ({"directions": torch.zeros(2, 2, 1)}, "zero or not finite"),
    ],
)
def test_bad_sweeps(changes: dict[str, Any], message: str) -> None:
    request: dict[str, Any] = {"sizes": [1e-3], "num_steps": 2} | changes
    with pytest.raises(ValueError, match=message):
        finite_size_growth(henon, normal(2, 2), **request)


# -- the readout


def test_readout_growth_against_the_whole_product() -> None:
    """Nothing is orthogonalised on the way: each tangent is followed on its own."""
    advance, start = rate_network(random_network(5, 2.0)), normal(2, 5)
    weights = normal(3, 5, seed=2)
    tangents = torch.linalg.qr(normal(2, 5, 2, seed=3)).Q
    tangents = tangents * torch.tensor([1.0, -1.0]).double()

    def readout(z: Tensor) -> Tensor:
        return (z @ weights.T).sigmoid()[:, None]

    found = readout_growth([advance, advance], start, readout, num_steps=4, num_tangents=2, initial_tangents=tangents)
    assert found.shape == (2, 2, 5)
    for row in range(2):
        state, pushed = start[row], tangents[row]
        steps = jacobians(advance, state, 8)
        for step in range(5):
            slope = torch.autograd.functional.jacobian(lambda z: readout(z[None])[0, 0], state)
            torch.testing.assert_close(found[row, :, step], (slope @ pushed).norm(dim=0).log(), **CLOSE)
            for one in steps[2 * step : 2 * step + 2]:
                state, pushed = advance(state[None])[0], one @ pushed


def test_what_the_readout_does_not_see() -> None:
    """A direction outside, a direction that the map annihilates, growth beyond float64, an example that is NaN."""
    factors = rows((1e200, 0.5, 0.0))[0]
    start = torch.zeros(2, 3).double()
    start[1] = math.nan
    found = readout_growth(
        lambda z: factors * z, start, lambda z: z[:, [0, 2]].sum(dim=1), num_steps=3, num_tangents=3,
        initial_tangents=torch.eye(3).expand(2, 3, 3),
    )  # fmt: skip
    big = [step * 200 * math.log(10) for step in range(4)]
    nothing = -math.inf
    expected = rows(big, [nothing] * 4, [0, nothing, nothing, nothing])
    torch.testing.assert_close(found[0], expected, rtol=1e-12, atol=1e-12)
    assert found[1].isnan().all()


def test_a_readout_of_another_batch() -> None:
    with pytest.raises(ValueError, match="the readout returns"):
        readout_growth(henon, normal(2, 2), lambda z: z.sum(), num_steps=1)
    with pytest.raises(ValueError, match="num_steps=0"):
        readout_growth(henon, normal(2, 2), lambda z: z, num_steps=0)
