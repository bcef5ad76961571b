"""The source's findings, line by line, as Collatz runs here confirm them, refute them, or leave them open.

A finding compares arms that differ in nothing but what it speaks of, on the seeds that both have, by their final
weights. Each of its measures is confirmed or refuted when the 95 % t interval over seeds lies on one side of 0, and
open otherwise, as with a single seed. The finding is confirmed when all its measures on several seeds are; refuted when
one is and none is confirmed; open otherwise. Of a claim with several parts all measures count, and one refuted part
refutes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.arms.seed_pairs import MeanInterval, mean_interval
from projects.collatz.report.arms import CollatzArm
from projects.collatz.report.claims import CLAIMS, RATE, Claim, IsPair, Settings, changes
from projects.collatz.report.comparisons import best_closed_form, by_seed, describe
from projects.collatz.report.margins import OrbitMargins
from projects.collatz.report.runs import BY_NAME, CollatzRun, Metric

HARD_STARTS = (703, 26623, 626331)  # those that no run of the source solves
PLATEAU = 0.1  # change of the second half of a run, relative, below which nothing is gained
COLLAPSED = 1e-2  # of the first rate
_POINTS, _COUNT = BY_NAME["on_orbit"], BY_NAME["orbits"]
_NATS = Metric("worst_margin", "worst margin", 1, lambda entry: None, unit="nats")
_CHANGE = Metric("second_half", "change", 100, lambda entry: None, unit="%")


@dataclass(frozen=True)
class Measure:
    """One comparison that decides a claim: what, between which arms, mean and interval, verdict."""

    what: str
    between: str
    text: str
    interval: MeanInterval | None
    verdict: str

    @property
    def is_single(self) -> bool:
        """Whether it rests on a single seed, which decides nothing."""
        return self.interval is not None and self.interval.n == 1


@dataclass(frozen=True)
class Finding:
    """A line of the source. `parts`: its measures are parts of the claim, each of which has to hold."""

    name: str
    claim: str
    source: str
    measures: list[Measure]
    parts: bool = False

    @property
    def verdict(self) -> str:
        """confirmed, refuted, open, or not run."""
        verdicts = {measure.verdict for measure in self.measures if self.parts or not measure.is_single} or {"open"}
        if not self.measures:
            return "not run"
        if verdicts == {"confirmed"}:
            return "confirmed"
        if "refuted" in verdicts and (self.parts or "confirmed" not in verdicts):
            return "refuted"
        return "open"


def findings(arms: Sequence[CollatzArm], margins: Mapping[Path, OrbitMargins]) -> list[Finding]:
    """All of them, those that no arm here speaks of included. `margins`: of the final weights, by run folder."""
    by_claim = {claim.name: _of_pairs(claim, arms) for claim in CLAIMS}
    return [
        by_claim["mining"],
        by_claim["gentler_mining"],
        _t4(arms, margins),
        by_claim["lookahead"],
        _beyond_closed_forms(arms),
        by_claim["ramp"],
        _plateau(arms),
        _collapse(arms),
        _growth_is_easy(arms),
        by_claim["adaptive"],
        by_claim["smaller"],
        by_claim["test_orbits"],
    ]


def pairs(arms: Sequence[CollatzArm], keys: frozenset[str], is_pair: IsPair) -> list[tuple[CollatzArm, CollatzArm]]:
    """(first, second) arms that differ in `keys` only and are a pair; with the curve of updates alike."""
    return [
        (first, second)
        for first in arms
        for second in arms
        if first is not second
        and _differing(first.settings, second.settings) <= keys
        and is_pair(first.settings, second.settings)
    ]


def _differing(first: Settings, second: Settings) -> set[str]:
    return {key for key in {*first, *second} if first.get(key) != second.get(key)}


def _of_pairs(claim: Claim, arms: Sequence[CollatzArm]) -> Finding:
    measures = []
    for first, second in pairs(arms, claim.keys, claim.is_pair):
        for metric in (BY_NAME[name] for name in claim.metrics):
            values = by_seed(second, first, _final(metric))
            if values:
                rises_when_true = claim.worse == metric.less_is_better
                measures.append(_measure(metric.header, second, first, values, metric, rises_when_true))
    return Finding(claim.name, claim.claim, claim.source, measures)


def _final(metric: Metric) -> Callable[[CollatzRun], float | None]:
    return lambda run: metric.read(run.entries["final"])


def _measure(
    what: str, arm: CollatzArm, baseline: CollatzArm, values: list[float], metric: Metric, rises_when_true: bool
) -> Measure:
    interval = mean_interval(values)
    between = f"{arm.label} minus {baseline.label}"
    return Measure(what, between, describe(interval, metric), interval, side(interval, rises_when_true))


def side(interval: MeanInterval, rises_when_true: bool) -> str:
    """Verdict on "the mean is above 0", or else below."""
    return {1: "confirmed", -1: "refuted", 0: "open"}[interval.side if rises_when_true else -interval.side]


def _t4(arms: Sequence[CollatzArm], margins: Mapping[Path, OrbitMargins]) -> Finding:
    def worst(run: CollatzRun) -> float | None:
        along = margins.get(run.folder)
        if along is None or along.slope <= 0:
            return None
        return float(np.mean([along.worst(start) or 0.0 for start in HARD_STARTS]))

    measures = []
    for first, second in pairs(arms, frozenset({"collatz.use_t4"}), changes("collatz.use_t4", False, True)):
        values = by_seed(second, first, _final(_COUNT))
        measures.append(_measure("five orbits, fewer violations", second, first, values, _COUNT, False))
        values = by_seed(second, first, worst)
        if values:
            what = "worst margin, mean over 703, 26623, 626331, on the scale of ln n: worse"
            measures.append(_measure(what, second, first, values, _NATS, False))
    return Finding("t4", "T4 gives fewer violations and worse margins", "source, runs 3 and 4: 80 and 73 "
                   "violations; worst margin of 626331 -0.66 and -1.22 (of a V without fixed scale)", measures,
                   parts=True)  # fmt: skip


def _beyond_closed_forms(arms: Sequence[CollatzArm]) -> Finding:
    """A longer lookahead also makes the closed forms better, without learning anything."""
    lookahead = next(claim for claim in CLAIMS if claim.name == "lookahead")

    def excess(run: CollatzRun) -> float | None:
        best, rate = best_closed_form(run.report, _POINTS), _POINTS.read(run.entries["final"])
        return None if best is None or rate is None else rate - best[1]

    measures = [
        _measure("on-orbit viol. % above the best closed form", second, first, values, _POINTS, False)
        for first, second in pairs(arms, lookahead.keys, lookahead.is_pair)
        for values in [by_seed(second, first, excess)]
        if values
    ]
    return Finding("lookahead_beyond", "a longer lookahead helps the network more than it helps the closed forms",
                   "not the source's, which has no closed forms", measures)  # fmt: skip


def _plateau(arms: Sequence[CollatzArm]) -> Finding:
    measures = []
    for arm in arms:
        changes = [_second_half(run) for run in arm.runs]
        known = [change for change in changes if change is not None]
        if arm.runs[0].preset != "faithful" or not known or len(known) < len(changes):
            continue
        interval = mean_interval(known)
        verdict = "open"
        if interval.bounds is not None:
            low, high = interval.bounds
            inside, outside = -PLATEAU < low and high < PLATEAU, high < -PLATEAU or low > PLATEAU
            verdict = "confirmed" if inside else "refuted" if outside else "open"
        measures.append(Measure("violated validation states, second half against half-way", arm.label,
                                describe(interval, _CHANGE), interval, verdict))  # fmt: skip
    return Finding("plateau", f"the second half of a run changes its violations by less than {100 * PLATEAU:.0f} %",
                   "source, all runs: nothing gained from update 50,000 to 100,000", measures)  # fmt: skip


def _second_half(run: CollatzRun) -> float | None:
    """Relative change of the violated validation states from the evaluation nearest half-way to the last."""
    curve = run.curve("eval/validation/violations")
    if len(curve) < 2:
        return None
    half = min(curve[:-1], key=lambda point: abs(point[0] - curve[-1][0] / 2))
    return (curve[-1][1] - half[1]) / half[1] if half[1] else None


def _collapse(arms: Sequence[CollatzArm]) -> Finding:
    """Did the rate collapse where it may, and does a rate that does not end better?"""
    measures = []
    for arm in arms:
        if arm.settings["collatz.legacy_lr_plateau"]:
            curves = [run.curve("train/lr") for run in arm.runs]
            if not all(curves):
                continue
            ends = [curve[-1][1] / curve[0][1] if curve[0][1] else 0.0 for curve in curves]
            when = [next((step for step, rate in curve if rate <= COLLAPSED * curve[0][1]), None) for curve in curves]
            fallen = all(end <= COLLAPSED for end in ends)
            words = f"last rate {min(ends):.3g} to {max(ends):.3g} of the first; below {COLLAPSED:g} of it "
            words += "at update " + ", ".join("never" if step is None else str(step) for step in when)
            verdict = "confirmed" if fallen else "refuted" if all(end > COLLAPSED for end in ends) else "open"
            measures.append(Measure("the rate collapses", arm.label, words, None, verdict))
    claim = Claim("", "", "", RATE, changes("collatz.legacy_lr_plateau", True, False), worse=False)
    measures += _of_pairs(claim, arms).measures
    return Finding("collapse", "the plateau is a collapse of the learning rate",
                   "not the source's, which blames exhausted seeds; its rate halves when single losses set no record",
                   measures, parts=True)  # fmt: skip


def _growth_is_easy(arms: Sequence[CollatzArm]) -> Finding:
    growth, decay = BY_NAME["growth_pass"], BY_NAME["decay_pass"]
    measures = []
    for arm in arms:
        passed, others = arm.values(growth, "final"), arm.values(decay, "final")
        if arm.runs[0].preset == "faithful" and passed is not None and others is not None:
            interval = mean_interval([on_growth - on_decay for on_growth, on_decay in zip(passed, others, strict=True)])
            measures.append(Measure("passed growth steps minus passed decay steps", arm.label,
                                    describe(interval, growth), interval, side(interval, True)))  # fmt: skip
    return Finding("growth_is_easy", "growth steps fail less than decay steps", "source, runs 2 to 6: 98.5 to "
                   "99.8 % of growth steps passed, which leaves 92 to 96 % of decay steps", measures)  # fmt: skip


def finding_lines(judged: Sequence[Finding]) -> list[str]:
    """Lines for people: verdict and claim, then what decides it."""
    lines = []
    for finding in judged:
        lines.append(f"{finding.verdict}: {finding.claim} ({finding.source})")
        lines += [
            f"  {measure.verdict}: {measure.what}, {measure.between}: {measure.text}" for measure in finding.measures
        ]
    return lines
