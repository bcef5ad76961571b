"""Functions V of a lookahead window in closed form: what a learned V has to beat at the same lookahead.

With S_j = ln T^j(n), a step *violates* V when V(T(n)) >= V(n). For V_avg, V_min and V_max that is a statement about the
integers T^j(n) alone, and is decided on them. The others are evaluated in float64, where a margin V(n) - V(T(n)) below
`SMALLEST_MARGIN` counts as a violation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from projects.collatz.windows import Windows

SMALLEST_MARGIN = 1e-6
# gamma of V_min and V_max as real-valued functions; their violations are those of the limit.
GAMMA = 1e-6


class ValueFunction(Protocol):
    """A function V with a name that can tell its violations on windows."""

    @property
    def name(self) -> str: ...

    def violations(self, windows: Windows) -> np.ndarray:
        """(B,) bool: whether V fails to decrease on the step n -> T(n)."""
        ...


class ClosedForm(ValueFunction, Protocol):
    """A function V of the window (S_0..S_L, k_1..k_L)."""

    def values(self, logs: np.ndarray, valuations: np.ndarray) -> np.ndarray:
        """V (B,) float64 of windows: logs (B, L+1), valuations (B, L)."""
        ...


def margins(form: ClosedForm, windows: Windows) -> np.ndarray:
    """V(n) - V(T(n)): (B,) float64."""
    logs, valuations = windows.logs, windows.valuations
    return form.values(logs[:, :-1], valuations[:, :-1]) - form.values(logs[:, 1:], valuations[:, 1:])


class _ByMargin:
    """Violation = a margin below `SMALLEST_MARGIN`."""

    def violations(self: ClosedForm, windows: Windows) -> np.ndarray:  # type: ignore[misc]
        return margins(self, windows) < SMALLEST_MARGIN


@dataclass(frozen=True)
class LogN:
    """V = ln n: violated by every growth step, T(n) > n, and by no other (n = 1 apart)."""

    name: str = "ln_n"

    def values(self, logs: np.ndarray, valuations: np.ndarray) -> np.ndarray:
        return logs[:, 0]

    def violations(self, windows: Windows) -> np.ndarray:
        return windows.ranks[:, 1] >= windows.ranks[:, 0]


@dataclass(frozen=True)
class Anchor(_ByMargin):
    """V = ln n + beta (L log2 3 - k_1 - ... - k_L): the target that anchors the source document's network."""

    beta: float
    name: str

    def values(self, logs: np.ndarray, valuations: np.ndarray) -> np.ndarray:
        drift = valuations.shape[1] * math.log2(3) - valuations.sum(axis=1)
        return logs[:, 0] + self.beta * drift


@dataclass(frozen=True)
class Average:
    """V = mean of S_0..S_L. V(T(n)) - V(n) = (S_(L+1) - S_0) / (L+1): violation iff T^(L+1)(n) >= n."""

    name: str = "V_avg"

    def values(self, logs: np.ndarray, valuations: np.ndarray) -> np.ndarray:
        return logs.mean(axis=1)

    def violations(self, windows: Windows) -> np.ndarray:
        return windows.ranks[:, -1] >= windows.ranks[:, 0]


@dataclass(frozen=True)
class Minimum:
    """V = min_j (S_j + gamma j), gamma -> 0+. Violation iff T^j(n) >= n for j = 1..L+1: a glide above L+1.

    A minimum at j >= 1 survives the shift with a smaller index; one at 0 gives way to S_(L+1) only.
    """

    name: str = "V_min"

    def values(self, logs: np.ndarray, valuations: np.ndarray) -> np.ndarray:
        return (logs + GAMMA * np.arange(logs.shape[1])).min(axis=1)

    def violations(self, windows: Windows) -> np.ndarray:
        return windows.ranks[:, 1:].min(axis=1) >= windows.ranks[:, 0]


@dataclass(frozen=True)
class Maximum:
    """V = max_j (S_j + gamma j), gamma -> 0+. Violation iff T^(L+1)(n) > max of T^0(n)..T^L(n)."""

    name: str = "V_max"

    def values(self, logs: np.ndarray, valuations: np.ndarray) -> np.ndarray:
        return (logs + GAMMA * np.arange(logs.shape[1])).max(axis=1)

    def violations(self, windows: Windows) -> np.ndarray:
        return windows.ranks[:, -1] > windows.ranks[:, :-1].max(axis=1)


@dataclass(frozen=True)
class MaximumAt(_ByMargin):
    """V = max_j (S_j + gamma j) at a finite gamma: it calls near repetitions of a large maximum violations too."""

    gamma: float

    @property
    def name(self) -> str:
        return f"V_max_{self.gamma:g}"

    def values(self, logs: np.ndarray, valuations: np.ndarray) -> np.ndarray:
        return (logs + self.gamma * np.arange(logs.shape[1])).max(axis=1)


@dataclass(frozen=True)
class Tilted(_ByMargin):
    """V = S_a + a/1000, a the first argmin (argmax) of S_j - c mu j, mu = max(0, (S_L - S_0) / L). A heuristic.

    c = 1 is natural. place: `np.argmin` or `np.argmax`.

    At c = 1 and mu > 0 both ends of the window lie on the tilted line (on a window of equal steps all places do), and
    where nothing lies below it the last bit of float64 chooses. So at c = 1 this is no function of the exact window: it
    even passes steps of 2^m - 1 that every such function fails. c = 1.2 has no such ties.
    """

    place: Callable[..., np.ndarray]
    c: float

    @property
    def name(self) -> str:
        return f"V_{'tmin' if self.place is np.argmin else 'tmax'}_{self.c:g}"

    def values(self, logs: np.ndarray, valuations: np.ndarray) -> np.ndarray:
        steps = logs.shape[1] - 1
        slope = np.maximum(0.0, (logs[:, -1] - logs[:, 0]) / steps)
        place = self.place(logs - self.c * slope[:, None] * np.arange(steps + 1), axis=1)
        return np.take_along_axis(logs, place[:, None], axis=1)[:, 0] + 1e-3 * place


# In the order of the table.
CLOSED_FORMS: tuple[ClosedForm, ...] = (
    LogN(),
    Anchor(0.35, "anchor_0.35"),
    Anchor(math.log(2), "anchor_ln2"),
    Average(),
    Minimum(),
    Maximum(),
    MaximumAt(0.001),
    Tilted(np.argmin, 1.0),
    Tilted(np.argmin, 1.2),
    Tilted(np.argmax, 1.0),
)
