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
    givens, rating         (n,) int, cells given; difficulty of the data set, -1 where it has none
    extended_growth, extended_exact, extended_drift, extended_q_halt, extended_changed
                           (n, N - T) the same of steps T+1 ... N, growth of the leading tangent only
    recurrence_distance    (n, 8) |F^p(z_N) - z_N| / |z_N|, p = 1 ... 8
    answer_period          (n,) smallest p <= 8 after which the last answer had been given before, 0 where none

Parts of a measurement lie in `parts/` until it is complete; what is there is not measured again.
"""

import contextlib
import json
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.figures.figure_files import save_csv
from errors import UserError, writing
from files import open_regular
from training.storage.atomic_file import write_atomically

FILE_NAME = "spectrum.npz"
PARTS = "parts"
Arrays = dict[str, np.ndarray]


class SpectrumStore:
    """The measurement in an output folder, complete or not.

    Args:
        folder: of the measurement, made if need be. settings: JSON-able; a folder with other ones is refused.
    Errors: `UserError` naming the first setting that differs, a damaged file, a folder that cannot be made.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self._known: list[Arrays] = []
        for path in [folder / FILE_NAME, *sorted((folder / PARTS).glob("rows_*.npz"))]:
            if path.exists():
                arrays = read_arrays(path)
                self._check(path, arrays)
                self._known.append(arrays)

    def _check(self, path: Path, arrays: Arrays) -> None:
        stored = settings_of(path, arrays)
        for name in sorted(stored.keys() | self.settings.keys()):
            if stored.get(name) != self.settings.get(name):
                raise UserError(
                    f"{path} was measured with {name} = {stored.get(name)!r}, now {self.settings.get(name)!r}: name "
                    f"another --out, or remove what is measured: rm {self._files()}"
                )

    def _files(self) -> str:
        """What holds the measurement, in words of a shell; whatever else lies in the folder is not of it."""
        whole, parts = self.folder / FILE_NAME, self.folder / PARTS
        words = [shlex.quote(str(whole))] if whole.exists() else []
        return " ".join([*words, *([f"{shlex.quote(str(parts))}/rows_*.npz"] if any(parts.glob("rows_*.npz")) else [])])

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows that are not measured yet, in order."""
        known = [arrays["row"] for arrays in self._known]
        return rows[~np.isin(rows, np.concatenate(known))] if known else rows

    def add(self, arrays: Arrays) -> None:
        """Keep some rows for good."""
        name = f"rows_{int(arrays['row'][0]):08d}.npz"
        self._write(self.folder / PARTS / name, arrays)
        self._known.append(arrays)

    def finish(self, rows: np.ndarray) -> Arrays:
        """All that is known as one file, sorted by row; returns the rows asked for. The parts are removed."""
        joined = {
            name: np.concatenate([arrays[name] for arrays in self._known])
            for name in self._known[0]
            if name != "settings"
        }
        _, first = np.unique(joined["row"], return_index=True)
        joined = {name: array[first] for name, array in joined.items()}
        self._write(self.folder / FILE_NAME, joined)
        remove_parts(self.folder / PARTS, "rows_*.npz")
        self._known = [joined]
        wanted = np.isin(joined["row"], rows)
        return {name: array[wanted] for name, array in joined.items()}

    def _write(self, path: Path, arrays: Arrays) -> None:
        text = np.array(json.dumps(self.settings, sort_keys=True))
        content = {"settings": text, **{name: arrays[name] for name in arrays if name != "settings"}}
        with writing(path, "name another --out"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: np.savez(file, **content))  # type: ignore[arg-type]


def remove_parts(folder: Path, pattern: str) -> None:
    """Remove the parts of a measurement, and their folder unless somebody keeps more in it."""
    with contextlib.suppress(OSError):
        for path in folder.glob(pattern):
            path.unlink()
        folder.rmdir()


def read_arrays(path: Path) -> Arrays:
    """The arrays of one file. Errors: `UserError` when it is missing or damaged."""
    mend = "measure with: python analysis/spectra/lyapunov_spectrum.py --checkpoint RUN/best.pt --out DIR"
    try:
        with open_regular(path) as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: {mend}") from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and {mend}") from error
    for name in ("settings", "row", "step_growth", "exact"):
        if name not in arrays:
            raise UserError(f"{path} holds no {name}, it is no measurement of spectra: {mend}")
    rows = arrays["row"].shape
    for name, array in arrays.items():
        if name != "settings" and array.shape[:1] != rows:
            raise UserError(f"{path}: {name} has shape {array.shape}, expected {rows[0]} rows: remove it and {mend}")
    return arrays


def settings_of(path: Path, arrays: Arrays) -> dict[str, Any]:
    """The settings stored with the arrays. Errors: `UserError` when they are no JSON object."""
    try:
        settings = json.loads(str(arrays["settings"]))
    except ValueError as error:
        raise UserError(f"{path}: its settings are no JSON ({error}): remove the file and measure again") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: its settings are no JSON object: remove the file and measure again")
    return settings


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


def part_blocks(rows: np.ndarray, batch_size: int) -> Sequence[np.ndarray]:
    """Rows in blocks of a batch: the same blocks after an interruption, hence the same bits."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
