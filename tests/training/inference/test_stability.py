"""The stability probe on maps whose growth is known, and what it does not depend on."""

import math

import pytest
import torch

from models.recursion import RecurrentState, SupervisionStep
from tests.models.small import small_batch, small_model
from training.inference.stability import StabilityProbe

ROWS = torch.tensor([3, 8, 1])


def scaled(factor: float) -> SupervisionStep:
    """Both states times a number, about a point that stays."""
    return SupervisionStep([lambda state: RecurrentState(*(1 + factor * (leaf - 1) for leaf in state))], 0)


def state(dtype: torch.dtype = torch.float64) -> RecurrentState:
    generator = torch.Generator().manual_seed(0)
    return RecurrentState(*(torch.randn(3, 4, 8, generator=generator, dtype=torch.float64).to(dtype) for _ in "HL"))


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_linear_map_grows_by_its_logarithm(factor: float) -> None:
    probe = StabilityProbe((1e-3, 1e-2, 1e-1), num_steps=3, num_directions=2)
    growth = probe.growth(scaled(factor), state(), ROWS, 0, 5)
    assert growth.shape == (3, 3) and growth.dtype == torch.float32
    assert torch.allclose(growth, torch.full((3, 3), math.log(factor)), rtol=0, atol=1e-6)


def test_a_direction_of_each_state_is_seen() -> None:
    """z_H is doubled and z_L quartered: growth lies between, as the squared norms of two halves of equal size say."""
    step = SupervisionStep([lambda at: RecurrentState(2 * at.z_H, at.z_L / 4)], 0)
    growth = StabilityProbe((1e-3,), num_steps=1, num_directions=50).growth(step, state(), ROWS, 0, 5)
    assert torch.allclose(growth, torch.full((3, 1), 0.5 * math.log((4 + 1 / 16) / 2)), atol=0.03)


@pytest.mark.parametrize("factor", [0.0, 1e-5])
def test_what_the_arithmetic_cannot_resolve_counts_as_its_resolution(factor: float) -> None:
    """A map onto a point, in float32: both trajectories coincide, and every such state is equally stable."""
    growth = StabilityProbe((1e-3,), num_steps=2).growth(scaled(factor), state(torch.float32), ROWS, 0, 5)
    expected = math.log(torch.finfo(torch.float32).eps / 1e-3) / 2
    assert torch.allclose(growth, torch.full((3, 1), expected), atol=1e-3)


def test_states_that_are_not_finite_are_told() -> None:
    step = SupervisionStep([lambda at: RecurrentState(at.z_H.log(), at.z_L)], 0)
    assert StabilityProbe((1e-3,)).growth(step, state(), ROWS, 0, 5).isnan().all()


def test_directions_depend_on_row_rollout_and_step_alone() -> None:
    model, batch = small_model("trm-att").eval(), small_batch(3)
    probe = StabilityProbe((1e-2,), num_steps=2, num_directions=3)

    def growth(order: list[int], rollout: int = 0, moment: int = 5, probe: StabilityProbe = probe) -> torch.Tensor:
        chosen = torch.tensor(order)
        step = model.supervision_step(model.embed({key: leaf[chosen] for key, leaf in batch.items()}))
        return probe.growth(step, model.initial_state(len(order)), ROWS[chosen], rollout, moment)

    whole = growth([0, 1, 2])
    assert torch.allclose(growth([2, 0]), whole[[2, 0]], rtol=0, atol=1e-6)
    assert torch.equal(growth([0, 1, 2]), whole)
    other = [growth([0, 1, 2], rollout=1), growth([0, 1, 2], moment=6)]
    other.append(growth([0, 1, 2], probe=StabilityProbe((1e-2,), num_steps=2, num_directions=3, seed=1)))
    assert all((each != whole).all() for each in other)
    sizes = StabilityProbe((1e-2, 1e-3), num_steps=2, num_directions=3)
    assert torch.equal(growth([0, 1, 2], probe=sizes)[:, :1], whole), "a second size changes nothing of the first"
