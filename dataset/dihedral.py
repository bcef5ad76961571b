"""The eight symmetries of a square, numbered as the official builders of mazes and ARC tasks do.

0 is the identity, 1 to 3 turn by 90, 180 and 270 degrees (`np.rot90`), 4 exchanges left and right, 5 top and bottom,
6 transposes, 7 mirrors on the other diagonal.
"""

from functools import lru_cache

import numpy as np

COUNT = 8
INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
EXCHANGE_SIDES = (1, 3, 6, 7)  # those that make rows columns


def images(squares: np.ndarray) -> np.ndarray:
    """(8, ..., n, n): all images of squares (..., n, n), in the order of their numbers."""
    turned = [np.rot90(squares, k, axes=(-2, -1)) for k in range(4)]
    mirrored = [np.flip(squares, -1), np.flip(squares, -2), np.swapaxes(squares, -1, -2), np.flip(turned[1], -1)]
    return np.stack([*turned, *mirrored])


@lru_cache
def sources(side: int) -> np.ndarray:
    """(8, n*n) int64: image number k of a row (n*n,) is row[sources[k]]."""
    return images(np.arange(side * side).reshape(side, side)).reshape(COUNT, side * side)


def smallest_images(rows: np.ndarray, side: int) -> np.ndarray:
    """(N, n*n) of rows (N, n*n) uint8: of each the image that is the first by its bytes; equal for those alike."""
    smallest = rows.copy()
    for source in sources(side)[1:]:
        smallest = first_by_bytes(smallest, rows[:, source])
    return smallest


def first_by_bytes(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, S) of rows and others (N, S) uint8: of each two the one that comes first by its bytes."""
    first = (rows != others).argmax(axis=1)[:, None]
    less = np.take_along_axis(others, first, axis=1) < np.take_along_axis(rows, first, axis=1)
    return np.where(less, others, rows)


@lru_cache
def products() -> np.ndarray:
    """(8, 8) int64: products()[a, b] is the number of the symmetry that does b, then a."""
    table = sources(2)  # on a square of four cells all eight differ
    numbers = {source.tobytes(): number for number, source in enumerate(table)}
    return np.array([[numbers[table[b][table[a]].tobytes()] for b in range(COUNT)] for a in range(COUNT)])
