"""Attractors and survival on trajectories whose fate is known."""

import numpy as np
import pytest
import torch

from analysis.spectra.long_trajectories import SETTLED_DRIFT, attractor_kinds, survival
from dynamics.lyapunov import lyapunov_spectrum
from dynamics.trajectory import recurrence


@pytest.mark.parametrize(
    ("r", "kind"), [(2.5, "fixed point"), (3.2, "cycle"), (3.5, "cycle"), (3.9, "chaos"), (4.0, "chaos")]
)
def test_logistic_map(r: float, kind: str) -> None:
    def logistic(x: torch.Tensor) -> torch.Tensor:
        return r * x * (1 - x)

    state = torch.tensor([[0.3], [0.37]], dtype=torch.float64)
    for _ in range(800):  # onto the attractor, without a tangent: in one dimension none has to align
        state = logistic(state)
    result = lyapunov_spectrum(logistic, state, num_exponents=1, num_steps=200)
    _, distances = recurrence(logistic, result.final_state, 8, 0.0)
    late = result.local_growth[:, 100:, 0].mean(dim=1).numpy()
    assert attractor_kinds(distances.numpy(), late).tolist() == [kind, kind]


def test_kinds_that_are_not_decided() -> None:
    distances = np.array([[0.1, 0.1], [np.nan, np.nan], [0.1, 1e-6]])
    assert attractor_kinds(distances, np.array([-0.1, np.nan, 0.5])).tolist() == ["undecided", "undecided", "cycle"]


def test_survival_counts_the_last_movement() -> None:
    rest, move = SETTLED_DRIFT / 2, SETTLED_DRIFT * 2
    drift = np.array([[move, rest, rest, rest], [move, rest, move, rest], [move] * 4, [np.nan] * 4])
    curve = survival(drift)
    assert curve.unsettled.tolist() == [4, 3, 3, 2] and curve.total == 4
    # Second half: three at risk after step 3, one of them settles.
    assert curve.escape_rate == pytest.approx(1 / 3)
    assert curve.low is not None and curve.high is not None and curve.low < 1 / 3 < curve.high


def test_escape_rate_of_an_exponential_tail() -> None:
    rate = 0.05
    lives = np.random.default_rng(0).geometric(rate, size=4000)
    drift = np.where(np.arange(1, 101)[None] < lives[:, None], 1.0, 0.0)
    curve = survival(drift)
    assert curve.low is not None and curve.high is not None and curve.low < rate < curve.high
    assert curve.high - curve.low < 0.02


def test_nothing_at_risk() -> None:
    curve = survival(np.zeros((5, 10)))
    assert curve.unsettled.tolist() == [0] * 10 and curve.escape_rate is None
