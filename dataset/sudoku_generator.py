"""Seeded generation of Sudoku puzzles with exactly one solution, many at a time.

Puzzle i of a stream is a function of (stream, seed, i) alone: its grid and the order in which clues are taken away
come from a generator keyed by them, and the batched solver treats each board on its own. So neither the batch nor
the number of workers shows in the result.
"""

import numpy as np

from dataset.sudoku import Box, Puzzles, side
from dataset.sudoku_solver import candidates_from_boards, solve, solve_candidates

# Fewest clues of any uniquely solvable puzzle, by n (9x9: McGuire, Tugemann, Civario 2012).
FEWEST_CLUES = {4: 4, 6: 8, 9: 17}
# These keep the draws apart from others made with the same seed.
TEST_STREAM, TRAIN_STREAM = 0x53754B, 0x53544B


def generate(
    box: Box, seed: int, indices: np.ndarray, num_clues: int | None = None, stream: int = TEST_STREAM
) -> Puzzles:
    """Puzzles number `indices` of a stream of `seed`, each with exactly one solution.

    They are minimal (no clue can be taken away), or with `num_clues` the removal stops at that number; a
    grid on which it cannot get so far comes out minimal with more clues, for the caller to skip.
    """
    rngs = [np.random.default_rng([stream, seed, int(i)]) for i in indices]
    solutions = random_grids(rngs, box)
    orders = np.array([rng.permutation(side(box) ** 2) for rng in rngs])
    boards = remove_clues(solutions, orders, box, num_clues)
    solved = solve(boards, box, max_nodes=None)
    if not (solved.unique.all() and np.array_equal(solved.solutions, solutions)):
        raise RuntimeError("generator and solver disagree about a puzzle")
    return Puzzles(boards=boards, solutions=solutions, ratings=solved.ratings)


def random_grids(rngs: list[np.random.Generator], box: Box) -> np.ndarray:
    """(N, n*n) solved grids, one per generator: a search of the empty board with random guesses.

    Every solved grid can come out (any digit may be the first guess in any cell); not quite uniformly.
    """
    n = side(box)
    guess_order = np.array([rng.random((n * n, n), dtype=np.float32).argsort(axis=1) for rng in rngs])
    empty = candidates_from_boards(np.zeros((len(rngs), n * n), np.uint8), box)
    searched = solve_candidates(empty, box, max_solutions=1, max_nodes=None, guess_order=guess_order.astype(np.uint8))
    return searched.solutions


def remove_clues(solutions: np.ndarray, orders: np.ndarray, box: Box, num_clues: int | None = None) -> np.ndarray:
    """Take clues away in the given order (N, n*n) wherever the solution stays unique; (N, n*n) boards.

    A clue may go exactly when no solution has another digit in its cell, which is one search for one
    solution from masks that forbid that digit. A clue that could not go can never go later, with fewer
    clues left, so one pass makes the puzzle minimal.
    """
    n = side(box)
    boards = solutions.copy()
    for step in range(n * n):
        clues = (boards != 0).sum(axis=1)
        todo = np.arange(len(boards)) if num_clues is None else np.flatnonzero(clues > num_clues)
        if not len(todo):
            break
        cell = orders[todo, step]
        masks = candidates_from_boards(boards[todo], box)
        others = np.uint16((1 << n) - 1) ^ masks[np.arange(len(todo)), cell]
        masks[np.arange(len(todo)), cell] = others
        alternatives = solve_candidates(masks, box, max_solutions=1, max_nodes=None)
        free = alternatives.num_solutions == 0
        boards[todo[free], cell[free]] = 0
    return boards
