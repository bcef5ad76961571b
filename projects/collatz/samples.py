"""Numbers that an evaluation looks at beside its file: orbits from large starts, sizes, adversarial words."""

import random
from collections.abc import Sequence

from projects.collatz.syracuse import steps_from

# Starts whose orbits meet those of the source experiment's training seeds late only: 2,182 steps together.
FRESH_STARTS = (1723519, 8400511, 63728127, 670617279, 989345275647, 319804831, 8528817511)
ORBIT_BITS = 200
SIZES = (16, 32, 64, 128, 256)
# (steps, halvings) of words that climb as slowly as possible: 3^12 / 2^19 = e^0.0135, 3^53 / 2^84 = e^0.0021.
WORDS = ((12, 19), (53, 84))
WORD_STATES = 600
MERSENNE_EXPONENTS = (16, 32, 64, 128, 256)


def orbit_states(starts: int, seed: int, bits: int = ORBIT_BITS) -> list[int]:
    """All states that a step leaves on the orbits of `starts` random odd numbers of `bits` bits, each state once.

    Orbits merge; a state that several of them visit is counted once, in the place of the first. 1 is not among them.
    """
    generator = random.Random(f"orbit states {bits} {seed}")
    states: dict[int, None] = {}
    for _ in range(starts):
        state = generator.getrandbits(bits) | 1 | 1 << (bits - 1)
        ahead = steps_from(state)
        while state != 1 and state not in states:
            states[state] = None
            state, _ = next(ahead)
    return list(states)


def numbers_of_bits(bits: int, count: int, seed: int) -> list[int]:
    """`count` random odd numbers of so many bits, repeats included."""
    generator = random.Random(f"numbers {bits} {seed}")
    return [generator.getrandbits(bits) | 1 | 1 << (bits - 1) for _ in range(count)]


def slow_word(steps: int, halvings: int) -> list[int]:
    """The valuations of a word that spreads `halvings` as evenly as possible over `steps`."""
    sums = [step * halvings // steps for step in range(steps + 1)]
    return [after - before for before, after in zip(sums, sums[1:], strict=False)]


def number_of_word(word: Sequence[int]) -> int:
    """The smallest odd n whose first valuations are those of `word` (each at least 1).

    T^m(n) = (3^m n + c) / 2^K, and the last valuation is exact iff that is odd: a congruence modulo 2^(K+1).
    """
    total, constant = 0, 0
    for k in word:
        constant = 3 * constant + 2**total
        total += k
    modulus = 2 ** (total + 1)
    return (2**total - constant) * pow(3 ** len(word), -1, modulus) % modulus


def word_states(steps: int, halvings: int) -> list[int]:
    """The first `WORD_STATES` states, whole words, of a number that repeats the slow word and a window beyond them."""
    word = slow_word(steps, halvings)
    repeats = -(-WORD_STATES // steps)
    states = [number_of_word(word * (repeats + 20))]
    ahead = steps_from(states[0])
    states += [next(ahead)[0] for _ in range(repeats * steps - 1)]
    return states


def mersenne_states(exponent: int) -> list[int]:
    """The states of 2^m - 1 along its m - 1 growth steps: 3^j 2^(m-j) - 1."""
    return [3**j * 2 ** (exponent - j) - 1 for j in range(exponent - 1)]


def adversarial_states() -> dict[str, list[int]]:
    """Sets of states, by name, on which functions of a window cannot decrease all the time."""
    named = {f"2^{exponent}-1": mersenne_states(exponent) for exponent in MERSENNE_EXPONENTS}
    return named | {f"{steps}/{halvings}": word_states(steps, halvings) for steps, halvings in WORDS}
