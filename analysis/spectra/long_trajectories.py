"""Where trajectories end up that go on for long: fixed point, cycle or chaos, and how fast they get there."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.spectra.spectrum_table import SpectrumTable

KINDS = ("fixed point", "cycle", "chaos", "undecided")
# Relative; float32 leaves about 1e-6 of a state after a few hundred sub-updates.
RETURN_TOLERANCE = 1e-4
SETTLED_DRIFT = 1e-3


def attractor_kinds(
    recurrence_distance: np.ndarray, late_exponent: np.ndarray, tolerance: float = RETURN_TOLERANCE
) -> np.ndarray:
    """What each trajectory lies on at its end: (n,) of `KINDS`.

    Args:
        recurrence_distance: (n, P) |F^p(z) - z| / |z| for p = 1 ... P.
        late_exponent: (n,) lambda_1 over the last part of the trajectory, nats per step.
    Returns:
        `fixed point` or `cycle` where it returns within `tolerance` after one, after more steps; else `chaos` where
        neighbours still separate; else `undecided`: still on its way, or a torus.
    """
    returned = recurrence_distance <= tolerance  # NaN does not return
    kinds = np.full(len(returned), "undecided", dtype="<U11")
    kinds[late_exponent > 0] = "chaos"
    kinds[returned.any(axis=1)] = "cycle"
    kinds[returned[:, 0]] = "fixed point"
    return kinds


@dataclass(frozen=True)
class Survival:
    """Trajectories that have not settled, step by step.

    Args:
        steps: (N,) supervision steps 1 ... N. unsettled: (N,) number of trajectories whose drift is at or above the
            threshold then or later. total: all of them.
        escape_rate: per step, over the second half of the steps: settlings over trajectory-steps at risk, the maximum
            likelihood of an exponential tail; None where nothing was at risk. low, high: its exact 95 % interval.
    """

    steps: np.ndarray
    unsettled: np.ndarray
    total: int
    escape_rate: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "unsettled": self.unsettled.tolist(), "total": self.total, "escape_rate_per_step": self.escape_rate,
            "escape_rate_low": self.low, "escape_rate_high": self.high,
        }  # fmt: skip


def survival(drift: np.ndarray, threshold: float = SETTLED_DRIFT) -> Survival:
    """When trajectories settle for good, from their drift (n, N).

    A trajectory is unsettled at step t while its drift is at or above the threshold at t or later: one that rests and
    moves on has not settled. The last step cannot know what would have come.
    Source: escape rate of transient chaos as in Ercsey-Ravasz and Toroczkai 2011 (Nature Physics 7, 966).
    """
    from scipy.special import gammaincinv  # takes as long to import as the script to start

    n, num_steps = drift.shape
    moving = ~(drift < threshold)  # NaN moves
    later = np.logical_or.accumulate(moving[:, ::-1], axis=1)[:, ::-1]
    unsettled = later.sum(axis=0)
    half = num_steps // 2
    at_risk = int(unsettled[half:-1].sum())
    settlings = int(unsettled[half] - unsettled[-1]) if num_steps > half else 0
    rate = low = high = None
    if at_risk:
        rate = settlings / at_risk
        # Exact limits of a Poisson mean (Garwood 1936): half the quantiles of chi-squared.
        low = float(gammaincinv(settlings, 0.025) / at_risk) if settlings else 0.0
        high = float(gammaincinv(settlings + 1, 0.975) / at_risk)
    return Survival(np.arange(1, num_steps + 1), unsettled, n, rate, low, high)


def long_trajectory_statistics(table: SpectrumTable) -> dict[str, Any] | None:
    """Kinds of attractors by outcome, accuracy of longer thinking, survival; None where no trajectory went on."""
    arrays = table.arrays
    if "extended_growth" not in arrays:
        return None
    growth, drift, exact = arrays["extended_growth"], table.to_the_end("drift"), table.to_the_end("exact")
    late = growth[:, growth.shape[1] // 2 :].mean(axis=1)
    kinds = attractor_kinds(arrays["recurrence_distance"], late)
    outcomes = {"solved": exact[:, -1], "failed": ~exact[:, -1]}
    fixed_answer = arrays["answer_period"] == 1
    return {
        "num_steps": exact.shape[1],
        # Of a case-control sample half fails whatever the network does.
        "exact_count_by_step": None if table.sample else exact.sum(axis=0).tolist(),
        "n": len(exact),
        "kinds_at_end": {
            name: {kind: int((kinds[mask] == kind).sum()) for kind in KINDS} | {"n": int(mask.sum())}
            for name, mask in outcomes.items()
        },
        "answer_constant_at_end": {name: int(fixed_answer[mask].sum()) for name, mask in outcomes.items()},
        "lambda1_late_median": {
            name: float(np.median(late[mask])) if mask.any() else None for name, mask in outcomes.items()
        },
        "tolerance": RETURN_TOLERANCE,
        "settled_drift": SETTLED_DRIFT,
        "survival": {name: survival(drift[mask]).as_dict() if mask.any() else None for name, mask in outcomes.items()},
    }
