"""64-bit words: exact up to the last number that fits, and refused beyond it."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects.collatz import words as collatz_words
from projects.collatz.syracuse import orbit
from projects.collatz.words import LARGEST, advance, safe_steps
from tests.projects.collatz.numbers_drawn import naive_steps

words = st.integers(1, 64).flatmap(lambda bits: st.integers(2 ** (bits - 1), 2**bits - 1)).map(lambda n: n | 1)


def as_words(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.uint64)


@given(st.lists(words, min_size=1, max_size=20), st.integers(0, 40))
def test_words_are_python_integers_or_refused(numbers: list[int], steps: int) -> None:
    paths = [naive_steps(number, steps) for number in numbers]
    fits = all(3 * state + 1 < 2**64 for states, _ in paths for state in states[:-1])
    if not fits:
        with pytest.raises(OverflowError, match="does not fit into 64 bits"):
            advance(as_words(numbers), steps)
        return
    reached = advance(as_words(numbers), steps)
    assert reached.dtype == np.uint64
    assert reached.tolist() == [states[-1] for states, _ in paths]


def test_the_last_number_that_fits() -> None:
    # (2^64 - 2) / 3 rounds down to an even number; the next odd one gives exactly 2^64.
    assert LARGEST == 6148914691236517204
    assert advance(as_words([LARGEST - 1]), 1).tolist() == naive_steps(LARGEST - 1, 1)[0][1:]
    for beyond in (LARGEST + 1, LARGEST + 3, 2**64 - 1, 2**63 + 1):
        with pytest.raises(OverflowError, match=f"3 \\* {beyond} "):
            advance(as_words([5, beyond, 7]), 1)


def test_starts_whose_orbit_is_the_first_to_leave_63_and_64_bits() -> None:
    """Path records (ericr.nl/wondrous/pathrecs.html): below them all orbits fit."""
    peak = orbit(8528817511).full_max
    assert 2**63 <= peak < 2**64
    steps = orbit(8528817511).steps
    assert advance(as_words([8528817511]), steps).tolist() == [1]
    record = orbit(12327829503)
    assert record.full_max >= 2**64
    first = next(j for j, state in enumerate(record.states) if 3 * state + 1 >= 2**64)
    assert advance(as_words([12327829503]), first).tolist() == [record.states[first]]
    with pytest.raises(OverflowError):
        advance(as_words([12327829503]), first + 1)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(1)
    numbers = [random.getrandbits(40) | 1 for _ in range(1000)]
    whole = advance(as_words(numbers), 30)
    before = as_words(numbers)
    monkeypatch.setattr(collatz_words, "BLOCK", 7)
    assert np.array_equal(advance(before, 30), whole)
    assert before.tolist() == numbers, "the argument is left alone"
    assert len(advance(as_words([]), 5)) == 0


@given(words, st.integers(0, 60))
def test_the_bound_is_proven_for_the_worst_case(largest: int, most: int) -> None:
    """2^m - 1 like growth: x + 1 times 3/2 at each step, as exactly as it may come."""
    steps = safe_steps(largest, most)
    assert 0 <= steps <= most
    bound = largest
    for _ in range(steps):
        assert 3 * bound + 1 < 2**64
        bound = (3 * bound + 1) // 2
    assert steps == most or 3 * (bound + steps) + 1 >= 2**64 - 3 * 2**10, "and not far from tight"


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="even number"):
        advance(as_words([3, 4]), 1)
    with pytest.raises(ValueError, match="int64"):
        advance(np.array([3, 5]), 1)
    with pytest.raises(ValueError, match="shape"):
        advance(np.array([[3, 5]], np.uint64), 1)
