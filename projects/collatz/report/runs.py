"""Finished Collatz runs as the report reads them: what was measured of their best and final weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.arms.run_curves import ended_summary, number_or_none, provenance_of, shared_settings
from analysis.arms.seed_pairs import MeanInterval, mean_interval
from dataset.plain_data import json_object_or_refuse
from errors import UserError
from projects.collatz.closed_forms import CLOSED_FORMS
from projects.collatz.scoring import REPORT
from training.records.metrics_log import read_metrics
from training.storage.run_folder import RunFolder

MOMENTS = ("best", "final")

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A number of a function's entry in evaluation.json; None where it was not measured.

    scale: 100 for shares, shown in percent. less_is_better: of violations, not of passes. unit: of a difference.
    """

    name: str
    header: str
    scale: float
    read: Callable[[Entry], float | None]
    less_is_better: bool = True
    unit: str = "points"

    def shown(self, value: float | None, form: str = "") -> str:
        """The value in the unit of the header; a dash for None."""
        return "-" if value is None else format(self.scale * value, form or (".2f" if self.scale == 100 else ".1f"))

    def mean(self, values: Sequence[float]) -> MeanInterval:
        """Mean over seeds and interval, where such a number can lie: shares up to 1, nothing below 0."""
        return mean_interval(values).within(0, 1 if self.scale == 100 else math.inf)


def _share(key: str) -> Callable[[Entry], float | None]:
    return lambda entry: None if entry[key] is None else float(entry[key])


def _decay_pass(entry: Entry) -> float | None:
    """Share passed of the rows of the evaluation file that are no growth steps."""
    rows = entry["rows"]
    if rows is None or entry["growth_rows"] == rows:
        return None
    growth_rows = entry["growth_rows"]
    growth = round(entry["growth_pass"] * growth_rows) if growth_rows else 0
    return float((rows - entry["violations"] - growth) / (rows - growth_rows))


def _along(key: str) -> Callable[[Entry], float | None]:
    return lambda entry: float(sum(count["violations"] for count in entry[key].values()))


def _rate(*keys: str) -> Callable[[Entry], float | None]:
    def read(entry: Entry) -> float | None:
        for key in keys:
            entry = entry[key]
        return float(entry["violations"] / entry["steps"])

    return read


METRICS = (
    Metric("on_orbit", "on-orbit viol. %", 100, _rate("on_orbit")),
    Metric("pass", "pass %", 100, _share("pass"), False),
    Metric("weighted_pass", "weighted", 100, _share("weighted_pass"), False),
    Metric("growth_pass", "growth", 100, _share("growth_pass"), False),
    Metric("growth_weighted_pass", "gr.wtd", 100, _share("growth_weighted_pass"), False),
    Metric("decay_pass", "decay", 100, _decay_pass, False),
    Metric("free_pass", "n%3!=0", 100, _share("free_pass"), False),
    Metric("orbits", "five orbits", 1, _along("orbits"), unit="violations"),
    Metric("fresh", "fresh orbits", 1, _along("fresh"), unit="violations"),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def sample_metrics(entry: Entry) -> list[Metric]:
    """Violated share of random numbers by bits, then of the steps of adversarial words."""
    return [
        *(Metric(f"bits_{bits}", f"{bits} bits %", 100, _rate("sizes", bits)) for bits in entry["sizes"]),
        *(Metric(f"word_{name}", f"{name} %", 100, _rate("adversarial", name)) for name in entry["adversarial"]),
    ]


@dataclass(frozen=True)
class CollatzRun:
    """A run at its end.

    Attributes: settings: what makes an arm. report: evaluation.json. entries: by moment, the function's entry in it.
    steps: updates by moment. log: lines of metrics.jsonl, in order of updates.
    """

    folder: Path
    seed: int | None
    settings: dict[str, Any]
    provenance: dict[str, Any]
    summary: dict[str, Any]
    report: dict[str, Any]
    entries: dict[str, Entry]
    steps: dict[str, int]
    log: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def preset(self) -> str:
        return str(self.settings["collatz.preset"])

    @property
    def lookahead(self) -> int:
        return int(self.report["lookahead"])

    @property
    def rows(self) -> int | None:
        """Rows of the evaluation file it was judged on."""
        rows = self.report["V_final"]["rows"]
        return None if rows is None else int(rows)

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(updates, value) wherever the log has `key`; of two lines of one update the later counts."""
        numbers = ((record["step"], number_or_none(record.get(key))) for record in self.log)
        return sorted({step: value for step, value in numbers if value is not None}.items())


def read_collatz_run(folder: Path) -> CollatzRun:
    """Errors: `UserError` for a run that has not ended, is none of collatz.py, or holds a damaged record."""
    names = RunFolder(folder)
    evaluation = folder / REPORT
    provenance, config, seed = provenance_of(names)
    if not isinstance(config.get("collatz"), dict) or not config["collatz"].get("preset"):
        raise UserError(f"{folder} is a run on puzzles, expected one of collatz.py; see analysis/arms/peak_vs_final.py")
    if not evaluation.is_file():
        raise UserError(f"{folder} has no {REPORT}: let the run go on to its end with its own command")
    log = sorted(read_metrics(names.metrics), key=lambda record: record["step"])
    summary, updates = ended_summary(names, log[-1]["step"] if log else 0)
    report = json_object_or_refuse(evaluation)
    try:
        entries, steps = _judged(report, summary, config["collatz"])
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError) as error:
        raise UserError(
            f"{evaluation} is no evaluation of this run ({type(error).__name__}: {error}): name another run, or train "
            "this one anew"
        ) from error
    settings = _settings(config) | {"updates": updates}
    return CollatzRun(folder, seed, settings, provenance, summary, report, entries, steps, log)


def _judged(report: Entry, summary: Entry, settings: Entry) -> tuple[dict[str, Entry], dict[str, int]]:
    """Entries and updates of the best and the final weights; every number that is read later is read here once."""
    if report["lookahead"] != settings["lookahead"]:
        raise ValueError(f"lookahead {report['lookahead']}, the run's is {settings['lookahead']}")
    steps = {moment: summary["test"][moment]["step"] for moment in MOMENTS}
    if not all(type(step) is int and step >= 0 for step in steps.values()):
        raise ValueError(f"updates {steps}")
    final = report["V_final"]
    entries = {"final": final, "best": final if steps["best"] == steps["final"] else report["V_best"]}
    for entry in (*entries.values(), *(report[form.name] for form in CLOSED_FORMS)):
        for metric in (*METRICS, *sample_metrics(entry)):
            value = metric.read(entry)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{metric.name} is {value}")
        for count in (*entry["orbits"].values(), *entry["fresh"].values()):
            if type(count["steps"]) is not int or not 0 <= count["violations"] <= count["steps"]:
                raise ValueError(f"{count['violations']} violations in {count['steps']} steps")
        if len(entry["on_orbit"]["rate_interval"]) != 2:
            raise ValueError("an interval without two ends")
    if not all(isinstance(report["bounds"][name], float) for name in ("rate_V_avg", "rate_V_min", "lower_bound")):
        raise ValueError("bounds")
    if not isinstance(report["samples"]["on_orbit"]["states"], int):
        raise ValueError("samples")
    return entries, steps


def _settings(config: Entry) -> dict[str, Any]:
    """`shared_settings` with the evaluation file's name alone: the file may lie elsewhere on another machine."""
    settings = shared_settings(config)
    file = settings.get("collatz.eval_csv")
    return settings | {"collatz.eval_csv": Path(file).name if isinstance(file, str) else None}
