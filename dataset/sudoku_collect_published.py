"""From CSV files of published puzzles to a train and a test split: as published, or cut by a seed."""

from pathlib import Path

import numpy as np

from dataset.splitting import first_rows, permutation, said_of, size_of_test, test_part, together
from dataset.sudoku import Puzzles, boards_from_tokens, tokens_from_boards
from dataset.sudoku_collect import Collected, pooled, solve_all
from dataset.sudoku_equivalence import SymmetryClasses
from dataset.sudoku_sources import BOX, read_table
from errors import UserError

_COMPARE_CHUNK = 65_536


def collect_published(
    train_paths: list[Path],
    test_paths: list[Path],
    *,
    seed: int,
    num_train: int | None,
    test_size: int | None,
    min_difficulty: int | None,
    rating: str | None,
    num_workers: int,
) -> Collected:
    """Published CSV sets: test.csv is the test set, or, without one, a seeded part of the only file.

    `min_difficulty` reads the published rating, as in the official builder; files without one are rated by search.
    No puzzle that is equal to one of test.csv, up to symmetry, stays in train.
    """
    tables = [read_table(path).at_least(min_difficulty) for path in [*test_paths, *train_paths]]
    notes: list[str] = []
    unrated = [table.path.name for table in tables if table.ratings is None]
    if unrated and rating == "published":
        raise UserError(f"{unrated[0]} has no column 'rating'; give --rating search")
    search = bool(unrated) or rating == "search"
    if unrated and rating is None:
        notes.append(f"{unrated[0]} has no column 'rating': ratings are counted by search")
    pool = pooled(
        tables,
        Puzzles(
            boards_from_tokens(np.concatenate([table.tokens for table in tables])),
            boards_from_tokens(np.concatenate([table.answers for table in tables])),
            np.concatenate([np.zeros(len(t.lines), np.int32) if t.ratings is None else t.ratings for t in tables]),
        ),
    )
    boards = pool.puzzles.boards
    first = first_rows(boards)
    pool.refuse_other_answers(first)
    num_in_test = sum(len(table.lines) for table in tables[: len(test_paths)])
    test_rows = np.arange(num_in_test)
    train_rows = num_in_test + np.flatnonzero(first[num_in_test:] == np.arange(num_in_test, len(boards)))
    if test_paths:
        dropped = len(boards) - num_in_test - len(train_rows)
        notes.append(f"{dropped:,} puzzles were dropped from train (in test, or repeated)")
        train_rows = train_rows[permutation(seed, len(train_rows))] if num_train else train_rows
        train_rows = _unlike_test(train_rows, test_rows, boards, num_train, notes)
        if not len(test_rows) or not len(train_rows):
            empty = "train" if len(test_rows) else "test"
            raise UserError(f"no puzzle is left for the {empty} set; give a smaller --min-difficulty or more input")
        if test_size is not None and test_size < len(test_rows):
            test_rows = test_rows[np.sort(permutation(seed, len(test_rows))[:test_size])]
        elif test_size is not None and test_size > len(test_rows):
            notes.append(f"{test_size:,} puzzles to test on were asked for, {len(test_rows):,} are there")
    else:
        notes += _repeated(first, pool.puzzles.ratings, search)
        num_test = size_of_test(test_size, len(train_rows))
        order = train_rows[permutation(seed, len(train_rows))]
        order, classes = together(order, SymmetryClasses(BOX).add(tokens_from_boards(boards[order])))
        notes += said_of(classes)
        chosen = test_part(classes, num_test)
        test_rows, train_rows = order[chosen], order[~chosen]
        if not len(train_rows):
            raise UserError("all puzzles are equal up to symmetry, so none is left to train on; give more input")
        train_rows = train_rows if num_train is None else train_rows[-num_train:]
        if test_size is not None and len(test_rows) != test_size:
            notes.append(f"{test_size:,} puzzles to test on were asked for, {len(test_rows):,} in whole classes")
    if num_train is not None and len(train_rows) < num_train:
        notes.append(f"{num_train:,} puzzles to train on were asked for, {len(train_rows):,} are there")
    if search:
        rows = np.concatenate([test_rows, train_rows])
        solved = solve_all(boards[rows], BOX, num_workers, "rating")
        pool.refuse_unsolved(solved, rows)
        pool.puzzles.ratings[rows] = solved.ratings
    kind = "search_nodes" if search else "published"
    return Collected(pool.puzzles.take(train_rows), pool.puzzles.take(test_rows), BOX, kind, tuple(notes))


def _repeated(first: np.ndarray, ratings: np.ndarray, search: bool) -> list[str]:
    """A note where rows repeat the `first` row (N,) of the same puzzle. search: no rating of the files counts."""
    repeated = np.flatnonzero(first != np.arange(len(first)))
    others = 0 if search else int((ratings[repeated] != ratings[first[repeated]]).sum())
    rated = f", {others:,} of them with another rating than the first one, which is kept" if others else ""
    return [f"{len(repeated):,} repeated puzzles were dropped{rated}"] if len(repeated) else []


def _unlike_test(
    rows: np.ndarray, test_rows: np.ndarray, boards: np.ndarray, count: int | None, notes: list[str]
) -> np.ndarray:
    """The first `count` of the rows (all where None) that are equal to no test row up to symmetry."""
    classes = SymmetryClasses(BOX)
    classes.add(tokens_from_boards(boards[test_rows]))
    kept, num_kept, num_dropped, looked_at = [rows[:0]], 0, 0, 0
    wanted = len(rows) if count is None else count
    while num_kept < wanted and looked_at < len(rows):
        portion = rows[looked_at : looked_at + min(wanted - num_kept, _COMPARE_CHUNK)]
        keep = portion[classes.find(tokens_from_boards(boards[portion])) < 0]
        kept.append(keep)
        num_kept += len(keep)
        num_dropped += len(portion) - len(keep)
        looked_at += len(portion)
    if num_dropped:
        notes.append(f"{num_dropped:,} puzzles were dropped from train: up to symmetry they are in test")
    return np.concatenate(kept)
