"""Arms of Collatz runs against the first arm and against the closed forms, seed by seed, with t intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.arms.seed_pairs import MeanInterval, mean_interval
from projects.collatz.closed_forms import CLOSED_FORMS
from projects.collatz.evaluation_report import verdict
from projects.collatz.report.arms import CollatzArm, reports_by_lookahead
from projects.collatz.report.runs import BY_NAME, METRICS, MOMENTS, CollatzRun, Metric, sample_metrics

CLOSED_NAMES = tuple(form.name for form in CLOSED_FORMS)
_AGAINST = ("on_orbit", "orbits", "fresh")
BEATS_IN_WORDS = {True: "beats", False: "does not beat", None: "is not told apart from"}
_BEATS = {-1: True, 1: False, 0: None}  # by the side of 0 on which the interval of more violations lies


@dataclass(frozen=True)
class ArmDifference:
    """An arm minus its baseline in one metric at one moment, on the seeds that both have."""

    arm: str
    baseline: str
    moment: str
    metric: str
    seeds: list[int | None]
    values: list[float]
    interval: MeanInterval


@dataclass(frozen=True)
class AgainstClosed:
    """An arm minus the best closed form at its lookahead, on the same steps. `beats`: None where it is not decided."""

    arm: str
    moment: str
    metric: str
    closed_form: str
    closed_value: float
    interval: MeanInterval
    beats: bool | None


def all_metrics(arms: Sequence[CollatzArm]) -> list[Metric]:
    """The columns of the table, then sizes and words."""
    return [*METRICS, *sample_metrics(arms[0].runs[0].entries["final"])]


def by_seed(arm: CollatzArm, baseline: CollatzArm, read: Callable[[CollatzRun], float | None]) -> list[float]:
    """What `read` says of the arm minus the baseline on common seeds; empty where a run has no value."""
    pairs = [(read(run), read(baseline.by_seed[seed])) for seed, run in arm.by_seed.items() if seed in baseline.by_seed]
    values = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    return values if len(values) == len(pairs) else []


def paired(arm: CollatzArm, baseline: CollatzArm, metric: Metric, moment: str) -> ArmDifference | None:
    """None where they share no seed, or a run was not measured."""
    values = by_seed(arm, baseline, lambda run: metric.read(run.entries[moment]))
    if not values:
        return None
    seeds = [seed for seed in arm.by_seed if seed in baseline.by_seed]
    return ArmDifference(arm.label, baseline.label, moment, metric.name, seeds, values, mean_interval(values))


def differences(arms: Sequence[CollatzArm]) -> list[ArmDifference]:
    """Every arm against the first, in every metric, at the best and the final weights."""
    compared = [
        paired(arm, arms[0], metric, moment) for arm in arms[1:] for moment in MOMENTS for metric in all_metrics(arms)
    ]
    return [difference for difference in compared if difference is not None]


def best_closed_form(report: Mapping[str, Any], metric: Metric) -> tuple[str, float] | None:
    """The closed form of a run's report with the fewest violations by a metric of which less is better."""
    values = {name: metric.read(report[name]) for name in CLOSED_NAMES}
    known = {name: value for name, value in values.items() if value is not None}
    return min(known.items(), key=lambda item: item[1]) if known else None


def against_closed(arms: Sequence[CollatzArm]) -> list[AgainstClosed]:
    """Every arm against the best closed form: on-orbit rate, five orbits, fresh orbits."""
    comparisons = []
    for arm in arms:
        for moment in MOMENTS:
            for metric in (BY_NAME[name] for name in _AGAINST):
                values, best = arm.values(metric, moment), best_closed_form(arm.runs[0].report, metric)
                if values is None or best is None:
                    continue
                interval = mean_interval([value - best[1] for value in values])
                comparisons.append(
                    AgainstClosed(arm.label, moment, metric.name, *best, interval, _BEATS[interval.side])
                )
    return comparisons


def run_verdicts(run: CollatzRun) -> dict[str, str]:
    """Whether the weights of a moment violate less on-orbit steps than the best closed form, in words, by moment."""
    same = run.entries["best"] is run.entries["final"]
    names = {"best": "V_final" if same else "V_best", "final": "V_final"}
    return {
        moment: verdict(run.report, name).replace(name, f"{run.name}, {moment} weights,", 1)
        for moment, name in names.items()
    }


def describe(interval: MeanInterval, metric: Metric) -> str:
    """`-0.520 points, 95 % t interval -0.800 to -0.240, 5 seeds`, or violations where the metric counts them."""
    return interval.in_words("+.1f" if metric.unit == "violations" else "+.3f", scale=metric.scale, unit=metric.unit)


def arm_records(arms: Sequence[CollatzArm]) -> list[dict[str, Any]]:
    """One entry per arm: seeds, and mean and interval of every metric at the best and the final weights."""
    records = []
    for arm in arms:
        measured: dict[str, dict[str, Any]] = {moment: {} for moment in MOMENTS}
        for moment in MOMENTS:
            for metric in all_metrics(arms):
                values = arm.values(metric, moment)
                measured[moment][metric.name] = None if values is None else asdict(metric.mean(values))
        records.append({
            "label": arm.label, "settings_sha256": arm.settings_sha256, "lookahead": arm.lookahead,
            "preset": arm.runs[0].preset, "seeds": [run.seed for run in arm.runs],
            "runs": [run.name for run in arm.runs], "updates": arm.settings["updates"],
            "num_params": arm.runs[0].summary.get("num_params"), **measured,
        })  # fmt: skip
    return records


def run_records(arms: Sequence[CollatzArm]) -> list[dict[str, Any]]:
    """One flat row per run and moment; empty where something was not measured. Shares are from 0 to 1."""
    rows = []
    for arm in arms:
        for run in arm.runs:
            for moment in MOMENTS:
                entry = run.entries[moment]
                low, high = entry["on_orbit"]["rate_interval"]
                best = run.summary.get("best") or {}
                rows.append({
                    "run": run.name, "arm": arm.label, "seed": run.seed, "lookahead": run.lookahead, "moment": moment,
                    "step": run.steps[moment], "updates": arm.settings["updates"],
                    "validation_pass": best.get("value") if moment == "best" else _last(run, "eval/validation/pass"),
                    "on_orbit_steps": entry["on_orbit"]["steps"], "on_orbit_low": low, "on_orbit_high": high,
                    **{metric.name: metric.read(entry) for metric in all_metrics(arms)},
                    **{f"orbit_{start}": count["violations"] for start, count in entry["orbits"].items()},
                    "train_seconds": run.summary.get("train_seconds"), "num_params": run.summary.get("num_params"),
                })  # fmt: skip
    return rows


def _last(run: CollatzRun, key: str) -> float | None:
    curve = run.curve(key)
    return curve[-1][1] if curve else None


def closed_records(arms: Sequence[CollatzArm]) -> dict[str, dict[str, Any]]:
    """The closed forms in every metric and the bounds, on the steps that the runs were judged on, by lookahead."""
    return {
        str(lookahead): {
            "bounds": report["bounds"],
            "functions": {
                name: {metric.name: metric.read(report[name]) for metric in all_metrics(arms)}
                | {f"orbit_{start}": count["violations"] for start, count in report[name]["orbits"].items()}
                for name in CLOSED_NAMES
            },
        }
        for lookahead, report in reports_by_lookahead(arms).items()
    }
