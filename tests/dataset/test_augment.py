import numpy as np
import pytest

from dataset.tasks.sudoku import augment_sudoku
from tests.dataset.folders import solved_board

BOXES = [(2, 2), (2, 3), (3, 2), (3, 3)]


def puzzles(box: tuple[int, int], count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`count` copies of one solved board as tokens, each with its own blanks."""
    labels = np.tile(solved_board(box) + 1, (count, 1)).astype(np.uint8)
    inputs = labels.copy()
    inputs[np.random.default_rng(seed).random(inputs.shape) < 0.6] = 1
    return inputs, labels


def is_valid(tokens: np.ndarray, box: tuple[int, int]) -> bool:
    """Every row, column and box of every board holds every digit once."""
    rows, cols = box
    n = rows * cols
    boards = tokens.reshape(-1, n, n)
    boxes = boards.reshape(-1, n // rows, rows, n // cols, cols).transpose(0, 1, 3, 2, 4).reshape(-1, n, n)
    expected = np.arange(2, n + 2)
    return all((np.sort(part, axis=2) == expected).all() for part in (boards, boards.transpose(0, 2, 1), boxes))


@pytest.mark.parametrize("box", BOXES)
def test_solutions_stay_solutions_of_their_puzzles(box: tuple[int, int]) -> None:
    inputs, labels = puzzles(box, 500)
    kept = inputs.copy(), labels.copy()
    new_inputs, new_labels = augment_sudoku(inputs, labels, box, np.random.default_rng(1))
    assert is_valid(labels, box) and is_valid(new_labels, box)
    assert new_inputs.dtype == new_labels.dtype == np.uint8
    blank = new_inputs == 1
    assert np.array_equal(new_inputs[~blank], new_labels[~blank])
    assert np.array_equal(blank.sum(axis=1), (inputs == 1).sum(axis=1))
    assert np.array_equal(inputs, kept[0]) and np.array_equal(labels, kept[1]), "arguments were changed"


@pytest.mark.parametrize("box", BOXES)
def test_rows_get_their_own_symmetry(box: tuple[int, int]) -> None:
    labels = np.tile(solved_board(box) + 1, (200, 1))
    _, new_labels = augment_sudoku(labels, labels, box, np.random.default_rng(2))
    # A 4x4 board has 288 images, the others thousands.
    assert len(np.unique(new_labels, axis=0)) > (100 if box == (2, 2) else 190)


@pytest.mark.parametrize(("box", "arrangements"), [((2, 2), 2 * 8 * 8), ((2, 3), 48 * 72)])
def test_every_arrangement_is_reached_equally_often(box: tuple[int, int], arrangements: int) -> None:
    """Each order of strips and of lines inside them, times two where boxes are square.

    4x4: 2 bands of 2 rows give 2·2·2 orders, stacks as many, and transposition. 6x6: 3 bands of 2 rows
    6·2³, 2 stacks of 3 columns 2·6². Pads and blanks are not relabelled: in two patterns of them no
    arrangement looks like another.
    """
    draws = 30 * arrangements
    side = box[0] * box[1]
    patterns = np.random.default_rng(12).integers(0, 2, (2, side * side), dtype=np.uint8)
    first, second = (np.tile(pattern, (draws, 1)) for pattern in patterns)
    images = np.concatenate(augment_sudoku(first, second, box, np.random.default_rng(3)), axis=1)
    counts = np.unique(images, axis=0, return_counts=True)[1]
    assert counts.size == arrangements
    chi_square = float(((counts - 30) ** 2 / 30).sum())
    assert abs(chi_square - (arrangements - 1)) < 5 * np.sqrt(2 * arrangements)


def test_every_relabelling_is_reached() -> None:
    """The digits of a board whose cells are all alike show the relabelling alone: 6! of them for 6x6."""
    boards = np.repeat(np.arange(2, 8, dtype=np.uint8), 6).reshape(1, 36).repeat(12_000, axis=0)
    _, moved = augment_sudoku(boards, boards, (2, 3), np.random.default_rng(3))
    # Rows of these boards are constant; columns can be read off any place.
    orders = np.unique(moved.reshape(-1, 6, 6)[:, :, 0], axis=0)
    assert len(orders) == 720


def test_box_shapes_are_respected() -> None:
    """6x6: cells of one 2x3 box stay together in one box, and rows stay rows (no transposition)."""
    box_of = np.array([(i // 2) * 2 + j // 3 for i in range(6) for j in range(6)], dtype=np.uint8) + 2
    row_of = np.repeat(np.arange(6, dtype=np.uint8), 6) + 2
    for pattern, expected_rows in ((box_of, False), (row_of, True)):
        tokens = np.tile(pattern, (300, 1))
        moved = augment_sudoku(tokens, tokens, (2, 3), np.random.default_rng(4))[0].reshape(-1, 6, 6)
        if expected_rows:
            assert (moved == moved[:, :, :1]).all()
        else:
            boxes = moved.reshape(-1, 3, 2, 2, 3).transpose(0, 1, 3, 2, 4).reshape(-1, 6, 6)
            assert (boxes == boxes[:, :, :1]).all()


def test_same_generator_same_result() -> None:
    inputs, labels = puzzles((3, 3), 10)
    first = augment_sudoku(inputs, labels, (3, 3), np.random.default_rng(5))
    again = augment_sudoku(inputs, labels, (3, 3), np.random.default_rng(5))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])


def test_pads_stay_and_wide_dtypes_are_kept() -> None:
    zeros = np.zeros((3, 16), dtype=np.int64)
    new_inputs, new_labels = augment_sudoku(zeros, zeros + 1, (2, 2), np.random.default_rng(6))
    assert new_inputs.dtype == np.int64 and (new_inputs == 0).all() and (new_labels == 1).all()
    empty = np.zeros((0, 16), dtype=np.uint8)
    assert augment_sudoku(empty, empty, (2, 2), np.random.default_rng(7))[0].shape == (0, 16)


@pytest.mark.parametrize("bad", [np.full((2, 16), 6), np.full((2, 16), -1), np.ones((2, 36))])
def test_other_boards_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError):
        augment_sudoku(bad.astype(np.int64), bad.astype(np.int64), (2, 2), np.random.default_rng(8))
