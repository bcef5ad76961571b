"""Training on perturbed trajectories: exact resume, one update on any number of processes, what is logged."""

import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dataset.plain_data import read_json_object
from errors import UserError
from models.flops import step_flops
from tests.helpers import (
    ARCHITECTURES,
    PretrainServer,
    assert_same_state,
    differences,
    logged,
    logged_training,
    merged,
    read_state,
    tiny_config,
    tiny_overrides,
    train_here,
)
from tests.training import rank_jobs
from tests.training.comparison import puzzle_folder, relative_difference
from tests.training.ranks import run_ranks
from tests.training.test_kill import LONG, OPTIONS, assert_as_undisturbed, assert_sound, wait_for_a_moment
from training.distributed import World
from training.objectives.choose import build_objective
from training.objectives.trajectory_perturbation import KINDS_OF_ROLLOUT
from training.start import build_run
from training.storage.checkpoint import load_state, save_state, save_weights
from training.storage.weights import load_weights

# Ramp and warm-up lie on both sides of the cuts; sigmas are large enough to be felt by a network of 16 channels.
MULTI = [
    "objective.name=multi_perturbed_ce", "objective.num_trajectories=3", "objective.noise_sampling=loguniform",
    "objective.sigma_min=0.03", "objective.sigma_max=0.5", "objective.clean_warmup_steps=3",
    "objective.sigma_ramp_steps=12",
]  # fmt: skip
INTERVALS = ["log_interval=5", "fast_eval_interval=7", "checkpoint_interval=9"]
# Whole runs are compared, so each update costs: no fewer steps, only shorter ones.
SHORT_STEPS = "arch.L_cycles=1"


def rollout_options(rollout: str) -> list[str]:
    return [*MULTI, f"objective.rollout={rollout}"]


@pytest.fixture(scope="module")
def undecided(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Initial weights whose trajectories halt at different steps from the first update on."""
    files = {}
    for arch in ARCHITECTURES:
        folder = tmp_path_factory.mktemp(arch)
        train_here(arch, sudoku6_folder, folder, ["max_steps=1"])
        weights = load_weights(folder / "final.pt")
        draws = torch.Generator().manual_seed(0)
        weights["q_head.weight"] = torch.randn(weights["q_head.weight"].shape, generator=draws)
        weights["q_head.bias"] = torch.tensor([5.0 if arch == "hrm" else 2.0, 0.0])
        files[arch] = folder / "undecided.pt"
        save_weights(files[arch], weights)
    return files


# -- resume


# Updates at the cut and at the end: between them a log, an evaluation and a checkpoint are due.
CUTS = {"mid_ramp": (11, 18), "iteration_end": (16, 24)}
# Every two of architecture, rollout and moment meet, in half of all cells.
CELLS = [
    (arch, rollout, list(CUTS)[(i + j) % 2])
    for i, arch in enumerate(ARCHITECTURES)
    for j, rollout in enumerate(KINDS_OF_ROLLOUT)
]


@pytest.mark.parametrize(("arch", "rollout", "moment"), CELLS)
def test_stop_and_go_on(
    arch: str, rollout: str, moment: str, sudoku6_folder: Path, undecided: dict[str, Path], tmp_path: Path
) -> None:
    """A run is its first part and, from the state, the rest: weights, optimizers, EMA, step, best, ramp, data, RNG."""
    cut, end = CUTS[moment]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*rollout_options(rollout), *INTERVALS, SHORT_STEPS, f"init_from={undecided[arch]}"]
    for folder, step in ((whole, end), (parts, cut), (parts, end)):
        train_here(arch, sudoku6_folder, folder, [*options, f"max_steps={step}"])
    assert_same_state(whole, parts)
    assert logged_training(whole) == logged_training(parts) != []
    for name in ("final.pt", "best.pt"):
        assert differences(load_weights(whole / name), load_weights(parts / name)) == []
    state = read_state(whole)
    assert state["carry"] is None and state["objective"] == {}
    trajectories = end * 8 * 3
    if rollout == "parallel_fixed":
        assert state["samples_seen"] == trajectories * 4
    elif rollout == "act_mask":
        assert trajectories < state["samples_seen"] <= trajectories * 4
    else:
        assert trajectories < state["samples_seen"] < trajectories * 4


def test_the_noise_takes_part_in_the_run(sudoku6_folder: Path, tmp_path: Path) -> None:
    """Runs that differ by the scale of the noise alone part at the first update after the warm-up."""
    options = [*rollout_options("parallel_fixed"), "max_steps=8", "log_interval=1"]
    lines = []
    for name, change in (("a", []), ("b", ["objective.sigma_max=0.6"])):
        train_here("trm_att", sudoku6_folder, tmp_path / name, [*options, *change])
        lines.append(logged_training(tmp_path / name))
    # At step 3 the ramp is still at 0.
    same = [a == b for a, b in zip(*lines, strict=True)]
    assert same == [True] * 4 + [False] * 4


@pytest.mark.parametrize("rollout", KINDS_OF_ROLLOUT)
def test_killed_at_random_and_started_again(
    rollout: str, sudoku6_folder: Path, pretrain_server: PretrainServer, tmp_path: Path
) -> None:
    """SIGKILL inside saves, between updates and in the start: it ends as if nothing had been."""
    draws = random.Random(7)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = merged(tiny_overrides("trm_att", sudoku6_folder), OPTIONS, LONG, rollout_options(rollout))
    # Kills wait for updates or, less than a second, for the clock: the slow rollout is not at its end so soon.
    arguments = merged(arguments, [SHORT_STEPS, f"max_steps={32 if rollout == 'serial_act' else 40}"])
    done = pretrain_server.run([*arguments, f"checkpoint_path={whole}"], tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    steps = []
    for kill in range(6):
        env = {"RRS_TEST_SLEEP_IN_SAVE": "0.2" if kill % 3 == 0 else "0.01"}
        process = pretrain_server.start([*arguments, f"checkpoint_path={killed}"], tmp_path / f"{kill}", env)
        wait_for_a_moment(killed, kill % 3, draws)
        process.kill(signal.SIGKILL)
        process.wait()
        steps.append(assert_sound(killed))
    done = pretrain_server.run([*arguments, f"checkpoint_path={killed}"], tmp_path / "last")
    assert done.returncode == 0, done.stderr
    assert steps == sorted(steps) and steps[-1] > 0
    assert_as_undisturbed(killed, whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["objective.num_trajectories=4"], "objective.num_trajectories: saved 3, now 4"),
        (["objective.sigma_ramp_steps=13"], "objective.sigma_ramp_steps: saved 12, now 13"),
        (["objective.rollout=act_mask"], "objective.rollout: saved 'parallel_fixed', now 'act_mask'"),
        (
            ["objective.name=act_streaming", "objective.num_trajectories=1"],
            "objective.name: saved 'multi_perturbed_ce', now 'act_streaming'",
        ),
    ],
)
def test_a_state_goes_on_under_its_own_objective_only(
    change: list[str], named: str, sudoku6_folder: Path, tmp_path: Path
) -> None:
    options = [*rollout_options("parallel_fixed"), "max_steps=2"]
    train_here("trm_att", sudoku6_folder, tmp_path, options)
    before = (tmp_path / "latest_state.pt").read_bytes()
    with pytest.raises(UserError, match="is the state of another run") as caught:
        train_here("trm_att", sudoku6_folder, tmp_path, merged(options, [*change, "max_steps=4"]))
    assert named in str(caught.value)
    assert (tmp_path / "latest_state.pt").read_bytes() == before


@pytest.mark.parametrize("arch", ["trm_att", "hrm"])
def test_a_state_of_pretraining_from_before_extra_passes_were_counted(
    arch: str, sudoku6_folder: Path, tmp_path: Path
) -> None:
    train_here(arch, sudoku6_folder, tmp_path, ["max_steps=3"])
    state = read_state(tmp_path)
    counted = state.pop("extra_passes")
    assert counted == (24 if arch == "hrm" else 0)
    save_state(tmp_path / "latest_state.pt", state)
    train_here(arch, sudoku6_folder, tmp_path, ["max_steps=4"])
    assert read_state(tmp_path)["extra_passes"] == counted * 4 // 3


# -- several processes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(puzzle_folder(tmp_path_factory.mktemp("data") / "puzzles"))


def assert_close(first: dict[str, Any], second: dict[str, Any]) -> None:
    for kind in ("gradients", "weights", "ema"):
        assert first[kind].keys() == second[kind].keys()
        for name, tensor in first[kind].items():
            assert relative_difference(tensor, second[kind][name]) <= 1e-10, (kind, name)
    assert relative_difference(first["table_gradient"], second["table_gradient"]) <= 1e-10
    assert relative_difference(first["table"], second["table"]) <= 1e-10
    for name, value in first["metrics"].items():
        assert second["metrics"][name] == pytest.approx(value, rel=1e-10), name
    for name in ("count", "exact_accuracy", "steps", "normalizer"):
        assert second["metrics"][name] == first["metrics"][name]


# A clean one, one in the ramp, one after it: each meets every architecture and every rollout.
UPDATES = (0, 5, 40)
UPDATE_CELLS = [
    (arch, rollout, UPDATES[(i + j) % 3])
    for i, arch in enumerate(ARCHITECTURES)
    for j, rollout in enumerate(KINDS_OF_ROLLOUT)
]


@pytest.mark.parametrize(("arch", "rollout", "update"), UPDATE_CELLS)
def test_one_update_on_two_ranks_is_the_update_of_one(
    arch: str, rollout: str, update: int, data: str, tmp_path: Path
) -> None:
    """Noise by trajectory, ramp by update: the same on every rank and in slices, other noise at another update."""
    shared = {"arch": arch, "data": data, "folder": str(tmp_path), "options": rollout_options(rollout)}
    other = UPDATES[UPDATES.index(update) - 1]
    alone, elsewhere = rank_jobs.perturbed_updates(World(), updates=[update, other], **shared)
    (first,), (second,) = run_ranks("perturbed_updates", updates=[update], **shared)
    assert differences(first, second) == [], "ranks differ"
    assert_close(alone, first)
    (sliced,) = rank_jobs.perturbed_updates(World(), updates=[update], **shared | {
        "options": [*rollout_options(rollout), "accumulation_slices=5"]
    })  # fmt: skip
    assert_close(alone, sliced)
    if rollout != "parallel_fixed":
        assert alone["metrics"]["steps"] < alone["metrics"]["count"] * 4, "some halt early"
    assert alone["metrics"]["loss"] != elsewhere["metrics"]["loss"]


def test_a_state_moves_between_numbers_of_processes(data: str, tmp_path: Path) -> None:
    options = [*rollout_options("parallel_fixed"), "max_steps=3"]
    two = tmp_path / "two"
    run_ranks("train_tiny", arch="hrm", data=data, folder=str(two), options=options)
    state = read_state(two)
    assert state["world_size"] == 2 and state["carry"] is None and state["samples_seen"] == 3 * 40 * 3 * 4
    one = tmp_path / "one"
    shutil.copytree(two, one)
    rank_jobs.train_tiny(World(), "hrm", data, str(one), merged(options, ["max_steps=4"]))
    assert read_state(one)["step"] == 4 and read_state(one)["samples_seen"] == 4 * 40 * 3 * 4


# -- what is logged


@pytest.mark.parametrize("arch", ["trm_att", "hrm"])
def test_compute_is_counted(arch: str, sudoku6_folder: Path, tmp_path: Path) -> None:
    """B K T supervision steps an update; Q-learning adds one look-ahead per trajectory."""
    train_here(arch, sudoku6_folder, tmp_path, [*rollout_options("parallel_fixed"), "max_steps=9"])
    config = tiny_config(arch, sudoku6_folder, tmp_path)
    run = build_run(config, World(), build_objective(config))
    trained = step_flops(replace(run.model.config, no_ACT_continue=True), training=True)
    looked_ahead = step_flops(run.model.config, training=False) if arch == "hrm" else 0.0
    lines = [line for line in logged(tmp_path) if "train/samples" in line]
    assert len(lines) > 9
    for line in lines:
        assert line["train/samples"] == line["step"] * 8 * 3 * 4
        assert line["train/flops"] == line["step"] * 8 * 3 * (4 * trained + looked_ahead)
    for line in logged_training(tmp_path):
        assert line["train/count"] == 8 * 3 and line["train/steps"] == 4
    assert read_json_object(tmp_path / "status.json")["epoch"] == 9 * 8 / 64
    assert read_json_object(tmp_path / "summary.json")["samples_seen"] == 9 * 8 * 3 * 4


def test_a_loss_has_the_size_it_has_in_pretraining(sudoku6_folder: Path, tmp_path: Path) -> None:
    """At the first update, from untrained weights, whatever K and the number of steps."""
    losses = []
    for name, options in {
        "act": [],
        "fixed": ["objective.name=baseline_ce"],
        "many": [*MULTI, "arch.halt_max_steps=8"],
        "masked": [*MULTI, "objective.rollout=act_mask"],
    }.items():
        train_here("trm_att", sudoku6_folder, tmp_path / name, [*options, "max_steps=1"])
        losses.append(logged_training(tmp_path / name)[0]["train/lm_loss"])
    assert max(losses) < 1.1 * min(losses)


def test_evaluation_is_that_of_pretraining(sudoku6_folder: Path, tmp_path: Path) -> None:
    """The same weights get the same numbers: an objective says nothing about inference."""
    frozen = ["freeze_weights=True", "puzzle_emb_lr=0", "puzzle_emb_weight_decay=0", "ema=False", "max_steps=2"]
    for name, options in (("act", []), ("multi", MULTI)):
        train_here("trm_mlp", sudoku6_folder, tmp_path / name, [*frozen, *options])
    first, second = (read_json_object(tmp_path / name / "summary.json")["test"] for name in ("act", "multi"))
    for which in ("initial", "final"):
        for key in ("numerator", "denominator", "accuracy", "lm_loss"):
            assert first[which][key] == second[which][key]
    assert load_state(tmp_path / "multi" / "latest_state.pt")["step"] == 2
