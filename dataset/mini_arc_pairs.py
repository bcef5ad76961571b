"""Pairs of mini-ARC rules, drawn: inputs of the kind that each op needs, whose classes are of one split only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dataset.arc_tokens import Grids, canonical_tokens, tokens_of
from dataset.hashing import token_hashes
from dataset.mini_arc import OPS, Rules, components
from errors import UserError

TEST_SHARE = 8  # one in so many classes of inputs is of the test split
LARGEST_BLOB = 3
_MAX_ROUNDS = 200


@dataclass(frozen=True)
class GridSizes:
    """Grids of `smallest` to `largest` rows and columns, drawn apart, in colours 0 (black) to `num_colours`."""

    canvas: int
    smallest: int
    largest: int
    num_colours: int


def class_keys(tokens: np.ndarray, canvas: int) -> np.ndarray:
    """(N,) uint64 of rows (N, canvas * canvas): equal for grids of which one is a view of the other."""
    return token_hashes(canonical_tokens(tokens, canvas))


def of_test(keys: np.ndarray) -> np.ndarray:
    """(N,) bool: classes whose grids are inputs of test pairs, and of no training pair."""
    return np.asarray(keys % np.uint64(TEST_SHARE) == 0)


def draw_pairs(
    rules: Rules, sizes: GridSizes, rng: np.random.Generator, *, test: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels (N, canvas * canvas) uint8, a pair of each rule. Errors: `UserError` when there are too few."""
    inputs = draw_inputs(rules, sizes, rng, test=test)
    return tokens_of(inputs), tokens_of(rules.apply(inputs))


def draw_inputs(rules: Rules, sizes: GridSizes, rng: np.random.Generator, *, test: bool | None = None) -> Grids:
    """An input of each rule, of the kind that its op is shown. test: of which split; None = of either.

    Errors: as `draw_pairs`.
    """
    count, side = len(rules), sizes.canvas
    drawn = Grids(np.zeros((count, side, side), np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64))
    for kind, draw in _KINDS.items():
        missing = np.flatnonzero(np.isin(rules.ops, [n for n, op in enumerate(OPS.values()) if op.inputs == kind]))
        for _ in range(_MAX_ROUNDS):
            if not len(missing):
                break
            grids, fitting = draw(len(missing) * (TEST_SHARE + 1 if test else 1) + 4, sizes, rng)
            if test is not None:
                fitting &= of_test(class_keys(tokens_of(grids), side)) == test
            found = grids[np.flatnonzero(fitting)[: len(missing)]]
            filled, missing = missing[: len(found)], missing[len(found) :]
            drawn.cells[filled], drawn.heights[filled], drawn.widths[filled] = found.cells, found.heights, found.widths
        if len(missing):
            raise UserError(
                f"grids of {sizes.smallest} to {sizes.largest} rows and columns: too few different ones for the op "
                f"{list(OPS)[int(rules.ops[missing[0]])]}; give a larger --canvas"
            )
    return drawn


def _empty(count: int, sizes: GridSizes, rng: np.random.Generator) -> Grids:
    heights, widths = rng.integers(sizes.smallest, sizes.largest + 1, (2, count))
    return Grids(np.zeros((count, sizes.canvas, sizes.canvas), np.uint8), heights, widths)


def _noise(count: int, sizes: GridSizes, rng: np.random.Generator) -> tuple[Grids, np.ndarray]:
    """Cells of any colour, black too."""
    grids = _empty(count, sizes, rng)
    cells = np.where(grids.inside, rng.integers(0, sizes.num_colours + 1, grids.cells.shape), 0)
    return Grids(cells.astype(np.uint8), grids.heights, grids.widths), np.ones(count, bool)


def _sparse(count: int, sizes: GridSizes, rng: np.random.Generator) -> tuple[Grids, np.ndarray]:
    """As noise, with half of the cells made black."""
    grids, fitting = _noise(count, sizes, rng)
    kept = rng.random(grids.cells.shape) < 0.5
    return Grids(np.where(kept, grids.cells, 0).astype(np.uint8), grids.heights, grids.widths), fitting


def _blobs(count: int, sizes: GridSizes, rng: np.random.Generator, last: tuple[int, int] | None = None) -> Grids:
    """Two or three rectangles of at most 3x3 on black, the later over the earlier. last: rows, columns of the last."""
    grids = _empty(count, sizes, rng)
    steps, cells = np.arange(sizes.canvas), grids.cells
    two = rng.random(count) < 0.5
    for blob in range(3):
        high, wide = rng.integers(1, LARGEST_BLOB + 1, (2, count))
        if last is not None and blob == 2:
            high, wide = np.full(count, last[0]), np.full(count, last[1])
        high, wide = np.minimum(high, grids.heights), np.minimum(wide, grids.widths)
        tops, lefts = rng.integers(0, grids.heights - high + 1), rng.integers(0, grids.widths - wide + 1)
        colours = rng.integers(1, sizes.num_colours + 1, count)
        rows = (steps >= tops[:, None]) & (steps < (tops + high)[:, None])
        columns = (steps >= lefts[:, None]) & (steps < (lefts + wide)[:, None])
        painted = rows[:, :, None] & columns[:, None, :] & ~(two & (blob == 0))[:, None, None]
        cells = np.where(painted, colours[:, None, None], cells)
    return Grids(cells.astype(np.uint8), grids.heights, grids.widths)


def _objects(count: int, sizes: GridSizes, rng: np.random.Generator) -> tuple[Grids, np.ndarray]:
    """Blobs that leave at least two components, of which one is larger than all others."""
    grids = _blobs(count, sizes, rng)
    labels, component_sizes = components(grids.cells)
    owners = np.zeros(len(component_sizes), np.int64)
    owners[labels.ravel()] = np.repeat(np.arange(count), labels[0].size)
    owners, component_sizes = owners[1:], component_sizes[1:]
    most = np.zeros(count, np.int64)
    np.maximum.at(most, owners, component_sizes)
    largest = np.bincount(owners[component_sizes == most[owners]], minlength=count)
    return grids, (np.bincount(owners, minlength=count) > 1) & (largest == 1)


def _solid(count: int, sizes: GridSizes, rng: np.random.Generator) -> tuple[Grids, np.ndarray]:
    """Blobs, the last a full 3x3: a smaller one has no cell that is surrounded."""
    return _blobs(count, sizes, rng, (LARGEST_BLOB, LARGEST_BLOB)), np.ones(count, bool)


_KINDS: dict[str, Callable[[int, GridSizes, np.random.Generator], tuple[Grids, np.ndarray]]] = {
    "noise": _noise,
    "sparse": _sparse,
    "objects": _objects,
    "solid": _solid,
}
