"""Generated puzzles: one solution, minimal or of the clues asked for, a function of (seed, number)."""

import numpy as np
import pytest

from dataset.sudoku import BOXES, is_solution, side
from dataset.sudoku_generator import generate, random_grids, remove_clues
from dataset.sudoku_solver import solve
from tests.dataset.sudoku_reference import all_solutions


@pytest.mark.parametrize(("name", "count"), [("4x4", 60), ("6x6", 60), ("9x9", 8)])
def test_puzzles_are_unique_and_minimal(name: str, count: int) -> None:
    box = BOXES[name]
    made = generate(box, 0, np.arange(count))
    assert is_solution(made.solutions, box).all()
    assert ((made.boards == 0) | (made.boards == made.solutions)).all()
    solved = solve(made.boards, box)
    assert solved.unique.all() and np.array_equal(solved.ratings, made.ratings)
    row, cell = np.nonzero(made.boards)
    thinner = made.boards[row]
    thinner[np.arange(len(row)), cell] = 0
    assert (solve(thinner, box).num_solutions == 2).all()
    if side(box) <= 6:
        for board, solution in zip(made.boards[:10], made.solutions[:10], strict=True):
            assert all_solutions(board.tolist(), box, 2) == [tuple(solution.tolist())]


@pytest.mark.parametrize("name", sorted(BOXES))
def test_a_puzzle_depends_on_seed_and_number_only(name: str) -> None:
    box = BOXES[name]
    together = generate(box, 7, np.arange(6))
    for i in (0, 5):
        alone = generate(box, 7, np.array([i]))
        assert np.array_equal(alone.boards[0], together.boards[i])
        assert np.array_equal(alone.solutions[0], together.solutions[i])
    assert len(np.unique(together.boards, axis=0)) > 1
    assert not np.array_equal(generate(box, 8, np.arange(6)).boards, together.boards)


def test_number_of_clues() -> None:
    made = generate((2, 3), 0, np.arange(100), num_clues=14)
    assert ((made.boards != 0).sum(axis=1) == 14).all()
    minimal = (generate((2, 3), 0, np.arange(100)).boards != 0).sum(axis=1)
    made = generate((2, 3), 0, np.arange(100), num_clues=9)
    clues = (made.boards != 0).sum(axis=1)
    assert np.array_equal(clues, np.maximum(minimal, 9))


def test_removal_in_order_agrees_with_trying_every_clue_by_hand() -> None:
    grids = random_grids([np.random.default_rng(i) for i in range(6)], (2, 3))
    orders = np.array([np.random.default_rng(100 + i).permutation(36) for i in range(6)])
    expected = grids.copy()
    for board, order in zip(expected, orders, strict=True):
        for cell in order:
            kept, board[cell] = int(board[cell]), 0
            if len(all_solutions(board.tolist(), (2, 3), 2)) > 1:
                board[cell] = kept
    assert np.array_equal(remove_clues(grids, orders, (2, 3)), expected)


def test_random_grids_reach_all_288_4x4_grids() -> None:
    grids = random_grids([np.random.default_rng(i) for i in range(6000)], (2, 2))
    assert is_solution(grids, (2, 2)).all()
    assert len(np.unique(grids, axis=0)) == 288
