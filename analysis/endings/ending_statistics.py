"""How trajectories end, counted: of one network, then over the runs of one kind.

Failed and solved are said of the answer after T steps, and again of the last one. Counts of failed puzzles are of all
that were measured; of solved ones each counts with its weight in the pool, where the sample is a case-control one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from analysis.arms.seed_pairs import mean_interval
from analysis.estimates.failure_statistics import newcombe_interval, settled_table
from analysis.samples.case_control import CaseControl
from analysis.samples.measured_rows import Arrays
from analysis.samples.trajectory_readings import free_scores, late_steps
from analysis.spectra.long_trajectories import RETURN_TOLERANCE, SETTLED_DRIFT, survival
from analysis.spectra.spectrum_table import PLAIN_OBJECTIVE
from errors import UserError
from training.evaluation.answering import counted_rate
from training.evaluation.calibration import auroc

# Of a failed puzzle's trajectory at its end, and of one that has found the answer meanwhile.
KINDS = ("fixed point", "cycle", "moving", "solved later")


@dataclass(frozen=True)
class EndingTable:
    """One network's measurement.

    arrays: as `analysis.endings.ending_measurement` documents. pool: as `analysis.samples.case_control.answered`, of
    all puzzles of which `sample` was drawn. settings: what was measured, of what. num_steps: T.
    """

    label: str
    arrays: Arrays
    pool: Arrays
    sample: CaseControl
    settings: Mapping[str, Any]
    num_steps: int

    @cached_property
    def failed(self) -> np.ndarray:
        """(n,) bool: not right after T steps, on this very trajectory."""
        return ~self.arrays["exact"][:, self.num_steps - 1]

    @cached_property
    def periods(self) -> np.ndarray:
        """(n,) steps after which the last state returns, 1 at a fixed point; 0 where it moves on."""
        returned = self.arrays["recurrence_distance"] <= RETURN_TOLERANCE  # NaN does not return
        return np.where(returned.any(axis=1), returned.argmax(axis=1) + 1, 0)

    @cached_property
    def kinds(self) -> np.ndarray:
        """(n,) of `KINDS` at the end, whatever the answer after T steps was."""
        kinds = np.where(self.periods == 1, "fixed point", np.where(self.periods > 1, "cycle", "moving"))
        return np.where(self.arrays["exact"][:, -1], "solved later", kinds)

    @property
    def group(self) -> str:
        """Runs of one kind: network, width, data, updates, and how it was trained where that was not plainly."""
        settings, updates = self.settings, self.settings["updates"]
        trained = "" if updates is None else f", {updates:,} updates"
        objective = settings.get("objective", PLAIN_OBJECTIVE)
        how = "" if objective == PLAIN_OBJECTIVE else f" {objective}"
        return f"{settings['model']}{how}, width {settings['width']}, {settings['data']}{trained}"


def run_statistics(table: EndingTable) -> dict[str, Any]:
    """All that is counted of one network, JSON-able."""
    pool_failed, failed = table.pool["failed"], table.failed
    late_drift = table.pool["drift"].mean(axis=1)
    still = failed & (table.kinds != "solved later")
    return {
        "label": table.label,
        "group": table.group,
        "settings": dict(table.settings),
        "num_steps": table.num_steps,
        "sample": table.sample.described(),
        "accuracy": counted_rate(int((~pool_failed).sum()), len(pool_failed)),
        "free_scores": {
            name: _separates(score, pool_failed) for name, score in free_scores(table.pool, late_drift).items()
        },
        "settled_by_correct": asdict(settled_table(late_drift, pool_failed, SETTLED_DRIFT)),
        "failed": {
            "n": int(failed.sum()),
            "kinds": _counted(table.kinds[failed], KINDS),
            "of_still_wrong": _counted(table.kinds[still], KINDS[:3]),
            "cycle_lengths": {
                str(period): int((table.periods[still] == period).sum())
                for period in np.unique(table.periods[still]).tolist()
                if period > 1
            },
            "drift_of_moving": _quartiles(_end_drift(table)[still & (table.periods == 0)]),
            "solved_by_step": table.arrays["exact"][failed].sum(axis=0).tolist(),
        },
        "solved": {
            "n": int((~failed).sum()),
            "share_that_moves": _weighted_share(table, ~failed, table.periods == 0),
            "share_lost": _weighted_share(table, ~failed, ~table.arrays["exact"][:, -1]),
        },
        "survival": {
            name: survival(table.arrays["drift"][mask]).as_dict() if mask.any() else None
            for name, mask in (("solved", ~failed), ("failed", failed))
        },
        "restarts": [_restarts(table, place, sigma) for place, sigma in enumerate(table.settings["sigma"])],
        "tolerance": RETURN_TOLERANCE,
        "settled_drift": SETTLED_DRIFT,
    }


def _counted(kinds: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    return {name: counted_rate(int((kinds == name).sum()), len(kinds)) for name in names}


def _end_drift(table: EndingTable) -> np.ndarray:
    drift = table.arrays["drift"]
    return np.asarray(drift[:, -late_steps(drift.shape[1]) :].mean(axis=1))


def _separates(score: np.ndarray, failed: np.ndarray) -> dict[str, Any]:
    """AUROC for failure on all puzzles, with Newcombe's interval."""
    area = auroc(score, failed)
    if area is None:
        return {"value": None, "low": None, "high": None}
    low, high = newcombe_interval(area, int(failed.sum()), int((~failed).sum()))
    return {"value": area, "low": low, "high": high}


def _quartiles(values: np.ndarray) -> list[float] | None:
    return np.quantile(values, [0.25, 0.5, 0.75]).tolist() if len(values) else None


def _weighted_share(table: EndingTable, among: np.ndarray, which: np.ndarray) -> float | None:
    weight = table.sample.weight
    return float(weight[among & which].sum() / weight[among].sum()) if among.any() else None


def _restarts(table: EndingTable, place: int, sigma: float) -> dict[str, Any]:
    """From starts at one distance: of failed puzzles those solved, of solved ones those kept."""
    right, failed = table.arrays["restart_exact"][:, place], table.failed
    numbers: dict[str, Any] = {"sigma": sigma, "starts": int(right.shape[1])}
    for name, mask in (("failed", failed), ("solved", ~failed)):
        chosen = right[mask]
        numbers[name] = {
            "starts_solved": float(chosen.mean()) if len(chosen) else None,
            "solved_from_some_start": counted_rate(int(chosen.any(axis=1).sum()), len(chosen)),
            "solved_from_every_start": counted_rate(int(chosen.all(axis=1).sum()), len(chosen)),
        }
    return numbers


_MOMENTS_OF_SURVIVAL = (256,)


def statistics_over_runs(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By group: means over its runs with Student's t interval, cut at 0 and 1; runs without the number are left out.

    Errors: `UserError` where two runs of a group have one seed, or were measured on different data.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run["group"], []).append(run)
    for name, group in groups.items():
        for first, second in combinations(group, 2):
            for key, fault in (("train_seed", "have one seed"), ("data_sha256", "were measured on different data")):
                known, other = first["settings"].get(key), second["settings"].get(key)
                if None not in (known, other) and (known == other) == (key == "train_seed"):
                    raise UserError(
                        f"{first['label']} and {second['label']} are both of the group '{name}' and {fault}: their "
                        "mean would be of nothing; name one of them, or another --out for each"
                    )
    return {name: _over_runs(group) for name, group in groups.items()}


def _over_runs(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def share(values: Sequence[float | None]) -> dict[str, Any] | None:
        known = [value for value in values if value is not None]
        return asdict(mean_interval(known).within(0, 1)) if known else None

    sigmas = group[0]["restarts"]
    survivals = [run["survival"]["failed"] for run in group if run["survival"]["failed"] is not None]
    rates = [each["escape_rate_per_step"] for each in survivals if each["escape_rate_per_step"] is not None]
    steps = len(survivals[0]["unsettled"]) if survivals else 0
    return {
        "runs": [run["label"] for run in group],
        "accuracy": share([run["accuracy"]["value"] for run in group]),
        "failures_measured": sum(run["failed"]["n"] for run in group),
        "free_scores": {
            name: share([run["free_scores"][name]["value"] for run in group]) for name in group[0]["free_scores"]
        },
        "settled_failures": share([run["settled_by_correct"]["settled_given_failed"]["value"] for run in group]),
        "kinds": {kind: share([run["failed"]["kinds"][kind]["value"] for run in group]) for kind in KINDS},
        "kinds_counted": {
            kind: counted_rate(
                sum(run["failed"]["kinds"][kind]["numerator"] for run in group),
                sum(run["failed"]["n"] for run in group),
            )
            for kind in KINDS
        },
        "of_still_wrong": {
            kind: share([run["failed"]["of_still_wrong"][kind]["value"] for run in group]) for kind in KINDS[:3]
        },
        # Failures that have not settled at the step that spectra end at, at the half of the whole and at its end.
        "unsettled_failures": {
            str(step): share([each["unsettled"][step - 1] / each["total"] for each in survivals])
            for step in sorted({min(group[0]["num_steps"], steps), *_MOMENTS_OF_SURVIVAL, steps})
            if 1 <= step <= steps
        },
        "escape_rate_per_step": asdict(mean_interval(rates).within(0, math.inf)) if rates else None,
        "solved_that_move": share([run["solved"]["share_that_moves"] for run in group]),
        "restarts": [
            {
                "sigma": restart["sigma"],
                "failed_starts_solved": share([run["restarts"][i]["failed"]["starts_solved"] for run in group]),
                "failed_solved_from_some_start": share(
                    [run["restarts"][i]["failed"]["solved_from_some_start"]["value"] for run in group]
                ),
                "solved_starts_kept": share([run["restarts"][i]["solved"]["starts_solved"] for run in group]),
            }
            for i, restart in enumerate(sigmas)
        ],
    }
