"""Maze training on two cards: what the launcher starts, and that it goes on by itself where a process is lost."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import ROOT, assert_same_state, logged_training, merged, read_state, tiny_overrides
from tests.python_server import PythonServer
from tests.scripts.test_shell_scripts import refused
from training.settings.cli import compose_config
from training.settings.schema import TrainConfig

SCRIPT = ROOT / "scripts" / "launch_maze_2xa6000.sh"
LAUNCH = "scripts/resuming_launch.py"

# In place of an interpreter: says what it is asked for.
SAYS = f"#!{sys.executable}\nimport shlex, sys\nprint(shlex.join(sys.argv[1:]))\n"


def environment(**extra: str) -> dict[str, str]:
    own = ("PYTHON", "OUT", "DATA", "NPROC", "SLICES", "SAVE_EVERY", "GENERATE", "PRESET")
    return {key: value for key, value in os.environ.items() if key not in own} | {"NO_VENV": "1"} | extra


def bash(*words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    words = ("bash", str(SCRIPT), *words)
    return subprocess.run(words, capture_output=True, text=True, env=environment(**extra), timeout=600)


# -- what it starts


@pytest.fixture
def commands(tmp_path: Path) -> Callable[..., list[list[str]]]:
    fake = tmp_path / "python3"
    fake.write_text(SAYS.replace("print(", "sys.argv[1] in ('-c', 'scripts/check_requirements.py') or print("))
    fake.chmod(0o755)

    def found(*words: str, **extra: str) -> list[list[str]]:
        done = bash(*words, PYTHON=str(fake), **extra)
        assert done.returncode == 0, done.stderr
        return [shlex.split(line) for line in done.stdout.splitlines()]

    return found


def composed(command: list[str], data: Path) -> TrainConfig:
    options = command[command.index("pretrain.py") + 1 :]
    return compose_config([f"data_paths=[{data}]" if word.startswith("data_paths=") else word for word in options])


def test_it_builds_the_mazes_and_trains_on_two_cards(
    commands: Callable[..., list[list[str]]], maze6_folder: Path, tmp_path: Path
) -> None:
    mazes, training = commands("seed=1", DATA=f"{tmp_path}/mazes")
    assert mazes == ["dataset/build_maze_dataset.py", "--output-dir", f"{tmp_path}/mazes"]
    assert training[:6] == [LAUNCH, "--nproc-per-node", "2", "--run-folder", "runs/trm_maze", "--"]
    config = composed(training, maze6_folder)
    assert (config.global_batch_size, config.accumulation_slices, config.seed) == (768, 2, 1)
    assert (config.checkpoint_path, config.checkpoint_interval) == ("runs/trm_maze", 200)
    made, _ = commands(DATA=f"{tmp_path}/mazes", GENERATE="1")
    assert made[1:3] == ["--generate", "30"]
    (alone,) = commands(DATA=str(maze6_folder), NPROC="4", SLICES="1", PRESET="hrm_maze", OUT="my runs/hrm")
    assert alone[2] == "4" and alone[4] == "my runs/hrm" and composed(alone, maze6_folder).arch.name == "hrm"
    assert composed(alone, maze6_folder).checkpoint_path == "my runs/hrm"


def test_help_and_mistakes(tmp_path: Path) -> None:
    done = bash("--help")
    assert done.returncode == 0 and f"bash scripts/{SCRIPT.name}" in done.stdout and "#" not in done.stdout
    assert "NPROC is 'two', expected a whole number from 1" in refused(bash(NPROC="two"))


# -- what a lost process leads to

# Rank 1 of the first starts ends in some way; each start writes a state, but where it is to be fruitless.
ENDS = """
import os, signal, sys, time
from pathlib import Path
folder, how, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rank = int(os.environ["RANK"])
starts = folder / f"starts{rank}"
number = len(starts.read_text()) if starts.exists() else 0
starts.write_text("x" * (number + 1))
if rank == 0 and how != "fruitless":
    (folder / "latest_state.pt").write_text(str(number))
if number < times:
    time.sleep(0.5 if rank else 60)
    if how == "mistake":
        sys.exit(2)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("how", "times", "code", "starts"),
    [("killed", 2, 0, 3), ("mistake", 9, 2, 1), ("fruitless", 9, 2, 2), ("killed", 0, 0, 1)],
)
def test_all_start_again_where_one_is_lost(
    how: str, times: int, code: int, starts: int, python_server: PythonServer, tmp_path: Path
) -> None:
    (tmp_path / "ends.py").write_text(ENDS)
    run = tmp_path / "run"
    run.mkdir()
    words = [LAUNCH, "--run-folder", str(run), "--fruitless", "1", "--"]
    words += [str(tmp_path / "ends.py"), str(run), how, str(times)]
    assert python_server.run(words, tmp_path / "log", ROOT, os.environ) == code
    assert [len((run / f"starts{rank}").read_text()) for rank in range(2)] == [starts] * 2
    said = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith(("a process", "error:"))]
    again = f"a process was ended by signal 9; all start again from the newest state of {run}"
    assert said[: starts - 1] == [again] * (starts - 1)
    assert ("2 times without a newer state in" in said[-1]) if how == "fruitless" else len(said) == starts - 1


@contextmanager
def started(words: list[str], **extra: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        ["bash", str(SCRIPT), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(PYTHON=sys.executable, OMP_NUM_THREADS="1", **extra),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def rank_process(launcher: int, rank: int) -> int | None:
    """The child of a process that is this rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    return None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")
@pytest.mark.timeout(900)
def test_a_kill_in_the_middle_leads_to_the_weights_of_an_undisturbed_run(maze6_folder: Path, tmp_path: Path) -> None:
    """Two processes each; rank 1 is killed after a state and before the next one."""
    tiny = merged(tiny_overrides("trm_att"), ["max_steps=24", "epochs=4", "eval_interval=1", "optimizer=adamw"])
    tiny = [word for word in tiny if not word.startswith(("arch=", "checkpoint_interval="))]
    folders = {name: tmp_path / name for name in ("undisturbed", "killed")}
    for name, folder in folders.items():
        with started(tiny, OUT=str(folder), DATA=str(maze6_folder), SAVE_EVERY="5", SLICES="1") as process:
            while name == "killed":
                if (folder / "latest_state.pt").exists() and (lost := rank_process(process.pid, 1)) is not None:
                    os.kill(lost, signal.SIGKILL)
                    break
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.02)
            output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        assert ("all start again from the newest state of" in output) == (name == "killed"), output
        assert read_state(folder)["step"] == 24 and read_state(folder)["world_size"] == 2
    assert_same_state(*folders.values())
    assert logged_training(folders["killed"]) == logged_training(folders["undisturbed"])
