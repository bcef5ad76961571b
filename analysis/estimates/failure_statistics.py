"""How well one number per puzzle tells failed from solved puzzles, and how many of either have settled.

An effect size with its interval, no p: AUROC and Cliff's delta, medians and their difference. On a subset, unsettled
puzzles only for instance, call with a mask: `separation(scores[unsettled], failed[unsettled])`. Intervals are over
puzzles of one run; `analysis.arms.several_runs` speaks of other runs. Tests within strata and matched comparisons are
in `analysis.estimates.matched_failure`, what a score adds to others in `analysis.estimates.nested_models`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.estimates.puzzle_resampling import (
    DRAWS,
    Estimate,
    checked,
    estimate,
    missing_class,
    random_numbers,
    resample_counts,
    resampled_auroc,
    single_of_class,
)
from training.evaluation.answering import counted_rate
from training.evaluation.calibration import auroc
from training.records.result_numbers import Z_95


@dataclass(frozen=True)
class Separation:
    """What a score says of failure; `reason` where one class is missing. Medians are in the unit of the score.

    auroc: share of (failed, solved) pairs in which the failed puzzle scores higher, ties half. cliffs_delta: 2 auroc
    - 1. median_difference: median of the failed minus median of the solved. auroc_newcombe: the AUROC again, with
    `newcombe_interval`. With few puzzles of a class, or an AUROC near 1, the bootstrap's interval ends too low and
    covers less than it says: it resamples the few that overlap, and knows of no others. This one is rather too wide,
    and is there also where the classes do not overlap.
    """

    n: int
    num_failed: int
    draws: int
    seed: int
    auroc: Estimate
    auroc_newcombe: Estimate
    cliffs_delta: Estimate
    median_solved: Estimate
    median_failed: Estimate
    median_difference: Estimate
    reason: str | None = None


def separation(scores: np.ndarray, failed: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> Separation:
    """AUROC, Cliff's delta and medians with 95 % percentile intervals of a bootstrap stratified by class.

    Stratified: as many failed and as many solved puzzles are drawn as there are, so that every resample has both.

    Args:
        scores: (n,) float, higher = predicts failure more; no NaN.
        failed: (n,) bool.
    Errors: ValueError, see `puzzle_resampling.checked`.
    Source: AUROC and its interval: Mann and Whitney 1947; Efron 1979. Cliff's delta: Cliff 1993.
    """
    scores, failed = checked(scores, failed)
    order = np.argsort(scores, kind="stable")
    scores, failed = scores[order], failed[order]
    solved_scores, failed_scores = scores[~failed], scores[failed]
    chunks = []
    for counts in resample_counts(failed, draws, random_numbers(seed, "separation")):
        areas = resampled_auroc(scores, failed, counts)
        medians = [_medians(scores[which], counts[:, which]) for which in (~failed, failed)]
        chunks.append([areas, *medians])
    areas, of_solved, of_failed = np.concatenate(chunks, axis=1) if chunks else np.empty((3, 0))

    reason, single = missing_class(failed), single_of_class(failed)
    area = auroc(scores, failed)
    solved_median, failed_median = _median(solved_scores), _median(failed_scores)
    difference = None if solved_median is None or failed_median is None else failed_median - solved_median
    with np.errstate(invalid="ignore"):  # of infinite medians, which `estimate` leaves out
        differences = of_failed - of_solved
    single_median = [
        f"fewer than two {name} puzzles" if len(of_class) < 2 else None
        for of_class, name in ((solved_scores, "solved"), (failed_scores, "failed"))
    ]
    return Separation(
        n=len(scores),
        num_failed=int(failed.sum()),
        draws=draws,
        seed=seed,
        auroc=estimate(area, areas, reason or single),
        auroc_newcombe=Estimate(None, reason=reason)
        if area is None
        else Estimate(area, *newcombe_interval(area, int(failed.sum()), int((~failed).sum()))),
        cliffs_delta=estimate(None if area is None else 2 * area - 1, 2 * areas - 1, reason or single),
        median_solved=estimate(solved_median, of_solved, single_median[0]),
        median_failed=estimate(failed_median, of_failed, single_median[1]),
        median_difference=estimate(difference, differences, reason or single),
        reason=reason,
    )


def newcombe_interval(auroc: float, num_failed: int, num_solved: int) -> tuple[float, float]:
    """95 % score interval of an AUROC: the values from which `auroc` is within 1.96 of *their* standard errors.

    As Wilson's interval of a rate it stays within [0, 1] and has a width also at 0 and 1. The variance is that of
    scores with exponential distributions, shared between the classes: it needs no more than the AUROC and the counts.
    Source: Newcombe 2006 (Statistics in Medicine 25, 559-573), method 5; the variance after Hanley and McNeil 1982.
    """
    from scipy.optimize import brentq  # takes as long to import as the script to start

    z, pairs, star = Z_95, num_failed * num_solved, (num_failed + num_solved) / 2 - 1

    def excess(area: float) -> float:
        variance = area * (1 - area) * (1 + star * ((1 - area) / (2 - area) + area / (1 + area))) / pairs
        return (auroc - area) ** 2 - z * z * variance

    # At 0 and 1 themselves the variance is 0, so that a bracket ends just beside them.
    beside = 1e-12
    low = 0.0 if auroc <= beside else brentq(excess, 0.0, min(auroc, 1 - beside))
    high = 1.0 if auroc >= 1 - beside else brentq(excess, max(auroc, beside), 1.0)
    return float(low), float(high)


def median_difference(scores: np.ndarray, failed: np.ndarray) -> float | None:
    """Median of the failed minus median of the solved; None when one class is absent. For `hierarchical_bootstrap`."""
    scores, failed = checked(scores, failed)
    if missing_class(failed):
        return None
    return float(np.median(scores[failed]) - np.median(scores[~failed]))


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def _medians(ascending: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Medians (D,) of resamples of m values, from counts (D, m) of the values (m,) in ascending order."""
    m = len(ascending)
    if not m:
        return np.full(len(counts), np.nan)
    drawn = np.cumsum(counts, axis=1)
    lower, upper = (ascending[(drawn < rank).sum(axis=1)] for rank in ((m + 1) // 2, m // 2 + 1))
    with np.errstate(invalid="ignore"):
        return (lower + upper) / 2


@dataclass(frozen=True)
class SettledTable:
    """Puzzles by settled and correct, and two rates of them, each as in `training.evaluation.answering.counted_rate`.

    threshold: settled means that the residual is below it. reason: why a rate has no value, None where both have one.
    """

    n: int
    num_failed: int
    threshold: float
    settled_correct: int
    settled_failed: int
    unsettled_correct: int
    unsettled_failed: int
    correct_given_settled: dict[str, Any]
    settled_given_failed: dict[str, Any]
    reason: str | None = None


def settled_table(residuals: np.ndarray, failed: np.ndarray, threshold: float) -> SettledTable:
    """Is a settled puzzle a solved one? Counts, P(correct | settled) and P(settled | failed), 95 % Wilson intervals.

    Args:
        residuals: (n,) residual or late drift of each puzzle, in the unit of `threshold`; no NaN.
        failed: (n,) bool.
    Errors: ValueError, see `puzzle_resampling.checked`, and for a threshold that is not finite.
    """
    residuals, failed = checked(residuals, failed, "residuals")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold is {threshold}, expected a finite number in the unit of the residuals")
    settled = residuals < threshold
    both, settled_failed = int((settled & ~failed).sum()), int((settled & failed).sum())
    num_settled, num_failed = int(settled.sum()), int(failed.sum())
    denominators = {"has settled": num_settled, "failed": num_failed}
    missing = [f"no puzzle {name}" for name, count in denominators.items() if not count]
    return SettledTable(
        n=len(failed),
        num_failed=num_failed,
        threshold=float(threshold),
        settled_correct=both,
        settled_failed=settled_failed,
        unsettled_correct=len(failed) - num_failed - both,
        unsettled_failed=num_failed - settled_failed,
        correct_given_settled=counted_rate(both, num_settled),
        settled_given_failed=counted_rate(settled_failed, num_failed),
        reason="; ".join(missing) or None,
    )
