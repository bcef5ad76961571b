"""What a score adds: the regression in closed form and at its minimum, folds without leaks, differences of 0 or not."""

import math

import numpy as np
import pytest
from scipy.special import logit

from analysis.estimates.matched_failure import stratified_auroc
from analysis.estimates.nested_models import (
    cross_validated,
    fit_logistic,
    nested_auroc,
    normal_scores,
    stratified_folds,
)
from analysis.estimates.puzzle_resampling import random_numbers
from tests.analysis.estimates.failure_tables import as_json, normal_table
from training.evaluation.calibration import auroc

# -- the regression


def test_one_binary_column_is_the_log_odds_ratio() -> None:
    column = np.repeat([0.0, 1.0], [60, 40])
    labels = np.concatenate([np.arange(60) < 15, np.arange(40) < 30])
    intercept, weight = fit_logistic(column[:, None], labels, 1e-9)
    assert intercept == pytest.approx(logit(0.25), abs=1e-6)
    assert weight == pytest.approx(logit(0.75) - logit(0.25), abs=1e-6)


@pytest.mark.parametrize(("l2", "columns"), [(0.1, 3), (5.0, 1), (1e-6, 4)])
def test_the_fit_is_stationary(l2: float, columns: int) -> None:
    """By the normal equations of the penalised likelihood, written out."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(200, columns)), rng.random(200) < 0.4
    weights = fit_logistic(x, labels, l2)
    residual = labels - 1 / (1 + np.exp(-(weights[0] + x @ weights[1:])))
    assert abs(residual.sum()) < 1e-5, "the intercept is free"
    assert np.abs(x.T @ residual - l2 * weights[1:]).max() < 1e-5


def test_separable_classes_and_heavy_penalties_have_finite_fits() -> None:
    x, labels = np.arange(-5.0, 6)[:, None], np.arange(-5, 6) > 0
    weights = fit_logistic(x, labels)
    assert np.isfinite(weights).all() and weights[1] > 1
    shrunk = fit_logistic(x, labels, 1e9)
    assert shrunk == pytest.approx([logit(5 / 11), 0], abs=1e-6)
    assert fit_logistic(np.zeros((11, 0)), labels) == pytest.approx([logit(5 / 11)], abs=1e-6)


# -- folds


def test_folds_are_stratified_and_random() -> None:
    failed = np.arange(103) % 5 == 0
    one, other = (stratified_folds(failed, 4, np.random.default_rng(seed)) for seed in (0, 1))
    for inside in (failed, ~failed):
        sizes = np.bincount(one[inside], minlength=4)
        assert sizes.sum() == inside.sum() and sizes.max() - sizes.min() <= 1
    assert (one != other).mean() > 0.5


def test_no_label_reaches_its_own_prediction() -> None:
    rng = np.random.default_rng(1)
    columns, failed = rng.normal(size=(60, 2)), rng.random(60) < 0.5
    division = stratified_folds(failed, 3, rng)
    logits = cross_validated(columns, failed, division)
    lied = cross_validated(columns, failed ^ (division == 1), division)
    assert (lied[division == 1] == logits[division == 1]).all()
    assert (lied[division != 1] != logits[division != 1]).all()


def test_no_held_out_puzzle_reaches_the_prediction_of_another() -> None:
    rng = np.random.default_rng(1)
    columns, failed = rng.normal(size=(60, 2)), rng.random(60) < 0.5
    division = stratified_folds(failed, 3, rng)
    logits = cross_validated(columns, failed, division)
    outlier = int(np.flatnonzero(division == 1)[0])
    columns[outlier] += 1e3
    others = (division == 1) & (np.arange(60) != outlier)
    assert (cross_validated(columns, failed, division)[others] == logits[others]).all()


def test_scale_and_constant_columns_change_nothing() -> None:
    rng = np.random.default_rng(2)
    columns, failed = rng.normal(size=(80, 2)), rng.random(80) < 0.5
    division = stratified_folds(failed, 4, rng)
    logits = cross_validated(columns, failed, division)
    assert cross_validated(1e6 * columns - 3e6, failed, division) == pytest.approx(logits, abs=1e-6)
    constant = np.column_stack([columns, np.full(80, 0.1)])
    assert cross_validated(constant, failed, division) == pytest.approx(logits, abs=1e-6)
    constant[np.flatnonzero(division == 2)[0], 2] = 5
    inside = division == 2
    assert np.full((~inside).sum(), 0.1).std() > 0, "rounding makes the deviation of a constant column not quite 0"
    assert cross_validated(constant, failed, division)[inside] == pytest.approx(logits[inside], abs=1e-6)


# -- nested models


def test_without_baselines_it_is_the_score_within_folds() -> None:
    """No baseline ties all puzzles; one column orders them, in the right direction, whatever its weight."""
    scores, failed = normal_table(np.random.default_rng(3), 120, 60, -1.0)
    areas = nested_auroc(np.zeros((180, 0)), scores, failed, repeats=1, draws=400, seed=5)
    assert areas.baselines.value == 0.5 and areas.baselines.low is None
    division = stratified_folds(failed, 5, random_numbers(5, "nested_auroc/folds"))
    within = stratified_auroc(-scores, failed, division, draws=400).auroc
    assert areas.with_score.value == within.value
    assert areas.difference.value == areas.with_score.value - 0.5
    low, high = areas.with_score.low, areas.with_score.high
    assert low is not None and high is not None and within.low is not None and within.high is not None
    assert high - low == pytest.approx(within.high - within.low, rel=0.2)


def test_a_function_of_the_baselines_adds_nothing_and_an_independent_score_does() -> None:
    rng = np.random.default_rng(4)
    drift, failed = normal_table(rng, 500, 300, 1.0)
    baselines = np.column_stack([drift, rng.normal(size=800)])
    nothing = nested_auroc(baselines, 2 * drift - baselines[:, 1], failed, draws=400)
    assert nothing.difference.value == pytest.approx(0, abs=1e-3)
    independent = rng.normal(size=800) + failed
    adds = nested_auroc(baselines, independent, failed, draws=400)
    # The best combination of two independent normal columns at distance 1 is at distance sqrt 2: Phi(1) = 0.841.
    assert adds.with_score.value == pytest.approx(0.841, abs=0.03)
    assert adds.difference.low is not None and adds.difference.low > 0.03
    assert adds.difference.value == pytest.approx(0.841 - 0.760, abs=0.03)
    assert (adds.n, adds.num_failed, adds.num_baselines, adds.folds, adds.repeats) == (800, 300, 2, 5, 5)
    as_json(adds)


def test_the_same_puzzles_are_drawn_for_both_models() -> None:
    """A score that changes next to nothing: the interval of the difference is next to nothing, too."""
    rng = np.random.default_rng(5)
    drift, failed = normal_table(rng, 150, 100, 1.0)
    areas = nested_auroc(drift[:, None], drift + 0.01 * rng.normal(size=250), failed, draws=300)
    assert areas.difference.low is not None and areas.difference.high is not None
    assert areas.baselines.low is not None and areas.baselines.high is not None
    assert areas.difference.high - areas.difference.low < 0.2 * (areas.baselines.high - areas.baselines.low)


def test_what_says_nothing_has_auroc_one_half_out_of_fold() -> None:
    """On average over 150 small tables, within four standard errors. Pooled over the same folds it is lower."""
    rng = np.random.default_rng(6)
    alone, added, pooled_minus_within = [], [], []
    failed = np.arange(40) < 20
    for seed in range(150):
        columns, score = rng.normal(size=(40, 2)), rng.normal(size=40)
        areas = nested_auroc(columns, score, failed, folds=4, repeats=1, draws=0, seed=seed)
        assert areas.baselines.value is not None and areas.difference.value is not None
        alone.append(areas.baselines.value)
        added.append(areas.difference.value)
        division = stratified_folds(failed, 4, random_numbers(seed, "nested_auroc/folds"))
        pooled = auroc(cross_validated(columns, failed, division), failed)
        assert pooled is not None
        pooled_minus_within.append(pooled - areas.baselines.value)
    for values, expected in ((alone, 0.5), (added, 0.0)):
        assert abs(np.mean(values) - expected) < 4 * np.std(values) / math.sqrt(150)
    assert np.mean(pooled_minus_within) < -3 * np.std(pooled_minus_within) / math.sqrt(150)


def test_normal_scores_take_the_curvature_out_of_a_baseline() -> None:
    """A drift over decades, and a score that is its logarithm: linear in the drift, the logarithm seems to add."""
    rng = np.random.default_rng(7)
    level, failed = normal_table(rng, 400, 200, 1.5)
    drift = np.exp(3 * level)[:, None]
    raw = nested_auroc(np.column_stack([drift, rng.normal(size=600)]), level, failed, draws=300)
    ranked = nested_auroc(
        normal_scores(np.column_stack([drift, rng.normal(size=600)])), normal_scores(level), failed, draws=300
    )
    assert raw.difference.value is not None and ranked.difference.value is not None
    assert abs(ranked.difference.value) < 2e-3 < raw.difference.value


def test_normal_scores() -> None:
    values = np.array([3.0, -np.inf, 3.0, np.inf, np.nan])
    scores = normal_scores(values)
    assert np.isnan(scores[4]) and scores[0] == scores[2] == pytest.approx(0, abs=1e-12)
    assert [scores[1], scores[3]] == pytest.approx([-0.841621233572914, 0.841621233572914]), "the quantile of 1/5"
    columns = np.random.default_rng(0).normal(size=(30, 2))
    assert (normal_scores(np.exp(columns)) == normal_scores(columns)).all()
    assert (normal_scores(columns)[:, 1] == normal_scores(columns[:, 1])).all()


@pytest.mark.parametrize(("num_failed", "count", "says"), [
    (0, 6, "all 6 puzzles are solved"), (6, 6, "all 6 puzzles failed"), (0, 0, "no puzzles"),
    (1, 6, "one puzzle of a class"),
])  # fmt: skip
def test_degenerate_tables(num_failed: int, count: int, says: str) -> None:
    score = np.arange(float(count))
    areas = nested_auroc(np.ones((count, 2)), score, np.arange(count) < num_failed)
    assert areas.reason is not None and says in areas.reason
    for undefined in (areas.baselines, areas.with_score, areas.difference):
        assert (undefined.value, undefined.low, undefined.high, undefined.reason) == (None, None, None, areas.reason)
    assert as_json(areas)["num_failed"] == num_failed


def test_few_failures_make_fewer_folds_and_the_seed_decides() -> None:
    scores, failed = normal_table(np.random.default_rng(8), 30, 3, 1.0)
    baselines = np.random.default_rng(9).normal(size=(33, 1))
    areas = nested_auroc(baselines, scores, failed, draws=100)
    assert areas.folds == 3 and areas.difference.value is not None
    assert nested_auroc(baselines, scores, failed, draws=100) == areas
    assert nested_auroc(baselines, scores, failed, draws=100, seed=1).baselines != areas.baselines


def test_bad_arguments_are_refused() -> None:
    score, failed = np.arange(4.0), np.array([True, True, False, False])
    with pytest.raises(ValueError, match="expected \\(n, p\\)"):
        nested_auroc(score, score, failed)
    with pytest.raises(ValueError, match="2 of 4 puzzles have a value that is not finite"):
        nested_auroc(np.array([[0, np.inf], [np.nan, np.inf], [0, 0], [1, 1]]), score, failed)
    with pytest.raises(ValueError, match="1 of 4 scores are NaN"):
        nested_auroc(np.zeros((4, 1)), np.array([0, 1, np.nan, 2]), failed)
    for bad in ({"folds": 1}, {"repeats": 0}, {"l2": 0.0}):
        with pytest.raises(ValueError, match="expected at least 2"):
            nested_auroc(np.zeros((4, 1)), score, failed, **bad)  # type: ignore[arg-type]
