"""Seeded generation of mazes with random walls, many at a time.

Each cell is a wall by itself. The start is a cell as far away as any from a random one, the goal a random cell at least
so many steps away (the two then exchanged or not), so that long paths are found often enough. What numbers a stream
has depends on (stream, seed, chunk) alone, so the number of workers does not show in the result.
"""

from dataclasses import dataclass

import numpy as np

from dataset.maze import FREE, GOAL, START, WALL, Mazes, on_shortest_paths, search, solved, with_random_paths

# These keep the draws apart from others made with the same seed.
TEST_STREAM, TRAIN_STREAM = 0x4D5445, 0x4D5452
CHUNK = 1024


@dataclass(frozen=True)
class Request:
    """What is asked for: mazes of `side` * `side` cells, with a shortest path of at least `min_path` steps.

    wall_density: probability of a cell to be a wall. unique: where there are several shortest paths, one is kept, and
    the cells that only the others go through become walls.
    """

    side: int
    seed: int
    min_path: int
    wall_density: float
    unique: bool


def generate(request: Request, stream: int, chunk: int) -> Mazes:
    """Those of chunk number `chunk` of a stream of candidates that fit, in order."""
    rng = np.random.default_rng([stream, request.seed, chunk])
    free = rng.random((CHUNK, request.side**2)) >= request.wall_density
    some = _one_of(free, rng)
    # A fraction of a step parts cells that are equally far.
    starts = (search(free, some)[0] + rng.random(free.shape)).argmax(axis=1)
    fits = search(free, starts)[0] >= request.min_path
    goals = _one_of(fits, rng)
    exchanged = rng.random(CHUNK) < 0.5
    starts, goals = np.where(exchanged, goals, starts), np.where(exchanged, starts, goals)
    inputs = np.where(free, FREE, WALL).astype(np.uint8)
    rows = np.arange(CHUNK)
    inputs[rows, starts], inputs[rows, goals] = START, GOAL
    kept = fits.any(axis=1)
    inputs = inputs[kept]
    labels = with_random_paths(inputs, rng)
    if request.unique:
        others = on_shortest_paths(inputs) & (labels == FREE)
        inputs[others] = labels[others] = WALL
    return Mazes(inputs, labels, *solved(inputs))


def _one_of(allowed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) a random place among those that are allowed (N, S) bool; any place where none is."""
    return np.where(allowed, rng.random(allowed.shape), -1.0).argmax(axis=1)
