"""The launcher of grids under faults: failures, signals, full disks, other launches, and what it says of them."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataset.plain_data import read_json_object
from scripts import grid_record, run_grid
from scripts.grid_file import read_grid
from scripts.grid_record import Clock, GridRecord
from scripts.run_grid import FAILED, STOPPED
from tests.helpers import ROOT, wait_until

# In place of a training: notes when it begins and ends, and behaves as its second argument says.
FAKE = """
import json, os, pathlib, signal, sys, time
folder, behaviour = pathlib.Path(sys.argv[1]), sys.argv[2]
folder.mkdir(parents=True, exist_ok=True)
events = folder.parent / "events"

def note(what):
    with events.open("a") as file:
        file.write(f"{what} {folder.name}\\n")

def patiently(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)

signals = []
def handle(number, frame):
    signals.append(signal.Signals(number).name)
    note(signals[-1])
    if len(signals) == 2:
        sys.exit(1)
if behaviour not in ("deaf", "done"):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)

note("begin")
print("threads", os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"], "in", os.getcwd(), flush=True)
(folder / "pid").write_text(str(os.getpid()))
if behaviour == "done":
    (folder / "summary.json").write_text("{}")
    time.sleep(60)
if behaviour == "orphan":
    patiently(lambda: signals)
if behaviour == "fail":
    print("error: a mistake \\x1b[31m", file=sys.stderr)
    print(file=sys.stderr)
    sys.exit(5)
if behaviour == "silent":
    sys.exit(0)
if behaviour == "meets":
    patiently(lambda: events.read_text().count("begin") >= int(sys.argv[3]))
if behaviour in ("long", "deaf") and not (folder / "half").exists():
    (folder / "half").touch()
    while not signals:
        time.sleep(0.01)
    if sys.argv[3:] == ["crash"]:
        sys.exit("no space left")
    if sys.argv[3:] == ["slow"]:
        patiently(lambda: len(signals) == 2)
    sys.exit(0)
note("end")
(folder / "summary.json").write_text("{}")
"""


@pytest.fixture
def grid_of(tmp_path: Path) -> Any:
    """Writes a grid of fake trainings: name -> (behaviour, needs)."""
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE))

    def write(runs: dict[str, tuple[str, list[str]]], **more: Any) -> Path:
        entries = [
            {"name": name, "needs": needs, "command": f"{script} {{out}}/{{name}} {behaviour}"}
            for name, (behaviour, needs) in runs.items()
        ]
        file = tmp_path / "grid.yaml"
        file.write_text(yaml.safe_dump({"out": str(tmp_path / "out"), "runs": entries} | more))
        return file

    return write


def events(tmp_path: Path) -> list[str]:
    path = tmp_path / "out" / "events"
    return path.read_text().splitlines() if path.exists() else []


def launch(grid: Path, *options: str) -> int:
    return run_grid.main([str(grid), *options])


def sessions(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    record: dict[str, Any] = read_json_object(tmp_path / "out" / "grid.json")
    return list(record["runs"][name]["sessions"])


def outcomes(tmp_path: Path, name: str) -> list[str]:
    return [session["outcome"] for session in sessions(tmp_path, name)]


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_so_many_at_a_time(jobs: int, grid_of: Any, tmp_path: Path) -> None:
    """The first `jobs` runs end only once all of them have begun; never do more than `jobs` overlap."""
    runs = {f"r{index}": (f"meets {jobs}", []) for index in range(5)}
    assert launch(grid_of(runs), "--jobs", str(jobs)) == 0
    running = most = 0
    for event in events(tmp_path):
        running += 1 if event.startswith("begin") else -1
        most = max(most, running)
    assert most == jobs and running == 0 and len(events(tmp_path)) == 10


def test_a_failure_takes_its_dependants_only(grid_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = {
        "bad": ("fail", []), "child": ("ok", ["bad"]), "grandchild": ("ok", ["good", "child"]),
        "good": ("ok", []), "forgetful": ("silent", []), "last": ("ok", ["good"]),
    }  # fmt: skip
    grid = grid_of(runs)
    assert launch(grid, "--jobs", "1") == FAILED
    shown = capsys.readouterr()
    log = tmp_path / "out" / "logs" / "bad.log"
    assert f"FAILED bad: exit code 5; last line of {log}: error: a mistake \\x1b[31m [" in shown.out
    summary = tmp_path / "out" / "forgetful" / "summary.json"
    assert f"FAILED forgetful: it ended without {summary}; last line of" in shown.out
    assert "skipped child: it needs bad" in shown.out and "skipped grandchild: it needs bad" in shown.out
    assert shown.err == "failed: bad, forgetful\nskipped: child, grandchild\n"
    assert "ended with 2 of 6 runs finished; the same command goes on" in shown.out
    assert [event for event in events(tmp_path) if event.startswith("begin")] == [
        "begin bad", "begin good", "begin forgetful", "begin last"
    ]  # fmt: skip
    # Mended, the same command goes on with what is missing. The log keeps both sessions.
    runs |= {"bad": ("ok", []), "forgetful": ("ok", [])}
    assert launch(grid_of(runs)) == 0
    assert outcomes(tmp_path, "bad") == ["failed", "finished"] and outcomes(tmp_path, "good") == ["finished"]
    assert sessions(tmp_path, "bad")[0]["exit_code"] == 5
    assert log.read_text().count("== ") == 2


def test_a_run_that_prints_nothing_and_one_that_a_signal_ends(
    grid_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, line in (("quiet", "raise SystemExit(1)"), ("killed", "import os; os.kill(os.getpid(), 9)")):
        (tmp_path / f"{name}.py").write_text(line)
    grid = grid_of({})
    entries = [{"name": name, "command": str(tmp_path / f"{name}.py")} for name in ("quiet", "killed")]
    grid.write_text(yaml.safe_dump({"out": str(tmp_path / "out"), "runs": entries}))
    assert launch(grid) == FAILED
    shown = capsys.readouterr().out
    # Not the header, nor a line of an earlier session.
    assert "exit code 1; last line" in shown and shown.count("quiet.log: (nothing was printed)") == 1
    assert "FAILED killed: ended by SIGKILL" in shown


def start(grid: Path, *options: str) -> subprocess.Popen[str]:
    """The launcher as a process that leads a group, as a terminal's foreground job does."""
    command = [sys.executable, str(ROOT / "scripts" / "run_grid.py"), str(grid), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_and_the_same_command_goes_on(
    number: signal.Signals, grid_of: Any, tmp_path: Path
) -> None:
    """To the whole group, as Ctrl-C in a terminal: the runs must not get it a second time, which would abort them."""
    grid = grid_of({"a": ("long", []), "b": ("long", []), "c": ("ok", ["a"]), "d": ("ok", [])})
    process = start(grid, "--jobs", "2")
    wait_until(lambda: all((tmp_path / "out" / name / "half").exists() for name in "ab"))
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == STOPPED, err
    assert sorted(events(tmp_path)) == sorted(["begin a", "begin b", f"{number.name} a", f"{number.name} b"])
    assert "waiting for 2 runs to save their state" in out
    assert f"stopped ({number.name}) with 0 of 4 runs finished; the same command goes on: python scripts" in out
    assert outcomes(tmp_path, "a") == outcomes(tmp_path, "b") == ["stopped"]
    assert launch(grid) == 0
    assert outcomes(tmp_path, "a") == ["stopped", "finished"]
    assert [event for event in events(tmp_path) if event.startswith("end")][-1] in ("end c", "end d")


def test_a_run_that_was_done_when_the_signal_came_is_finished(grid_of: Any, tmp_path: Path) -> None:
    """The launcher's SIGTERM meets a run on its way out, after its last file was written."""
    process = start(grid_of({"a": ("done", [])}))
    wait_until(lambda: (tmp_path / "out" / "a" / "summary.json").exists())
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "all 1 runs are finished" in out
    assert outcomes(tmp_path, "a") == ["finished"] and sessions(tmp_path, "a")[0]["exit_code"] == -signal.SIGTERM


@pytest.mark.parametrize("finishes", [True, False])
def test_runs_of_a_killed_launcher_are_running(finishes: bool, grid_of: Any, tmp_path: Path) -> None:
    """The next launcher waits for them, starts no second one, and goes on with what needs them."""
    grid = grid_of({"a": ("orphan" if finishes else "long", []), "b": ("ok", ["a"])})
    first = start(grid, "--jobs", "1")
    wait_until(lambda: (tmp_path / "out" / "a" / "pid").exists())
    first.kill()
    first.communicate(timeout=60)
    pid = int((tmp_path / "out" / "a" / "pid").read_text())
    dry = start(grid, "--dry-run")
    assert "a (exploratory): running" in dry.communicate(timeout=60)[0]
    second = start(grid, "--jobs", "1")
    assert second.stdout is not None
    while "a is running, started by an earlier launcher" not in second.stdout.readline():
        assert second.poll() is None
    assert events(tmp_path) == ["begin a"]
    os.kill(pid, signal.SIGTERM)
    second.communicate(timeout=60)
    assert second.returncode == 0
    again = [] if finishes else ["begin a"]
    assert events(tmp_path) == ["begin a", "SIGTERM a", *again, "end a", "begin b", "end b"]


def test_a_crash_while_stopping_is_a_failure(grid_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The state could not be saved; whoever stopped the grid must hear of it."""
    grid = grid_of({"a": ("long crash", []), "b": ("deaf", []), "c": ("ok", ["b"])})
    process = start(grid, "--jobs", "2")
    wait_until(lambda: all((tmp_path / "out" / name / "half").exists() for name in "ab"))
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == FAILED and "FAILED a: exit code 1" in out and "no space left" in out
    assert outcomes(tmp_path, "a") == ["failed"]
    # One that had not yet learned to save is simply stopped.
    assert outcomes(tmp_path, "b") == ["stopped"] and sessions(tmp_path, "b")[0]["exit_code"] == -signal.SIGTERM
    assert "skipped" not in out and err.endswith("failed: a\n")


def test_a_second_ctrl_c_aborts_the_runs(grid_of: Any, tmp_path: Path) -> None:
    process = start(grid_of({"a": ("long slow", [])}))
    wait_until(lambda: (tmp_path / "out" / "a" / "half").exists())
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "SIGINT a" in events(tmp_path))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert events(tmp_path) == ["begin a", "SIGINT a", "SIGINT a"] and "aborted" in err
    assert process.returncode == FAILED and outcomes(tmp_path, "a") == ["failed"]


def test_a_fault_of_the_launcher_leaves_no_process_behind(
    grid_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any) -> None:
        wait_until(lambda: (tmp_path / "out" / "a" / "half").exists())
        raise RuntimeError("a fault")

    monkeypatch.setattr(run_grid.Launcher, "_stop_if_asked", fault)
    monkeypatch.setattr(run_grid.Launcher, "_collect", lambda self: self._start_ready())
    with pytest.raises(RuntimeError, match="a fault"):
        launch(grid_of({"a": ("long", [])}))
    assert events(tmp_path) == ["begin a", "SIGINT a"]


def test_threads_stay_those_of_the_first_launch(
    grid_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_grid, "cores", lambda: 8)
    runs = {"a": ("ok", [])}
    assert launch(grid_of(runs), "--jobs", "3") == 0
    assert "threads 2 2" in (tmp_path / "out" / "logs" / "a.log").read_text()
    runs["b"] = ("ok", [])
    assert launch(grid_of(runs), "--jobs", "1") == 0
    assert "each run has 2 threads, as in earlier launches (here it would be 8)" in capsys.readouterr().out
    assert "threads 2 2" in (tmp_path / "out" / "logs" / "b.log").read_text()
    with pytest.raises(SystemExit):
        launch(grid_of(runs, threads=4))
    assert "threads: found 4, but the runs of" in capsys.readouterr().err
    assert launch(grid_of(runs, threads=2)) == 0


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    grid_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of({"a": ("long", []), "b": ("ok", ["a"])})
    assert launch(grid, "--dry-run") == 0
    assert not (tmp_path / "out").exists()
    lines = capsys.readouterr().out.splitlines()
    script = tmp_path / "fake.py"
    assert lines == [
        "a (exploratory): new", f"    python {script} {tmp_path}/out/a long",
        "b (exploratory): new, after a", f"    python {script} {tmp_path}/out/b ok",
        f"2 runs, 0 of them finished; in {tmp_path}/out",
    ]  # fmt: skip
    assert launch(grid, "--max-hours", str(1 / 3600)) == STOPPED
    capsys.readouterr()
    assert launch(grid, "--dry-run") == 0
    assert capsys.readouterr().out.startswith("a (exploratory): goes on after ")


def test_a_finished_run_whose_command_has_changed_is_pointed_out(
    grid_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(grid_of({"a": ("ok", [])})) == 0
    assert launch(grid_of({"a": ("ok again", [])})) == 0
    assert "warning: a was finished by another command" in capsys.readouterr().err
    assert events(tmp_path) == ["begin a", "end a"]


def test_a_full_disk_costs_the_record_and_no_run(
    grid_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(grid_record, "write_json_atomically", full)
    assert launch(grid_of({"a": ("ok", []), "b": ("ok", ["a"])})) == 0
    assert "warning: " in (told := capsys.readouterr().err) and "No space left on device" in told
    assert not (tmp_path / "out" / "grid.json").exists()


def test_a_log_that_cannot_be_written_fails_its_run_only(
    grid_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "logs" / "a.log").mkdir(parents=True)
    assert launch(grid_of({"a": ("ok", []), "b": ("ok", [])})) == FAILED
    assert "FAILED a: cannot be started (it is a folder" in capsys.readouterr().out
    assert events(tmp_path) == ["begin b", "end b"]


def test_out_is_taken_from_where_the_command_is_given(
    grid_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch(grid_of({"a": ("ok", [])}), "--out", "other") == 0
    assert (tmp_path / "other" / "a" / "summary.json").exists() and not (tmp_path / "out").exists()


def test_time_left_is_read_off_runs_of_the_same_form(
    grid_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretrainings took 100 s and 140 s, a finetuning 10 s; one pretraining has been on its way for 50 s."""
    file = grid_of({})
    entries = [
        {"name": "pre{i}", "for": {"i": [0, 1, 2]}, "command": "pretrain.py"},
        {"name": "fine{i}", "for": {"i": [0, 1, 2]}, "command": "pretrain.py"},
        {"name": "new", "command": "pretrain.py"},
    ]
    file.write_text(yaml.safe_dump({"out": str(tmp_path), "runs": entries}))
    runs = read_grid(file).by_name
    record = GridRecord(tmp_path)
    clock = Clock(record)
    assert clock.seconds_left([], list(runs.values()), 2) is None
    for name, parts in {"pre0": [100.0], "pre1": [60.0, 80.0], "fine0": [10.0], "pre2": [20.0]}.items():
        record.runs[name] = {"sessions": [{"seconds": seconds} for seconds in parts]}
    finished = [runs[name] for name in ("pre0", "pre1", "fine0")]
    monkeypatch.setattr(grid_record.time, "monotonic", lambda: 1030.0)
    clock.started["pre2"] = 1000.0
    assert clock.seconds_left(finished, [], 2) == 0.0
    # 120 - 20 - 30 of the pretraining, 10 of each finetuning; a form without a finished run: mean of all, 250 / 3.
    assert clock.seconds_left(finished, [runs["pre2"], runs["fine1"]], 1) == pytest.approx(70 + 10)
    assert clock.seconds_left(finished, [runs["pre2"], runs["fine1"]], 2) == pytest.approx(70)
    assert clock.seconds_left(finished, [runs["new"], runs["fine1"], runs["fine2"]], 1) == pytest.approx(250 / 3 + 20)
