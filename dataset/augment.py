"""Symmetries of Sudoku drawn afresh for every row of a batch, in numpy without a loop over rows.

The group is the official builder's: transposition (boxes that are square), permutations of bands, of rows
inside a band, of stacks, of columns inside a stack, and a relabelling of the digits. Each factor is drawn
uniformly and independently per row, by sorting random keys.
"""

import numpy as np

from dataset.sudoku import Symmetries, random_lines


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
    rows = random_lines(batch, box_cols, box_rows, rng)
    columns = random_lines(batch, box_rows, box_cols, rng)
    digits = np.zeros((batch, n + 1), np.uint8)
    digits[:, 1:] = rng.random((batch, n)).argsort(axis=1) + 1
    transpose = np.less(rng.random(batch), 0.5) if box_rows == box_cols else np.zeros(batch, bool)
    symmetries = Symmetries(transpose, rows, columns, digits).on_tokens()
    return symmetries.apply(inputs).astype(inputs.dtype), symmetries.apply(labels).astype(labels.dtype)
