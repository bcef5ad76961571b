"""Simulated puzzles for the tests of failure statistics, and what all their results have in common."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np


def normal_table(rng: np.random.Generator, solved: int, failed: int, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of unit deviation whose means differ by `distance`: the AUROC is Phi(distance / sqrt 2)."""
    is_failed = np.arange(solved + failed) < failed
    return rng.normal(size=solved + failed) + distance * is_failed, is_failed


def as_json(result: Any) -> dict[str, Any]:
    """The result after a round trip through strict JSON; fails on NaN, infinities and NumPy numbers."""
    read = json.loads(json.dumps(asdict(result), allow_nan=False))
    assert isinstance(read, dict)
    return read


def pairwise_auroc(
    scores: np.ndarray, failed: np.ndarray, may_compare: Callable[[int, int], bool] = lambda i, j: True
) -> float | None:
    """By a loop over the pairs (failed i, solved j) that may be compared; None without one."""
    wins = [
        1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
        for i in np.flatnonzero(failed)
        for j in np.flatnonzero(~failed)
        if may_compare(int(i), int(j))
    ]
    return sum(wins) / len(wins) if wins else None
