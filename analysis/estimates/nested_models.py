"""What a score says of failure beyond free baselines: two logistic regressions, with and without it, out of fold."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analysis.estimates.puzzle_resampling import (
    Estimate,
    checked,
    estimate,
    missing_class,
    once,
    random_numbers,
    resample_counts,
    resampled_auroc,
)

L2 = 0.1


@dataclass(frozen=True)
class NestedAuroc:
    """AUROC out of fold of the baselines alone and with the score, and what the score adds: `difference`.

    folds: as used, at most the puzzles of the smaller class. l2: see `fit_logistic`.
    """

    n: int
    num_failed: int
    num_baselines: int
    folds: int
    repeats: int
    l2: float
    draws: int
    seed: int
    baselines: Estimate
    with_score: Estimate
    difference: Estimate
    reason: str | None = None


def nested_auroc(
    baselines: np.ndarray,
    score: np.ndarray,
    failed: np.ndarray,
    *,
    folds: int = 5,
    repeats: int = 5,
    l2: float = L2,
    draws: int = 2000,
    seed: int = 0,
) -> NestedAuroc:
    """Cross-validated AUROC of baselines -> failure and of baselines and score -> failure, on the same folds.

    Of each of `repeats` divisions into stratified folds, only pairs of puzzles in one fold count: their predictions
    come from one model, which has seen neither. (Pairs across folds compare models that have seen the other puzzle,
    and pull the AUROC of what says nothing below 1/2.) The value is the mean over divisions.

    The interval is that of a bootstrap over puzzles, stratified by class, of predictions that stay as they are: the
    same puzzles are drawn for both models and all divisions, but no model is fitted anew. So it is that of the
    comparison on other puzzles, not of models fitted to other puzzles.

    The models are linear in their columns. Of a drift that spans decades, or of a relation that bends, they use less
    than its ranks hold, and a score may seem to add what is the curvature of a baseline: pass `normal_scores` of the
    columns then, which leave the AUROC of every single column as it is.

    Args:
        baselines: (n, p) float, finite; p may be 0, and constant columns say nothing.
        score: (n,) float, finite.
        failed: (n,) bool.
    Errors: ValueError for other shapes, values that are not finite, fewer than two folds, less than one repeat, an
        l2 that is not positive (separable classes have no finite fit without).
    """
    score, failed = checked(score, failed)
    baselines = np.asarray(baselines, np.float64)
    if baselines.ndim != 2 or len(baselines) != len(score):
        raise ValueError(f"baselines {baselines.shape} for {len(score)} puzzles: expected (n, p)")
    if folds < 2 or repeats < 1 or not l2 > 0:
        raise ValueError(f"folds={folds}, repeats={repeats}, l2={l2}: expected at least 2, at least 1, and more than 0")
    columns = np.column_stack([baselines, score])
    infinite = int((~np.isfinite(columns)).any(axis=1).sum())
    if infinite:
        raise ValueError(
            f"{infinite} of {len(score)} puzzles have a value that is not finite: drop them first, or "
            "pass normal_scores of the columns if it is infinite"
        )
    smaller = min(int(failed.sum()), int((~failed).sum()))
    reason = missing_class(failed)
    if not reason and smaller < 2:
        reason = "one puzzle of a class: folds to fit on and to judge on need two of each"
    folds = min(folds, smaller)
    areas, resampled = np.zeros(2), np.empty((2, 0))
    if not reason:
        areas, resampled = _out_of_fold(columns, failed, folds, repeats, l2, draws, seed)
    alone, full, difference = (
        estimate(None if reason else float(value), drawn, reason)
        for value, drawn in (*zip(areas, resampled, strict=True), (areas[1] - areas[0], resampled[1] - resampled[0]))
    )
    return NestedAuroc(
        n=len(score),
        num_failed=int(failed.sum()),
        num_baselines=baselines.shape[1],
        folds=folds,
        repeats=repeats,
        l2=l2,
        draws=draws,
        seed=seed,
        baselines=alone,
        with_score=full,
        difference=difference,
        reason=reason,
    )


def _out_of_fold(
    columns: np.ndarray, failed: np.ndarray, folds: int, repeats: int, l2: float, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC (2,) without and with the last column, and of resamples (2, draws)."""
    rng = random_numbers(seed, "nested_auroc/folds")
    divisions = [stratified_folds(failed, folds, rng) for _ in range(repeats)]
    predictions = [
        [cross_validated(chosen, failed, division, l2) for division in divisions]
        for chosen in (columns[:, :-1], columns)
    ]

    def areas(counts: np.ndarray) -> np.ndarray:
        def auroc(logits: np.ndarray, division: np.ndarray) -> np.ndarray:
            return resampled_auroc(logits, failed, counts, division)

        return np.array([np.mean(list(map(auroc, of_model, divisions)), axis=0) for of_model in predictions])

    resamples: Iterator[np.ndarray] = resample_counts(failed, draws, random_numbers(seed, "nested_auroc/puzzles"))
    drawn = [areas(counts) for counts in resamples]
    return areas(once(len(failed)))[:, 0], np.concatenate(drawn, axis=1) if drawn else np.empty((2, 0))


def stratified_folds(failed: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold 0 .. folds-1 of each puzzle (n,), at random; of each class all folds have equally many, up to one."""
    division = np.empty(len(failed), np.int64)
    for inside in (np.flatnonzero(failed), np.flatnonzero(~failed)):
        division[rng.permutation(inside)] = np.arange(len(inside)) % folds
    return division


def cross_validated(columns: np.ndarray, failed: np.ndarray, division: np.ndarray, l2: float = L2) -> np.ndarray:
    """Log odds of failure (n,) of each puzzle, from a regression on the puzzles of the other folds.

    columns (n, p) are standardised with mean and deviation of the puzzles fitted on; constant ones become 0.
    """
    logits = np.empty(len(failed))
    for fold in np.unique(division):
        held_out = division == fold
        fitted_on = columns[~held_out]
        mean, deviation = fitted_on.mean(axis=0), fitted_on.std(axis=0)
        # A constant column's deviation may be its rounding error, which would be blown up.
        varies = np.ptp(fitted_on, axis=0) > 0
        standardised = np.where(varies, (columns - mean) / np.where(varies, deviation, 1.0), 0.0)
        weights = fit_logistic(standardised[~held_out], failed[~held_out], l2)
        logits[held_out] = weights[0] + standardised[held_out] @ weights[1:]
    return logits


def fit_logistic(columns: np.ndarray, labels: np.ndarray, l2: float = L2) -> np.ndarray:
    """Logistic regression: intercept and weights (1 + p,) that minimise the summed log loss + l2/2 |weights|^2.

    The intercept is free. On standardised columns the default is a Gaussian prior on each weight with a deviation of
    1 / sqrt(0.1) = 3.2 units of log odds per standard deviation: nothing beside hundreds of puzzles, and enough for a
    finite fit where the classes can be separated.

    Args: columns (n, p) float; labels (n,) bool with both classes.
    Errors: RuntimeError when the optimiser does not reach the minimum.
    """
    design = np.column_stack([np.ones(len(labels)), columns])
    penalty = np.full(design.shape[1], l2)
    penalty[0] = 0.0
    from scipy.optimize import minimize  # takes as long to import as the script to start
    from scipy.special import expit

    n = len(labels)

    # The mean loss is minimised, so that the tolerance means the same for any number of puzzles.
    def loss(weights: np.ndarray) -> float:
        logits = design @ weights
        return float((np.logaddexp(0.0, logits) - labels * logits).sum() + penalty @ weights**2 / 2) / n

    def gradient(weights: np.ndarray) -> np.ndarray:
        return (design.T @ (expit(design @ weights) - labels) + penalty * weights) / n

    def hessian(weights: np.ndarray) -> np.ndarray:
        shares = expit(design @ weights)
        return (design.T @ (design * (shares * (1 - shares))[:, None]) + np.diag(penalty)) / n

    start = np.zeros(design.shape[1])
    minimum = minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-8})
    steepest = float(np.abs(gradient(minimum.x)).max())
    if not steepest < 1e-5:
        raise RuntimeError(f"logistic regression did not converge: gradient {steepest:.1e} ({minimum.message})")
    return np.asarray(minimum.x)


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Each column of (n,) or (n, p) replaced by the normal quantiles of its ranks, ties by their mean rank.

    Keeps every column's order and so its AUROC; no labels are used. Infinite values become finite. NaN stays NaN.
    Source: van der Waerden 1952, quantiles of rank / (n + 1).
    """
    from scipy.special import ndtri  # takes as long to import as the script to start
    from scipy.stats import rankdata

    values = np.asarray(values, np.float64)
    return ndtri(rankdata(values, axis=0, nan_policy="omit") / (1 + (~np.isnan(values)).sum(axis=0)))
