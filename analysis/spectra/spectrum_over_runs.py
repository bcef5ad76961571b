"""Lyapunov spectra of several runs: of one network together, and of one network trained in two ways seed by seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from analysis.arms.seed_pairs import mean_interval, smallest_effect
from analysis.arms.several_runs import Statistic, hierarchical_bootstrap
from analysis.estimates.failure_statistics import median_difference
from analysis.spectra.spectrum_table import SpectrumTable, by_model
from training.evaluation.calibration import auroc

# The statistic is called once per run and draw.
DRAWS_OVER_RUNS = 2000


def statistics_over_runs(tables: Sequence[SpectrumTable], *, burn_in: int, seed: int) -> dict[str, Any]:
    """Per model over its runs: AUROC and medians of lambda_1, exponents by outcome, with what runs vary by."""
    return {model: _over_runs(group, burn_in, seed) for model, group in by_model(tables).items()}


def lambda1_estimate(summary: Mapping[str, Any], model: str, name: str) -> Mapping[str, Any]:
    """`auroc` or a median of a `summary.json`: over the runs of a model where there are several, else its one run's."""
    runs = [run for run in summary["runs"] if run["model"] == model]
    estimate: Mapping[str, Any] = (
        summary["models"][model]["lambda1"][name]["mean"] if len(runs) > 1 else runs[0]["lambda1"][name]
    )
    return estimate


def _over_runs(group: Sequence[SpectrumTable], burn_in: int, seed: int) -> dict[str, Any]:
    kept = [table.where(table.usable) for table in group]
    rows = [table.arrays["row"].tolist() for table in kept]
    data = {table.settings.get("data_sha256") for table in kept}
    same_puzzles = len(data) == 1 and all(others == rows[0] for others in rows)
    exponents = [table.exponents(table.whole(burn_in)) for table in kept]

    def over_runs(scores: Sequence[np.ndarray], statistic: Statistic) -> dict[str, Any]:
        pairs = [(of_run, table.failed) for of_run, table in zip(scores, kept, strict=True)]
        several = hierarchical_bootstrap(pairs, statistic, same_puzzles=same_puzzles, draws=DRAWS_OVER_RUNS, seed=seed)
        if statistic is auroc and several.over_runs is not None:
            several = replace(several, over_runs=several.over_runs.within(0, 1))
        return asdict(several)

    medians = {"median_solved": _of(False, np.median), "median_failed": _of(True, np.median)}
    leading, top_mean = [of_run[:, 0] for of_run in exponents], [of_run.mean(axis=1) for of_run in exponents]
    positive = [(of_run > 0).sum(axis=1) for of_run in exponents]
    lambda1: dict[str, Statistic] = {"auroc": auroc, "median_difference": median_difference, **medians}
    svd = [table.arrays["svd_exponents"] for table in kept]
    # Beside the first column of the QR, which is the noisiest of them.
    scores = {
        "the mean of all exponents": top_mean,
        "the leading exponent of singular values": [of_run[:, 0] for of_run in svd],
        "the mean of all exponents of singular values": [of_run.mean(axis=1) for of_run in svd],
    }
    return {
        "runs": [table.label for table in group],
        "sub_updates_per_step": group[0].sub_updates,
        "lambda1": {name: over_runs(leading, statistic) for name, statistic in lambda1.items()},
        "top_mean": {name: over_runs(top_mean, statistic) for name, statistic in medians.items()},
        "num_positive": {
            name: over_runs(positive, _of(is_failed, np.mean))
            for name, is_failed in (("solved", False), ("failed", True))
        },
        "scores": {name: over_runs(of_runs, auroc) for name, of_runs in scores.items()},
        "baselines": {name: over_runs([table.baselines[name] for table in kept], auroc) for name in kept[0].baselines},
    }


def beyond_over_runs(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per model and set of baselines: what lambda_1 adds to their AUROC, over runs; None where it is undefined.

    interval: mean and Student's t interval over runs. smallest_effect: what a study of so many runs would have found in
    four of five repetitions; None for one run.
    """
    models: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        models.setdefault(run["model"], []).append(run["beyond_baselines"]["nested"])
    beyond: dict[str, Any] = {}
    for model, of_runs in models.items():
        beyond[model] = {}
        for name in of_runs[0]:
            known = [nested[name]["difference"]["value"] for nested in of_runs]
            values = [value for value in known if value is not None]
            beyond[model][name] = (
                {"values": known, "interval": asdict(mean_interval(values)), "smallest_effect": smallest_effect(values)}
                if values
                else None
            )
    return beyond


def paired_differences(tables: Sequence[SpectrumTable], *, burn_in: int) -> list[dict[str, Any]]:
    """The same network trained in another way, seed by seed: what that changed in solved and in failed puzzles.

    The first way named is the baseline. Values are another way's minus the baseline's for each seed that both have:
    medians of lambda_1 and of the mean over the exponents, the mean number of positive ones, the accuracy (of
    case-control samples that of the pool; all else is of either network's own sample). Intervals are Student's t
    over seeds.
    """
    differences = []
    groups = list(by_model(tables).items())
    for number, (model, group) in enumerate(groups):
        network = group[0].settings["model"]
        baseline = next((earlier for earlier in groups[:number] if earlier[1][0].settings["model"] == network), None)
        if baseline is None:
            continue
        by_seed, baseline_by_seed = (
            {table.settings["train_seed"]: table for table in tables_of_one} for tables_of_one in (group, baseline[1])
        )
        seeds = [seed for seed in by_seed if seed in baseline_by_seed]
        numbers = [(_numbers(by_seed[seed], burn_in), _numbers(baseline_by_seed[seed], burn_in)) for seed in seeds]
        for name in numbers[0][0] if numbers else ():
            values = [first[name] - second[name] for first, second in numbers if name in first and name in second]
            differences.append({
                "model": model, "baseline": baseline[0], "quantity": name, "seeds": seeds, "values": values,
                "interval": asdict(mean_interval(values)) if values else None,
            })  # fmt: skip
    return differences


def _numbers(table: SpectrumTable, burn_in: int) -> dict[str, float]:
    table = table.where(table.usable)
    exponents, numbers = table.exponents(table.whole(burn_in)), {"exact_accuracy": table.accuracy["value"]}
    for name, mask in (("solved", ~table.failed), ("failed", table.failed)):
        if mask.any():
            of_outcome = exponents[mask]
            numbers[f"lambda1_median_{name}"] = float(np.median(of_outcome[:, 0]))
            numbers[f"top_mean_median_{name}"] = float(np.median(of_outcome.mean(axis=1)))
            numbers[f"num_positive_mean_{name}"] = float((of_outcome > 0).sum(axis=1).mean())
    return numbers


def _of(is_failed: bool, statistic: Callable[[np.ndarray], Any]) -> Statistic:
    """The statistic of one outcome's scores; None where nothing has that outcome."""

    def of_outcome(scores: np.ndarray, failed: np.ndarray) -> float | None:
        chosen = scores[failed == is_failed]
        return float(statistic(chosen)) if len(chosen) else None

    return of_outcome
