"""Rows of PROVENANCE.md from results on dynamics: the numbers are those of the files."""

import json
from pathlib import Path

import pytest

from errors import UserError
from scripts.benchmark import lyapunov as benchmark_lyapunov
from scripts.record_reports import read_report
from tests.analysis.figures.test_figure_bundle import table, write


def test_spectra_of_several_networks(tmp_path: Path) -> None:
    tables = [table("a", "TRM-att", 0), table("b", "TRM-att", 1), table("c", "HRM", 2),
              table("d", "TRM-att", 0, objective="multi", shift=0.05)]  # fmt: skip
    for each in tables:
        each.settings.update({"num_exponents": 3, "dtype": "float64", "data_sha256": "d" * 64})
    tables[2].settings["lambda_bound_per_step"] = 9.0
    summary = write(tmp_path, tables)
    report = read_report(tmp_path / "summary.json")
    assert report.seeds == ["0", "1", "2", "0"] and report.commits == ["c0ffee"]
    assert "dddddddddddd (test split)" in report.datasets[0]
    assert report.result.startswith("6 steps, first 2 not counted, 3 exponents, float64; TRM-att: 52/80 solved in 2 ")
    found = summary["models"]["TRM-att"]["lambda1"]
    low, high = (found["auroc"]["mean"][name] for name in ("low", "high"))
    assert f"AUROC {found['auroc']['mean']['value']:.3f} [{low:.3f}, {high:.3f}]" in report.result
    assert f"median lambda_1 solved {found['median_solved']['mean']['value'] / 6:.4f} [" in report.result
    hrm = next(run for run in summary["runs"] if run["model"] == "HRM")
    newcombe = hrm["lambda1"]["auroc_newcombe"]
    assert f"Newcombe [{newcombe['low']:.3f}, {newcombe['high']:.3f}]" in report.result
    assert f"largest exponent of any step {hrm['lambda1_largest']:.4f}, bound 9.0000" in report.result
    assert report.result.count("largest exponent") == 1 and "0/28 failures settled" in report.result
    (difference,) = (each for each in summary["differences"] if each["quantity"] == "lambda1_median_failed")
    assert f"lambda1_median_failed: {difference['values'][0]:+.4f} no interval, n=1 seeds" in report.result


def test_rollouts(tmp_path: Path) -> None:
    correlation = {"value": -0.25, "interval95": [-0.4, -0.1]}
    entry = {"selector": "q", "steps": 8, "rollouts": 4, "forward_passes": 640,
             "exact_accuracy": {"value": 0.5, "numerator": 5, "denominator": 10}}  # fmt: skip
    path = tmp_path / "summary.json"
    content = {
        "command": "python analysis/rollouts/q_head_vs_stability.py", "git": {"commit": "c0ffee", "dirty": True},
        "cpu": "a CPU", "num_threads": 1,
        "settings": {"sigma": [0.3], "site": "z_L", "steps": [4, 8], "weights_sha256": "a" * 64, "dataset": "b" * 64,
                     "noise_seed": 0},
        "steps": [4, 8], "rollouts": 4, "puzzles": 10, "solved_always": 3, "solved_partly": 4, "solved_never": 3,
        "correlation_of_q_and_growth": [
            {"within": correlation, "within_given_margin": {"value": None, "interval95": None}, "pooled": correlation}
        ],
        "accuracy": [entry, entry | {"steps": 4, "exact_accuracy": {"value": 0.4}}],
    }  # fmt: skip
    path.write_text(json.dumps(content))
    report = read_report(path)
    assert report.commits == ["c0ffee+dirty"] and report.seeds == ["noise 0"]
    for words in ("3 / 4 / 3 of 10 puzzles", "within puzzles -0.250 [-0.400, -0.100]", "given the margin undefined",
                  "q of 4: 50.00 % (640 passes)"):  # fmt: skip
        assert words in report.result
    assert "40.00" not in report.result
    del content["solved_partly"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="'solved_partly' is missing"):
        read_report(path)


def test_cost(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    benchmark_lyapunov.main(["--preset", "trm_att_sudoku_6x6_cpu", "--shape", "sudoku4x4", "--batch-size", "1",
                             "--repeats", "1", "--device", "cpu", "--num-exponents", "2", "--json", str(path),
                             "--set", "arch.hidden_size=16", "arch.num_heads=2"])  # fmt: skip
    result, report = json.loads(path.read_text())["result"], read_report(path)
    assert report.datasets == ["synthetic"] and "(1 puzzles, k=2)" in report.result
    assert f"{result['flops_ratio']:.3f} times the state's operations" in report.result
