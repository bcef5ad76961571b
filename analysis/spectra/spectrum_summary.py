"""`summary.json` of Lyapunov spectra: what they say about failure, with intervals, and beside what costs nothing.

Scores are turned so that more means failure. Per run first, then over runs: puzzles say nothing of how much trainings
differ. Units are nats per supervision step unless a name says per sub-update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from analysis.estimates.failure_statistics import separation, settled_table
from analysis.estimates.matched_failure import matched_auroc, permutation_test, quantile_strata
from analysis.estimates.nested_models import nested_auroc, normal_scores
from analysis.figures.figure_files import make_folder, save_json, save_picture
from analysis.spectra.long_trajectories import SETTLED_DRIFT, long_trajectory_statistics
from analysis.spectra.spectrum_figures import (
    draw_lambda1,
    draw_long_trajectories,
    draw_spectrum,
    lambda1_rows,
    long_trajectory_rows,
    spectrum_rows,
)
from analysis.spectra.spectrum_files import save_table
from analysis.spectra.spectrum_over_runs import (
    beyond_over_runs,
    lambda1_estimate,
    paired_differences,
    statistics_over_runs,
)
from analysis.spectra.spectrum_table import SpectrumTable, Window
from training.records.result_numbers import Number, estimate, rate, record_entry

DIFFICULTY_BINS = 4
FIGURES = ("lambda1_success_failure", "spectrum_shift", "long_rollout")
WRITTEN = ("summary", "spectrum", *FIGURES)  # names of all that is written, without endings


def run_statistics(table: SpectrumTable, *, burn_in: int, draws: int, seed: int) -> dict[str, Any]:
    """All statistics of one run, JSON-able."""
    dropped = int((~table.usable).sum())
    flags = {name: int(array.sum()) for name, array in table.arrays.items() if name.startswith("flag_")}
    whole_table, table = table, table.where(table.usable)
    options = {"draws": draws, "seed": seed}
    head = table.whole(burn_in)
    exponents = table.exponents(head)
    leading, failed = exponents[:, 0], table.failed
    lambda1 = _separation(leading, failed, options)
    return {
        "label": table.label,
        "model": table.model,
        "settings": table.settings,
        "n": len(table),
        "dropped_not_finite": dropped,
        "flags": flags,
        "sample": table.sample,
        "exact_accuracy": whole_table.accuracy,
        "exact_accuracy_by_step": np.average(
            whole_table.arrays["exact"], axis=0, weights=whole_table.arrays.get("weight")
        ).tolist(),
        "steps_measured": table.num_steps,
        "burn_in": burn_in,
        "sub_updates_per_step": table.sub_updates,
        "lambda1": lambda1,
        "lambda1_per_sub_update": {
            name: _scaled(value, 1 / table.sub_updates) for name, value in lambda1.items() if name.startswith("median")
        },
        "lambda1_by_burn_in": {
            str(start): _separation(table.exponents(table.whole(start))[:, 0], failed, options)
            for start in sorted({0, 2, 4, burn_in})
            if start < table.num_steps
        },
        "lambda1_svd": _separation(table.arrays["svd_exponents"][:, 0], failed, options),
        "exponents": [_separation(exponents[:, i], failed, options) for i in range(table.num_exponents)],
        "top_mean": _separation(exponents.mean(axis=1), failed, options),
        "lambda1_largest": float(table.arrays["step_growth"][..., 0].max()) if len(table) else None,
        "num_positive": positive_exponents(exponents, failed),
        "windows": {window.name: _window(table, window, options) for window in table.windows()},
        "estimator": _estimator(table, burn_in),
        "baselines": {name: _separation(values, failed, options) for name, values in table.baselines.items()},
        "beyond_baselines": _beyond(table, leading, options),
        "difficulty_strata": asdict(
            permutation_test(leading, failed, quantile_strata(table.difficulty, DIFFICULTY_BINS), **options)
        ),
        "settled_by_correct": (table.sample or {}).get("settled_by_correct")
        or asdict(settled_table(table.late_drift, failed, SETTLED_DRIFT)),
        "long_rollout": long_trajectory_statistics(table),
    }


def positive_exponents(exponents: np.ndarray, failed: np.ndarray) -> dict[str, Any]:
    """Mean number of exponents above 0 among the k measured, of solved and of failed puzzles; None without any."""
    count = (exponents > 0).sum(axis=1)
    outcomes = {"solved": ~failed, "failed": failed}
    means = {name: float(count[mask].mean()) if mask.any() else None for name, mask in outcomes.items()}
    return {**means, "of": exponents.shape[1]}


def _separation(scores: np.ndarray, failed: np.ndarray, options: Mapping[str, int]) -> dict[str, Any]:
    statistics = asdict(separation(scores, failed, **options))
    return {name: value for name, value in statistics.items() if name not in options}


def _scaled(estimate: dict[str, Any], factor: float) -> dict[str, Any]:
    return {name: value * factor if isinstance(value, float) else value for name, value in estimate.items()}


def _window(table: SpectrumTable, window: Window, options: Mapping[str, int]) -> dict[str, Any]:
    """One window: of all puzzles, and of those not yet solved at its end, whose later failure it would foretell."""
    leading = table.exponents(window)[:, 0]
    open_still = ~table.arrays["exact"][:, window.last - 1]
    return {
        "all": _separation(leading, table.failed, options),
        "not_yet_solved_at_its_end": _separation(leading[open_still], table.failed[open_still], options)
        if window.last < table.num_steps
        else None,
    }


def _estimator(table: SpectrumTable, burn_in: int) -> dict[str, Any]:
    """How much lambda_1 of one puzzle, and the mean of all k, depend on the tangents that they start from."""
    arrays = table.arrays
    variation: dict[str, Any] = {"condition_log_max": float(arrays["condition_log"].max())}
    if "replicate_step_growth" in arrays:
        for start in sorted({0, 2, 4, 8, burn_in}):
            if start >= table.num_steps:
                continue
            first = table.exponents(table.whole(start))
            second = arrays["replicate_step_growth"][:, start:].mean(axis=1)
            variation[f"between_tangents_burn_in_{start}"] = {
                "standard_deviation": _between(first[:, 0], second[:, 0]),
                "correlation": float(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) if len(first) > 2 else None,
                "top_mean_standard_deviation": _between(first.mean(axis=1), second.mean(axis=1)),
                "spread_of_lambda1": float(first[:, 0].std()),
            }
    return variation


def _between(first: np.ndarray, second: np.ndarray) -> float:
    """The standard deviation of one of two measurements of the same."""
    return float(np.sqrt(np.mean((first - second) ** 2) / 2))


def _beyond(table: SpectrumTable, leading: np.ndarray, options: Mapping[str, int]) -> dict[str, Any]:
    """What lambda_1 adds to baselines: all, those without the rules of the task, each alone, and at equal drift."""
    failed, baselines = table.failed, table.baselines
    sets = {"all": list(baselines), "without_rules": [name for name in baselines if name != "violations"]}
    sets |= {name: [name] for name in baselines}
    unsettled = table.late_drift >= SETTLED_DRIFT
    return {
        "nested": {
            name: {"columns": columns}
            | asdict(
                nested_auroc(
                    normal_scores(np.column_stack([baselines[column] for column in columns])),
                    normal_scores(leading),
                    failed,
                    **options,
                )
            )
            for name, columns in sets.items()
        },
        "at_equal_late_drift": asdict(matched_auroc(leading, table.late_drift, failed, **options)),
        "among_unsettled": _separation(leading[unsettled], failed[unsettled], options),
    }


def write_summary(
    out: Path, tables: Sequence[SpectrumTable], *, burn_in: int, draws: int, seed: int, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """summary.json, spectrum.csv of each run, figures with their numbers and captions. Returns the summary."""
    folder = make_folder(out)
    runs = [run_statistics(table, burn_in=burn_in, draws=draws, seed=seed) for table in tables]
    summary: dict[str, Any] = {
        **origin,
        "units": "nats per supervision step; per_sub_update where named",
        "burn_in": burn_in,
        "draws": draws,
        "seed": seed,
        "runs": runs,
        "models": statistics_over_runs(tables, burn_in=burn_in, seed=seed),
        "beyond_baselines": beyond_over_runs(runs),
        "differences": paired_differences(tables, burn_in=burn_in),
    }
    for table in tables:
        run_folder = make_folder(folder if len(tables) == 1 else folder / table.label)
        columns = {name: table.arrays[name] for name in ("weight",) if name in table.arrays}
        columns |= {**table.baselines, "givens": table.arrays["givens"], "rating": table.arrays["rating"]}
        save_table(table.arrays, table.exponents(table.whole(burn_in)), columns, run_folder / "spectrum.csv")
    plain = finite(summary)
    save_json(plain | spectrum_entry(plain), folder / "summary.json")
    save_figures(folder, tables, summary, burn_in)
    return summary


def spectrum_entry(summary: Mapping[str, Any]) -> dict[str, Any]:
    """For the records of results, of what summary.json holds: differences, then every network over its runs."""
    runs = summary["runs"]
    settings = [run["settings"] for run in runs]
    measured: list[Number] = []
    for difference in sorted(summary["differences"], key=lambda one: one["quantity"] == "exact_accuracy"):
        measured += estimate(
            f"{difference['model']} minus {difference['baseline']}: {difference['quantity']}", difference["interval"]
        )
    for model, joint in summary["models"].items():
        measured += _network_numbers(model, joint, [run for run in runs if run["model"] == model], summary)
    how = (
        f"{runs[0]['steps_measured']} steps, first {summary['burn_in']} not counted, {len(runs[0]['exponents'])} "
        f"exponents, {settings[0].get('dtype')}"
    )
    return record_entry(
        measured,
        origin=summary,
        config_hashes=[its_settings.get("weights_sha256") for its_settings in settings],
        datasets=[its_settings.get("data_sha256") for its_settings in settings],
        seeds=[its_settings.get("train_seed") for its_settings in settings],
        findings=[how],
    )


def _network_numbers(
    model: str, joint: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> list[Number]:
    several, scale, unit = len(runs) > 1, 1 / joint["sub_updates_per_step"], "nats per sub-update"
    area = joint["lambda1"]["auroc"]
    measured: list[Number] = []
    settings = [run["settings"] for run in runs]
    if all("lambda_bound_per_step" in its_settings for its_settings in settings):
        largest = max(run["lambda1_largest"] for run in runs)
        bound = max(its_settings["lambda_bound_per_step"] for its_settings in settings)
        measured.append(Number(f"{model}: largest exponent of any step", largest, unit="nats per step"))
        measured.append(Number(f"{model}: bound of the exponents", bound, unit="nats per step"))
    measured += estimate(f"{model}: AUROC of lambda_1", lambda1_estimate(summary, model, "auroc"))
    measured += _over_runs_too(f"{model}: AUROC of lambda_1", area)
    for name, values in joint["scores"].items():
        measured += estimate(f"{model}: AUROC of {name}", values["mean"])
        measured += _over_runs_too(f"{model}: AUROC of {name}", values)
    if not several:
        measured += estimate(f"{model}: AUROC of lambda_1 (Newcombe)", runs[0]["lambda1"]["auroc_newcombe"])
    for outcome in ("solved", "failed"):
        median = lambda1_estimate(summary, model, f"median_{outcome}")
        measured += estimate(f"{model}: median lambda_1, {outcome}", median, scale, unit)
        over_runs = joint["lambda1"][f"median_{outcome}"]
        measured += _over_runs_too(f"{model}: median lambda_1, {outcome}", over_runs, scale, unit)
    for outcome in ("solved", "failed"):
        measured += estimate(f"{model}: positive exponents, {outcome}", joint["num_positive"][outcome]["mean"])
        measured += _over_runs_too(f"{model}: positive exponents, {outcome}", joint["num_positive"][outcome])
    for name, values in joint["baselines"].items():
        measured += estimate(f"{model}: AUROC of {name}", values["mean"])
        measured += _over_runs_too(f"{model}: AUROC of {name}", values)
    added = summary["beyond_baselines"][model]["without_rules"]
    if several and added is not None:
        gain = f"{model}: AUROC that lambda_1 adds to all but the rules (interval over runs)"
        measured += estimate(gain, added["interval"])
        seen = f"{model}: the smallest such gain that would be seen in 4 of 5 studies"
        measured += estimate(seen, {"value": added["smallest_effect"]})
    for number, run in enumerate(runs, start=1):
        added = run["beyond_baselines"]["nested"]["without_rules"]["difference"]
        measured += estimate(f"{model}, run {number}: AUROC that lambda_1 adds to all but the rules", added)
    solved, tables = [run["exact_accuracy"] for run in runs], [run["settled_by_correct"] for run in runs]
    settled = sum(table["settled_failed"] for table in tables)
    failures = settled + sum(table["unsettled_failed"] for table in tables)
    counts = {"solved": [sum(accuracy[part] for accuracy in solved) for part in ("numerator", "denominator")],
              "settled failures": [settled, failures]}  # fmt: skip
    measured += [rate(f"{model}: {name}", *pair) for name, pair in counts.items() if pair[1]]
    longer = [run["long_rollout"] for run in runs if run["long_rollout"] is not None]
    ends = [rollout["kinds_at_end"]["failed"] for rollout in longer]
    for kind in ends[0] if ends else ():
        name = f"{model}: failures after {longer[0]['num_steps']} steps, {kind}"
        measured += (
            [] if kind == "n" else [Number(name, sum(end[kind] for end in ends), of=sum(end["n"] for end in ends))]
        )
    return [*measured, Number(f"{model}: runs", len(runs))]


def _over_runs_too(
    name: str, statistic: Mapping[str, Any], scale: float = 1.0, unit: str | None = None
) -> list[Number]:
    """The same mean with Student's t interval over runs, beside the bootstrap's; none where there is no such."""
    over_runs = statistic.get("over_runs")
    if over_runs is None or over_runs["low"] is None:
        return []
    return estimate(f"{name} (interval over runs)", over_runs, scale, unit)


def save_figures(folder: Path, tables: Sequence[SpectrumTable], summary: Mapping[str, Any], burn_in: int) -> None:
    """lambda1_success_failure, spectrum_shift; long_rollout where trajectories went on: figures, CSV, caption."""
    leading, spectrum = lambda1_rows(tables, burn_in), spectrum_rows(tables, burn_in)
    drawn = [(leading, draw_lambda1(leading, auroc_notes(summary))), (spectrum, draw_spectrum(spectrum))]
    longer = long_trajectory_rows(tables)
    if longer:
        drawn.append((longer, draw_long_trajectories(longer)))
    for name, (rows, figure) in zip(FIGURES, drawn, strict=False):
        save_picture(figure, folder / name, caption=caption(name, tables, summary), rows=rows)


def auroc_notes(summary: Mapping[str, Any]) -> dict[str, str]:
    """A note for each model: `AUROC 0.98 [0.96, 0.99]`, of several runs `AUROC 0.85 [0.62, 1.00], mean of 3 runs`.

    The interval is Newcombe's of one run, which holds with few failures too, and Student's t over several.
    """
    notes = {}
    for model, joint in summary["models"].items():
        number = len(joint["runs"])
        mean = joint["lambda1"]["auroc"]["over_runs"] or {}
        (run, *_) = (run for run in summary["runs"] if run["model"] == model)
        area = {"value": mean.get("mean"), **mean} if number > 1 else run["lambda1"]["auroc_newcombe"]
        if area["value"] is None:
            notes[model] = "one outcome only"
            continue
        low, high = area["low"], area["high"]
        interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
        notes[model] = f"AUROC {area['value']:.2f}{interval}" + (f", mean of {number} runs" if number > 1 else "")
    return notes


def caption(name: str, tables: Sequence[SpectrumTable], summary: Mapping[str, Any]) -> str:
    """What is shown, of what, with n and the caveats that belong to it."""
    first = {
        "lambda1_success_failure": "Leading finite-time Lyapunov exponent of solved and failed puzzles (histograms, "
        "each outcome normalised by itself; values outside the axis stand in the last bins; lines: medians).",
        "spectrum_shift": "Lyapunov spectrum of solved and failed puzzles: median (markers) and quartiles (bands) over "
        "puzzles of each exponent in QR order.",
        "long_rollout": f"Share of trajectories that still move, by a relative change of at least {SETTLED_DRIFT:g} at "
        "this step or later, of puzzles solved and failed at the end of the longer trajectory.",
    }[name]
    lines = [
        f"{first} Success is read from the same trajectory, after {tables[0].num_steps} supervision steps; the first "
        f"{summary['burn_in']} align the tangents and are not counted. Drawn in nats per sub-update: the nats per step "
        "of summary.json divided by the sub-updates of a step."
    ]
    for run in summary["runs"]:
        accuracy, leading = run["exact_accuracy"], run["lambda1"]
        area = leading["auroc"]["value"]
        lines.append(
            f"{run['label']} ({run['model']}): {accuracy['numerator']} of {accuracy['denominator']} solved"
            + _sampled(run)
            + ("" if area is None else f"; AUROC of lambda_1 for failure {_words(leading['auroc'])}")
            + f"; {run['sub_updates_per_step']} sub-updates a step."
        )
    lines.append(
        "Finite time and Euclidean norm: a positive value over so few steps is growth, not proof of chaos. Late drift, "
        "residual and halting value are free and stand beside lambda_1 in summary.json."
    )
    lines.append(f"Figure: {summary['command']}")
    return "\n".join(lines)


def _sampled(run: Mapping[str, Any]) -> str:
    """Of a case-control sample, how many of each outcome were measured."""
    if run["sample"] is None:
        return ""
    counts, strata = run["lambda1"], run["sample"]["strata"]
    solved, failed = counts["n"] - counts["num_failed"], counts["num_failed"]
    return f", of which {solved}, and {failed} failed ones, were measured, equal in {strata} strata of difficulty"


def _words(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} (95 % {estimate['low']:.3f} to {estimate['high']:.3f})"


def finite(value: Any) -> Any:
    """JSON has no infinities: they become text, which a reader cannot take for a number."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return repr(value)
    return value
