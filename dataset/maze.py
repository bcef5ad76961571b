"""Mazes: tokens, shortest paths and how many there are, and what a drawing is worth.

A maze is a row of n*n tokens in reading order: walls, free cells, one start, one goal. A step leads to one of four
neighbours, through free cells. An answer is the maze with a path drawn in: the free cells on the way from start to goal
are marked. Tokens are those of the official builder: the place in "# SGo", from 1; 0 is padding.
"""

from dataclasses import dataclass, fields
from math import isqrt

import numpy as np

CHARACTERS = "# SGo"
WALL, FREE, START, GOAL, PATH = range(1, 6)
VOCAB_SIZE = 6


@dataclass(frozen=True)
class Mazes:
    """N mazes of n*n cells: inputs, labels (N, n*n) uint8; steps (N,) int32 and paths (N,) float64, see `solved`."""

    inputs: np.ndarray
    labels: np.ndarray
    steps: np.ndarray
    paths: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Mazes":
        """These rows, in this order."""
        return Mazes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def side(self) -> int:
        """n."""
        return isqrt(self.inputs.shape[1])


def search(passable: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Breadth-first search in N mazes at once.

    Args:
        passable: (N, n*n) bool. starts: (N,) int64, a cell of each; it is entered whatever it is.
    Returns:
        steps (N, n*n) int32 to each cell, -1 where none leads there; paths (N, n*n) float64: in how many ways with so
        many steps. That number is exact up to 2**53 and then rounded; it stays finite up to n = 500.
    """
    count, cells = passable.shape
    side = isqrt(cells)
    width = side + 2  # a border of walls, so that neighbours are at fixed distances
    bordered = np.zeros((count, width, width), bool)
    bordered[:, 1:-1, 1:-1] = passable.reshape(count, side, side)
    closed = ~bordered.ravel()
    steps = np.full(closed.size, -1, np.int32)
    paths = np.zeros(closed.size)
    rows, columns = np.divmod(starts, side)
    reached = np.arange(count) * width * width + (rows + 1) * width + columns + 1
    paths[reached] = 1
    distance = 0
    while reached.size:
        steps[reached] = distance
        closed[reached] = True
        distance += 1
        beside = (reached[:, None] + np.array([-width, -1, 1, width])).ravel()
        fresh = ~closed[beside]
        beside, ways = beside[fresh], np.repeat(paths[reached], 4)[fresh]
        reached, place = np.unique(beside, return_inverse=True)
        paths[reached] = np.bincount(place, ways, len(reached))

    def inside(bordered: np.ndarray) -> np.ndarray:
        return bordered.reshape(count, width, width)[:, 1:-1, 1:-1].reshape(count, cells)

    return inside(steps), inside(paths)


def has_ends(tokens: np.ndarray) -> np.ndarray:
    """(N,) bool: exactly one start and one goal."""
    return ((tokens == START).sum(axis=1) == 1) & ((tokens == GOAL).sum(axis=1) == 1)


def _reached(tokens: np.ndarray, passable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`search` from the start to the goal alone: steps (N,), paths (N,); -1 and 0 where there is no way, or no ends."""
    goals = (tokens == GOAL).argmax(axis=1)[:, None]
    steps, paths = (
        np.take_along_axis(found, goals, axis=1)[:, 0] for found in search(passable, (tokens == START).argmax(axis=1))
    )
    ends = has_ends(tokens)
    return np.where(ends, steps, -1).astype(np.int32), np.where(ends & (steps >= 0), paths, 0.0)


def solved(mazes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of mazes (N, n*n): the steps (N,) int32 of a shortest path, and the number (N,) float64 of shortest paths.

    -1 and 0 where there is none, or not one start and one goal. What is drawn into a maze counts as free.
    """
    return _reached(mazes, (mazes != WALL) & (mazes != 0))


def on_shortest_paths(mazes: np.ndarray) -> np.ndarray:
    """(N, n*n) bool: cells of mazes (N, n*n) with a path that some shortest path goes through, ends included."""
    passable = (mazes != WALL) & (mazes != 0)
    from_start, from_goal = (search(passable, (mazes == end).argmax(axis=1))[0] for end in (START, GOAL))
    return passable & (from_start >= 0) & (from_start + from_goal == solved(mazes)[0][:, None])


def with_random_paths(mazes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mazes (N, n*n) with a shortest path each drawn in, every one as likely as the other; without one, as they are."""
    count, cells = mazes.shape
    side = isqrt(cells)
    labels = mazes.copy()
    steps, paths = search((mazes != WALL) & (mazes != 0), (mazes == START).argmax(axis=1))
    places = (mazes == GOAL).argmax(axis=1)
    rows = np.flatnonzero(has_ends(mazes) & (np.take_along_axis(steps, places[:, None], axis=1)[:, 0] > 1))
    places = places[rows]
    while rows.size:
        row, column = np.divmod(places, side)
        beside = places[:, None] + np.array([-side, -1, 1, side])
        inside = np.stack([row > 0, column > 0, column < side - 1, row < side - 1], axis=1)
        beside = np.where(inside, beside, 0)
        back = inside & (steps[rows[:, None], beside] == steps[rows, places][:, None] - 1)
        ways = np.where(back, paths[rows[:, None], beside], 0.0).cumsum(axis=1)
        drawn = rng.random(len(rows))[:, None] * ways[:, -1:]
        places = np.take_along_axis(beside, (drawn >= ways).sum(axis=1)[:, None], axis=1)[:, 0]
        labels[rows, places] = PATH
        further = steps[rows, places] > 1
        rows, places = rows[further], places[further]
    return labels


@dataclass(frozen=True)
class Drawings:
    """What N answers are: kept, valid, shortest (N,) bool, and excess (N,) int64, where they are valid.

    kept: walls, start, goal and free cells are those of the maze, but that free cells may be marked. valid: kept, and
    start and goal are connected by marked cells. excess: cells marked beyond those of a shortest path. shortest: valid
    with an excess of 0, so that the marked cells are exactly those of one shortest path.
    """

    kept: np.ndarray
    valid: np.ndarray
    shortest: np.ndarray
    excess: np.ndarray


def judged(mazes: np.ndarray, answers: np.ndarray, steps: np.ndarray | None = None) -> Drawings:
    """Answers (N, n*n) to mazes (N, n*n), both tokens. steps: (N,) those of `solved`, where they are known."""
    marked = answers == PATH
    kept = ((answers == mazes) | (marked & (mazes == FREE))).all(axis=1)
    length = solved(mazes)[0] if steps is None else steps
    ends = (mazes == START) | (mazes == GOAL)
    valid = kept & (_reached(mazes, marked | ends)[0] >= 0)
    excess = marked.sum(axis=1) - (length - 1)
    return Drawings(kept, valid, valid & (excess == 0), excess)


def violations(answers: np.ndarray) -> np.ndarray:
    """(N,) int64: how far answers (N, n*n) are from mazes with a shortest path drawn in; 0 for those only.

    Starts and goals that are missing or too many, and padding; marked cells and ends with another number of marked
    neighbours than a path has, by how many; marked cells that a shortest path has more or less, and 1 without any path.
    (Cells with the right neighbours make a path from start to goal and closed loops, and of the length of a shortest
    path there is no loop.)
    """
    count, cells = answers.shape
    side = isqrt(cells)
    ends = (answers == START) | (answers == GOAL)
    marked = answers == PATH
    on = np.zeros((count, side + 2, side + 2), np.int64)
    on[:, 1:-1, 1:-1] = (marked | ends).reshape(count, side, side)
    beside = on[:, :-2, 1:-1] + on[:, 2:, 1:-1] + on[:, 1:-1, :-2] + on[:, 1:-1, 2:]
    wrong = np.abs(beside.reshape(count, cells) - np.where(marked, 2, 1))
    found = np.where(marked | ends, wrong, 0).sum(axis=1) + (answers == 0).sum(axis=1)
    for end in (START, GOAL):
        found += np.abs((answers == end).sum(axis=1) - 1)
    steps = solved(answers)[0]
    return found + np.where(steps >= 0, np.abs(marked.sum(axis=1) - (steps - 1)), 1)
