"""pretrain.py under torchrun, and two ranks without a launcher: killed, stopped, mistaken."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataset.plain_data import read_json_object
from tests.helpers import (
    ROOT,
    ForkedPretrain,
    PretrainServer,
    assert_same_state,
    logged_training,
    merged,
    read_state,
    tiny_overrides,
    wait_until,
)
from tests.training.ranks import rank_environments
from training.records.metrics_log import read_metrics

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@contextmanager
def torchrun(
    args: Sequence[str], cwd: Path, *, restarts: int = 0, script: str = "pretrain.py", **env: str
) -> Iterator[subprocess.Popen[str]]:
    """`torchrun ... SCRIPT ARGS` with captured output; with its workers gone at exit."""
    command = [*TORCHRUN, "--max-restarts", str(restarts), str(ROOT / script), *args]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | env
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process
    finally:
        for pid in [*children(process.pid), process.pid] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.wait()


def children(pid: int) -> list[int]:
    """The processes that a process has started and not yet waited for."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def workers(agent: int, folder: Path) -> tuple[int, int]:
    """Process ids of rank 0, which holds the run folder, and of rank 1."""
    first = int((folder / ".lock").read_text())
    (second,) = (pid for pid in children(agent) if pid != first and b"pretrain" in command_line(pid))
    return first, second


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def has_reached(folder: Path, step: int) -> Callable[[], bool]:
    """Whether update `step` has been logged."""

    def reached() -> bool:
        log = folder / "metrics.jsonl"
        return log.exists() and any(record["step"] >= step for record in read_metrics(log))

    return reached


def long_run(data: Path, folder: Path, updates: int) -> list[str]:
    """A run of `updates` updates with a state at every second one."""
    options = ["eval_interval=null", "epochs=400", f"max_steps={updates}", "checkpoint_interval=2"]
    return merged(tiny_overrides("trm_mlp", data, folder), options)


def start_two(server: PretrainServer, args: list[str], output: Path) -> list[ForkedPretrain]:
    return [
        server.start(args, output.with_name(f"{output.name}{rank}"), env)
        for rank, env in enumerate(rank_environments())
    ]


def undisturbed(server: PretrainServer, data: Path, folder: Path, updates: int) -> None:
    codes = [rank.wait() for rank in start_two(server, long_run(data, folder, updates), folder.with_suffix(".log"))]
    assert codes == [0, 0]


def test_one_run_folder_and_one_voice(sudoku4_folder: Path, tmp_path: Path) -> None:
    """Two processes resolve the same names, rank 0 alone writes and prints, Hydra leaves nothing behind."""
    args = ["+experiment=smoke", f"data_paths=[{sudoku4_folder}]"]
    with torchrun(args, tmp_path) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    (folder,) = tmp_path.glob("checkpoints/*/*")
    assert out.count("starting from scratch") == 1 and out.count('{"run_folder": ') == 1 and "error" not in err
    state = read_state(folder)
    assert (state["step"], state["world_size"], len(state["carry"]["halted"])) == (2, 2, 8)
    assert [record["step"] for record in logged_training(folder)] == [1, 2]
    sessions = read_json_object(folder / "provenance.json")["sessions"]
    assert [session["world_size"] for session in sessions] == [2]


def test_a_rank_that_hangs_does_not_hang_the_other(
    sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer
) -> None:
    """Rank 1 is frozen: rank 0 gives up after collective_timeout_seconds, in one line, its states intact."""
    folder = tmp_path / "run"
    args = [*long_run(sudoku4_folder, folder, 100_000), "collective_timeout_seconds=5"]
    first, second = start_two(pretrain_server, args, tmp_path / "log")
    try:
        wait_until(has_reached(folder, 5))
        second.kill(signal.SIGSTOP)
        assert first.wait() == 1
    finally:
        second.kill(signal.SIGKILL)
        second.wait()
    errors = [line for line in first.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "error: process 0 of 2 lost another one" in errors[0]
    assert "collective_timeout_seconds" in errors[0] and "Traceback" not in first.stderr
    assert read_json_object(folder / "status.json")["state"] == "failed"
    assert read_state(folder)["step"] >= 4


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_other_at_once(
    killed: int, sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer
) -> None:
    """Long before the 10 minutes that a collective may take."""
    folder = tmp_path / "run"
    ranks = start_two(pretrain_server, long_run(sudoku4_folder, folder, 100_000), tmp_path / "log")
    wait_until(has_reached(folder, 3))
    started = time.monotonic()
    ranks[killed].kill(signal.SIGKILL)
    assert ranks[killed].wait() == -signal.SIGKILL
    assert ranks[1 - killed].wait() == 1 and time.monotonic() - started < 60
    assert f"error: process {1 - killed} of 2 lost another one" in ranks[1 - killed].stderr
    assert "Traceback" not in ranks[1 - killed].stderr


@pytest.mark.slow
def test_killed_ranks_are_restarted_and_change_nothing(
    sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer
) -> None:
    """First rank 1, then rank 0 gets SIGKILL; --max-restarts goes on by itself, to the same bits."""
    updates = 200
    plain, folder = tmp_path / "plain", tmp_path / "run"
    undisturbed(pretrain_server, sudoku4_folder, plain, updates)
    with torchrun(long_run(sudoku4_folder, folder, updates), tmp_path, restarts=2) as process:
        killed = []
        for victim, step in ((1, 20), (0, 70)):
            wait_until(has_reached(folder, step), seconds=120)
            killed.append(workers(process.pid, folder)[victim])
            os.kill(killed[-1], signal.SIGKILL)
            # The next session has begun: another process holds the folder, and the log has been cut back.
            before = len(read_json_object(folder / "provenance.json")["sessions"])
            wait_until(
                lambda before=before: len(read_json_object(folder / "provenance.json")["sessions"]) > before, 120
            )
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "failed to connect" not in err, "a restarted rank looked for one of the session before"
    assert out.count("starting from scratch") == 1 and out.count(f"going on from {folder}") == 2
    assert len(read_json_object(folder / "provenance.json")["sessions"]) == 3 and killed[0] != killed[1]
    assert_same_state(plain, folder)
    assert logged_training(plain) == logged_training(folder)
    assert (plain / "final.pt").exists() and read_state(folder)["step"] == updates


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_and_exits_0(
    sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer
) -> None:
    """Both workers finish the same update; the same command goes on to the bits of an undisturbed run."""
    updates = 200
    plain, folder, codes = tmp_path / "plain", tmp_path / "run", tmp_path / "codes"
    codes.mkdir()
    undisturbed(pretrain_server, sudoku4_folder, plain, updates)
    args = long_run(sudoku4_folder, folder, updates)
    script = "tests/training/recorded_exit.py"
    with torchrun(args, tmp_path, script=script, EXIT_CODES=str(codes)) as process:
        wait_until(has_reached(folder, 20), seconds=120)
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert sorted((path.name[0], path.read_text()) for path in codes.iterdir()) == [("0", "0"), ("1", "0")], err
    step = read_state(folder)["step"]
    assert 20 <= step < updates and f"stopped at update {step}" in out
    assert read_json_object(folder / "status.json")["state"] == "stopped"
    assert [record["step"] for record in logged_training(folder)] == list(range(1, step + 1))
    undisturbed(pretrain_server, sudoku4_folder, folder, updates)
    assert_same_state(plain, folder)
    assert logged_training(plain) == logged_training(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "says", "times"),
    [
        ("global_batch_szie=8", "global_batch_size", 2),  # found before the processes meet
        ("global_batch_size=7", "error: global_batch_size=7 does not divide into 2 processes", 1),
        ("data_paths=[nowhere]", "nowhere", 1),
        ("resume=must", "error: resume=must, but", 1),
    ],
)
def test_a_mistake_is_said_in_one_line(
    option: str, says: str, times: int, sudoku4_folder: Path, tmp_path: Path
) -> None:
    args = [*tiny_overrides("trm_mlp", sudoku4_folder, tmp_path / "run"), option]
    with torchrun(merged(args), tmp_path) as process:
        _, err = process.communicate(timeout=120)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode != 0 and len(lines) in (1, times) and len(set(lines)) == 1, err
    assert says in lines[0] and "exitcode  : 2" in err
    assert "training/" not in err, "no traceback of a worker"
