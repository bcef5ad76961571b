"""Exact facts about single orbits: lengths, maxima of both maps, windows that rise, what was trained on, records."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from projects.collatz.closed_forms import Average
from projects.collatz.hard_pool import TRAINING_SEEDS, elements
from projects.collatz.syracuse import orbit
from projects.collatz.windows import orbit_windows
from projects.collatz.words import advance

# The source's table of its five trajectories (terms of the orbit, maximum, ratio), and the violations of its runs 5
# (lookahead 10) and 6 (lookahead 20). Source: log of the learned-Lyapunov experiment, "Hard Seeds Analysis" and runs.
SOURCE_TABLE: dict[int, tuple[int, int, float]] = {
    111: (25, 3_077, 27.7),
    27: (42, 9_232, 114.0),
    703: (63, 83_501, 118.8),
    26623: (114, 35_452_673, 1_331.7),
    626331: (190, 2_407_427_729, 3_843.7),
}
SOURCE_VIOLATIONS: dict[int, dict[int, int]] = {
    10: {111: 0, 27: 0, 703: 11, 26623: 16, 626331: 37},
    20: {111: 0, 27: 0, 703: 8, 26623: 18, 626331: 32},
}
CORRECTION = (
    "The source's table has the maximum 9,232 for 27, which is of the full map, beside the ratio 114.0, which is of "
    "the odd-only map; the odd-only maximum is 3,077, and 9,232 / 27 would be 341.9. All its other entries are "
    "odd-only. Its lengths count the terms of an orbit, one more than its steps: 626331 has 190 terms and 189 steps."
)


@dataclass(frozen=True)
class OrbitFacts:
    """What is known of the orbit of one odd start above 1.

    Attributes:
        steps: applications of T down to 1; growth_steps of them with T(n) > n; halvings: k_1 + ... + k_steps.
        odd_max: the largest odd state; full_max: the largest number of the map with 3n + 1 and halvings as steps.
        mean_valuation: halvings / steps; log2 3 = 1.585 would be an orbit that does not fall, 2 is usual.
        rising: by lookahead L, the states n of the orbit with T^(L+1)(n) >= n.
        trained_on: states above 1 that lie on what the source trains on, orbits of its 49 hard seeds.
    """

    start: int
    steps: int
    growth_steps: int
    halvings: int
    odd_max: int
    full_max: int
    full_steps: int
    rising: dict[int, int]
    trained_on: int

    @property
    def odd_ratio(self) -> float:
        return self.odd_max / self.start

    @property
    def full_ratio(self) -> float:
        return self.full_max / self.start

    @property
    def mean_valuation(self) -> float:
        return self.halvings / self.steps


def orbit_facts(start: int, lookaheads: Iterable[int]) -> OrbitFacts:
    """Errors: `ValueError` for an even start or 1, which has no step."""
    path = orbit(start)
    if path.steps == 0:
        raise ValueError("1 has no step")
    return OrbitFacts(
        start=start,
        steps=path.steps,
        growth_steps=path.growth_steps,
        halvings=sum(path.valuations),
        odd_max=path.odd_max,
        full_max=path.full_max,
        full_steps=path.full_steps,
        rising={lookahead: int(Average().violations(orbit_windows(path, lookahead)).sum()) for lookahead in lookaheads},
        trained_on=sum(state in _trained_on() for state in path.states[:-1]),
    )


@cache
def _trained_on() -> frozenset[int]:
    return frozenset(state for seed in TRAINING_SEEDS for state in elements(seed))


def odd_step_counts(limit: int) -> np.ndarray:
    """Steps of T from 1, 3, 5, ... below `limit` down to 1: (limit // 2,) int64.

    Errors: `ValueError` for a limit outside 2..2^24 (more would take minutes); `OverflowError` never below it, where
    all orbits stay within 64 bits.
    """
    if not 2 <= limit <= 1 << 24:
        raise ValueError(f"limit {limit}: expected 2 to 2^24")
    states = np.arange(1, limit, 2, dtype=np.uint64)
    steps = np.zeros(len(states), np.int64)
    places = np.flatnonzero(states > 1)
    states = states[places]
    while len(places):
        states = advance(states, 1)
        steps[places] += 1
        above = states > 1
        states, places = states[above], places[above]
    return steps


def record_starts(steps: np.ndarray) -> list[int]:
    """Odd starts above 1 that take more steps than every smaller one, of what `odd_step_counts` gives."""
    before = np.maximum.accumulate(steps)[:-1]
    return [int(place) * 2 + 1 for place in np.flatnonzero(steps[1:] > before) + 1]


def at_least_as_long(steps: np.ndarray, starts: Sequence[int]) -> dict[int, int | None]:
    """How many odd numbers up to a start, itself included, take at least as many steps; None beyond the counts."""
    counts: dict[int, int | None] = {}
    for start in starts:
        known = steps[: start // 2 + 1]
        counts[start] = int((known >= known[-1]).sum()) if start // 2 < len(steps) else None
    return counts
