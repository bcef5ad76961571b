"""From a config to the parts of a run."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.build_sudoku_dataset import main as build_sudoku
from errors import UserError
from models.puzzle_embedding import SparsePuzzleEmbedding
from tests.helpers import tiny_config
from training.distributed import World
from training.optim import AdamATan2, assert_ownership
from training.run import Run
from training.setup import (
    build_network,
    load_initial_weights,
    open_evaluation_rows,
    open_training_data,
    planned_updates,
)
from training.start import act_objective, build_run, check_processes, train
from training.storage.checkpoint import save_weights

CPU = torch.device("cpu")


def build(arch: str, folder: Path, *options: str) -> Run:
    config = tiny_config(arch, folder, folder.parent / "no-run", options)
    return build_run(config, World(), act_objective(config))


@pytest.mark.parametrize("arch", ["trm_att", "trm_mlp", "hrm"])
def test_every_parameter_has_one_owner_and_an_average(arch: str, sudoku4_folder: Path) -> None:
    run = build(arch, sudoku4_folder)
    assert run.dense is not None and run.ema is not None and run.sparse is not None
    assert_ownership(run.model, [run.dense])
    assert run.ema.state_dict().keys() == dict(run.model.named_parameters()).keys()
    table = run.model.puzzle_emb
    assert isinstance(table, SparsePuzzleEmbedding) and run.sparse.weights is table.weights
    assert run.model.training and run.evaluated_model is run.ema.model


def test_without_ema_the_model_itself_is_evaluated(sudoku4_folder: Path) -> None:
    run = build("trm_att", sudoku4_folder, "ema=False")
    assert run.ema is None and run.evaluated_model is run.model


def test_the_named_optimizer_is_built(sudoku4_folder: Path) -> None:
    official = build("trm_att", sudoku4_folder, "beta1=0.8", "beta2=0.7", "weight_decay=0.3")
    assert isinstance(official.dense, AdamATan2)
    group = official.dense.param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.8, 0.7), 0.3)
    adamw = build("trm_att", sudoku4_folder, "optimizer=adamw")
    assert isinstance(adamw.dense, torch.optim.AdamW)


def test_frozen_weights_leave_the_table(sudoku4_folder: Path) -> None:
    run = build("trm_att", sudoku4_folder, "freeze_weights=True")
    assert run.dense is None and run.sparse is not None
    assert not any(parameter.requires_grad for parameter in run.model.parameters())


def test_no_table_no_sparse_optimizer(sudoku4_folder: Path) -> None:
    run = build("trm_att", sudoku4_folder, "arch.puzzle_emb_ndim=0", "arch.puzzle_emb_len=0")
    assert run.sparse is None and run.model.puzzle_emb is None


def test_validation_and_test_rows_share_nothing_and_leave_nothing(sudoku6_folder: Path) -> None:
    config = tiny_config("trm_att", sudoku6_folder, "run", ["max_test_rows=null", "validation_size=1024"])
    (rows,) = open_evaluation_rows(config)
    assert len(rows.validation) == 8  # a fifth of 40
    assert np.isin(rows.fast, rows.validation).all() and len(rows.fast) == 4
    assert sorted([*rows.validation, *rows.test]) == list(range(40))


def test_test_rows_can_be_limited_without_touching_validation(sudoku6_folder: Path) -> None:
    few, many = (
        open_evaluation_rows(tiny_config("trm_att", sudoku6_folder, "run", [f"max_test_rows={n}"]))[0]
        for n in (5, 1000)
    )
    assert few.test.tolist() == many.test[:5].tolist() and len(many.test) == 32
    assert few.validation.tolist() == many.validation.tolist()


def test_small_selections_are_not_padded_to_the_batch(sudoku6_folder: Path) -> None:
    (rows,) = open_evaluation_rows(tiny_config("trm_att", sudoku6_folder, "run", ["eval_batch_size=512"]))
    (batch,) = rows.batches(rows.fast)
    assert len(batch["inputs"]) == 4


def test_dtypes_of_the_config_reach_the_network(sudoku4_folder: Path) -> None:
    for options, dtype, state in (
        (["dtype=bfloat16", "state_dtype=float32"], torch.bfloat16, torch.float32),
        (["dtype=float64"], torch.float64, torch.float64),
        (["dtype=auto", "device=cpu"], torch.float32, torch.float32),
    ):
        config = tiny_config("hrm", sudoku4_folder, "run", options)
        network = build_network(config, open_training_data(config, verify=False).metadata, CPU)
        assert network.config.dtype == dtype and network.initial_state(1).z_H.dtype == state


def test_the_network_takes_its_shape_from_the_data(sudoku6_folder: Path) -> None:
    run = build("trm_att", sudoku6_folder)
    assert (run.model.config.seq_len, run.model.config.vocab_size) == (36, 8)
    assert run.model.state_dict()["puzzle_emb.weights"].shape == (1, 16)


def test_seed_decides_the_weights(sudoku4_folder: Path) -> None:
    first, again, other = (build("hrm", sudoku4_folder, f"seed={seed}").model.lm_head.weight for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["epochs=48000", "global_batch_size=768"], 4000),
        (["epochs=12", "global_batch_size=100"], 7),  # 768 rows
        (["epochs=1", "eval_interval=1", "global_batch_size=7"], 9),
        (["epochs=1", "eval_interval=1", "global_batch_size=64"], 1),
    ],
)
def test_planned_updates_are_the_official_count(options: list[str], expected: int, sudoku6_folder: Path) -> None:
    config = tiny_config("trm_att", sudoku6_folder, "run", ["eval_interval=12", *options])
    assert planned_updates(config, open_training_data(config, verify=False)) == expected


def test_planned_updates_count_stored_copies_once(sudoku6_stored_folder: Path) -> None:
    """A group is a puzzle with its copies; an epoch draws one of them."""
    config = tiny_config("trm_att", sudoku6_stored_folder, "run", ["epochs=10", "global_batch_size=8"])
    assert planned_updates(config, open_training_data(config, verify=False)) == 80


@pytest.mark.parametrize(("size", "slices"), [(2, 8), (3, 1), (16, 1)])
def test_slots_must_divide_evenly(size: int, slices: int, sudoku4_folder: Path) -> None:
    config = tiny_config("trm_att", sudoku4_folder, "run", [f"accumulation_slices={slices}"])
    with pytest.raises(UserError, match=f"multiple of {size * slices}"):
        check_processes(config, World(0, size))


def test_an_impossible_architecture_is_one_line(sudoku4_folder: Path) -> None:
    config = tiny_config("trm_att", sudoku4_folder, "run")
    config.arch.num_heads = 3  # past the checks of the config
    with pytest.raises(UserError, match="arch: hidden_size is 16, expected a multiple of arch.num_heads=3"):
        build_run(config, World(), act_objective(config))


def test_weights_of_another_run_are_loaded(sudoku4_folder: Path, tmp_path: Path) -> None:
    source, target = (build("trm_att", sudoku4_folder, f"seed={seed}").model for seed in (0, 1))
    official = {f"_orig_mod.model.inner.{key}": value for key, value in source.state_dict().items()}
    torch.save(official, tmp_path / "step_100")
    load_initial_weights(target, str(tmp_path / "step_100"))
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_a_table_of_another_size_is_refilled_with_its_mean(sudoku4_folder: Path, tmp_path: Path) -> None:
    model = build("trm_att", sudoku4_folder).model
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    weights["puzzle_emb.weights"] = torch.arange(48.0).view(3, 16)
    save_weights(tmp_path / "weights.pt", weights)
    load_initial_weights(model, str(tmp_path / "weights.pt"))
    assert torch.equal(model.state_dict()["puzzle_emb.weights"], torch.arange(16.0, 32.0)[None])


def test_weights_of_another_shape_are_refused_and_nothing_is_loaded(sudoku4_folder: Path, tmp_path: Path) -> None:
    small, large = (build("trm_att", sudoku4_folder, f"arch.hidden_size={size}").model for size in (16, 32))
    before = {key: value.clone() for key, value in small.state_dict().items()}
    save_weights(tmp_path / "weights.pt", large.state_dict())
    with pytest.raises(UserError, match="lm_head.weight"):
        load_initial_weights(small, str(tmp_path / "weights.pt"))
    assert all(torch.equal(before[key], value) for key, value in small.state_dict().items())


def test_no_data_says_how_to_build_some(sudoku4_folder: Path) -> None:
    config = tiny_config("trm_att", sudoku4_folder, "run")
    config.data_paths = []
    with pytest.raises(UserError, match="build_sudoku_dataset.py"):
        open_training_data(config, verify=False)


def test_a_test_set_too_small_for_validation(tmp_path: Path) -> None:
    """Fewer than five test puzzles: a fifth of them is none, and training goes on without validation."""
    folder = tmp_path / "tiny"
    build_sudoku(["--output-dir", str(folder), "--generate", "4x4", "--num-train", "16", "--test-size", "3"])
    config = tiny_config("trm_att", folder, tmp_path / "run", ["max_steps=2"])
    assert train(config) == "done"
    assert (tmp_path / "run" / "final.pt").exists()
