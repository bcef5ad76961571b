"""Attractors and survival on trajectories whose fate is known."""

import numpy as np
import pytest
import torch

from analysis.spectra.long_trajectories import (
    SETTLED_DRIFT,
    attractor_kinds,
    long_trajectory_statistics,
    survival,
)
from analysis.spectra.spectrum_table import SpectrumTable
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


def test_outcomes_are_those_of_the_last_step_and_exponents_of_the_second_half() -> None:
    """Six steps after two measured ones: at rest, solved at the very end, lost after step 2, never solved."""
    exact = np.zeros((4, 8), bool)
    exact[0], exact[1, -1], exact[2, :2] = True, True, True
    growth = np.array([[-1.0] * 6, [9, 9, 9, -2, -2, -2], [-9, -9, -9, 0.4, 0.5, 0.6], [-9, 9, 9, -3, -3, -3]])
    drift = np.where(np.array([0, 1, 1, 1])[:, None] > 0, 0.2, 1e-6) * np.ones(8)
    arrays = {
        "row": np.arange(4), "exact": exact[:, :2], "extended_exact": exact[:, 2:], "extended_growth": growth,
        "drift": drift[:, :2], "extended_drift": drift[:, 2:], "answer_period": np.array([1, 2, 0, 1]),
        "recurrence_distance": np.array([[1e-6, 1e-6], [0.1, 1e-6], [0.1, 0.1], [0.1, 0.1]]),
    }  # fmt: skip
    found = long_trajectory_statistics(SpectrumTable("a", arrays, {}))
    assert found is not None and found["num_steps"] == 8 and found["n"] == 4
    none = {"fixed point": 0, "cycle": 0, "chaos": 0, "undecided": 0}
    assert found["kinds_at_end"]["solved"] == none | {"fixed point": 1, "cycle": 1, "n": 2}
    assert found["kinds_at_end"]["failed"] == none | {"chaos": 1, "undecided": 1, "n": 2}
    assert found["answer_constant_at_end"] == {"solved": 1, "failed": 1}
    assert found["lambda1_late_median"] == {"solved": -1.5, "failed": -1.25}
    assert found["exact_count_by_step"] == [2, 2, 1, 1, 1, 1, 1, 2]
    assert found["survival"]["solved"]["unsettled"] == [1] * 8 and found["survival"]["failed"]["unsettled"] == [2] * 8
    solved = SpectrumTable("a", {name: array[:2] for name, array in arrays.items()}, {"sample": {"pool": 9}})
    of_solved = long_trajectory_statistics(solved)
    assert of_solved is not None and of_solved["exact_count_by_step"] is None  # of a sample of cases and controls
    assert of_solved["lambda1_late_median"]["failed"] is of_solved["survival"]["failed"] is None
    del arrays["extended_growth"]
    assert long_trajectory_statistics(SpectrumTable("a", arrays, {})) is None
