"""Equivalent Sudokus: one key, one class; others told apart, against enumeration of all symmetries."""

import numpy as np
import pytest

from dataset import sudoku_equivalence
from dataset.sudoku import Box, random_symmetries, tokens_from_boards
from dataset.sudoku_equivalence import SymmetryClasses, are_equivalent, equivalence_keys
from dataset.sudoku_sources import read_list
from dataset.tasks.plain import Task as PlainTask
from tests.dataset.canonical_form import canonical_form
from tests.dataset.folders import sudoku_task
from tests.dataset.sudoku_reference import RAW_LIST, shuffled_board

BOXES: list[Box] = [(2, 2), (2, 3), (3, 2), (3, 3)]
HIDDEN = [0.0, 0.05, 0.4, 0.7, 0.9, 1.0]  # up to filled grids and the empty board, which have the most ties


def boards_of(box: Box, count: int, rng: np.random.Generator) -> np.ndarray:
    """Boards (count, n*n) with shares of hidden cells from none to all."""
    boards = random_symmetries(count, box, rng).apply(np.array([shuffled_board(box, rng) for _ in range(count)]))
    boards[rng.random(boards.shape) < np.resize(HIDDEN, count)[:, None]] = 0
    return boards


def images_of(tokens: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
    return random_symmetries(len(tokens), box, rng).on_tokens().apply(tokens).astype(tokens.dtype)


@pytest.mark.parametrize("box", BOXES)
def test_images_have_the_key_and_the_class_of_their_puzzle(box: Box) -> None:
    rng = np.random.default_rng(sum(box))
    tokens = tokens_from_boards(boards_of(box, 48, rng))
    tokens[::7, :3] = 0  # padding stays padding
    images = images_of(tokens, box, rng)
    assert np.array_equal(equivalence_keys(images.astype(np.int64), box), equivalence_keys(tokens, box))
    classes = SymmetryClasses(box)
    assert np.array_equal(classes.add(tokens), classes.add(images))
    assert are_equivalent(tokens, images, box).all()
    assert sudoku_task(box).equivalence_keys(images).tolist() == equivalence_keys(tokens, box).tolist()


@pytest.mark.parametrize("box", [(2, 2), (2, 3)])
def test_classes_are_those_of_the_canonical_form(box: Box) -> None:
    """The second route enumerates all symmetries."""
    boards = boards_of(box, 300 if box == (2, 2) else 90, np.random.default_rng(5))
    forms = np.unique(canonical_form(boards, box), axis=0, return_inverse=True)[1].ravel()
    found = SymmetryClasses(box).add(tokens_from_boards(boards))
    assert np.array_equal(found[:, None] == found, forms[:, None] == forms)


def test_the_exact_test_alone_tells_boards_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one key for all, every pair is left to the exact test, ties and all."""
    box = (2, 2)
    boards = boards_of(box, 60, np.random.default_rng(6))
    forms = np.unique(canonical_form(boards, box), axis=0, return_inverse=True)[1].ravel()
    monkeypatch.setattr(sudoku_equivalence, "equivalence_keys", lambda tokens, box: np.zeros(len(tokens), np.uint64))
    found = SymmetryClasses(box).add(tokens_from_boards(boards))
    assert np.array_equal(found[:, None] == found, forms[:, None] == forms)


def test_what_is_no_symmetry_makes_another_class() -> None:
    """Rows exchanged across bands, a digit moved, a box that is not square turned, a blank made padding."""
    rng = np.random.default_rng(7)
    for box in BOXES:
        n = box[0] * box[1]
        tokens = tokens_from_boards(boards_of(box, 3, rng)[2:3])
        across = tokens.reshape(n, n).copy()
        across[[0, box[0]]] = across[[box[0], 0]]
        given = np.flatnonzero(tokens[0] > 1)
        moved = tokens.copy()
        moved[0, given[0]] = 1
        padded = tokens.copy()
        padded[0, np.flatnonzero(tokens[0] == 1)[0]] = 0
        others = [across.reshape(1, -1), moved, padded]
        if box[0] != box[1]:
            others.append(tokens.reshape(n, n).T.reshape(1, -1))
        classes = SymmetryClasses(box)
        found = [classes.add(each)[0] for each in [tokens, *others]]
        assert found[0] not in found[1:], box


def test_the_shipped_puzzles_are_all_inequivalent() -> None:
    """As their author says (Royle), of 49,151 puzzles with 17 clues."""
    tokens = read_list(RAW_LIST).tokens
    assert SymmetryClasses((3, 3)).add(tokens).tolist() == list(range(49_151))


def test_a_task_without_symmetries_goes_by_contents() -> None:
    rows = np.array([[1, 2, 3], [1, 2, 3], [3, 2, 1]], np.uint8)
    keys = PlainTask(3, 4).equivalence_keys(rows)
    assert keys.dtype == np.uint64 and keys[0] == keys[1] != keys[2]
    assert np.array_equal(keys, PlainTask(3, 4).equivalence_keys(rows.astype(np.int64)))
