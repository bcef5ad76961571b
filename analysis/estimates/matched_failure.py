"""Does a score tell failed from solved puzzles among equals: of one difficulty, or of one late drift?

Only pairs of puzzles in one stratum are compared, so that what differs between strata cannot speak for the score.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.estimates.puzzle_resampling import (
    DRAWS,
    Estimate,
    checked,
    chunk_sizes,
    estimate,
    missing_class,
    once,
    random_numbers,
    resample_counts,
    resampled_auroc,
    single_of_class,
)


@dataclass(frozen=True)
class StrataCounts:
    """Puzzles, and what is left of them where only pairs within a stratum count.

    strata: how many there are; those without both classes contribute nothing, and `strata_used`, `n_used`,
    `num_failed_used` and `pairs` (failed times solved) count the others.
    """

    n: int
    num_failed: int
    strata: int
    strata_used: int
    n_used: int
    num_failed_used: int
    pairs: int


@dataclass(frozen=True)
class StratifiedAuroc(StrataCounts):
    """AUROC over pairs within strata: the mean over strata, weighted by their pairs.

    undefined_draws: resamples without a single pair, left out of the interval.
    """

    draws: int
    undefined_draws: int
    seed: int
    auroc: Estimate
    reason: str | None = None


@dataclass(frozen=True)
class StratifiedPermutation(StrataCounts):
    """Permutation test that a score says nothing of failure within strata.

    hits: of `draws` permutations those whose AUROC is at least as far from 1/2 as `auroc`. p: (1 + hits) / (1 + draws).
    """

    draws: int
    seed: int
    auroc: float | None
    hits: int | None
    p: float | None
    reason: str | None = None


def quantile_strata(values: np.ndarray, bins: int) -> np.ndarray:
    """Labels 0, 1, ... (n,) of `bins` groups of about equal size by ascending value.

    Equal values stay together, so that groups are uneven and may be fewer where many values are equal.
    Errors: ValueError for NaN, other shapes than (n,), fewer than one bin.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or bins < 1:
        raise ValueError(f"values {values.shape} and {bins} bins: expected one value per puzzle and at least one bin")
    missing = int(np.isnan(values).sum())
    if missing:
        raise ValueError(f"{missing} of {len(values)} values are NaN: they are in no stratum")
    if not len(values):
        return np.zeros(0, np.int64)
    # Edges are values of the data: an interpolated edge between infinite drifts would be NaN.
    edges = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
    return np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)[1].reshape(-1)


def stratified_auroc(
    scores: np.ndarray, failed: np.ndarray, strata: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> StratifiedAuroc:
    """AUROC within strata with a 95 % percentile interval; puzzles are drawn within strata, whatever their class.

    So the number of failed puzzles of a stratum varies: of a single one, drawing within classes would see nothing.

    Args:
        scores, failed: (n,), see `failure_statistics.separation`.
        strata: (n,) labels.
    Errors: ValueError, see `puzzle_resampling.checked`; strata of another shape.
    """
    scores, failed, strata, used = _in_strata(scores, failed, strata)
    counts = _counts(failed, strata, used)
    scores, failed, strata = scores[used], failed[used], strata[used]
    reason = missing_class(failed) or single_of_class(failed)
    value = float(resampled_auroc(scores, failed, once(len(scores)), strata)[0]) if len(scores) else None
    drawn = resample_counts(strata, 0 if reason else draws, random_numbers(seed, "stratified_auroc"))
    chunks = [resampled_auroc(scores, failed, times, strata) for times in drawn]
    areas = np.concatenate(chunks) if chunks else np.empty(0)
    nothing = None if len(scores) else _no_pairs(counts)
    return StratifiedAuroc(
        **counts,
        draws=draws,
        undefined_draws=int(np.isnan(areas).sum()),
        seed=seed,
        auroc=estimate(value, areas, nothing or reason),
        reason=nothing,
    )


def matched_auroc(
    scores: np.ndarray, match: np.ndarray, failed: np.ndarray, bins: int = 10, *, draws: int = DRAWS, seed: int = 0
) -> StratifiedAuroc:
    """`stratified_auroc` within `quantile_strata` of a matched variable (n,), the late drift for instance.

    1/2: the score says no more of failure than that variable does, up to what varies within a bin.
    """
    return stratified_auroc(scores, failed, quantile_strata(match, bins), draws=draws, seed=seed)


def permutation_test(
    scores: np.ndarray, failed: np.ndarray, strata: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> StratifiedPermutation:
    """Two-sided test of the AUROC within strata, with the labels shuffled inside each stratum.

    The statistic is |AUROC - 1/2| of `stratified_auroc`; without a relation within strata its expectation over
    permutations is 1/2 whatever the strata differ in, which that of all pairs is not.

    Args and errors: as in `stratified_auroc`.
    Source: van Elteren 1960, rank sums within strata; (1 + hits) / (1 + draws): Phipson and Smyth 2010, so that p is
    valid for any number of draws and never 0.
    Differs: strata weigh by their pairs, because the test is to be of the AUROC that is reported.
    """
    from scipy.stats import rankdata  # takes as long to import as the script to start

    scores, failed, strata, used = _in_strata(scores, failed, strata)
    counts = _counts(failed, strata, used)
    nothing = None if used.any() else _no_pairs(counts)
    if nothing:
        return StratifiedPermutation(**counts, draws=draws, seed=seed, auroc=None, hits=None, p=None, reason=nothing)
    rng = random_numbers(seed, "permutation_test")
    # Wins over all strata, minus half their pairs; ranks are multiples of 1/2, so that ties with it are exact.
    observed, permuted = 0.0, np.zeros(draws)
    for label in np.unique(strata[used]):
        inside = strata == label
        ranks, num_failed = rankdata(scores[inside]), int(failed[inside].sum())
        expected = num_failed * (len(ranks) + 1) / 2
        observed += float(ranks[failed[inside]].sum()) - expected
        sums = [
            rng.permuted(np.broadcast_to(ranks, (size, len(ranks))), axis=1)[:, :num_failed].sum(axis=1)
            for size in chunk_sizes(draws, len(ranks))
        ]
        permuted += np.concatenate(sums) - expected if sums else 0.0
    hits = int((np.abs(permuted) >= abs(observed)).sum())
    return StratifiedPermutation(
        **counts, draws=draws, seed=seed, auroc=0.5 + observed / counts["pairs"], hits=hits, p=(1 + hits) / (1 + draws)
    )


def _in_strata(
    scores: np.ndarray, failed: np.ndarray, strata: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The checked arrays, and which puzzles (n,) are in a stratum with both classes."""
    scores, failed = checked(scores, failed)
    strata = np.asarray(strata)
    if strata.shape != scores.shape:
        raise ValueError(f"strata {strata.shape} for {len(scores)} puzzles: expected one label each")
    mixed = np.intersect1d(strata[failed], strata[~failed])
    return scores, failed, strata, np.isin(strata, mixed)


def _counts(failed: np.ndarray, strata: np.ndarray, used: np.ndarray) -> dict[str, Any]:
    """The fields of `StrataCounts`."""
    labels = np.unique(strata[used])
    pairs = sum(int((failed & (strata == label)).sum()) * int((~failed & (strata == label)).sum()) for label in labels)
    return {
        "n": len(failed),
        "num_failed": int(failed.sum()),
        "strata": len(np.unique(strata)),
        "strata_used": len(labels),
        "n_used": int(used.sum()),
        "num_failed_used": int((failed & used).sum()),
        "pairs": pairs,
    }


def _no_pairs(counts: dict[str, Any]) -> str:
    if not counts["n"]:
        return "no puzzles"
    failed = f"{counts['num_failed']} of {counts['n']} failed"
    return f"none of {counts['strata']} strata has both failed and solved puzzles ({failed})"
