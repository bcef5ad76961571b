"""What decides a finding of the source, on made-up runs whose differences are known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.arms.seed_pairs import mean_interval
from projects.collatz.closed_forms import CLOSED_FORMS
from projects.collatz.report.arms import arm_labels, collatz_arms
from projects.collatz.report.comparisons import against_closed
from projects.collatz.report.findings import Finding, findings
from projects.collatz.report.margins import OrbitMargins
from projects.collatz.report.runs import CollatzRun
from projects.collatz.syracuse import TEST_STARTS
from training.records.provenance import settings_sha256

BASE: dict[str, Any] = {
    "collatz.preset": "faithful", "collatz.lookahead": 10, "collatz.layers": [64, 32], "collatz.mine_negatives": False,
    "collatz.mine_interval": 5000, "collatz.mine_count": 50, "collatz.mine_start_epoch": 0, "collatz.use_t4": False,
    "collatz.ramp_len": 100, "collatz.target_type": "fixed", "collatz.legacy_lr_plateau": True, "lr_min_ratio": 1.0,
    "collatz.decontaminate": False, "collatz.empty_pool": "reserved-seed", "updates": 100,
}  # fmt: skip


def entry_of(orbits: int, passes: float, rate: float, growth: float = 0.9) -> dict[str, Any]:
    counted = {"steps": 1000, "violations": round(1000 * rate), "rate_interval": [0.0, 1.0]}
    return {
        "rows": 1000, "violations": round(1000 * (1 - passes)), "pass": passes, "weighted_pass": passes,
        "growth_rows": 500, "growth_pass": growth, "growth_weighted_pass": growth, "free_pass": passes,
        "on_orbit": counted, "orbits": {"27": {"steps": 429, "violations": orbits}},
        "fresh": {"1723519": {"steps": 207, "violations": 5}}, "sizes": {"16": counted}, "adversarial": {"a": counted},
    }  # fmt: skip


def fake(seed: int, orbits: int = 50, passes: float = 0.95, rate: float = 0.05, *, growth: float = 0.9,
         log: dict[str, list[tuple[int, float]]] | None = None, **settings: Any) -> CollatzRun:  # fmt: skip
    complete = BASE | {
        key if key in ("lr_min_ratio", "updates") else f"collatz.{key}": value for key, value in settings.items()
    }
    entry = entry_of(orbits, passes, rate, growth)
    closed = entry_of(30, 0.97, 0.03)
    report = {"lookahead": complete["collatz.lookahead"], "V_final": entry,
              **{form.name: closed for form in CLOSED_FORMS},
              "samples": {"on_orbit": {"states": 1000}}}  # fmt: skip
    points = [{"step": step, key: value} for key, curve in (log or {}).items() for step, value in curve]
    name = "-".join([*(f"{key}={value}" for key, value in settings.items()), str(seed)])
    return CollatzRun(Path(name), seed, complete, {}, {"test": {}}, report, {"best": entry, "final": entry},
                      {"best": 100, "final": 100}, points)  # fmt: skip


def finding(name: str, runs: list[CollatzRun], margins: dict[Path, OrbitMargins] | None = None) -> Finding:
    return next(judged for judged in findings(collatz_arms(runs), margins or {}) if judged.name == name)


def with_and_without(gaps: list[tuple[int, float, float]], **settings: Any) -> list[CollatzRun]:
    """Baselines that differ by seed, and runs that differ from them by (orbits, passes, rate)."""
    plain = [fake(seed, 50 + 7 * seed, 0.90 + 0.01 * seed, 0.05 + 0.004 * seed) for seed in range(len(gaps))]
    return plain + [
        fake(seed, 50 + 7 * seed + orbits, 0.90 + 0.01 * seed + passes, 0.05 + 0.004 * seed + rate, **settings)
        for seed, (orbits, passes, rate) in enumerate(gaps)
    ]


WORSE = [(10, -0.010, 0.010), (12, -0.012, 0.012), (9, -0.009, 0.011)]
BETTER = [(-orbits, -passes, -rate) for orbits, passes, rate in WORSE]
NOISE = [(10, 0.01, -0.01), (-12, -0.01, 0.01), (3, 0.004, -0.004)]
MIXED = [(10, 0.010, 0.010), (12, 0.012, 0.012), (9, 0.009, 0.011)]


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [(WORSE, "confirmed"), (BETTER, "refuted"), (NOISE, "open"), (MIXED, "open"), (WORSE[:1], "open")],
    ids=["worse", "better", "noise", "measures disagree", "one seed"],
)
def test_mining_hurts(gaps: list[tuple[int, float, float]], verdict: str) -> None:
    judged = finding("mining", with_and_without(gaps, mine_negatives=True, mine_interval=50))
    assert judged.verdict == verdict and len(judged.measures) == 3
    first = judged.measures[0]
    assert first.between == "faithful L10 mining, mined every 50 minus faithful L10 no mining"
    assert first.interval == mean_interval([float(orbits) for orbits, _, _ in gaps])


@pytest.mark.parametrize(
    ("name", "settings", "claims_worse"),
    [
        ("lookahead", {"lookahead": 20}, False), ("ramp", {"ramp_len": 50}, False),
        ("smaller", {"layers": [8, 4]}, False), ("adaptive", {"target_type": "adaptive"}, False),
        ("test_orbits", {"decontaminate": True}, True), ("collapse", {"legacy_lr_plateau": False}, False),
    ],
)  # fmt: skip
def test_directions(name: str, settings: dict[str, Any], claims_worse: bool) -> None:
    """Each claim is confirmed by runs that are as it says, refuted by the contrary, and of no other pair."""
    for gaps in (WORSE, BETTER):
        runs = with_and_without(gaps, **settings)
        verdict = "confirmed" if (gaps is WORSE) == claims_worse else "refuted"
        assert finding(name, runs).verdict == verdict
        # Arms that differ in something else too are no pair.
        other = [fake(seed, 20, margin=0.1, **settings) for seed in range(3)]
        for one in other:
            one.settings["collatz.margin"] = 0.1
        assert finding(name, [*runs[:3], *other]).verdict == "not run"


def test_gentler_mining_is_judged_against_mining() -> None:
    hard = [fake(seed, 60 + seed, 0.9, 0.06, mine_negatives=True, mine_interval=50) for seed in range(3)]
    gentle = [fake(seed, 50 + 2 * seed, 0.95 - 0.01 * seed, 0.05 + 0.002 * seed, mine_negatives=True, mine_interval=50,
                   mine_count=10, mine_start_epoch=50) for seed in range(3)]  # fmt: skip
    judged = finding("gentler_mining", [*hard, *gentle])
    assert judged.verdict == "confirmed"
    assert all("10 mined, mining from 50 on minus" in measure.between for measure in judged.measures)


def test_a_longer_lookahead_against_what_the_closed_forms_gain() -> None:
    """Violations fall by 10 points, those of the closed forms by 11: the network's own part has not grown."""
    short = [fake(seed, rate=0.20 + 0.001 * seed) for seed in range(3)]
    long = [fake(seed, rate=0.10 + 0.002 * seed, lookahead=20) for seed in range(3)]
    for run in short:
        for name in ("V_tmax_1", "V_tmin_1"):
            run.report[name] = entry_of(30, 0.97, 0.14)
        for name in list(run.report):
            if name.startswith(("V_", "ln", "anchor")) and name != "V_final":
                run.report[name] = entry_of(30, 0.97, 0.14)
    assert finding("lookahead_beyond", [*short, *long]).verdict == "refuted"
    for run in long:
        for name in list(run.report):
            if name.startswith(("V_", "ln", "anchor")) and name != "V_final":
                run.report[name] = entry_of(30, 0.97, 0.09)
    assert finding("lookahead_beyond", [*short, *long]).verdict == "confirmed"


def margins_of(runs: list[CollatzRun], worst: Callable[[CollatzRun], float]) -> dict[Path, OrbitMargins]:
    """Of slope 2: the worst margin in nats is half of what is given."""
    return {
        run.folder: OrbitMargins(
            {start: np.array([1.0, 2 * worst(run)]) for start in TEST_STARTS},
            {start: np.array([False, True]) for start in TEST_STARTS},
            2.0,
        )
        for run in runs
    }


@pytest.mark.parametrize(
    ("gaps", "deeper", "verdict"),
    [(BETTER, True, "confirmed"), (BETTER, False, "refuted"), (WORSE, True, "refuted"), (NOISE, True, "open"),
     (BETTER[:1], True, "open")],
)  # fmt: skip
def test_t4_is_mixed(gaps: list[tuple[int, float, float]], deeper: bool, verdict: str) -> None:
    """Both parts have to hold: fewer violations, and worse margins on the scale of ln n."""
    runs = with_and_without(gaps, use_t4=True)

    def worst(run: CollatzRun) -> float:
        assert run.seed is not None
        change = (-0.5 if deeper else 0.5) - 0.01 * run.seed
        return -1.0 - 0.1 * run.seed + (change if run.settings["collatz.use_t4"] else 0.0)

    judged = finding("t4", runs, margins_of(runs, worst))
    assert judged.verdict == verdict
    if len(gaps) > 1:
        expected = mean_interval([(-0.5 if deeper else 0.5) - 0.01 * seed for seed in range(3)])
        interval = judged.measures[1].interval
        assert interval is not None and interval.mean == pytest.approx(expected.mean, abs=1e-12)
        assert interval.bounds == pytest.approx(expected.bounds, abs=1e-12)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [((96, 101, 102), "confirmed"), ((60, 61, 63), "refuted"), ((80, 100, 110), "open"), ((90, 90, 90), "open")],
)
def test_plateau(ends: tuple[int, ...], verdict: str) -> None:
    """Against 100 violations half-way: within a tenth, gone on falling, or too uneven to say."""
    runs = [
        fake(seed, log={"eval/validation/violations": [(10, 300.0), (50, 100.0), (100, float(end))]})
        for seed, end in enumerate(ends)
    ]
    (measure,) = finding("plateau", runs).measures
    assert measure.verdict == verdict and measure.interval is not None
    assert measure.interval.mean == pytest.approx(np.mean([end / 100 - 1 for end in ends]))


def test_the_rate_collapses_where_it_does() -> None:
    falling = {"train/lr": [(10, 1e-3), (40, 1e-4), (60, 9e-6), (100, 1e-8)]}
    steady = {"train/lr": [(10, 1e-3), (100, 5e-4)]}
    rate = finding("collapse", [fake(0, log=falling), fake(1, log=falling)])
    assert rate.verdict == "confirmed" and rate.measures[0].text.endswith("at update 60, 60")
    assert finding("collapse", [fake(0, log=steady), fake(1, log=steady)]).verdict == "refuted"
    both = [fake(0, log=falling), fake(1, log=steady)]
    assert finding("collapse", both).verdict == "open"
    # With runs that show what the collapse costs, both have to hold.
    runs = with_and_without(WORSE, legacy_lr_plateau=False)
    for run in runs[:3]:
        run.log.extend(fake(0, log=falling).log)
    assert finding("collapse", runs).verdict == "refuted"


def test_growth_steps_fail_less() -> None:
    """Decay passes are what is left: 0.95 of 1000 rows with 0.9 to 0.98 of the 500 growth rows."""
    for growth, verdict in ((0.98, "confirmed"), (0.92, "refuted")):
        runs = [fake(seed, passes=0.95, growth=growth + 0.002 * seed) for seed in range(3)]
        judged = finding("growth_is_easy", runs)
        assert judged.verdict == verdict
        decays = [(950 - 500 * (growth + 0.002 * seed)) / 500 for seed in range(3)]
        (measure,) = judged.measures
        assert measure.interval is not None
        assert measure.interval.mean == pytest.approx(np.mean([growth + 0.002 - decays[1]]), abs=1e-9)
    # Arms of one seed decide nothing beside one of several.
    runs = [fake(seed, passes=0.95, growth=0.98 + 0.002 * seed) for seed in range(3)]
    runs.append(fake(0, growth=0.5, use_t4=True))
    assert finding("growth_is_easy", runs).verdict == "confirmed"


def test_labels_tell_arms_apart() -> None:
    alike = f"faithful L10 {settings_sha256(BASE)[:6]}"
    settings = [
        BASE, BASE | {"collatz.mine_negatives": True, "collatz.mine_interval": 2500}, BASE | {"collatz.use_t4": True},
        BASE | {"collatz.lookahead": 20}, BASE | {"collatz.legacy_lr_plateau": False},
        BASE | {"collatz.legacy_lr_plateau": False, "lr_min_ratio": 0.0}, BASE | {"collatz.preset": "orbit"},
        BASE | {"lr": 0.5}, BASE | {"collatz.mine_count": 9},
    ]  # fmt: skip
    labels = arm_labels(settings)
    assert labels[:8] == [
        alike, "faithful L10 mining, mined every 2500", "faithful L10 T4", "faithful L20",
        "faithful L10 rate that does not collapse", "faithful L10 cosine", "orbit L10", "faithful L10 lr=0.5",
    ]  # fmt: skip
    assert len(set(labels)) == len(labels), "a setting that means nothing here still makes another arm"


def test_two_arms_are_both_named_by_what_differs() -> None:
    assert arm_labels([BASE, BASE | {"collatz.use_t4": True}]) == ["faithful L10 no T4", "faithful L10 T4"]
    cosine = BASE | {"collatz.legacy_lr_plateau": False, "lr_min_ratio": 0.0}
    assert arm_labels([BASE, cosine]) == ["faithful L10 constant rate", "faithful L10 cosine"]
    many = {"collatz.use_t4": True, "collatz.use_t8": True, "collatz.ramp_len": 7, "lr": 0.5, "collatz.layers": [8, 4]}
    assert arm_labels([BASE, BASE, BASE | many])[2] == "faithful L10 layers 8,4, T4, ramp 7, 2 more"


def test_an_arm_beats_the_closed_forms_by_its_interval() -> None:
    """Their on-orbit rate is 3 %: below it, around it and above it on three seeds, and on one."""
    for rates, beats in (((0.020, 0.021, 0.023), True), ((0.020, 0.030, 0.041), None), ((0.050, 0.052, 0.055), False),
                         ((0.001,), None)):  # fmt: skip
        arms = collatz_arms([fake(seed, rate=rate) for seed, rate in enumerate(rates)])
        (comparison,) = (
            candidate
            for candidate in against_closed(arms)
            if (candidate.metric, candidate.moment) == ("on_orbit", "best")
        )
        assert comparison.beats is beats and comparison.closed_value == 0.03
        assert comparison.interval.mean == pytest.approx(np.mean(rates) - 0.03)
