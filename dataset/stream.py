"""Random draws that are addressed, not remembered: any batch can be made without those before it."""

import numpy as np


def stream(seed: int, kind: int, iteration: int, index: int) -> np.random.Generator:
    """Generator addressed by its arguments alone: Philox, keyed by (seed, kind), its counter by the rest."""
    mask = (1 << 64) - 1
    # The lowest counter word is left to the draws themselves: 2**64 of them before streams could meet.
    counter = np.array([0, index & mask, iteration & mask, 0], dtype=np.uint64)
    key = np.array([seed & mask, kind], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
