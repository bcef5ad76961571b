"""Rows of PROVENANCE.md: computed from run folders, appended, never edited."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from errors import UserError
from scripts.record_reports import read_report, report_cells
from scripts.record_result import COLUMNS, append_row, existing_ids, main
from scripts.report_entries import rate
from tests.fuzz.targets.records import BENCHMARK, EVALUATION

ROOT = Path(__file__).resolve().parents[2]


def make_run(folder: Path, *, seed: int = 1, summary: dict[str, Any] | None = None, **changes: Any) -> Path:
    folder.mkdir()
    provenance = {
        "argv": ["pretrain.py", "arch=trm", "evaluators=[]"],
        "config": {"seed": seed},
        "config_hash": f"{seed:064x}",
        "git": {"commit": "abcdef0123456789" * 2, "dirty": True},
        "datasets": [{"path": "d", "sha256": "12" * 32}],
        "seeds": {"seed": seed},
        "cpu": "A CPU | at 2 GHz",
        "gpu": None,
        "num_threads": 2,
        "world_size": 1,
        "sessions": [{}],
        **changes,
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


SUMMARY = {
    "steps": 500,
    "best": {
        "metric": "eval/exact_accuracy",
        "value": 0.8,
        "numerator": 800,
        "denominator": 1000,
        "step": 400,
    },
    "final": {"value": 0.79, "numerator": 790, "denominator": 1000, "step": 500},
    "test": {
        "initial": {"value": 0.01, "numerator": 1, "denominator": 100, "step": 0},
        "best": {"value": 0.74, "numerator": 74, "denominator": 100, "step": 400},
        "final": {"value": 0.73, "numerator": 73, "denominator": 100, "step": 500},
    },
    "train_seconds": 123.4,
    "num_params": 149186,
    "baselines": {"most_frequent": 0.125, "copy_input": 0},
}


def record(file: Path, *arguments: str) -> None:
    main(["--file", str(file), *arguments])


def rows(file: Path) -> list[list[str]]:
    """The table's body, cells unescaped."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The textbook formula, as a second route."""
    z = 1.959963984540054
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - half, middle + half


@pytest.mark.parametrize(("successes", "n"), [(740, 1000), (0, 64), (64, 64), (1, 3)])
def test_rate_and_its_interval(successes: int, n: int) -> None:
    text = rate({"value": successes / n, "numerator": successes, "denominator": n, "step": 7})
    low, high = wilson(successes, n)
    expected = f"{100 * successes / n:.2f} % = {successes}/{n} [{100 * abs(low):.2f}, {100 * high:.2f}] @ update 7"
    assert text == expected


def test_rates_that_are_not() -> None:
    assert rate(None) == rate({}) == rate({"value": None}) == "not run"
    assert rate({"value": 0.25, "step": 3}) == "0.25 (no denominator) @ update 3"
    assert rate({"value": 0.25, "numerator": 0, "denominator": 0}) == "0.25 (no denominator)"
    with pytest.raises(UserError, match="5/4 is impossible"):
        rate({"value": 1.25, "numerator": 5, "denominator": 4})


def test_a_row_from_two_runs(tmp_path: Path) -> None:
    file = tmp_path / "PROVENANCE.md"
    runs = [make_run(tmp_path / f"r{seed}", seed=seed, summary=SUMMARY) for seed in (1, 2)]
    record(
        file, "--id", "six-1", "--claim", "TRM solves 6x6 | minimal", "--expected", "≥75 %",
        "--source", "plan",
        "--status", "reproduced", "--note", "first", "--runs", *map(str, runs),
    )  # fmt: skip
    (row,) = rows(file)
    assert len(row) == len(COLUMNS)
    cells = dict(zip(COLUMNS, row, strict=True))
    assert cells["id"] == "six-1" and cells["claim"] == "TRM solves 6x6 | minimal"
    assert cells["expected & source"] == "≥75 % (plan)"
    assert cells["command"] == "`python pretrain.py arch=trm 'evaluators=[]'`"  # the same for both: once
    assert cells["config hash"] == "000000000000"
    assert cells["commit"] == "abcdef012345+dirty" and cells["dataset hash"] == "121212121212"
    assert cells["seeds, n"] == "1, 2; n=2"
    result = cells["result (peak; final; 95 % Wilson interval)"]
    for part in (
        "peak 80.00 % = 800/1000",
        "@ update 400",
        "final 79.00 % = 790/1000",
        "test: initial 1.00 % = 1/100",
        "@ update 0; peak 74.00 % = 74/100",
    ):
        assert result.count(part) >= 2, part  # once per run
    assert "baselines: most_frequent 0.125, copy_input 0" in result
    assert "A CPU | at 2 GHz (2 threads), 123 s, 500 updates, 149,186 parameters" in cells["hardware, time, updates"]
    assert cells["status"] == "reproduced: first"
    text = file.read_text()
    assert text.startswith("# Provenance") and "Rows are only ever added" in text


def test_rows_are_appended_and_never_edited(tmp_path: Path) -> None:
    file = tmp_path / "PROVENANCE.md"
    run = make_run(tmp_path / "r", summary=SUMMARY)
    record(file, "--id", "a", "--claim", "c", "--status", "exploratory", "--runs", str(run))
    before = file.read_text()
    record(file, "--id", "b", "--claim", "c", "--status", "superseded-by:a", "--runs", str(run))
    assert file.read_text().startswith(before) and file.read_text().count("# Provenance") == 1
    assert [row[0] for row in rows(file)] == ["a", "b"] and rows(file)[1][-1] == "superseded-by a"
    before = file.read_text()
    with pytest.raises(SystemExit) as caught:
        record(file, "--id", "a", "--claim", "c", "--status", "failed", "--runs", str(run))
    assert caught.value.code == 2 and file.read_text() == before


def test_duplicate_names_the_way_out(tmp_path: Path) -> None:
    append_row(tmp_path / "P.md", "x", "| x | y |\n")
    with pytest.raises(UserError, match="already has a row x.*choose another --id"):
        append_row(tmp_path / "P.md", "x", "| x | z |\n")
    assert existing_ids((tmp_path / "P.md").read_text()) >= {"x"}


def test_a_file_without_final_newline_keeps_its_last_row(tmp_path: Path) -> None:
    file = tmp_path / "P.md"
    append_row(file, "x", "| x | y |")
    append_row(file, "z", "| z | y |\n")
    assert file.read_text().endswith("| x | y |\n| z | y |\n")


def test_not_run_needs_no_run(tmp_path: Path) -> None:
    file = tmp_path / "P.md"
    record(file, "--id", "later", "--claim", "maze on two GPUs", "--expected", "85.3 %", "--status", "not-run")
    assert rows(file)[0] == [
        "later", "maze on two GPUs", "85.3 % (no source)", *["not run"] * 7, "not-run",
    ]  # fmt: skip


def test_a_row_from_reports(tmp_path: Path) -> None:
    """The same columns as a run's; a bar in a name does not end its cell."""
    environment = BENCHMARK["environment"] | {"cpu": "A CPU | at 2 GHz"}
    (tmp_path / "speed.json").write_text(json.dumps({**BENCHMARK, "environment": environment}))
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION))
    file, reports = tmp_path / "P.md", [tmp_path / "speed.json", tmp_path / "evaluation.json"]
    record(
        file, "--id", "s", "--claim", "fast", "--expected", "below 1 s", "--status", "reproduced", "--note", "once",
        "--reports", *map(str, reports),
    )  # fmt: skip
    (row,) = rows(file)
    assert row[:3] == ["s", "fast", "below 1 s (no source)"] and row[-1] == "reproduced: once"
    assert row[3:-1] == report_cells([read_report(path) for path in reports])
    assert "A CPU | at 2 GHz" in row[-2] and " // test rows: 95.62 % = 765/800" in row[-3]


def test_several_processes_are_in_the_command(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", summary=SUMMARY, world_size=2)
    record(tmp_path / "P.md", "--id", "x", "--claim", "c", "--status", "failed", "--runs", str(run))
    assert "`torchrun --nproc-per-node 2 pretrain.py arch=trm" in rows(tmp_path / "P.md")[0][3]


def test_missing_parts_are_not_run(tmp_path: Path) -> None:
    file = tmp_path / "P.md"
    run = make_run(tmp_path / "r", summary={"steps": 3}, git={}, datasets=None, seeds={}, config={})
    record(file, "--id", "x", "--claim", "c", "--status", "failed", "--runs", str(run))
    cells = dict(zip(COLUMNS, rows(file)[0], strict=True))
    assert cells["result (peak; final; 95 % Wilson interval)"] == (
        "eval/exact_accuracy: peak not run; final not run; test: not run"
    )
    assert cells["commit"] == "none" and cells["dataset hash"] == "not recorded"
    assert (
        cells["seeds, n"] == "not recorded; n=1" and "time not recorded, 3 updates" in cells["hardware, time, updates"]
    )


def test_without_a_test_of_the_initial_weights(tmp_path: Path) -> None:
    test = {key: value for key, value in SUMMARY["test"].items() if key != "initial"}
    run = make_run(tmp_path / "r", summary={**SUMMARY, "test": test})
    record(tmp_path / "P.md", "--id", "x", "--claim", "c", "--status", "failed", "--runs", str(run))
    assert "; test: initial not run; peak 74.00 % = 74/100 [" in rows(tmp_path / "P.md")[0][8]


def test_initial_weights_of_a_wrong_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = SUMMARY["test"] | {"initial": {"value": 0.01, "numerator": "1", "denominator": 100}}
    run = make_run(tmp_path / "r", summary={**SUMMARY, "test": test})
    with pytest.raises(SystemExit):
        record(tmp_path / "P.md", "--id", "x", "--claim", "c", "--status", "failed", "--runs", str(run))
    assert "'numerator' is '1', expected a number" in capsys.readouterr().err


def test_an_unfinished_run_gives_its_log(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    lines = [
        {"step": 10, "eval/exact_accuracy": 0.5, "eval/exact_count": 5, "eval/count": 10},
        {"step": 20, "eval/exact_accuracy": 0.7, "eval/exact_count": 7.0, "eval/count": 10.0},
        {"step": 30, "eval/exact_accuracy": 0.6, "eval/exact_count": 6, "eval/count": 10},
        {"step": 33, "train/loss": 1.0, "eval/q": 0.5},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 34, "ev')
    file = tmp_path / "P.md"
    record(
        file,
        "--id",
        "x",
        "--claim",
        "c",
        "--status",
        "exploratory",
        "--runs",
        str(run),
        "--metric",
        "eval/exact_accuracy",
    )
    cells = dict(zip(COLUMNS, rows(file)[0], strict=True))
    result = cells["result (peak; final; 95 % Wilson interval)"]
    assert (
        result.startswith("eval/exact_accuracy: peak 70.00 % = 7/10 [")
        and "@ update 20; final 60.00 % = 6/10 [" in result
    )
    assert "33 updates" in cells["hardware, time, updates"]
    record(file, "--id", "y", "--claim", "c", "--status", "exploratory", "--runs", str(run), "--metric", "eval/q")
    assert (
        "eval/q: peak 0.5 (no denominator)"
        in rows(file)[1][COLUMNS.index("result (peak; final; 95 % Wilson interval)")]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--status", "reproduced"], "needs --runs"),
        (["--status", "reproduced"], "or --reports FILE"),
        (["--status", "failed", "--runs", "{tmp}", "--reports", "{tmp}/x.json"], "--runs and --reports are both given"),
        (["--status", "failed", "--reports", "{tmp}/broken/provenance.json"], "provenance.json: it is no JSON"),
        (["--status", "failed", "--reports", "{tmp}"], "it is not a regular file"),
        (["--status", "failed", "--runs", "{tmp}/absent"], "there is no such folder"),
        (["--status", "failed", "--runs", "{tmp}"], "has no provenance.json"),
        (["--status", "failed", "--runs", "{tmp}/broken"], "provenance.json: it is no JSON"),
        (["--status", "fine", "--runs", "{tmp}/broken"], "superseded-by:ID, found 'fine'"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "provenance.json").write_text("{")
    file = tmp_path / "P.md"
    with pytest.raises(SystemExit) as caught:
        record(file, "--id", "x", "--claim", "c", *(item.format(tmp=tmp_path) for item in arguments))
    assert caught.value.code == 2 and message in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize("form", [["scripts/record_result.py"], ["-m", "scripts.record_result"]])
def test_help(tmp_path: Path, form: list[str]) -> None:
    if form[0] == "-m":
        command, folder = form, ROOT
    else:
        command, folder = [str(ROOT / form[0])], tmp_path
    done = subprocess.run([sys.executable, *command, "--help"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "--claim" in done.stdout
