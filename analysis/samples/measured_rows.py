"""A measurement puzzle by puzzle, kept as it comes: parts until it is complete, then one file of arrays."""

import contextlib
import json
import shlex
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from errors import UserError, writing
from files import open_regular
from training.storage.atomic_file import write_atomically

PARTS = "parts"
Arrays = dict[str, np.ndarray]


class MeasuredRows:
    """The measurement in an output folder, complete or not.

    Every array has a row per puzzle, `row` is its number in the test set; `settings` says what was measured, of what.

    Args:
        folder: of the measurement, made if need be. settings: JSON-able; a folder with other ones is refused.
        file_name: of the complete measurement. read: its arrays, and those of a part; as `read_rows`.
    Errors: `UserError` naming the first setting that differs, a damaged file, a folder that cannot be made.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], file_name: str, read: Callable[[Path], Arrays]
    ) -> None:
        self.folder, self.path = folder, folder / file_name
        self.settings = json.loads(json.dumps(settings))
        self._known: list[Arrays] = []
        for path in [self.path, *sorted((folder / PARTS).glob("rows_*.npz"))]:
            if path.exists():
                arrays = read(path)
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
        parts = self.folder / PARTS
        words = [shlex.quote(str(self.path))] if self.path.exists() else []
        return " ".join([*words, *([f"{shlex.quote(str(parts))}/rows_*.npz"] if any(parts.glob("rows_*.npz")) else [])])

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows that are not measured yet, in order."""
        known = [arrays["row"] for arrays in self._known]
        return rows[~np.isin(rows, np.concatenate(known))] if known else rows

    def add(self, arrays: Arrays) -> None:
        """Keep some rows for good."""
        name = f"rows_{int(arrays['row'][0]):08d}.npz"
        write_rows(self.folder / PARTS / name, arrays, self.settings)
        self._known.append(arrays)

    def finish(self, rows: np.ndarray, weight: np.ndarray | None = None) -> Arrays:
        """All that is known as one file, sorted by row; returns the rows asked for. The parts are removed.

        rows: (n,) ascending. weight: (n,) of a sample, kept as `weight`, which is 0 where a row is not of it.
        """
        joined = {
            name: np.concatenate([arrays[name] for arrays in self._known])
            for name in self._known[0]
            if name not in ("settings", "weight")
        }
        _, first = np.unique(joined["row"], return_index=True)
        joined = {name: array[first] for name, array in joined.items()}
        wanted = np.isin(joined["row"], rows)
        if weight is not None:
            joined["weight"] = np.zeros(len(wanted))
            joined["weight"][wanted] = weight
        write_rows(self.path, joined, self.settings)
        remove_parts(self.folder / PARTS, "rows_*.npz")
        self._known = [joined]
        return {name: array[wanted] for name, array in joined.items()}


def write_rows(path: Path, arrays: Arrays, settings: Mapping[str, Any]) -> None:
    """Write a file for `read_rows`, whole or not at all. Errors: `UserError` where the disk refuses."""
    text = np.array(json.dumps(settings, sort_keys=True))
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


def read_rows(path: Path, needed: Sequence[str], what: str, mend: str) -> Arrays:
    """The arrays of one file, all with as many rows.

    Args:
        needed: names without which it is no `what`. mend: the command that makes one, in words.
    Errors: `UserError` when it is missing or damaged.
    """
    try:
        with open_regular(path) as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: {mend}") from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and {mend}") from error
    for name in ("settings", "row", *needed):
        if name not in arrays:
            raise UserError(f"{path} holds no {name}, it is no {what}: {mend}")
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


def part_blocks(rows: np.ndarray, batch_size: int) -> Sequence[np.ndarray]:
    """Rows in blocks of a batch: the same blocks after an interruption, hence the same bits."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
