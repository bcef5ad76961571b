"""Mini-ARC: a generated family of ARC tasks with known rules, small enough for a CPU to tell networks apart.

A rule makes output = colours(symmetry(op(input))): an op on the grid, a symmetry of the square, a permutation of the
colours that keeps black. The views of a task, which turn and recolour its inputs and outputs alike, are rules of the
same form, with the op acting in another direction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from dataset import dihedral
from dataset.arc_tokens import NUM_COLOURS, Grids, GridViews, turned

COLUMNS = ("op", "direction", "symmetry", *(f"colour_{colour}" for colour in range(NUM_COLOURS)))


def _same(grids: Grids) -> np.ndarray:
    return grids.cells


def _fallen(grids: Grids) -> np.ndarray:
    """Coloured cells fall to the lowest row of the grid and keep their order."""
    # Black goes up, what is outside the grid stays below.
    ranks = np.where(grids.inside, grids.cells > 0, 2)
    return np.take_along_axis(grids.cells, ranks.argsort(axis=1, kind="stable"), axis=1)


def _shifted(grids: Grids) -> np.ndarray:
    """Every row moves right by one cell, and its last cell comes in again on the left."""
    columns = np.broadcast_to((np.arange(grids.cells.shape[2]) - 1) % grids.widths[:, None], grids.cells.shape[::2])
    moved = np.take_along_axis(grids.cells, columns[:, None, :].repeat(grids.cells.shape[1], axis=1), axis=2)
    return np.where(grids.inside, moved, 0)


def _hollowed(grids: Grids) -> np.ndarray:
    """Cells whose four neighbours have their colour become black."""
    around = np.pad(grids.cells, ((0, 0), (1, 1), (1, 1)))
    neighbours = (around[:, :-2, 1:-1], around[:, 2:, 1:-1], around[:, 1:-1, :-2], around[:, 1:-1, 2:])
    return np.where(np.logical_and.reduce([cells == grids.cells for cells in neighbours]), 0, grids.cells)


def _largest(grids: Grids) -> np.ndarray:
    """Only the largest component of one colour stays; components touch at edges."""
    labels, sizes = components(grids.cells)
    return np.where(sizes[labels] == _most(labels, sizes)[:, None, None], grids.cells, 0)


def components(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected cells of one colour: labels (N, side, side), 0 = black, and how many cells have each, 0 for black."""
    from scipy.ndimage import label  # here, as the import is a tenth of what a script takes to start

    within_a_grid = np.zeros((3, 3, 3), int)
    within_a_grid[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    labels = np.zeros(cells.shape, np.int64)
    for colour in range(1, int(cells.max(initial=0)) + 1):
        found, _ = label(cells == colour, within_a_grid)
        labels = np.where(found > 0, found + labels.max(initial=0), labels)
    sizes = np.bincount(labels.ravel(), minlength=1)
    sizes[0] = 0
    return labels, sizes


def _most(labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,): the size of the largest component of each grid."""
    return np.asarray(sizes[labels].max(axis=(1, 2)))


@dataclass(frozen=True)
class Op:
    """A step on a grid. inputs: the kind of grid that it is shown. keeps: symmetries that it commutes with."""

    act: Callable[[Grids], np.ndarray]
    inputs: str
    keeps: tuple[int, ...] = tuple(range(dihedral.COUNT))


OPS = {
    "identity": Op(_same, "noise"),
    "gravity": Op(_fallen, "sparse", keeps=(0, 4)),
    "shift": Op(_shifted, "noise", keeps=(0, 5)),
    "hollow": Op(_hollowed, "solid"),
    "largest": Op(_largest, "objects"),
}
OP_NAMES = tuple(OPS)


@lru_cache
def _directions() -> np.ndarray:
    """(ops, 8): of each op turned by each symmetry, the smallest number that is as good."""
    table = dihedral.products()
    return np.array([[min(table[turn, k] for k in op.keeps) for turn in range(dihedral.COUNT)] for op in OPS.values()])


@dataclass(frozen=True)
class Rules:
    """N rules by their descriptors (N, 13): op, direction (the symmetry that the op is turned by), symmetry, and the
    colour that each of the ten is shown as."""

    descriptors: np.ndarray

    @property
    def ops(self) -> np.ndarray:
        return np.asarray(self.descriptors[:, 0])

    @property
    def directions(self) -> np.ndarray:
        return np.asarray(self.descriptors[:, 1])

    @property
    def symmetries(self) -> np.ndarray:
        return np.asarray(self.descriptors[:, 2])

    @property
    def colours(self) -> np.ndarray:
        return np.asarray(self.descriptors[:, 3:])

    def __len__(self) -> int:
        return len(self.descriptors)

    def __getitem__(self, rows: np.ndarray | slice) -> "Rules":
        return Rules(self.descriptors[rows])

    def after_op(self, grids: Grids) -> Grids:
        """What the op alone makes of as many grids."""
        upright = turned(grids, np.array(dihedral.INVERSE)[self.directions])
        cells = upright.cells.copy()
        for number, op in enumerate(OPS.values()):
            mine = np.flatnonzero(self.ops == number)
            if len(mine):
                cells[mine] = op.act(upright[mine])
        return turned(Grids(cells, upright.heights, upright.widths), self.directions)

    def apply(self, grids: Grids) -> Grids:
        """The outputs of as many inputs."""
        return GridViews(self.symmetries, self.colours).apply(self.after_op(grids))

    def seen_through(self, views: GridViews) -> "Rules":
        """The rules that images of inputs and outputs obey, for as many views."""
        table, back = dihedral.products(), np.array(dihedral.INVERSE)[views.symmetries]
        directions = _directions()[self.ops, table[views.symmetries, self.directions]]
        symmetries = table[views.symmetries, table[self.symmetries, back]]
        colours = np.empty_like(self.colours)
        np.put_along_axis(colours, views.colours, np.take_along_axis(views.colours, self.colours, axis=1), axis=1)
        return Rules(np.column_stack([self.ops, directions, symmetries, colours]))

    def names(self, num_colours: int) -> list[str]:
        """`gravity.t2.2134`: op, symmetry, what the colours but black become. Of rules whose op is not turned."""
        return [
            f"{OP_NAMES[op]}.t{symmetry}.{''.join(map(str, colours[1 : num_colours + 1]))}"
            for op, symmetry, colours in zip(self.ops, self.symmetries, self.colours.tolist(), strict=True)
        ]

    def cycle_types(self) -> list[tuple[int, ...]]:
        """Of each permutation of the colours the lengths of its cycles but those of length 1, in ascending order."""
        return [_cycle_type(tuple(colours)) for colours in self.colours.tolist()]


def fault(descriptors: np.ndarray) -> str:
    """Why descriptors (N, F) are of no rules, in words; empty where they are."""
    if descriptors.shape[1] != len(COLUMNS):
        return f"has {descriptors.shape[1]} columns, expected {len(COLUMNS)}"
    limits = (len(OPS), dihedral.COUNT, dihedral.COUNT)
    if (descriptors[:, :3] < 0).any() or (descriptors[:, :3] >= limits).any():
        return f"holds an op, direction or symmetry outside 0 to {limits[0] - 1}, {limits[1] - 1}, {limits[2] - 1}"
    if (descriptors[:, 3] != 0).any() or (np.sort(descriptors[:, 3:]) != np.arange(NUM_COLOURS)).any():
        return f"holds colours that are no permutation of 0 to {NUM_COLOURS - 1} with 0 in its place"
    return ""


def _cycle_type(colours: tuple[int, ...]) -> tuple[int, ...]:
    lengths, seen = [], set[int]()
    for colour in range(len(colours)):
        length = 0
        while colour not in seen:
            seen.add(colour)
            colour, length = colours[colour], length + 1
        lengths += [length] if length > 1 else []
    return tuple(sorted(lengths))


@dataclass(frozen=True)
class Tier:
    """The rules of a tier are all combinations. held_out: (op, symmetry) that are never trained, each part is alone."""

    ops: tuple[str, ...]
    symmetries: tuple[int, ...]
    num_colours: int
    smallest_side: int
    held_out: tuple[tuple[str, int], ...] = ()

    def rules(self) -> Rules:
        """All of them: ops, then symmetries, then permutations in lexicographic order."""
        beyond = tuple(range(self.num_colours + 1, NUM_COLOURS))
        shown = [(0, *colours, *beyond) for colours in permutations(range(1, self.num_colours + 1))]
        combinations = product(map(OP_NAMES.index, self.ops), self.symmetries, shown)
        return Rules(np.array([[op, 0, symmetry, *colours] for op, symmetry, colours in combinations]))

    def is_held_out_composition(self, rules: Rules) -> np.ndarray:
        """(N,) bool."""
        pairs = [(OP_NAMES.index(op), symmetry) for op, symmetry in self.held_out]
        found = [pair in pairs for pair in zip(rules.ops.tolist(), rules.symmetries.tolist(), strict=True)]
        return np.array(found, bool)


# A view makes no composition that is trained one that is held out: an op that has a direction stays in it with its
# symmetry, or leaves the tier.
TIERS = {
    "P": Tier(("identity",), (0,), 5, 3),
    "M": Tier(OP_NAMES, (0,), 4, 4),
    "G": Tier(("identity", "gravity", "shift", "hollow"), (0, 2, 4, 5), 3, 4, (("gravity", 2), ("shift", 4))),
}
