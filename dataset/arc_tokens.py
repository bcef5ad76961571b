"""ARC's token form on a square canvas of any side, and the views of a task: dihedral images with recoloured cells.

Token 0 is padding, 1 the end of the grid: on the row below it and the column to its right, not on their corner, and
none where the grid ends with the canvas. Colour c is token 2 + c; 0 is black. Officially the canvas has side 30.
"""

import re
from dataclasses import dataclass

import numpy as np

from dataset import dihedral

PAD, EOS, FIRST_COLOUR, NUM_COLOURS = 0, 1, 2, 10
VOCAB_SIZE = FIRST_COLOUR + NUM_COLOURS
# In pictures: of the tokens those of arcprize.org for colours 0 to 9, after white and a light grey.
TOKEN_COLOURS = (
    *("#ffffff", "#e8e8e8", "#000000", "#0074d9", "#ff4136", "#2ecc40"),
    *("#ffdc00", "#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25"),
)
_VIEW_NAME = re.compile(r"(?s)(.*)\|\|\|t([0-7])\|\|\|([0-9]{10})")


@dataclass(frozen=True)
class Grids:
    """N grids of any height and width: cells (N, side, side) uint8 colours, 0 outside; heights, widths (N,) int64."""

    cells: np.ndarray
    heights: np.ndarray
    widths: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, rows: np.ndarray | slice) -> "Grids":
        return Grids(self.cells[rows], self.heights[rows], self.widths[rows])

    @property
    def inside(self) -> np.ndarray:
        """(N, side, side) bool: cells of the grid."""
        return _rectangle(self.heights, self.widths, self.cells.shape[1])


def _rectangle(heights: np.ndarray, widths: np.ndarray, side: int) -> np.ndarray:
    """(N, side, side) bool: the first so many rows and columns."""
    steps = np.arange(side)
    return np.asarray((steps[:, None] < heights[:, None, None]) & (steps < widths[:, None, None]))


def tokens_of(grids: Grids, tops: np.ndarray | None = None, lefts: np.ndarray | None = None) -> np.ndarray:
    """(N, side * side) uint8: the grids on canvases of their side, with tops and lefts (N,) moved down and right."""
    side = grids.cells.shape[1]
    # One row and column more, so that no end of a grid comes in on the other side.
    cells, high, wide = np.pad(grids.cells, ((0, 0), (0, 1), (0, 1))), grids.heights, grids.widths
    inside = _rectangle(high, wide, side + 1)
    ends = (_rectangle(high + 1, wide, side + 1) | _rectangle(high, wide + 1, side + 1)) & ~inside
    tokens = np.where(inside, cells + FIRST_COLOUR, np.where(ends, EOS, PAD)).astype(np.uint8)
    if tops is not None and lefts is not None:
        tokens = _rolled(tokens, tops, lefts)
    return tokens[:, :side, :side].reshape(len(tokens), side * side)


def _rolled(cells: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cells (N, side, side), each canvas moved down and right; what leaves it comes in again on the other side."""
    steps = np.arange(cells.shape[1])
    rows = (steps - down[:, None]) % cells.shape[1]
    columns = (steps - right[:, None]) % cells.shape[1]
    return np.asarray(cells[np.arange(len(cells))[:, None, None], rows[:, :, None], columns[:, None, :]])


def moved(
    inputs: np.ndarray, outputs: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (N, side * side), each moved on its canvas by one random offset at which both grids have room."""
    pair = grids_of(inputs, side), grids_of(outputs, side)
    tops = rng.integers(0, side - np.maximum(*(grids.heights for grids in pair)) + 1)
    lefts = rng.integers(0, side - np.maximum(*(grids.widths for grids in pair)) + 1)
    tokens = [tokens_of(grids, tops, lefts) for grids in pair]
    return tokens[0].astype(inputs.dtype), tokens[1].astype(outputs.dtype)


def grids_of(tokens: np.ndarray, side: int) -> Grids:
    """The grids of well-formed rows (N, side * side), wherever on the canvas they lie."""
    canvas = tokens.reshape(-1, side, side)
    coloured = canvas >= FIRST_COLOUR
    tops = coloured.any(axis=2).argmax(axis=1)
    lefts = coloured.any(axis=1).argmax(axis=1)
    return cropped(_rolled(canvas, -tops, -lefts).reshape(tokens.shape), side)


def cropped(tokens: np.ndarray, side: int) -> Grids:
    """What official code reads off any rows (N, side * side): the largest rectangle of colours at the upper left.

    Of several as large the flattest; 0 x 0 where the first cell is no colour.
    """
    canvas = tokens.reshape(-1, side, side)
    coloured = (canvas >= FIRST_COLOUR) & (canvas < VOCAB_SIZE)
    reach = np.minimum.accumulate(np.minimum.accumulate(coloured, axis=2).sum(axis=2), axis=1)
    heights = (reach * np.arange(1, side + 1)).argmax(axis=1) + 1
    widths = reach[np.arange(len(reach)), heights - 1]
    heights = np.where(widths > 0, heights, 0)
    inside = _rectangle(heights, widths, side)
    return Grids(np.where(inside, canvas - FIRST_COLOUR, 0).astype(np.uint8), heights, widths)


def _flat(cells: np.ndarray) -> np.ndarray:
    """(N, side * side) of (N, side, side), also where N is 0."""
    return cells.reshape(len(cells), cells.shape[1] * cells.shape[2])


@dataclass(frozen=True)
class GridViews:
    """One image of each of N grids: recoloured, then turned or mirrored.

    symmetries (N,): numbers of `dataset.dihedral`. colours (N, 10): what each colour is shown as.
    """

    symmetries: np.ndarray
    colours: np.ndarray

    def apply(self, grids: Grids) -> Grids:
        """The images of as many grids."""
        shown = np.take_along_axis(self.colours, _flat(grids.cells).astype(np.int64), axis=1)
        shown = np.where(grids.inside, shown.reshape(grids.cells.shape), 0).astype(np.uint8)
        return turned(Grids(shown, grids.heights, grids.widths), self.symmetries)

    def inverse(self) -> "GridViews":
        """The views that undo these, one each."""
        return GridViews(np.array(dihedral.INVERSE)[self.symmetries], self.colours.argsort(axis=1))


def turned(grids: Grids, symmetries: np.ndarray) -> Grids:
    """The images of N grids under symmetries (N,) of a square, at the upper left again."""
    side = grids.cells.shape[1]
    sources = dihedral.sources(side)[symmetries]
    cells = np.take_along_axis(_flat(grids.cells), sources, axis=1).reshape(grids.cells.shape)
    inside = np.take_along_axis(_flat(grids.inside), sources, axis=1).reshape(grids.cells.shape)
    tops, lefts = inside.any(axis=2).argmax(axis=1), inside.any(axis=1).argmax(axis=1)
    exchanged = np.isin(symmetries, dihedral.EXCHANGE_SIDES)
    heights = np.where(exchanged, grids.widths, grids.heights)
    widths = np.where(exchanged, grids.heights, grids.widths)
    return Grids(_rolled(cells, -tops, -lefts), heights, widths)


def view_name(name: str, symmetry: int, colours: np.ndarray) -> str:
    """What official builders call a view of the task `name`."""
    return f"{name}|||t{symmetry}|||{''.join(map(str, colours.tolist()))}"


def read_view_name(name: str) -> tuple[str, int, np.ndarray]:
    """The task of an identifier, and its view of it: that of number 0 with colours as they are, where it is no view.

    Differs: officially a name ends at its first `|||`, because none is thought to have one.
    """
    found = _VIEW_NAME.fullmatch(name)
    if found is None or set(found[3]) != set("0123456789"):
        return name, 0, np.arange(NUM_COLOURS)
    return found[1], int(found[2]), np.array([int(digit) for digit in found[3]])


def canonical_tokens(tokens: np.ndarray, side: int) -> np.ndarray:
    """(N, side * side) uint8 of rows (N, side * side): equal for grids of which one is a view of the other, only.

    Views keep black. Of the eight images, each with its other colours renamed in the order in which they first occur,
    it is the one whose bytes come first.
    """
    grids = grids_of(tokens, side)
    images = turned(grids[np.tile(np.arange(len(grids)), dihedral.COUNT)], np.arange(dihedral.COUNT).repeat(len(grids)))
    found = tokens_of(Grids(_in_order_of_occurrence(images.cells), images.heights, images.widths))
    while len(found) > len(grids):  # eight of each, four, two
        half = len(found) // 2
        found = dihedral.first_by_bytes(found[:half], found[half:])
    return found


def _in_order_of_occurrence(cells: np.ndarray) -> np.ndarray:
    """Cells (N, side, side) with the colours but black renamed 1, 2, … in the order in which they first occur."""
    flat = _flat(cells)
    first = np.full((len(flat), NUM_COLOURS), flat.shape[1])
    for colour in range(1, NUM_COLOURS):
        found = flat == colour
        first[:, colour] = np.where(found.any(axis=1), found.argmax(axis=1), flat.shape[1])
    first[:, 0] = -1
    names = first.argsort(axis=1, kind="stable").argsort(axis=1)
    return np.take_along_axis(names, flat.astype(np.int64), axis=1).reshape(cells.shape).astype(np.uint8)
