"""Intervals over a handful of runs, and what they could have seen."""

import math

import numpy as np
import pytest
from scipy.stats import t

from analysis.arms.seed_pairs import mean_interval, smallest_effect


def test_an_interval_of_shares_ends_where_shares_end() -> None:
    interval = mean_interval([0.9, 1.0, 0.98])
    assert interval.high is not None and interval.high > 1 and interval.within(0, 1).high == 1
    assert interval.within(0, 1).low == interval.low and interval.within(0, 1).mean == interval.mean
    single = mean_interval([0.5]).within(0, 1)
    assert (single.low, single.high) == (None, None)


def test_the_smallest_effect_is_found_in_four_of_five_studies() -> None:
    """By repetition: samples around it, of which a t test of five per cent finds about 80 %."""
    rng, n = np.random.default_rng(0), 8
    noise = rng.normal(size=(20_000, n))
    effect = (t.ppf(0.975, n - 1) + t.ppf(0.8, n - 1)) / math.sqrt(n)
    samples = effect + noise
    statistic = samples.mean(axis=1) / (samples.std(axis=1, ddof=1) / math.sqrt(n))
    assert 0.75 < (statistic > t.ppf(0.975, n - 1)).mean() < 0.82
    values = np.array([0.3, -0.1, 0.2, 0.4])
    expected = (t.ppf(0.975, 3) + t.ppf(0.8, 3)) * values.std(ddof=1) / 2
    assert smallest_effect(values.tolist()) == pytest.approx(expected)
    assert smallest_effect([0.3]) is None
