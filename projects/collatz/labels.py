"""What is known of each row of an evaluation set: the step, and the whole orbit under the full map. Exact, batched."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from projects.collatz.limbs import CHUNK, Stepper, advance, from_limbs, is_one, resized, to_limbs

BLOCK = 1 << 13


@dataclass(frozen=True)
class Label:
    """What an evaluation file says of one odd n.

    Attributes: t1 is T(n). full_steps is sigma, the triplings and halvings until 1. full_max is the largest number of
    the full map, n included.
    """

    t1: int
    full_steps: int
    full_max: int


def labels_of(numbers: Sequence[int]) -> Iterator[Label]:
    """The label of each odd number, in order. Errors: `ValueError` for another number."""
    for start in range(0, len(numbers), BLOCK):
        block = numbers[start : start + BLOCK]
        if any(number < 1 for number in block):
            raise ValueError(f"found {min(block)}, expected odd numbers above 0")
        limbs = to_limbs(block)
        full_steps, full_max = orbit_totals(limbs)
        yield from map(Label, from_limbs(advance(limbs, 1)), full_steps.tolist(), from_limbs(full_max))


def orbit_totals(limbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sigma (B,) int64 and the largest number of the full map (limbs, B) of odd numbers in limbs.

    Numbers that have reached 1 leave the batch every `CHUNK` steps.
    """
    full_steps = np.zeros(limbs.shape[1], np.int64)
    largest = limbs.copy()
    places = np.flatnonzero(~is_one(limbs))
    stepper = Stepper(limbs[:, places], track_largest=True)
    while len(places):
        on_the_way = np.ones(len(places), bool)
        for _ in range(CHUNK):
            stepper.step()
            # After 1 the steps only repeat 4 and 2: they neither count nor set a new maximum.
            full_steps[places] += (1 + stepper.valuations) * on_the_way
            on_the_way &= ~is_one(stepper.limbs)
        reached = stepper.largest
        assert reached is not None
        longest = max(len(largest), len(reached))
        largest, reached = resized(largest, longest), resized(reached, longest)
        largest[:, places[~on_the_way]] = reached[:, ~on_the_way]
        stepper.keep(on_the_way)
        places = places[on_the_way]
    return full_steps, largest
