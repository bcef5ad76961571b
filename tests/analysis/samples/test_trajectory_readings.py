"""What is read of a trajectory that is made by hand: formulas by another route, which steps, which sign."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from analysis.samples.trajectory_readings import TrajectoryRecorder, free_scores, late_steps
from analysis.spectra.long_trajectories import RETURN_TOLERANCE, SETTLED_DRIFT
from analysis.spectra.spectrum_table import SpectrumTable
from models.recursion import RecurrentState
from models.recursion_maps import Readings


def state(*values: float) -> RecurrentState:
    """Two rows; z_H holds the first value, z_L the others."""
    z_H, z_L = torch.tensor(values[:1]), torch.tensor(values[1:])
    return RecurrentState(z_H.expand(2, 1, 1).clone(), z_L.expand(2, 1, len(z_L)).clone())


def recorder(logits: torch.Tensor, q_halt: list[float], start: RecurrentState, inputs: list[list[int]]) -> Any:
    """A network that says these logits (T, B, S, V) and halting values (T), whatever the state."""
    said = iter(range(len(logits)))

    def read(_: RecurrentState) -> Readings:
        step = next(said)
        labels = torch.zeros(logits.shape[1:3], dtype=torch.long)
        exact = (logits[step].argmax(dim=-1) == labels).all(dim=1)
        return Readings(logits[step], torch.tensor([q_halt[step], -q_halt[step]]), exact)

    maps: Any = SimpleNamespace(read=read, batch={"inputs": torch.tensor(inputs)})
    return TrajectoryRecorder(maps, start, lambda answers: answers.sum(axis=1))


def test_readings_of_a_hand_made_trajectory() -> None:
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=(3, 2, 4, 5)) * 3)
    inputs = [[1, 2, 0, 1], [1, 1, 1, 1]]  # a cell of padding, which nothing is said of
    states = [state(3.0, 4.0, 0.0), state(3.0, 4.0, 12.0), state(3.0, 4.0, 12.0), state(0.0, 0.0, 1.0)]
    record = recorder(logits, [0.5, -2.0, 7.0], states[0], inputs)
    for reached in states[1:]:
        record(reached)
    arrays = record.arrays()
    np.testing.assert_allclose(arrays["norm"], [[13, 13, 1]] * 2)
    np.testing.assert_allclose(arrays["drift"], [[12 / 13, 0, np.sqrt(9 + 16 + 121)]] * 2)
    np.testing.assert_allclose(arrays["q_halt"], [[0.5, -2, 7], [-0.5, 2, -7]])
    shares, cells = softmax(logits.numpy(), axis=-1), np.array(inputs) != 0
    answers = shares.argmax(axis=-1)
    for row in range(2):
        for step in range(3):
            of_cells = shares[step, row][cells[row]]
            largest = np.sort(of_cells, axis=1)[:, ::-1]
            assert arrays["margin"][row, step] == pytest.approx(np.log(largest[:, 0] / largest[:, 1]).mean())
            assert arrays["entropy"][row, step] == pytest.approx(entropy(of_cells, axis=1).mean())
            assert arrays["violations"][row, step] == answers[step, row].sum()
            before = answers[step - 1, row] if step else np.full(4, -1)
            assert arrays["changed"][row, step] == ((answers[step, row] != before) & cells[row]).sum()


@pytest.mark.parametrize(("steps", "late"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 3), (7, 3), (8, 4), (16, 4), (256, 4)])
def test_the_end_is_the_last_four_steps_or_half_of_few(steps: int, late: int) -> None:
    assert late_steps(steps) == late


def test_free_signs_are_of_the_end_and_more_means_failure() -> None:
    """Every array ascends with the steps and tells the second puzzle from the first, at its end only."""
    steps = 16
    rise = np.arange(1.0, steps + 1)
    pair = np.stack([np.r_[rise[:-1], 20.0], np.r_[rise[:-1], 30.0]])
    names = ("q_halt", "margin", "entropy", "changed", "violations", "drift")
    arrays = {name: pair.copy() for name in names} | {"residual": np.array([0.1, 0.2])}
    arrays |= {"step_growth": np.zeros((2, steps, 1)), "exact": np.ones((2, steps), bool), "row": np.arange(2)}
    table = SpectrumTable("a", arrays, {})
    late = (13 + 14 + 15 + np.array([20, 30])) / 4
    np.testing.assert_allclose(table.late_drift, late)
    ends = np.array([20, 30])
    expected = {
        "late_drift": late,
        "residual": np.array([0.1, 0.2]),
        "minus_q_halt": -ends,
        "minus_logit_margin": -ends,
    }
    expected |= {"entropy": ends, "changed_cells": ends, "violations": ends}
    assert table.baselines.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(table.baselines[name], values)
    del arrays["violations"]
    assert "violations" not in free_scores(arrays, late)


def test_thresholds_are_those_that_are_told() -> None:
    """Captions name them; a float32 state returns to about 1e-6 of itself."""
    assert (SETTLED_DRIFT, RETURN_TOLERANCE) == (1e-3, 1e-4)
