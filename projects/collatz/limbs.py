"""The Syracuse map on many numbers of any size at once: limbs of 62 bits in 64-bit words.

A batch is an array (limbs, B) of uint64, least significant limb first, every limb below 2^62. So 3 * limb + carry fits
into a word: with carry <= 2 it is below 3 * 2^62, and its own carry is again at most 2.

Headroom. T(x) + 1 <= 3/2 (x + 1), so within `CHUNK` = 16 steps from x < 2^b every 3x + 1 is below
2 (3/2)^16 2^b < 2^(b+11). A chunk starts by making the arrays that long, and no longer.
"""

import math
from collections.abc import Sequence

import numpy as np

LIMB_BITS = 62
CHUNK = 16
_GROWTH_BITS = 11
_LARGEST_EXPONENT = 1000 - LIMB_BITS
_MASK = np.uint64(2**LIMB_BITS - 1)
# Numbers of a block: (limbs, BLOCK) and its scratch stay in the second cache.
BLOCK = 1 << 13


def to_limbs(numbers: Sequence[int]) -> np.ndarray:
    """(limbs, B) uint64 of Python integers, with as many limbs as the largest needs. Errors: `ValueError` below 0."""
    if any(number < 0 for number in numbers):
        raise ValueError("a negative number among those to be cut into limbs")
    longest = max((int(number).bit_length() for number in numbers), default=1)
    mask = 2**LIMB_BITS - 1
    rows = [[int(number) >> shift & mask for number in numbers] for shift in range(0, max(longest, 1), LIMB_BITS)]
    return np.array(rows, np.uint64).reshape(len(rows), len(numbers))


def from_limbs(limbs: np.ndarray) -> list[int]:
    """The Python integers of a batch (limbs, B)."""
    numbers = limbs[-1].tolist()
    for row in limbs[-2::-1]:
        numbers = [number << LIMB_BITS | low for number, low in zip(numbers, row.tolist(), strict=True)]
    return numbers


def resized(limbs: np.ndarray, count: int) -> np.ndarray:
    """The same numbers in `count` limbs: zeros are appended or dropped. Errors: `ValueError` where digits would go."""
    if np.any(limbs[count:]):
        raise ValueError(f"the numbers do not fit into {count} limbs")
    missing = max(0, count - len(limbs))
    return np.concatenate([limbs[:count], np.zeros((missing, limbs.shape[1]), np.uint64)])


def random_odd_numbers(top_bits: np.ndarray, num_limbs: int, generator: np.random.Generator) -> np.ndarray:
    """(num_limbs, B): uniform among the odd numbers whose highest bit is `top_bits` (B,), counted from 0."""
    limbs = generator.integers(0, 2**LIMB_BITS, size=(num_limbs, len(top_bits)), dtype=np.uint64)
    one, places = np.uint64(1), top_bits.astype(np.int64)
    top = one << (places % LIMB_BITS).astype(np.uint64)
    for index, row in enumerate(limbs):
        row &= (one << np.clip(places - LIMB_BITS * index, 0, LIMB_BITS).astype(np.uint64)) - one
        row |= np.where(places // LIMB_BITS == index, top, np.uint64(0))
    limbs[0] |= one
    return limbs


def is_one(limbs: np.ndarray) -> np.ndarray:
    """(B,) bool."""
    return (limbs[0] == 1) & ~limbs[1:].any(axis=0)


def is_greater(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(B,) bool: left > right, exactly. Both (limbs, B) of one length."""
    result = left[0] > right[0]
    for a, b in zip(left[1:], right[1:], strict=True):
        result &= a == b
        result |= a > b
    return result


def remainders(limbs: np.ndarray, modulus: int) -> np.ndarray:
    """(B,) int64: each number modulo 1 <= modulus < 2^31."""
    result = np.zeros(limbs.shape[1], np.uint64)
    base = np.uint64(2**LIMB_BITS % modulus)
    for row in limbs[::-1]:
        result = (result * base + row % np.uint64(modulus)) % np.uint64(modulus)
    return result.astype(np.int64)


def logarithms(limbs: np.ndarray) -> np.ndarray:
    """(B,) float64: natural logarithms of numbers above 0, equal to `math.log` of the Python integers below 2^1000.

    The numbers are rounded once, correctly, to float64. NumPy's own logarithm would be faster and differ in the last
    bit from one processor to the next, which some ties of closed forms hang on.
    """
    count, columns = len(limbs), np.arange(limbs.shape[1])
    top = count - 1 - np.argmax(limbs[::-1] != 0, axis=0)
    high = limbs[top, columns]
    low = np.where(top > 0, limbs[np.maximum(top - 1, 0), columns], 0)
    length = _bit_lengths(high)
    # The 62 highest bits; the last also stands for whatever lies below, so that a half is told from more.
    significand = (high << (LIMB_BITS - length)) | (low >> length)
    below = ((low << (LIMB_BITS - length)) & _MASK) != 0
    row_index = np.arange(count)[:, None]
    below |= ((limbs != 0) & (row_index < top - 1)).any(axis=0)
    value = (significand | below).astype(np.float64)
    exponent = (LIMB_BITS * (top - 1) + length.astype(np.int64)).astype(np.int64)
    fits = exponent < _LARGEST_EXPONENT
    number = np.ldexp(value, np.where(fits, exponent, 0))
    result = np.array(list(map(math.log, number.tolist())))
    return result + np.where(fits, 0, exponent) * math.log(2)


def _bit_lengths(words: np.ndarray) -> np.ndarray:
    """(B,) uint64: `int.bit_length` of each word."""
    filled = words.copy()
    for shift in (1, 2, 4, 8, 16, 32):
        filled |= filled >> np.uint64(shift)
    return np.bitwise_count(filled).astype(np.uint64)


class Stepper:
    """A batch of odd numbers that moves along T, one step at a time.

    Attributes: `limbs` (limbs, B), the present states; their number of limbs changes. `valuations` (B,) int32, those of
    the last step. `largest`: with `track_largest`, the largest number of the full map so far, the start included.
    Errors: `ValueError` for even numbers.
    """

    def __init__(self, limbs: np.ndarray, *, track_largest: bool = False) -> None:
        if not np.all(limbs[0] & np.uint64(1)):
            raise ValueError("an even number among the states, expected odd ones")
        self.limbs = limbs.copy()
        self.largest = limbs.copy() if track_largest else None
        self.valuations = np.zeros(limbs.shape[1], np.int32)
        self._make_scratch()
        self._steps_ahead = 0

    def step(self) -> None:
        """Replace each state x by T(x) and `valuations` by v2(3x + 1)."""
        if self._steps_ahead == 0:
            self._make_room()
        self._steps_ahead -= 1
        self._triple()
        if self.largest is not None:
            _raise_to(self.largest, self.limbs)
        self._halve()

    def keep(self, chosen: np.ndarray) -> None:
        """Go on with the numbers where `chosen` (B,) bool is true."""
        self.limbs = self.limbs[:, chosen]
        self.valuations = self.valuations[chosen]
        if self.largest is not None:
            self.largest = self.largest[:, chosen]
        self._make_scratch()

    def _make_scratch(self) -> None:
        self._carry, self._scratch = np.empty((2, self.limbs.shape[1]), np.uint64)
        self._k = np.empty(self.limbs.shape[1], np.uint8)

    def _make_room(self) -> None:
        used = len(self.limbs)
        while used > 1 and not self.limbs[used - 1].any():
            used -= 1
        bits = LIMB_BITS * (used - 1) + int(self.limbs[used - 1].max(initial=0)).bit_length()
        self.limbs = resized(self.limbs, -(-(bits + _GROWTH_BITS) // LIMB_BITS))
        if self.largest is not None and len(self.largest) < len(self.limbs):
            self.largest = resized(self.largest, len(self.limbs))
        self._steps_ahead = CHUNK

    def _triple(self) -> None:
        carry = self._carry
        carry.fill(1)
        for row in self.limbs:
            np.multiply(row, 3, out=row)
            np.add(row, carry, out=row)
            np.right_shift(row, LIMB_BITS, out=carry)
            np.bitwise_and(row, _MASK, out=row)

    def _halve(self) -> None:
        self._count_zeros()
        self.valuations.fill(0)
        if self._k.max(initial=0) >= LIMB_BITS:
            # A lowest limb of zeros: rare (2^-62 of random numbers), but (4^m - 1)/3 has it. First whole limbs.
            for column in np.flatnonzero(self.limbs[0] == 0):
                zeros = int(np.argmax(self.limbs[:, column] != 0))
                self.limbs[:, column] = np.roll(self.limbs[:, column], -zeros)
                self.valuations[column] = zeros * LIMB_BITS
            self._count_zeros()
        k, left, scratch = self._k, self._scratch, self._carry
        self.valuations += k
        np.subtract(np.uint64(LIMB_BITS), k, out=left)
        for low, high in zip(self.limbs, self.limbs[1:], strict=False):
            np.right_shift(low, k, out=low)
            np.left_shift(high, left, out=scratch)
            np.bitwise_and(scratch, _MASK, out=scratch)
            np.bitwise_or(low, scratch, out=low)
        np.right_shift(self.limbs[-1], k, out=self.limbs[-1])

    def _count_zeros(self) -> None:
        """`_k`: zeros below the lowest one of the lowest limb; 64 where that limb is zero."""
        lowest, scratch = self.limbs[0], self._scratch
        np.negative(lowest, out=scratch)
        np.bitwise_and(lowest, scratch, out=scratch)
        np.subtract(scratch, 1, out=scratch)
        np.bitwise_count(scratch, out=self._k)


def advance(limbs: np.ndarray, steps: int) -> np.ndarray:
    """T^steps of each odd number: (limbs, B) in and out, in as many limbs as it takes. Errors: `ValueError` if even."""
    blocks = []
    for start in range(0, limbs.shape[1], BLOCK):
        stepper = Stepper(limbs[:, start : start + BLOCK])
        for _ in range(steps):
            stepper.step()
        blocks.append(stepper.limbs)
    longest = max((len(block) for block in blocks), default=len(limbs))
    return np.concatenate([resized(block, longest) for block in blocks], axis=1) if blocks else limbs.copy()


def trajectory(limbs: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """States n, T(n), ..., T^steps(n): (steps + 1, limbs, B) uint64, and their valuations (steps, B) int32.

    Memory grows with `steps` and B: call it by blocks. Errors: `ValueError` for even numbers.
    """
    stepper = Stepper(limbs)
    states = [stepper.limbs.copy()]
    valuations = np.empty((steps, limbs.shape[1]), np.int32)
    for step in range(steps):
        stepper.step()
        states.append(stepper.limbs.copy())
        valuations[step] = stepper.valuations
    longest = max(len(state) for state in states)
    return np.stack([resized(state, longest) for state in states]), valuations


def _raise_to(largest: np.ndarray, limbs: np.ndarray) -> None:
    """largest = max(largest, limbs), in place; `limbs` may be the shorter array."""
    rows = len(limbs)
    greater = is_greater(limbs, largest[:rows])
    if rows < len(largest):
        greater &= ~largest[rows:].any(axis=0)
    np.copyto(largest[:rows], limbs, where=greater)
