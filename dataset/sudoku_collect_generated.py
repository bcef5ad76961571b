"""Generated Sudokus as a train and a test split, from a stream of numbered puzzles for each.

The test set is the first puzzles of the test stream, whatever is trained on; training puzzles come from a stream of
their own and are equal, up to symmetry, to none of the test puzzles, nor to the next ones of the test stream. So a
larger test set of the same seed holds no puzzle that a network was trained on.

Their solutions may still be equal up to symmetry: filled 6x6 grids have 49 classes, and a training set of thousands
holds most of them. Split by solution class, no class is on both sides.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np
from tqdm import tqdm

from dataset.hashing import scatter
from dataset.splitting import DEFAULT_TEST_SIZE, concatenated
from dataset.sudoku import BOXES, Box, Puzzles, side, tokens_from_boards
from dataset.sudoku_collect import Collected
from dataset.sudoku_equivalence import SymmetryClasses, equivalence_keys
from dataset.sudoku_generator import FEWEST_CLUES, TEST_STREAM, TRAIN_STREAM, generate
from dataset.worker_pool import map_ordered
from errors import UserError

DEFAULT_NUM_GENERATED = 1000
MINIMAL_4X4 = 36  # inequivalent minimal 4x4 puzzles, all there are
_GENERATE_CHUNK = {4: 256, 6: 2048, 9: 256}  # candidates made at a time, by n
# Candidates of the test stream that are kept out of train, by n. Two 9x9 puzzles never meet by chance.
_KEPT_FOR_TESTS = {4: 0, 6: 4096, 9: 0}
_TEST_SHARE = 5  # split by solution class, one class of so many tests, by its hash and the seed
SPLITS = ("puzzle", "solution-class")


@dataclass(frozen=True)
class _Request:
    """What is asked for: puzzles of a size and seed, with so many clues, or a rating of at least so much.

    by_solution: of the test stream only those whose solution is of a class that tests, of the other only the rest.
    """

    name: str
    seed: int
    num_clues: int | None
    min_difficulty: int
    num_workers: int
    by_solution: bool = False

    @property
    def box(self) -> Box:
        return BOXES[self.name]

    def candidates(self, stream: int) -> Iterator[Puzzles]:
        """All of a stream that fit, a chunk at a time; endless."""
        chunk = _GENERATE_CHUNK[side(self.box)]
        task = partial(_generate_chunk, self.box, self.seed, self.num_clues, stream, chunk)
        for candidates in map_ordered(task, count(0, chunk), self.num_workers):
            fit = candidates.ratings >= self.min_difficulty
            if self.num_clues is not None:
                fit &= (candidates.boards != 0).sum(axis=1) == self.num_clues
            if self.by_solution:
                fit &= tests(candidates.solutions, self.box, self.seed) == (stream == TEST_STREAM)
            yield candidates.take(np.flatnonzero(fit))


def tests(solutions: np.ndarray, box: Box, seed: int) -> np.ndarray:
    """(N,) bool of filled boards (N, n*n): their class of grids equal up to symmetry is one that tests."""
    keys = _solution_classes(solutions, box) ^ scatter(np.array([seed], np.uint64))
    return scatter(keys) % np.uint64(_TEST_SHARE) == 0


def _solution_classes(solutions: np.ndarray, box: Box) -> np.ndarray:
    return equivalence_keys(tokens_from_boards(solutions), box)


def _generate_chunk(box: Box, seed: int, num_clues: int | None, stream: int, chunk: int, start: int) -> Puzzles:
    return generate(box, seed, np.arange(start, start + chunk), num_clues, stream)


def collect_generated(
    name: str,
    *,
    seed: int,
    num_train: int | None,
    test_size: int | None,
    num_clues: int | None,
    min_difficulty: int | None,
    num_workers: int,
    split_by: str | None = None,
) -> Collected:
    """Generated puzzles of both streams in the order of their numbers. split_by: one of `SPLITS`; None = the first.

    A puzzle is skipped when it has not the clues or the difficulty asked for, or when it is equal up to symmetry to
    one before it.
    """
    request = _Request(name, seed, num_clues, min_difficulty or 0, num_workers, split_by == "solution-class")
    n = side(request.box)
    if request.by_solution and n == 4:
        raise UserError("4x4 has only 2 solutions up to symmetry; --split-by solution-class needs 6x6 or 9x9")
    notes: list[str] = []
    if num_clues is not None and not FEWEST_CLUES[n] <= num_clues < n * n:
        raise UserError(
            f"--num-clues {num_clues} is out of reach: a {name} puzzle with one solution has "
            f"{FEWEST_CLUES[n]} to {n * n - 1} clues"
        )
    if n == 4:
        notes.append(f"4x4 has only {MINIMAL_4X4} inequivalent minimal puzzles: for smoke tests only")
        if num_clues is None:
            num_train, test_size = _sizes_4x4(num_train, test_size)
    num_test = DEFAULT_TEST_SIZE if test_size is None else test_size
    num_train = DEFAULT_NUM_GENERATED if num_train is None else num_train

    classes = SymmetryClasses(request.box)
    of_stream, skipped = _draw(request, TEST_STREAM, classes, num_test, num_train, _KEPT_FOR_TESTS[n])
    test = of_stream.take(slice(num_test))
    num_kept = len(of_stream.ratings)
    if skipped > num_kept:  # most came more than once: there are so few that none can be kept for later
        classes, num_kept = SymmetryClasses(request.box), num_test
        classes.add(tokens_from_boards(test.boards))
    train, skipped_in_train = _draw(request, TRAIN_STREAM, classes, num_train, num_test)
    if skipped + skipped_in_train:
        notes.append(f"{skipped + skipped_in_train:,} puzzles equal to one before up to symmetry were left out")
    notes.append(f"no training puzzle is, up to symmetry, among the first {num_kept:,} that seed {seed} tests on")
    train = train.take(slice(num_train))
    if request.by_solution:
        held = [len(np.unique(_solution_classes(part.solutions, request.box))) for part in (train, test)]
        notes.append(f"solutions are of {held[0]:,} classes in train and {held[1]:,} others in test")
    return Collected(train, test, request.box, "search_nodes", tuple(notes))


def _sizes_4x4(num_train: int | None, test_size: int | None) -> tuple[int, int]:
    num_test = min(12, MINIMAL_4X4 - (num_train or 24)) if test_size is None else test_size
    num_train = MINIMAL_4X4 - num_test if num_train is None else num_train
    if num_test < 1 or num_train < 1 or num_test + num_train > MINIMAL_4X4:
        raise UserError(
            f"4x4 has only {MINIMAL_4X4} inequivalent minimal puzzles, for train and test together; "
            "use --num-train 24 --test-size 12, --num-clues N, or --generate 6x6"
        )
    return num_train, num_test


def _draw(
    request: _Request, stream: int, classes: SymmetryClasses, wanted: int, others: int, num_candidates: int = 0
) -> tuple[Puzzles, int]:
    """At least `wanted` puzzles of new classes, of at least so many candidates, and how many fitted and were not new.

    Errors: `UserError` where so many seem to be out of reach; `others` is what the other split is to hold.
    """
    n = side(request.box)
    # After so many candidates in a row without a new puzzle the request counts as out of reach.
    patience = 40_000 if n <= 6 else 4_000
    parts: list[Puzzles] = []
    found = skipped = fruitless = looked_at = 0
    with tqdm(total=wanted, desc=f"generating {request.name}", unit=" puzzles", disable=None) as bar:
        for candidates in request.candidates(stream):
            met = classes.count
            numbers = classes.add(tokens_from_boards(candidates.boards))
            first = np.sort(np.unique(numbers, return_index=True)[1])
            new = first[numbers[first] >= met]
            parts.append(candidates.take(new))
            bar.update(min(len(new), wanted - min(found, wanted)))
            found += len(new)
            skipped += len(numbers) - len(new)
            looked_at += _GENERATE_CHUNK[n]
            fruitless = 0 if len(new) else fruitless + _GENERATE_CHUNK[n]
            if found >= wanted and looked_at >= num_candidates:
                break
            if fruitless >= patience:
                raise UserError(
                    f"only {found:,} of the {wanted:,} {request.name} puzzles asked for to "
                    f"{'test' if stream == TEST_STREAM else 'train'} on were found, beside {others:,} others (the last "
                    f"{fruitless:,} candidates gave no new one); ask for fewer puzzles, more clues or less difficulty"
                )
    return Puzzles(**concatenated(parts, "boards", "solutions", "ratings")), skipped
