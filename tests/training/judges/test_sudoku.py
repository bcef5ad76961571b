"""Answers by the rules of Sudoku, on boards made by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset.sudoku import BOXES, parse_board, side, tokens_from_boards
from errors import UserError
from models.act import Batch
from tests.dataset.sudoku_reference import all_solutions, shuffled_board
from training.evaluation.evaluators import DifficultyGroup
from training.inference.base import Predictions
from training.judges.sudoku import COUNTS, SudokuEvaluator

# 4x4. The second solution turns the open rectangle round: 1 and 2 stand in two rows, two columns and two boxes.
SOLVED = "1234341221434321"
AMBIGUOUS = "..343412..434321"
OTHER = "2134341212434321"


def tokens(*boards: str) -> Tensor:
    digits = np.stack([parse_board(board, (2, 2)) for board in boards])
    return torch.from_numpy(tokens_from_boards(digits).astype(np.int32))


def made(answers: Tensor) -> Predictions:
    size = len(answers)
    return Predictions(
        answers=answers.long(),
        q_halt=torch.zeros(size),
        steps=torch.ones(size, dtype=torch.int32),
        logits=torch.zeros(*answers.shape, 6),
        forward_passes=1,
    )


def judge(inputs: Tensor, labels: Tensor, answers: Tensor, box: tuple[int, int] = (2, 2)) -> dict[str, int]:
    evaluator = SudokuEvaluator(box)
    evaluator.begin()
    evaluator.update({"inputs": inputs, "labels": labels.int()}, made(answers))
    return evaluator.counts()


def counts(**changes: int) -> dict[str, int]:
    return dict.fromkeys(COUNTS, 0) | changes


def test_second_solution_of_an_ambiguous_puzzle() -> None:
    box = (2, 2)
    puzzle = parse_board(AMBIGUOUS, box)
    assert len(all_solutions(puzzle.tolist(), box)) == 2
    found = judge(tokens(AMBIGUOUS), tokens(SOLVED), tokens(OTHER))
    assert found == counts(
        count=1,
        valid_count=1,
        givens_kept_count=1,
        solved_otherwise_count=1,
        cells_count=16,
        cells_right_count=12,
        blanks_count=4,
    )


def test_recorded_solution() -> None:
    assert judge(tokens(AMBIGUOUS), tokens(SOLVED), tokens(SOLVED)) == counts(
        count=1,
        exact_count=1,
        valid_count=1,
        givens_kept_count=1,
        cells_count=16,
        cells_right_count=16,
        blanks_count=4,
        blanks_right_count=4,
    )


def test_a_valid_grid_that_changes_a_given() -> None:
    """1 and 2 exchanged everywhere: by the rules a grid, but not of this puzzle."""
    swapped = SOLVED.translate(str.maketrans("12", "21"))
    assert judge(tokens(AMBIGUOUS), tokens(SOLVED), tokens(swapped)) == counts(
        count=1,
        valid_count=1,
        cells_count=16,
        cells_right_count=8,
        blanks_count=4,
    )


@pytest.mark.parametrize("token", [0, 1, 6, 200])
def test_tokens_that_are_no_digits(token: int) -> None:
    answers = tokens(SOLVED).long()
    answers[0, 0] = token
    assert judge(tokens(AMBIGUOUS), tokens(SOLVED), answers) == counts(
        count=1,
        givens_kept_count=1,
        cells_count=16,
        cells_right_count=15,
        blanks_count=4,
        blanks_right_count=3,
    )
    everywhere = judge(tokens(AMBIGUOUS), tokens(SOLVED), torch.full((1, 16), token))
    assert everywhere == counts(count=1, cells_count=16, blanks_count=4)


def test_padding_rows_count_nowhere() -> None:
    inputs = torch.cat([tokens(AMBIGUOUS), torch.zeros(1, 16, dtype=torch.int32)])
    labels = torch.cat([tokens(SOLVED), torch.full((1, 16), -100, dtype=torch.int32)])
    answers = torch.cat([tokens(SOLVED), tokens(OTHER)])
    assert judge(inputs, labels, answers) == judge(inputs[:1], labels[:1], answers[:1])


@pytest.mark.parametrize("box", sorted(BOXES.values()))
def test_every_size_by_loops(box: tuple[int, int]) -> None:
    """Random damage to solutions: a row is judged as loops over its rows, columns and boxes judge it."""
    rng = np.random.default_rng(5)
    n = side(box)
    grids = np.stack([shuffled_board(box, rng) for _ in range(60)])
    puzzles = np.where(rng.random(grids.shape) < 0.4, grids, 0)
    answers = grids.astype(np.int64)
    for row in range(20, 60):  # 20 stay right, 20 swap two digits, 20 get some random cells
        if row < 40:
            a, b = rng.choice(np.arange(1, n + 1), 2, replace=False)
            answers[row] = np.where(grids[row] == a, b, np.where(grids[row] == b, a, grids[row]))
        else:
            cells = rng.choice(n * n, 3, replace=False)
            answers[row, cells] = rng.integers(-1, n + 1, 3)
    expected = counts(count=60, cells_count=60 * n * n)
    for puzzle, grid, answer in zip(puzzles.tolist(), grids.tolist(), answers.tolist(), strict=True):
        board = np.array(answer).reshape(n, n)
        rows, columns = box
        lines = [*board, *board.T]
        lines += [board[r : r + rows, c : c + columns].ravel() for r in range(0, n, rows) for c in range(0, n, columns)]
        valid = all(sorted(line.tolist()) == list(range(1, n + 1)) for line in lines)
        kept = all(a == p for a, p in zip(answer, puzzle, strict=True) if p)
        right = [a == g for a, g in zip(answer, grid, strict=True)]
        expected["exact_count"] += all(right)
        expected["valid_count"] += valid
        expected["givens_kept_count"] += kept
        expected["solved_otherwise_count"] += valid and kept and not all(right)
        expected["cells_right_count"] += sum(right)
        expected["blanks_count"] += puzzle.count(0)
        expected["blanks_right_count"] += sum(r for r, p in zip(right, puzzle, strict=True) if not p)
    found = judge(*(torch.from_numpy(part.astype(np.int32) + 1) for part in (puzzles, grids, answers)), box)
    assert found == expected
    assert 20 <= expected["exact_count"] < expected["valid_count"] < 60  # the damage was of every kind


def batch_with_rows(rows: list[int]) -> Batch:
    size = len(rows)
    inputs, labels = tokens(*[AMBIGUOUS] * size), tokens(*[SOLVED] * size)
    labels[torch.tensor(rows) < 0] = -100
    return {"inputs": inputs, "labels": labels, "row": torch.tensor(rows)}


def test_groups_and_batches_add_up() -> None:
    ratings = np.array([9, 1, 5, 1], np.int32)
    evaluator = SudokuEvaluator((2, 2), ratings, [DifficultyGroup(1, 1), DifficultyGroup(5, 9)])
    evaluator.begin()
    evaluator.update(batch_with_rows([3, 0]), made(tokens(SOLVED, OTHER)))
    evaluator.update(batch_with_rows([1, 2, -1]), made(tokens(OTHER, SOLVED, SOLVED)))
    easy, hard = evaluator.per_group()
    for group in (easy, hard):
        assert (group["count"], group["exact_count"], group["solved_otherwise_count"]) == (2, 1, 1)
        assert (group["blanks_right_count"], group["blanks_count"], group["valid_count"]) == (4, 8, 2)
    assert (easy["low"], easy["high"], hard["low"], hard["high"]) == (1, 1, 5, 9)
    assert {name: easy[name] + hard[name] for name in COUNTS} == evaluator.counts()
    assert evaluator.metrics() == {
        "rule_valid": 1.0,
        "givens_kept": 1.0,
        "blank_accuracy": 0.5,
        "solved_otherwise_count": 2.0,
    }
    evaluator.begin()
    assert evaluator.metrics() == {"solved_otherwise_count": 0.0}


def test_rows_of_another_task_are_refused() -> None:
    with pytest.raises(UserError, match="rows have 16 tokens, expected 36 for boxes of 2x3"):
        judge(tokens(AMBIGUOUS), tokens(SOLVED), tokens(SOLVED), (2, 3))
    with pytest.raises(ValueError, match="ratings"):
        SudokuEvaluator((2, 2), None, [DifficultyGroup(1, 2)])
