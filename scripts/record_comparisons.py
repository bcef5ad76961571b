"""Readers of reports that compare: arms over seeds (analysis/arms/peak_vs_final.py), kinds of updates (K
trajectories), arms of the flossing toy.
"""

from scripts.report_entries import (
    NOT_RECORDED,
    Entry,
    Report,
    dataset_hashes,
    hardware_of,
    measured_here,
    short,
    three_digits,
)


def arms_over_seeds(report: Entry) -> Report:
    """The cells of peak_vs_final.json: means of the arms, then differences, equal budgets and signs."""
    arms, runs = report.parts("arms"), report.parts("runs")
    texts = [_arm(arm) for arm in arms]
    for each in _parts_or_none(report, "differences"):
        start = "" if each.text("start") == "the initial state" else f" ({each.text('start')})"
        texts.append(f"{each.text('arm')} minus {each.text('baseline')}, {each.text('moment')}{start}: {_points(each)}")
    for each in _parts_or_none(report, "equal_budgets"):
        texts.append(f"{each.text('arm')} on validation at equal {each.text('unit')}: {_points(each)}")
    for each in _parts_or_none(report, "signature"):
        texts.append(f"{each.text('verdict')}: {each.text('arm')}: {each.text('sign')}")
    seconds = [run.number("final_seconds") for run in runs if run.values.get("final_seconds") is not None]
    spent = f", {three_digits(sum(seconds))} s of training in {len(runs)} runs" if seconds else ""
    return Report(
        commands=[report.text("command")],
        config_hashes=[short(arm.text("settings_sha256")) for arm in arms],
        commits=report.words("commits"),
        datasets=[dataset_hashes(report.values.get("datasets"))],
        seeds=[str(seed) for seed in report.values.get("seeds") or [NOT_RECORDED]],
        result="; ".join(texts),
        hardware=[f"{'; '.join(report.words('machines'))}{spent}"],
    )


def _arm(arm: Entry) -> str:
    """`TRM baseline_ce (n=5 seeds): initial 51.20 %, best 63.10 % [58.20, 68.00], final ...`; intervals over seeds."""
    parts = []
    for moment in ("initial", "best", "final"):
        if arm.values.get(moment) is None:
            continue
        found = arm.part(moment)
        low, high = (found.optional(found.signed, bound) for bound in ("low", "high"))
        bounds = "" if low is None or high is None else f" [{100 * low:.2f}, {100 * high:.2f}]"
        parts.append(f"{moment} {100 * found.number('mean'):.2f} %{bounds}")
    return f"{arm.text('label')} (n={len(arm.values.get('seeds') or [])} seeds): {', '.join(parts)}"


def _points(each: Entry) -> str:
    interval = each.part("interval")
    low, high = (interval.optional(interval.signed, bound) for bound in ("low", "high"))
    bounds = "no interval" if low is None or high is None else f"[{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{100 * interval.signed('mean'):+.2f} points {bounds}, n={interval.count('n')}"


def _parts_or_none(report: Entry, name: str) -> list[Entry]:
    return report.parts(name) if report.values.get(name) else []


def trajectories(report: Entry) -> Report:
    """The cells of what scripts/benchmark/trajectories.py writes: each kind beside the clean unroll."""
    environment, results = report.part("environment"), report.part("results")
    kinds = {name: results.part(name) for name in results.values}
    smallest = next(iter(kinds.values())).part("peak_memory").count("bytes")
    texts = []
    for name, kind in kinds.items():
        ratio, passes, peak = kind.part("over_baseline"), kind.part("passes"), kind.part("peak_memory").count("bytes")
        times = f", {peak / smallest:.2f} times" if smallest else ""
        seconds = kind.part("seconds").number("median")
        spread = f"[quartiles {ratio.number('q1'):.3f}-{ratio.number('q3'):.3f}, n={ratio.count('count')}]"
        texts.append(
            f"{name} {three_digits(1e3 * seconds)} ms, {ratio.number('median'):.3f} times the clean unroll {spread}, "
            f"{passes.number('trained'):g} passes, peak {peak / 2**20:.0f} MiB{times}"
        )
    size, count = report.count("batch_size"), report.count("num_trajectories")
    result = f"{report.text('preset')} ({size} puzzles, K={count}): {'; '.join(texts)}"
    return measured_here(environment, result, [hardware_of(environment, "num_threads")])


def flossing_toy(report: Entry) -> Report:
    """The cells of flossing_toy.json: verdicts on the source's claims, then accuracies by task, delay and arm."""
    texts = [f"{_verdict(claim)} ({claim.text('name')}): {claim.text('found')}" for claim in report.parts("claims")]
    groups: dict[str, list[str]] = {}
    for each in report.parts("accuracy"):
        interval = each.part("interval")
        low, high = (interval.optional(interval.signed, bound) for bound in ("low", "high"))
        bounds = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
        mean = f"{each.text('arm')} {100 * interval.number('mean'):.2f} %{bounds} (n={interval.count('n')})"
        groups.setdefault(f"{each.text('task')}, delay {each.count('delay')}", []).append(mean)
    texts += [f"{name}: {', '.join(arms)}" for name, arms in groups.items()]
    missing = report.count("missing_cells")
    short_of = f", {missing} more not run" if missing else ""
    spent = f"{three_digits(report.number('seconds'))} s in {report.count('cells')} trainings{short_of}"
    return Report(
        commands=[report.text("command")],
        config_hashes=[short(report.text("settings_sha256"))],
        commits=report.words("commits"),
        datasets=["synthetic"],
        seeds=[str(seed) for seed in report.values.get("seeds") or [NOT_RECORDED]],
        result="; ".join(texts),
        hardware=[f"{'; '.join(report.words('machines'))}, {spent}"],
    )


def _verdict(claim: Entry) -> str:
    holds = claim.optional(claim.flag, "holds")
    return "open" if holds is None else "holds" if holds else "fails"
