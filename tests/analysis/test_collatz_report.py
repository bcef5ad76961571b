"""The report of Collatz runs: tiny real runs by a second route, made-up runs for what decides a finding, refusals."""

import csv
import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

import collatz as script
from analysis import collatz_report
from analysis.collatz_arms import CollatzArm, arm_labels, collatz_arms
from analysis.collatz_comparisons import against_closed, differences, run_verdicts
from analysis.collatz_figures import LOG_BINS, binned, lookahead_rows
from analysis.collatz_findings import Finding, findings
from analysis.collatz_margins import OrbitMargins, closed_form_margins, run_margins
from analysis.collatz_report_tables import closed_lines, comparison_table, hard_seed_records, hard_seed_table
from analysis.collatz_runs import BY_NAME, METRICS, CollatzRun, LogPoint, read_collatz_run
from analysis.seed_pairs import mean_interval
from dataset.build_collatz_eval import main as build_eval
from dataset.collatz_map import TEST_STARTS
from errors import UserError
from models.collatz_bounds import bounds_at
from models.collatz_closed_forms import CLOSED_FORMS, LogN, Maximum, TiltedMaximum
from scripts.record_reports import read_report
from training import collatz_report as judged_report
from training.collatz_evaluation import judge_orbits
from training.provenance import config_hash

TINY = """--layers 16,8 --lookahead 4 --batch-size 32 --epochs 24 --eval-interval 12 --quick-eval-interval 12
    --test-starts 2 --validation-starts 1 --device cpu --threads 1""".split()
MINING = "--mine-negatives --mine-interval 6".split()
FIGURES = ("collatz_margins", "collatz_lookahead", "collatz_training")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Five runs of seconds: plain and with mining on two seeds each, and one on orbit segments."""
    folder = tmp_path_factory.mktemp("collatz_runs")
    build_eval(["--rows", "200", "--seed", "3", "--output-csv", str(folder / "eval.csv")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judged_report, "NUMBERS_OF_A_SIZE", 40)
        for name, seed, words in (
            ("plain0", 0, []), ("plain1", 1, []), ("mining0", 0, MINING), ("mining1", 1, MINING),
            ("orbit0", 0, ["--preset", "orbit", "--batch-size", "4", "--segment-steps", "8"]),
        ):  # fmt: skip
            script.main([*TINY, *words, "--seed", str(seed), "--eval-csv", str(folder / "eval.csv"),
                         "--output-dir", str(folder / name)])  # fmt: skip
    yield folder


@pytest.fixture
def copies(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def read(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = read(path)
    change(value)
    path.write_text(json.dumps(value))


NAMES = ("plain0", "plain1", "mining0", "mining1", "orbit0")


def runs_of(folder: Path, *names: str) -> list[CollatzRun]:
    return [read_collatz_run(folder / name) for name in names or NAMES]


# -- numbers by a second route, from what the runs wrote


def test_means_and_intervals_by_hand(made: Path) -> None:
    plain, mining, orbit = collatz_arms(runs_of(made))
    assert [[run.name for run in arm.runs] for arm in (plain, mining, orbit)] == [
        ["plain0", "plain1"], ["mining0", "mining1"], ["orbit0"]
    ]  # fmt: skip
    for arm, names in ((plain, ("plain0", "plain1")), (mining, ("mining0", "mining1"))):
        for moment in ("best", "final"):
            tests = [read(made / name / "summary.json")["test"][moment] for name in names]
            by_hand = {
                "on_orbit": [1 - test["numerator"] / test["denominator"] for test in tests],
                "orbits": [sum(test["orbit_violations"].values()) for test in tests],
                "fresh": [test["fresh_violations"] for test in tests],
                **{key: [test[key] for test in tests] for key in ("pass", "weighted_pass", "growth_pass", "free_pass")},
            }
            for name, values in by_hand.items():
                assert arm.values(BY_NAME[name], moment) == pytest.approx(values, abs=1e-12), name
    values = plain.values(BY_NAME["orbits"], "final")
    assert values is not None and len(set(values)) == 2
    middle, spread = statistics.mean(values), statistics.stdev(values) / math.sqrt(2) * student.ppf(0.975, 1)
    row = next(line for line in comparison_table([plain]) if line.startswith(plain.label) and " final " in line)
    assert f"{middle:.1f} [{middle - spread:.1f}, {middle + spread:.1f}]" in row


def test_decay_steps_are_the_rest_of_the_file(made: Path) -> None:
    for run in runs_of(made):
        entry = run.entries["final"]
        growth, decay = (BY_NAME[name].read(entry) for name in ("growth_pass", "decay_pass"))
        assert growth is not None and decay is not None
        passed = growth * entry["growth_rows"] + decay * (entry["rows"] - entry["growth_rows"])
        assert passed == pytest.approx(entry["rows"] - entry["violations"], abs=1e-9)


def test_differences_are_paired_by_seed(made: Path) -> None:
    backwards = collatz_arms(runs_of(made, "plain0", "plain1", "mining1", "mining0"))
    found = {(each.metric, each.moment): each for each in differences(backwards)}
    for name in ("on_orbit", "orbits", "bits_64", "word_2^16-1"):
        each = found[name, "final"]
        assert each.seeds == [1, 0]
        for seed, value in zip(each.seeds, each.values, strict=True):
            ours, theirs = (read(made / f"{arm}{seed}" / "evaluation.json")["V_final"] for arm in ("mining", "plain"))
            if name == "orbits":
                expected = [sum(one["violations"] for one in entry["orbits"].values()) for entry in (ours, theirs)]
            else:
                kind, _, key = name.partition("_")
                group = {"on": "on_orbit", "bits": "sizes", "word": "adversarial"}[kind]
                parts = [entry[group] if kind == "on" else entry[group][key] for entry in (ours, theirs)]
                expected = [part["violations"] / part["steps"] for part in parts]
            assert value == pytest.approx(expected[0] - expected[1], abs=1e-12)


def test_margins_of_the_weights_count_what_the_run_counted(made: Path) -> None:
    """Weights read again against what the run's own end found, along each orbit and at both moments."""
    for run in runs_of(made):
        for moment, entry in run.entries.items():
            found = run_margins(run, moment)
            for start in TEST_STARTS:
                counted = entry["orbits"][str(start)]
                assert int(found.violated[start].sum()) == counted["violations"]
                worst = counted["worst_margin"]
                scaled = found.worst(start)
                if found.slope > 0 and worst is not None:
                    assert scaled == pytest.approx(worst / found.slope, rel=1e-9)
                elif worst is None:
                    assert scaled is None


def test_the_slope_is_in_nats_of_ln_n() -> None:
    """ln n itself has slope 1, twice it 2: margins over the slope are the same."""
    found = closed_form_margins(LogN(), 7)
    assert found.slope == pytest.approx(1.0, abs=1e-12)
    for form, lookahead in ((TiltedMaximum(1.0), 20), (Maximum(), 10)):
        counts = judge_orbits([form], TEST_STARTS, lookahead)[form.name]
        for start, violated in closed_form_margins(form, lookahead).violated.items():
            assert int(violated.sum()) == counts[start].violations


# -- words


def test_a_run_that_does_not_beat_the_closed_forms_says_so(copies: Path) -> None:
    (run,) = runs_of(copies, "plain0")
    assert "plain0, final weights, does not beat the closed forms" in run_verdicts(run)["final"]

    def better(report: dict[str, Any]) -> None:
        report["V_final"]["on_orbit"] |= {"violations": 1, "rate": 1 / report["V_final"]["on_orbit"]["steps"]}

    edited(copies / "plain0" / "evaluation.json", better)
    (run,) = runs_of(copies, "plain0")
    assert "plain0, final weights, beats the closed forms: 1 of" in run_verdicts(run)["final"]


def test_arms_against_the_best_closed_form(made: Path) -> None:
    arms = collatz_arms(runs_of(made))
    found = {(each.arm, each.moment, each.metric): each for each in against_closed(arms)}
    each = found[arms[0].label, "best", "orbits"]
    report = read(made / "plain0" / "evaluation.json")
    totals = {name: report["orbits_total"]["violations"][name] for name in report["orbits_total"]["violations"]
              if name not in ("V_final", "V_best")}  # fmt: skip
    assert each.closed_value == min(totals.values()) == totals[each.closed_form]
    values = arms[0].values(BY_NAME["orbits"], "best")
    assert values is not None and each.interval.mean == pytest.approx(np.mean(values) - each.closed_value)
    assert found[arms[2].label, "best", "orbits"].beats is None
    assert any("has too few seeds to be compared with" in line for line in closed_lines(list(found.values())))


# -- what decides a finding, on made-up runs

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
    own = BASE | {
        key if key in ("lr_min_ratio", "updates") else f"collatz.{key}": value for key, value in settings.items()
    }
    entry = entry_of(orbits, passes, rate, growth)
    closed = entry_of(30, 0.97, 0.03)
    report = {"lookahead": own["collatz.lookahead"], "V_final": entry,
              **{form.name: closed for form in CLOSED_FORMS},
              "samples": {"on_orbit": {"states": 1000}}}  # fmt: skip
    points = [LogPoint(step, {key: value}) for key, curve in (log or {}).items() for step, value in curve]
    name = "-".join([*(f"{key}={value}" for key, value in settings.items()), str(seed)])
    return CollatzRun(Path(name), seed, own, {}, {"test": {}}, report, {"best": entry, "final": entry},
                      {"best": 100, "final": 100}, points)  # fmt: skip


def finding(name: str, runs: list[CollatzRun], margins: dict[Path, OrbitMargins] | None = None) -> Finding:
    return next(each for each in findings(collatz_arms(runs), margins or {}) if each.name == name)


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
    found = finding("mining", with_and_without(gaps, mine_negatives=True, mine_interval=50))
    assert found.verdict == verdict and len(found.measures) == 3
    first = found.measures[0]
    assert first.between == "faithful L10 mining, mined every 50 minus faithful L10"
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
    found = finding("gentler_mining", [*hard, *gentle])
    assert found.verdict == "confirmed"
    assert all("10 mined, mining from 50 on minus" in each.between for each in found.measures)


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
            {start: np.array([False, True]) for start in TEST_STARTS}, 2.0,
        )
        for run in runs
    }  # fmt: skip


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

    found = finding("t4", runs, margins_of(runs, worst))
    assert found.verdict == verdict
    if len(gaps) > 1:
        expected = mean_interval([(-0.5 if deeper else 0.5) - 0.01 * seed for seed in range(3)])
        interval = found.measures[1].interval
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
        found = finding("growth_is_easy", runs)
        assert found.verdict == verdict
        decays = [(950 - 500 * (growth + 0.002 * seed)) / 500 for seed in range(3)]
        (measure,) = found.measures
        assert measure.interval is not None
        assert measure.interval.mean == pytest.approx(np.mean([growth + 0.002 - decays[1]]), abs=1e-9)
    # Arms of one seed decide nothing beside one of several.
    runs = [fake(seed, passes=0.95, growth=0.98 + 0.002 * seed) for seed in range(3)]
    runs.append(fake(0, growth=0.5, use_t4=True))
    assert finding("growth_is_easy", runs).verdict == "confirmed"


def test_labels_tell_arms_apart() -> None:
    alike = f"faithful L10 {config_hash(BASE)[:6]}"
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


# -- pictures


def test_points_of_the_lookahead_picture(made: Path) -> None:
    arms = collatz_arms(runs_of(made))
    rows = lookahead_rows(arms, 22)
    found = {(row["panel"], row["kind"], row["name"], row["lookahead"]): row for row in rows if row["kind"] != "run"}
    assert found["rate", "theory", "lower bound", 20]["value"] == bounds_at(20).lower_bound
    assert found["orbits", "closed form", "V_max", 20]["value"] == 33
    assert found["orbits", "closed form", "V_tmin_1.2", 20]["value"] == 14
    arm = found["rate", "arm", arms[0].label, 4]
    values = [row["value"] for row in rows if row["kind"] == "run" and row["name"] == arms[0].label
              and row["panel"] == "rate"]  # fmt: skip
    assert arm["value"] == pytest.approx(np.mean(values)) and arm["seeds"] == 2


def test_binned_curves_keep_the_mean() -> None:
    points = [(float(step), float(step * step % 17)) for step in range(10, 5010, 10)]
    found = binned(points)
    assert len(found) == LOG_BINS and [step for step, _ in found] == sorted(step for step, _ in found)
    width = (5000 - 10) / LOG_BINS
    inside = [value for step, value in points if 10 <= step < 10 + width]
    assert found[0][1] == pytest.approx(np.mean(inside))
    assert binned(points[:5]) == points[:5]


def test_files_and_their_row(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(made / name) for name in NAMES]
    for out in ("one", "two"):
        collatz_report.main([*folders, "--out", str(tmp_path / out)])
    printed = capsys.readouterr().out
    names = {path.name for path in (tmp_path / "one").iterdir()}
    tables = {f"collatz_report.{kind}" for kind in ("txt", "csv", "json")}
    assert names == tables | {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv", "json", "txt")}
    for name in names - {name for name in names if name.endswith((".json", ".txt"))}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (tmp_path / "two" / "collatz_report.txt").read_text().strip() in printed
    report = read(tmp_path / "one" / "collatz_report.json")
    assert report["command"].startswith("python analysis/collatz_report.py ") and report["seeds"] == [0, 1]
    assert report["n_runs"] == 5 and report["n_rows"] == 200 and report["n_orbit_steps"] == 429
    assert report["commits"] and report["interval"].startswith("95 % Student t interval")
    assert report["closed_forms"]["4"]["bounds"] == bounds_at(4).as_dict()
    assert {each["name"] for each in report["findings"]} >= {"mining", "t4", "lookahead", "plateau", "collapse"}
    with (tmp_path / "one" / "collatz_report.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = [(name, moment) for name in NAMES for moment in ("best", "final")]
    assert [(row["run"], row["moment"]) for row in rows] == expected
    summary = read(made / "mining1" / "summary.json")["test"]["best"]
    row = next(row for row in rows if (row["run"], row["moment"]) == ("mining1", "best"))
    assert int(row["step"]) == summary["step"] and float(row["pass"]) == summary["pass"]
    cells = read_report(tmp_path / "one" / "collatz_report.json")
    assert cells.seeds == ["0", "1"] and "mining hurts" in cells.result and "does not beat" in cells.result
    for name in FIGURES:
        caption = (tmp_path / "one" / f"{name}.txt").read_text()
        assert "seeds 0, 1" in caption and f"Commits: {report['commits'][0]}" in caption and "n = " in caption


def test_the_best_run_is_chosen_by_validation_alone(copies: Path) -> None:
    """One that passes most validation states and is the worst on everything that is reported."""
    def worst(report: dict[str, Any]) -> None:
        for name in ("V_final", "V_best"):
            if name in report:
                report[name]["on_orbit"]["violations"] = report[name]["on_orbit"]["steps"]

    edited(copies / "mining1" / "evaluation.json", worst)
    edited(copies / "mining1" / "summary.json", lambda summary: summary["best"].update(value=1.0))
    assert collatz_report.best_run(collatz_arms(runs_of(copies))).name == "mining1"


def test_hard_seeds(made: Path) -> None:
    records = hard_seed_records(collatz_arms(runs_of(made)))
    assert [each["start"] for each in records] == list(TEST_STARTS)
    assert [each["source_max_is_odd_only"] for each in records] == [True, False, True, True, True]
    for each in records:
        counts = {name: read(made / name / "summary.json")["test"]["best"]["orbit_violations"][str(each["start"])]
                  for name in NAMES}  # fmt: skip
        assert each["fewest_violations"] == min(counts.values())
        assert each["best_runs"] == [name for name in NAMES if counts[name] == min(counts.values())]
    table = hard_seed_table(records)
    assert any("3,077" in line and "114.0" in line and "9,232 (full map)" in line for line in table)
    assert "full map, beside the ratio 114.0" in table[-1]


# -- refusals


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def evaluation(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edited(folder / "evaluation.json", change)


def puzzles(folder: Path) -> None:
    edited(folder / "provenance.json", lambda record: record["config"].pop("collatz"))


REFUSALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no provenance": (drop("provenance.json"), "has no provenance.json: name the --output-dir of a run of collatz.py"),
    "not finished": (drop("summary.json"), "has no summary.json: let the run go on to its end"),
    "no evaluation": (drop("evaluation.json"), "has no evaluation.json"),
    "puzzles": (puzzles, "is a run on puzzles, expected one of collatz.py"),
    "no weights": (drop("final.pt"), "final.pt"),
    "no function": (
        evaluation(lambda report: report.pop("V_final")), "is no evaluation of this run (KeyError: 'V_final')",
    ),
    "no closed form": (evaluation(lambda report: report.pop("V_tmax_1")), "KeyError: 'V_tmax_1'"),
    "another lookahead": (evaluation(lambda report: report.update(lookahead=9)), "lookahead 9, the run's is 4"),
    "too many": (
        evaluation(lambda report: report["V_final"]["orbits"]["27"].update(violations=99)), "99 violations in 41 steps",
    ),
    "a text": (evaluation(lambda report: report["V_final"]["on_orbit"].update(violations="x")), "is no evaluation"),
    "no steps": (evaluation(lambda report: report["V_final"]["on_orbit"].update(steps=0)), "ZeroDivisionError"),
    "no json": (lambda folder: (folder / "evaluation.json").write_text("{"), "evaluation.json: it is no JSON"),
    "other states": (
        evaluation(lambda report: report["samples"]["on_orbit"].update(starts=77)), "the same --test-starts",
    ),
    "other rows": (evaluation(lambda report: report["V_final"].update(rows=7, violations=1, growth_rows=2)),
                   "rows: give all runs the same --eval-csv"),
    "other numbers": (
        evaluation(lambda report: report["V_max"]["on_orbit"].update(violations=0)), "count other violations of V_max",
    ),
    "gone on": (
        lambda folder: edited(folder / "summary.json", lambda summary: summary.update(steps=3)), "has gone on",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(
    harm: Callable[[Path], None], expected: str, copies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(copies / "plain1")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as leaving:
        collatz_report.main([str(copies / "plain0"), str(copies / "plain1"), "--out", str(out)])
    assert leaving.value.code == 2 and not out.exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and expected in lines[0], lines
    assert "plain1" in lines[0]


def test_a_seed_and_a_folder_count_once(copies: Path, tmp_path: Path) -> None:
    shutil.copytree(copies / "plain0", copies / "again")
    with pytest.raises(UserError, match="again repeats seed 0 of .*plain0 with the same settings"):
        collatz_arms(runs_of(copies, "plain0", "again"))
    with pytest.raises(SystemExit):
        collatz_report.main([str(copies / "plain0"), str(copies / "plain0"), "--out", str(tmp_path / "out")])


def test_a_run_without_an_evaluation_file_stands_beside_one_with(copies: Path) -> None:
    """Its cells are dashes, and the closed forms are read where the file was judged."""
    def without(report: dict[str, Any]) -> None:
        for entry in report.values():
            if isinstance(entry, dict) and "rows" in entry:
                entry |= dict.fromkeys(["rows", "violations", "pass", "weighted_pass", "growth_rows", "growth_pass",
                                        "growth_weighted_pass", "free_pass"])  # fmt: skip

    edited(copies / "mining0" / "evaluation.json", without)
    arms = collatz_arms(runs_of(copies, "mining0", "plain0"))
    assert arms[0].values(BY_NAME["pass"], "final") is None and arms[1].values(BY_NAME["pass"], "final") is not None
    table = comparison_table(arms)
    assert next(line for line in table if line.startswith("V_max L4")).count(" - ") == 0
    assert " - " in next(line for line in table if " final " in line)


def test_every_metric_of_every_run_is_a_number(made: Path) -> None:
    for arm in collatz_arms(runs_of(made)):
        assert isinstance(arm, CollatzArm)
        for metric in METRICS:
            values = arm.values(metric, "best")
            assert values is not None and all(math.isfinite(value) for value in values)
