"""The symmetries of a square: their numbers, inverses, and a form that images share."""

import numpy as np
import pytest

from dataset import dihedral


def official(square: np.ndarray, number: int) -> np.ndarray:
    """As the official builders write it, case by case."""
    cases = (
        square, np.rot90(square), np.rot90(square, k=2), np.rot90(square, k=3),
        np.fliplr(square), np.flipud(square), square.T, np.fliplr(np.rot90(square)),
    )  # fmt: skip
    return cases[number]


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_numbers_and_inverses(side: int) -> None:
    square = np.arange(side * side).reshape(side, side) * 3 + 1
    for number, source in enumerate(dihedral.sources(side)):
        image = square.ravel()[source]
        assert np.array_equal(image.reshape(side, side), official(square, number))
        assert np.array_equal(image[dihedral.sources(side)[dihedral.INVERSE[number]]], square.ravel())
    if side > 1:
        assert len({source.tobytes() for source in dihedral.sources(side)}) == dihedral.COUNT


def test_images_of_many_squares() -> None:
    squares = np.random.default_rng(0).integers(0, 9, (4, 3, 3))
    found = dihedral.images(squares)
    for number in range(dihedral.COUNT):
        assert all(np.array_equal(found[number, k], official(squares[k], number)) for k in range(4))


def test_images_share_their_smallest() -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 3, (50, 9)).astype(np.uint8)
    smallest = dihedral.smallest_images(rows, 3)
    for row, found in zip(rows, smallest, strict=True):
        assert found.tobytes() == min(row[source].tobytes() for source in dihedral.sources(3))
    for source in dihedral.sources(3):
        assert np.array_equal(dihedral.smallest_images(rows[:, source], 3), smallest)
