"""From a source of mazes to a train and a test split: none of one is an image of one of the other, whatever the source.

Which mazes are taken is decided by the seed alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset import dihedral
from dataset.maze import VOCAB_SIZE, Mazes, judged, solved, with_random_paths
from dataset.maze_generator import CHUNK, TEST_STREAM, TRAIN_STREAM, Request, generate
from dataset.puzzle_csv import first_question, is_csv, read_puzzle_csv
from dataset.puzzle_grids import read_puzzle_grids, side_of_first
from dataset.splitting import (
    DEFAULT_TEST_SIZE,
    concatenated,
    first_rows,
    permutation,
    said_of,
    size_of_test,
    test_part,
    together,
)
from dataset.tasks import maze
from dataset.worker_pool import map_ordered
from errors import UserError

DEFAULT_NUM_GENERATED = 1000
_PATIENCE = 100  # chunks of candidates without one that fits, after which what is asked for counts as out of reach
_PATH_STREAM = 0x4D5050  # keeps these draws apart from others made with the same seed


@dataclass(frozen=True)
class Collected:
    """Both splits, and notes to print."""

    train: Mazes
    test: Mazes
    notes: tuple[str, ...]


def collect_generated(request: Request, *, num_train: int | None, test_size: int | None, num_workers: int) -> Collected:
    """Mazes of the test stream, and others of the training stream; none twice, nor as an image of another."""
    num_train = DEFAULT_NUM_GENERATED if num_train is None else num_train
    num_test = DEFAULT_TEST_SIZE if test_size is None else test_size
    met: set[bytes] = set()
    test = _draw(request, TEST_STREAM, num_test, met, num_workers)
    train = _draw(request, TRAIN_STREAM, num_train, met, num_workers)
    return Collected(train, test, ())


def _draw(request: Request, stream: int, wanted: int, met: set[bytes], num_workers: int) -> Mazes:
    """So many mazes that are like none in `met`, which takes them in. Errors: `UserError` where too few are found."""
    parts: list[Mazes] = []
    found = fruitless = 0
    chunks = map_ordered(partial(generate, request, stream), count(), num_workers)
    with tqdm(total=wanted, desc=f"generating {request.side}x{request.side}", unit=" mazes", disable=None) as bar:
        for candidates in chunks:
            new = list(_new_ones(candidates, met, wanted - found))
            parts.append(candidates.take(np.array(new, np.int64)))
            found += len(new)
            bar.update(len(new))
            if found == wanted:
                break
            fruitless = 0 if new else fruitless + 1
            if fruitless == _PATIENCE:
                raise UserError(
                    f"only {found:,} of {wanted:,} mazes of {request.side}x{request.side} with a path of at least "
                    f"{request.min_path} steps were found (the last {fruitless * CHUNK:,} candidates gave no new one); "
                    "give a smaller --min-path, another --wall-density, or ask for fewer"
                )
    return Mazes(**concatenated(parts, "inputs", "labels", "steps", "paths"))


def _new_ones(candidates: Mazes, met: set[bytes], room: int) -> Iterator[int]:
    for row, form in enumerate(dihedral.smallest_images(candidates.inputs, candidates.side)):
        if room and (key := form.tobytes()) not in met:
            met.add(key)
            room -= 1
            yield row


def collect_files(
    train_paths: list[Path], test_paths: list[Path], *, seed: int, num_train: int | None, test_size: int | None
) -> Collected:
    """Mazes of files: as published with a test set, which stays as it is, else cut by the seed into whole classes.

    CSV files have answers, in which a path is drawn; into mazes of text files a shortest path is drawn, one of all with
    equal odds. Train loses what is repeated, and what is an image of a maze in test.
    """
    side = _side_of([*test_paths, *train_paths][0])
    notes: list[str] = []
    parts = [_read(path, side, seed, notes) for path in [*test_paths, *train_paths]]
    mazes = Mazes(**concatenated(parts, "inputs", "labels", "steps", "paths"))
    longer = int((~judged(mazes.inputs, mazes.labels, mazes.steps).shortest).sum())
    if longer:
        notes.append(f"{longer:,} answers draw more than a shortest path, and are kept as they are")
    classes = first_rows(dihedral.smallest_images(mazes.inputs, side))
    fresh = first_rows(mazes.inputs) == np.arange(len(classes))
    num_tests = sum(len(part.steps) for part in parts[: len(test_paths)])
    rows = num_tests + np.flatnonzero(fresh[num_tests:])
    if test_paths:
        test = np.arange(num_tests)
        if test_size is not None and test_size < num_tests:
            test = test[np.sort(permutation(seed, num_tests)[:test_size])]
        train = rows[~np.isin(classes[rows], classes[:num_tests])]
        dropped = len(classes) - num_tests - len(train)
        if dropped:
            notes.append(f"{dropped:,} mazes were dropped from train (repeated, or an image of one in test)")
        if num_train is not None and num_train < len(train):
            train = train[permutation(seed, len(train))[:num_train]]
        if not len(train):
            raise UserError(f"{train_paths[0]}: every maze is one of test, or an image of one; give others to train on")
    else:
        num_test = size_of_test(test_size, len(rows))
        if len(rows) < len(classes):
            notes.append(f"{len(classes) - len(rows):,} repeated mazes were dropped")
        order = rows[permutation(seed, len(rows))]
        order, numbers = together(order, np.unique(classes[order], return_inverse=True)[1])
        notes += said_of(numbers)
        chosen = test_part(numbers, num_test)
        test, train = order[chosen], order[~chosen]
        if not len(train):
            raise UserError(f"{train_paths[0]}: all mazes are images of one, so none is left to train on; give more")
        train = train if num_train is None else train[-num_train:]
        if test_size is not None and len(test) != test_size:
            notes.append(f"{test_size:,} mazes to test on were asked for, {len(test):,} are what whole classes give")
    if num_train is not None and len(train) < num_train:
        notes.append(f"{num_train:,} mazes to train on were asked for, {len(train):,} are there")
    return Collected(mazes.take(train), mazes.take(test), tuple(notes))


def _side_of(path: Path) -> int:
    """n of the first maze of a file. Errors: `UserError` where it has not n*n cells."""
    if not is_csv(path):
        return side_of_first(path, lambda line: line.count("S") == line.count("G") == 1)
    line, question = first_question(path)
    side = int(len(question) ** 0.5)
    if side < 2 or side * side != len(question):
        raise UserError(f"{path}:{line}: has a question of {len(question)} characters, expected n*n, a square maze")
    return side


def _read(path: Path, side: int, seed: int, notes: list[str]) -> Mazes:
    task = maze.Task(side * side, VOCAB_SIZE)
    if is_csv(path):
        table = read_puzzle_csv(path, task)
        return Mazes(table.tokens, table.answers, *solved(table.tokens))
    found = read_puzzle_grids(path, task)
    notes.extend(found.notes)
    labels = with_random_paths(found.tokens, np.random.default_rng([_PATH_STREAM, seed]))
    return Mazes(found.tokens, labels, *solved(found.tokens))
