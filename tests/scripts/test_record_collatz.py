"""Rows from what is measured about Collatz functions: texts of known numbers, the scripts' files, refusals by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import collatz as script
from dataset.safe_files import file_sha256
from errors import UserError
from projects.collatz import benchmark as benchmark_collatz
from projects.collatz.build_eval import main as build_eval
from projects.collatz.closed_forms import CLOSED_FORMS
from scripts.record_reports import read_report, report_cells
from scripts.report_entries import Report
from tests.scripts.test_record_reports import changed, paths

COMMIT = "abcdef0123456789" * 2
ENVIRONMENT: dict[str, Any] = {
    "argv": ["collatz.py", "--closed-forms", "--lookahead", "20"], "commit": COMMIT, "dirty": False, "cpu": "A CPU",
    "num_threads": 1, "seed": 0,
}  # fmt: skip
ORBITS = {"27": {"steps": 41, "growth_steps": 24, "odd_max": 3077, "violations": 5},
          "703": {"steps": 62, "growth_steps": 37, "odd_max": 83501, "violations": 4}}  # fmt: skip
FUNCTION: dict[str, Any] = {
    "rows": 1000, "violations": 19, "weighted_pass": 0.97, "growth_pass": 0.98, "growth_weighted_pass": 0.975,
    "orbits": ORBITS,
}  # fmt: skip
CLOSED: dict[str, Any] = {
    "schema_version": 1, "lookahead": 20,
    "bounds": {"rate_V_avg": 0.08138, "rate_V_min": 0.01769, "lower_bound": 0.003875},
    "eval_csv": {"file": "e.csv", "sha256": "34" * 32}, "orbits_total": {"steps": 103, "violations": {"V_max": 9}},
    "environment": ENVIRONMENT, "V_max": FUNCTION,
}  # fmt: skip
CHECKPOINT: dict[str, Any] = CLOSED | {
    "checkpoint": {"file": "runs/a/best.pt", "sha256": "56" * 32, "preset": "orbit", "seed": 3, "num_params": 44000},
    "V_best": FUNCTION
    | {
        "on_orbit": {"steps": 2000, "violations": 20},
        "fresh": {"1": {"steps": 207, "violations": 7}},
    },
}
MEAN = {"mean": 0.0396, "low": 0.0390, "high": 0.0402, "n": 5}
COUNT = {"mean": 58.2, "low": 50.1, "high": 66.3, "n": 5}
MOMENT = {"on_orbit": MEAN, "pass": None, "growth_weighted_pass": MEAN, "orbits": COUNT, "fresh": None}
COMPARED: dict[str, Any] = {
    "schema_version": 1, "command": "python projects/collatz/report/compare_runs.py r0 r1 --out o",
    "commits": ["abcdef012345"],
    "machines": ["1× A CPU (1 threads)"], "datasets": [{"data": "collatz pairs"}], "seeds": [0, 1],
    "n_orbit_steps": 429, "n_fresh_steps": 2182, "closed_forms": {},
    "arms": [{"label": "faithful L10", "settings_sha256": "78" * 32, "seeds": [0, 1], "best": MOMENT,
              "final": MOMENT | {"on_orbit": MEAN | {"low": None, "high": None}}}],
    "against_closed": [{"arm": "faithful L10", "moment": "best", "metric": "on_orbit", "closed_form": "V_tmax_1",
                        "closed_value": 0.03956, "beats": None,
                        "interval": {"mean": 0.0001, "low": -0.0002, "high": 0.0004, "n": 2}}],
    "findings": [
        {"name": "mining", "claim": "mining hurts", "source": "runs", "verdict": "confirmed", "measures": [
            {"what": "five orbits", "between": "b minus a", "text": "+9.1 violations", "verdict": "open"},
        ]},
        {"name": "t4", "claim": "never shown", "source": "runs", "verdict": "not run", "measures": []},
    ],
    "runs": [{"moment": moment, "train_seconds": 12.5} for moment in ("best", "final")],
}  # fmt: skip
SPEED: dict[str, Any] = {
    "schema_version": 1, "environment": ENVIRONMENT | {"argv": ["projects/collatz/benchmark.py"]},
    "rates": [{"name": "words, 48 bits", "rows": 10, "steps": 2_000_000, "steps_per_second": 3.2e8, "goal": 2e8,
               "seconds": {"median": 0.00625, "q1": 0.005, "q3": 0.008, "count": 7}},
              {"name": "python", "rows": 10, "steps": 20, "steps_per_second": 4e6, "goal": None,
               "seconds": {"median": 5e-6, "q1": 5e-6, "q3": 5e-6, "count": 7}}],
    "loaders": [{"name": "orbit", "rows": 32, "load_seconds": {"median": 0.002}, "update_seconds": {"median": 0.018},
                 "share": 0.1}],
}  # fmt: skip
LOOKED_AT: dict[str, Any] = {
    "schema_version": 1, "command": "python projects/collatz/report/orbits.py --out o", "environment": ENVIRONMENT,
    "sample": {"starts": 2, "seed": 1},
    "orbits": [{"start": 703, "steps": 62, "mean_valuation": 1.7419, "odd_ratio": 118.78, "at_least_as_long": 1},
               {"start": 8400511, "steps": 256, "mean_valuation": 1.676, "odd_ratio": 6326.0,
                "at_least_as_long": None}],
    "closed_forms": [{"lookahead": 30, "function": "V_max", "steps": 1000, "violations": 8, "growth_steps": 500,
                      "growth_violations": 5, "decay_steps": 500, "decay_violations": 3, "orbit_violations": 12,
                      "orbit_steps": 429, "fresh_violations": 185, "fresh_steps": 2182}],
    "small_windows": [{"lookahead": 2, "equal_fewest_growth": {"rate": 0.21875},
                       "weighted": {"growth_weight": 10.0, "rate": 0.21875, "growth": 0.125, "decay": 0.09375}}],
}  # fmt: skip
REPORTS = {"closed forms": CLOSED, "checkpoint": CHECKPOINT, "report": COMPARED, "speed": SPEED, "orbits": LOOKED_AT}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[dict[str, Any]], Report]:
    def write_and_read(record: dict[str, Any]) -> Report:
        (tmp_path / "report.json").write_text(json.dumps(record))
        return read_report(tmp_path / "report.json")

    return write_and_read


def test_closed_forms(read: Callable[..., Report]) -> None:
    assert report_cells([read(CLOSED)]) == [
        "`python collatz.py --closed-forms --lookahead 20`", "not recorded", "abcdef012345", "343434343434",
        "none; n=1",
        "lookahead 20 (theory: V_avg, V_min and the bound 8.138 %, 1.769 %, 0.3875 %); V_max: 1.90 % = 19/1000 "
        "[1.22, 2.95] of the file, passed: weighted 97.00 %, growth 98.00 %, gr.wtd 97.50 %, orbits 9/103",
        "1× A CPU (1 thread)",
    ]  # fmt: skip


def test_closed_forms_on_orbits_alone(read: Callable[..., Report]) -> None:
    report = read(CLOSED | {"eval_csv": None, "V_max": FUNCTION | {"rows": None, "violations": None}})
    assert report.datasets == ["none"] and report.result.endswith("; V_max: orbits 9/103")


def test_a_checkpoint(read: Callable[..., Report]) -> None:
    report = read(CHECKPOINT)
    assert report.config_hashes == ["weights 565656565656"] and report.seeds == ["3"]
    assert report.hardware == ["1× A CPU (1 thread), 44,000 parameters, preset orbit"]
    assert report.result.endswith("on-orbit 1.00 % = 20/2000 [0.65, 1.54], orbits 9/103, fresh 7/207")


def test_compared_runs(read: Callable[..., Report]) -> None:
    assert report_cells([read(COMPARED)]) == [
        "`python projects/collatz/report/compare_runs.py r0 r1 --out o`",
        "787878787878", "abcdef012345", "synthetic", "0, 1; n=2",
        "faithful L10 (n=2 seeds): on-orbit violations best 3.960 % [3.900, 4.020], final 3.960 %; gr.wtd best 3.960 % "
        "[3.900, 4.020], final 3.960 % [3.900, 4.020]; five orbits best 58.2 [50.1, 66.3], final 58.2 [50.1, 66.3] of "
        "429; faithful L10 is not told apart from V_tmax_1 (3.956 %), on-orbit, best: +0.010 points [-0.020, +0.040], "
        "n=2; confirmed: mining hurts (five orbits, b minus a: +9.1 violations)",
        "1× A CPU (1 threads), 12.5 s of training in 1 runs",
    ]  # fmt: skip
    for beats, words in ((True, "faithful L10 beats V_tmax_1"), (False, "faithful L10 does not beat V_tmax_1")):
        assert words in read(changed(COMPARED, "against_closed.0.beats", beats)).result
    alone = changed(changed(COMPARED, "against_closed.0.interval.low", None), "against_closed.0.interval.high", None)
    assert "has no interval against V_tmax_1 (3.956 %), on-orbit, best: +0.010 points no interval" in read(alone).result


def test_speed_and_orbits(read: Callable[..., Report]) -> None:
    report = read(SPEED)
    assert report.result == (
        "words, 48 bits 320.0 M steps/s [quartiles 250.0-400.0, n=7], goal 200; python 4.0 M steps/s [quartiles 4.0-"
        "4.0, n=7]; batch of orbit 2.00 ms, 10 % of it and its update (18.0 ms)"
    )
    assert report.datasets == ["synthetic"] and report.commands == ["python projects/collatz/benchmark.py"]
    assert read(LOOKED_AT).result.split("; ") == [
        "703: 62 steps, mean k 1.742, odd-only maximum 118.8 times the start, record",
        "8400511: 256 steps, mean k 1.676, odd-only maximum 6326.0 times the start",
        "L=30 V_max: on-orbit 0.80 % = 8/1000 [0.41, 1.57] (5/500 growth, 3/500 decay), orbits 12/429, fresh 185/2182",
        "best V at L=2: 21.875 % violated, with growth steps at 10:1 21.875 % (12.500 growth, 9.375 decay)",
    ]


@pytest.mark.parametrize("kind", REPORTS)
def test_every_entry_that_is_printed_is_asked_for(kind: str, read: Callable[..., Report]) -> None:
    """Each entry becomes null in turn: the report is refused by the entry's name, or its row does without."""
    whole = json.loads(json.dumps(REPORTS[kind]))  # no two places share an object
    for path in paths(whole):
        record = changed(whole, path, None)
        try:
            report = read(record)
        except UserError as error:
            assert f"'{path}' is 'None', expected " in str(error)
        else:
            cells = report_cells([report])
            assert not any("None" in cell for cell in cells), path


@pytest.mark.parametrize("kind", REPORTS)
def test_entries_of_another_kind_are_refused_in_one_line(kind: str, read: Callable[..., Report]) -> None:
    """A text, a list, a huge and a negative number in each place: a `UserError` or a row, never anything else."""
    whole = json.loads(json.dumps(REPORTS[kind]))
    for path in paths(whole):
        for value in ("x", [], {}, [1], -1, 1e300, 10**40, True):
            try:
                read(changed(whole, path, value))
            except UserError as error:
                assert "\n" not in str(error)


def test_impossible_rates_are_refused(read: Callable[..., Report]) -> None:
    with pytest.raises(UserError, match="a rate of 1001/1000 is impossible"):
        read(changed(CLOSED, "V_max.violations", 1001))


def test_the_scripts_own_files(tmp_path: Path) -> None:
    """What collatz.py and the benchmark write is read: every function and every rate has its words."""
    build_eval(["--rows", "300", "--seed", "3", "--output-csv", str(tmp_path / "e.csv")])
    words = ["--lookahead", "5", "--eval-csv", str(tmp_path / "e.csv"), "--json", str(tmp_path / "c.json")]
    script.main(["--closed-forms", *words])
    report = read_report(tmp_path / "c.json")
    written = json.loads((tmp_path / "c.json").read_text())
    for form in CLOSED_FORMS:
        assert f"; {form.name}: " in report.result and f"= {written[form.name]['violations']}/300 [" in report.result
    assert report.datasets == [file_sha256(tmp_path / "e.csv")[:12]] and "orbits 255/429" in report.result
    benchmark_collatz.main(["--repeats", "2", "--scale", "0.001", "--json", str(tmp_path / "s.json")])
    made = json.loads((tmp_path / "s.json").read_text())
    assert all(each["name"] in read_report(tmp_path / "s.json").result for each in [*made["rates"], *made["loaders"]])
