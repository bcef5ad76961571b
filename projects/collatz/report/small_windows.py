"""The best V = alpha ln n + G(k_1..k_L) there is at a small lookahead, by exact search, growth steps weighing more.

A step whose window is u = (k_1..k_m), m = L + 1, changes V by alpha ln 2 (log2 3 - k_1) + G(k_2..k_m) - G(k_1..k_L),
for large n. Windows are edges of a graph on the G's arguments, and some G makes V fall on every step but those in a set
of windows iff each cycle of net rise, 3^j > 2^K for its j steps and K halvings, has a window of the set in it. So the
least rate of violations is a smallest weighted set of windows that meets every rising cycle. Found by adding cycles
until none is missed: every step of that is a lower bound, the last one a function V.

Valuations of `CAP` and more are one letter with CAP's drift. That makes V no better: a larger valuation falls further.
Model of valuations and source: `projects.collatz.bounds`.
"""

from dataclasses import dataclass
from itertools import product
from math import log2

import numpy as np

CAP = 3
MOST_LOOKAHEAD = 4


@dataclass(frozen=True)
class BestWindows:
    """The least weighted rate of violations at one lookahead, and where a V that attains it violates.

    Attributes: growth_weight, of growth steps, decay steps weighing 1. growth and decay: probabilities that a step is a
    growth (decay) step and violated. forced_growth: 2^-(L+1), the part of `growth` that no V can avoid: a step of the
    window (1, ..., 1) leads to that window again, so that G cancels and ln n rises. violated: the set of windows
    (k_1..k_(L+1)). cycles: how many rising cycles were looked at.
    """

    lookahead: int
    growth_weight: float
    growth: float
    decay: float
    forced_growth: float
    violated: tuple[tuple[int, ...], ...]
    cycles: int

    @property
    def rate(self) -> float:
        """Share of violated steps."""
        return self.growth + self.decay


def best_windows(lookahead: int, growth_weight: float, *, prefer_growth: bool = False) -> BestWindows:
    """The optimum at lookahead L.

    prefer_growth: which of equally good sets is taken, the one with most violated growth steps or with least.
    Errors: `ValueError` for a lookahead outside 1..`MOST_LOOKAHEAD` or a weight that is not above 0.
    """
    if not 1 <= lookahead <= MOST_LOOKAHEAD or not growth_weight > 0:
        raise ValueError(f"lookahead {lookahead} with weight {growth_weight}: expected 1 to {MOST_LOOKAHEAD}, above 0")
    windows = list(product(range(1, CAP + 1), repeat=lookahead + 1))
    chances = np.array([np.prod([_chance(k) for k in window]) for window in windows])
    growth = np.array([window[0] == 1 for window in windows])
    # Sums of probabilities are multiples of 4^-(L+1): so small a change breaks ties and, for whole weights, no more.
    tie = 0.25 ** (lookahead + 2) * (-1 if prefer_growth else 1)
    costs = chances * np.where(growth, growth_weight + tie, 1.0)
    graph = _Graph(windows)
    cycles: list[list[int]] = []
    chosen = np.zeros(len(windows), bool)
    while missed := graph.rising_cycles(~chosen):
        cycles += missed
        chosen = _smallest_cover(costs, cycles)
    return BestWindows(
        lookahead, growth_weight, float(chances[chosen & growth].sum()), float(chances[chosen & ~growth].sum()),
        2.0 ** -(lookahead + 1), tuple(windows[place] for place in np.flatnonzero(chosen)), len(cycles),
    )  # fmt: skip


def _chance(k: int) -> float:
    return 2.0 ** -(k - 1 if k == CAP else k)


def _smallest_cover(costs: np.ndarray, cycles: list[list[int]]) -> np.ndarray:
    """(windows,) bool: the cheapest set that meets each cycle."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes as long to import as the script to start

    rows = np.zeros((len(cycles), len(costs)))
    for row, cycle in zip(rows, cycles, strict=True):
        row[cycle] = 1
    cover = milp(
        costs / costs.max(), constraints=LinearConstraint(rows, 1, np.inf), bounds=Bounds(0, 1),
        integrality=np.ones(len(costs)), options={"mip_rel_gap": 0.0, "presolve": False},
    )  # fmt: skip
    if not cover.success:
        raise ArithmeticError(f"no smallest cover was found: {cover.message}")
    return np.asarray(cover.x > 0.5)


class _Graph:
    """Windows as edges from their first L to their last L valuations."""

    def __init__(self, windows: list[tuple[int, ...]]) -> None:
        places = {node: index for index, node in enumerate(dict.fromkeys(window[:-1] for window in windows))}
        self.windows = windows
        self.tails = np.array([places[window[:-1]] for window in windows])
        self.heads = np.array([places[window[1:]] for window in windows])
        self.drifts = np.array([log2(3) - window[0] for window in windows])
        self.nodes = len(places)

    def rising_cycles(self, kept: np.ndarray) -> list[list[int]]:
        """Rising cycles, as lists of windows, among the windows that are kept; none iff there is none.

        Longest paths after Bellman and Ford: a path that still grows after as many rounds as there are nodes goes
        through a rising cycle.
        """
        edges = np.flatnonzero(kept)
        heights, arrivals = np.zeros(self.nodes), np.full(self.nodes, -1)
        grown = np.zeros(self.nodes, bool)
        for _ in range(self.nodes + 1):
            reached = heights[self.tails[edges]] + self.drifts[edges]
            order = np.argsort(reached, kind="stable")
            best = np.full(self.nodes, -np.inf)
            best[self.heads[edges[order]]] = reached[order]
            by = np.full(self.nodes, -1)
            by[self.heads[edges[order]]] = edges[order]
            # Cycles of so few steps rise or fall by more than a thousandth of a bit each: no rounding decides.
            grown = best > heights + 1e-9
            heights, arrivals = np.where(grown, best, heights), np.where(grown, by, arrivals)
            if not grown.any():
                return []
        cycles = [self._back(int(start), arrivals) for start in np.flatnonzero(grown)]
        return list({tuple(sorted(cycle)): cycle for cycle in cycles}.values())

    def _back(self, node: int, arrivals: np.ndarray) -> list[int]:
        """The cycle that following arrivals backwards from a node leads into."""
        for _ in range(self.nodes):
            node = self.tails[arrivals[node]]
        cycle: list[int] = []
        place = node
        while not cycle or place != node:
            cycle.append(int(arrivals[place]))
            place = self.tails[arrivals[place]]
        steps, halvings = len(cycle), sum(self.windows[edge][0] for edge in cycle)
        if 3**steps <= 2**halvings:
            raise ArithmeticError("a cycle that does not rise")
        return cycle
