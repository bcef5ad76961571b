"""Choosing among rollouts: tables made by hand, and closed forms against every subset there is."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from training.evaluation.answering import effective_wilson
from training.evaluation.robustness import clustered_interval
from training.evaluation.rollout_report import accuracies, rollout_counts
from training.evaluation.rollout_selection import first_best, first_majority, groups_majority, subset_any, subset_best
from training.evaluation.rollout_table import RolloutTable
from training.records.result_numbers import wilson_interval


def test_the_highest_score_by_hand() -> None:
    exact = np.array([[True, False, True], [False, True, False], [False, True, True]])
    score = np.array([[1.0, 3.0, 2.0], [np.nan, -9.0, np.nan], [5.0, 5.0, 1.0]])
    assert first_best(exact, score, 3).tolist() == [0, 1, 0], "NaN is below all, the first of equal scores is taken"
    assert first_best(exact, score, 1).tolist() == [1, 0, 0]
    assert first_best(exact, np.full((3, 3), np.nan), 3).tolist() == [1, 0, 0]


def test_majority_by_hand() -> None:
    """A clear majority; a tie decided by the mean q, not by the highest; a full tie: the first answer."""
    answer = np.array([[7, 8, 7, 9], [1, 2, 2, 1], [4, 3, 3, 4], [5, 6, 5, 6]])
    exact = answer == np.array([[7], [2], [4], [6]])
    q = np.array([[-9, 9, -9, 9], [9.0, 1, 1, -9], [9.0, 1, 1, -5], [1, 1, 1, 1]])
    assert first_majority(exact, answer, q, 4).tolist() == [1, 1, 1, 0]
    assert first_majority(exact, answer, q, 1).tolist() == [1, 0, 1, 0]
    assert first_majority(exact, answer, q, 3).tolist() == [1, 1, 0, 0]
    assert groups_majority(exact, answer, q, 2).tolist() == [0.0, 0.5, 0.5, 0.0]
    assert groups_majority(exact, answer, q, 3).tolist() == [1, 1, 0, 0], "the fourth is in no whole group"
    assert groups_majority(exact, answer, q, 1).tolist() == exact.mean(axis=1).tolist(), "one is no choice"


def brute(choose: Callable[[list[int]], float], total: int, size: int) -> float:
    return float(np.mean([choose(list(chosen)) for chosen in combinations(range(total), size)]))


@pytest.mark.parametrize("total", [1, 2, 5, 7])
def test_closed_forms_against_every_subset(total: int) -> None:
    rng = np.random.default_rng(total)
    exact = rng.random((40, total)) < 0.4
    exact[0], exact[1] = False, True
    score = rng.integers(0, 4, (40, total)).astype(float)  # many ties
    score[rng.random((40, total)) < 0.1] = np.nan
    ranked = np.where(np.isnan(score), -np.inf, score)
    for size in range(1, total + 1):
        best, anyone = subset_best(exact, score, size), subset_any(exact, size)
        for n in range(40):

            def highest(chosen: list[int], n: int = n) -> float:
                top = ranked[n, chosen].max()
                return float(np.mean([exact[n, i] for i in chosen if ranked[n, i] == top]))

            assert best[n] == pytest.approx(brute(highest, total, size), abs=1e-12)
            expected = brute(lambda chosen, n=n: float(exact[n, chosen].any()), total, size)  # type: ignore[misc]
            assert anyone[n] == pytest.approx(expected, abs=1e-12)
    assert subset_best(exact, score, 1) == pytest.approx(exact.mean(axis=1), abs=1e-12), "one is no choice"


def test_many_rollouts_do_not_overflow() -> None:
    exact = np.zeros((2, 1000), bool)
    exact[0, 3], exact[1] = True, True
    score = -np.arange(1000.0)[None].repeat(2, axis=0)
    # The fourth best of 1,000 is chosen where none of the three better ones is in the set.
    expected = 500 / 1000 * (500 / 999) * (499 / 998) * (498 / 997)
    assert subset_best(exact, score, 500) == pytest.approx([expected, 1.0], rel=1e-9)
    assert subset_any(exact, 500) == pytest.approx([0.5, 1.0], rel=1e-9)
    with pytest.raises(ValueError, match="sets of 1001 of 1000"):
        subset_best(exact, score, 1001)


def test_counts_of_rollouts() -> None:
    assert [rollout_counts(n) for n in (1, 2, 3, 8, 100)] == [
        [1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 16, 32, 64, 100]
    ]  # fmt: skip


def table(exact: np.ndarray, q: np.ndarray, growth: np.ndarray, answer: np.ndarray) -> RolloutTable:
    """Judged twice: as given after step 5, and with nothing right after step 2."""
    both = [np.stack([part, part], axis=2) for part in (q.astype(np.float32), exact, answer)]
    both[1][:, :, 0] = False
    grown = np.stack([growth, growth], axis=2)[..., None].astype(np.float32)
    rows = np.arange(len(exact))
    alone = np.array([[False, True]] * len(rows))
    return RolloutTable(rows, np.array([2, 5]), both[0], both[1], alone, both[2], both[0], grown, np.array([1e-3]))


def test_report_by_hand() -> None:
    exact = np.array([[True, False, True, True], [False, False, True, False], [False] * 4])
    q = np.array([[1, 4, 2, 3], [0, 1, 2, 3], [0, 0, 0, 0]])
    growth = np.array([[3, 9, -1, 2], [0, 1, -2, 3], [0, 0, 0, 0]])
    answer = np.array([[1, 2, 1, 1], [3, 4, 5, 3], [6, 6, 6, 6]])
    entries = accuracies(table(exact, q, growth, answer), probe_passes=6, flops_per_step=10.0)
    found = {(each["selector"], each["steps"], each["rollouts"]): each for each in entries}
    assert len(entries) == len(found) == 5 * 2 * 3 + 2
    counts = {each.pop("exact_accuracy")["numerator"] for each in (found.pop(("noiseless", 2, 1)),)}
    alone = found.pop(("noiseless", 5, 1))
    assert counts == {0} and alone["exact_accuracy"]["numerator"] == 3 and alone["forward_passes"] == 5
    entries = list(found.values())
    solved = {name: found[name, 5, 4]["exact_accuracy"]["numerator"] for name, _, _ in found}
    assert solved == {"q": 0, "stability": 2, "majority": 1, "random": 4, "oracle": 2}
    assert found["random", 5, 4]["exact_accuracy"]["denominator"] == 12
    assert found["random", 5, 2]["exact_accuracy"]["numerator"] == 1, "of the first two rollouts of each puzzle"
    assert {found["random", 5, size]["expected"]["value"] for size in (1, 2, 4)} == {4 / 12}
    assert all(each["exact_accuracy"]["numerator"] == 0 for each in entries if each["steps"] == 2)
    assert found["q", 5, 2]["forward_passes"] == 10 and found["stability", 5, 2]["forward_passes"] == 2 * (5 + 6)
    assert found["oracle", 2, 4]["flops"] == 80.0 and found["oracle", 2, 4]["forward_passes"] == 8
    for name in ("q", "stability", "majority", "oracle"):
        whole = found[name, 5, 4]
        assert whole["expected"]["value"] == pytest.approx(whole["exact_accuracy"]["value"])
        assert whole["expected"]["interval95"] == pytest.approx(whole["exact_accuracy"]["interval95"])
    # Of the six pairs of the first puzzle three hold the wrong rollout of the highest q; of the second's, the right one
    # is highest in two.
    assert found["q", 5, 2]["expected"]["value"] == pytest.approx((3 / 6 + 2 / 6) / 3)


def test_intervals() -> None:
    """Shares of 0 and 1 are a rate; equal shares tell as much as all their answers; puzzles by histogram agree."""
    for solved, total in ((3, 10), (0, 7), (7, 7)):
        rate = solved / total
        assert effective_wilson(rate, rate * (1 - rate), total, 9 * total) == pytest.approx(
            wilson_interval(solved, total)
        )
    assert effective_wilson(0.5, 0.0, 10, 40) == pytest.approx(wilson_interval(20, 40))
    shares = np.array([0, 0.25, 0.25, 1, 0.75])
    counts = [1, 2, 0, 1, 1]
    assert clustered_interval(counts) == pytest.approx(effective_wilson(shares.mean(), shares.var(), 5, 20))
