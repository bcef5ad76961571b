"""Which states are kept out of training: those that lie on an orbit that is reported. A split by orbit, not by number.

Orbits merge, so that a number drawn at random is often a state of a test orbit, the smaller the more often. States of
more than 62 bits are not looked for: a random number of that size meets one with a probability below 1e-12.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from projects.collatz.limbs import LIMB_BITS
from projects.collatz.samples import FRESH_STARTS
from projects.collatz.syracuse import TEST_STARTS, orbit


@dataclass(frozen=True)
class KeptOut:
    """`states` (N,) uint64: those below 2^62 on test orbits, ascending; from 1 on."""

    states: np.ndarray

    def holds(self, limbs: np.ndarray) -> np.ndarray:
        """(B,) bool of numbers in limbs (limbs, B): whether each is a state of a test orbit."""
        places = np.searchsorted(self.states, limbs[0]).clip(max=len(self.states) - 1)
        held = self.states[places] == limbs[0]
        if len(limbs) > 1:
            held &= ~limbs[1:].any(axis=0)
        return held


def kept_out(further: Iterable[int] = ()) -> KeptOut:
    """The states on the orbits of the five and the seven starts that are reported, and `further` states."""
    states = {state for start in (*TEST_STARTS, *FRESH_STARTS) for state in orbit(start).states}
    states.update(further)
    return KeptOut(np.array(sorted(state for state in states if state < 2**LIMB_BITS), np.uint64))
