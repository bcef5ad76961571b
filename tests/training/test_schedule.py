"""Learning rates: closed form at known points, and the official formula."""

import math

import pytest

from training.update import learning_rate


def official(step: int, base: float, warmup: int, total: int, ratio: float) -> float:
    """Linear warm-up, then half a cosine, as written officially (which goes on beyond the end)."""
    if step < warmup:
        return base * float(step) / float(max(1, warmup))
    progress = float(step - warmup) / float(max(1, total - warmup))
    return base * (ratio + max(0.0, (1 - ratio) * 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress))))


@pytest.mark.parametrize(("step", "factor"), [(0, 0), (1, 1 / 2000), (500, 0.25), (1999, 1999 / 2000), (2000, 1)])
def test_warm_up_is_linear(step: int, factor: float) -> None:
    assert learning_rate(step, 1e-4, 2000, 65104, 0.1) == pytest.approx(1e-4 * factor, rel=1e-12, abs=1e-20)


def test_cosine_at_a_third_half_two_thirds_and_the_end() -> None:
    """min + (1-min)(1+cos)/2 with cos(pi/3) = 1/2, cos(pi/2) = 0, cos(2 pi/3) = -1/2, cos(pi) = -1."""
    for share, value in ((0, 1), (1 / 3, 0.775), (1 / 2, 0.55), (2 / 3, 0.325), (1, 0.1)):
        step = 1000 + round(6000 * share)
        assert learning_rate(step, 3.0, 1000, 7000, 0.1) == pytest.approx(3 * value, rel=1e-12)


def test_default_ratio_is_constant_after_warm_up() -> None:
    assert {learning_rate(step, 1e-4, 10, 100, 1.0) for step in range(10, 200)} == {1e-4}


@pytest.mark.parametrize(("warmup", "total", "ratio"), [(2000, 65104, 1.0), (10, 100, 0.1), (0, 50, 0.0), (5, 5, 0.5)])
def test_official_formula_up_to_the_planned_end(warmup: int, total: int, ratio: float) -> None:
    for step in range(0, total + 1, max(1, total // 200)):
        ours = learning_rate(step, 7e-5, warmup, total, ratio)
        assert ours == pytest.approx(official(step, 7e-5, warmup, total, ratio), rel=1e-12, abs=1e-18)


def test_beyond_the_end_it_stays_where_the_official_one_rises() -> None:
    assert learning_rate(150, 1.0, 0, 100, 0.2) == pytest.approx(0.2)
    assert learning_rate(200, 1.0, 0, 100, 0.2) == pytest.approx(0.2)
    assert official(200, 1.0, 0, 100, 0.2) == pytest.approx(1.0)


def test_runs_shorter_than_their_warm_up() -> None:
    assert learning_rate(50, 1.0, 100, 20, 0.1) == 0.5
    assert learning_rate(101, 1.0, 100, 20, 0.1) == pytest.approx(0.1)
