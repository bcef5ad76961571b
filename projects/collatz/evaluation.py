"""Judge functions V of a lookahead window: on the rows of an evaluation file, and along whole orbits.

A violation is a step n -> T(n) on which V does not decrease. Which steps those are, the function itself says; here they
are counted and weighted, in the same way for every function, so that all of them stand in one table.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from projects.collatz.eval_file import EvalRows
from projects.collatz.syracuse import Orbit, orbit
from projects.collatz.windows import BLOCK, Windows, orbit_windows, windows_of
from training.evaluation.answering import wilson_interval


class Judged(Protocol):
    """A function V with a name that can tell its violations, (B,) bool, on windows."""

    @property
    def name(self) -> str: ...

    def violations(self, windows: Windows) -> np.ndarray: ...


@dataclass(frozen=True)
class OrbitCount:
    """Violations of one function along an orbit, and the orbit's own numbers."""

    steps: int
    growth_steps: int
    odd_max: int
    violations: int


def judge_rows(
    functions: Sequence[Judged],
    rows: EvalRows,
    lookahead: int,
    progress: Callable[[Iterable[Windows]], Iterable[Windows]] = iter,
) -> dict[str, dict[str, Any]]:
    """By function's name: what `rates` gives for the rows. `progress` may wrap the blocks of windows."""
    found: dict[str, list[np.ndarray]] = {function.name: [] for function in functions}
    for windows in progress(windows_of(rows.numbers, lookahead)):
        for function in functions:
            found[function.name].append(function.violations(windows))
    free = np.array([number % 3 != 0 for number in rows.numbers])
    return {name: rates(np.concatenate(parts), rows.is_growth, rows.weights, free) for name, parts in found.items()}


def rates(violations: np.ndarray, is_growth: np.ndarray, weights: np.ndarray, free: np.ndarray) -> dict[str, Any]:
    """Counts and shares of passed steps; a share of nothing is None.

    Args:
        violations, is_growth, free: (N,) bool; weights: (N,). `free` marks n not divisible by 3: T(n) never is, so a
        function that sees n mod 3 passes the others for nothing.
    Returns:
        rows, violations, pass, pass_interval (95 % Wilson), weighted_pass, growth_rows, growth_pass,
        growth_weighted_pass, and of the rows with n not divisible by 3: free_rows, free_violations, free_pass.
    """
    passed = ~violations
    return {
        "rows": len(violations),
        "violations": int(violations.sum()),
        "pass": _share(passed),
        "pass_interval": list(wilson_interval(int(passed.sum()), len(passed))),
        "weighted_pass": _share(passed, weights),
        "growth_rows": int(is_growth.sum()),
        "growth_pass": _share(passed[is_growth]),
        "growth_weighted_pass": _share(passed[is_growth], weights[is_growth]),
        "free_rows": int(free.sum()),
        "free_violations": int((violations & free).sum()),
        "free_pass": _share(passed[free]),
    }


def _share(passed: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    if not len(passed):
        return None
    # An exact count over an exact count where nothing is weighted.
    return float(passed.sum() / len(passed)) if weights is None else float(weights[passed].sum() / weights.sum())


def judge_orbits(
    functions: Sequence[Judged], starts: Sequence[int], lookahead: int
) -> dict[str, dict[int, OrbitCount]]:
    """By function's name and start: the violations over all steps from the start down to 1.

    Errors: `ValueError` for a start that is even or below 1.
    """
    result: dict[str, dict[int, OrbitCount]] = {function.name: {} for function in functions}
    for start in starts:
        path = orbit(start)
        for name, count in _violations_along(functions, path, lookahead).items():
            result[name][start] = OrbitCount(path.steps, path.growth_steps, path.odd_max, count)
    return result


def _violations_along(functions: Sequence[Judged], path: Orbit, lookahead: int) -> dict[str, int]:
    windows = orbit_windows(path, lookahead)
    parts = [windows.cut(slice(first, first + BLOCK)) for first in range(0, len(windows), BLOCK)]
    return {function.name: sum(int(function.violations(part).sum()) for part in parts) for function in functions}
