"""The batched solver against a plain recursion, on known boards, and independent of batching."""

import gzip
import hashlib

import numpy as np
import pytest

from dataset.sudoku import is_solution, parse_board
from dataset.sudoku_generator import generate
from dataset.sudoku_solver import candidates_from_boards, propagate_once, solve, solve_candidates
from tests.dataset.sudoku_reference import RAW_LIST, all_solutions, search_nodes, shuffled_board

BOXES = [(2, 2), (2, 3), (3, 2)]


def read_17clue(count: int | None = None) -> np.ndarray:
    lines = gzip.open(RAW_LIST, "rt").read().split()
    if count is not None:
        lines = [lines[i] for i in np.random.default_rng(5).permutation(len(lines))[:count]]
    return np.array([parse_board(line) for line in lines])


def thinned_boards(box: tuple[int, int], count: int, seed: int) -> np.ndarray:
    """Boards of every kind: many or few clues, and a third with one clue changed (often unsolvable)."""
    rng = np.random.default_rng(seed)
    n = box[0] * box[1]
    boards = []
    for i in range(count):
        board = shuffled_board(box, rng)
        board[rng.permutation(n * n)[: rng.integers(n * n // 3, n * n - n + 3)]] = 0
        if i % 3 == 0:
            cell = rng.choice(np.flatnonzero(board))
            board[cell] = rng.integers(1, n + 1)
        boards.append(board)
    return np.array(boards)


@pytest.mark.parametrize("box", BOXES)
def test_counts_and_solutions_agree_with_plain_recursion(box: tuple[int, int]) -> None:
    boards = thinned_boards(box, 150, seed=1)
    solved = solve(boards, box)
    expected = [all_solutions(board.tolist(), box, limit=2) for board in boards]
    assert solved.num_solutions.tolist() == [len(found) for found in expected]
    assert set(solved.num_solutions.tolist()) == {0, 1, 2}
    assert solved.complete.all()
    for row, found in enumerate(expected):
        if len(found) == 1:
            assert tuple(solved.solutions[row].tolist()) == found[0]
        elif found:
            assert is_solution(solved.solutions[row : row + 1], box).all()
        else:
            assert not solved.solutions[row].any()


@pytest.mark.parametrize("box", BOXES)
def test_ratings_follow_their_definition(box: tuple[int, int]) -> None:
    boards = np.concatenate([thinned_boards(box, 90, seed=2), generate(box, 0, np.arange(150)).boards])
    solved = solve(boards, box)
    exhausted = solved.num_solutions < 2
    expected = [search_nodes(board.tolist(), box) for board in boards[exhausted]]
    assert solved.ratings[exhausted].tolist() == expected
    assert max(expected) > 0 or box == (2, 2)  # singles settle every 4x4 board with one solution


def test_17clue_ratings_follow_their_definition() -> None:
    boards = read_17clue(25)
    expected = [search_nodes(board.tolist(), (3, 3)) for board in boards]
    assert solve(boards, (3, 3)).ratings.tolist() == expected
    assert max(expected) > 0


def test_17clue_sample_is_uniquely_solved() -> None:
    boards = read_17clue(400)
    solved = solve(boards, (3, 3))
    assert solved.unique.all()
    assert is_solution(solved.solutions, (3, 3)).all()
    assert ((boards == 0) | (boards == solved.solutions)).all()


def test_result_does_not_depend_on_batch_or_order() -> None:
    boards = np.concatenate([read_17clue(60), np.zeros((2, 81), np.uint8)])
    boards[3, np.flatnonzero(boards[3])[:2]] = 0  # several solutions
    whole = solve(boards, (3, 3))
    order = np.random.default_rng(0).permutation(len(boards))
    for batch_size in (1, 7, 1000):
        part = solve(boards[order], (3, 3), batch_size=batch_size)
        for name in ("solutions", "num_solutions", "ratings", "complete"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[order]), (batch_size, name)


def test_empty_grid_is_answered_at_once_and_all_4x4_grids_are_counted() -> None:
    empty = solve(np.zeros((1, 81), np.uint8), (3, 3))
    assert empty.num_solutions.tolist() == [2] and empty.ratings[0] < 100
    assert solve(np.zeros((1, 16), np.uint8), (2, 2), max_solutions=1000).num_solutions.tolist() == [288]


def test_known_boards() -> None:
    contradictory = np.zeros((3, 81), np.uint8)
    contradictory[0, [0, 8]] = 5  # twice in a row
    contradictory[1, :8] = np.arange(1, 9)  # row 0 needs a 9 in its last cell,
    contradictory[1, 9 + 8] = 9  # whose column has one
    contradictory[2, [0, 10]] = 1  # twice in a box
    solved = solve(contradictory, (3, 3))
    assert solved.num_solutions.tolist() == [0, 0, 0] and solved.ratings.tolist() == [0, 0, 0]
    grid = solve(read_17clue(1), (3, 3)).solutions
    full = solve(grid, (3, 3))
    assert full.unique.all() and full.ratings.tolist() == [0] and np.array_equal(full.solutions, grid)


def test_node_cap_ends_a_search_undecided() -> None:
    boards = read_17clue(400)
    whole = solve(boards, (3, 3))
    hard = int(whole.ratings.argmax())
    capped = solve(boards, (3, 3), max_nodes=int(whole.ratings[hard]) - 1)
    assert not capped.complete[hard] and not capped.unique[hard]
    easy = whole.ratings < whole.ratings[hard]
    assert capped.unique[easy].all()
    assert solve(boards, (3, 3), max_nodes=int(whole.ratings[hard])).unique.all()


def test_forbidden_digits_are_respected() -> None:
    boards = read_17clue(20)
    solutions = solve(boards, (3, 3)).solutions
    masks = candidates_from_boards(boards, (3, 3))
    cell = int(np.flatnonzero((boards[:] == 0).all(axis=0))[0])
    masks[:, cell] ^= np.uint16(1) << (solutions[:, cell].astype(np.uint16) - np.uint16(1))
    assert (solve_candidates(masks, (3, 3)).num_solutions == 0).all()


def test_propagation_rests_exactly_when_nothing_changes() -> None:
    masks = candidates_from_boards(read_17clue(50), (3, 3)).T.copy()
    for _ in range(100):
        new, resting, contradictory, _solved = propagate_once(masks, (3, 3))
        assert np.array_equal(resting, (new == masks).all(axis=0))
        assert not contradictory.any()
        assert (new & ~masks == 0).all()  # candidates only ever leave
        masks = new
    assert resting.all()


def test_no_boards() -> None:
    assert len(solve(np.zeros((0, 36), np.uint8), (2, 3)).ratings) == 0


def test_the_shipped_list_is_the_published_one() -> None:
    text = gzip.open(RAW_LIST).read()
    assert hashlib.md5(text).hexdigest() == "bb740b66a88520687dbd1cbd08a25c9c"
    assert len(text.split()) == 49_151


@pytest.mark.slow
def test_every_17clue_puzzle_is_uniquely_solved_and_rated() -> None:
    boards = read_17clue()
    solved = solve(boards, (3, 3))
    assert solved.unique.all()
    assert is_solution(solved.solutions, (3, 3)).all()
    assert ((boards == 0) | (boards == solved.solutions)).all()
    assert len(np.unique(solved.solutions, axis=0)) > 40_000
