"""The hard part of the source experiment's training data: orbits of record holders, and numbers mined on the way.

Source: the seeds and the sampling rule of the learned-Lyapunov experiment (training seeds are mostly record holders of
OEIS A006877 and A033958).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from projects.collatz.kept_out import KeptOut
from projects.collatz.limbs import resized, to_limbs
from projects.collatz.syracuse import TEST_STARTS, steps_from, valuation

RECORDS = (
    27, 31, 41, 47, 54, 55, 71, 73, 91, 97, 103, 111, 127, 155, 159, 171, 231, 237, 267, 303, 319, 351, 359, 391, 447,
    479, 607, 703, 871, 1161, 2223, 2463, 2919, 3711, 6171, 10971, 13255, 17647, 23529, 26623, 34239, 35655, 52527,
    77031, 106239, 142587, 156159, 216367, 230631, 410011, 511935, 626331, 837799, 1117065,
)  # fmt: skip
TRAINING_SEEDS = tuple(seed for seed in RECORDS if seed not in TEST_STARTS)
RESERVED_SEED = 27  # what the source draws from while its pool is empty: a test start
MOST_MINED = 1000
_ORBIT_ELEMENTS = 300
_ITSELF = 0.3  # how often a mined number is taken itself, not a state of its orbit


def active_seeds(epoch: int, *, curriculum: bool, start_seeds: int, ramp_len: int) -> int:
    """How many of the training seeds, smallest first, are in the pool at `epoch` (updates made so far)."""
    if not curriculum:
        return len(TRAINING_SEEDS)
    grown = (len(TRAINING_SEEDS) - start_seeds) * min(1.0, epoch / ramp_len)
    return int(start_seeds + grown)


def elements(start: int) -> list[int]:
    """The odd numbers above 1 among the first 300 elements of an orbit; an even start is only its beginning."""
    odd = start >> valuation(start)
    visited = [odd]
    for state, _ in steps_from(odd):
        if visited[-1] == 1 or len(visited) + (odd != start) == _ORBIT_ELEMENTS:
            break
        visited.append(state)
    return [number for number in visited if number > 1]


@dataclass(frozen=True)
class Entries:
    """Pool entries in order: entry i has the elements `limbs[:, offsets[i]:offsets[i+1]]`, its number first.

    mined: (entries,) bool.
    """

    limbs: np.ndarray
    offsets: np.ndarray
    mined: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


class HardPool:
    """Seeds that the curriculum has let in, then mined numbers. `mined` is its state.

    With `decontaminate` no element lies on a test orbit, nor does its next `successors` states; an entry of which
    nothing remains keeps its place, since the curriculum counts seeds, and is passed over.
    """

    def __init__(self, kept_out: KeptOut, *, decontaminate: bool, successors: int) -> None:
        self._kept_out, self._decontaminate, self._successors = kept_out, decontaminate, successors
        self.mined: list[int] = []
        self._seed_elements = [self._allowed(elements(seed)) for seed in TRAINING_SEEDS]
        self._reserved = self._allowed(elements(RESERVED_SEED))
        self._mined_elements: dict[int, list[int]] = {}
        self._made: dict[int, Entries | None] = {}  # by number of seeds, one at most

    def add(self, numbers: Sequence[int]) -> None:
        """Mined numbers join, each once; beyond 1,000 the oldest leave.

        Differs: which of more than 1,000 stay was left to the order of a set in the source.
        """
        self.restore(list(dict.fromkeys([*self.mined, *numbers]))[-MOST_MINED:])

    def restore(self, mined: Sequence[int]) -> None:
        """Put back what `mined` was."""
        self.mined = list(mined)
        kept = self._mined_elements
        self._mined_elements = {
            number: kept[number] if number in kept else self._allowed(elements(number)) for number in self.mined
        }
        self._made = {}

    def entries(self, active: int) -> Entries | None:
        """The pool with so many seeds; None when it is empty."""
        if active not in self._made:
            seeds = self._seed_elements[:active]
            self._made = {active: _entries([*seeds, *self._mined_elements.values()], len(seeds))}
        return self._made[active]

    def reserved(self) -> Entries | None:
        """The orbit of 27 alone; None where it is kept out."""
        return _entries([self._reserved], 0)

    def _allowed(self, numbers: list[int]) -> list[int]:
        if not self._decontaminate or not numbers:
            return numbers
        on_test_orbit = self._kept_out.holds(to_limbs(numbers))
        # Elements are consecutive states; after the last one comes 1, on every test orbit, or what is not looked at.
        forbidden = np.append(on_test_orbit, np.ones(self._successors, bool))
        clean = ~np.array([forbidden[i : i + self._successors + 1].any() for i in range(len(numbers))])
        return [number for number, good in zip(numbers, clean.tolist(), strict=True) if good]


def _entries(lists: Sequence[Sequence[int]], num_seeds: int) -> Entries | None:
    mined = np.array([i >= num_seeds and bool(numbers) for i, numbers in enumerate(lists)], bool)
    filled = np.array([len(numbers) > 0 for numbers in lists], bool)
    if not filled.any():
        return None
    lengths = [len(numbers) for numbers in lists if numbers]
    return Entries(
        to_limbs([number for numbers in lists for number in numbers]),
        np.concatenate([[0], np.cumsum(lengths)]),
        mined[filled],
    )


def draw(entries: Entries, count: int, generator: np.random.Generator, num_limbs: int) -> np.ndarray:
    """(num_limbs, count): uniform over entries; then a mined number itself 3 times in 10, else uniform on its orbit."""
    chosen = generator.integers(len(entries.mined), size=count)
    itself = entries.mined[chosen] & (generator.random(count) < _ITSELF)
    place = (generator.random(count) * entries.lengths[chosen]).astype(np.int64)
    columns = entries.offsets[chosen] + np.where(itself, 0, place)
    return resized(entries.limbs[:, columns], max(num_limbs, len(entries.limbs)))
