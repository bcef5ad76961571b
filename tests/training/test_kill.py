"""A run that is killed again and again, and started again by the same command, ends as if nothing had been."""

import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers import (
    PretrainServer,
    assert_same_state,
    differences,
    logged_training,
    merged,
    start_pretrain,
    temporaries,
    tiny_overrides,
    wait_until,
)
from training.storage.checkpoint import load_newest
from training.storage.weights import load_weights

SLEEP = "RRS_TEST_SLEEP_IN_SAVE"  # seconds between write and rename of every file of a run
# Saves at every second update, so that kills fall around and into them; states grow with updates alone.
OPTIONS = "max_steps=60 epochs=8 eval_interval=2 checkpoint_interval=2 log_interval=1 keep_last=2".split()
# Long enough that a slow machine's late kills do not find it finished.
LONG = "max_steps=160 epochs=20 eval_interval=4".split()
KILLS = 24


def assert_as_undisturbed(killed: Path, whole: Path) -> None:
    assert_same_state(killed, whole)
    for name in ("final.pt", "best.pt"):
        assert differences(load_weights(killed / name), load_weights(whole / name), name) == []
    assert logged_training(killed) == logged_training(whole)
    assert temporaries(killed) == []
    names = {path.relative_to(killed).as_posix() for path in killed.rglob("*")}
    assert names == {path.relative_to(whole).as_posix() for path in whole.rglob("*")}
    assert (killed / "best_state.pt").samefile(next((killed / "best").iterdir()) / "state.pt")
    assert json.loads((killed / "status.json").read_text())["state"] == "done"


def assert_sound(folder: Path) -> int:
    """Whatever moment a kill hit: what is there is whole. Returns the newest state's step, 0 without one."""
    for name in ("status.json", "provenance.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_text())
    for path in folder.glob("step_*"):
        load_weights(path)
    found = load_newest(folder)
    return 0 if found is None else int(found[0]["step"])


def temporary_states(folder: Path) -> list[Path]:
    """States that are being written, or whose writer was killed."""
    return [path for path in temporaries(folder) if "_state.pt" in path.name]


def updates_logged(folder: Path) -> int:
    """Asked again and again beside a run that is to have the processor: lines are not parsed."""
    path = folder / "metrics.jsonl"
    return max(map(int, re.findall(rb'"step": *(\d+)', path.read_bytes())), default=0) if path.exists() else 0


def wait_for_a_moment(folder: Path, kind: int, draws: random.Random) -> None:
    """Inside the save of a state, a few updates further on, or in the start."""
    if kind == 0:
        earlier = {path.name for path in temporary_states(folder)}
        wait_until(lambda: any(path.name not in earlier for path in temporary_states(folder)))
        time.sleep(draws.uniform(0, 0.2))
    elif kind == 1:
        goal = updates_logged(folder) + draws.randint(1, 4)
        wait_until(lambda: updates_logged(folder) >= goal)
        time.sleep(draws.uniform(0, 0.05))
    else:
        time.sleep(draws.uniform(0, 0.8))


def test_many_kills_at_random_moments(sudoku6_folder: Path, pretrain_server: PretrainServer, tmp_path: Path) -> None:
    """24 kills, a third of them aimed into the save of a state."""
    draws = random.Random(5)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = merged(merged(tiny_overrides("trm_att", sudoku6_folder), OPTIONS), LONG)
    done = pretrain_server.run([*arguments, f"checkpoint_path={whole}"], tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    inside, steps = 0, []
    for kill in range(KILLS):
        env = {SLEEP: "0.3" if kill % 3 == 0 else "0.01"}
        process = pretrain_server.start([*arguments, f"checkpoint_path={killed}"], tmp_path / f"{kill}", env)
        wait_for_a_moment(killed, kill % 3, draws)
        process.kill(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr
        inside += bool(temporary_states(killed))
        steps.append(assert_sound(killed))
    done = pretrain_server.run([*arguments, f"checkpoint_path={killed}"], tmp_path / "last")
    assert done.returncode == 0 and "going on from" in done.stdout, done.stderr
    assert inside >= 5, inside
    assert steps == sorted(steps) and len(set(steps)) >= 4, "no update that was saved is ever lost"
    assert_as_undisturbed(killed, whole)


@pytest.mark.slow
def test_kills_of_processes_of_their_own(sudoku6_folder: Path, tmp_path: Path) -> None:
    """The same with a fresh interpreter each time: 6 kills, from the imports to the end."""
    draws = random.Random(6)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [*merged(tiny_overrides("hrm", sudoku6_folder), OPTIONS)]
    began = time.monotonic()
    process = start_pretrain([*arguments, f"checkpoint_path={whole}"])
    assert process.communicate()[1] is not None and process.returncode == 0
    duration = time.monotonic() - began
    for kill in range(60):
        process = start_pretrain([*arguments, f"checkpoint_path={killed}"], {SLEEP: "0.05"})
        if kill < 6:
            try:
                process.communicate(timeout=draws.uniform(0.3, 1.0) * duration)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        assert_sound(killed)
    assert process.returncode == 0
    assert_as_undisturbed(killed, whole)
