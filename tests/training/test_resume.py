"""A run that stops and goes on equals, bit for bit, the run that never stopped."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.loop
from tests.helpers import (
    ARCHITECTURES,
    PretrainServer,
    assert_same_state,
    differences,
    logged,
    logged_training,
    merged,
    read_state,
    run_pretrain,
    tiny_overrides,
    train_here,
)
from training.storage.checkpoint import load_state, save_state, save_weights
from training.storage.weights import load_weights

# Logging, saving and evaluating all fall on both sides of every cut and never on the cut itself by chance.
INTERVALS = ["log_interval=5", "fast_eval_interval=7", "checkpoint_interval=9"]


@pytest.fixture(scope="module")
def undecided(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Initial weights per architecture whose slots halt at different steps from the first update on."""
    files = {}
    for arch in ARCHITECTURES:
        folder = tmp_path_factory.mktemp(arch)
        train_here(arch, sudoku6_folder, folder, ["max_steps=1"])
        weights = load_weights(folder / "final.pt")
        draws = torch.Generator().manual_seed(0)
        weights["q_head.weight"] = torch.randn(weights["q_head.weight"].shape, generator=draws)
        weights["q_head.bias"] = torch.zeros_like(weights["q_head.bias"])
        files[arch] = folder / "undecided.pt"
        save_weights(files[arch], weights)
    return files


def train_to(step: int, arch: str, data: Path, folder: Path, options: list[str]) -> None:
    train_here(arch, data, folder, merged(INTERVALS, options, [f"max_steps={step}"]))


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [line for line in logged(folder) if "eval/fast/count" in line]


def assert_equal_runs(whole: Path, parts: Path) -> None:
    """States, logged losses, evaluations (but those at the ends of parts) and all weight files."""
    assert_same_state(whole, parts)
    assert logged_training(whole) == logged_training(parts) != []
    in_both = [line for line in evaluations(parts) if line in evaluations(whole)]
    assert in_both == evaluations(whole)
    names = {path.name for path in whole.iterdir() if path.name.startswith("step_")} | {"final.pt", "best.pt"}
    for name in names:
        assert differences(load_weights(whole / name), load_weights(parts / name), name) == []


@pytest.mark.parametrize("cut", [11, 16], ids=["mid_iteration", "iteration_end"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_stop_and_a_new_process(
    arch: str,
    cut: int,
    sudoku6_folder: Path,
    undecided: dict[str, Path],
    pretrain_server: PretrainServer,
    tmp_path: Path,
) -> None:
    """An epoch has 8 updates: 11 lies inside the second one, 16 at its end."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    start = [f"init_from={undecided[arch]}"]
    train_to(2 * cut, arch, sudoku6_folder, whole, start)
    train_to(cut, arch, sudoku6_folder, parts, start)
    middle = read_state(parts)
    assert middle["step"] == cut
    assert middle["position"]["batch"] == cut % 8
    assert len(middle["carry"]["steps"].unique()) > 1, "slots are at different steps"
    assert middle["model"]["puzzle_emb.weights"].abs().sum() > 0
    options = [*INTERVALS, *start, f"max_steps={2 * cut}"]
    arguments = merged(tiny_overrides(arch, sudoku6_folder, parts), options)
    done = pretrain_server.run(arguments, tmp_path / "second")
    assert done.returncode == 0, done.stderr
    assert f"going on from {parts / 'latest_state.pt'}" in done.stdout
    assert_equal_runs(whole, parts)
    assert differences(middle["model"], read_state(parts)["model"]) != []


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_stop_and_a_process_of_its_own_from_the_interpreter_on(arch: str, sudoku6_folder: Path, tmp_path: Path) -> None:
    for name, steps in (("whole", [22]), ("parts", [11, 22])):
        for step in steps:
            options = merged(tiny_overrides(arch, sudoku6_folder, tmp_path / name), INTERVALS)
            done = run_pretrain([*options, f"max_steps={step}"])
            assert done.returncode == 0, done.stderr
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


VARIANTS = {
    "no_exploration": ["arch.halt_exploration_prob=0"],
    "no_ema": ["ema=False"],
    "adamw_cosine": ["optimizer=adamw", "lr_min_ratio=0.1", "lr_warmup_steps=14"],
    "muon": ["optimizer=muon"],
    "clipped_in_slices": ["grad_clip_norm=0.05", "accumulation_slices=2"],
    "bfloat16_with_float32_states": ["dtype=bfloat16", "state_dtype=float32"],
    "no_puzzle_table": ["arch.puzzle_emb_ndim=0", "arch.puzzle_emb_len=0"],
    "table_only": ["freeze_weights=True", "ema=False"],
    "q_learning": ["arch.no_ACT_continue=False"],
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants(options: list[str], sudoku6_folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_to(22, "trm_att", sudoku6_folder, whole, options)
    for step in (11, 22):
        train_to(step, "trm_att", sudoku6_folder, parts, options)
    assert_equal_runs(whole, parts)
    state = read_state(whole)
    assert state["clip_events"] == (22 if "grad_clip_norm=0.05" in options else 0)


@pytest.mark.parametrize("augment", ["auto", "none"])
def test_stored_augmentation(augment: str, sudoku6_stored_folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_to(20, "trm_mlp", sudoku6_stored_folder, whole, [f"augment={augment}"])
    for step in (10, 20):
        train_to(step, "trm_mlp", sudoku6_stored_folder, parts, [f"augment={augment}"])
    assert_equal_runs(whole, parts)


def test_many_parts(sudoku6_folder: Path, tmp_path: Path) -> None:
    """Also stops right after a start, right before and at an evaluation, at the end of an iteration."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_to(25, "hrm", sudoku6_folder, whole, [])
    for step in (1, 2, 6, 7, 8, 9, 24, 25):
        train_to(step, "hrm", sudoku6_folder, parts, [])
    assert_equal_runs(whole, parts)


def test_a_state_branches_into_another_folder(sudoku6_folder: Path, tmp_path: Path) -> None:
    whole, first, branch = tmp_path / "whole", tmp_path / "first", tmp_path / "branch"
    train_to(22, "trm_att", sudoku6_folder, whole, [])
    train_to(11, "trm_att", sudoku6_folder, first, [])
    before = (first / "latest_state.pt").read_bytes()
    train_to(22, "trm_att", sudoku6_folder, branch, [f"resume={first / 'latest_state.pt'}"])
    assert_same_state(whole, branch)
    assert [line for line in logged_training(whole) if line["step"] > 11] == logged_training(branch)
    assert (first / "latest_state.pt").read_bytes() == before


def test_global_generators_go_on(sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own draws need no generator, but a library's might: Python's, NumPy's and torch's go on too."""
    original = training.loop.train_on_batch
    drawn: list[tuple[int, float, float, float]] = []

    def drawing(run: Any, batch: Any, *, stop_requested: bool) -> Any:
        legacy = float(np.random.rand())  # noqa: NPY002 - the global generator is what is tested
        drawn.append((run.step, random.random(), legacy, float(torch.rand(()))))
        return original(run, batch, stop_requested=stop_requested)

    monkeypatch.setattr(training.loop, "train_on_batch", drawing)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_to(6, "trm_mlp", sudoku6_folder, whole, [])
    undisturbed, drawn = drawn, []
    for step in (3, 6):
        train_to(step, "trm_mlp", sudoku6_folder, parts, [])
        random.random()
        torch.rand(3)
    assert drawn == undisturbed and len({value for row in drawn for value in row[1:]}) == 18
    assert_same_state(whole, parts)


def test_another_thread_count_is_told(sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_to(3, "trm_mlp", sudoku6_folder, tmp_path, [])
    assert read_state(tmp_path)["threads"] == 1
    capsys.readouterr()
    try:
        train_to(5, "trm_mlp", sudoku6_folder, tmp_path, ["threads=2"])
    finally:
        torch.set_num_threads(1)
    warnings = capsys.readouterr().err
    assert "warning: threads 1 -> 2 since the state was saved" in warnings and "bit for bit" in warnings
    assert read_state(tmp_path)["step"] == 5 and read_state(tmp_path)["threads"] == 2
    train_to(6, "trm_mlp", sudoku6_folder, tmp_path, ["threads=1"])
    assert "warning: threads 2 -> 1" in capsys.readouterr().err
    train_to(7, "trm_mlp", sudoku6_folder, tmp_path, ["threads=1"])
    assert "warning" not in capsys.readouterr().err


def test_another_torch_is_told(sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_to(2, "trm_mlp", sudoku6_folder, tmp_path, [])
    save_state(tmp_path / "latest_state.pt", read_state(tmp_path) | {"torch": "1.0.0", "world_size": 4})
    train_to(3, "trm_mlp", sudoku6_folder, tmp_path, [])
    warnings = capsys.readouterr().err
    assert "world_size 4 -> 1" in warnings and f"torch 1.0.0 -> {torch.__version__.split('+')[0]}" in warnings


def test_a_state_holds_all_there_is(sudoku6_folder: Path, tmp_path: Path) -> None:
    train_to(3, "hrm", sudoku6_folder, tmp_path, [])
    state = load_state(tmp_path / "latest_state.pt")
    assert state["step"] == 3 and state["samples_seen"] == 24
    assert state["position"] == {"iteration": 0, "batch": 3, "cursor": 24}
    assert state["carry"].keys() >= {"z_H", "z_L", "steps", "halted", "inputs", "labels"}
    assert state["ema"].keys() <= state["model"].keys() and "puzzle_emb.weights" not in state["ema"]
    assert len(state["optimizer"]["state"]) == len(state["ema"])
    assert state["rng"].keys() >= {"python", "numpy", "torch"}
    assert state["metric_sums"]["normalizer"] == 24.0, "sums since the last log line go on too"
    raw = torch.load(tmp_path / "latest_state.pt", weights_only=True)
    assert raw["step"] == 3
    exported = dict(load_weights(tmp_path / "final.pt"))
    shadow = {**state["model"], **state["ema"]}
    assert differences(exported, shadow) == [] and differences(exported, dict(state["model"])) != []
