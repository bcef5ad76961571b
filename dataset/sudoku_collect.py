"""From a source of Sudoku puzzles to a train and a test split: solved, rated, disjoint, reproducible.

Which puzzles are taken is decided by the seed alone, before or independently of how the work is shared
among processes; so `num_workers` never shows in the result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.puzzle_csv import PuzzleTable
from dataset.puzzle_lists import PuzzleList
from dataset.puzzle_text import BadLines
from dataset.splitting import concatenated, first_rows, permutation, said_of, size_of_test, test_part, together
from dataset.sudoku import Box, Puzzles, boards_from_tokens, tokens_from_boards
from dataset.sudoku_equivalence import SymmetryClasses
from dataset.sudoku_solver import Solved, solve
from dataset.sudoku_sources import BOX, read_list
from dataset.worker_pool import map_ordered
from errors import UserError

_SOLVE_CHUNK = 2048


@dataclass(frozen=True)
class Collected:
    """Both splits, the box geometry, the ratings' kind ("search_nodes" or "published"), notes to print."""

    train: Puzzles
    test: Puzzles
    box: Box
    rating: str
    notes: tuple[str, ...]


def solve_all(boards: np.ndarray, box: Box, num_workers: int, progress: str) -> Solved:
    """`solve` in chunks, shared among processes; a bar on a terminal."""
    chunks = [boards[i : i + _SOLVE_CHUNK] for i in range(0, len(boards), _SOLVE_CHUNK)]
    if num_workers <= 1 or len(chunks) <= 1:
        return solve(boards, box, progress=progress)
    solved_chunks: list[Solved] = []
    with tqdm(total=len(boards), desc=progress, unit=" puzzles", disable=None) as bar:
        for chunk in map_ordered(partial(solve, box=box), chunks, num_workers):
            solved_chunks.append(chunk)
            bar.update(len(chunk.ratings))
    return Solved(**concatenated(solved_chunks, "solutions", "num_solutions", "ratings", "complete"))


@dataclass(frozen=True)
class Pool:
    """Puzzles of several files, and the file and line that each stands in."""

    paths: list[Path]
    puzzles: Puzzles
    owner: np.ndarray
    lines: np.ndarray

    def bad_lines(self, rows: np.ndarray, fault: Callable[[int], str]) -> None:
        """Refuse these rows. Errors: `UserError` for the first file that has any; nothing where there are none."""
        if not len(rows):
            return
        bad = BadLines(self.paths[self.owner[rows].min()], "correct or remove the line")
        for row in rows[self.owner[rows] == self.owner[rows].min()].tolist():
            bad.add(int(self.lines[row]), fault(row))
        bad.refuse()

    def refuse_unsolved(self, solved: Solved, rows: np.ndarray) -> None:
        """Name those of `rows` that have not exactly one solution."""
        place = {int(rows[at]): int(at) for at in np.flatnonzero(~solved.unique)}

        def fault(row: int) -> str:
            at = place[row]
            if not solved.complete[at]:
                return f"could not be decided within {int(solved.ratings[at]):,} search nodes"
            return "has no solution" if solved.num_solutions[at] == 0 else "has more than one solution"

        self.bad_lines(np.array(sorted(place)), fault)

    def refuse_other_answers(self, first: np.ndarray) -> None:
        """Name rows whose answer differs from that of the `first` row (N,) with the same question."""
        answers = self.puzzles.solutions
        rows = np.flatnonzero((answers != answers[first]).any(axis=1))
        self.bad_lines(
            rows,
            lambda row: (
                f"has another answer to the question of {self.paths[self.owner[first[row]]].name}:"
                f"{self.lines[first[row]]}, so the puzzle has more than one solution"
            ),
        )


class _SolvedOnDemand:
    """Puzzles in an order of which only those that are asked for are solved; rows are places in that order."""

    def __init__(self, pool: Pool, order: np.ndarray, min_difficulty: int | None, num_workers: int) -> None:
        self.pool, self.order, self.num_workers = pool, order, num_workers
        self.smallest = min_difficulty or 0
        self.known = np.zeros(len(order), bool)

    def hard(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows with a rating that is large enough. Errors: `UserError` for what has not one solution."""
        new = rows[~self.known[rows]]
        if len(new):
            places, puzzles = self.order[new], self.pool.puzzles
            solved = solve_all(puzzles.boards[places], BOX, self.num_workers, "solving")
            self.pool.refuse_unsolved(solved, places)
            puzzles.solutions[places], puzzles.ratings[places] = solved.solutions, solved.ratings
            self.known[new] = True
        return rows[self.pool.puzzles.ratings[self.order[rows]] >= self.smallest]


def collect_lists(
    paths: list[Path],
    *,
    seed: int,
    num_train: int | None,
    test_size: int | None,
    min_difficulty: int | None,
    num_workers: int,
) -> Collected:
    """Raw lists, pooled and brought into a seeded order: tests from its front, training puzzles from its end.

    So a larger test set of the same seed takes what was for training only where nothing else is left. Puzzles equal
    up to symmetry go to one side. What is not needed is not solved.
    """
    sources = [read_list(path) for path in paths]
    notes = [note for source in sources for note in source.notes]
    boards = boards_from_tokens(np.concatenate([source.tokens for source in sources]))
    pool = pooled(sources, Puzzles(boards, np.zeros_like(boards), np.zeros(len(boards), np.int32)))
    distinct = np.flatnonzero(first_rows(boards) == np.arange(len(boards)))
    if len(distinct) < len(boards):
        notes.append(f"{len(boards) - len(distinct):,} repeated puzzles were dropped")
    num_test = size_of_test(test_size, len(distinct))
    order = distinct[permutation(seed, len(distinct))]
    order, classes = together(order, SymmetryClasses(BOX).add(tokens_from_boards(boards[order])))
    notes += said_of(classes)
    puzzles = _SolvedOnDemand(pool, order, min_difficulty, num_workers)
    everything = np.arange(len(order))
    first_of_class = np.flatnonzero(np.diff(classes, prepend=-1))

    hard = test = everything[:0]
    looked_at = 0
    while len(test) < num_test and looked_at < len(order):
        end = looked_at + _portion(num_test - len(test), min_difficulty)
        # Whole classes, so that what is left of one is not trained on.
        end = int(np.append(first_of_class, len(order))[np.searchsorted(first_of_class, end)])
        hard = np.concatenate([hard, puzzles.hard(everything[looked_at:end])])
        test = hard[test_part(classes[hard], num_test)]
        looked_at = end
    train = everything[:0]
    rest = everything[~np.isin(classes, classes[test])][::-1]
    wanted = len(rest) if num_train is None else num_train
    while len(train) < wanted and len(rest):
        size = _portion(wanted - len(train), min_difficulty)
        train = np.concatenate([train, puzzles.hard(rest[:size])])[:wanted]
        rest = rest[size:]
    if test_size is None and len(train) < wanted:  # all are known by now, and fewer than was thought are hard enough
        hard = puzzles.hard(everything)
        test = hard[test_part(classes[hard], min(num_test, max(1, len(hard) // 5)))]
        train = hard[~np.isin(hard, test)][::-1][:wanted]
    if not len(test) or not len(train):
        raise UserError(
            f"{len(puzzles.hard(everything)):,} puzzles have a rating of at least {min_difficulty or 0}, in "
            f"{len(np.unique(classes)):,} classes of puzzles equal up to symmetry, too few for {num_test:,} to test on "
            "and others to train on; give a smaller --min-difficulty or --test-size"
        )
    if test_size is not None and len(test) != test_size:
        notes.append(f"{test_size:,} puzzles to test on were asked for, {len(test):,} are what whole classes give")
    if num_train is not None and len(train) < num_train:
        notes.append(f"{num_train:,} puzzles to train on were asked for, {len(train):,} are left")
    to_train, to_test = (pool.puzzles.take(order[np.sort(rows)]) for rows in (train, test))
    return Collected(to_train, to_test, BOX, "search_nodes", tuple(notes))


def _portion(missing: int, min_difficulty: int | None) -> int:
    """How many puzzles to solve next where so many are missing: more where some will be too easy."""
    return missing if min_difficulty is None else max(missing, _SOLVE_CHUNK)


def pooled(sources: Sequence[PuzzleList] | Sequence[PuzzleTable], puzzles: Puzzles) -> Pool:
    owner = np.repeat(np.arange(len(sources)), [len(source.lines) for source in sources])
    return Pool([source.path for source in sources], puzzles, owner, np.concatenate([s.lines for s in sources]))
