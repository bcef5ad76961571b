"""Which puzzles train and which test: whole classes of puzzles equal up to symmetry, in an order that a seed draws."""

from collections.abc import Sequence

import numpy as np

from errors import UserError

DEFAULT_TEST_SIZE = 1000
_SPLIT_STREAM = 0x53504C  # keeps these draws apart from others made with the same seed


def concatenated(parts: Sequence[object], *names: str) -> dict[str, np.ndarray]:
    """The arrays of these names of all parts, one after the other along the first axis."""
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}


def first_rows(boards: np.ndarray) -> np.ndarray:
    """(N,) int64: for each board (N, cells) the first row that holds the same."""
    whole = np.ascontiguousarray(boards).view(np.dtype((np.void, boards.shape[1]))).ravel()
    _, first, group = np.unique(whole, return_index=True, return_inverse=True)
    return first[group]


def permutation(seed: int, count: int) -> np.ndarray:
    """The order that a seed brings rows into, (count,) int64."""
    return np.random.default_rng([_SPLIT_STREAM, seed]).permutation(count)


def size_of_test(asked: int | None, available: int) -> int:
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


def together(order: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of rows with those of a class next to the first of it, and the class of each in it.

    classes (N,) int64: of each row in `order` (N,), counted from 0.
    """
    first = np.unique(classes, return_index=True)[1][classes]
    stable = first.argsort(kind="stable")
    return order[stable], classes[stable]


def test_part(classes: np.ndarray, size: int) -> np.ndarray:
    """(N,) bool: rows of the first classes that fit into `size` rows, whole ones; the smallest where none fits.

    Rows of a class stand next to each other in `classes` (N,).
    """
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    counts = np.diff(starts, append=len(classes))
    taken = np.zeros(len(starts), bool)
    room = size
    for number, count in enumerate(counts.tolist()):
        taken[number] = count <= room
        room -= count * bool(taken[number])
        if not room:
            break
    if len(counts) and not taken.any():
        taken[counts.argmin()] = True
    return np.repeat(taken, counts)


def said_of(classes: np.ndarray) -> list[str]:
    """A note where puzzles are equal up to symmetry, for classes (N,) of different puzzles."""
    count = len(classes) - len(np.unique(classes))
    return [f"{count:,} puzzles are equal to another up to symmetry and stand on the same side"] if count else []


# pytest collects what is called test_*; this is not one.
test_part.__test__ = False  # type: ignore[attr-defined]
