"""Every reader against damaged and hostile input; and the fuzzer against readers with known faults."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from errors import UserError
from scripts.fuzz import main
from tests.fuzz import canary
from tests.fuzz.engine import Case, Report, Target, bounded_memory, forget_peak, make_case, run_case, shares
from tests.fuzz.registry import all_targets
from tests.fuzz.targets.puzzle_lists import RawPuzzleList
from tests.helpers import ROOT

FAST_CASES = 2000
SLOW_CASES = 20_000
NAMES = [target.name for target in all_targets()]
COUNTS = shares(all_targets(), FAST_CASES)
SLOW_COUNTS = shares(all_targets(), SLOW_CASES)


def fuzz(name: str, cases: int, seed: int, folder: Path) -> Report:
    (target,) = (target for target in all_targets() if target.name == name)
    target.prepare()
    report = Report(name)
    with bounded_memory():
        for index in range(cases):
            report.add(run_case(target, seed, index, folder))
    return report


def assert_sound(report: Report) -> None:
    shown = [f"{each.command}\n{each.detail}" for each in report.failures[:5]]
    assert not report.failures, f"{len(report.failures)} of {report.cases} cases failed:\n" + "\n".join(shown)
    # A reader that refuses all, or a fuzzer that damages nothing, would pass as well.
    assert report.read >= report.cases // 50 and report.refused >= report.cases // 10


def test_enough_cases() -> None:
    assert sum(COUNTS.values()) >= FAST_CASES and sum(SLOW_COUNTS.values()) >= SLOW_CASES


@pytest.mark.parametrize("name", NAMES)
def test_every_input_is_read_correctly_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    assert_sound(fuzz(name, COUNTS[name], 0, tmp_path / "case"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_every_input_of_many(name: str, tmp_path: Path) -> None:
    assert_sound(fuzz(name, SLOW_COUNTS[name], 1, tmp_path / "case"))


@pytest.mark.parametrize("name", NAMES)
def test_a_case_depends_on_seed_and_index_only(name: str, tmp_path: Path) -> None:
    def contents(index: int) -> list[tuple[str, bytes]]:
        (target,) = (target for target in all_targets() if target.name == name)
        target.prepare()
        folder = tmp_path / "case"
        outcome = run_case(target, 5, index, folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
        timed = ("provenance.json", "status.json")  # of when they were written
        written = [(path.name, path.read_bytes()) for path in files if path.name not in timed]
        return [*written, (outcome.kind, "\n".join(outcome.changes).encode("utf-8", "backslashreplace"))]

    for index in (3, 4, 11):
        assert contents(index) == contents(index)


def digests(folder: Path) -> dict[str, str]:
    """By target: of what its first cases say and write. They may name `folder`."""
    found = {}
    for target in all_targets():
        target.prepare()
        digest = hashlib.sha256()
        for index in range(40):
            case = make_case(target, 5, index, folder)
            digest.update(repr((case.changes, case.shown)).encode("utf-8", "backslashreplace"))
            for path in sorted(folder.rglob("*")):
                digest.update(repr(path).encode("utf-8", "backslashreplace"))
                digest.update(path.read_bytes() if path.is_file() and path.stat().st_size else b"")
        found[target.name] = digest.hexdigest()
    return found


def test_a_case_is_the_same_in_another_process(tmp_path: Path) -> None:
    """Where addresses, hashes of texts and random generators are others."""
    code = """
import json, sys
from pathlib import Path
from tests.fuzz.test_fuzz import digests
print(json.dumps(digests(Path(sys.argv[1]))))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "case")], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == digests(tmp_path / "case")


def test_a_reader_that_keeps_a_bomb_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the cases of every day are some that no reader may take into memory."""
    if not forget_peak():
        pytest.skip("this process's peak may be that of an earlier test")

    def keep(target: RawPuzzleList, path: Path) -> list[str]:
        with gzip.open(path, "rt", errors="replace") as lines:
            return list(lines)

    monkeypatch.setattr(RawPuzzleList, "read", keep)
    monkeypatch.setattr(RawPuzzleList, "judge", lambda target, result, path: None)
    target = RawPuzzleList()
    target.prepare()
    with bounded_memory():
        outcomes = (run_case(target, 0, index, tmp_path / "case") for index in range(COUNTS[target.name]))
        assert any(outcome.detail.startswith("memory grew") for outcome in outcomes)


class Faulty:
    """A target whose reader does what no reader may."""

    name = "faulty"
    share = 1.0

    def __init__(self, read: Callable[[Path], Any], **options: Any) -> None:
        self.reader, self.options = read, options

    def prepare(self) -> None:
        """Nothing to make."""

    def case(self, rng: Random, folder: Path) -> Case:
        (folder / "input").write_text("good")
        judge = self.options.pop("judge", lambda result: None if result == "good" else f"found {result!r}")
        return Case(["none"], lambda: self.reader(folder), judge, **self.options)


def refuse(message: str) -> None:
    error = UserError("x")
    error.args = (message,)
    raise error


def spin(folder: Path) -> None:
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            pass
    except Exception:  # a reader that swallows everything must not swallow the timer
        pass


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "traceback": (lambda folder: {}["missing"], "KeyError"),
    "silently wrong": (lambda folder: "bad", "silently wrong"),
    "exit": (lambda folder: sys.exit(3), "exit code 3"),
    "two lines": (lambda folder: refuse("a\nb"), "no printable line"),
    "escape codes": (lambda folder: refuse("a\x1b[2Jb"), "no printable line"),
    "no message": (lambda folder: refuse(" "), "no printable line"),
    "a page": (lambda folder: refuse("x" * 5000), "5000 characters"),
    "printed traceback": (lambda folder: print("Traceback (most recent call last):") or "good", "traceback"),
    "payload by file": (lambda folder: (folder / canary.FILE).touch() or "good", "payload"),
    "payload by call": (lambda folder: canary.sing() and "good", "payload"),
    "payload in a refusal": (lambda folder: canary.sing() and refuse("no"), "payload"),
    "memory": (lambda folder: len(os.urandom(1 << 20) * 600) and "good", "memory grew"),
    "hang": (spin, "a hang"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_fuzzer_sees_the_fault(name: str, tmp_path: Path) -> None:
    reader, sign = FAULTS[name]
    if name == "memory" and not forget_peak():
        pytest.skip("this process's peak may be that of an earlier test; a process of its own is tested below")
    with bounded_memory():
        outcome = run_case(Faulty(reader), 0, 0, tmp_path)
    assert outcome.kind == "failure" and sign in outcome.detail


def test_growth_is_seen_again_in_a_process_that_keeps_what_it_frees(tmp_path: Path) -> None:
    """As after a training in this process. In one of its own: the setting cannot be taken back."""
    code = """
import sys
from pathlib import Path
import torch
from tests.fuzz.test_fuzz import FAULTS, Faulty, bounded_memory, forget_peak, run_case
from training.devices import keep_freed_memory
keep_freed_memory(torch.device("cpu"))
for _ in range(2 if forget_peak() else 1):
    with bounded_memory():
        print(run_case(Faulty(FAULTS["memory"][0]), 0, 0, Path(sys.argv[1])).detail)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "case")], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    details = done.stdout.splitlines()
    assert len(details) == 1 + forget_peak() and all(detail.startswith("memory grew") for detail in details)


def test_the_fuzzer_sees_a_python_warning_and_a_refused_sound_input(tmp_path: Path) -> None:
    import warnings

    outcome = run_case(Faulty(lambda folder: warnings.warn("odd", stacklevel=1) or "good"), 0, 0, tmp_path)
    assert outcome.kind == "failure" and "odd" in outcome.detail
    outcome = run_case(Faulty(lambda folder: refuse("no"), must_read=True), 0, 0, tmp_path)
    assert outcome.kind == "failure" and "sound input was refused" in outcome.detail


def test_the_fuzzer_counts_what_is_right(tmp_path: Path) -> None:
    assert run_case(Faulty(lambda folder: (folder / "input").read_text()), 0, 0, tmp_path).kind == "read"
    assert run_case(Faulty(lambda folder: refuse("no")), 0, 0, tmp_path).kind == "refused"


def test_shares_add_up() -> None:
    targets: list[Target] = all_targets()
    for cases in (1, 50, 2000):
        counts = shares(targets, cases)
        assert set(counts) == set(NAMES) and min(counts.values()) >= 1
        assert sum(counts.values()) == max(cases, len(NAMES)) or cases < 50


def test_command_prints_a_table_and_writes_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ending:
        main(
            [
                "--cases",
                "20",
                "--target",
                "csv",
                "--target",
                "states",
                "--out",
                str(out),
                "--save",
                str(tmp_path),
            ]
        )
    assert ending.value.code == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["target", "csv", "states", "all"]
    assert sum(int(cell) for cell in lines[-1][2:]) == int(lines[-1][1]) == 20
    figures = json.loads(out.read_text())
    assert set(figures["targets"]) == {"csv", "states"} and figures["failures"] == []


def test_command_shows_one_case_and_keeps_its_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["--target", "weights", "--seed", "4", "--index", "2", "--save", str(tmp_path)])
    assert ending.value.code == 0
    assert "input: " in capsys.readouterr().out
    kept = tmp_path / "weights-4-2"
    assert "--target weights --seed 4 --index 2" in (kept / "failure.txt").read_text()
    assert any((kept / "input").iterdir())


def test_command_refuses_an_unknown_target(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["--target", "nothing"])
    assert ending.value.code == 2 and "dataset" in capsys.readouterr().err
