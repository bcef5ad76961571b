"""Runs at their end, as summary.json and the files beside it tell, and the arms that they form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.arms.labels import arm_labels
from analysis.arms.run_curves import (
    RunCurve,
    ended_summary,
    number_or_none,
    read_run,
    refuse_other_data,
    refuse_repeated_seeds,
    whole,
)
from dataset.plain_data import JsonError, read_json_object
from errors import UserError
from files import file_sha256
from training.evaluation.row_outcomes import TestRows, read_test_rows
from training.records.metrics_log import read_metrics
from training.records.provenance import settings_sha256
from training.storage.run_folder import RunFolder

MOMENTS = ("initial", "best", "final")
COMPARED = ("best", "final")  # every finished run has these
VALIDATION = "eval/validation/exact_accuracy"


@dataclass(frozen=True)
class TestAccuracy:
    """Test puzzles that the weights after `step` updates solve.

    perturbed: for each kind of perturbed start the rollouts that end in a solution, and their number.
    """

    step: int
    solved: int
    count: int
    perturbed: dict[str, tuple[int, int]]

    @property
    def value(self) -> float:
        return self.solved / self.count


@dataclass(frozen=True)
class FinishedRun:
    """A run at its end. `tested` by moment (`initial` may be missing), `spent`: training compute by moment."""

    curve: RunCurve
    updates: int
    tested: dict[str, TestAccuracy]
    spent: dict[str, dict[str, float | None]]
    rows: TestRows | None

    @property
    def name(self) -> str:
        return self.curve.folder.name

    @property
    def settings(self) -> dict[str, Any]:
        """What makes an arm: the shared settings and the length, unless patience ended the run."""
        patience = self.curve.settings.get("early_stop_patience")
        return {**self.curve.settings, "updates": self.updates if patience is None else None}


@dataclass(frozen=True)
class Arm:
    """Runs of the same settings and length, one for each seed."""

    label: str
    settings_sha256: str
    network: str  # a hash of arch.*
    runs: list[FinishedRun]

    @property
    def by_seed(self) -> dict[int | None, FinishedRun]:
        return {run.curve.seed: run for run in self.runs}

    def values(self, moment: str) -> list[float]:
        """Accuracies of the runs that have been tested at this moment."""
        return [run.tested[moment].value for run in self.runs if moment in run.tested]

    def spent(self, quantity: str) -> float | None:
        """Mean training compute of a whole run (`flops`, `seconds`, `samples`); None where a run does not tell."""
        values = [run.spent["final"].get(quantity) for run in self.runs]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None


def read_finished(folder: Path) -> FinishedRun:
    """Read a run that has reached its end. Errors: `UserError` when it has not, or tested nothing."""
    curve = read_run(folder, VALIDATION, "updates")
    names = RunFolder(folder)
    summary, updates = ended_summary(names, max(record["step"] for record in read_metrics(names.metrics)))
    tests, spent = summary["test"], summary.get("curve")
    tested = {moment: _tested(tests[moment], names.summary, moment) for moment in MOMENTS if tests.get(moment)}
    for moment in COMPARED:
        if moment not in tested:
            raise UserError(f"{names.summary} holds no test of the {moment} weights: the run needs test puzzles")
    costs = {
        moment: {name: number_or_none(point.get(name)) for name in ("flops", "seconds", "samples")}
        for moment in COMPARED
        for point in [_object(_object(spent).get(moment))]
    }
    rows = None
    path = names.test_rows
    if path.is_file():
        rows = read_test_rows(path)
        for moment, test in tested.items():
            exact = rows.exact.get(moment)
            if exact is None or (int(exact.sum()), len(exact)) != (test.solved, test.count):
                raise UserError(
                    f"{path} does not hold the {test.solved} of {test.count} rows that {names.summary} "
                    f"counts for the {moment} weights: remove it to go on without McNemar's test"
                )
    tested = {moment: _with_perturbed(test, folder, moment) for moment, test in tested.items()}
    return FinishedRun(curve, updates, tested, costs, rows)


def _with_perturbed(test: TestAccuracy, folder: Path, moment: str) -> TestAccuracy:
    """The test with accuracy from perturbed starts: the run's own, else what evaluate.py found for these weights.

    A run that went on has other weights of this name, which may solve as many puzzles: their bytes are compared.
    """
    if test.perturbed:
        return test
    perturbed: dict[str, tuple[int, int]] = {}
    for path in sorted(folder.glob(f"evaluation_{moment}_perturbed*.json")):
        try:
            report = read_json_object(path)
            results = [result for result in report["results"] if result["rows"] == "test"]
            exact = results[0]["exact_accuracy"]
            counted, found = _share(exact, "numerator", "denominator"), _perturbed(results[0])
        except (JsonError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is no evaluation of test rows ({error}): make it again with evaluate.py"
            ) from error
        if len(results) != 1 or counted != (test.solved, test.count):
            raise UserError(
                f"{path} counts {counted[0]} of {counted[1]} test rows, the run {test.solved} of "
                f"{test.count}: make it again with evaluate.py"
            )
        weights = folder / f"{moment}.pt"
        if weights.is_file() and report.get("checkpoint_sha256") != file_sha256(weights):
            raise UserError(f"{path} is of other weights than {weights} holds: make it again with evaluate.py")
        perturbed |= found
    return replace(test, perturbed=perturbed)


def _tested(entry: Any, path: Path, moment: str) -> TestAccuracy:
    try:
        return TestAccuracy(whole(entry["step"], "step"), *_share(entry, "numerator", "denominator"), _perturbed(entry))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the test of the {moment} weights is damaged ({error})") from error


def _perturbed(entry: Any) -> dict[str, tuple[int, int]]:
    """Errors: AttributeError, KeyError, TypeError or ValueError for a damaged entry."""
    perturbed = {}
    for measured in entry.get("robustness") or []:
        start = f"sigma {measured['sigma']:g}, {measured['site']}, {whole(measured['rollouts'], 'rollouts')} rollouts"
        perturbed[start] = _share(measured, "exact_count", "count")
    return perturbed


def _share(entry: Any, counted: str, total: str) -> tuple[int, int]:
    counts = whole(entry[counted], counted), whole(entry[total], total)
    if not counts[0] <= counts[1] or not counts[1]:
        raise ValueError(f"found {counts[0]} of {counts[1]}")
    return counts


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def arms_of(runs: Sequence[FinishedRun]) -> list[Arm]:
    """Arms in the order in which their first runs are named. Errors: `UserError`: a seed twice, other data."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(settings_sha256(run.settings), []).append(run)
    arms = []
    labels = arm_labels([members[0].settings for members in groups.values()])
    for (digest, members), label in zip(groups.items(), labels, strict=True):
        refuse_repeated_seeds((run.curve.seed, run.curve.folder) for run in members)
        refuse_other_data((run.curve.provenance, run.curve.folder) for run in members)
        arch = {key: value for key, value in members[0].settings.items() if key.startswith("arch.")}
        arms.append(Arm(label, digest, settings_sha256(arch), members))
    return arms
