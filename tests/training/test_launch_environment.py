"""The launcher's variables: read whole, or refused in one line that names the variable."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from errors import UserError
from tests.helpers import ROOT, PretrainServer, merged, tiny_overrides
from tests.training.ranks import free_port, rank_environments
from training.launch_environment import Place, read_place

TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
ALONE: list[dict[str, str]] = [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0"}, {"LOCAL_RANK": "3"}]


@pytest.mark.parametrize("environ", ALONE)
def test_alone(environ: dict[str, str]) -> None:
    assert read_place(environ) == Place(0, 1, 0)


def test_as_torchrun_sets_them() -> None:
    assert read_place(TWO) == Place(rank=1, size=2, local_rank=1)


@pytest.mark.parametrize("name", TWO)
def test_each_alone_may_not_be_missing(name: str) -> None:
    with pytest.raises(UserError, match=f"^{name} is not set, but .* is '?[12]'?: start with torchrun"):
        read_place({key: value for key, value in TWO.items() if key != name})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[
            (name, text)
            for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
            for text in ("x", "", "-1", "1.0")
        ],
        *[("WORLD_SIZE", text) for text in ("0", "²", "9" * 5000, "\x1b[2J")],
        *[("RANK", text) for text in ("2", "65536")],
        ("LOCAL_RANK", "2"),
        ("MASTER_PORT", "65536"),
    ],
)
def test_what_is_no_number_of_a_process_is_refused(name: str, text: str) -> None:
    with pytest.raises(UserError, match=f"^{name} is .*, expected a whole number from .* torchrun") as caught:
        read_place(TWO | {name: text})
    assert "\x1b" not in str(caught.value)


def test_rank_alone_is_half_a_launch() -> None:
    with pytest.raises(UserError, match="^WORLD_SIZE is not set, but RANK is '0'"):
        read_place({"RANK": "0"})


def test_a_half_set_environment_ends_a_run_in_one_line(
    sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer
) -> None:
    args = merged(tiny_overrides("trm_mlp", sudoku4_folder, tmp_path / "run"), ["max_steps=1"])
    process = pretrain_server.start(args, tmp_path / "log", {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"})
    assert process.wait() == 2
    assert process.stderr.count("\n") == 1 and process.stderr.startswith("error: MASTER_ADDR is not set")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_launcher_lost_while_its_workers_meet_ends_them(
    how: signal.Signals, sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer
) -> None:
    """A worker waits in the store of a launcher that is killed or frozen: it ends in time, not after many waits."""
    port = free_port()
    store = (
        "import sys, time, datetime, torch.distributed as d\n"
        f"d.TCPStore('127.0.0.1', {port}, is_master=True, wait_for_workers=False)\n"
        "print('here', flush=True)\n"
        "time.sleep(600)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", store], stdout=subprocess.PIPE, text=True)
    try:
        assert launcher.stdout is not None and launcher.stdout.readline() == "here\n"
        environment = rank_environments()[1] | {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        options = ["max_steps=1", "collective_timeout_seconds=4"]
        args = merged(tiny_overrides("trm_mlp", sudoku4_folder, tmp_path / "run"), options)
        worker = pretrain_server.start(args, tmp_path / "log", environment)
        time.sleep(2)
        launcher.send_signal(how)
        assert worker.wait() == 1
    finally:
        launcher.kill()
        launcher.wait()
    lines = [line for line in worker.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "process 1 of 2 lost another one while it waited to meet the others" in lines[0]


def test_a_meeting_ends_in_time_whatever_it_waits_for() -> None:
    """Waits that never end, such as a C function's, are cut off; a block that ends in time goes on."""
    code = (
        "import time\n"
        "from training.distributed import World, _deadline\n"
        "with _deadline(World(1, 2), 60):\n    print('met', flush=True)\n"
        "with _deadline(World(1, 2), 0.1):\n    time.sleep(600)\n"
        "print('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "met\n")
    assert done.stderr.count("\n") == 1 and "process 1 of 2 lost another one while it waited to meet" in done.stderr
