"""Votes over symmetric views: who wins, what is returned, and what the draws depend on."""

from collections import defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dataset.sudoku import BOXES, Box, side, tokens_from_boards, units
from dataset.sudoku_solver import solve
from errors import UserError
from models.act import Batch
from models.recursive_model import RecursiveModel
from tests.dataset.folders import sudoku_task
from tests.dataset.sudoku_reference import shuffled_board
from tests.models.small import small_model
from training.inference.adaptive import AdaptiveInference
from training.inference.base import Inference, Predictions
from training.inference.fixed import FixedInference, OfficialInference
from training.inference.vote import VotedPredictions, VoteInference, row_views, tally

SIZES = sorted(BOXES.values())
FIELDS = ("answers", "q_halt", "steps", "logits")
# The fakes look at no model; a real one stands in.
MODEL = small_model("trm-mlp", seq_len=16, vocab_size=6).eval()


def sudoku_batch(box: Box, rows: list[int], seed: int = 0) -> Batch:
    """Solved grids with some cells emptied (row r is the same board in every batch), padding where r = -1."""
    grids = np.stack([shuffled_board(box, np.random.default_rng([seed, r + 1])) for r in rows])
    keep = np.stack([np.random.default_rng([seed, r + 1, 1]).random(side(box) ** 2) < 0.7 for r in rows])
    inputs = torch.from_numpy(tokens_from_boards(np.where(keep, grids, 0)).astype(np.int32))
    labels = torch.from_numpy(tokens_from_boards(grids).astype(np.int32))
    padding = torch.tensor(rows) < 0
    inputs[padding], labels[padding] = 0, -100
    return {
        "inputs": inputs,
        "labels": labels,
        "row": torch.tensor(rows),
        "puzzle_identifiers": torch.zeros(len(rows), dtype=torch.int32),
    }


def one_hot_logits(answers: torch.Tensor, vocab_size: int) -> torch.Tensor:
    return 9.0 * F.one_hot(answers, vocab_size)


class Equivariant(Inference):
    """Solves by search; its logits add how often each token stands in the units of a cell."""

    name = "equivariant"

    def __init__(self, box: Box) -> None:
        self.box = box

    def predict(self, model: RecursiveModel, batch: Batch) -> Predictions:
        n = side(self.box)
        inputs = batch["inputs"].numpy()
        solved = solve(np.maximum(inputs - 1, 0).astype(np.uint8), self.box).solutions
        answers = torch.from_numpy(solved.astype(np.int64)) + 1
        shown = F.one_hot(batch["inputs"].long(), n + 2)
        around = torch.zeros(shown.shape)
        for unit in units(self.box).tolist():
            around[:, unit] += shown[:, unit].sum(dim=1, keepdim=True)
        size = len(answers)
        return Predictions(
            answers=answers,
            q_halt=torch.linspace(-1, 1, size),
            steps=torch.arange(size, dtype=torch.int32),
            logits=one_hot_logits(answers, n + 2) + around,
            forward_passes=7,
        )


@pytest.mark.parametrize("box", SIZES)
def test_an_equivariant_answer_is_unanimous(box: Box) -> None:
    batch = sudoku_batch(box, [0, 5, 2])
    alone = Equivariant(box).predict(MODEL, batch)
    voted = VoteInference(Equivariant(box), 6, sudoku_task(box), seed=3).predict(MODEL, batch)
    for name in FIELDS:
        assert torch.equal(getattr(voted, name), getattr(alone, name)), name
        assert getattr(voted, name).dtype == getattr(alone, name).dtype
    assert voted.votes.tolist() == [6, 6, 6] and voted.forward_passes == 42


class Scripted(Inference):
    """View v answers row r by rule script[r][v], each rule equivariant; q, steps and logits tell the views apart."""

    name = "scripted"
    RULES = 4

    def __init__(self, script: np.ndarray, q_halt: np.ndarray) -> None:
        self.script, self.q_halt, self.view = script, q_halt, 0

    def predict(self, model: RecursiveModel, batch: Batch) -> Predictions:
        rows, inputs = batch["row"], batch["inputs"].long()
        twice = torch.stack([(inputs == token).sum(dim=1) for token in range(6)], dim=1)
        answers = torch.stack([inputs, torch.ones_like(inputs), torch.zeros_like(inputs), twice.gather(1, inputs) % 2])
        chosen = answers[torch.from_numpy(self.script)[rows, self.view], torch.arange(len(rows))]
        view, self.view = self.view, self.view + 1
        return Predictions(
            answers=chosen,
            q_halt=torch.from_numpy(self.q_halt)[rows, view].float(),
            steps=100 * view + rows.int(),
            logits=one_hot_logits(chosen, 6) + view,
            forward_passes=view + 1,
        )


def elected(script: list[int], q_halt: list[float]) -> tuple[int, int, float]:
    """(lowest view of the winner, votes, mean q) by the rules, one sentence each."""
    views = defaultdict(list)
    for view, rule in enumerate(script):
        views[rule].append(view)
    most = max(len(group) for group in views.values())
    tied = [group for group in views.values() if len(group) == most]
    means = {group[0]: sum(q_halt[v] for v in group) / most for group in tied}
    best = max(means.values())
    winner = min(view for view, mean in means.items() if mean == best)
    return winner, most, best


def test_majority_and_ties() -> None:
    """300 rows of five views; q in quarters, so that means are exact often enough to tie."""
    rng = np.random.default_rng(0)
    script, q_halt = rng.integers(0, Scripted.RULES, (300, 5)), rng.integers(-1, 2, (300, 5)) / 4
    batch = sudoku_batch((2, 2), list(range(300)))
    voted = VoteInference(Scripted(script, q_halt), 5, sudoku_task((2, 2)), seed=1).predict(MODEL, batch)
    plain = Scripted(np.tile(np.arange(Scripted.RULES), (300, 1)), q_halt)
    grids = [plain.predict(MODEL, batch).answers for _ in range(Scripted.RULES)]
    distinct = torch.stack([(a != b).any(dim=1) for i, a in enumerate(grids) for b in grids[:i]]).all(dim=0)
    seen = {"majority": 0, "by q": 0, "by view": 0}
    for row in distinct.nonzero()[:, 0].tolist():
        winner, votes, mean = elected(script[row].tolist(), q_halt[row].tolist())
        assert torch.equal(voted.answers[row], grids[script[row, winner]][row])
        assert (int(voted.votes[row]), int(voted.steps[row])) == (votes, 100 * winner + row)
        assert float(voted.q_halt[row]) == pytest.approx(mean, abs=1e-6)
        assert torch.equal(voted.logits[row], one_hot_logits(voted.answers[row], 6) + winner)
        counts = np.bincount(script[row], minlength=Scripted.RULES)
        leaders = np.flatnonzero(counts == votes)
        means = [q_halt[row][script[row] == rule].mean() for rule in leaders]
        kind = "majority" if len(leaders) == 1 else "by q" if means.count(max(means)) == 1 else "by view"
        seen[kind] += 1
    assert distinct.sum() > 200 and min(seen.values()) > 10
    assert voted.forward_passes == 1 + 2 + 3 + 4 + 5


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2)), min_size=5, max_size=5), min_size=1))
def test_tally_by_its_rules(rows: list[list[tuple[int, int]]]) -> None:
    script = np.array([[answer for answer, _ in row] for row in rows])
    q_halt = np.array([[float(q) for _, q in row] for row in rows])
    first = np.array([[list(row).index(answer) for answer in row] for row in script.tolist()])
    result = tally(first, q_halt)
    found = list(zip(result.winner.tolist(), result.votes.tolist(), result.q_halt.tolist(), strict=True))
    assert found == [elected(s, q) for s, q in zip(script.tolist(), q_halt.tolist(), strict=True)]


def test_a_view_without_a_number_loses_ties_only() -> None:
    first = np.array([[0, 1], [0, 0]])
    result = tally(first, np.array([[np.nan, -5.0], [np.nan, 1.0]]))
    assert result.winner.tolist() == [1, 0] and result.votes.tolist() == [1, 2]


class Positional(Inference):
    """Answers every row by a hash of its tokens and their places: no two views agree by symmetry."""

    name = "positional"

    def predict(self, model: RecursiveModel, batch: Batch) -> Predictions:
        inputs = batch["inputs"].long()
        weights = torch.arange(1, inputs.shape[1] + 1) ** 2
        key = (inputs * weights).sum(dim=1)
        # Few different answers, so that votes are more than one.
        answers = torch.where(inputs > 1, inputs, 2 + (key % 2)[:, None])
        return Predictions(
            answers=answers,
            q_halt=(key % 97).float(),
            steps=(key % 13).int(),
            logits=one_hot_logits(answers, 6) + (key % 5)[:, None, None],
            forward_passes=1,
        )


def test_a_row_is_answered_alike_in_every_company() -> None:
    inference = VoteInference(Positional(), 7, sudoku_task((2, 2)), seed=11)
    whole = inference.predict(MODEL, sudoku_batch((2, 2), list(range(12))))
    assert len(set(whole.votes.tolist())) > 2
    for rows in ([3], [11, 0, 7, 5], [9, -1, 2, -1], [8] * 3):
        part = inference.predict(MODEL, sudoku_batch((2, 2), rows))
        for place, row in enumerate(rows):
            for name in (*FIELDS, "votes"):
                if row >= 0:
                    assert torch.equal(getattr(part, name)[place], getattr(whole, name)[row]), (rows, row, name)
    others = VoteInference(Positional(), 7, sudoku_task((2, 2)), seed=12)
    other = others.predict(MODEL, sudoku_batch((2, 2), list(range(12))))
    assert not torch.equal(other.q_halt, whole.q_halt)


def test_symmetries_are_those_of_seed_row_and_view() -> None:
    rows, nine = np.array([4, 4, 9, -1]), sudoku_task((3, 3))
    one = row_views(nine, rows, 2, 5)
    alone = row_views(nine, rows[2:3], 2, 5)
    for name in ("cells", "tokens"):
        value = getattr(one, name)
        assert np.array_equal(value[0], value[1]) and np.array_equal(value[2:3], getattr(alone, name))
    others = [row_views(nine, rows, *rest) for rest in ((3, 5), (2, 6))]
    for found in (one.tokens[2], *(other.tokens[0] for other in others)):
        assert not np.array_equal(one.tokens[0], found)
    # One draw per stream: over rows every symmetry of the grid and every relabelling is met.
    many = row_views(sudoku_task((2, 2)), np.arange(3000), 1, 0)
    assert len(np.unique(many.tokens, axis=0)) == 24 and len(np.unique(many.cells, axis=0)) == 128
    with pytest.raises(ValueError, match="view 0"):
        row_views(nine, rows, 0, 5)


def test_padding_sees_padding() -> None:
    seen: list[torch.Tensor] = []

    class Watched(Positional):
        def predict(self, model: RecursiveModel, batch: Batch) -> Predictions:
            seen.append(batch["inputs"][1])
            return super().predict(model, batch)

    voted = VoteInference(Watched(), 3, sudoku_task((2, 2)), seed=0).predict(MODEL, sudoku_batch((2, 2), [6, -1, 1]))
    assert len(seen) == 3 and all((tokens == 0).all() for tokens in seen)
    assert voted.answers.shape == (3, 16)


@pytest.mark.parametrize("rows", [[0, 1, -1], []])
@pytest.mark.parametrize("inner", [OfficialInference(), FixedInference(2), AdaptiveInference(3)], ids=lambda i: i.name)
def test_one_view_is_the_inner_answer(inner: Inference, rows: list[int]) -> None:
    batch = {key: leaf[: len(rows)] for key, leaf in sudoku_batch((2, 2), rows or [0]).items()}
    alone = inner.predict(MODEL, batch)
    voted = VoteInference(inner, 1, sudoku_task((2, 2)), seed=0).predict(MODEL, batch)
    assert isinstance(voted, VotedPredictions)
    for name in FIELDS:
        assert torch.equal(getattr(voted, name), getattr(alone, name)), name
        assert getattr(voted, name).dtype == getattr(alone, name).dtype
    assert voted.forward_passes == alone.forward_passes and voted.votes.tolist() == [1] * len(rows)


def test_a_network_sees_the_views_and_no_labels() -> None:
    """The winner's numbers are those that the network gives to the winning view, mapped back by hand."""
    batch = sudoku_batch((2, 2), [0, 1, 2, 3])
    seen: list[Batch] = []

    class Watched(OfficialInference):
        def predict(self, model: RecursiveModel, batch: Batch) -> Predictions:
            seen.append(batch)
            return super().predict(model, batch)

    voted = VoteInference(Watched(), 4, sudoku_task((2, 2)), seed=2).predict(MODEL, batch)
    assert torch.equal(seen[0]["inputs"], batch["inputs"]) and torch.equal(seen[0]["labels"], batch["labels"])
    assert all((view["labels"] == -100).all() for view in seen[1:])
    assert all(view["inputs"].dtype == torch.int32 for view in seen)
    found = 0
    for v, view in enumerate(seen[1:], start=1):
        logits = OfficialInference().predict(MODEL, view).logits
        symmetries = row_views(sudoku_task((2, 2)), batch["row"].numpy(), v, 2)
        for row in range(4):
            names = symmetries.tokens[row].tolist()
            image = {int(old): new for new, old in enumerate(symmetries.cells[row])}
            assert names[:2] == [0, 1] and sorted(names) == list(range(6)) and sorted(image) == list(range(16))
            for cell in range(16):
                shown = int(view["inputs"][row, image[cell]])
                assert shown == names[int(batch["inputs"][row, cell])]
            back = torch.stack([logits[row, image[cell]][names] for cell in range(16)])
            if torch.equal(voted.logits[row], back):
                assert torch.equal(voted.answers[row], back.argmax(dim=-1))
                found += 1
    assert found > 0  # not only the puzzle as it is
    unmoved = OfficialInference().predict(MODEL, batch).logits
    found += sum(torch.equal(a, b) for a, b in zip(voted.logits, unmoved, strict=True))
    assert found == 4


def test_no_rows_for_this_process() -> None:
    batch = {key: leaf[:0] for key, leaf in sudoku_batch((2, 2), [0]).items()}
    voted = VoteInference(OfficialInference(), 3, sudoku_task((2, 2)), seed=0).predict(MODEL, batch)
    assert voted.answers.shape == (0, 16) and voted.logits.shape == (0, 16, 6) and voted.votes.shape == (0,)


def test_what_cannot_vote_is_refused() -> None:
    with pytest.raises(UserError, match="a vote of 0 views: expected at least 1"):
        VoteInference(OfficialInference(), 0, sudoku_task((2, 2)), seed=0)
    batch = sudoku_batch((2, 2), [0])
    with pytest.raises(UserError, match="sudoku with boxes of 2x3 needs 36 tokens per row; found 16"):
        VoteInference(OfficialInference(), 2, sudoku_task((2, 3)), seed=0).predict(MODEL, batch)
    wide = small_model("trm-mlp", seq_len=16, vocab_size=9).eval()
    with pytest.raises(UserError, match="6 tokens in the vocabulary; found 9"):
        VoteInference(OfficialInference(), 2, sudoku_task((2, 2)), seed=0).predict(wide, batch)
