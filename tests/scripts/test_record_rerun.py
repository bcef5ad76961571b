"""Running records again: what is run, where, and what is said of every number."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from errors import UserError
from scripts.record_file import ROOT, read_records
from scripts.record_rerun import commands_of, compare, plan_lines, rerun, verdict
from tests.scripts.test_record_file import made
from training.records.result_numbers import Number, rate

OLD = Number("a", 95.88, 94.26, 97.05, unit="%")


@pytest.mark.parametrize(
    ("old", "value", "word"),
    [
        (OLD, 95.875, "equal"),
        (OLD, 95.884, "equal"),
        (OLD, 95.9, "within the interval"),
        (OLD, 97.06, "differs"),
        (Number("a", 600), 600, "equal"),
        (Number("a", 600), 604, "differs"),
        (Number("a", 81900000000), 81912345678.0, "equal"),
        (Number("a", 81900000000), 82912345678.0, "differs"),
        (Number("a", 0.0713), 0.07133, "equal"),
    ],
)
def test_verdicts(old: Number, value: float, word: str) -> None:
    assert verdict(old, Number("a", value)) == word


def test_without_a_recorded_interval_the_new_one_counts() -> None:
    assert verdict(Number("a", 50.0), Number("a", 52.0, 49.0, 55.0)) == "within the interval"
    assert verdict(Number("a", 50.0), Number("a", 52.0, 51.0, 55.0)) == "differs"
    assert verdict(Number("a", 50.0), None) == "differs"


def test_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    record = made(finished=False)
    assert compare(record, record.numbers) == 0
    out = capsys.readouterr().out
    assert "headline equal; 1 equal, 0 within the interval, 0 differs" in out, "times are not counted"
    assert compare(record, [rate("test exact_accuracy", 760, 800, "final")]) == 0
    out = capsys.readouterr().out
    assert "headline: within the interval: test exact_accuracy, final: recorded 95.88 % = 767/800" in out
    assert compare(record, [rate("test exact_accuracy", 538, 800, "final")]) == 1
    # The same measurement, named otherwise since.
    renamed = [dataclasses.replace(number, name=f"{number.name}, renamed") for number in record.numbers]
    assert compare(record, renamed) == 0 and compare(record, renamed[1:]) == 1
    assert "stopped on the steep part of its curve" in capsys.readouterr().out


@pytest.mark.parametrize("record", read_records(), ids=lambda record: record.id)
def test_every_recorded_command_names_scripts_and_grids_that_are_there(record) -> None:  # noqa: ANN001
    for words in commands_of(record, ROOT):
        assert words[0] == "python" and (ROOT / words[1]).is_file(), words
        if words[1] == "scripts/run_grid.py":
            assert (ROOT / "config" / "grid" / f"{words[2]}.yaml").is_file()
    assert record.id in plan_lines(record, ROOT)[0]


def repository(folder: Path) -> Path:
    """A small one, whose only script counts the calls of it and writes a report."""
    script = """import json, pathlib, sys
calls = pathlib.Path("calls.txt")
calls.write_text((calls.read_text() if calls.exists() else "") + sys.argv[1] + "\\n")
if sys.argv[1] == "fail" and not pathlib.Path("mended").exists():
    sys.exit(3)
number = {"name": "test exact_accuracy", "value": 95.875, "of": 800, "unit": "%", "moment": "final"}
pathlib.Path("out.json").write_text(json.dumps({"record": {"numbers": [number]}}))
"""
    (folder / "results").mkdir(parents=True)
    (folder / "new.py").write_text(script)
    (folder / "results" / "_moved_paths.yaml").write_text("old.py: new.py\n")
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    return folder


def test_a_record_is_run_again_in_a_clone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Data first, then earlier runs, then its own commands; stopped by one that fails, it goes on from there."""
    root, to = repository(tmp_path / "root"), tmp_path / "again"
    record = made(
        data_commands=["python old.py data"], needs=["python old.py needs"], commands=["python old.py fail"],
        outputs=["out.json"], seconds=3.0, hardware=["1× A CPU (1 thread)"],
    )  # fmt: skip
    with pytest.raises(UserError, match=r"python new.py fail ended with exit code 3; the same --rerun goes on"):
        rerun(record, to, root)
    (to / "mended").touch()
    assert rerun(record, to, root) == 0
    assert (to / "calls.txt").read_text().split() == ["data", "needs", "fail", "fail"]
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert not (root / "calls.txt").exists()
    out = capfd.readouterr().out
    assert f"{to} is at commit {head[:12]}, {record.id} was measured at no known\n" in out
    assert "3 s on 1× A CPU (1 thread)" in out and "headline: equal: test exact_accuracy, final" in out


def test_folders_and_records_that_cannot_be_used(tmp_path: Path) -> None:
    root = repository(tmp_path / "root")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    record = made(commands=["python new.py a"], outputs=["out.json"])
    with pytest.raises(UserError, match="is not empty and no clone of an earlier --rerun; name a new folder"):
        rerun(record, tmp_path / "full", root)
    # Other clones may hold the recorded run: it would be read, not measured again.
    (root / ".commands_done").write_text("python new.py a\n")
    other = repository(tmp_path / "other")
    for taken in (root, other):
        (taken / "out.json").write_text("{}")
        with pytest.raises(UserError, match="is not empty and no clone of an earlier --rerun; name a new folder"):
            rerun(record, taken, root)
        assert not (taken / "calls.txt").exists()
    with pytest.raises(UserError, match="has no commands or no outputs"):
        rerun(made(), tmp_path / "new", root)
    (tmp_path / "bare" / "results").mkdir(parents=True)
    (tmp_path / "bare" / "results" / "_moved_paths.yaml").write_text("a: b\n")
    with pytest.raises(UserError, match="cannot be cloned"):
        rerun(record, tmp_path / "new", tmp_path / "bare")
