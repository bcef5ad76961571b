"""Limbs against Python integers, at any size and where limbs begin and end."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.collatz import limbs as collatz_limbs
from projects.collatz.limbs import (
    CHUNK,
    LIMB_BITS,
    Stepper,
    advance,
    from_limbs,
    is_greater,
    is_one,
    logarithms,
    remainders,
    resized,
    to_limbs,
    trajectory,
)
from tests.projects.collatz.numbers_drawn import EDGES, naive_steps, odd_numbers

batches = st.lists(odd_numbers, min_size=1, max_size=12)
naturals = st.lists(st.integers(0, 2**260), min_size=1, max_size=12)


@given(batches, st.integers(0, 3 * CHUNK))
def test_trajectories_are_those_of_python_integers(numbers: list[int], steps: int) -> None:
    states, valuations = trajectory(to_limbs(numbers), steps)
    paths = [naive_steps(number, steps) for number in numbers]
    for step in range(steps + 1):
        assert from_limbs(states[step]) == [path[step] for path, _ in paths]
    assert valuations.T.tolist() == [k for _, k in paths]
    assert np.all(states < 2**LIMB_BITS)
    assert from_limbs(advance(to_limbs(numbers), steps)) == [path[-1] for path, _ in paths]


def test_all_edges_at_once_for_long() -> None:
    """Also 2^m - 1, which grow by limbs, and (4^m - 1)/3, which fall over several limbs of zeros in one step."""
    steps = 500
    states, valuations = trajectory(to_limbs(EDGES), steps)
    for column, number in enumerate(EDGES):
        path, k = naive_steps(number, steps)
        assert valuations[:, column].tolist() == k
        assert from_limbs(states[:, :, column].T) == path
    assert valuations.max() >= 3 * LIMB_BITS


def test_one_step_over_whole_limbs() -> None:
    """3n + 1 = 2^k for every even k: a valuation of any size, in one batch with ordinary numbers."""
    powers = range(2, 2000, 2)
    numbers = [(2**k - 1) // 3 for k in powers] + [27, 3 * 2**500 + 1]
    states, valuations = trajectory(to_limbs(numbers), 1)
    assert valuations[0].tolist() == [*powers, *(naive_steps(n, 1)[1][0] for n in numbers[-2:])]
    assert from_limbs(states[1]) == [1] * len(powers) + [naive_steps(n, 1)[0][1] for n in numbers[-2:]]


def test_128_bits_need_more_than_three_limbs_of_room() -> None:
    steps = 126
    (last,) = from_limbs(advance(to_limbs([2**127 - 1]), steps))
    assert last == naive_steps(2**127 - 1, steps)[0][-1] and last.bit_length() > 3 * LIMB_BITS


def test_the_arrays_shrink_with_the_numbers() -> None:
    stepper = Stepper(to_limbs([2**250 - 1, 2**200 + 1]))
    lengths = set()
    for _ in range(3000):
        stepper.step()
        lengths.add(len(stepper.limbs))
    assert from_limbs(stepper.limbs) == [1, 1] and len(stepper.limbs) == 1 and max(lengths) >= 7


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(2)
    numbers = [random.getrandbits(random.randint(1, 300)) | 1 for _ in range(100)]
    whole = from_limbs(advance(to_limbs(numbers), 40))
    monkeypatch.setattr(collatz_limbs, "BLOCK", 7)
    limbs = to_limbs(numbers)
    assert from_limbs(advance(limbs, 40)) == whole
    assert from_limbs(limbs) == numbers, "the argument is left alone"
    assert advance(to_limbs([]), 5).shape[1] == 0


@given(st.lists(odd_numbers, min_size=2, max_size=9), st.data())
def test_numbers_may_leave_the_batch(numbers: list[int], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    before, after = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 40))
    stepper = Stepper(to_limbs(numbers), track_largest=True)
    for _ in range(before):
        stepper.step()
    stepper.keep(np.array(chosen))
    for _ in range(after):
        stepper.step()
    kept = [number for number, keep in zip(numbers, chosen, strict=True) if keep]
    paths = [naive_steps(number, before + after)[0] for number in kept]
    assert stepper.largest is not None
    if kept:
        assert from_limbs(stepper.limbs) == [path[-1] for path in paths]
        assert from_limbs(stepper.largest) == [
            max([path[0]] + [3 * state + 1 for state in path[:-1]]) for path in paths
        ]


@given(naturals)
def test_there_and_back(numbers: list[int]) -> None:
    limbs = to_limbs(numbers)
    assert from_limbs(limbs) == numbers and np.all(limbs < 2**LIMB_BITS)
    assert len(limbs) == max(1, -(-max(numbers).bit_length() // LIMB_BITS)), "no more than needed"
    assert from_limbs(resized(limbs, len(limbs) + 2)) == numbers


def test_no_digit_is_dropped() -> None:
    limbs = to_limbs([1, 2**LIMB_BITS])
    with pytest.raises(ValueError, match="do not fit into 1 limbs"):
        resized(limbs, 1)
    assert from_limbs(resized(to_limbs([5, 2**70]), 2)) == [5, 2**70]
    with pytest.raises(ValueError, match="negative"):
        to_limbs([3, -1])


@given(naturals, st.data())
def test_comparisons(left: list[int], data: st.DataObject) -> None:
    near = st.sampled_from([0, 1, -1, 2**62, -(2**62), 2**124])
    right = [max(0, number + data.draw(near)) for number in left]
    length = len(to_limbs([*left, *right]))
    a, b = resized(to_limbs(left), length), resized(to_limbs(right), length)
    assert is_greater(a, b).tolist() == [x > y for x, y in zip(left, right, strict=True)]
    assert is_one(a).tolist() == [x == 1 for x in left]


@given(naturals, st.integers(1, 2**31 - 1))
def test_remainders(numbers: list[int], modulus: int) -> None:
    assert remainders(to_limbs(numbers), modulus).tolist() == [number % modulus for number in numbers]


@given(st.lists(st.integers(1, 2**600), min_size=1, max_size=12))
def test_logarithms_are_pythons(numbers: list[int]) -> None:
    assert logarithms(to_limbs(numbers)).tolist() == [math.log(number) for number in numbers]


def test_logarithms_where_rounding_is_a_matter_of_the_last_bit() -> None:
    """Halves between two floats, with a single one far below: rounded once, or wrongly."""
    halves = [(2**53 + odd) << shift for odd in (1, 3) for shift in (0, 5, 9, 10, 60, 71, 200, 300)]
    numbers = [half + offset for half in halves for offset in (-1, 0, 1)]
    numbers += [2**k + offset for k in range(1, 900) for offset in (-1, 0, 1)]
    assert logarithms(to_limbs(numbers)).tolist() == [math.log(number) for number in numbers]


@settings(max_examples=20)
@given(st.integers(900, 9000).flatmap(lambda bits: st.integers(2 ** (bits - 1), 2**bits)))
def test_logarithms_beyond_the_range_of_a_float(number: int) -> None:
    assert logarithms(to_limbs([number, 7])).tolist() == pytest.approx([math.log(number), math.log(7)], rel=1e-15)


def test_even_numbers_are_refused() -> None:
    for numbers in ([3, 4], [2**70], [0]):
        with pytest.raises(ValueError, match="even number"):
            advance(to_limbs(numbers), 1)
