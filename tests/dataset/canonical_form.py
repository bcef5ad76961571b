"""One board for all that symmetries make of it, by enumeration: the second route to what is equivalent."""

from functools import lru_cache
from itertools import permutations

import numpy as np

from dataset.sudoku import Box, number_by_appearance, side


@lru_cache
def _line_permutations(num_blocks: int, size: int) -> np.ndarray:
    """Every permutation of lines that keeps blocks together, (num_blocks! * size!**num_blocks, lines)."""
    within: list[tuple[int, ...]] = [()]
    for _ in range(num_blocks):
        within = [head + tail for head in within for tail in permutations(range(size))]
    inner = np.array(within).reshape(-1, num_blocks, size)
    result = [
        (np.array(order)[None, :, None] * size + inner).reshape(len(inner), -1)
        for order in permutations(range(num_blocks))
    ]
    return np.concatenate(result)


def num_geometric_symmetries(box: Box) -> int:
    """How many cell permutations preserve the rules: 128 on 4x4, 3456 on 6x6 (no transpose)."""
    rows, columns = box
    num_lines = len(_line_permutations(columns, rows)) * len(_line_permutations(rows, columns))
    return 2 * num_lines if rows == columns else num_lines


def canonical_form(puzzles: np.ndarray, box: Box, chunk: int = 512) -> np.ndarray:
    """(N, n*n) uint8: equal for two puzzles exactly when a symmetry (with relabelling) relates them.

    Of all images of a puzzle the one whose pattern of givens, read as a number, is largest, and among those
    the smallest by digits numbered in order of first appearance. The pattern settles nearly everything, so
    only the few tied transforms are relabelled. Meant for 4x4 and 6x6; raises ValueError above.
    """
    n = side(box)
    if n > 6:
        raise ValueError(f"canonical_form enumerates all symmetries; {n}x{n} has too many")
    puzzles = np.asarray(puzzles, np.uint8)
    forms = [_canonical_chunk(puzzles[i : i + chunk], box) for i in range(0, len(puzzles), chunk)]
    return np.concatenate(forms) if forms else puzzles.copy()


def _canonical_chunk(puzzles: np.ndarray, box: Box) -> np.ndarray:
    rows, columns = box
    n = side(box)
    count = len(puzzles)
    row_orders = _line_permutations(columns, rows)
    column_orders = _line_permutations(rows, columns)
    boards = puzzles.reshape(count, n, n)
    if rows == columns:
        boards = np.stack([boards, boards.transpose(0, 2, 1)], axis=1)
    else:
        boards = boards[:, None]
    # Row patterns are n-bit numbers under each column order; from them come whole patterns under each row order.
    weights = 1 << np.arange(n - 1, -1, -1, dtype=np.int64)
    codes = (boards != 0)[..., column_orders] @ weights  # (count, turn, row, column order)
    pattern = np.zeros((*codes.shape[:2], len(column_orders), len(row_orders)), np.int64)
    for place in range(n):
        pattern = (pattern << n) | codes[:, :, row_orders[:, place]].transpose(0, 1, 3, 2)
    best = pattern.reshape(count, -1).max(axis=1)
    puzzle, turn, column, row = np.nonzero(pattern == best[:, None, None, None])
    images = boards[puzzle, turn][
        np.arange(len(puzzle))[:, None, None],
        row_orders[row][:, :, None],
        column_orders[column][:, None, :],
    ].reshape(-1, n * n)
    images = number_by_appearance(images, n)
    # A lexicographic sort puts the smallest image of each puzzle first in its group.
    half = n * n // 2
    powers = 8 ** np.arange(half - 1, -1, -1, dtype=np.int64)  # 18 octal digits fit into 63 bits
    order = np.lexsort((images[:, half:] @ powers, images[:, :half] @ powers, puzzle))
    first = np.flatnonzero(np.diff(puzzle[order], prepend=-1))
    return images[order[first]]
