"""Judge functions V of a lookahead window: on the rows of an evaluation file, and along whole orbits.

A violation is a step n -> T(n) on which V does not decrease. Which steps those are, the function itself says; here they
are counted and weighted, in the same way for every function, so that all of them stand in one table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from long_work import progress_bar
from projects.collatz.closed_forms import ValueFunction
from projects.collatz.eval_file import EvalRows
from projects.collatz.syracuse import orbit
from projects.collatz.windows import BLOCK, orbit_windows, windows_of
from training.records.result_numbers import wilson_interval


@dataclass(frozen=True)
class OrbitCount:
    """Violations of one function along an orbit, and the orbit's own numbers."""

    steps: int
    growth_steps: int
    odd_max: int
    violations: int


def violations_by_name(
    functions: Sequence[ValueFunction], numbers: Sequence[int], lookahead: int, description: str
) -> dict[str, np.ndarray]:
    """(N,) bool by function's name: whether it violates a number's step. `description` labels a progress bar."""
    blocks: dict[str, list[np.ndarray]] = {function.name: [] for function in functions}
    total = math.ceil(len(numbers) / BLOCK)
    for windows in progress_bar(
        windows_of(numbers, lookahead), total=total, desc=description, unit=" blocks", leave=False
    ):
        for function in functions:
            blocks[function.name].append(function.violations(windows))
    return {name: np.concatenate(violations) for name, violations in blocks.items()}


def not_multiples_of_3(numbers: Sequence[int]) -> np.ndarray:
    """(N,) bool."""
    return np.array([number % 3 != 0 for number in numbers])


def judge_rows(functions: Sequence[ValueFunction], rows: EvalRows, lookahead: int) -> dict[str, dict[str, Any]]:
    """What `rates` gives for the rows, by function's name."""
    free = not_multiples_of_3(rows.numbers)
    violations = violations_by_name(functions, rows.numbers, lookahead, "evaluation rows")
    return {name: rates(bad, rows.is_growth, rows.weights, free) for name, bad in violations.items()}


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


NO_RATES = tuple(rates(*np.zeros((4, 0), bool)))  # the names, for functions that no rows were judged with


def judge_orbits(
    functions: Sequence[ValueFunction], starts: Sequence[int], lookahead: int
) -> dict[str, dict[int, OrbitCount]]:
    """The violations over all steps from a start down to 1, by function's name and start.

    Errors: `ValueError` for a start that is even or below 1.
    """
    result: dict[str, dict[int, OrbitCount]] = {function.name: {} for function in functions}
    for start in starts:
        path = orbit(start)
        windows = orbit_windows(path, lookahead)
        blocks = [windows.cut(slice(first, first + BLOCK)) for first in range(0, len(windows), BLOCK)]
        for function in functions:
            count = sum(int(function.violations(block).sum()) for block in blocks)
            result[function.name][start] = OrbitCount(path.steps, path.growth_steps, path.odd_max, count)
    return result


def total_along(orbits: dict[str, dict[int, OrbitCount]]) -> dict[str, Any]:
    """Sums over what `judge_orbits` gives: the steps of all orbits, and the violations by function's name."""
    steps = sum(count.steps for count in next(iter(orbits.values())).values())
    violations = {name: sum(count.violations for count in counts.values()) for name, counts in orbits.items()}
    return {"steps": steps, "violations": violations}
