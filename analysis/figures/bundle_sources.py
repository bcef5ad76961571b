"""What a figure bundle is made of: folders that other analyses wrote, found and read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.command_line import refuse_copies
from analysis.rollouts.q_head_figure import read_summary
from analysis.samples.measured_rows import settings_of
from analysis.spectra.spectrum_files import FILE_NAME, read_arrays
from analysis.spectra.spectrum_table import PLAIN_OBJECTIVE, SpectrumTable
from dataset.plain_data import json_object_or_refuse
from errors import UserError

FIG3 = "Fig3_trajectory_perturbation_improves_peak_accuracy"
FIG4 = "Fig4_optional_PTRM_Q_head_vs_stability"
SUMMARY = "summary.json"
_MEND = "make it again with its own analysis"


@dataclass(frozen=True)
class SpectrumResult:
    """A result of `analysis/spectra/lyapunov_spectrum.py`: its summary and the tables of its runs."""

    folder: Path
    summary: dict[str, Any]
    tables: list[SpectrumTable]

    @property
    def plain(self) -> list[SpectrumTable]:
        """Of the runs that were pretrained plainly."""
        return [table for table in self.tables if table.settings["objective"] == PLAIN_OBJECTIVE]


@dataclass(frozen=True)
class DrawnFigure:
    """A figure that its own analysis has drawn: its folder and its numbers."""

    folder: Path
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """All that was found in `folders`. `peak`: of `peak_vs_final.py`; `rollouts`: of `q_head_vs_stability.py`."""

    folders: list[Path]
    spectra: list[SpectrumResult]
    peak: DrawnFigure | None
    rollouts: DrawnFigure | None

    @property
    def compared(self) -> list[SpectrumResult]:
        """What figures 1 and 2 show: plainly pretrained networks; all, where no measurement is of such alone."""
        wholly = [result for result in self.spectra if len(result.plain) == len(result.tables)]
        if not wholly:
            return self.spectra
        known = {_of(table) for result in wholly for table in result.tables}
        # A baseline measured beside another way of training it, unless it is among the others already.
        baselines = [
            replace(result, tables=new)
            for result in self.spectra
            if len(result.plain) < len(result.tables) and (new := [t for t in result.plain if _of(t) not in known])
        ]
        return [*wholly, *baselines]

    @property
    def spoken_of(self) -> set[tuple[Path, str]]:
        """Networks of the letter, by folder: of those that are shown the plainly pretrained; all, without any such."""
        plain = {(result.folder, table.model) for result in self.compared for table in result.plain}
        return plain or {(result.folder, table.model) for result in self.compared for table in result.tables}


def find_sources(folders: Sequence[Path]) -> Sources:
    """Read the results in some folders, whatever they are of.

    Errors: `UserError` for a folder that holds none of the three, a damaged file, two results for one figure, or
    spectra of the same weights on the same puzzles twice, which would count as two networks.
    """
    spectra: list[SpectrumResult] = []
    drawn: dict[str, DrawnFigure] = {}
    for folder in folders:
        measured = _spectra(folder)
        if measured is not None:
            spectra.append(measured)
        for name in (FIG3, FIG4):
            if not (folder / f"{name}.png").is_file():
                continue
            if name in drawn:
                raise UserError(f"{drawn[name].folder} and {folder} both hold {name}: name one of them")
            report = folder / f"{FIG3}.json"
            numbers = json_object_or_refuse(report, _MEND) if name == FIG3 else read_summary(folder)
            drawn[name] = DrawnFigure(folder, numbers)
        if measured is None and all(figure.folder != folder for figure in drawn.values()):
            raise UserError(
                f"{folder} holds no result: expected a folder that analysis/spectra/lyapunov_spectrum.py, "
                "analysis/arms/peak_vs_final.py or analysis/rollouts/q_head_vs_stability.py wrote with --out"
            )
    found = Sources(list(folders), spectra, drawn.get(FIG3), drawn.get(FIG4))
    # A network may stand beside another way of training it too, but no result twice and no network twice in a figure.
    refuse_copies((tuple(map(_of, result.tables)), result.folder) for result in spectra)
    refuse_copies(
        (_of(table), f"{table.label} of {result.folder}") for result in found.compared for table in result.tables
    )
    return found


def _of(table: SpectrumTable) -> tuple[Any, ...]:
    """What a table is a measurement of."""
    return table.settings["weights_sha256"], table.settings.get("data_sha256")


def _spectra(folder: Path) -> SpectrumResult | None:
    paths = [folder / FILE_NAME] if (folder / FILE_NAME).is_file() else sorted(folder.glob(f"*/{FILE_NAME}"))
    if not paths or not (folder / SUMMARY).is_file():
        return None
    summary = json_object_or_refuse(folder / SUMMARY, _MEND)
    runs = summary.get("runs")
    if not isinstance(runs, list) or "models" not in summary:
        return None
    tables = {}
    for path in paths:
        arrays = read_arrays(path)
        label = str(runs[0]["label"]) if path.parent == folder else path.parent.name
        tables[label] = SpectrumTable(label, arrays, settings_of(path, arrays))
    missing = [run["label"] for run in runs if run["label"] not in tables]
    if missing:
        raise UserError(f"{folder} lacks the spectra of {', '.join(missing)}: run again: {summary.get('command')}")
    return SpectrumResult(folder, summary, [_rows_of(tables[run["label"]], run) for run in runs])


def _rows_of(table: SpectrumTable, run: dict[str, Any]) -> SpectrumTable:
    """The rows that the summary is of: the file may hold those of a longer measurement, in ascending order.

    Of a case-control sample those with a weight.
    """
    if "weight" in table.arrays:
        table = table.where(table.arrays["weight"] > 0)
    count = run["n"] + run["dropped_not_finite"]
    if len(table) < count:
        raise UserError(f"{table.label}: {len(table)} puzzles in {FILE_NAME}, {count} in {SUMMARY}: measure again")
    return table.where(np.arange(len(table)) < count)
