"""Separation of failed from solved: closed forms, scipy's tests and bootstrap, DeLong's interval, coverage."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu, norm

from analysis.estimates.failure_statistics import median_difference, newcombe_interval, separation, settled_table
from analysis.estimates.puzzle_resampling import Estimate
from tests.analysis.estimates.failure_tables import as_json, normal_table
from training.records.result_numbers import wilson_interval


def delong_interval(scores: np.ndarray, failed: np.ndarray) -> tuple[float, float]:
    """95 % interval from the variance of placements. Source: DeLong, DeLong and Clarke-Pearson 1988."""
    higher = (scores[failed][:, None] > scores[~failed]) + 0.5 * (scores[failed][:, None] == scores[~failed])
    per_failed, per_solved = higher.mean(axis=1), higher.mean(axis=0)
    variance = per_failed.var(ddof=1) / len(per_failed) + per_solved.var(ddof=1) / len(per_solved)
    half = norm.ppf(0.975) * math.sqrt(variance)
    return higher.mean() - half, higher.mean() + half


@pytest.mark.parametrize("distance", [-0.5, 0.0, 1.0, 2.5])
def test_normal_scores_have_the_known_auroc_and_delongs_interval(distance: float) -> None:
    scores, failed = normal_table(np.random.default_rng(3), 1500, 500, distance)
    statistics = separation(scores, failed, draws=4000)
    low, high = delong_interval(scores, failed)
    assert statistics.auroc.value is not None and statistics.auroc.low is not None and statistics.auroc.high is not None
    assert abs(statistics.auroc.value - norm.cdf(distance / math.sqrt(2))) < 4 * (high - low) / 3.92
    # Two estimates of one width: the ends of 4000 draws vary by 4 % of a standard error.
    assert statistics.auroc.low == pytest.approx(low, abs=0.06 * (high - low))
    assert statistics.auroc.high == pytest.approx(high, abs=0.06 * (high - low))
    assert statistics.median_difference.value == pytest.approx(distance, abs=0.25)


def test_auroc_is_mann_whitneys_u() -> None:
    rng = np.random.default_rng(0)
    scores, failed = rng.integers(0, 6, 300).astype(float), rng.random(300) < 0.3
    statistics = separation(scores, failed, draws=10)
    u = mannwhitneyu(scores[failed], scores[~failed]).statistic
    assert statistics.auroc.value == pytest.approx(u / (failed.sum() * (~failed).sum()), abs=1e-12)
    assert (
        statistics.n == 300 and statistics.num_failed == failed.sum() and (statistics.draws, statistics.seed) == (10, 0)
    )


def test_intervals_are_those_of_scipys_bootstrap() -> None:
    """The same resampling by another route: two independent samples, the statistics written out."""
    rng = np.random.default_rng(5)
    scores, failed = normal_table(rng, 90, 41, 1.0)
    scores = np.round(scores, 1)

    def statistics(bad: np.ndarray, good: np.ndarray, axis: int) -> np.ndarray:
        u = mannwhitneyu(bad, good, axis=axis, method="asymptotic").statistic
        medians = np.median(good, axis=axis), np.median(bad, axis=axis)
        return np.stack([u / (bad.shape[-1] * good.shape[-1]), *medians, medians[1] - medians[0]])

    reference = bootstrap(
        (scores[failed], scores[~failed]), statistics, n_resamples=4000, method="percentile", batch=500, rng=rng
    ).confidence_interval
    separated = separation(scores, failed)
    ours = (separated.auroc, separated.median_solved, separated.median_failed, separated.median_difference)
    for i, own_estimate in enumerate(ours):
        assert own_estimate.low is not None and own_estimate.high is not None
        # Medians of values rounded to 0.1 move in steps of 0.05.
        tolerance = 0.05 * (own_estimate.high - own_estimate.low) + (0.05 if i else 0)
        assert own_estimate.low == pytest.approx(reference.low[i], abs=tolerance)
        assert own_estimate.high == pytest.approx(reference.high[i], abs=tolerance)


@pytest.mark.parametrize("size", [5, 6])
def test_interval_of_a_median_is_that_of_every_resample(size: int) -> None:
    """All m^m resamples of m values, odd and even."""
    solved = np.array([1.0, 2, 4, 8, 16, 32])[:size]
    scores, failed = np.append(solved, [100.0, 101.0]), np.arange(size + 2) >= size
    statistics = separation(scores, failed, draws=20_000)
    every = np.stack(np.meshgrid(*[solved] * size), axis=-1).reshape(-1, size)
    medians = np.median(every, axis=1)
    assert statistics.median_solved.value == np.median(solved)
    assert statistics.median_solved.low == np.quantile(medians, 0.025, method="inverted_cdf")
    assert statistics.median_solved.high == np.quantile(medians, 0.975, method="inverted_cdf")


def test_intervals_cover() -> None:
    """400 tables, 95 % intervals: the standard error of the coverage is 1.1 points; five of them are allowed, and one
    point of the percentile interval's own error at these sizes."""
    rng, truth = np.random.default_rng(11), norm.cdf(1 / math.sqrt(2))
    area = difference = 0
    for seed in range(400):
        statistics = separation(*normal_table(rng, 80, 40, 1.0), draws=400, seed=seed)
        assert statistics.auroc.low is not None and statistics.auroc.high is not None
        assert statistics.median_difference.low is not None and statistics.median_difference.high is not None
        area += statistics.auroc.low <= truth <= statistics.auroc.high
        difference += statistics.median_difference.low <= 1 <= statistics.median_difference.high
    assert 0.885 < area / 400 < 0.995 and 0.885 < difference / 400 < 0.995


@pytest.mark.parametrize(("area", "failed", "solved"), [(0.9935, 254, 1794), (0.5, 3, 9), (0.02, 40, 2), (1 / 3, 1, 3)])
def test_ends_of_newcombes_interval_are_at_their_own_standard_error(area: float, failed: int, solved: int) -> None:
    """With the variance in the form of Hanley and McNeil, both classes of (failed + solved) / 2."""
    ends = newcombe_interval(area, failed, solved)
    assert 0 < ends[0] < area < ends[1] < 1
    others = (failed + solved) / 2 - 1
    for end in ends:
        two_failed, two_solved = end / (2 - end) - end**2, 2 * end**2 / (1 + end) - end**2
        variance = (end * (1 - end) + others * (two_failed + two_solved)) / (failed * solved)
        assert abs(end - area) == pytest.approx(1.959963984540054 * math.sqrt(variance), rel=1e-6)
    low, high = newcombe_interval(1 - area, failed, solved)
    assert (1 - high, 1 - low) == pytest.approx(ends, abs=1e-9), "turning the score round turns the interval"


def test_newcombes_interval_at_its_ends_and_in_a_table() -> None:
    low, high = newcombe_interval(1.0, 8, 12)
    assert high == 1 and 0.6 < low < 0.9 < newcombe_interval(1.0, 80, 120)[0]
    assert newcombe_interval(0.0, 8, 12) == pytest.approx((0, 1 - low))
    assert newcombe_interval(1.0, 1, 1)[0] < 0.5
    scores, failed = normal_table(np.random.default_rng(3), 1000, 1000, 1.0)
    area = separation(scores, failed, draws=10).auroc_newcombe
    expected = delong_interval(scores, failed)
    assert (area.low, area.high) == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))


def test_newcombes_interval_covers_where_the_bootstrap_does_not() -> None:
    """AUROC 0.95 of 10 failed puzzles, 300 tables: standard errors of the coverages 1.3 and 2.3 points."""
    rng, truth = np.random.default_rng(12), 0.95
    distance = float(norm.ppf(truth)) * math.sqrt(2)
    newcombe = percentile = 0
    for seed in range(300):
        statistics = separation(*normal_table(rng, 100, 10, distance), draws=300, seed=seed)
        low, high = statistics.auroc_newcombe.low, statistics.auroc_newcombe.high
        assert low is not None and high is not None
        newcombe += low <= truth <= high
        low, high = statistics.auroc.low, statistics.auroc.high
        percentile += low is not None and high is not None and low <= truth <= high
    assert newcombe / 300 > 0.93 and percentile / 300 < 0.9


def test_only_ranks_matter_and_not_the_order_of_the_puzzles() -> None:
    rng = np.random.default_rng(2)
    scores, failed = normal_table(rng, 50, 20, 1.0)
    statistics, order = separation(scores, failed, draws=500), rng.permutation(70)
    assert separation(np.exp(scores), failed, draws=500).auroc == statistics.auroc
    assert separation(scores[order], failed[order], draws=500) == statistics
    assert separation(scores, failed, draws=500, seed=1) != replace(statistics, seed=1)
    area, delta = statistics.auroc, statistics.cliffs_delta
    assert area.value is not None and area.low is not None and area.high is not None
    expected = Estimate(2 * area.value - 1, 2 * area.low - 1, 2 * area.high - 1)
    assert (delta.value, delta.low, delta.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_one_class_and_none() -> None:
    scores = np.arange(8.0)
    solved = separation(scores, np.zeros(8, bool), draws=300)
    assert solved.reason == "all 8 puzzles are solved" and solved.num_failed == 0
    for undefined in (solved.auroc, solved.auroc_newcombe, solved.cliffs_delta, solved.median_difference):
        assert (undefined.value, undefined.low, undefined.high, undefined.reason) == (None, None, None, solved.reason)
    assert solved.median_failed.value is None and solved.median_failed.reason
    assert solved.median_solved.value == 3.5 and solved.median_solved.low is not None
    failed = separation(scores, np.ones(8, bool), draws=300)
    assert failed.reason == "all 8 puzzles failed" and failed.median_failed == solved.median_solved
    nothing = separation(scores[:0], np.zeros(0, bool))
    assert nothing.reason == "no puzzles" and nothing.n == 0 and nothing.median_solved.value is None
    for result in (solved, failed, nothing):
        assert as_json(result)["auroc"]["value"] is None


def test_what_has_a_value_and_no_interval() -> None:
    scores, failed = np.arange(20.0), np.arange(20) >= 12
    apart = separation(scores, failed, draws=200)
    assert apart.reason is None and apart.auroc.value == 1 and apart.auroc.low is None
    assert apart.auroc_newcombe.high == 1 and apart.auroc_newcombe.low is not None
    assert apart.auroc.reason is not None and "all resamples agree" in apart.auroc.reason
    assert apart.median_difference.low is not None
    single = separation(scores, np.arange(20) == 7, draws=200)
    assert single.auroc.value == 7 / 19 and single.auroc.low is None and "two of each" in str(single.auroc.reason)
    assert single.median_failed == Estimate(7.0, reason="fewer than two failed puzzles")
    assert single.median_solved.low is not None and single.reason is None
    infinite = separation(np.where(failed, np.inf, -np.inf), failed, draws=200)
    assert infinite.auroc.value == 1 and infinite.median_failed.value is None
    some = separation(np.where(np.arange(20) > 16, np.inf, scores), failed, draws=200)
    assert some.auroc.value == 1 and some.median_failed.value == 15.5 and some.median_failed.low is None
    for result in (apart, single, infinite, some):
        as_json(result)


def test_median_difference_as_a_statistic() -> None:
    failed = np.array([True, False, True, False, False])
    assert median_difference(np.array([5.0, 1, 7, 2, 9]), failed) == 6 - 2
    assert median_difference(np.ones(5), failed & False) is None


def test_settled_table_by_hand() -> None:
    residuals = np.array([0.0, 0.1, 0.2, 0.5, 0.6, 0.5, np.inf, 0.3])
    failed = np.array([False, False, True, False, False, True, True, False])
    table = settled_table(residuals, failed, 0.5)
    assert (table.settled_correct, table.settled_failed) == (3, 1), "a residual at the threshold has not settled"
    assert (table.unsettled_correct, table.unsettled_failed) == (2, 2) and (table.n, table.num_failed) == (8, 3)
    low, high = wilson_interval(3, 4)
    expected = {"value": 0.75, "numerator": 3, "denominator": 4, "interval95": [low, high]}
    assert table.correct_given_settled == expected and table.reason is None
    low, high = wilson_interval(1, 3)
    expected = {"value": 1 / 3, "numerator": 1, "denominator": 3, "interval95": [low, high]}
    assert table.settled_given_failed == expected
    assert as_json(table)["threshold"] == 0.5


def test_settled_table_without_denominators() -> None:
    unsettled = settled_table(np.ones(3), np.zeros(3, bool), 0.5)
    assert unsettled.reason == "no puzzle has settled; no puzzle failed" and unsettled.unsettled_correct == 3
    assert unsettled.correct_given_settled["value"] is None and unsettled.settled_given_failed["interval95"] is None
    assert settled_table(np.zeros(3), np.zeros(3, bool), 0.5).reason == "no puzzle failed"
    empty = settled_table(np.zeros(0), np.zeros(0, bool), 0.5)
    assert as_json(empty)["n"] == 0 and empty.reason
    with pytest.raises(ValueError, match="1 of 2 residuals are NaN"):
        settled_table(np.array([np.nan, 0]), np.zeros(2, bool), 0.5)
    with pytest.raises(ValueError, match="threshold is nan"):
        settled_table(np.zeros(2), np.zeros(2, bool), math.nan)
