"""`spectrum.npz` and `spectrum.csv`: what `analysis/spectra/lyapunov_spectrum.py` measured, row by row.

`spectrum.npz` (no pickles). n puzzles, T steps, k exponents, m sub-updates a step, q of them between two QRs; growth is
in nats, ln R_ii of the QR in float64 unless said otherwise.

    settings               () JSON text: what was measured, of which weights and data
    row                    (n,) index in the test set
    step_growth            (n, T, k) per supervision step, in QR order; its mean over steps are the exponents
    sub_update_growth      (n, T m / q, k) float32, per QR
    replicate_step_growth  (n, T, k) from other tangents, where asked for
    svd_exponents          (n, k) nats per step, from the singular values of the whole product
    condition_log          (n,) largest cancellation in a QR, nats; first_nonfinite (n,), -1 where all is finite
    flag_NAME              (n,) bool, as `dynamics.lyapunov.LyapunovResult.flags`
    exact                  (n, T) bool, the answer after the step is right in every cell
    q_halt                 (n, T) halting value
    drift                  (n, T) |z_t - z_{t-1}| / |z_t|; norm (n, T) |z_t|
    margin, entropy        (n, T) mean over cells of the difference of the two largest log-probabilities, of the entropy
    changed, violations    (n, T) cells that differ from the step before; broken rules, where the task has rules
    residual               (n,) |F(z_T) - z_T| / |z_T|
    weight                 (n,) of a case-control sample: puzzles of the pool that each stands for, 0 for one of an
                           earlier sample
    givens, rating         (n,) int, cells given; difficulty of the data set, -1 where it has none
    extended_growth, extended_exact, extended_drift, extended_q_halt, extended_changed
                           (n, N - T) the same of steps T+1 ... N, growth of the leading tangent only
    recurrence_distance    (n, 8) |F^p(z_N) - z_N| / |z_N|, p = 1 ... 8
    answer_period          (n,) smallest p <= 8 after which the last answer had been given before, 0 where none

Parts of a measurement lie in `parts/` until it is complete; what is there is not measured again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.figures.figure_files import save_csv
from analysis.samples.measured_rows import Arrays, MeasuredRows, read_rows

FILE_NAME = "spectrum.npz"


def spectrum_store(folder: Path, settings: Mapping[str, Any]) -> MeasuredRows:
    """The spectra in an output folder, complete or not; errors as `MeasuredRows`."""
    return MeasuredRows(folder, settings, FILE_NAME, read_arrays)


def read_arrays(path: Path) -> Arrays:
    """The arrays of one file. Errors: `UserError` when it is missing or damaged."""
    mend = "measure with: python analysis/spectra/lyapunov_spectrum.py --checkpoint RUN/best.pt --out DIR"
    return read_rows(path, ("step_growth", "exact"), "measurement of spectra", mend)


def save_table(arrays: Arrays, exponents: np.ndarray, columns: Mapping[str, np.ndarray], path: Path) -> Path:
    """`spectrum.csv`: one line per puzzle, exponents (n, k) and further columns (n,)."""
    rows: list[dict[str, Any]] = []
    for i, row in enumerate(arrays["row"].tolist()):
        line: dict[str, Any] = {"row": row, "solved": int(arrays["exact"][i, -1])}
        line |= {f"lambda_{j + 1}": f"{value:.9g}" for j, value in enumerate(exponents[i].tolist())}
        line |= {name: _number(values[i]) for name, values in columns.items()}
        rows.append(line)
    return save_csv(rows, path)


def _number(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return f"{plain:.9g}" if isinstance(plain, float) else int(plain) if isinstance(plain, bool) else plain
