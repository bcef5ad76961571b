"""Endings that are made by hand are counted as what they are."""

from typing import Any

import numpy as np
import pytest

from analysis.endings.ending_statistics import EndingTable, run_statistics, statistics_over_runs
from analysis.samples.case_control import CaseControl
from analysis.spectra.long_trajectories import RETURN_TOLERANCE
from errors import UserError

STEPS, EXTENDED = 4, 12


def distances(period: int | None, tolerance: float = RETURN_TOLERANCE) -> np.ndarray:
    """(16,): returns after `period` steps and its multiples, just within the tolerance; never without one."""
    steps = np.arange(1, 17)
    return np.where(steps % period == 0, tolerance * 0.99, tolerance * 1.01) if period else np.full(16, 0.3)


def table(*periods: int | None, later: int = 0, solved: int = 2, seed: int = 0, label: str = "a") -> EndingTable:
    """Failures with these periods at their end, `later` ones that are solved then, and solved puzzles at rest."""
    failures, n = len(periods) + later, len(periods) + later + solved
    exact = np.zeros((n, EXTENDED), bool)
    exact[len(periods) : failures, EXTENDED - 3 :] = True
    exact[failures:, STEPS - 1 :] = True
    ends = [distances(period) for period in periods] + [distances(1)] * (later + solved)
    drift = np.where(np.array([end[0] for end in ends])[:, None] > 0.1, 0.2, 1e-6) * np.ones(EXTENDED)
    restart = np.zeros((n, 2, 2), bool)
    restart[:, 1, 0] = True
    pool_failed = np.arange(100) < failures
    readings = {"q_halt": -1.0 * pool_failed, "margin": np.zeros(100), "entropy": np.zeros(100), "changed": pool_failed}
    pool: dict[str, np.ndarray] = {name: np.asarray(values)[:, None] for name, values in readings.items()}
    pool |= {"failed": pool_failed, "drift": np.where(pool_failed, 0.1, 1e-5)[:, None], "residual": np.zeros(100)}
    weight = np.r_[np.ones(failures), np.full(solved, (100 - failures) / solved)]
    settings = {"model": "TRM-MLP", "width": 64, "data": "d", "updates": 600, "sigma": (0.1, 1.0), "train_seed": seed}
    arrays = {"exact": exact, "drift": drift, "recurrence_distance": np.stack(ends), "restart_exact": restart}
    sample = CaseControl(np.arange(n), weight, 100, failures, 1)
    return EndingTable(label, arrays, pool, sample, settings, STEPS)


def counts(rates: dict[str, Any]) -> dict[str, int]:
    return {name: rate["numerator"] for name, rate in rates.items()}


def test_ends_are_told_apart() -> None:
    numbers = run_statistics(table(1, 1, 2, 16, 7, None, None, None, later=2))
    assert numbers["group"] == "TRM-MLP, width 64, d, 600 updates"
    failed = numbers["failed"]
    assert failed["n"] == 10
    assert counts(failed["kinds"]) == {"fixed point": 2, "cycle": 3, "moving": 3, "solved later": 2}
    assert failed["of_still_wrong"]["moving"]["denominator"] == 8
    assert failed["cycle_lengths"] == {"2": 1, "7": 1, "16": 1}
    assert failed["drift_of_moving"] == pytest.approx([0.2] * 3)
    assert failed["solved_by_step"] == [0] * 9 + [2] * 3
    assert numbers["solved"] == {"n": 2, "share_that_moves": 0.0, "share_lost": 0.0}
    assert numbers["accuracy"]["numerator"] == 90 and numbers["accuracy"]["denominator"] == 100


def test_what_is_free_is_judged_on_the_whole_pool() -> None:
    numbers = run_statistics(table(1, None))
    scores = {name: score["value"] for name, score in numbers["free_scores"].items()}
    assert scores["late_drift"] == scores["minus_q_halt"] == scores["changed_cells"] == 1
    assert scores["entropy"] == scores["minus_logit_margin"] == 0.5
    settled = numbers["settled_by_correct"]
    assert (settled["settled_correct"], settled["unsettled_failed"], settled["n"]) == (98, 2, 100)


def test_solved_puzzles_count_with_their_weight() -> None:
    one = table(1, solved=2)
    one.arrays["recurrence_distance"][-1] = distances(None)
    one.sample.weight[-2:] = 30, 10
    assert run_statistics(one)["solved"]["share_that_moves"] == pytest.approx(0.25)
    one.arrays["exact"][-1, -1] = False
    assert run_statistics(one)["solved"]["share_lost"] == pytest.approx(0.25)


def test_starts() -> None:
    near, far = run_statistics(table(1, None, solved=3))["restarts"]
    assert (near["sigma"], near["failed"]["starts_solved"], near["solved"]["starts_solved"]) == (0.1, 0, 0)
    assert far["failed"]["starts_solved"] == 0.5 and far["failed"]["solved_from_some_start"]["numerator"] == 2
    assert far["failed"]["solved_from_every_start"]["value"] == 0


def test_survival_is_by_outcome_after_the_counted_steps() -> None:
    survived = run_statistics(table(1, None, None, later=1))["survival"]
    assert survived["failed"]["unsettled"] == [2] * EXTENDED and survived["failed"]["total"] == 4
    assert survived["solved"]["unsettled"] == [0] * EXTENDED


def test_over_runs() -> None:
    """Means have Student's t intervals, cut at 0 and 1; counts are added up; a run without failures has no share."""
    runs = [run_statistics(table(*ends, seed=i, label=str(i))) for i, ends in enumerate(((1, None), (1, 1), (None,)))]
    runs.append(run_statistics(table(seed=3, label="none")))
    (group,) = statistics_over_runs(runs).values()
    fixed = group["kinds"]["fixed point"]
    assert fixed["mean"] == pytest.approx(0.5) and (fixed["low"], fixed["high"], fixed["n"]) == (0, 1, 3)
    counted = group["kinds_counted"]["fixed point"]
    assert (counted["numerator"], counted["denominator"]) == (3, 5) and group["failures_measured"] == 5
    assert group["accuracy"]["n"] == 4 and group["accuracy"]["mean"] == pytest.approx((98 + 98 + 99 + 100) / 400)
    assert group["restarts"][1]["failed_starts_solved"]["mean"] == 0.5
    # Those on a fixed point have settled: of failures one of two, none, and one of one are left.
    assert {step: share["mean"] for step, share in group["unsettled_failures"].items()}[str(EXTENDED)] == 0.5
    assert group["escape_rate_per_step"]["mean"] == 0 and group["escape_rate_per_step"]["n"] == 2
    for key, value, fault in (("train_seed", 0, "have one seed"), ("data_sha256", "b", "were measured on different")):
        first, second = table(1), table(1, seed=1, label="b")
        first.settings["data_sha256"] = second.settings["data_sha256"] = "a"  # type: ignore[index]
        second.settings[key] = value  # type: ignore[index]
        with pytest.raises(UserError, match=f"a and b are both of the group 'TRM-MLP, width 64.*{fault}"):
            statistics_over_runs([run_statistics(each) for each in (first, second)])
        second.settings["objective"] = "floss"  # type: ignore[index]
        assert len(statistics_over_runs([run_statistics(each) for each in (first, second)])) == 2
    other = table(1)
    other.settings["updates"] = None  # type: ignore[index]
    assert list(statistics_over_runs([run_statistics(other)])) == ["TRM-MLP, width 64, d"]
