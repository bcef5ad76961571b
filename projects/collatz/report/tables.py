"""The report's tables as lines of text: arms beside closed forms, differences, peak and final, hard seeds."""

from collections.abc import Sequence
from typing import Any

from projects.collatz.bounds import Bounds
from projects.collatz.report.arms import CollatzArm, reports_by_lookahead
from projects.collatz.report.comparisons import (
    BEATS_IN_WORDS,
    CLOSED_NAMES,
    AgainstClosed,
    ArmDifference,
    all_metrics,
    describe,
)
from projects.collatz.report.orbit_facts import CORRECTION, SOURCE_TABLE, SOURCE_VIOLATIONS, orbit_facts
from projects.collatz.report.runs import BY_NAME, METRICS, MOMENTS, Metric, sample_metrics
from projects.collatz.syracuse import TEST_STARTS
from training.evaluation.summary_table import fitted, wrapped


def comparison_table(arms: Sequence[CollatzArm]) -> list[str]:
    """Arms, best and final weights, then the closed forms at each lookahead, and the bounds."""
    entry = arms[0].runs[0].entries["final"]
    totals = {key: sum(count["steps"] for count in entry[key].values()) for key in ("orbits", "fresh")}
    headers = [
        f"{metric.header} /{totals[metric.name]:,}" if metric.name in totals else metric.header for metric in METRICS
    ]
    sample = arms[0].runs[0].report["samples"]["on_orbit"]
    file_rows = next((run.rows for arm in arms for run in arm.runs if run.rows is not None), None)
    explained = (
        f"mean [95 % t interval over seeds]; on-orbit: {sample['states']:,} steps of {sample['starts']} orbits from "
        f"{sample['bits']}-bit starts; file: pass % of {file_rows or 'no'} rows, by weight, on growth and decay steps"
    )
    rows = [["", "weights", "n", *headers, "each"]]
    for arm in arms:
        for moment in MOMENTS:
            cells = [_cell(arm, metric, moment) for metric in METRICS]
            rows.append([arm.label, moment, str(len(arm.runs)), *cells, _each_orbit(arm, moment)])
    for lookahead, report in reports_by_lookahead(arms).items():
        for name in CLOSED_NAMES:
            by_orbit = "/".join(str(count["violations"]) for count in report[name]["orbits"].values())
            cells = [metric.shown(metric.read(report[name])) for metric in METRICS]
            rows.append([f"{name} L{lookahead}", "closed form", "", *cells, by_orbit])
    theory = [
        f"in theory at lookahead {lookahead}: {Bounds(**report['bounds']).in_words()}"
        for lookahead, report in reports_by_lookahead(arms).items()
    ]
    return [*wrapped([explained]), *fitted(rows, left=2), *wrapped(theory)]


def _cell(arm: CollatzArm, metric: Metric, moment: str) -> str:
    values = arm.values(metric, moment)
    if values is None:
        return "-"
    interval = metric.mean(values)
    form = ".3f" if metric.name == "on_orbit" else ""
    text = metric.shown(interval.mean, form)
    if interval.bounds is None:
        return text
    low, high = (metric.shown(bound, form) for bound in interval.bounds)
    return f"{text} [{low}, {high}]"


def _each_orbit(arm: CollatzArm, moment: str) -> str:
    """Mean violations along each of the five orbits, in their order."""
    starts = arm.runs[0].entries[moment]["orbits"]
    means = [
        sum(run.entries[moment]["orbits"][start]["violations"] for run in arm.runs) / len(arm.runs) for start in starts
    ]
    return "/".join(f"{mean:.3g}" for mean in means)


def closed_lines(closed: Sequence[AgainstClosed]) -> list[str]:
    """Whether each arm's best weights beat the best closed form, in words."""
    lines = []
    for comparison in closed:
        if comparison.moment != "best":
            continue
        metric = BY_NAME[comparison.metric]
        verb = BEATS_IN_WORDS[comparison.beats]
        if comparison.beats is None and comparison.interval.bounds is None:
            verb = "has too few seeds to be compared with"
        best = f"the best closed form, {comparison.closed_form} ({metric.shown(comparison.closed_value, '.3f')})"
        lines.append(f"{comparison.arm} {verb} {best}, in {metric.header}: {describe(comparison.interval, metric)}")
    return lines


def words_table(arms: Sequence[CollatzArm]) -> list[str]:
    """Violated share of random numbers by bits and of adversarial words, best weights and closed forms, in percent."""
    metrics = sample_metrics(arms[0].runs[0].entries["final"])
    rows = [["violations in %", *(metric.header.removesuffix(" %") for metric in metrics)]]
    for arm in arms:
        means = [arm.values(metric, "best") for metric in metrics]
        rows.append([arm.label, *("-" if values is None else metric.shown(sum(values) / len(values))
                                  for metric, values in zip(metrics, means, strict=True))])  # fmt: skip
    for lookahead, report in reports_by_lookahead(arms).items():
        rows += [
            [f"{name} L{lookahead}", *(metric.shown(metric.read(report[name])) for metric in metrics)]
            for name in CLOSED_NAMES
        ]
    return fitted(rows)


def difference_lines(arms: Sequence[CollatzArm], differences: Sequence[ArmDifference]) -> list[str]:
    """Final weights against the first arm's, in the columns of the table."""
    names = {metric.name for metric in METRICS}
    by_name = {metric.name: metric for metric in all_metrics(arms)}
    lines = [
        f"{difference.arm} minus {difference.baseline}, final, {by_name[difference.metric].header}: "
        f"{describe(difference.interval, by_name[difference.metric])}"
        for difference in differences
        if difference.moment == "final" and difference.metric in names
    ]
    compared = {difference.arm for difference in differences}
    lost = [arm.label for arm in arms[1:] if arm.label not in compared]
    lines += [f"{label}: no seed in common with {arms[0].label}, not compared" for label in lost]
    return lines or ["one arm: nothing to compare"]


def peak_and_final_table(arms: Sequence[CollatzArm]) -> list[str]:
    """A line for each run: the validation share that chose its best weights, best and final on what chose nothing."""
    rows = [["run", "arm", "seed", "validation pass %, best", "@ update", "on-orbit viol. %, best", "final",
             "five orbits, best", "final", "updates", "seconds"]]  # fmt: skip
    on_orbit, orbits = BY_NAME["on_orbit"], BY_NAME["orbits"]
    for arm in arms:
        for run in arm.runs:
            chosen, seconds = (run.summary.get("best") or {}).get("value"), run.summary.get("train_seconds")
            rows.append([
                run.name, arm.label, str(run.seed),
                "-" if chosen is None else f"{100 * chosen:.3f}", str(run.steps["best"]),
                *(on_orbit.shown(on_orbit.read(run.entries[moment]), ".3f") for moment in MOMENTS),
                *(orbits.shown(orbits.read(run.entries[moment]), ".0f") for moment in MOMENTS),
                str(arm.settings["updates"]), "-" if seconds is None else f"{seconds:.0f}",
            ])  # fmt: skip
    return fitted(rows, left=2)


def hard_seed_records(arms: Sequence[CollatzArm]) -> list[dict[str, Any]]:
    """The source's table of its five trajectories, computed anew, with the runs here that violate least along each."""
    records = []
    for start in TEST_STARTS:
        facts = orbit_facts(start, [])
        counts = [
            (run.entries["best"]["orbits"][str(start)]["violations"], run.name, arm.label)
            for arm in arms
            for run in arm.runs
        ]
        fewest = min(count for count, _, _ in counts)
        there = [name for count, name, _ in counts if count == fewest]
        terms, maximum, ratio = SOURCE_TABLE[start]
        records.append({
            "start": start, "steps": facts.steps, "terms": facts.steps + 1, "odd_max": facts.odd_max,
            "odd_ratio": facts.odd_ratio, "full_max": facts.full_max, "full_ratio": facts.full_ratio,
            "source_terms": terms, "source_max": maximum, "source_ratio": ratio,
            "source_max_is_odd_only": maximum == facts.odd_max,
            "source_violations": {str(lookahead): by[start] for lookahead, by in SOURCE_VIOLATIONS.items()},
            "fewest_violations": fewest, "best_runs": there,
        })  # fmt: skip
    return records


def hard_seed_table(records: Sequence[dict[str, Any]]) -> list[str]:
    """start, steps, odd-only maximum and ratio, violations of the source's runs, best run here."""
    rows = [["start", "steps", "odd-only maximum", "ratio", "source's maximum", "source L10", "source L20",
             "fewest here", "by"]]  # fmt: skip
    for record in records:
        by = record["best_runs"]
        names = by[0] if len(by) == 1 else f"{by[0]} and {len(by) - 1} more"
        wrong = "" if record["source_max_is_odd_only"] else " (full map)"
        rows.append([
            str(record["start"]), str(record["steps"]), f"{record['odd_max']:,}", f"{record['odd_ratio']:,.1f}",
            f"{record['source_max']:,}{wrong}", *(str(count) for count in record["source_violations"].values()),
            str(record["fewest_violations"]), names,
        ])  # fmt: skip
    return [*fitted(rows), *wrapped([CORRECTION])]
