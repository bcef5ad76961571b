"""The recorder's command line: a record from reports, pages rendered with it, and what it refuses."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from errors import UserError
from scripts import record_render
from scripts.record_file import ROOT, read_record
from scripts.record_rerun import commands_of
from scripts.record_result import main
from tests.fuzz.targets.records import EVALUATION
from tests.helpers import refused_line, train_here

CLAIM = ["--claim", "it is solved"]


def record(root: Path, *arguments: str) -> int:
    return main(["--root", str(root), *arguments])


@pytest.fixture
def report(tmp_path: Path) -> Path:
    (tmp_path / "report.json").write_text(json.dumps(EVALUATION))
    return tmp_path / "report.json"


def test_a_number_goes_from_report_to_record_to_page(report: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "_data.yaml").write_text(f"'{'34' * 6}': python make.py data/six\n")
    words = ["--id", "sudoku-1", *CLAIM, "--expected", "75 %", "--source", "plan", "--note", "first"]
    words += ["--status", "differs"]
    assert record(tmp_path, *words, "--reports", str(report), "--needs", "python pretrain.py") == 0
    made = read_record("sudoku-1", tmp_path / "results")
    assert made.headline is not None and made.headline.numerator == 765 and made.headline.of == 800
    assert (made.expected, made.source, made.note, made.status) == ("75 %", "plan", "first", "differs")
    assert made.data_commands == ["python make.py data/six"] and made.needs == ["python pretrain.py"]
    assert made.commands == [EVALUATION["command"]] and made.outputs == [report.name], "from the root"
    for page in ("PROVENANCE.md", "docs/results.md"):
        assert "95.62 % = 765/800 [93.98, 96.84]" in (tmp_path / page).read_text()


def test_what_lies_elsewhere_is_warned_of(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "suite").mkdir()
    assert record(tmp_path / "suite", "--id", "sudoku-1", *CLAIM, "--status", "differs", "--reports", str(report)) == 0
    assert f"warning: {report} lies outside the repository, so that --rerun cannot" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"sudoku-1 names {report}, which is not in a clone"):
        commands_of(read_record("sudoku-1", tmp_path / "suite" / "results"), tmp_path)


def test_pages_are_checked_and_rendered(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path, "--id", "sudoku-1", *CLAIM, "--status", "differs", "--reports", str(report))
    assert record(tmp_path, "--check") == 0
    (tmp_path / "PROVENANCE.md").write_text("edited by hand\n")
    assert record(tmp_path, "--check") == 1
    assert "PROVENANCE.md is stale: python scripts/record_result.py --render" in capsys.readouterr().err
    assert record(tmp_path, "--render") == 0 and record(tmp_path, "--check") == 0


def test_a_correction_leaves_the_old_record(report: Path, tmp_path: Path) -> None:
    words = [*CLAIM, "--status", "differs", "--reports", str(report)]
    record(tmp_path, "--id", "sudoku-1", *words)
    before = (tmp_path / "results" / "sudoku-1.yaml").read_bytes()
    record(tmp_path, "--id", "sudoku-2", "--supersedes", "sudoku-1", *words)
    assert (tmp_path / "results" / "sudoku-1.yaml").read_bytes() == before
    table = (tmp_path / "PROVENANCE.md").read_text()
    assert "| sudoku-2 |" in table and "| sudoku-1 |" not in table


def test_a_full_disk_between_record_and_pages(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command finds its record and writes what lacks."""
    words = [
        "--id",
        "sudoku-1",
        *CLAIM,
        "--status",
        "differs",
        "--reports",
        str(report),
        "--data-commands",
        "make data",
    ]

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(record_render, "write_bytes_atomically", refuse)
        line = refused_line(capsys, main, ["--root", str(tmp_path), *words])
    page = tmp_path / "PROVENANCE.md"
    assert line == (
        f"error: {page} cannot be written: No space left on device; free some space and give the same command again"
    )
    kept = (tmp_path / "results" / "sudoku-1.yaml").read_bytes()
    assert not page.exists() and record(tmp_path, *words) == 0
    assert page.exists() and record(tmp_path, "--check") == 0
    assert (tmp_path / "results" / "sudoku-1.yaml").read_bytes() == kept
    assert "are never changed" in refused_line(capsys, main, ["--root", str(tmp_path), *words, "--note", "other"])


@pytest.mark.parametrize("option", ["init_from", "resume"])
def test_runs_that_began_from_another_need_what_made_it(
    option: str, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    start = first / ("final.pt" if option == "init_from" else "final_state.pt")
    train_here("trm_mlp", sudoku6_folder, first, ["max_steps=2"])
    train_here("trm_mlp", sudoku6_folder, second, ["max_steps=4", f"{option}={start}"])
    words = [*CLAIM, "--status", "differs", "--data-commands", "make data", "--runs"]
    told = f"warning: {second} began from {start}, and nothing is known of what makes that: give the commands with"
    for name, more, expected in (
        ("sudoku-1", [str(first)], False), ("sudoku-2", [str(second)], True),
        ("sudoku-3", [str(second), "--needs", "python pretrain.py"], False),
    ):  # fmt: skip
        capsys.readouterr()
        assert record(tmp_path, "--id", name, *words, *more) == 0
        assert (told in capsys.readouterr().err) == expected


def test_what_was_not_run_needs_no_run(tmp_path: Path) -> None:
    record(tmp_path, "--id", "speed-gpu-1", *CLAIM, "--status", "not-run")
    assert "| speed-gpu-1 | it is solved | not run |" in (tmp_path / "PROVENANCE.md").read_text()


def test_data_of_which_nothing_is_known_is_said(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, "--id", "sudoku-1", *CLAIM, "--status", "differs", "--reports", str(report))
    assert f"nothing is known of the data {'34' * 6}: give the commands" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--status", "reproduced"], "a result has --runs DIR... or --reports FILE"),
        (["--status", "not-run", "--reports", "{report}"], "and what has none is --status not-run"),
        (["--status", "failed", "--runs", "{tmp}", "--reports", "{report}"], "--runs and --reports are both given"),
        (["--status", "failed", "--reports", "{tmp}/broken/provenance.json"], "provenance.json: it is no JSON"),
        (["--status", "failed", "--runs", "{tmp}/absent"], "there is no such folder"),
        (["--status", "failed", "--runs", "{tmp}"], "has no provenance.json"),
        (["--status", "failed", "--runs", "{tmp}/broken"], "has no summary.json"),
        (["--status", "fine", "--reports", "{report}"], "invalid choice: 'fine'"),
        (["--status", "failed", "--reports", "{report}", "--supersedes", "sudoku-9"], "there is no record sudoku-9"),
        (["--reports", "{report}"], "--status not given"),
        (["--rerun", "sudoku-9"], "there is no record sudoku-9"),
        (["--status", "failed", "--reports", "{report}", "--id", "../x"], "--id '../x': expected letters"),
        (
            ["--status", "failed", "--reports", "{report}", "--id", "sudoku-0", "--note", "x"],
            "records are never changed",
        ),
    ],
)
def test_bad_input(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    record(tmp_path, "--id", "sudoku-0", *CLAIM, "--status", "failed", "--reports", str(report))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "provenance.json").write_text("{")
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        given = [item.format(tmp=tmp_path, report=report) for item in arguments]
        record(tmp_path, "--id", "sudoku-1", *CLAIM, *given)
    assert caught.value.code == 2 and message in capsys.readouterr().err
    assert all(path.read_bytes() == text for path, text in before.items())
    assert not (tmp_path / "results" / "sudoku-1.yaml").exists()


def test_the_plan_of_a_record_of_the_repository(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rerun", "collatz-closed-forms-1"]) == 0
    out = capsys.readouterr().out
    assert "python projects/collatz/build_eval.py" in out and "--closed-forms --lookahead 20" in out


@pytest.mark.parametrize("form", [["scripts/record_result.py"], ["-m", "scripts.record_result"]])
def test_help(tmp_path: Path, form: list[str]) -> None:
    if form[0] == "-m":
        command, folder = form, ROOT
    else:
        command, folder = [str(ROOT / form[0])], tmp_path
    done = subprocess.run([sys.executable, *command, "--help"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "--claim" in done.stdout


def test_an_id_of_no_group_is_refused_before_anything_is_written(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").mkdir()
    words = ["--id", "unheard-of-1", *CLAIM, "--expected", "1", "--source", "plan", "--status", "exploratory"]
    with pytest.raises(SystemExit) as caught:
        record(tmp_path, *words, "--reports", str(report))
    assert caught.value.code == 2 and "unheard-of-1 belongs to no group" in capsys.readouterr().err
    assert not list((tmp_path / "results").glob("*.yaml"))
