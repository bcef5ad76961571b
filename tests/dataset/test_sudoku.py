"""Boards, symmetries and the canonical form, against enumeration."""

from itertools import combinations, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.sudoku import (
    BOXES,
    board_text,
    boards_from_tokens,
    has_conflict,
    is_solution,
    number_by_appearance,
    parse_board,
    random_symmetries,
    side,
    tokens_from_boards,
    units,
)
from dataset.sudoku_solver import solve
from tests.dataset.canonical_form import canonical_form, num_geometric_symmetries
from tests.dataset.sudoku_reference import all_solutions, peers_of, shuffled_board

SIZES = sorted(BOXES.values())


def partial_boards(box: tuple[int, int], count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    boards = np.array([shuffled_board(box, rng) for _ in range(count)])
    boards = random_symmetries(count, box, rng).apply(boards)
    boards[rng.random(boards.shape) < 0.6] = 0
    return boards


def brute_force_class(board: np.ndarray, box: tuple[int, int]) -> set[bytes]:
    """Every geometric image with digits in order of appearance, by loops."""
    rows, columns = box
    n = side(box)

    def lines(blocks: int, size: int) -> list[list[int]]:
        return [
            [order[b] * size + inner[b][k] for b in range(blocks) for k in range(size)]
            for order in permutations(range(blocks))
            for inner in product(list(permutations(range(size))), repeat=blocks)
        ]

    grid = board.reshape(n, n)
    images = set()
    for turned in [grid, grid.T] if rows == columns else [grid]:
        for r in lines(columns, rows):
            for c in lines(rows, columns):
                names: dict[int, int] = {0: 0}
                flat = turned[r][:, c].ravel().tolist()
                images.add(bytes(names.setdefault(digit, len(names)) for digit in flat))
    return images


@pytest.mark.parametrize("box", SIZES)
def test_text_and_tokens_round_trip(box: tuple[int, int]) -> None:
    for board in partial_boards(box, 5, seed=0):
        for blank in ".0":
            assert np.array_equal(parse_board(board_text(board, blank), box), board)
        tokens = tokens_from_boards(board)
        assert tokens.min() >= 1 and tokens.max() <= side(box) + 1 and tokens.dtype == np.uint8
        assert np.array_equal(boards_from_tokens(tokens), board)


@pytest.mark.parametrize("text", ["1" * 80, "1" * 82, "x" + "." * 80, "٣" + "." * 80])
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_board(text)


@pytest.mark.parametrize("box", SIZES)
def test_units_make_the_peers(box: tuple[int, int]) -> None:
    peers: list[set[int]] = [set() for _ in range(side(box) ** 2)]
    for unit in units(box).tolist():
        for cell in unit:
            peers[cell] |= set(unit) - {cell}
    assert peers == peers_of(box)


@pytest.mark.parametrize("box", SIZES)
def test_validity(box: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    grids = np.array([shuffled_board(box, rng) for _ in range(20)])
    assert is_solution(grids, box).all() and not has_conflict(grids, box).any()
    spoiled = grids.copy()
    spoiled[:, 0] = spoiled[:, 1]
    assert has_conflict(spoiled, box).all() and not is_solution(spoiled, box).any()
    blank = grids.copy()
    blank[:, 5] = 0
    assert not has_conflict(blank, box).any() and not is_solution(blank, box).any()
    assert not is_solution(np.full((1, side(box) ** 2), side(box) + 1, np.uint8), box).any()


@pytest.mark.parametrize("box", SIZES)
def test_symmetries_preserve_solutions_and_act_alike_on_puzzle_and_solution(box: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    grid = shuffled_board(box, rng)
    puzzle = np.where(rng.random(len(grid)) < 0.5, grid, 0).astype(np.uint8)
    symmetries = random_symmetries(300, box, rng)
    puzzles, grids = symmetries.apply(puzzle), symmetries.apply(grid)
    assert is_solution(grids, box).all()
    assert ((puzzles == 0) | (puzzles == grids)).all()
    assert ((puzzles != 0).sum(axis=1) == (puzzle != 0).sum()).all()
    counts = solve(puzzles, box).num_solutions
    assert (counts == solve(puzzle[None], box).num_solutions[0]).all()
    assert symmetries.transpose.any() == (box[0] == box[1])


def test_random_symmetries_reach_every_4x4_image() -> None:
    rng = np.random.default_rng(0)
    marked = np.arange(16, dtype=np.uint8)  # cells as labels: counts geometric symmetries only
    symmetries = random_symmetries(6000, (2, 2), rng)
    digits = np.broadcast_to(np.arange(16, dtype=np.uint8), (6000, 16))
    moved = type(symmetries)(symmetries.transpose, symmetries.rows, symmetries.columns, digits).apply(marked)
    assert len(np.unique(moved, axis=0)) == num_geometric_symmetries((2, 2)) == 128
    assert len(np.unique(symmetries.digits, axis=0)) == 24


def test_number_of_6x6_symmetries() -> None:
    assert num_geometric_symmetries((2, 3)) == 3456


def test_number_by_appearance() -> None:
    assert number_by_appearance(np.array([[0, 4, 2, 0, 4, 1]], np.uint8), 4).tolist() == [[0, 1, 2, 0, 1, 3]]


@pytest.mark.parametrize("box", [(2, 2), (2, 3)])
def test_canonical_form_is_a_member_of_the_class_and_agrees_with_enumeration(box: tuple[int, int]) -> None:
    boards = partial_boards(box, 12, seed=4)
    forms = canonical_form(boards, box)
    for board, form in zip(boards, forms, strict=True):
        images = brute_force_class(board, box)
        assert form.tobytes() in images
        # The chosen one by its definition: largest pattern of givens, then smallest digits.
        best = min(images, key=lambda image: ([-(digit > 0) for digit in image], image))
        assert form.tobytes() == best


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), box=st.sampled_from([(2, 2), (2, 3), (3, 2)]))
def test_canonical_form_is_invariant(seed: int, box: tuple[int, int]) -> None:
    boards = partial_boards(box, 20, seed)
    moved = random_symmetries(20, box, np.random.default_rng(seed)).apply(boards)
    forms = canonical_form(boards, box)
    assert np.array_equal(canonical_form(moved, box), forms)
    assert np.array_equal(canonical_form(forms, box), forms)
    assert np.array_equal(canonical_form(boards, box, chunk=3), forms)


def test_canonical_form_separates_inequivalent_boards() -> None:
    boards = partial_boards((2, 2), 60, seed=9)
    classes = [brute_force_class(board, (2, 2)) for board in boards]
    forms = canonical_form(boards, (2, 2))
    for i, j in combinations(range(len(boards)), 2):
        assert np.array_equal(forms[i], forms[j]) == (classes[i] == classes[j])


def test_canonical_form_edge_cases() -> None:
    assert canonical_form(np.zeros((0, 36), np.uint8), (2, 3)).shape == (0, 36)
    assert not canonical_form(np.zeros((1, 36), np.uint8), (2, 3)).any()
    with pytest.raises(ValueError):
        canonical_form(np.zeros((1, 81), np.uint8), (3, 3))


def test_there_are_36_inequivalent_minimal_4x4_puzzles() -> None:
    grids = np.array(all_solutions([0] * 16, (2, 2)), np.uint8)
    assert len(grids) == 288
    _, representatives = np.unique(canonical_form(grids, (2, 2)), axis=0, return_index=True)
    assert len(representatives) == 2
    masks = np.arange(1 << 16)
    kept = (masks[:, None] >> np.arange(16)) & 1
    minimal = []
    for grid in grids[representatives]:
        boards = (kept * grid).astype(np.uint8)
        few = np.flatnonzero(kept.sum(axis=1) <= 7)  # minimal puzzles have at most six clues
        unique = np.zeros(1 << 16, bool)
        unique[few] = solve(boards[few], (2, 2)).unique
        thinner = np.zeros(1 << 16, bool)
        for cell in range(16):
            has = kept[:, cell] == 1
            thinner[has] |= unique[masks[has] ^ (1 << cell)]
        assert not (unique & ~thinner & (kept.sum(axis=1) == 7)).any()
        minimal.append(boards[unique & ~thinner])
    forms = np.unique(canonical_form(np.concatenate(minimal), (2, 2)), axis=0)
    assert len(forms) == 36
    assert np.bincount((forms != 0).sum(axis=1)).tolist() == [0, 0, 0, 0, 13, 22, 1]
