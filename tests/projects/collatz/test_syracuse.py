"""The definitions against the full map walked number by number, and against published orbits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects.collatz.syracuse import TEST_STARTS, check_odd, expansion_weight, orbit, syracuse, valuation
from tests.projects.collatz.numbers_drawn import EDGES, full_map, glide, naive_steps, odd_numbers

# Steps, growth steps, sum of valuations, odd maximum, maximum and steps of the full map (the last: OEIS A006577).
KNOWN = {
    111: (24, 14, 45, 3_077, 9_232, 69),
    27: (41, 24, 70, 3_077, 9_232, 111),
    703: (62, 37, 108, 83_501, 250_504, 170),
    26623: (113, 69, 194, 35_452_673, 106_358_020, 307),
    626331: (189, 111, 319, 2_407_427_729, 7_222_283_188, 508),
}


def test_the_five_orbits_of_the_source_document() -> None:
    assert tuple(KNOWN) == TEST_STARTS
    for start, (steps, growth, halvings, odd_max, full_max, full_steps) in KNOWN.items():
        path = orbit(start)
        assert (path.steps, path.growth_steps, sum(path.valuations)) == (steps, growth, halvings)
        assert (path.odd_max, path.full_max, path.full_steps) == (odd_max, full_max, full_steps)


@given(odd_numbers)
def test_an_orbit_is_the_full_map_without_its_even_numbers(number: int) -> None:
    visited, path = full_map(number), orbit(number)
    assert path.states == [value for value in visited if value % 2]
    assert path.full_steps == len(visited) - 1
    assert path.full_max == max(visited)
    assert path.odd_max == max(value for value in visited if value % 2)
    assert path.growth_steps == sum(b > a for a, b in zip(path.states, path.states[1:], strict=False))


@given(odd_numbers)
def test_a_step_and_its_valuation(number: int) -> None:
    states, valuations = naive_steps(number, 1)
    assert syracuse(number) == (states[1], valuations[0])
    # What later code leans on: growth is k = 1; T(n) is not divisible by 3; its residue tells k's parity.
    assert (states[1] > number) == (valuations[0] == 1 and number > 1)
    assert states[1] % 3 == (1 if valuations[0] % 2 == 0 else 2)


@given(st.integers(1, 2**300), st.integers(0, 700))
def test_valuation(odd: int, power: int) -> None:
    assert valuation((2 * odd + 1) << power) == power


def test_the_fixed_point() -> None:
    assert syracuse(1) == (1, 2)
    path = orbit(1)
    assert (path.states, path.steps, path.full_steps, path.full_max, path.odd_max) == ([1], 0, 0, 1, 1)


def test_glides() -> None:
    # Exhaustively below 2^10: 2^10's odd numbers have a longest glide of 51 steps of T (and 2^16's of 85).
    assert max(map(glide, range(3, 2**10, 2))) == 51
    assert max(map(glide, range(3, 2**16, 2))) == 85
    assert glide(27) == 37 and glide(5) == 1 and glide(3) == 2


def test_a_number_of_ones_in_binary_grows_for_all_but_one_of_its_bits() -> None:
    for bits in (2, 61, 62, 63, 127, 200):
        states, valuations = naive_steps(2**bits - 1, bits - 1)
        assert orbit(2**bits - 1).states[:bits] == states and valuations == [1] * (bits - 1)
    assert max(orbit(2**127 - 1).states).bit_length() in (201, 202), "and 3m + 1 has 203"
    assert orbit(2**127 - 1).full_max.bit_length() == 203


def test_weights() -> None:
    assert 27 * 10 ** (expansion_weight(27, 9232) - 1) == pytest.approx(9232)
    assert expansion_weight(5, 5000) == 4.0 and expansion_weight(7, 7) == 1.0
    assert expansion_weight(2**1100 + 1, 2**1100 + 1) == 1.0, "far beyond the range of a float"
    assert expansion_weight(3, 3 * 10**5000) == pytest.approx(5001), "and so is the ratio"


@pytest.mark.parametrize("number", [0, -1, -3, 2, 2**80])
def test_other_numbers_are_refused(number: int) -> None:
    for function in (check_odd, syracuse, orbit, glide):
        with pytest.raises(ValueError, match=f"found {number}, expected an odd number"):
            function(number)
    with pytest.raises(ValueError, match="expected a number above 0"):
        valuation(min(number, 0))
    with pytest.raises(ValueError, match="no glide"):
        glide(1)


def test_edges_are_odd() -> None:
    assert all(number % 2 for number in EDGES)
