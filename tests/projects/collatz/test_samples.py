"""What an evaluation looks at beside its file, checked by division."""

import pytest

from projects.collatz.kept_out import kept_out
from projects.collatz.limbs import to_limbs
from projects.collatz.samples import (
    SIZES,
    WORD_STATES,
    WORDS,
    adversarial_states,
    mersenne_states,
    number_of_word,
    numbers_of_bits,
    orbit_states,
    slow_word,
    word_states,
)
from projects.collatz.syracuse import orbit
from tests.projects.collatz.numbers_drawn import naive_steps


def test_orbit_states_are_whole_orbits_with_each_state_once() -> None:
    states = orbit_states(3, seed=9)
    assert len(states) == len(set(states)) and 1 not in states
    assert all(naive_steps(state, 1)[0][1] in {*states, 1} for state in states)
    large = [state for state in states if state.bit_length() == 200]
    assert len(large) >= 3 and states[0] in large
    assert orbit_states(2, seed=9) == states[: len(orbit_states(2, seed=9))], "more starts only add"
    assert set(orbit_states(3, seed=10)) != set(states)


@pytest.mark.parametrize("bits", SIZES)
def test_numbers_of_bits(bits: int) -> None:
    numbers = numbers_of_bits(bits, 200, 3)
    assert all(number % 2 and number.bit_length() == bits for number in numbers)
    assert len(set(numbers)) > 190 and numbers == numbers_of_bits(bits, 200, 3)


@pytest.mark.parametrize("word", [[1], [3], [1, 1, 1, 1], [2, 1, 5, 1, 3], slow_word(12, 19) * 4, slow_word(53, 84)])
def test_a_number_of_a_word_has_its_valuations(word: list[int]) -> None:
    number = number_of_word(word)
    assert number % 2 == 1 and naive_steps(number, len(word))[1] == word
    assert number.bit_length() <= sum(word) + 1


@pytest.mark.parametrize(("steps", "halvings"), WORDS)
def test_slow_words_climb_and_fill_their_windows(steps: int, halvings: int) -> None:
    word = slow_word(steps, halvings)
    assert len(word) == steps and sum(word) == halvings and set(word) == {1, 2}
    assert 3**steps > 2**halvings
    states = word_states(steps, halvings)
    assert len(states) >= WORD_STATES and len(states) % steps == 0
    assert naive_steps(states[0], len(states) + 100)[1] == (word * (len(states) // steps + 100))[: len(states) + 100]
    assert states == naive_steps(states[0], len(states) - 1)[0]


def test_mersenne_states_grow_all_the_way() -> None:
    states = mersenne_states(32)
    assert states == orbit(2**32 - 1).states[:31]
    assert all(naive_steps(state, 1)[1] == [1] for state in states)
    assert set(adversarial_states()) == {"2^16-1", "2^32-1", "2^64-1", "2^128-1", "2^256-1", "12/19", "53/84"}


def test_kept_out_states_are_found_in_limbs_of_any_number() -> None:
    out = kept_out([2**61 + 1, 2**62 + 1, 2**100 + 1])
    other = min(set(range(3, 999, 2)) - {int(state) for state in out.states})
    asked = [1, 27, other, 703, 2**61 + 1, 2**61 + 3, 2**62 + 1, 2**62 + 27, 2**100 + 1]
    assert out.holds(to_limbs(asked)).tolist() == [True, True, False, True, True, False, False, False, False]
    assert out.holds(to_limbs([27, 5, other])).tolist() == [True, True, False]
