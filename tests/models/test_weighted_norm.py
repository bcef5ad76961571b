"""The weighted norm and the coordinates in which it is the Euclidean one."""

import math

import torch

from dynamics.lyapunov import lyapunov_spectrum
from models.recursion import RecurrentState
from models.weighted_norm import MetricWeights, from_metric, in_metric, state_norm, to_metric

WEIGHTS = MetricWeights(1.0, 16.0)


def state(seed: int = 0) -> RecurrentState:
    generator = torch.Generator().manual_seed(seed)
    return RecurrentState(*(torch.randn(3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2)))


def test_norm_by_hand() -> None:
    one = RecurrentState(torch.full((1, 1, 2), 3.0).double(), torch.full((1, 1, 2), 0.5).double())
    assert state_norm(one, WEIGHTS).tolist() == [math.sqrt(18 + 16 * 0.5)]
    assert state_norm(state(), WEIGHTS).shape == (3,) and WEIGHTS.condition == 16
    assert MetricWeights(1.0, 0.25).condition == 4


def test_coordinates_and_back() -> None:
    moved = to_metric(state(), WEIGHTS)
    torch.testing.assert_close(state_norm(moved, MetricWeights(1, 1)), state_norm(state(), WEIGHTS))
    for a, b in zip(from_metric(moved, WEIGHTS), state(), strict=True):
        assert torch.equal(a, b)  # the root of 16 is a power of two


def test_a_shear_grows_in_one_norm_and_shrinks_in_the_other() -> None:
    """(h, l) -> (0.5 h + 1.5 l, 0.5 l): in the weights (1, 16) its singular values are of [[.5, .375], [0, .5]]."""

    def shear(z: RecurrentState) -> RecurrentState:
        return RecurrentState(0.5 * z.z_H + 1.5 * z.z_L, 0.5 * z.z_L)

    def growth(maps: list, start: RecurrentState, steps: int) -> torch.Tensor:
        return lyapunov_spectrum(maps, start, num_exponents=8, num_steps=steps).svd_exponents

    plain = growth([shear], state(), 1)
    weighted = growth(in_metric([shear], WEIGHTS), to_metric(state(), WEIGHTS), 1)
    for found, cross in ((plain, 1.5), (weighted, 0.375)):
        expected = torch.linalg.svdvals(torch.tensor([[0.5, cross], [0, 0.5]], dtype=torch.float64)).log()
        torch.testing.assert_close(found, expected.repeat_interleave(4).expand(3, 8), rtol=0, atol=1e-9)
    assert (plain[:, 0] > 0).all() and (weighted < 0).all()
    # Over T steps the two differ by at most ln(16) / (2 T).
    for steps in (1, 4, 16):
        plain = growth([shear], state(), steps)
        weighted = growth(in_metric([shear], WEIGHTS), to_metric(state(), WEIGHTS), steps)
        assert 0 < (plain - weighted)[:, 0].max() <= math.log(WEIGHTS.condition) / (2 * steps) + 1e-9
