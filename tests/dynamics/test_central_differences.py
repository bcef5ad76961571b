"""Central differences on maps whose derivative, kink and rounding are known in closed form."""

import pytest
import torch

from dynamics.central_differences import central_differences, one_direction
from dynamics.flat_state import StateLayout
from tests.dynamics.maps import normal


def test_cubes_and_a_kink_by_leaf() -> None:
    """The cube's difference is 3 z^2 d + h^2 d^3 exactly; |z| from 0 has the derivative 0 and a kink of 2 |d|."""
    state = {"cube": normal(3, 2, 2), "kink": torch.zeros(3, 5, dtype=torch.float64)}
    layout = StateLayout(state)
    leaves = layout.leaves(state)
    direction = one_direction(layout)
    assert direction.shape == (3, 9) and (direction == direction[0]).all()
    cube, kink = central_differences(
        lambda z: {"cube": z["cube"] ** 3, "kink": z["kink"].abs()}, layout, leaves, direction
    )
    eps, point = torch.finfo(torch.float64).eps, layout.flatten(leaves)
    h = eps ** (1 / 3) * (1 + point.norm(dim=1)) / direction.norm(dim=1)
    d = direction[:, :4]
    exact = 3 * point[:, :4] ** 2 * d + h[:, None] ** 2 * d**3
    torch.testing.assert_close(cube.derivative, exact, rtol=0, atol=1e-9)
    assert ((cube.derivative - exact).norm(dim=1) <= cube.noise).all()
    torch.testing.assert_close(cube.half_kink, h * (3 * point[:, :4] * d**2).norm(dim=1), rtol=1e-3, atol=0)
    assert (kink.derivative == 0).all()
    torch.testing.assert_close(kink.half_kink, direction[:, 4:].norm(dim=1), rtol=1e-9, atol=0)
    torch.testing.assert_close(kink.noise, 10 * eps * direction[:, 4:].norm(dim=1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_a_linear_map_in_float32(factor: float) -> None:
    """Off by rounding alone, which is within what it says; the direction's length does not matter."""
    state = normal(2, 7).float()
    layout = StateLayout(state)
    for length in (1.0, 1e3):
        direction = length * one_direction(layout)
        (found,) = central_differences(lambda z: factor * z, layout, [state], direction)
        error = (found.derivative - factor * direction).norm(dim=1)
        assert (error <= found.noise).all() and (found.noise < 1e-2 * direction.norm(dim=1)).all()
