"""Odd numbers where limbs, words and valuations have their edges, and a second way to everything in Python integers."""

from hypothesis import strategies as st

from projects.collatz.syracuse import steps_from

LARGEST_BITS = 400
# 2^m - 1 grows for m - 1 steps; (4^m - 1)/3 falls to 1 at once, by a valuation of 2m; limbs of 62 bits end at 62 j.
EDGES = sorted(
    {1, 3, 5, 27, 8528817511, 12327829503, 6148914691236517203, 6148914691236517205, 6148914691236517207}
    | {2**m - 1 for m in range(2, LARGEST_BITS, 7)}
    | {(4**m - 1) // 3 for m in range(1, LARGEST_BITS // 2, 5)}
    | {2**edge + by for edge in (31, 32, 62, 63, 64, 124, 127, 128, 186, 248, 256, 310) for by in (-3, -1, 1, 3)}
    | {(2**edge - 1) // 3 | 1 for edge in range(62, LARGEST_BITS, 62)}
)

odd_numbers = st.one_of(
    st.sampled_from(EDGES),
    st.integers(1, LARGEST_BITS).flatmap(lambda bits: st.integers(2 ** (bits - 1), 2**bits - 1)).map(lambda n: n | 1),
)


def naive_steps(number: int, steps: int) -> tuple[list[int], list[int]]:
    """States (steps + 1) and valuations (steps), by division."""
    states, valuations = [number], []
    for _ in range(steps):
        value, k = 3 * states[-1] + 1, 0
        while value % 2 == 0:
            value, k = value // 2, k + 1
        states.append(value)
        valuations.append(k)
    return states, valuations


def full_map(number: int) -> list[int]:
    """n and everything the full map visits from it until 1."""
    visited = [number]
    while visited[-1] != 1:
        last = visited[-1]
        visited.append(3 * last + 1 if last % 2 else last // 2)
    return visited


def glide(number: int) -> int:
    """The stopping time in steps of T: the smallest j >= 1 with T^j(n) < n. Errors: `ValueError` for 1 and even n."""
    if number == 1:
        raise ValueError("1 is never left and has no glide")
    for j, (state, _) in enumerate(steps_from(number), 1):
        if state < number:
            return j
    raise AssertionError("unreachable: the steps do not end")
