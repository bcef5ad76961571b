"""Votes over stored views: who is elected, and that neither order nor a tie changes it."""

from collections import defaultdict

import numpy as np
import pytest

from training.evaluation.view_votes import num_passed, ranks_of_right


def ranks(rows: list[tuple[int, int, float, bool]]) -> list[int]:
    """Rows: query, answer, weight, right."""
    query, answer, weight, right = (np.array(column) for column in zip(*rows, strict=True))
    return ranks_of_right(query.astype(np.int64), answer.astype(np.uint64), weight, right.astype(bool)).tolist()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(7, 1, 0.1, True), (7, 1, 0.1, True), (7, 2, 0.9, False)], [0]),
        ([(7, 1, 0.1, False), (7, 1, 0.1, False), (7, 2, 0.9, True)], [1]),
        ([(7, 1, 0.2, False), (7, 2, 0.3, True)], [0]),
        ([(7, 1, 0.9, False), (7, 1, 0.1, False), (7, 2, 0.6, True), (7, 2, 0.6, True)], [0]),  # the mean decides
        ([(7, 1, 0.5, False), (7, 2, 0.5, True)], [1]),  # a full tie goes to the smaller number
        ([(7, 2, 0.5, False), (7, 1, 0.5, True)], [0]),
        ([(7, 1, 0.5, False), (7, 3, 0.5, False)], [-1]),
        ([(9, 1, 0.5, True), (-3, 1, 0.5, False), (9, 2, 0.9, False)], [-1, 1]),  # in the order of their numbers
    ],
)
def test_who_is_elected(rows: list[tuple[int, int, float, bool]], expected: list[int]) -> None:
    assert ranks(rows) == expected


def test_the_order_of_rows_does_not_matter() -> None:
    """Against counting one by one; the weights are such that sums in another order differ."""
    rng = np.random.default_rng(0)
    count = 4000
    query, answer = rng.integers(-20, 20, count), rng.integers(0, 6, count).astype(np.uint64)
    right, weight = answer == query % 6, rng.random(count)
    found = ranks_of_right(query, answer, weight, right)
    for _ in range(5):
        order = rng.permutation(count)
        assert np.array_equal(ranks_of_right(query[order], answer[order], weight[order], right[order]), found)
    for number, rank in zip(np.unique(query).tolist(), found.tolist(), strict=True):
        votes: dict[int, list[float]] = defaultdict(list)
        for one, mass in zip(answer[query == number].tolist(), weight[query == number].tolist(), strict=True):
            votes[one].append(mass)
        elected = sorted(votes, key=lambda one: (-len(votes[one]), -np.mean(votes[one]), one))
        assert rank == (elected.index(number % 6) if number % 6 in elected else -1)


def test_attempts() -> None:
    found = np.array([0, 1, 2, -1, 0])
    assert [num_passed(found, attempts) for attempts in (1, 2, 3, 10)] == [2, 3, 4, 4]
    assert num_passed(np.zeros(0, np.int64), 1) == 0 and len(ranks_of_right(*np.zeros((4, 0), np.int64))) == 0
