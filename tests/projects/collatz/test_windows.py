"""Windows and labels against Python integers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.collatz import labels as collatz_labels
from projects.collatz import windows as collatz_windows
from projects.collatz.labels import labels_of
from projects.collatz.syracuse import TEST_STARTS, orbit
from projects.collatz.windows import Windows, orbit_windows, windows_of
from tests.projects.collatz.numbers_drawn import EDGES, full_map, naive_steps, odd_numbers

lookaheads = st.integers(1, 40)


def check(windows: Windows, numbers: list[int], lookahead: int) -> None:
    """Logarithms and valuations bit for bit; ranks are in the order of the states and equal where those are."""
    assert windows.lookahead == lookahead and len(windows) == len(numbers)
    for row, number in enumerate(numbers):
        states, valuations = naive_steps(number, lookahead + 1)
        assert windows.logs[row].tolist() == [math.log(state) for state in states]
        assert windows.valuations[row].tolist() == valuations
        order = windows.ranks[row].tolist()
        for a, rank in zip(states, order, strict=True):
            assert [rank > other for other in order] == [a > b for b in states]
            assert [rank == other for other in order] == [a == b for b in states]
    growth = [naive_steps(number, 1)[0][1] > number for number in numbers]
    assert (windows.ranks[:, 1] > windows.ranks[:, 0]).tolist() == growth


@given(st.lists(odd_numbers, min_size=1, max_size=6), lookaheads)
def test_windows_of_any_numbers(numbers: list[int], lookahead: int) -> None:
    (windows,) = windows_of(numbers, lookahead)
    check(windows, numbers, lookahead)


def test_windows_of_the_edges_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collatz_windows, "BLOCK", 50)
    blocks = list(windows_of(EDGES, 12))
    assert [len(block) for block in blocks[:-1]] == [50] * (len(blocks) - 1) and len(blocks) > 2
    for start, block in zip(range(0, len(EDGES), 50), blocks, strict=True):
        check(block, EDGES[start : start + 50], 12)
    assert list(windows_of([], 5)) == []


@pytest.mark.parametrize("lookahead", [1, 20, 100])
def test_windows_along_an_orbit_are_those_of_its_states(lookahead: int) -> None:
    for start in (*TEST_STARTS, 3, 2**90 - 1):
        path = orbit(start)
        windows = orbit_windows(path, lookahead)
        check(windows, path.states[:-1], lookahead)
        (same,) = windows_of(path.states[:-1], lookahead)
        assert np.array_equal(windows.logs, same.logs) and np.array_equal(windows.valuations, same.valuations)
        assert len(windows.cut(slice(2, 5))) == min(3, max(0, path.steps - 2))


def test_the_orbit_of_1_has_no_step() -> None:
    assert len(orbit_windows(orbit(1), 3)) == 0


@given(odd_numbers, st.integers(1, 12), st.integers(1, 2**80))
def test_a_window_is_a_residue(number: int, lookahead: int, factor: int) -> None:
    """n + 81 * 2^(k_1 + ... + k_L + 1) t has the valuations k_1..k_L of n and its residues modulo 3, 9, 27 and 81."""
    _, valuations = naive_steps(number, lookahead)
    other = number + 81 * 2 ** (sum(valuations) + 1) * factor
    (windows,) = windows_of([number, other], lookahead)
    assert windows.valuations[0, :lookahead].tolist() == windows.valuations[1, :lookahead].tolist() == valuations
    assert number % 81 == other % 81


@settings(max_examples=20, deadline=None)
@given(st.lists(odd_numbers, min_size=1, max_size=6))
def test_labels(numbers: list[int]) -> None:
    for number, label in zip(numbers, labels_of(numbers), strict=True):
        visited = full_map(number)
        assert label.t1 == naive_steps(number, 1)[0][1]
        assert label.full_steps == len(visited) - 1
        assert label.full_max == max(visited)


def test_labels_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of all sizes, 1 among them, arrive at different times; all edges and the first odd numbers."""
    monkeypatch.setattr(collatz_labels, "BLOCK", 64)
    numbers = EDGES + list(range(1, 400, 2))
    for number, label in zip(numbers, labels_of(numbers), strict=True):
        path = orbit(number)
        assert (label.full_steps, label.full_max) == (path.full_steps, path.full_max)


def test_other_numbers_have_no_label() -> None:
    for numbers in ([3, 4], [3, -5], [0]):
        with pytest.raises(ValueError):
            list(labels_of(numbers))
