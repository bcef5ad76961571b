"""A weighted norm of the recurrent state, and maps as they look in the coordinates in which it is the Euclidean one.

|(h, l)|^2 = w_H |h|^2 + w_L |l|^2 per row, over tokens and channels. A map that contracts in this norm need not
contract in the Euclidean one; the Lyapunov engine measures in the latter, so it is given the map in other coordinates.
Exponents of infinite time are the same; those of T steps differ by at most ln(max(w) / min(w)) / (2 T).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from models.recursion import RecurrentState, SubUpdate


class MetricWeights(NamedTuple):
    """w_H, w_L > 0."""

    z_H: float
    z_L: float

    @property
    def condition(self) -> float:
        """Largest ratio between this norm and the Euclidean one over the smallest, squared: max(w) / min(w)."""
        return max(self) / min(self)


def state_norm(state: RecurrentState, weights: MetricWeights) -> Tensor:
    """(B,): sqrt(w_H |z_H|^2 + w_L |z_L|^2) of each row of a state (B, P+S, D)."""
    squares = (w * z.square().flatten(1).sum(dim=1) for w, z in zip(weights, state, strict=True))
    return sum(squares, state.z_H.new_zeros(())).sqrt()


def to_metric(state: RecurrentState, weights: MetricWeights) -> RecurrentState:
    """Coordinates whose Euclidean norm is `state_norm`: (sqrt(w_H) z_H, sqrt(w_L) z_L)."""
    return RecurrentState(*(math.sqrt(w) * z for w, z in zip(weights, state, strict=True)))


def from_metric(state: RecurrentState, weights: MetricWeights) -> RecurrentState:
    """The inverse of `to_metric`."""
    return RecurrentState(*(z / math.sqrt(w) for w, z in zip(weights, state, strict=True)))


def in_metric(maps: Sequence[SubUpdate], weights: MetricWeights) -> list[SubUpdate]:
    """The maps in the coordinates of `to_metric`: each f as to_metric . f . from_metric.

    `lyapunov_spectrum(in_metric(maps.sub_updates, w), to_metric(maps.initial_state, w), ...)` measures growth in the
    weighted norm.
    """

    def conjugated(advance: SubUpdate) -> SubUpdate:
        return lambda state: to_metric(advance(from_metric(state, weights)), weights)

    return [conjugated(advance) for advance in maps]
