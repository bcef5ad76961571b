"""Runs, then puzzles: the variance of the draws in closed form, one run, runs that differ, runs without failures."""

import math

import numpy as np
import pytest

from analysis.arms import several_runs
from analysis.arms.seed_pairs import mean_interval
from analysis.arms.several_runs import BOTH, PUZZLES_ONLY, SeveralRuns, hierarchical_bootstrap
from analysis.estimates.failure_statistics import median_difference, separation
from tests.analysis.estimates.failure_tables import as_json, normal_table
from training.evaluation.calibration import auroc


def mean_score(scores: np.ndarray, failed: np.ndarray) -> float:
    return float(scores.mean())


def width(result: SeveralRuns) -> float:
    assert result.mean.low is not None and result.mean.high is not None
    return result.mean.high - result.mean.low


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_draws_of_a_mean_have_the_variance_of_both_levels(spread: float) -> None:
    """Of the mean score: variance between the runs / R, and of a run's mean over its puzzles, mean over runs / R.

    The interval's width is that of a normal distribution within 8 %: its ends vary by 6 % of a deviation each.
    """
    rng = np.random.default_rng(0)
    tables = [(rng.normal(size=n) + spread * run, rng.random(n) < 0.5) for run, n in enumerate((80, 100, 120, 140))]
    result = hierarchical_bootstrap(tables, mean_score)
    means = [scores.mean() for scores, _ in tables]
    within = np.mean([scores.var() / len(scores) for scores, _ in tables])
    assert width(result) == pytest.approx(3.92 * math.sqrt((np.var(means) + within) / 4), rel=0.08)
    assert result.values == means and result.mean.value == pytest.approx(np.mean(means))
    assert result.over_runs == mean_interval(means) and result.speaks_of == BOTH
    assert (result.n, result.num_failed) == ([80, 100, 120, 140], [int(failed.sum()) for _, failed in tables])
    assert result.draws == 2000 and result.redrawn == 0 and as_json(result)["runs_used"] == 4


def test_the_same_puzzles_do_not_average_out() -> None:
    """Four equal runs on the same puzzles know as much as one; drawn apart, they would pass for twice as good."""
    table = normal_table(np.random.default_rng(1), 100, 60, 1.0)
    together = hierarchical_bootstrap([table] * 4, mean_score, same_puzzles=True)
    apart = hierarchical_bootstrap([table] * 4, mean_score)
    one = 3.92 * table[0].std() / math.sqrt(160)
    assert width(together) == pytest.approx(one, rel=0.08) and width(apart) == pytest.approx(one / 2, rel=0.08)


def test_one_run_says_that_runs_are_not_in_it() -> None:
    scores, failed = normal_table(np.random.default_rng(2), 400, 200, 1.0)
    result = hierarchical_bootstrap([(scores, failed)], auroc)
    plain = separation(scores, failed).auroc
    assert result.speaks_of == PUZZLES_ONLY and result.mean.value == plain.value and result.values == [plain.value]
    assert plain.low is not None and plain.high is not None
    assert width(result) == pytest.approx(plain.high - plain.low, rel=0.1)
    assert result.over_runs is not None and result.over_runs.low is None


def test_runs_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    alike = [normal_table(rng, 200, 100, 1.0) for _ in range(5)]
    differ = [normal_table(rng, 200, 100, distance) for distance in (0.2, 0.6, 1.0, 1.4, 1.8)]
    pooled = separation(np.concatenate([s for s, _ in differ]), np.concatenate([f for _, f in differ]), draws=1000)
    assert pooled.auroc.low is not None and pooled.auroc.high is not None
    hierarchical = width(hierarchical_bootstrap(differ, auroc, draws=500))
    assert hierarchical > 2 * (pooled.auroc.high - pooled.auroc.low)
    assert hierarchical > 2 * width(hierarchical_bootstrap(alike, auroc, draws=500))
    result = hierarchical_bootstrap(differ, median_difference, draws=100)
    assert result.values == [median_difference(*table) for table in differ]


def test_resamples_without_the_statistic_are_drawn_again() -> None:
    """With one failure in 50 a resample has none with probability q = 0.98^50: q / (1 - q) redraws for each kept."""
    scores, failed = np.arange(50.0), np.arange(50) == 30
    result = hierarchical_bootstrap([(scores, failed)], auroc)
    q = 0.98**50
    expected = 2000 * q / (1 - q)
    assert result.redrawn == pytest.approx(expected, abs=5 * math.sqrt(2000 * q) / (1 - q))
    assert result.mean.low is not None and result.mean.low < 30 / 49 < result.mean.high
    both = hierarchical_bootstrap([(scores, failed)] * 2, auroc, same_puzzles=True, draws=500)
    assert both.redrawn > 0 and both.mean.low is not None


def test_runs_without_failures() -> None:
    table = normal_table(np.random.default_rng(4), 40, 20, 1.0)
    solved, empty = (table[0], np.zeros(60, bool)), (np.zeros(0), np.zeros(0, bool))
    some = hierarchical_bootstrap([solved, table, empty, table], auroc, draws=200)
    assert some.values == [None, auroc(*table), None, auroc(*table)] and (some.runs, some.runs_used) == (4, 2)
    assert some.n == [60, 60, 0, 60] and some.num_failed == [0, 20, 0, 20] and some.reason is None
    assert hierarchical_bootstrap([solved, table], auroc, draws=50).speaks_of == PUZZLES_ONLY
    for tables, says in (([solved, empty], "all 60 puzzles are solved"), ([empty], "no puzzles")):
        none = hierarchical_bootstrap(tables, auroc, draws=50)
        assert none.reason is not None and says in none.reason and none.runs_used == 0
        assert none.mean.value is None and none.mean.reason == none.reason and none.over_runs is None
        as_json(none)
    as_json(some)


def test_a_statistic_that_no_resample_has_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several_runs, "_ATTEMPTS", 20)
    table = normal_table(np.random.default_rng(5), 40, 20, 1.0)
    result = hierarchical_bootstrap([table], lambda scores, _: 1.5 if len(set(scores)) == 60 else math.nan)
    assert result.mean.value == 1.5 and result.mean.low is None and "20 resamples in a row" in str(result.mean.reason)
    assert result.redrawn == 20
    as_json(result)


def test_bad_runs_are_refused() -> None:
    table = normal_table(np.random.default_rng(6), 4, 2, 1.0)
    with pytest.raises(ValueError, match="no run"):
        hierarchical_bootstrap([], auroc)
    with pytest.raises(ValueError, match="same_puzzles with 6, 5 rows"):
        hierarchical_bootstrap([table, (table[0][:5], table[1][:5])], auroc, same_puzzles=True)
    with pytest.raises(ValueError, match="1 of 6 scores are NaN"):
        hierarchical_bootstrap([(np.where(table[1].cumsum() == 1, np.nan, 0.0), table[1])], auroc)


def test_the_seed_decides() -> None:
    tables = [normal_table(np.random.default_rng(run), 20, 10, 1.0) for run in range(2)]
    result = hierarchical_bootstrap(tables, auroc, draws=100)
    assert hierarchical_bootstrap(tables, auroc, draws=100) == result
    assert hierarchical_bootstrap(tables, auroc, draws=100, seed=1).mean != result.mean
