"""Lookahead windows of the Syracuse map: what a function V with lookahead L sees of n and of T(n).

Logarithms are those of the exact states T^j(n); the order of the states is that of the exact integers, as ranks, so
that a comparison of two states never rests on a rounded number. Past 1 a window is padded by the fixed point: 1, 1, ...
with valuations 2, as in the source document's features.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from projects.collatz import limbs as collatz_limbs
from projects.collatz.syracuse import Orbit

# Numbers of one block: at lookahead 100 the states of a block of 256 bits are about 20 MB.
BLOCK = 1 << 13
# Residues modulo 3, 9, 27 and 81 are read off that modulo 81.
MODULUS = 81
# 2^-k modulo 243, whose powers of 2 repeat after 162.
_HALVINGS = np.array([pow(2, -k, 3 * MODULUS) for k in range(2 * MODULUS)], np.int64)


@dataclass(frozen=True)
class Windows:
    """States n, T(n), ..., T^(L+1)(n) of B odd numbers: L + 1 for V(n), and one more for V(T(n)).

    Attributes:
        logs: (B, L+2) float64, ln T^j(n). ranks: (B, L+2) integers in the order of the exact states of the same row,
        equal where states are equal. valuations: (B, L+1), k_1 to k_(L+1). residues: (B,) integers, n modulo `MODULUS`.
    """

    logs: np.ndarray
    ranks: np.ndarray
    valuations: np.ndarray
    residues: np.ndarray

    def __len__(self) -> int:
        return len(self.logs)

    @property
    def lookahead(self) -> int:
        return self.valuations.shape[1] - 1

    def cut(self, rows: slice) -> "Windows":
        """Some of the rows."""
        return Windows(self.logs[rows], self.ranks[rows], self.valuations[rows], self.residues[rows])


def windows_of(numbers: Sequence[int], lookahead: int) -> Iterator[Windows]:
    """The windows of odd numbers of any size, in order, by blocks of `BLOCK` rows. Errors: `ValueError` if even."""
    for start in range(0, len(numbers), BLOCK):
        limbs = collatz_limbs.to_limbs(numbers[start : start + BLOCK])
        states, valuations = collatz_limbs.trajectory(limbs, lookahead + 1)
        logs = np.stack([collatz_limbs.logarithms(state) for state in states], axis=1)
        yield Windows(logs, _ranks(states), valuations.T, collatz_limbs.remainders(limbs, MODULUS))


def orbit_windows(orbit: Orbit, lookahead: int) -> Windows:
    """The windows of all states of an orbit that a step leaves, in order: (steps, ...), 1 itself is not among them."""
    states = orbit.states + [1] * lookahead
    valuations = np.array(orbit.valuations + [2] * lookahead, np.int32)
    place = {state: rank for rank, state in enumerate(sorted(set(states)))}
    ranks = np.array([place[state] for state in states], np.int64)
    logs = np.array([math.log(state) for state in states])
    residues = np.array([state % MODULUS for state in orbit.states[:-1]], np.int64)
    if orbit.steps == 0:
        none = np.empty((0, lookahead + 2), np.int64)
        return Windows(none.astype(np.float64), none, np.empty((0, lookahead + 1), np.int32), residues)
    return Windows(
        sliding_window_view(logs, lookahead + 2),
        sliding_window_view(ranks, lookahead + 2),
        sliding_window_view(valuations, lookahead + 1),
        residues,
    )


def next_residues(residues: np.ndarray, valuations: np.ndarray) -> np.ndarray:
    """T(n) modulo `MODULUS` of n modulo it and k = v2(3n + 1): integers of one shape in, int64 out.

    3n + 1 is known even modulo 3 `MODULUS`, where 2 can be divided by.
    """
    modulus = 3 * MODULUS
    return (3 * residues.astype(np.int64) + 1) * _HALVINGS[valuations % len(_HALVINGS)] % modulus % MODULUS


def _ranks(states: np.ndarray) -> np.ndarray:
    """(B, J) int32 from states (J, limbs, B): 0 for a row's smallest state, one more for each larger value."""
    rows = np.ascontiguousarray(states.transpose(1, 2, 0))
    used = [limb for limb in rows if limb.any()]
    order = np.lexsort(used, axis=-1)
    rises = np.zeros((order.shape[0], order.shape[1] - 1), bool)
    for limb in used:
        ascending = np.take_along_axis(limb, order, axis=-1)
        rises |= ascending[:, 1:] != ascending[:, :-1]
    ranks = np.zeros(order.shape, np.int32)
    np.put_along_axis(ranks, order[:, 1:], np.cumsum(rises, axis=-1, dtype=np.int32), axis=-1)
    return ranks
