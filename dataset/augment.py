"""Symmetries of Sudoku drawn afresh for every row of a batch, in numpy without a loop over rows.

The group is the official builder's: transposition (boxes that are square), permutations of bands, of rows
inside a band, of stacks, of columns inside a stack, and a relabelling of the digits. Each factor is drawn
uniformly and independently per row, by sorting random keys.
"""

import numpy as np


def augment_sudoku(
    inputs: np.ndarray, labels: np.ndarray, box: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Apply one random symmetry per row to puzzles and, the same one, to their solutions.

    inputs, labels: (B, S) integer tokens with S = n², n = box[0]·box[1]; 0 pad, 1 blank, 2..n+1 the digits.
    `box` is (rows, cols) of one box: (2, 2), (2, 3), (3, 3). Blank stays blank, pad stays pad. Returns new
    arrays of the same shapes and dtypes.

    Errors: ValueError when shapes or tokens are not those of such boards.
    """
    box_rows, box_cols = box
    n = box_rows * box_cols
    batch = inputs.shape[0]
    if inputs.shape != (batch, n * n) or labels.shape != inputs.shape:
        raise ValueError(f"shapes {inputs.shape} and {labels.shape} are not (B, {n * n})")
    if batch == 0:
        return inputs.copy(), labels.copy()
    for tokens in (inputs, labels):
        if int(tokens.min()) < 0 or int(tokens.max()) > n + 1:
            raise ValueError(f"tokens outside 0..{n + 1} for {n}x{n} boards")
    # A band is a horizontal strip of boxes (box_rows cell rows; box_cols of them), a stack a vertical one.
    rows = _line_permutations(batch, num_strips=box_cols, strip=box_rows, rng=rng)
    columns = _line_permutations(batch, num_strips=box_rows, strip=box_cols, rng=rng)
    digits = np.argsort(rng.random((batch, n)), axis=1)
    source = rows[:, :, None] * n + columns[:, None, :]
    if box_rows == box_cols:
        swapped = columns[:, None, :] * n + rows[:, :, None]
        transposed = np.less(rng.random(batch), 0.5)
        source = np.where(transposed[:, None, None], swapped, source)
    source = source.reshape(batch, n * n)
    relabel = np.concatenate([np.tile([0, 1], (batch, 1)), digits + 2], axis=1)
    moved = (np.take_along_axis(tokens, source, axis=1).astype(np.intp) for tokens in (inputs, labels))
    new_inputs, new_labels = (np.take_along_axis(relabel, tokens, axis=1) for tokens in moved)
    return new_inputs.astype(inputs.dtype), new_labels.astype(labels.dtype)


def _line_permutations(batch: int, num_strips: int, strip: int, rng: np.random.Generator) -> np.ndarray:
    """(batch, num_strips·strip) source lines: strips permuted, and lines permuted inside each strip."""
    strips = np.argsort(rng.random((batch, num_strips)), axis=1)
    inside = np.argsort(rng.random((batch, num_strips, strip)), axis=2)
    return (strips[:, :, None] * strip + inside).reshape(batch, num_strips * strip)
