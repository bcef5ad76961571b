"""The report of Collatz runs: tiny real runs read by a second route, words, pictures, files, refusals."""

import csv
import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

import collatz as script
from errors import UserError
from projects.collatz import evaluation_report as judged_report
from projects.collatz.bounds import bounds_at
from projects.collatz.build_eval import main as build_eval
from projects.collatz.closed_forms import LogN, Maximum, Tilted
from projects.collatz.evaluation import judge_orbits
from projects.collatz.report import compare_runs as collatz_report
from projects.collatz.report.arms import CollatzArm, collatz_arms
from projects.collatz.report.comparisons import against_closed, differences, run_verdicts
from projects.collatz.report.figures import LOG_BINS, binned, lookahead_rows
from projects.collatz.report.margins import closed_form_margins, run_margins
from projects.collatz.report.runs import BY_NAME, METRICS, CollatzRun, read_collatz_run
from projects.collatz.report.tables import closed_lines, comparison_table, hard_seed_records, hard_seed_table
from projects.collatz.syracuse import TEST_STARTS
from scripts.record_sources import gathered

TINY = """--layers 16,8 --lookahead 4 --batch-size 32 --epochs 24 --eval-interval 12 --quick-eval-interval 12
    --test-starts 2 --validation-starts 1 --device cpu --threads 1""".split()
MINING = "--mine-negatives --mine-interval 6".split()
FIGURES = ("collatz_margins", "collatz_lookahead", "collatz_training")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
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
def copies(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
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


def test_means_and_intervals_by_hand(trained: Path) -> None:
    plain, mining, orbit = collatz_arms(runs_of(trained))
    assert [[run.name for run in arm.runs] for arm in (plain, mining, orbit)] == [
        ["plain0", "plain1"],
        ["mining0", "mining1"],
        ["orbit0"],
    ]
    for arm, names in ((plain, ("plain0", "plain1")), (mining, ("mining0", "mining1"))):
        for moment in ("best", "final"):
            tests = [read(trained / name / "summary.json")["test"][moment] for name in names]
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
    rows = [line for line in comparison_table([plain]) if line.startswith(plain.label) and " final " in line]
    assert sum(f"{middle:.1f} [{middle - spread:.1f}, {middle + spread:.1f}]" in row for row in rows) == 1


def test_decay_steps_are_the_rest_of_the_file(trained: Path) -> None:
    for run in runs_of(trained):
        entry = run.entries["final"]
        growth, decay = (BY_NAME[name].read(entry) for name in ("growth_pass", "decay_pass"))
        assert growth is not None and decay is not None
        passed = growth * entry["growth_rows"] + decay * (entry["rows"] - entry["growth_rows"])
        assert passed == pytest.approx(entry["rows"] - entry["violations"], abs=1e-9)


def test_differences_are_paired_by_seed(trained: Path) -> None:
    backwards = collatz_arms(runs_of(trained, "plain0", "plain1", "mining1", "mining0"))
    by_metric = {(difference.metric, difference.moment): difference for difference in differences(backwards)}
    for name in ("on_orbit", "orbits", "bits_64", "word_2^16-1"):
        difference = by_metric[name, "final"]
        assert difference.seeds == [1, 0]
        for seed, value in zip(difference.seeds, difference.values, strict=True):
            ours, theirs = (
                read(trained / f"{arm}{seed}" / "evaluation.json")["V_final"] for arm in ("mining", "plain")
            )
            if name == "orbits":
                expected = [sum(one["violations"] for one in entry["orbits"].values()) for entry in (ours, theirs)]
            else:
                kind, _, key = name.partition("_")
                group = {"on": "on_orbit", "bits": "sizes", "word": "adversarial"}[kind]
                counts = [entry[group] if kind == "on" else entry[group][key] for entry in (ours, theirs)]
                expected = [count["violations"] / count["steps"] for count in counts]
            assert value == pytest.approx(expected[0] - expected[1], abs=1e-12)


def test_margins_of_the_weights_count_what_the_run_counted(trained: Path) -> None:
    """Weights read again against what the run's own end found, along each orbit and at both moments."""
    for run in runs_of(trained):
        for moment, entry in run.entries.items():
            along = run_margins(run, moment)
            for start in TEST_STARTS:
                counted = entry["orbits"][str(start)]
                assert int(along.violated[start].sum()) == counted["violations"]
                worst = counted["worst_margin"]
                scaled = along.worst(start)
                if along.slope > 0 and worst is not None:
                    assert scaled == pytest.approx(worst / along.slope, rel=1e-9)
                elif worst is None:
                    assert scaled is None


def test_the_slope_is_in_nats_of_ln_n() -> None:
    """ln n itself has slope 1, twice it 2: margins over the slope are the same."""
    along = closed_form_margins(LogN(), 7)
    assert along.slope == pytest.approx(1.0, abs=1e-12)
    for form, lookahead in ((Tilted(np.argmax, 1.0), 20), (Maximum(), 10)):
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


def test_arms_against_the_best_closed_form(trained: Path) -> None:
    arms = collatz_arms(runs_of(trained))
    comparisons = {
        (comparison.arm, comparison.moment, comparison.metric): comparison for comparison in against_closed(arms)
    }
    comparison = comparisons[arms[0].label, "best", "orbits"]
    report = read(trained / "plain0" / "evaluation.json")
    totals = {name: report["orbits_total"]["violations"][name] for name in report["orbits_total"]["violations"]
              if name not in ("V_final", "V_best")}  # fmt: skip
    assert comparison.closed_value == min(totals.values()) == totals[comparison.closed_form]
    values = arms[0].values(BY_NAME["orbits"], "best")
    assert values is not None and comparison.interval.mean == pytest.approx(np.mean(values) - comparison.closed_value)
    assert comparisons[arms[2].label, "best", "orbits"].beats is None
    assert any("has too few seeds to be compared with" in line for line in closed_lines(list(comparisons.values())))


# -- pictures


def test_points_of_the_lookahead_picture(trained: Path) -> None:
    arms = collatz_arms(runs_of(trained))
    rows = lookahead_rows(arms, 22)
    points = {(row["panel"], row["kind"], row["name"], row["lookahead"]): row for row in rows if row["kind"] != "run"}
    assert points["rate", "theory", "lower bound", 20]["value"] == bounds_at(20).lower_bound
    assert points["orbits", "closed form", "V_max", 20]["value"] == 33
    assert points["orbits", "closed form", "V_tmin_1.2", 20]["value"] == 14
    arm = points["rate", "arm", arms[0].label, 4]
    values = [
        row["value"] for row in rows if row["kind"] == "run" and row["name"] == arms[0].label and row["panel"] == "rate"
    ]
    assert arm["value"] == pytest.approx(np.mean(values)) and arm["seeds"] == 2


def test_binned_curves_keep_the_mean() -> None:
    points = [(float(step), float(step * step % 17)) for step in range(10, 5010, 10)]
    means = binned(points)
    assert len(means) == LOG_BINS and [step for step, _ in means] == sorted(step for step, _ in means)
    width = (5000 - 10) / LOG_BINS
    inside = [value for step, value in points if 10 <= step < 10 + width]
    assert means[0][1] == pytest.approx(np.mean(inside))
    assert binned(points[:5]) == points[:5]


def test_files_and_their_row(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(trained / name) for name in NAMES]
    for out in ("one", "two"):
        collatz_report.main([*folders, "--out", str(tmp_path / out)])
    printed = capsys.readouterr().out
    assert max(map(len, printed.partition("\nwritten: ")[0].splitlines())) <= 100
    names = {path.name for path in (tmp_path / "one").glob("[!.]*")}
    tables = {f"collatz_report.{kind}" for kind in ("txt", "csv", "json")}
    assert names == tables | {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv", "json", "txt")}
    for name in names - {name for name in names if name.endswith((".json", ".txt"))}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (tmp_path / "two" / "collatz_report.txt").read_text().strip() in printed
    report = read(tmp_path / "one" / "collatz_report.json")
    assert report["command"].startswith("python projects/collatz/report/compare_runs.py ") and report["seeds"] == [0, 1]
    assert report["n_runs"] == 5 and report["n_rows"] == 200 and report["n_orbit_steps"] == 429
    assert report["commits"] and report["interval"].startswith("95 % Student t interval")
    assert report["closed_forms"]["4"]["bounds"] == asdict(bounds_at(4))
    assert {finding["name"] for finding in report["findings"]} >= {"mining", "t4", "lookahead", "plateau", "collapse"}
    with (tmp_path / "one" / "collatz_report.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = [(name, moment) for name in NAMES for moment in ("best", "final")]
    assert [(row["run"], row["moment"]) for row in rows] == expected
    summary = read(trained / "mining1" / "summary.json")["test"]["best"]
    row = next(row for row in rows if (row["run"], row["moment"]) == ("mining1", "best"))
    assert int(row["step"]) == summary["step"] and float(row["pass"]) == summary["pass"]
    found = gathered([tmp_path / "one" / "collatz_report.json"])
    assert found["seeds"] == [0, 1] and any("mining hurts" in text for text in found["findings"])
    assert any("does not beat" in text for text in found["findings"])
    arm = report["arms"][0]
    numbers = {number.key: number for number in found["numbers"]}
    share = numbers[f"{arm['label']}: violated on-orbit steps", "final"]
    assert share.value == pytest.approx(100 * arm["final"]["on_orbit"]["mean"], rel=1e-5)
    count = numbers[f"{arm['label']}: violations along five orbits", "peak"]
    assert count.of == 429 and count.value == pytest.approx(arm["best"]["orbits"]["mean"], abs=0.05)
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


def test_hard_seeds(trained: Path) -> None:
    records = hard_seed_records(collatz_arms(runs_of(trained)))
    assert [record["start"] for record in records] == list(TEST_STARTS)
    assert [record["source_max_is_odd_only"] for record in records] == [True, False, True, True, True]
    for record in records:
        counts = {
            name: read(trained / name / "summary.json")["test"]["best"]["orbit_violations"][str(record["start"])]
            for name in NAMES
        }
        assert record["fewest_violations"] == min(counts.values())
        assert record["best_runs"] == [name for name in NAMES if counts[name] == min(counts.values())]
    table = hard_seed_table(records)
    assert any("3,077" in line and "114.0" in line and "9,232 (full map)" in line for line in table)
    assert "full map, beside the ratio 114.0" in " ".join(" ".join(table).split())
    assert max(map(len, table)) <= 100


# -- refusals


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def evaluation(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edited(folder / "evaluation.json", change)


def puzzles(folder: Path) -> None:
    edited(folder / "provenance.json", lambda record: record["config"].pop("collatz"))


REFUSALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no provenance": (drop("provenance.json"), "has no provenance.json: name the checkpoint_path (--output-dir)"),
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


def test_evaluation_files_of_equal_length_are_told_apart(copies: Path) -> None:
    def other(record: dict[str, Any]) -> None:
        for session in (record, *record["sessions"]):
            if "datasets" in session:
                session["datasets"]["eval_csv"]["sha256"] = "0" * 64

    edited(copies / "plain1" / "provenance.json", other)
    with pytest.raises(UserError, match=r"plain0 and .*plain1 were trained or judged on different data \(eval_csv "):
        collatz_arms(runs_of(copies, "plain0", "plain1"))


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


def test_every_metric_of_every_run_is_a_number(trained: Path) -> None:
    for arm in collatz_arms(runs_of(trained)):
        assert isinstance(arm, CollatzArm)
        for metric in METRICS:
            values = arm.values(metric, "best")
            assert values is not None and all(math.isfinite(value) for value in values)
