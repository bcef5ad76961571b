"""Mazes: shortest paths against a second search, their numbers in closed form, and what drawings are worth."""

from collections import Counter, deque
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset import dihedral
from dataset.maze import (
    CHARACTERS,
    FREE,
    GOAL,
    PATH,
    START,
    WALL,
    judged,
    on_shortest_paths,
    search,
    solved,
    violations,
    with_random_paths,
)

CODES = {character: token for token, character in enumerate(CHARACTERS, 1)}


def tokens(*rows: str) -> np.ndarray:
    """(1, n*n) of a maze that is drawn."""
    return np.array([[CODES[cell] for cell in "".join(rows)]], np.uint8)


def random_mazes(seed: int, count: int, side: int, density: float = 0.35) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mazes = np.where(rng.random((count, side * side)) < density, WALL, FREE).astype(np.uint8)
    for maze in mazes:
        maze[rng.choice(side * side, 2, replace=False)] = START, GOAL
    return mazes


def every_shortest_path(maze: np.ndarray) -> list[frozenset[int]]:
    """The cells between start and goal of every shortest path, found one by one."""
    side = int(len(maze) ** 0.5)
    start, goal = (int(np.flatnonzero(maze == end)[0]) for end in (START, GOAL))

    def beside(cell: int) -> list[int]:
        row, column = divmod(cell, side)
        near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        inside = [r * side + c for r, c in near if 0 <= r < side and 0 <= c < side]
        return [place for place in inside if maze[place] != WALL]

    steps = {start: 0}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        for near in beside(cell):
            if near not in steps:
                steps[near] = steps[cell] + 1
                queue.append(near)

    def back(cell: int) -> list[list[int]]:
        if cell == start:
            return [[]]
        return [[*path, cell] for near in beside(cell) if steps.get(near) == steps[cell] - 1 for path in back(near)]

    return [frozenset(path[:-1]) for path in back(goal)] if goal in steps else []


@given(seed=st.integers(0, 2**32), side=st.integers(2, 6))
def test_steps_and_numbers_of_paths_are_those_of_another_search(seed: int, side: int) -> None:
    mazes = random_mazes(seed, 4, side)
    steps, paths = solved(mazes)
    on_some = on_shortest_paths(mazes)
    for row, maze in enumerate(mazes):
        each = every_shortest_path(maze)
        assert paths[row] == len(each)
        assert steps[row] == (len(each[0]) + 1 if each else -1)
        if each:
            ends = np.flatnonzero((maze == START) | (maze == GOAL)).tolist()
            assert set(np.flatnonzero(on_some[row])) == set().union(*each, ends)


@pytest.mark.parametrize("side", [2, 3, 30, 200])
def test_an_empty_square_has_as_many_paths_as_the_binomial(side: int) -> None:
    maze = np.full((1, side * side), FREE, np.uint8)
    maze[0, 0], maze[0, -1] = START, GOAL
    (steps,), (paths,) = solved(maze)
    assert steps == 2 * (side - 1) and paths == pytest.approx(comb(2 * side - 2, side - 1), rel=1e-12)
    if side <= 3:
        assert paths == comb(2 * side - 2, side - 1)


def test_a_search_leaves_no_maze_for_the_next() -> None:
    """Cells at the edges of neighbouring mazes are no neighbours."""
    passable = np.zeros((3, 9), bool)
    passable[1] = True
    steps, paths = search(passable, np.array([4, 0, 4]))
    assert steps[1].tolist() == [0, 1, 2, 1, 2, 3, 2, 3, 4] and paths[1].tolist() == [1, 1, 1, 1, 2, 3, 1, 3, 6]
    for row in (0, 2):
        assert steps[row].tolist() == [-1] * 4 + [0] + [-1] * 4 and paths[row].sum() == 1


@pytest.mark.parametrize(
    "rows", [("S  ", "   ", "   "), ("  G", "   ", "   "), ("S S", "   ", "  G"), ("S#G", "## ", "   ")]
)
def test_mazes_that_cannot_be_solved(rows: tuple[str, ...]) -> None:
    maze = tokens(*rows)
    assert [found.tolist() for found in solved(maze)] == [[-1], [0.0]]
    assert np.array_equal(with_random_paths(maze, np.random.default_rng(0)), maze)
    assert not judged(maze, maze).valid[0] and violations(maze)[0] > 0


@given(seed=st.integers(0, 2**32), side=st.integers(2, 7))
def test_what_is_drawn_is_a_shortest_path(seed: int, side: int) -> None:
    mazes = random_mazes(seed, 6, side)
    steps, _ = solved(mazes)
    labels = with_random_paths(mazes, np.random.default_rng(seed))
    drawings = judged(mazes, labels)
    assert np.array_equal(drawings.shortest, steps > 0) and np.array_equal(drawings.valid, steps > 0)
    assert drawings.kept.all() and (drawings.excess[steps > 0] == 0).all()
    for maze, label, length in zip(mazes, labels, steps, strict=True):
        if length > 0:
            assert frozenset(np.flatnonzero(label == PATH).tolist()) in every_shortest_path(maze)


def test_every_shortest_path_is_as_likely() -> None:
    """Of an open 4x4 square: 20 paths, each 5 % of the draws, to four standard deviations."""
    maze = tokens("S   ", "    ", "    ", "   G")
    drawn = with_random_paths(np.repeat(maze, 20_000, axis=0), np.random.default_rng(0))
    counts = Counter(row.tobytes() for row in drawn)
    assert len(counts) == 20
    assert max(abs(count - 1000) for count in counts.values()) < 4 * (20_000 * 0.05 * 0.95) ** 0.5


MAZE = ("S #  ", "     ", " ## #", "   # ", "##  G")


@pytest.mark.parametrize(
    ("answer", "kept", "valid", "shortest", "excess"),
    [
        (("S #  ", "o    ", "o## #", "ooo# ", "##ooG"), True, True, True, 0),
        (("So#  ", "oo   ", "o## #", "ooo# ", "##ooG"), True, True, False, 2),  # a way round the first steps
        (("S #  ", "o   o", "o## #", "ooo# ", "##ooG"), True, True, False, 1),  # a mark beside the path
        (("So#oo", "ooooo", "o##o#", "ooo#o", "##ooG"), True, True, False, 9),  # every free cell
        (("S #  ", "o    ", "o## #", "o o# ", "##ooG"), True, False, False, None),  # a cell is missing
        (("S #  ", "     ", " ## #", "   # ", "##  G"), True, False, False, None),  # nothing is drawn
        (("S #  ", "o    ", "o## #", "oo # ", "##ooG"), True, False, False, None),  # a corner is cut
        (("S #  ", "o    ", "o## #", "ooo# ", "#oooG"), False, False, False, None),  # through a wall
        (("S    ", "o    ", "o## #", "ooo# ", "##ooG"), False, False, False, None),  # a wall is gone
        (("S #  ", "o    ", "o## #", "ooo##", "##ooG"), False, False, False, None),  # a wall more
        (("o #  ", "o    ", "o## #", "ooo# ", "##ooG"), False, False, False, None),  # the start is gone
        (("S #  ", "o    ", "o## #", "ooo# ", "##oGG"), False, False, False, None),  # two goals
    ],
)
def test_drawings(answer: tuple[str, ...], kept: bool, valid: bool, shortest: bool, excess: int | None) -> None:
    drawn = tokens(*answer)
    for source in dihedral.sources(5):
        found = judged(tokens(*MAZE)[:, source], drawn[:, source])
        assert (found.kept[0], found.valid[0], found.shortest[0]) == (kept, valid, shortest)
        assert excess is None or found.excess[0] == excess
        if kept:
            assert (violations(drawn[:, source])[0] == 0) == shortest


def test_padding_is_no_maze() -> None:
    answer = tokens("S #  ", "o    ", "o## #", "ooo# ", "##ooG")
    answer[0, 24] = 0
    assert not judged(tokens(*MAZE), answer).kept[0] and violations(answer)[0] > 0


@given(seed=st.integers(0, 2**32))
def test_no_rule_is_broken_by_shortest_paths_and_by_nothing_else(seed: int) -> None:
    """All drawings of a small maze: those without violations are its shortest paths."""
    maze = random_mazes(seed, 1, 4, 0.3)
    free = np.flatnonzero(maze[0] == FREE)[:9]
    answers = np.repeat(maze, 2 ** len(free), axis=0)
    answers[:, free] = np.where(np.arange(len(answers))[:, None] >> np.arange(len(free)) & 1, PATH, FREE)
    found = {frozenset(np.flatnonzero(row == PATH).tolist()) for row in answers[violations(answers) == 0]}
    assert found == {path for path in every_shortest_path(maze[0]) if path <= set(free.tolist())}
    assert np.array_equal(judged(np.repeat(maze, len(answers), axis=0), answers).shortest, violations(answers) == 0)


def test_a_loop_beside_a_path_is_seen() -> None:
    """Every cell has the neighbours that a path has, and yet more is marked than one."""
    answer = tokens("SoG  ", "     ", "  ooo", "  o o", "  ooo")
    assert violations(answer)[0] == 8
