"""The table of a measurement: the outcome of the last step, digits, whole numbers and truths as they are."""

from pathlib import Path

import numpy as np

from analysis.spectra.spectrum_files import save_table


def test_lines_by_hand(tmp_path: Path) -> None:
    arrays = {"row": np.array([7, 3]), "exact": np.array([[True, True, False], [False, False, True]])}
    exponents = np.array([[0.123456789012, -1.5], [np.nan, -np.inf]])
    columns = {
        "entropy": np.array([1 / 3, 2.0], np.float64), "givens": np.array([12, 9]), "solvable": np.array([True, False]),
    }  # fmt: skip
    path = save_table(arrays, exponents, columns, tmp_path / "spectrum.csv")
    assert path.read_text().splitlines() == [
        "row,solved,lambda_1,lambda_2,entropy,givens,solvable",
        "7,0,0.123456789,-1.5,0.333333333,12,1",
        "3,1,nan,-inf,2,9,0",
    ]
