"""Symmetries undone, and on tokens: all of them on 4x4, many drawn ones on larger boards."""

from itertools import permutations, product

import numpy as np
import pytest

from dataset.sudoku import BOXES, Symmetries, random_symmetries, side, tokens_from_boards


def all_of_4x4() -> Symmetries:
    lines = [
        (*(2 * a + i for i in first), *(2 * (1 - a) + i for i in second))
        for a, first, second in product((0, 1), permutations(range(2)), permutations(range(2)))
    ]
    every = list(product((False, True), lines, lines, permutations(range(1, 5))))
    transpose, rows, columns, digits = (np.array(part) for part in zip(*every, strict=True))
    with_blank = np.concatenate([np.zeros((len(every), 1)), digits], axis=1).astype(np.uint8)
    return Symmetries(transpose, rows, columns, with_blank)


CASES = {"every 4x4": all_of_4x4()} | {
    name: random_symmetries(2000, box, np.random.default_rng(7)) for name, box in BOXES.items()
}


def boards_for(symmetries: Symmetries, seed: int) -> np.ndarray:
    count, n = symmetries.rows.shape
    return np.random.default_rng(seed).integers(0, n + 1, (count, n * n)).astype(np.uint8)


def test_the_enumeration_is_the_whole_group() -> None:
    symmetries = CASES["every 4x4"]
    marked = np.arange(16)
    cells = np.unique(
        np.take_along_axis(np.broadcast_to(marked, symmetries.sources().shape), symmetries.sources(), 1), axis=0
    )
    assert len(cells) == 128 and len(symmetries.rows) == 128 * 24


@pytest.mark.parametrize("name", CASES)
def test_inverse_undoes_both_ways(name: str) -> None:
    symmetries = CASES[name]
    boards, inverse = boards_for(symmetries, 1), symmetries.inverse()
    moved = symmetries.apply(boards)
    assert np.array_equal(inverse.apply(moved), boards) and moved.dtype == np.uint8
    assert np.array_equal(symmetries.apply(inverse.apply(boards)), boards)
    twice = inverse.inverse()
    for part in ("transpose", "rows", "columns", "digits"):
        assert np.array_equal(getattr(twice, part), getattr(symmetries, part))
    assert (moved != boards).any()


@pytest.mark.parametrize("name", CASES)
def test_sources_are_the_cells_by_definition(name: str) -> None:
    symmetries = CASES[name]
    n = symmetries.rows.shape[1]
    boards, moved = boards_for(symmetries, 2), symmetries.apply(boards_for(symmetries, 2))
    for k in range(0, len(boards), 97):
        grid = boards[k].reshape(n, n)
        turned = grid.T if symmetries.transpose[k] else grid
        for i, j in product(range(n), repeat=2):
            digit = turned[symmetries.rows[k, i], symmetries.columns[k, j]]
            assert moved[k, i * n + j] == symmetries.digits[k, digit]
            assert boards[k, symmetries.sources()[k, i * n + j]] == digit


@pytest.mark.parametrize("name", CASES)
def test_tokens_move_as_their_boards(name: str) -> None:
    symmetries = CASES[name]
    boards = boards_for(symmetries, 3)
    tokens = tokens_from_boards(boards)
    on_tokens = symmetries.on_tokens()
    assert np.array_equal(on_tokens.apply(tokens), tokens_from_boards(symmetries.apply(boards)))
    tokens[:, ::3] = 0  # padding
    moved = on_tokens.apply(tokens)
    assert np.array_equal(on_tokens.inverse().apply(moved), tokens)
    assert np.array_equal(np.sort(moved == 0, axis=1), np.sort(tokens == 0, axis=1))
    assert on_tokens.digits.shape == (len(boards), side_of(symmetries) + 2) and moved.dtype == np.uint8


def side_of(symmetries: Symmetries) -> int:
    return symmetries.rows.shape[1]


def test_one_box_and_its_side() -> None:
    assert {name: side_of(CASES[name]) for name in BOXES} == {name: side(box) for name, box in BOXES.items()}
