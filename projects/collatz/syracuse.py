"""The odd-only Collatz (Syracuse) map in Python integers: the definitions, exact at any size.

T(n) = (3n + 1) / 2^k for odd n >= 1, with k = v2(3n + 1); T(1) = 1 with k = 2. One *step* is one application of T; the
*full map* also visits 3n + 1 and its halvings. `words` (64 bits) and `limbs` (any size) do
the same to many numbers at once and are tested against this module.

Source: the Syracuse map as in Tao 2022, Forum Math Pi 10:e12; record orbits OEIS A006877 and A033958.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

# Trajectories that are reported beside the evaluation set, in the order of the source document.
TEST_STARTS = (111, 27, 703, 26623, 626331)


def valuation(number: int) -> int:
    """v2: how often 2 divides `number`. Errors: `ValueError` below 1 (every power of 2 divides 0)."""
    if number < 1:
        raise ValueError(f"the 2-adic valuation of {number} is asked for, expected a number above 0")
    return (number & -number).bit_length() - 1


def syracuse(number: int) -> tuple[int, int]:
    """(T(n), k) of an odd n >= 1. Errors: `ValueError` for another number."""
    check_odd(number)
    tripled = 3 * number + 1
    k = valuation(tripled)
    return tripled >> k, k


def check_odd(number: int) -> None:
    """Errors: `ValueError` unless `number` is odd and above 0."""
    if number < 1 or number % 2 == 0:
        raise ValueError(f"found {number}, expected an odd number above 0")


def steps_from(number: int) -> Iterator[tuple[int, int]]:
    """(T^j(n), k_j) for j = 1, 2, ...; without end, since 1 -> 1."""
    while True:
        number, k = syracuse(number)
        yield number, k


@dataclass(frozen=True)
class Orbit:
    """The states n, T(n), ..., 1 of an orbit, and the valuations k_1, ..., of its steps."""

    states: list[int]
    valuations: list[int]

    @property
    def steps(self) -> int:
        """Applications of T until 1."""
        return len(self.valuations)

    @property
    def growth_steps(self) -> int:
        """Steps with T(m) > m, which are those with k = 1."""
        return self.valuations.count(1)

    @property
    def full_steps(self) -> int:
        """Triplings and halvings of the full map until 1: sigma."""
        return self.steps + sum(self.valuations)

    @property
    def odd_max(self) -> int:
        """The largest odd state, the start included."""
        return max(self.states)

    @property
    def full_max(self) -> int:
        """The largest number of the full map, the start included: 3m + 1 of some state, except from 1."""
        return max([self.states[0]] + [3 * state + 1 for state in self.states[:-1]])


def orbit(start: int) -> Orbit:
    """The orbit of an odd number down to 1. Errors: `ValueError` for another number."""
    check_odd(start)
    states, valuations = [start], []
    for state, k in steps_from(start):
        if states[-1] == 1:
            break
        states.append(state)
        valuations.append(k)
    return Orbit(states, valuations)


def expansion_weight(number: int, full_max: int) -> float:
    """log10(max(1, max / n)) + 1: how much a row weighs in the weighted rates."""
    try:
        return math.log10(max(1.0, full_max / number)) + 1
    except OverflowError:  # the ratio is no float any more, its logarithm is
        return math.log10(full_max) - math.log10(number) + 1
