"""Resampled puzzles: counts, the AUROC of resamples against loops over pairs, intervals that do not exist."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.estimates import puzzle_resampling
from analysis.estimates.puzzle_resampling import Estimate, checked, estimate, once, resample_counts, resampled_auroc
from tests.analysis.estimates.failure_tables import pairwise_auroc
from training.evaluation.calibration import auroc

rows = st.lists(
    st.tuples(st.integers(-2, 2), st.booleans(), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=25
)


@given(rows)
def test_auroc_of_a_resample_is_that_of_the_repeated_puzzles(table: list[tuple[int, bool, int, int]]) -> None:
    scores, failed, strata, times = (np.array(column) for column in zip(*table, strict=True))
    counts = np.stack([times, np.ones_like(times)]).astype(float)
    for row, area in zip(counts, resampled_auroc(scores, failed, counts), strict=True):
        repeated = np.repeat(np.arange(len(scores)), row.astype(int))
        expected = auroc(scores[repeated], failed[repeated])
        assert np.isnan(area) if expected is None else area == pytest.approx(expected, abs=1e-12)
    for row, area in zip(counts, resampled_auroc(scores, failed, counts, strata), strict=True):
        repeated = np.repeat(np.arange(len(scores)), row.astype(int))
        of = strata[repeated]
        expected = pairwise_auroc(scores[repeated], failed[repeated], lambda i, j, of=of: of[i] == of[j])
        assert np.isnan(area) if expected is None else area == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cells", [1, 37, 1 << 21])
def test_as_many_puzzles_are_drawn_from_each_group_as_it_has(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr(puzzle_resampling, "_CELLS", cells)
    groups = np.array([4, 0, 4, 4, 0, 7])
    counts = np.concatenate(list(resample_counts(groups, 50, np.random.default_rng(0))))
    assert counts.shape == (50, 6) and (counts == np.round(counts)).all() and counts.min() == 0
    for label in (0, 4, 7):
        assert (counts[:, groups == label].sum(axis=1) == (groups == label).sum()).all()
    assert (counts[:, 5] == 1).all(), "one of one is always itself"


def test_counts_have_the_moments_of_the_multinomial() -> None:
    groups = np.repeat([0, 1], [8, 2])
    counts = np.concatenate(list(resample_counts(groups, 40_000, np.random.default_rng(1))))
    covariance = np.cov(counts.T)
    expected = np.zeros((10, 10))
    expected[:8, :8], expected[8:, 8:] = np.eye(8) - 1 / 8, np.eye(2) - 1 / 2
    # Of 40,000 draws: standard errors are at most sqrt(2) / 200 = 0.007, where a variance is 7/8.
    assert np.abs(counts.mean(axis=0) - 1).max() < 0.025 and np.abs(covariance - expected).max() < 0.04


def test_no_puzzles_and_no_draws() -> None:
    nothing = list(resample_counts(np.zeros(0), 10, np.random.default_rng(0)))
    assert sum(len(chunk) for chunk in nothing) == 10 and all(chunk.shape[1] == 0 for chunk in nothing)
    assert list(resample_counts(np.zeros(3), 0, np.random.default_rng(0))) == []
    assert np.isnan(resampled_auroc(np.zeros(0), np.zeros(0, bool), once(0))).all()


def test_estimates() -> None:
    draws = np.append(np.arange(1001.0), np.nan)
    assert estimate(500.0, draws) == Estimate(500.0, 25.0, 975.0)
    assert estimate(None, draws) == Estimate(None, reason="undefined")
    assert estimate(None, draws, "all solved") == Estimate(None, reason="all solved")
    assert estimate(3.0, draws, "one puzzle") == Estimate(3.0, reason="one puzzle")
    for value, drawn, says in (
        (np.nan, draws, "not finite"), (-np.inf, draws, "not finite"), (1.0, np.full(9, np.nan), "no resample"),
        (1.0, np.array([0.0, np.inf]), "infinite"), (1.0, np.array([1.0, 1.0, np.nan]), "all resamples agree"),
        (1.0, np.zeros(0), "no resample"),
    ):  # fmt: skip
        estimated = estimate(value, drawn)
        assert (
            estimated.low is None
            and estimated.high is None
            and estimated.reason is not None
            and says in estimated.reason
        )
        assert estimated.value == (value if np.isfinite(value) else None)


def test_bad_tables_are_refused() -> None:
    failed = np.array([True, False, True])
    with pytest.raises(ValueError, match="2 of 3 scores are NaN"):
        checked(np.array([np.nan, 1, np.nan]), failed)
    with pytest.raises(ValueError, match="int64, expected bool"):
        checked(np.zeros(3), failed.astype(np.int64))
    for scores in (np.zeros(2), np.zeros((3, 1)), np.zeros(())):
        with pytest.raises(ValueError, match="one of each for every puzzle"):
            checked(scores, failed)
    scores, _ = checked(np.array([-np.inf, 1, np.inf], np.float32), failed)
    assert scores.dtype == np.float64, "infinite scores have a rank"
