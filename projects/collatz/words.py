"""The Syracuse map on arrays of 64-bit numbers: the fast path, exact or refused.

Bound. 3x + 1 fits into 64 bits iff x <= LARGEST. A step gives T(x) + 1 <= 3/2 (x + 1), because it halves at least once;
so from states with x + 1 <= (LARGEST + 1) (2/3)^j, j further steps are safe. Only the largest number of a block is
looked at, once for as many steps as this allows.
"""

import numpy as np

WORD_BITS = 64
LARGEST = (2**WORD_BITS - 2) // 3  # the next odd number gives 3x + 1 = 2^64 itself
# A block and its scratch stay in the second cache; longer ones gain nothing.
BLOCK = 1 << 14


def safe_steps(largest: int, most: int) -> int:
    """How many steps (0 to `most`) stay within 64 bits, proven for every odd number up to `largest`."""
    bound, steps = largest + 1, 0
    while steps < most and bound <= LARGEST + 1:
        bound, steps = -(-3 * bound // 2), steps + 1
    return steps


def advance(states: np.ndarray, steps: int) -> np.ndarray:
    """T^steps of each odd number: (B,) uint64 in and out.

    Errors: `ValueError` for even numbers; `OverflowError` where an intermediate 3x + 1 does not fit into 64 bits, never
    a wrong number. `projects.collatz.limbs` takes any size.
    """
    if states.dtype != np.uint64 or states.ndim != 1:
        raise ValueError(f"found {states.dtype} of shape {states.shape}, expected one axis of uint64")
    if not np.all(states & np.uint64(1)):
        raise ValueError("an even number among the states, expected odd ones")
    result = states.copy()
    for start in range(0, len(result), BLOCK):
        _advance_block(result[start : start + BLOCK], steps)
    return result


def _advance_block(x: np.ndarray, steps: int) -> None:
    scratch, k = np.empty_like(x), np.empty(len(x), np.uint8)
    while steps:
        safe = safe_steps(int(x.max()), steps)
        if safe == 0:
            raise OverflowError(f"3 * {int(x.max())} + 1 does not fit into {WORD_BITS} bits")
        for _ in range(safe):
            np.multiply(x, 3, out=x)
            np.add(x, 1, out=x)
            # The bits below the lowest one: as many as the valuation.
            np.negative(x, out=scratch)
            np.bitwise_and(x, scratch, out=scratch)
            np.subtract(scratch, 1, out=scratch)
            np.bitwise_count(scratch, out=k)
            np.right_shift(x, k, out=x)
        steps -= safe
