"""Several processes: the same update as one process makes, exact resume between them, faults on one of them."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import (
    ARCHITECTURES,
    ROOT,
    PretrainServer,
    assert_same_state,
    differences,
    logged_training,
    merged,
    read_state,
    tiny_overrides,
)
from tests.training import rank_jobs
from tests.training.comparison import FOLDERS, assert_same_update, largest, puzzle_folder
from tests.training.rank_jobs import update_config
from tests.training.ranks import rank_environments, run_ranks, started_ranks
from training.distributed import World
from training.storage.run_folder import RunFolder

NUM_STATES = 20
OTHER_TASKS = sorted(FOLDERS.keys() - {"sudoku"})
ALONE = World()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(puzzle_folder(tmp_path_factory.mktemp("data") / "puzzles"))


# -- one update from one saved state


@pytest.mark.parametrize(
    ("arch", "task"), [*((arch, "sudoku") for arch in ARCHITECTURES), *(("trm_att", task) for task in OTHER_TASKS)]
)
def test_one_update_on_two_ranks_is_the_update_of_one(arch: str, task: str, data: str, tmp_path: Path) -> None:
    """At 20 successive states: gradients and sparse rows to 1e-10, halting decisions and carry data equal."""
    data = data if task == "sudoku" else str(FOLDERS[task](tmp_path / "puzzles"))
    config = update_config(arch, data, str(tmp_path))
    assert config.lr_warmup_steps == 0 and config.arch.halt_exploration_prob > 0
    one = rank_jobs.successive_updates(ALONE, config, str(tmp_path), NUM_STATES)
    shared = {"arch": arch, "data": data, "folder": str(tmp_path), "states": str(tmp_path)}
    two = run_ranks("updates_from", indices=list(range(NUM_STATES)), **shared)
    for first, second in zip(*two, strict=True):
        assert differences(first, second) == [], "ranks differ"
    worst = largest([assert_same_update(a, b) for a, b in zip(one, two[0], strict=True)])
    print(f"{arch} on {task}, largest relative differences at {NUM_STATES} states: {worst}")
    # The comparison had something to compare: every kind of halting, identifiers shared by the ranks.
    steps = torch.stack([record["carry"]["steps"] for record in one])
    halted = torch.stack([record["carry"]["halted"] for record in one])
    maximum = config.arch.halt_max_steps
    assert (halted & (steps < maximum)).any() and (halted & (steps == maximum)).any() and (~halted).any()
    assert all(set(r["ids"][:20].tolist()) & set(r["ids"][20:].tolist()) for r in one)
    assert all(len(r["gradients"]) == len(r["weights"]) and r["rows"].abs().sum() > 0 for r in one)
    assert all(gradient.abs().sum() > 0 for gradient in one[-1]["gradients"].values())
    assert not torch.equal(one[0]["weights"]["lm_head.weight"], one[1]["weights"]["lm_head.weight"])


def test_collectives_in_one_process_are_the_identity() -> None:
    result = rank_jobs.collectives(ALONE)
    assert torch.equal(result["sums"][0], torch.ones(2, 3)) and result["slots"] == [0, 10]
    assert result["numbers"] == [0.1, 1.0, 2.0**60]


def test_collectives() -> None:
    """Sums, numbers in float64, rows of every dtype in rank order, rank 0's parameters and buffers."""
    first, second = run_ranks("collectives")
    slots = [first.pop("slots"), second.pop("slots")]
    assert slots == [[0, 5], [5, 10]]
    assert differences(first, second) == []
    assert torch.equal(first["sums"][0], torch.full((2, 3), 3.0))
    assert torch.equal(first["sums"][1], torch.arange(4.0) * 3)
    assert first["numbers"] == [0.1 + 0.2, 2.0, 2.0**61]
    local = torch.arange(12).reshape(3, 4).T
    for rows in first["gathered"].values():
        if rows.numel():
            assert torch.equal(rows, torch.cat([local, local + 1]).to(rows.dtype))
    assert first["gathered"]["empty"].shape == (0, 3)
    torch.manual_seed(0)
    expected = torch.randn(3)
    assert torch.equal(first["weight"], expected) and torch.equal(first["mean"], torch.randn(3))


def test_rows_of_different_number_are_gathered_in_rank_order() -> None:
    first, second = run_ranks("ragged")
    assert differences(first, second) == []
    expected = {
        "more on the second": [[0, 1], [100, 101], [102, 103], [104, 105]],
        "none on the first": [[100, 101], [102, 103]],
        "none on the second": [[0, 1], [2, 3], [4, 5], [6, 7]],
        "none": [],
    }
    for name, rows in expected.items():
        values = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
        assert torch.equal(first[f"{name}, int64"], values)
        assert torch.equal(first[f"{name}, float64"], values[:, 0].double() / 3)
        assert torch.equal(first[f"{name}, bool"], values[:, 1] % 3 == 0)
        assert first[f"{name}, no column"].shape == (len(rows), 0)
    alone = rank_jobs.ragged(ALONE)
    assert all(
        torch.equal(alone[f"none on the second, {kind}"], first[f"none on the second, {kind}"])
        for kind in ("int64", "float64", "bool")
    )


# -- resume


def test_resume_from_one_rank_on_two(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    rank_jobs.train_tiny(ALONE, "trm_att", data, str(one), ["max_steps=5"])
    shutil.copytree(one, two)
    expected = rank_jobs.resume_and_update(ALONE, "trm_att", data, str(one))
    found = run_ranks("resume_and_update", arch="trm_att", data=data, folder=str(two))[0]
    assert differences(expected["start"], found["start"]) == [], "carry by global slot, and data position"
    assert expected["start"]["step"] == 5 and not expected["start"]["carry"]["halted"].all()
    assert_same_update(expected, found)
    assert "world_size 1 -> 2 since the state was saved" in found["printed"] and not expected["printed"]


def test_resume_from_two_ranks_on_one(data: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run_ranks("train_tiny", arch="hrm", data=data, folder=str(two), options=["max_steps=5"])
    shutil.copytree(two, one)
    state = read_state(two)
    assert state["world_size"] == 2 and all(len(leaf) == 40 for leaf in state["carry"].values())
    expected = run_ranks("resume_and_update", arch="hrm", data=data, folder=str(two))[0]
    found = rank_jobs.resume_and_update(ALONE, "hrm", data, str(one))
    assert differences(expected["start"], found["start"]) == []
    assert differences(state["carry"], found["start"]["carry"]) == []
    assert_same_update(expected, found)
    assert "world_size 2 -> 1 since the state was saved" in found["printed"] and not expected["printed"]


def run_two(server: PretrainServer, args: list[str], output: Path) -> list[tuple[int, str, str]]:
    """pretrain.py on two ranks; exit code, stdout and stderr of each."""
    processes = [
        server.start(args, output.with_name(f"{output.name}{rank}"), env)
        for rank, env in enumerate(rank_environments())
    ]
    return [(process.wait(), process.stdout, process.stderr) for process in processes]


@pytest.mark.parametrize(
    ("arch", "half"),
    [("trm_att", 4), ("trm_mlp", 4), ("hrm", 4), ("trm_att", 3)],
    ids=["trm_att", "trm_mlp", "hrm", "trm_att_epoch_end"],
)
def test_two_ranks_stopped_and_resumed_are_bitwise_equal(
    arch: str, half: int, sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer
) -> None:
    """2N updates = N, new processes, N: every tensor of the state and every logged number."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, updates in ((whole, 2 * half), (parts, half), (parts, 2 * half)):
        options = tiny_overrides(arch, sudoku4_folder, folder)
        ends = run_two(pretrain_server, merged(options, [f"max_steps={updates}"]), tmp_path / "log")
        assert [code for code, _, _ in ends] == [0, 0], ends
        assert ends[1][1] == "", "rank 1 prints nothing"
    assert f"going on from {parts}" in ends[0][1]
    state = read_state(whole)
    assert state["step"] == 2 * half and state["world_size"] == 2
    assert_same_state(whole, parts)
    assert logged_training(whole) == logged_training(parts) and len(logged_training(whole)) == 2 * half


# -- an error on one rank


@pytest.mark.parametrize(("failing", "speaks"), [([0], 0), ([1], 1), ([0, 1], 0)])
@pytest.mark.parametrize("user_error", [True, False])
def test_an_error_on_one_rank_ends_all(failing: list[int], speaks: int, user_error: bool) -> None:
    """The lowest failing rank raises its error, the other exits with the code it leads to."""
    with started_ranks("together", timeout=600, failing=failing, user_error=user_error) as ranks:
        outcomes = [rank.outcome(60) for rank in ranks]
    loud, quiet = outcomes[speaks], outcomes[1 - speaks]
    assert (loud.error, loud.message) == ("UserError" if user_error else "ValueError", f"rank {speaks}")
    assert (quiet.error, quiet.message) == ("SystemExit", "2" if user_error else "1")


def test_all_go_on_when_none_fails() -> None:
    assert run_ranks("together", failing=[], user_error=True) == ["went on"] * 2


def test_a_folder_in_use_ends_both_ranks(sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer) -> None:
    """Only rank 0 locks it; the other must not wait for rank 0 until its collectives time out."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    args = merged(tiny_overrides("trm_mlp", sudoku4_folder, folder.path), ["max_steps=1"])
    with folder.lock():
        ends = run_two(pretrain_server, args, tmp_path / "log")
    assert [code for code, _, _ in ends] == [2, 2]
    assert ends[0][2].startswith(f"error: {folder.path} is in use by another run") and ends[1][2] == ""
    assert not folder.metrics.exists()


def test_a_file_in_the_way_ends_both_ranks(
    sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer
) -> None:
    (tmp_path / "run").write_text("mine")
    args = merged(tiny_overrides("trm_mlp", sudoku4_folder, tmp_path / "run"), ["max_steps=1"])
    ends = run_two(pretrain_server, args, tmp_path / "log")
    assert [code for code, _, _ in ends] == [2, 2]
    assert "a file is in the way" in ends[0][2] and ends[0][2].count("\n") == 1 and ends[1][2] == ""
    assert (tmp_path / "run").read_text() == "mine"


def test_slots_that_do_not_divide_are_refused_once(
    sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer
) -> None:
    options = ["max_steps=1", "global_batch_size=6", "accumulation_slices=2"]
    args = merged(tiny_overrides("trm_mlp", sudoku4_folder, tmp_path / "run"), options)
    ends = run_two(pretrain_server, args, tmp_path / "log")
    assert [code for code, _, _ in ends] == [2, 2]
    assert "2 processes x 2 accumulation_slices; use a multiple of 4" in ends[0][2] and ends[1][2] == ""


def test_a_rank_that_never_comes_is_not_waited_for(
    sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer
) -> None:
    options = ["max_steps=1", "collective_timeout_seconds=2"]
    args = merged(tiny_overrides("trm_mlp", sudoku4_folder, tmp_path / "run"), options)
    process = pretrain_server.start(args, tmp_path / "log", rank_environments()[0])
    assert process.wait() == 1
    lines = [line for line in process.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "process 0 of 2 lost another one while it waited to meet the others" in lines[0]
    assert "Traceback" not in process.stderr and not (tmp_path / "run").exists()


def test_non_finite_is_said_once(sudoku4_folder: Path, tmp_path: Path, pretrain_server: PretrainServer) -> None:
    options = ["max_steps=9", "optimizer=adamw", "lr=1e30", "lr_warmup_steps=0", "log_interval=1"]
    args = merged(tiny_overrides("trm_mlp", sudoku4_folder, tmp_path / "run"), options)
    ends = run_two(pretrain_server, args, tmp_path / "log")
    assert [code for code, _, _ in ends] == [1, 1]
    assert "error: not finite at update " in ends[0][2] and ends[1][2] == "", ends


# -- faults in the middle


@pytest.mark.parametrize("what", ["nan carry", "nan gradient", "infinite puzzle row"])
def test_a_non_finite_number_on_one_rank_stops_all(what: str, data: str, tmp_path: Path) -> None:
    """Before the update: nobody's weights change, and the files hold the state before."""
    found = run_ranks("train_with_fault", arch="trm_mlp", data=data, folder=str(tmp_path), what=what, rank=1, step=3)
    for each in found:
        assert each["outcome"].startswith("NonFiniteError: not finite at update 4:"), each["outcome"]
        assert each["step"] == 3
    assert differences(found[0], found[1]) == []
    state = read_state(tmp_path)
    assert state["step"] == 3
    for name, weights in found[0]["weights"].items():
        assert torch.equal(state["model"][name], weights) and weights.isfinite().all()
    assert torch.equal(state["model"]["puzzle_emb.weights"], found[0]["table"])
    assert all(leaf.isfinite().all() for leaf in state["carry"].values())
    assert '"failed"' in (tmp_path / "status.json").read_text()


def test_a_signal_to_one_rank_stops_all_at_one_update(data: str, tmp_path: Path) -> None:
    found = run_ranks(
        "train_with_fault", arch="trm_att", data=data, folder=str(tmp_path), what="sigterm", rank=1, step=3
    )
    assert [(each["outcome"], each["step"]) for each in found] == [("stopped", 5)] * 2
    assert differences(found[0], found[1]) == []
    state = read_state(tmp_path)
    assert state["step"] == 5 and len(state["carry"]["halted"]) == 40
    assert torch.equal(state["model"]["lm_head.weight"], found[0]["weights"]["lm_head.weight"])


def test_collectives_time_out(data: str, tmp_path: Path) -> None:
    """A rank that never comes: the other gives up after the time it was given, and says so."""
    started = time.monotonic()
    job = {"arch": "trm_mlp", "data": data, "folder": str(tmp_path), "what": "sleep", "rank": 1, "step": 2}
    with started_ranks("train_with_fault", timeout=5, **job) as ranks:
        outcome = ranks[0].outcome(100)
    assert outcome.error == "LostProcessError" and time.monotonic() - started >= 5
    assert outcome.message.startswith("process 0 of 2 lost another one while it waited to sum numbers")
    assert "collective_timeout_seconds" in outcome.message
    state = read_state(tmp_path)
    assert state["step"] == 2 and '"failed"' in (tmp_path / "status.json").read_text()


def test_an_error_in_the_middle_ends_the_other_at_once(data: str, tmp_path: Path) -> None:
    job = {"arch": "trm_mlp", "data": data, "folder": str(tmp_path), "what": "error", "rank": 1, "step": 2}
    with started_ranks("train_with_fault", timeout=600, **job) as ranks:
        failed, waiting = ranks[1].outcome(60), ranks[0].outcome(60)
    assert (failed.error, failed.message) == ("ArithmeticError", "on one rank only")
    assert waiting.error == "LostProcessError", waiting
    with contextlib.suppress(FileNotFoundError):
        assert read_state(tmp_path)["step"] == 2


_LEAVING = """
import weakref
import torch.distributed as dist
from training.distributed import start_world
world = start_world("cpu", 60)
group = weakref.ref(dist.group.WORLD)
import torch._dynamo  # as a run's first optimizer step does
world.close()
print(group() is None)
"""


def test_the_group_is_gone_when_it_is_closed() -> None:
    """With its threads: one that lets go of a tensor while the interpreter ends would abort the process."""
    processes = [
        subprocess.Popen([sys.executable, "-c", _LEAVING], cwd=ROOT, env=os.environ | env, stdout=subprocess.PIPE)
        for env in rank_environments()
    ]
    assert [process.communicate(timeout=120)[0] for process in processes] == [b"True\n"] * 2
