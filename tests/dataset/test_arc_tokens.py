"""ARC's tokens and views: equal to what the official functions made of the same rows and grids, and inverses exact."""

import json

import numpy as np
import pytest

from dataset import dihedral
from dataset.arc_tokens import (
    EOS,
    NUM_COLOURS,
    PAD,
    Grids,
    GridViews,
    canonical_tokens,
    cropped,
    grids_of,
    moved,
    read_view_name,
    tokens_of,
    turned,
    view_name,
)
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "golden" / "arc_units"
FUNCTIONS = json.loads((GOLDEN / "functions.json").read_text())


def grids(*rows: list[list[int]], side: int = 30) -> Grids:
    cells = np.zeros((len(rows), side, side), np.uint8)
    for number, grid in enumerate(rows):
        cells[number, : len(grid), : len(grid[0])] = grid
    shapes = np.array([[len(grid), len(grid[0])] for grid in rows])
    return Grids(cells, shapes[:, 0], shapes[:, 1])


def rows_of(found: Grids) -> list[list[list[int]]]:
    shapes = zip(found.cells, found.heights, found.widths, strict=True)
    return [cells[:height, :width].tolist() for cells, height, width in shapes]


def random_grids(count: int, side: int, seed: int = 0) -> Grids:
    rng = np.random.default_rng(seed)
    heights, widths = rng.integers(1, side + 1, (2, count))
    cells = rng.integers(0, NUM_COLOURS, (count, side, side)).astype(np.uint8)
    drawn = Grids(cells, heights, widths)
    return Grids(np.where(drawn.inside, cells, 0), heights, widths)


def random_views(count: int, seed: int = 1) -> GridViews:
    rng = np.random.default_rng(seed)
    colours = np.stack([np.concatenate([[0], 1 + rng.permutation(NUM_COLOURS - 1)]) for _ in range(count)])
    return GridViews(rng.integers(0, dihedral.COUNT, count), colours)


def assert_equal(first: Grids, second: Grids) -> None:
    for name in ("cells", "heights", "widths"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_crop_as_officially() -> None:
    expected = json.loads((GOLDEN / "crop_expected.json").read_text())
    found = cropped(np.load(GOLDEN / "crop_tokens.npy"), 30)
    assert np.column_stack([found.heights, found.widths]).tolist() == [one["shape"] for one in expected]
    nothing = [one["shape"][0] * one["shape"][1] == 0 for one in expected]
    for rows, one, none in zip(rows_of(found), expected, nothing, strict=True):
        assert none or rows == one["grid"]


def test_symmetries_as_officially() -> None:
    grid = FUNCTIONS["grid"]
    for number in range(dihedral.COUNT):
        image = turned(grids(grid), np.array([number]))
        assert rows_of(image) == [FUNCTIONS["dihedral"][str(number)]]
        back = turned(grids(grid), np.array([dihedral.INVERSE[number]]))
        assert rows_of(back) == [FUNCTIONS["inverse"][str(number)]]


def test_names_of_views_as_officially() -> None:
    for one in FUNCTIONS["inverse_aug"]:
        base, symmetry, colours = read_view_name(one["name"])
        back = GridViews(np.array([symmetry]), colours[None]).inverse()
        assert base == ("x|||y" if one["base"] == "x" else one["base"])  # officially cut at the first bar
        assert rows_of(back.apply(grids(FUNCTIONS["grid"]))) == [one["out"]]
    for name in FUNCTIONS["aug_draws"]["names"]:
        assert view_name(*read_view_name(name)) == name


@pytest.mark.parametrize("name", ["", "a|||t8|||0123456789", "a|||t1|||0123456788", "a|||t1|||01234", "a|||t1"])
def test_what_is_no_view_is_a_task(name: str) -> None:
    base, symmetry, colours = read_view_name(name)
    assert (base, symmetry, colours.tolist()) == (name, 0, list(range(NUM_COLOURS)))


def test_a_moved_pair_as_officially() -> None:
    """The grid and its transpose lie where the official draws put them, with the ends of the grid beside them."""
    with np.load(GOLDEN / "translate.npz") as file:
        official = np.stack([file["inp"], file["out"]])
    first = FUNCTIONS["translate"]["first_colour_cell"][0]
    pair = grids(FUNCTIONS["grid"], np.transpose(FUNCTIONS["grid"]).tolist())
    assert np.array_equal(tokens_of(pair, np.full(2, first // 30), np.full(2, first % 30)), official)
    assert_equal(grids_of(official, 30), pair)


@pytest.mark.parametrize("side", [1, 4, 7, 30])
def test_tokens_and_back(side: int) -> None:
    drawn = random_grids(100, side)
    tokens = tokens_of(drawn)
    assert_equal(cropped(tokens, side), drawn)
    canvas = tokens.reshape(-1, side, side)
    for cells, height, width in zip(canvas, drawn.heights, drawn.widths, strict=True):
        # The row below and the column to the right, and not their corner.
        assert (cells[height : height + 1, :width] == EOS).all() and (cells[:height, width : width + 1] == EOS).all()
        assert (cells == EOS).sum() == (height < side) * width + (width < side) * height
        assert (cells[height + 1 :] == PAD).all() and (cells[:, width + 1 :] == PAD).all()


def test_pairs_move_together_and_everywhere() -> None:
    inputs, outputs = random_grids(400, 5), random_grids(400, 5, seed=3)
    pair = tokens_of(inputs), tokens_of(outputs)
    images = moved(*pair, 5, np.random.default_rng(0))
    offsets = []
    for image, tokens, drawn in zip(images, pair, (inputs, outputs), strict=True):
        assert image.dtype == tokens.dtype
        found = grids_of(image, 5)
        assert_equal(found, drawn)
        coloured = image.reshape(-1, 5, 5) > EOS
        offsets.append(np.column_stack([coloured.any(axis=2).argmax(axis=1), coloured.any(axis=1).argmax(axis=1)]))
        # The ends of the grid where there is room for them, and nowhere else.
        below, right = offsets[-1][:, 0] + drawn.heights < 5, offsets[-1][:, 1] + drawn.widths < 5
        ends = (image == EOS).sum(axis=1)
        assert np.array_equal(ends, below * drawn.widths + right * drawn.heights)
    assert np.array_equal(*offsets)
    square = tokens_of(grids(*[[[1, 2], [3, 4]]] * 200, side=5))
    corners = moved(square, square, 5, np.random.default_rng(0))[1].reshape(-1, 5, 5) == 3
    assert len(np.unique(np.argwhere(corners)[:, 1:], axis=0)) == 16


def test_views_are_undone() -> None:
    drawn, views = random_grids(200, 6), random_views(200)
    image = views.apply(drawn)
    assert_equal(views.inverse().apply(image), drawn)
    for rows, image_rows, number, colours in zip(
        rows_of(drawn), rows_of(image), views.symmetries, views.colours, strict=True
    ):
        shown = colours[np.array(rows)]
        cases = [*(np.rot90(shown, k) for k in range(4)), np.fliplr(shown), np.flipud(shown), shown.T]
        cases.append(np.fliplr(np.rot90(shown)))
        assert image_rows == cases[number].tolist()


def test_views_share_a_canonical_form_and_others_do_not() -> None:
    """Against all images of all small grids: as many forms as classes."""
    side, colours = 2, 3
    cells = np.stack(np.meshgrid(*[range(colours)] * 4, indexing="ij"), -1).reshape(-1, side, side).astype(np.uint8)
    drawn = Grids(cells, np.full(len(cells), side), np.full(len(cells), side))
    classes: dict[bytes, set[bytes]] = {}
    exchanged = np.array([0, 2, 1])
    for grid, form in zip(cells, canonical_tokens(tokens_of(drawn), side), strict=True):
        turns = [*(np.rot90(grid, k) for k in range(4)), *(np.rot90(grid.T, k) for k in range(4))]
        orbit = min(min(image.tobytes(), exchanged[image].astype(np.uint8).tobytes()) for image in turns)
        classes.setdefault(orbit, set()).add(form.tobytes())
    assert all(len(forms) == 1 for forms in classes.values())
    assert len(set().union(*classes.values())) == len(classes)
    drawn, views = random_grids(200, 6), random_views(200)
    forms = canonical_tokens(tokens_of(drawn), 6)
    assert np.array_equal(canonical_tokens(tokens_of(views.apply(drawn)), 6), forms)
    moved_on = moved(tokens_of(drawn), tokens_of(drawn), 6, np.random.default_rng(0))[0]
    assert np.array_equal(canonical_tokens(moved_on, 6), forms)
