"""What the statistics and figures take from a measurement: exponents of a window, outcomes, free baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from analysis.samples.measured_rows import Arrays
from analysis.samples.networks import harder
from analysis.samples.trajectory_readings import free_scores, late_steps
from training.evaluation.answering import counted_rate

PLAIN_OBJECTIVE = "act_streaming"


@dataclass(frozen=True)
class Window:
    """Supervision steps first < t <= last, counted from 1."""

    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.first + 1}-{self.last}"


@dataclass(frozen=True)
class SpectrumTable:
    """One run's measurement. `arrays` as `analysis.spectra.spectrum_files` documents, `settings` what was measured."""

    label: str
    arrays: Arrays
    settings: dict[str, Any]

    @property
    def model(self) -> str:
        """The network, and how it was trained where that was not plain pretraining: `TRM-att multi_perturbed_ce`."""
        objective = self.settings["objective"]
        return str(self.settings["model"]) + ("" if objective == PLAIN_OBJECTIVE else f" {objective}")

    @property
    def sample(self) -> dict[str, Any] | None:
        """Of a case-control sample: the pool that it was drawn from (`analysis.samples.case_control`)."""
        found: dict[str, Any] | None = self.settings.get("sample")
        return found

    @property
    def num_steps(self) -> int:
        return int(self.arrays["step_growth"].shape[1])

    @property
    def num_exponents(self) -> int:
        return int(self.arrays["step_growth"].shape[2])

    @property
    def sub_updates(self) -> int:
        """Sub-updates of one supervision step."""
        return int(self.settings["sub_updates_per_step"])

    def __len__(self) -> int:
        return len(self.arrays["row"])

    @cached_property
    def failed(self) -> np.ndarray:
        """(n,) bool: the answer after the last step is not right in every cell."""
        return ~self.arrays["exact"][:, -1]

    @property
    def accuracy(self) -> dict[str, Any]:
        """Solved puzzles, as `counted_rate`: of the pool where these are a case-control sample of it."""
        if self.sample is None:
            return counted_rate(int((~self.failed).sum()), len(self))
        return counted_rate(self.sample["pool"] - self.sample["failed"], self.sample["pool"])

    def exponents(self, window: Window) -> np.ndarray:
        """(n, k) nats per step over a window, in QR order; NaN where something was not finite."""
        return np.asarray(self.arrays["step_growth"][:, window.first : window.last].mean(axis=1))

    @cached_property
    def usable(self) -> np.ndarray:
        """(n,) bool: state and tangents stayed finite to the end."""
        return np.asarray(~np.isnan(self.arrays["step_growth"]).any(axis=(1, 2)))

    @cached_property
    def late_drift(self) -> np.ndarray:
        """(n,) mean relative change of the state over the last steps, at most 4 and at most half of all."""
        return np.asarray(self.arrays["drift"][:, -late_steps(self.num_steps) :].mean(axis=1))

    @cached_property
    def baselines(self) -> dict[str, np.ndarray]:
        return free_scores(self.arrays, self.late_drift)

    @cached_property
    def difficulty(self) -> np.ndarray:
        """(n,) the data set's rating where it has one that varies, else the cells that are not given."""
        return harder(self.arrays["givens"], self.arrays["rating"])

    def where(self, mask: np.ndarray) -> "SpectrumTable":
        """Some of the rows."""
        return SpectrumTable(
            self.label, {name: array[mask] for name, array in self.arrays.items() if name != "settings"}, self.settings
        )

    def to_the_end(self, name: str) -> np.ndarray:
        """(n, N) of an array (n, T): the steps of the longer trajectory too, for a table that has them."""
        return np.concatenate([self.arrays[name], self.arrays[f"extended_{name}"]], axis=1)

    def windows(self) -> list[Window]:
        """Quarters of the steps where they divide by four, else halves, else the whole."""
        count = next(count for count in (4, 2, 1) if self.num_steps % count == 0)
        size = self.num_steps // count
        return [Window(i * size, (i + 1) * size) for i in range(count)]

    def whole(self, burn_in: int = 0) -> Window:
        return Window(burn_in, self.num_steps)


def by_model(tables: Sequence[SpectrumTable]) -> dict[str, list[SpectrumTable]]:
    """Tables of one network, trained in one way, together; in order of appearance."""
    groups: dict[str, list[SpectrumTable]] = {}
    for table in tables:
        groups.setdefault(table.model, []).append(table)
    return groups
