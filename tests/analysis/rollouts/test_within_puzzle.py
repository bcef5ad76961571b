"""Correlation within puzzles, where pooled and within disagree, against plain loops and SciPy."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from analysis.rollouts.within_puzzle import (
    mixed_success,
    pooled,
    rank_correlations,
    standardised,
    within,
    within_auroc,
    within_given,
)

DRAWS = 400


def opposed(puzzles: int = 60, rollouts: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Easy puzzles are high in both scores; among the rollouts of one, more of the one is less of the other."""
    rng = np.random.default_rng(0)
    easy = 10 * rng.normal(size=(puzzles, 1))
    noise = rng.normal(size=(puzzles, rollouts))
    return easy + noise, easy - noise + 0.3 * rng.normal(size=noise.shape)


def test_within_and_pooled_have_opposite_signs() -> None:
    first, second = opposed()
    inside, across = within(first, second, DRAWS), pooled(first, second, DRAWS)
    assert inside.value is not None and inside.value < -0.8 and inside.puzzles == 60
    assert across.value is not None and across.value > 0.8
    assert inside.interval95 is not None and inside.interval95[1] < -0.8
    assert across.interval95 is not None and across.interval95[0] > 0.8


def test_each_puzzle_against_scipy() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 4, (30, 8)).astype(float), rng.normal(size=(30, 8))
    first[0], second[1, 0], second[2, :2] = 1.0, np.inf, -np.inf
    correlations = rank_correlations(first, second)
    assert np.isnan(correlations[0]), "a constant score orders nothing"
    expected = [spearmanr(a, b).statistic for a, b in zip(first[1:], second[1:], strict=True)]
    assert correlations[1:] == pytest.approx(expected, abs=1e-12)
    assert within(first, second, DRAWS).value == pytest.approx(np.mean(expected))
    assert within(first, second, DRAWS).puzzles == 29
    assert pooled(first, second, DRAWS).value == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)


def test_ranks_alone_count() -> None:
    first, second = opposed()
    bent = within(np.exp(first / 10), second**3, DRAWS)
    assert bent == within(first, second, DRAWS)
    assert within(-first, second, DRAWS).value == pytest.approx(-(bent.value or 0))


def test_a_common_cause_is_taken_out() -> None:
    """Both scores follow the third and nothing else: correlated, but not given it."""
    rng = np.random.default_rng(2)
    cause = rng.normal(size=(300, 20))
    first, second = (cause + rng.normal(size=cause.shape) for _ in range(2))
    plain, given = within(first, second, DRAWS), within_given(first, second, cause, DRAWS)
    assert plain.value is not None and plain.value > 0.4
    assert given.value is not None and abs(given.value) < 0.06 and given.interval95 is not None
    assert given.interval95[0] < given.value < given.interval95[1]
    # The closed form, from the means of the three correlations.
    a, b, c = (np.mean(rank_correlations(*pair)) for pair in ((first, second), (first, cause), (second, cause)))
    assert given.value == pytest.approx((a - b * c) / np.sqrt((1 - b * b) * (1 - c * c)))
    assert within_given(first, second, second, DRAWS).value is None, "given itself nothing is left"


def test_intervals_are_over_puzzles() -> None:
    """The same rollouts twice are no more puzzles: only puzzles narrow the interval."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 40, 6))

    def width(a: np.ndarray, b: np.ndarray) -> float:
        low, high = within(a, b, 2000).interval95 or (0.0, 0.0)
        return high - low

    correlations = rank_correlations(first, second)
    assert width(first, second) == pytest.approx(2 * 1.96 * correlations.std() / np.sqrt(40), rel=0.1)
    twice = [np.concatenate([table, table], axis=1) for table in (first, second)]
    assert width(*twice) > 0.9 * width(first, second)
    many = [np.concatenate([table] * 4) for table in (first, second)]
    assert width(*many) == pytest.approx(width(first, second) / 2, rel=0.15)


def test_nothing_and_little() -> None:
    none, one = np.zeros((0, 4)), np.arange(4.0)[None]
    for estimate in (within(none, none, DRAWS), pooled(none, none, DRAWS), within_given(none, none, none, DRAWS),
                     within_auroc(none.astype(bool), none, DRAWS)):  # fmt: skip
        assert (estimate.value, estimate.interval95, estimate.puzzles) == (None, None, 0)
    alone = within(one, one, DRAWS)
    assert alone.value == pytest.approx(1) and alone.interval95 is None and alone.puzzles == 1
    assert pooled(np.ones((5, 4)), np.ones((5, 4)), DRAWS).value is None


def test_auroc_against_pairs() -> None:
    rng = np.random.default_rng(4)
    exact, score = rng.random((50, 7)) < 0.5, rng.integers(0, 5, (50, 7)).astype(float)
    mixed = mixed_success(exact)
    assert 0 < mixed.sum() and mixed.tolist() == [0 < row.sum() < 7 for row in exact]
    exact, score = exact[mixed], score[mixed]
    shares = [
        np.mean([(a > b) + (a == b) / 2 for a in row[right] for b in row[~right]])
        for right, row in zip(exact, score, strict=True)
    ]
    assert within_auroc(exact, score, DRAWS).value == pytest.approx(np.mean(shares))


def test_standardised() -> None:
    table = np.array([[1.0, 2, 3, 4], [5, 5, 5, 5], [1, 2, np.inf, 0]])
    scaled = standardised(table)
    assert scaled[0].mean() == pytest.approx(0) and scaled[0].std() == pytest.approx(1)
    assert np.isnan(scaled[1:]).all()
    assert pearsonr(scaled[0], table[0]).statistic == pytest.approx(1)
