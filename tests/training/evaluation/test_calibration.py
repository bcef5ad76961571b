"""Calibration of q_halt: against loops over pairs and bins, and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.act import Batch
from training.distributed import World
from training.evaluation.calibration import (
    NUM_BINS,
    CalibrationEvaluator,
    auroc,
    brier_score,
    expected_calibration_error,
    reliability_table,
)
from training.inference.base import Predictions

pairs = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30)
stated = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def by_pairs(scores: list[int], positive: list[bool]) -> float | None:
    wins = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, is_high in zip(scores, positive, strict=True)
        if is_high
        for low, is_low in zip(scores, positive, strict=True)
        if not is_low
    ]
    return sum(wins) / len(wins) if wins else None


@given(pairs)
def test_auroc_is_the_share_of_pairs(rows: list[tuple[int, bool]]) -> None:
    scores, positive = [list(column) for column in zip(*rows, strict=True)]
    found = auroc(np.array(scores, float), np.array(positive))
    expected = by_pairs(scores, positive)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected, abs=1e-12)


def test_auroc_at_its_ends() -> None:
    yes = np.array([False, False, True, True])
    assert auroc(np.arange(4.0), yes) == 1 and auroc(-np.arange(4.0), yes) == 0 and auroc(np.ones(4), yes) == 0.5
    assert auroc(np.array([-np.inf, 0, 0, np.inf]), yes) == 0.875
    for one_class in (yes | True, yes & False, yes[:0]):
        assert auroc(np.zeros(len(one_class)), one_class) is None


@given(stated)
def test_brier_and_calibration_error_by_loops(rows: list[tuple[float, bool]]) -> None:
    probabilities, positive = [list(column) for column in zip(*rows, strict=True)]
    p, y = np.array(probabilities), np.array(positive)
    squares = [(a - b) ** 2 for a, b in rows]
    assert brier_score(p, y) == pytest.approx(sum(squares) / len(rows), abs=1e-12)
    error, counts = 0.0, []
    for i in range(NUM_BINS):
        low, high = i / NUM_BINS, (i + 1) / NUM_BINS
        inside = [(a, b) for a, b in rows if low <= a < high or (i == NUM_BINS - 1 and a == 1)]
        counts.append(len(inside))
        error += abs(sum(a for a, _ in inside) - sum(b for _, b in inside)) / len(rows)
    table = reliability_table(p, y)
    assert [entry["count"] for entry in table] == counts and sum(counts) == len(rows)
    assert sum(entry["exact_count"] for entry in table) == sum(positive)
    assert expected_calibration_error(p, y) == pytest.approx(error, abs=1e-12)


def test_closed_forms() -> None:
    """The base rate for every row: Brier r (1 - r), no calibration error. Certain and wrong: both 1."""
    y = np.arange(20) < 5
    assert brier_score(np.full(20, 0.25), y) == pytest.approx(0.25 * 0.75, abs=1e-15)
    assert expected_calibration_error(np.full(20, 0.25), y) == pytest.approx(0, abs=1e-15)
    assert brier_score(1.0 - y, y) == expected_calibration_error(1.0 - y, y) == 1
    assert brier_score(y, y) == expected_calibration_error(1.0 * y, y) == 0
    # 0.9 where 0.5 is right, 0.1 where none is: (4 * 0.4 + 6 * 0.1) / 10.
    p, y = np.array([0.9] * 4 + [0.1] * 6), np.array([True, False] * 2 + [False] * 6)
    assert expected_calibration_error(p, y) == pytest.approx(0.22, abs=1e-12)


def test_table_at_the_edges_of_bins() -> None:
    table = reliability_table(np.array([0, 0.25, np.nextafter(0.25, 0), 0.5, 1.0]), np.array([1, 1, 0, 0, 1]), 4)
    assert [entry["count"] for entry in table] == [2, 1, 1, 1]
    assert [(entry["low"], entry["high"]) for entry in table] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert [entry["exact_share"] for entry in table] == [0.5, 1, 0, 1]
    assert table[0]["mean_confidence"] == np.nextafter(0.25, 0) / 2
    empty = reliability_table(np.array([1.0]), np.array([True]), 2)[0]
    assert empty["count"] == 0 and empty["mean_confidence"] is None and empty["exact_share"] is None


def predictions(answers: list[list[int]], q_halt: list[float]) -> Predictions:
    tokens = torch.tensor(answers)
    return Predictions(
        answers=tokens,
        q_halt=torch.tensor(q_halt),
        steps=torch.ones(len(q_halt), dtype=torch.int32),
        logits=torch.zeros(*tokens.shape, 5),
        forward_passes=1,
    )


def labelled(labels: list[list[int]]) -> Batch:
    return {"labels": torch.tensor(labels)}


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def judged(parts: list[tuple[Batch, Predictions]]) -> CalibrationEvaluator:
    evaluator = CalibrationEvaluator()
    evaluator.begin()
    for part in parts:
        evaluator.update(*part)
    return evaluator


PARTS = [
    # exact; exact where it is scored; wrong; padding
    (labelled([[1, 2], [1, -100], [1, 2], [-100, -100]]),
     predictions([[1, 2], [1, 0], [1, 1], [0, 0]], [logit(0.9), logit(0.3), logit(0.3), 50.0])),
    (labelled([[3, 3]]), predictions([[0, 3]], [logit(0.1)])),
]  # fmt: skip


def test_rows_by_hand() -> None:
    evaluator = judged(PARTS)
    report = evaluator.report()
    assert (report["count"], report["exact_count"], report["base_rate"]) == (4, 2, 0.5)
    assert report["auroc"] == 0.875  # of four pairs three are in order, one is a tie
    assert report["brier"] == pytest.approx((0.01 + 0.49 + 0.09 + 0.01) / 4, abs=1e-6)
    # Bins of 0.3 (two rows, half exact), 0.9 and 0.1.
    assert report["ece"] == pytest.approx((2 * 0.2 + 0.1 + 0.1) / 4, abs=1e-6)
    assert len(report["bins"]) == NUM_BINS and [b["count"] for b in report["bins"] if b["count"]] == [1, 2, 1]
    assert evaluator.metrics() == {f"q_halt_{name}": report[name] for name in ("auroc", "brier", "ece")}
    evaluator.begin()
    assert evaluator.report()["count"] == 0


def test_ranks_survive_where_probabilities_are_one() -> None:
    rows = (labelled([[1], [1]]), predictions([[1], [0]], [90.0, 60.0]))
    assert judged([rows]).report()["auroc"] == 1


def test_what_is_not_defined_is_none() -> None:
    for parts in ([], [(labelled([[-100, -100]]), predictions([[0, 0]], [1.0]))]):
        report = judged(parts).report()
        assert report["count"] == 0 and judged(parts).metrics() == {}
        assert all(report[name] is None for name in ("base_rate", "auroc", "brier", "ece"))
    one_class = judged([(labelled([[1]]), predictions([[1]], [0.0]))])
    assert one_class.report()["auroc"] is None and one_class.metrics() == {"q_halt_brier": 0.25, "q_halt_ece": 0.5}
    nan = judged([(labelled([[1], [1]]), predictions([[1], [0]], [0.0, math.nan]))])
    report = nan.report()
    assert nan.metrics() == {} and report["bins"] is None and (report["count"], report["exact_count"]) == (2, 1)


class Shard(World):
    """One of two processes, asked after the other; each tensor meets the other's at the same place in the order."""

    def __init__(self, rank: int, sent: list[torch.Tensor]) -> None:
        super().__init__(rank, 2)
        self.sent, self.calls = sent, 0

    def gather_ragged(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.rank == 0:
            self.sent.append(tensor)
            return tensor
        self.calls += 1
        return torch.cat([self.sent[self.calls - 1], tensor])


def test_processes_judge_the_rows_of_one() -> None:
    for shares in ((PARTS[:1], PARTS[1:]), (PARTS, []), ([], PARTS)):
        sent: list[torch.Tensor] = []
        for rank, share in enumerate(shares):
            evaluator = judged(share)
            evaluator.gather(Shard(rank, sent))
        assert evaluator.report() == judged(PARTS).report()
    alone = judged(PARTS)
    alone.gather(World())
    assert alone.report() == judged(PARTS).report()
