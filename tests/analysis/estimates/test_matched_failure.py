"""Strata, the AUROC within them and its permutation test: loops over pairs, enumeration, uniform p, coverage."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, mannwhitneyu, norm

from analysis.estimates.failure_statistics import separation
from analysis.estimates.matched_failure import matched_auroc, permutation_test, quantile_strata, stratified_auroc
from tests.analysis.estimates.failure_tables import as_json, normal_table, pairwise_auroc

# -- strata


@given(
    st.lists(st.sampled_from([-np.inf, -1.5, 0, 0, 0, 2, 3, 8, np.inf]) | st.floats(-9, 9), max_size=60),
    st.integers(1, 12),
)
def test_strata_follow_the_values_and_keep_ties_together(values: list[float], bins: int) -> None:
    labels = quantile_strata(np.array(values), bins)
    ordered = sorted(zip(values, labels.tolist(), strict=True))
    for (low, before), (high, after) in itertools.pairwise(ordered):
        assert before <= after and (low != high or before == after)
    assert set(labels.tolist()) == set(range(len(set(labels.tolist())))) and len(set(labels.tolist())) <= bins


@pytest.mark.parametrize(("count", "bins"), [(100, 10), (103, 10), (7, 10), (5, 1), (2048, 10)])
def test_strata_of_distinct_values_are_of_equal_size(count: int, bins: int) -> None:
    sizes = np.bincount(quantile_strata(np.random.default_rng(0).normal(size=count), bins))
    assert len(sizes) == min(count, bins) and sizes.max() - sizes.min() <= 1


def test_strata_of_infinite_values() -> None:
    assert quantile_strata(np.array([np.inf, -np.inf, np.inf, -np.inf]), 2).tolist() == [1, 0, 1, 0]
    assert quantile_strata(np.array([np.inf, 1, np.inf, 0]), 4).tolist() == [2, 1, 2, 0]


def test_strata_of_bad_values() -> None:
    with pytest.raises(ValueError, match="1 of 3 values are NaN"):
        quantile_strata(np.array([1, np.nan, 2]), 2)
    for values, bins in ((np.zeros((2, 2)), 2), (np.zeros(3), 0)):
        with pytest.raises(ValueError, match="at least one bin"):
            quantile_strata(values, bins)


# -- the AUROC within strata


def test_only_pairs_within_strata_count() -> None:
    rng = np.random.default_rng(0)
    scores, failed, strata = rng.integers(0, 5, 120).astype(float), rng.random(120) < 0.3, rng.integers(0, 9, 120)
    failed[strata == 3], failed[strata == 5] = False, True
    within = stratified_auroc(scores, failed, strata, draws=50)
    assert within.auroc.value == pytest.approx(
        pairwise_auroc(scores, failed, lambda i, j: strata[i] == strata[j]), abs=1e-12
    )
    mixed = (strata != 3) & (strata != 5)
    assert (within.strata, within.strata_used, within.n, within.n_used) == (9, 7, 120, mixed.sum())
    assert within.num_failed == failed.sum() and within.num_failed_used == (failed & mixed).sum()
    assert within.pairs == sum(
        (failed & (strata == label)).sum() * (~failed & (strata == label)).sum() for label in range(9)
    )
    assert permutation_test(scores, failed, strata, draws=9).auroc == pytest.approx(within.auroc.value, abs=1e-12)
    as_json(within)


def test_one_stratum_is_no_stratum() -> None:
    scores, failed = normal_table(np.random.default_rng(1), 300, 100, 1.0)
    matched = matched_auroc(scores, np.zeros(400), failed, draws=4000)
    plain = separation(scores, failed, draws=4000).auroc
    assert matched.strata == 1 and matched.pairs == 30_000 and matched.auroc.value == plain.value
    assert matched.auroc.low is not None and plain.low is not None and plain.high is not None
    # Whether the number of failures is drawn as well hardly matters for so many.
    assert matched.auroc.low == pytest.approx(plain.low, abs=0.08 * (plain.high - plain.low))


def test_a_score_that_only_repeats_the_drift_is_nothing_at_equal_drift() -> None:
    """Both follow a hidden level; matched on it, the scores are independent of failure, or not."""
    rng = np.random.default_rng(7)
    level = rng.integers(0, 8, 4000).astype(float)
    failed = rng.random(4000) < 0.1 * level
    repeats = level + rng.normal(size=4000)
    plain, matched = separation(repeats, failed, draws=500), matched_auroc(repeats, level, failed, draws=2000)
    assert plain.auroc.low is not None and plain.auroc.low > 0.7
    assert matched.auroc.low is not None and matched.auroc.high is not None
    assert matched.auroc.low < 0.5 < matched.auroc.high and matched.strata_used == 7, "no failure at level 0"
    adds = matched_auroc(repeats + failed, level, failed, draws=500)
    assert adds.auroc.value == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.03)


def test_interval_within_strata_covers_where_each_has_one_failure() -> None:
    """20 strata of one failed and five solved: drawing within classes would take the failures for certain. 300
    tables: standard error 1.3 points."""
    rng, truth, covered = np.random.default_rng(8), norm.cdf(1 / math.sqrt(2)), 0
    strata, failed = np.repeat(np.arange(20), 6), np.arange(120) % 6 == 0
    for seed in range(300):
        scores = rng.normal(size=120) + failed + 3 * rng.normal(size=20)[strata]
        within = stratified_auroc(scores, failed, strata, draws=400, seed=seed).auroc
        assert within.low is not None and within.high is not None
        covered += within.low <= truth <= within.high
    assert 0.88 < covered / 300 < 0.995


def test_resamples_without_a_pair_are_counted_and_left_out() -> None:
    """One stratum, two failed and two solved puzzles: 2 of 16 resamples have one class."""
    within = stratified_auroc(np.array([0.0, 2, 1, 3]), np.array([False, False, True, True]), np.zeros(4), draws=4000)
    assert within.undefined_draws == pytest.approx(4000 / 8, abs=4 * math.sqrt(4000 * 7) / 8)
    assert within.auroc.value == 0.75 and within.auroc.low == 0 and within.auroc.high == 1
    single = stratified_auroc(np.arange(5.0), np.arange(5) == 2, np.zeros(5), draws=10)
    assert single.auroc.value == 0.5 and single.auroc.low is None and "two of each" in str(single.auroc.reason)


@pytest.mark.parametrize("failed", [np.zeros(6, bool), np.ones(6, bool), np.arange(6) < 3, np.zeros(0, bool)])
def test_no_stratum_with_both_classes(failed: np.ndarray) -> None:
    strata = np.arange(len(failed)) // 3
    for undefined in (
        stratified_auroc(strata * 1.0, failed, strata),
        permutation_test(strata * 1.0, failed, strata),
        matched_auroc(strata * 1.0, strata * 1.0, failed, 2),
    ):
        assert undefined.reason and undefined.pairs == undefined.strata_used == 0 and undefined.n == len(failed)
        record = as_json(undefined)
        assert record.get("p") is None
        value = record["auroc"]["value"] if isinstance(record["auroc"], dict) else record["auroc"]
        assert value is None


def test_strata_must_be_of_the_puzzles() -> None:
    for function in (stratified_auroc, permutation_test):
        with pytest.raises(ValueError, match="expected one label each"):
            function(np.zeros(3), np.zeros(3, bool), np.zeros(2))


# -- the permutation test


@pytest.mark.parametrize("seed", range(4))
def test_p_is_the_share_of_all_shuffles_within_strata(seed: int) -> None:
    """Two strata of 5 and 6: every one of the 10 x 15 ways of saying which puzzles failed."""
    strata, failed = np.repeat([0, 1], [5, 6]), np.isin(np.arange(11), [0, 3, 7, 8])
    scores = np.random.default_rng(seed).integers(0, 4, 11).astype(float) + failed

    def statistic(chosen: set[int]) -> float:
        shuffled = np.isin(np.arange(11), list(chosen))
        area = pairwise_auroc(scores, shuffled, lambda i, j: strata[i] == strata[j])
        assert area is not None
        return abs(area - 0.5)

    every = [
        statistic({*first, *second})
        for first in itertools.combinations(range(5), 2)
        for second in itertools.combinations(range(5, 11), 2)
    ]
    exact = np.mean(np.array(every) >= statistic({0, 3, 7, 8}) - 1e-12)
    permuted = permutation_test(scores, failed, strata, draws=20_000)
    assert permuted.p == pytest.approx(exact, abs=5 * math.sqrt(0.25 / 20_000)) and exact < 0.99
    assert permuted.hits is not None and permuted.p == (1 + permuted.hits) / 20_001


@pytest.mark.parametrize("distance", [0.3, -0.8])
def test_p_within_one_stratum_is_mann_whitneys(distance: float) -> None:
    scores, failed = normal_table(np.random.default_rng(4), 22, 13, distance)
    expected = mannwhitneyu(scores[failed], scores[~failed], method="exact").pvalue
    permuted = permutation_test(scores, failed, np.zeros(35), draws=20_000)
    assert permuted.p == pytest.approx(expected, abs=5 * math.sqrt(expected / 20_000))


def test_p_is_uniform_under_confounding_by_the_strata() -> None:
    """Score and failure both follow the stratum and nothing else. Fixed seeds; uniform to p = 0.001 of the KS test."""
    rng, within, across = np.random.default_rng(9), [], []
    strata = np.repeat(np.arange(4), 40)
    for seed in range(400):
        failed = rng.random(160) < np.array([0.1, 0.3, 0.6, 0.9])[strata]
        scores = strata + rng.normal(size=160)
        within.append(permutation_test(scores, failed, strata, draws=199, seed=seed).p)
        across.append(permutation_test(scores, failed, np.zeros(160), draws=199, seed=seed).p)
    # Spread over its step of 1/200, a p that takes the values 1/200 ... 1 is uniform on [0, 1].
    assert kstest(np.array(within) - rng.random(400) / 200, "uniform").pvalue > 1e-3
    assert np.mean(np.array(across) < 0.05) > 0.9, "without strata the confounder is taken for an effect"


def test_power_and_the_smallest_p() -> None:
    scores, failed = normal_table(np.random.default_rng(6), 100, 100, 2.0)
    permuted = permutation_test(scores, failed, np.arange(200) % 5, draws=999)
    assert permuted.hits == 0 and permuted.p == 1 / 1000
    assert permutation_test(-scores, failed, np.arange(200) % 5, draws=999).p == 1 / 1000, "two-sided"
    assert permutation_test(np.zeros(200), failed, np.arange(200) % 5, draws=99).p == 1, "ties say nothing"
    as_json(permuted)
