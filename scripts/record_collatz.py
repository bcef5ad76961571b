"""Readers of what is measured about Collatz functions: runs compared, functions judged, orbits, steps a second."""

from collections.abc import Callable, Iterator

from scripts.report_entries import (
    NOT_RECORDED,
    Entry,
    Report,
    command_of,
    dataset_hashes,
    git_commit,
    hardware_of,
    measured_here,
    rate,
    short,
    three_digits,
)

_MOMENTS = ("best", "final")


def runs_compared(report: Entry) -> Report:
    """The cells of collatz_report.json: arms, each against the best closed form, and the source's findings."""
    arms, runs = report.parts("arms"), report.parts("runs")
    texts = [_arm(arm, report) for arm in arms]
    for each in report.parts("against_closed"):
        if each.text("moment") == "best" and each.text("metric") == "on_orbit":
            beats = each.optional(each.flag, "beats")
            alone = each.part("interval").values.get("low") is None
            unknown = "has no interval against" if alone else "is not told apart from"
            word = {True: "beats", False: "does not beat", None: unknown}[beats]
            closed = f"{each.text('closed_form')} ({100 * each.number('closed_value'):.3f} %)"
            texts.append(f"{each.text('arm')} {word} {closed}, on-orbit, best: {_interval(each.part('interval'), 100)}")
    for finding in report.parts("findings"):
        if finding.text("verdict") == "not run":
            continue
        measures = "; ".join(
            f"{each.text('what')}, {each.text('between')}: {each.text('text')}" for each in finding.parts("measures")
        )
        texts.append(f"{finding.text('verdict')}: {finding.text('claim')} ({measures})")
    seconds = [run.number("train_seconds") for run in runs
               if run.text("moment") == "final" and run.values.get("train_seconds") is not None]  # fmt: skip
    spent = f", {three_digits(sum(seconds))} s of training in {len(seconds)} runs" if seconds else ""
    return Report(
        commands=[report.text("command")],
        config_hashes=[short(arm.text("settings_sha256")) for arm in arms],
        commits=report.words("commits"),
        datasets=[_drawn(report)],
        seeds=[str(seed) for seed in _listed(report, "seeds")] or [NOT_RECORDED],
        result="; ".join(texts),
        hardware=[f"{'; '.join(report.words('machines'))}{spent}"],
    )


def _drawn(report: Entry) -> str:
    """Training numbers are drawn from the seed; a file that was judged has a hash where the runs recorded it."""
    hashes = dataset_hashes(report.values.get("datasets"))
    return "synthetic" if hashes == NOT_RECORDED else f"synthetic {hashes}"


def _arm(arm: Entry, report: Entry) -> str:
    """`faithful L10 (n=5 seeds): on-orbit violations best 3.96 % [3.90, 4.02], final ...; passed best ...`."""
    totals = {"orbits": report.count("n_orbit_steps"), "fresh": report.count("n_fresh_steps")}
    parts = []
    for name, words in (("on_orbit", "on-orbit violations"), ("pass", "passed"), ("growth_weighted_pass", "gr.wtd"),
                        ("orbits", "five orbits"), ("fresh", "fresh orbits")):  # fmt: skip
        scale, of = (1, f" of {totals[name]:,}") if name in totals else (100, "")
        found = [
            f"{moment} {_mean(arm.part(moment).part(name), scale)}"
            for moment in _MOMENTS
            if arm.part(moment).values.get(name) is not None
        ]
        if found:
            parts.append(f"{words} {', '.join(found)}{of}")
    number = len(_listed(arm, "seeds"))
    return f"{arm.text('label')} (n={number} seed{'' if number == 1 else 's'}): {'; '.join(parts)}"


def _listed(entry: Entry, name: str) -> list[object]:
    value = entry.values.get(name)
    return value if isinstance(value, list) else []


def _mean(found: Entry, scale: int) -> str:
    unit, digits = (" %", 3) if scale == 100 else ("", 1)
    low, high = (found.optional(found.signed, bound) for bound in ("low", "high"))
    bounds = "" if low is None or high is None else f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    return f"{scale * found.number('mean'):.{digits}f}{unit}{bounds}"


def _interval(interval: Entry, scale: int) -> str:
    low, high = (interval.optional(interval.signed, bound) for bound in ("low", "high"))
    bounds = "no interval" if low is None or high is None else f"[{scale * low:+.3f}, {scale * high:+.3f}]"
    return f"{scale * interval.signed('mean'):+.3f} points {bounds}, n={interval.count('n')}"


def functions_judged(report: Entry) -> Report:
    """The cells of `collatz.py --closed-forms --json` and `--evaluate --json`: every function at one lookahead."""
    environment, bounds = report.part("environment"), report.part("bounds")
    checkpoint = report.part("checkpoint") if "checkpoint" in report.values else None
    file = None if report.values.get("eval_csv") is None else report.part("eval_csv")
    theory = ", ".join(f"{100 * bounds.number(name):.4g} %" for name in ("rate_V_avg", "rate_V_min", "lower_bound"))
    texts = [f"lookahead {report.count('lookahead')} (theory: V_avg, V_min and the bound {theory})"]
    texts += [f"{name}: {_function(entry)}" for name, entry in _functions(report)]
    hardware = hardware_of(environment, "num_threads")
    if checkpoint is not None:
        hardware += f", {checkpoint.count('num_params'):,} parameters, preset {checkpoint.text('preset')}"
    return Report(
        commands=[command_of(environment.words("argv"), 1)],
        config_hashes=[NOT_RECORDED if checkpoint is None else f"weights {short(checkpoint.text('sha256'))}"],
        commits=[git_commit(environment)],
        datasets=["none" if file is None else short(file.text("sha256"))],
        seeds=["none" if checkpoint is None else str(checkpoint.count("seed"))],
        result="; ".join(texts),
        hardware=[hardware],
    )


def _functions(report: Entry) -> Iterator[tuple[str, Entry]]:
    """Functions are the entries with orbits of their own."""
    for name, value in report.values.items():
        if isinstance(value, dict) and "orbits" in value and "violations" in value:
            yield name, report.part(name)


def _function(entry: Entry) -> str:
    parts = []
    if entry.values.get("rows") is not None:
        parts.append(f"{_violated(entry, 'rows')} of the file")
        shares = [("weighted_pass", "weighted"), ("growth_pass", "growth"), ("growth_weighted_pass", "gr.wtd")]
        known = [(key, word) for key, word in shares if entry.values.get(key) is not None]
        passed = [f"{word} {100 * entry.number(key):.2f} %" for key, word in known]
        parts += [f"passed: {', '.join(passed)}"] if passed else []
    if "on_orbit" in entry.values:
        parts.append(f"on-orbit {_violated(entry.part('on_orbit'), 'steps')}")
    for key, words in (("orbits", "orbits"), ("fresh", "fresh")):
        if key in entry.values:
            orbits = entry.part(key)
            each = [orbits.part(start) for start in orbits.values]
            violations, steps = (sum(one.count(name) for one in each) for name in ("violations", "steps"))
            parts.append(f"{words} {violations}/{steps}")
    return ", ".join(parts)


def _violated(entry: Entry, of: str) -> str:
    violations, steps = entry.count("violations"), entry.count(of)
    if not steps:
        return "nothing judged"
    return rate({"value": violations / steps, "numerator": violations, "denominator": steps})


def orbits_looked_at(report: Entry) -> Report:
    """The cells of collatz_orbits.json: orbits, closed forms by lookahead, the best V of small windows."""
    environment, sample = report.part("environment"), report.part("sample")
    texts = []
    for each in report.parts("orbits"):
        known = each.optional(each.count, "at_least_as_long")
        record = ", record" if known == 1 else ""
        texts.append(f"{each.count('start')}: {each.count('steps')} steps, mean k {each.number('mean_valuation'):.3f}, "
                     f"odd-only maximum {each.number('odd_ratio'):.1f} times the start{record}")  # fmt: skip
    for row in report.parts("closed_forms"):
        growth, decay = (
            f"{row.count(f'{kind}_violations')}/{row.count(f'{kind}_steps')} {kind}" for kind in ("growth", "decay")
        )
        texts.append(
            f"L={row.count('lookahead')} {row.text('function')}: on-orbit {_violated(row, 'steps')} "
            f"({growth}, {decay}), orbits {row.count('orbit_violations')}/{row.count('orbit_steps')}, "
            f"fresh {row.count('fresh_violations')}/{row.count('fresh_steps')}"
        )
    for best in report.parts("small_windows"):
        equal, weighted = best.part("equal_fewest_growth"), best.part("weighted")
        shares = [100 * weighted.number(name) for name in ("rate", "growth", "decay")]
        texts.append(
            f"best V at L={best.count('lookahead')}: {100 * equal.number('rate'):.3f} % violated, with growth steps at "
            f"{weighted.number('growth_weight'):g}:1 {shares[0]:.3f} % ({shares[1]:.3f} growth, {shares[2]:.3f} decay)"
        )
    return Report(
        commands=[report.text("command")],
        config_hashes=[NOT_RECORDED],
        commits=[git_commit(environment)],
        datasets=["synthetic"],
        seeds=[str(sample.count("seed"))],
        result="; ".join(texts),
        hardware=[hardware_of(environment, "num_threads")],
    )


def steps_a_second(report: Entry) -> Report:
    """The cells of `projects/collatz/benchmark.py --json`: exact steps a second of each path."""
    environment = report.part("environment")
    texts = []
    for each in report.parts("rates"):
        seconds, steps = each.part("seconds"), each.count("steps")
        q1, q3 = (steps / seconds.number(name) / 1e6 if seconds.number(name) else 0.0 for name in ("q3", "q1"))
        goal = each.optional(each.number, "goal")
        asked = "" if goal is None else f", goal {goal / 1e6:.0f}"
        texts.append(
            f"{each.text('name')} {each.number('steps_per_second') / 1e6:.1f} M steps/s [quartiles {q1:.1f}-{q3:.1f}, "
            f"n={seconds.count('count')}]{asked}"
        )
    for each in report.parts("loaders"):
        milliseconds = [1e3 * each.part(f"{part}_seconds").number("median") for part in ("load", "update")]
        texts.append(
            f"batch of {each.text('name')} {milliseconds[0]:.2f} ms, {100 * each.number('share'):.0f} % of it and its "
            f"update ({milliseconds[1]:.1f} ms)"
        )
    return measured_here(environment, "; ".join(texts), [hardware_of(environment, "num_threads")])


# The entries that only this kind of report has together.
COLLATZ_READERS: dict[tuple[str, ...], Callable[[Entry], Report]] = {
    ("arms", "findings", "against_closed"): runs_compared,
    ("environment", "lookahead", "orbits_total"): functions_judged,
    ("environment", "orbits", "small_windows"): orbits_looked_at,
    ("environment", "rates"): steps_a_second,
}
