"""Puzzles drawn with replacement, the AUROC of all resamples at once, and what is reported of them.

A resample is a row of counts, how often each puzzle was drawn: several scores of a puzzle are then drawn together, in
any groups, and the AUROC of thousands of resamples is a cumulative sum over counts in the order of the score. Of this
`scipy.stats.bootstrap` has two independent samples without further groups; the tests compare with it.

Rows are distinct puzzles: drawn views of the same puzzle would count as evidence several times.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.seeding import derived_seed

DRAWS = 10_000
# Counts held at a time: half a MiB stays in the cache. Another number means other draws from the same seed.
_CELLS = 1 << 16


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % bootstrap percentile interval. What is not defined is None, and `reason` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def estimate(value: float | None, draws: np.ndarray, reason: str | None = None) -> Estimate:
    """The estimate of a statistic that is `value` on the data and `draws` (D,) on resamples, NaN where undefined there.

    reason: why there is no value or no interval, where the caller knows; otherwise found here. Undefined draws are left
    out: the interval is of resamples that have the statistic. Draws that are all equal, as the AUROC of two classes
    that do not overlap, make no interval: its width would be 0, and say more than the puzzles can.
    """
    if value is None or not np.isfinite(value):
        return Estimate(None, reason=reason or ("undefined" if value is None else "the value is not finite"))
    if reason:
        return Estimate(float(value), reason=reason)
    drawn = draws[~np.isnan(draws)]
    if not drawn.size:
        return Estimate(float(value), reason="no resample has the statistic")
    if not np.isfinite(drawn).all():
        return Estimate(float(value), reason="some resamples have an infinite value")
    if drawn.min() == drawn.max():
        return Estimate(float(value), reason="all resamples agree: puzzles like these say nothing of its uncertainty")
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(value), float(low), float(high))


def checked(scores: np.ndarray, failed: np.ndarray, name: str = "scores") -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,) as float64 and failed (n,) bool. Infinite scores are taken: they have a rank.

    Errors: ValueError for other shapes, for `failed` of another type, and for NaN scores, which have no rank: the
    caller decides what a puzzle without a score is, and drops it or not.
    """
    scores, failed = np.asarray(scores, np.float64), np.asarray(failed)
    if failed.dtype != bool:
        raise ValueError(f"failed is {failed.dtype}, expected bool")
    if scores.ndim != 1 or scores.shape != failed.shape:
        raise ValueError(f"{name} {scores.shape} and failed {failed.shape}: expected one of each for every puzzle")
    missing = int(np.isnan(scores).sum())
    if missing:
        raise ValueError(f"{missing} of {len(scores)} {name} are NaN: drop these puzzles first")
    return scores, failed


def missing_class(failed: np.ndarray) -> str | None:
    """Why nothing tells failed from solved puzzles apart, or None where there are both."""
    if not failed.size:
        return "no puzzles"
    if failed.all() or not failed.any():
        return f"all {failed.size} puzzles {'failed' if failed.any() else 'are solved'}"
    return None


def single_of_class(failed: np.ndarray) -> str | None:
    """Why there is no interval: what one puzzle says of its class does not vary in resamples."""
    if min(int(failed.sum()), int((~failed).sum())) == 1:
        return "one puzzle of a class: an interval needs two of each"
    return None


def random_numbers(seed: int, stream: str) -> np.random.Generator:
    """The generator of one use of `seed`; other streams are independent."""
    return np.random.default_rng(derived_seed(seed, f"failure_statistics/{stream}"))


def resample_counts(groups: np.ndarray, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each puzzle is drawn, `draws` times: chunks (D, n) float64 of whole counts, D adding up to `draws`.

    groups: (n,), any labels; within each group as many puzzles are drawn, with replacement, as it has.
    """
    members = [np.flatnonzero(groups == label) for label in np.unique(groups)]
    for size in chunk_sizes(draws, len(groups)):
        counts = np.zeros((size, len(groups)))
        for inside in members:
            cells = rng.integers(len(inside), size=(size, len(inside)))
            cells += len(inside) * np.arange(size)[:, None]
            drawn = np.bincount(cells.ravel(), minlength=cells.size)
            counts[:, inside] = drawn.reshape(cells.shape)
        yield counts


def chunk_sizes(draws: int, num_puzzles: int) -> Iterator[int]:
    """Numbers of draws that add up to `draws`, each small enough to hold a number for every puzzle and draw."""
    most = max(1, _CELLS // max(1, num_puzzles))
    for start in range(0, draws, most):
        yield min(most, draws - start)


def resampled_auroc(
    scores: np.ndarray, failed: np.ndarray, counts: np.ndarray, strata: np.ndarray | None = None
) -> np.ndarray:
    """AUROC (D,) of score -> failure in each resample: the share of (failed, solved) pairs in which the failed scores
    higher, ties half; NaN where a resample has no pair.

    Args:
        scores, failed: (n,), see `checked`.
        counts: (D, n), how often each puzzle is in each resample.
        strata: (n,) labels; only pairs within a stratum count, so that strata weigh as much as they have pairs.
    """
    wins, pairs = np.zeros(len(counts)), np.zeros(len(counts))
    for inside in [slice(None)] if strata is None else [strata == label for label in np.unique(strata)]:
        scores_inside, is_failed, times = scores[inside], failed[inside], counts[:, inside]
        order = np.flatnonzero(~is_failed)[np.argsort(scores_inside[~is_failed], kind="stable")]
        solved = scores_inside[order]
        below = np.zeros((len(counts), len(solved) + 1))
        np.cumsum(times[:, order], axis=1, out=below[:, 1:])
        lower = below[:, np.searchsorted(solved, scores_inside[is_failed], side="left")]
        not_higher = below[:, np.searchsorted(solved, scores_inside[is_failed], side="right")]
        failed_times = times[:, is_failed]
        # Counts and halves of counts: every sum is exact, whatever its order.
        wins += (failed_times * (lower + not_higher)).sum(axis=1) / 2
        pairs += failed_times.sum(axis=1) * below[:, -1]
    return np.divide(wins, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


def once(num_puzzles: int) -> np.ndarray:
    """Counts (1, n) of the data themselves: every puzzle once."""
    return np.ones((1, num_puzzles))
