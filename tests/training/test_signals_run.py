"""SIGTERM and Ctrl-C finish the update and save; a second Ctrl-C aborts; the same command goes on."""

import json
import signal
from pathlib import Path

import pytest

from tests.helpers import (
    ForkedPretrain,
    PretrainServer,
    assert_same_state,
    logged_training,
    merged,
    read_state,
    start_pretrain,
    temporaries,
    tiny_overrides,
    train_here,
    wait_until,
)
from training.records.metrics_log import read_metrics
from training.storage.checkpoint import load_newest

# Saves only when stopped, so that what is found was saved by the stop.
OPTIONS = ["max_steps=2000", "epochs=1000", "eval_interval=1000", "log_interval=1"]


def updates_logged(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return max((line["step"] for line in read_metrics(path)), default=0) if path.exists() else 0


def stopped_at(process: ForkedPretrain, folder: Path, number: int, update: int) -> int:
    """Wait for an update, send the signal, return the step at which the run stopped."""
    wait_until(lambda: updates_logged(folder) >= update)
    process.kill(number)
    assert process.wait() == 0, process.stderr
    name = signal.Signals(number).name
    assert f"{name}: finishing this batch, then saving (Ctrl-C again aborts)" in process.stderr
    step = int(read_state(folder)["step"])
    assert f"stopped at update {step}; the same command goes on from {folder / 'latest_state.pt'}" in process.stdout
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "stopped" and status["global_step"] == step
    session = json.loads((folder / "provenance.json").read_text())["sessions"][-1]
    assert session["outcome"] == "stopped" and session["end_step"] == step
    assert temporaries(folder) == [] and not (folder / "final.pt").exists()
    return step


def test_stop_and_go_on(sudoku6_folder: Path, pretrain_server: PretrainServer, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    arguments = merged(tiny_overrides("hrm", sudoku6_folder, run), OPTIONS)
    first = stopped_at(pretrain_server.start(arguments, tmp_path / "first"), run, signal.SIGTERM, 4)
    second_process = pretrain_server.start(arguments, tmp_path / "second")
    second = stopped_at(second_process, run, signal.SIGINT, first + 3)
    assert 4 <= first < second < 2000
    last = f"max_steps={second + 3}"
    done = pretrain_server.run(merged(arguments, [last]), tmp_path / "third")
    assert done.returncode == 0 and "going on from" in done.stdout, done.stderr
    train_here("hrm", sudoku6_folder, whole, merged(OPTIONS, [last]))
    assert_same_state(run, whole)
    assert logged_training(run) == logged_training(whole)
    outcomes = [part["outcome"] for part in json.loads((run / "provenance.json").read_text())["sessions"]]
    assert outcomes == ["stopped", "stopped", "done"]


def test_a_second_ctrl_c_aborts(sudoku6_folder: Path, pretrain_server: PretrainServer, tmp_path: Path) -> None:
    """While the save waits (a test hook), Ctrl-C again: not 0, and what was there before is good."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    arguments = merged(tiny_overrides("trm_mlp", sudoku6_folder, run), OPTIONS)
    first = stopped_at(pretrain_server.start(arguments, tmp_path / "first"), run, signal.SIGTERM, 3)
    process = pretrain_server.start(arguments, tmp_path / "second", {"RRS_TEST_SLEEP_IN_SAVE": "1.5"})
    wait_until(lambda: updates_logged(run) >= first + 2)
    process.kill(signal.SIGINT)
    wait_until(lambda: any("latest_state" in path.name for path in temporaries(run)))
    process.kill(signal.SIGINT)
    assert process.wait() == 130
    assert process.stderr.count("aborted: what was saved before is intact") == 1
    assert "Traceback" not in process.stderr
    found = load_newest(run)
    assert found is not None and found[0]["step"] == first
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    last = f"max_steps={first + 6}"
    done = pretrain_server.run(merged(arguments, [last]), tmp_path / "third")
    assert done.returncode == 0, done.stderr
    train_here("trm_mlp", sudoku6_folder, whole, merged(OPTIONS, [last]))
    assert_same_state(run, whole)
    assert temporaries(run) == []


def test_time_is_up(sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`max_hours` ends a session like a signal does."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_here("trm_mlp", sudoku6_folder, whole, merged(OPTIONS, ["max_steps=4"]))
    assert train_here("trm_mlp", sudoku6_folder, run, merged(OPTIONS, ["max_hours=1e-9"])) == "stopped"
    assert "stopped at update 1;" in capsys.readouterr().out
    assert train_here("trm_mlp", sudoku6_folder, run, merged(OPTIONS, ["max_steps=4"])) == "done"
    assert_same_state(run, whole)


@pytest.mark.slow
def test_a_process_of_its_own(sudoku6_folder: Path, tmp_path: Path) -> None:
    """The command as a user starts it: SIGTERM gives exit code 0 and the message."""
    process = start_pretrain(merged(tiny_overrides("trm_att", sudoku6_folder, tmp_path), OPTIONS))
    wait_until(lambda: updates_logged(tmp_path) >= 3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "SIGTERM: finishing this batch" in err and "stopped at update" in out
    assert read_state(tmp_path)["step"] >= 3
