"""From a source of Sudoku puzzles to a train and a test split: solved, rated, disjoint, reproducible.

Which puzzles are taken is decided by the seed alone, before or independently of how the work is shared
among processes; so `num_workers` never shows in the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.sudoku import BOXES, Box, Puzzles, canonical_form, side
from dataset.sudoku_generator import FEWEST_CLUES, generate
from dataset.sudoku_solver import Solved, solve
from dataset.sudoku_sources import RawList, concatenated, read_published_csv, read_raw_list, refuse_line
from dataset.worker_pool import map_ordered
from errors import UserError

DEFAULT_TEST_SIZE = 1000
DEFAULT_NUM_GENERATED = 1000
MINIMAL_4X4 = 36  # inequivalent minimal 4x4 puzzles, all there are
_SOLVE_CHUNK = 2048
_GENERATE_CHUNK = {4: 2048, 6: 2048, 9: 256}  # candidates made at a time, by n
_SPLIT_STREAM = 0x53504C  # keeps these draws apart from others made with the same seed


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


def first_occurrences(boards: np.ndarray, seen: set[bytes] | None = None) -> np.ndarray:
    """(N,) bool: True where a row stands for the first time and is not in `seen` (which is added to)."""
    seen = set() if seen is None else seen
    new = np.zeros(len(boards), bool)
    for row, board in enumerate(np.ascontiguousarray(boards)):
        key = board.tobytes()
        if key not in seen:
            seen.add(key)
            new[row] = True
    return new


def _permutation(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng([_SPLIT_STREAM, seed]).permutation(count)


def _test_size(asked: int | None, available: int) -> int:
    """How many of `available` puzzles of one pool are set aside: as asked, else 1,000 or a fifth."""
    if available < 2:
        raise UserError(
            f"the input holds {available} different puzzle, expected at least 2 (one to train, one to test)"
        )
    if asked is None:
        return min(DEFAULT_TEST_SIZE, max(1, available // 5))
    if asked >= available:
        raise UserError(
            f"--test-size {asked}, but the input holds {available} different puzzles and some must be "
            "left to train on; give a smaller --test-size"
        )
    return asked


def _refuse_unsolved(solved: Solved, rows: np.ndarray, place: Callable[[int], tuple[Path, int]]) -> None:
    """Name the first of `rows` (in file order) that has not exactly one solution."""
    wrong = np.flatnonzero(~solved.unique)
    if not len(wrong):
        return
    first = wrong[rows[wrong].argmin()]
    if not solved.complete[first]:
        fault = f"could not be decided within {int(solved.ratings[first]):,} search nodes"
    elif solved.num_solutions[first] == 0:
        fault = "has no solution"
    else:
        fault = "has more than one solution"
    path, line = place(int(rows[first]))
    refuse_line(path, line, fault)


def collect_lists(
    paths: list[Path],
    *,
    seed: int,
    num_train: int | None,
    test_size: int | None,
    min_difficulty: int | None,
    num_workers: int,
) -> Collected:
    """Raw lists, pooled: a seeded choice is drawn first, and only what it needs is solved."""
    notes: list[str] = []
    sources: list[RawList] = [read_raw_list(path) for path in paths]
    boards = np.concatenate([source.boards for source in sources])
    lines = np.concatenate([source.lines for source in sources])
    owner = np.repeat(np.arange(len(sources)), [len(source.lines) for source in sources])
    distinct = np.flatnonzero(first_occurrences(boards))
    if len(distinct) < len(boards):
        notes.append(f"{len(boards) - len(distinct):,} repeated puzzles were dropped")
    num_test = _test_size(test_size, len(distinct))
    order = distinct[_permutation(seed, len(distinct))]
    wanted = len(order) if num_train is None else min(num_test + num_train, len(order))

    kept: list[Puzzles] = []
    position = num_kept = 0
    while num_kept < wanted and position < len(order):
        missing = wanted - num_kept
        size = missing if min_difficulty is None else max(missing, _SOLVE_CHUNK)
        rows = order[position : position + size]
        position += len(rows)
        solved = solve_all(boards[rows], (3, 3), num_workers, "solving")
        _refuse_unsolved(solved, rows, lambda row: (sources[owner[row]].path, int(lines[row])))
        hard = np.flatnonzero(solved.ratings >= (min_difficulty or 0))
        kept.append(Puzzles(boards[rows], solved.solutions, solved.ratings).take(hard))
        num_kept += len(hard)
    pool = Puzzles(**concatenated(kept, "boards", "solutions", "ratings")).take(slice(wanted))
    if test_size is None and len(pool.ratings) < wanted:
        num_test = min(num_test, max(1, len(pool.ratings) // 5))
    if len(pool.ratings) <= num_test:
        raise UserError(
            f"{len(pool.ratings)} puzzles have a rating of at least {min_difficulty}, expected more than "
            f"{num_test} (the test set); give a smaller --min-difficulty or --test-size"
        )
    train = pool.take(slice(num_test, None)).take(slice(num_train))
    if num_train is not None and len(train.ratings) < num_train:
        notes.append(f"{num_train:,} puzzles to train on were asked for, {len(train.ratings):,} are left")
    return Collected(train, pool.take(slice(num_test)), (3, 3), "search_nodes", tuple(notes))


def collect_published(
    train_paths: list[Path],
    test_paths: list[Path],
    *,
    seed: int,
    num_train: int | None,
    test_size: int | None,
    min_difficulty: int | None,
    rating: str,
    num_workers: int,
) -> Collected:
    """Published CSV sets: test.csv is the test set, or, without one, a seeded part of the only file.

    `min_difficulty` reads the published rating, as in the official builder. No test puzzle stays in train.
    """
    notes: list[str] = []
    train_sets, test_sets = (
        [read_published_csv(path).at_least(min_difficulty) for path in paths] for paths in (train_paths, test_paths)
    )
    sources = test_sets + train_sets
    pool = Puzzles(**concatenated(sources, "boards", "solutions", "ratings"))
    lines = np.concatenate([source.lines for source in sources])
    owner = np.repeat(np.arange(len(sources)), [len(source.lines) for source in sources])
    num_in_test = sum(len(source.lines) for source in test_sets)
    test_rows = np.arange(num_in_test)
    train_rows = np.arange(num_in_test, len(lines))
    seen: set[bytes] = set()
    if test_sets:
        first_occurrences(pool.boards[test_rows], seen)
        before = len(train_rows)
        train_rows = train_rows[first_occurrences(pool.boards[train_rows], seen)]
        notes.append(f"{before - len(train_rows):,} puzzles were dropped from train (in test, or repeated)")
        if not len(test_rows) or not len(train_rows):
            empty = "train" if len(test_rows) else "test"
            raise UserError(f"no puzzle is left for the {empty} set; give a smaller --min-difficulty or more input")
        train_rows = train_rows[_permutation(seed, len(train_rows))] if num_train else train_rows
        if test_size is not None and test_size < len(test_rows):
            test_rows = test_rows[np.sort(_permutation(seed, len(test_rows))[:test_size])]
    else:
        train_rows = train_rows[first_occurrences(pool.boards[train_rows], seen)]
        num_test = _test_size(test_size, len(train_rows))
        train_rows = train_rows[_permutation(seed, len(train_rows))]
        test_rows, train_rows = train_rows[:num_test], train_rows[num_test:]
    train_rows = train_rows[:num_train]
    if num_train is not None and len(train_rows) < num_train:
        notes.append(f"{num_train:,} puzzles to train on were asked for, {len(train_rows):,} are there")
    if rating == "search":
        rows = np.concatenate([test_rows, train_rows])
        solved = solve_all(pool.boards[rows], (3, 3), num_workers, "rating")
        _refuse_unsolved(solved, rows, lambda row: (sources[owner[row]].path, int(lines[row])))
        pool.ratings[rows] = solved.ratings
    kind = "search_nodes" if rating == "search" else "published"
    return Collected(pool.take(train_rows), pool.take(test_rows), (3, 3), kind, tuple(notes))


def collect_generated(
    name: str,
    *,
    seed: int,
    num_train: int | None,
    test_size: int | None,
    num_clues: int | None,
    min_difficulty: int | None,
    num_workers: int,
) -> Collected:
    """Generated puzzles in the order of their numbers; the first are the test set.

    A puzzle is skipped when it has not the clues or the difficulty asked for, or when it is equivalent to
    an earlier one: by canonical form up to 6x6 (so the splits are disjoint up to all Sudoku symmetries and
    nothing repeats), by identity on 9x9.
    """
    box = BOXES[name]
    n = side(box)
    notes: list[str] = []
    if num_clues is not None and not FEWEST_CLUES[n] <= num_clues < n * n:
        raise UserError(
            f"--num-clues {num_clues} is out of reach: a {name} puzzle with one solution has "
            f"{FEWEST_CLUES[n]} to {n * n - 1} clues"
        )
    if n == 4:
        notes.append(f"4x4 has only {MINIMAL_4X4} inequivalent minimal puzzles: for smoke tests only")
        if num_clues is None:
            num_test = min(12, MINIMAL_4X4 - (num_train or 24)) if test_size is None else test_size
            num_train = MINIMAL_4X4 - num_test if num_train is None else num_train
            if num_test < 1 or num_train < 1 or num_test + num_train > MINIMAL_4X4:
                raise UserError(
                    f"4x4 has only {MINIMAL_4X4} inequivalent minimal puzzles, for train and test together; "
                    "use --num-train 24 --test-size 12, --num-clues N, or --generate 6x6"
                )
            test_size = num_test
    num_test = DEFAULT_TEST_SIZE if test_size is None else test_size
    total = num_test + (DEFAULT_NUM_GENERATED if num_train is None else num_train)
    # After so many candidates in a row without a new puzzle the request counts as out of reach.
    patience = 40_000 if n <= 6 else 4_000

    boards: list[np.ndarray] = []
    solutions: list[np.ndarray] = []
    ratings: list[int] = []
    seen: set[bytes] = set()
    fruitless = skipped = 0
    task = partial(_generate_chunk, box, seed, num_clues)
    starts = count(0, _GENERATE_CHUNK[n])
    with tqdm(total=total, desc=f"generating {name}", unit=" puzzles", disable=None) as bar:
        for candidates, keys in map_ordered(task, starts, num_workers):
            fit = candidates.ratings >= (min_difficulty or 0)
            if num_clues is not None:
                fit &= (candidates.boards != 0).sum(axis=1) == num_clues
            rows = np.flatnonzero(fit)
            new = first_occurrences(keys[rows], seen)
            skipped += int((~new).sum())
            rows = rows[new][: total - len(ratings)]
            boards.extend(candidates.boards[rows])
            solutions.extend(candidates.solutions[rows])
            ratings.extend(candidates.ratings[rows].tolist())
            bar.update(len(rows))
            fruitless = 0 if len(rows) else fruitless + len(keys)
            if len(ratings) == total:
                break
            if fruitless >= patience:
                raise UserError(
                    f"only {len(ratings):,} of the {total:,} {name} puzzles asked for were found (the last "
                    f"{fruitless:,} candidates gave no new one); ask for fewer puzzles, more clues or less "
                    "difficulty"
                )
    if skipped and n <= 6:
        notes.append(f"{skipped:,} puzzles equivalent to an earlier one were left out")
    everything = Puzzles(np.array(boards), np.array(solutions), np.array(ratings, np.int32))
    test, train = everything.take(slice(num_test)), everything.take(slice(num_test, None))
    return Collected(train, test, box, "search_nodes", tuple(notes))


def _generate_chunk(box: Box, seed: int, num_clues: int | None, start: int) -> tuple[Puzzles, np.ndarray]:
    """Candidates from number `start` on, and the key by which each is told from the others."""
    candidates = generate(box, seed, np.arange(start, start + _GENERATE_CHUNK[side(box)]), num_clues)
    return candidates, canonical_form(candidates.boards, box) if side(box) <= 6 else candidates.boards
