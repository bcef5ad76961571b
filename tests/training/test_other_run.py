"""The state of another run is refused: every difference named, exit code 2, not a byte overwritten."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from errors import UserError
from tests.helpers import (
    PretrainServer,
    assert_same_state,
    differences,
    merged,
    read_state,
    tiny_overrides,
    train_here,
)
from training.settings.resolving import load_config_file
from training.storage.weights import load_weights

STEPS = ["max_steps=3"]

# What is changed -> what the refusal must name (saved value, then present one).
CHANGES = {
    "hidden_size": (["arch.hidden_size=32"], "arch.hidden_size: saved 16, now 32"),
    "heads": (["arch.num_heads=1"], "arch.num_heads: saved 2, now 1"),
    "cycles": (["arch.L_cycles=3"], "arch.L_cycles: saved 2, now 3"),
    "exploration": (["arch.halt_exploration_prob=0.1"], "arch.halt_exploration_prob: saved 0.5, now 0.1"),
    "mixer": (["arch.mlp_t=True", "arch.pos_encodings=none"], "arch.mlp_t: saved False, now True"),
    "loss": (
        ["arch.loss.loss_type=softmax_cross_entropy"],
        "arch.loss.loss_type: saved 'stablemax_cross_entropy', now 'softmax_cross_entropy'",
    ),
    "batch": (["global_batch_size=16"], "global_batch_size: saved 8, now 16"),
    "optimizer": (["optimizer=adamw"], "optimizer: saved 'adam_atan2', now 'adamw'"),
    "lr": (["lr=2e-3"], "lr: saved 0.001, now 0.002"),
    "puzzle_emb_lr": (["puzzle_emb_lr=1e-3"], "puzzle_emb_lr: saved 0.01, now 0.001"),
    "decay": (["weight_decay=1.0"], "weight_decay: saved 0.1, now 1.0"),
    "warmup": (["lr_warmup_steps=5"], "lr_warmup_steps: saved 4, now 5"),
    "cosine": (["lr_min_ratio=0.5"], "lr_min_ratio: saved 1.0, now 0.5"),
    "clip": (["grad_clip_norm=1"], "grad_clip_norm: saved None, now 1.0"),
    "seed": (["seed=1"], "seed: saved 0, now 1"),
    "ema": (["ema=False"], "ema: saved True, now False"),
    "ema_rate": (["ema_rate=0.99"], "ema_rate: saved 0.9, now 0.99"),
    "frozen": (["freeze_weights=True"], "freeze_weights: saved False, now True"),
    "iterations": (["eval_interval=2"], "eval_interval: saved 1, now 2"),
    "augment": (["augment=none"], "augment: saved 'auto', now 'none'"),
    "dtype": (["dtype=float64"], "dtype: saved 'float32', now 'float64'"),
    "several": (["seed=7", "lr=1e-4"], "lr: saved 0.001, now 0.0001; seed: saved 0, now 7"),
}


@pytest.fixture(scope="module")
def trained(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train_here("trm_att", sudoku6_folder, folder, STEPS)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in files}


def refused(data: Path, folder: Path, options: Sequence[str], arch: str = "trm_att") -> str:
    """The message with which the start is refused; nothing in the folder has changed."""
    before = contents(folder)
    with pytest.raises(UserError) as error:
        train_here(arch, data, folder, [*options])
    assert contents(folder) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("options", "named"), CHANGES.values(), ids=CHANGES.keys())
def test_each_difference_is_named(options: list[str], named: str, trained: Path, sudoku6_folder: Path) -> None:
    message = refused(sudoku6_folder, trained, ["max_steps=6", *options])
    assert f"{trained / 'latest_state.pt'} is the state of another run" in message
    assert named in message
    assert "checkpoint_path" in message and "init_from=FILE" in message


def test_another_architecture(trained: Path, sudoku6_folder: Path) -> None:
    message = refused(sudoku6_folder, trained, STEPS, arch="hrm")
    assert "arch.name: saved 'trm', now 'hrm'" in message


def test_other_data(trained: Path, sudoku4_folder: Path, sudoku6_stored_folder: Path) -> None:
    """Another task, or other puzzles of the same."""
    for data in (sudoku4_folder, sudoku6_stored_folder):
        message = refused(data, trained, [*STEPS, "global_batch_size=8"])
        assert "is the state of another run: data." in message or "; data." in message


def test_another_objective(trained: Path, sudoku6_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.objectives.act_streaming.ACTStreaming.name", "perturbed")
    message = refused(sudoku6_folder, trained, STEPS)
    assert "objective: saved 'act_streaming', now 'perturbed'" in message


def test_moved_data_and_run_control_are_no_difference(trained: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    """The same bytes elsewhere, another place for the run, other intervals, more epochs: the same run."""
    moved = tmp_path / "moved"
    moved.symlink_to(sudoku6_folder)
    run = tmp_path / "run"
    train_here("trm_att", sudoku6_folder, run, STEPS)
    run = run.rename(tmp_path / "renamed")
    options = ["max_steps=6", "epochs=8", "log_interval=2", "checkpoint_interval=1", "keep_last=1"]
    assert train_here("trm_att", moved, run, [*options, "eval_batch_size=3", "run_name=other"]) == "done"
    train_here("trm_att", sudoku6_folder, tmp_path / "whole", ["max_steps=6", "log_interval=2"])
    assert_same_state(run, tmp_path / "whole")


def test_other_slices_are_the_same_run_and_warned_about(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slices change the order of sums only: a run may move to a machine that needs more of them."""
    train_here("trm_att", sudoku6_folder, tmp_path, STEPS)
    capsys.readouterr()
    assert train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=6", "accumulation_slices=2"]) == "done"
    assert "warning: accumulation_slices 1 -> 2 since the state was saved" in capsys.readouterr().err


def test_exit_code_and_one_line(
    trained: Path, sudoku6_folder: Path, pretrain_server: PretrainServer, tmp_path: Path
) -> None:
    before = contents(trained)
    arguments = merged(tiny_overrides("trm_att", sudoku6_folder, trained), ["max_steps=6", "lr=3e-3"])
    done = pretrain_server.run(arguments, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "lr: saved 0.001, now 0.003" in done.stderr
    assert contents(trained) == before


def test_never_refuses_a_folder_with_a_state(trained: Path, sudoku6_folder: Path) -> None:
    message = refused(sudoku6_folder, trained, ["max_steps=6", "resume=never"])
    assert "resume=never" in message and "latest_state.pt" in message and "resume=auto" in message


def test_must_refuses_a_folder_without_one(sudoku6_folder: Path, tmp_path: Path) -> None:
    message = refused(sudoku6_folder, tmp_path, [*STEPS, "resume=must"])
    assert "holds no state" in message and "resume=auto" in message
    assert train_here("trm_att", sudoku6_folder, tmp_path, [*STEPS, "resume=never"]) == "done"
    assert train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=4", "resume=must"]) == "done"


def test_precedence(trained: Path, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's own newest state > resume=FILE > init_from > scratch; what is passed over is said."""
    file, weights = trained / "latest_state.pt", trained / "final.pt"
    both = [f"resume={file}", f"init_from={weights}"]
    capsys.readouterr()
    train_here("trm_att", sudoku6_folder, tmp_path / "a", ["max_steps=5", *both])
    said = capsys.readouterr().out
    assert f"from the state {file}" in said and f"init_from={weights} not used" in said
    assert read_state(tmp_path / "a")["step"] == 5
    train_here("trm_att", sudoku6_folder, tmp_path / "a", ["max_steps=6", *both])
    said = capsys.readouterr().out
    assert f"going on from {tmp_path / 'a' / 'latest_state.pt'}" in said
    assert f"resume={file} and init_from={weights} not used" in said
    train_here("trm_att", sudoku6_folder, tmp_path / "whole", ["max_steps=6"])
    assert_same_state(tmp_path / "a", tmp_path / "whole")
    train_here("trm_att", sudoku6_folder, tmp_path / "b", ["max_steps=1", f"init_from={weights}"])
    assert f"starting with the weights of {weights}" in capsys.readouterr().out
    assert read_state(tmp_path / "b")["step"] == 1
    for options in ([f"init_from={trained / 'best.pt'}"], []):
        train_here("trm_att", sudoku6_folder, tmp_path / "b", ["max_steps=2", *options])
        settings = load_config_file(tmp_path / "b" / "all_config.yaml")
        assert settings.init_from == str(weights), "of its own beginning, whatever is given later"
    train_here("trm_att", sudoku6_folder, tmp_path / "c", ["max_steps=1"])
    assert "starting from scratch" in capsys.readouterr().out
    assert differences(load_weights(tmp_path / "b" / "final.pt"), load_weights(tmp_path / "c" / "final.pt"))


def test_an_older_state_of_the_same_folder_is_refused(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train_here("trm_att", sudoku6_folder, run, ["max_steps=6", "checkpoint_interval=2"])
    older = run / "previous_state.pt"
    message = refused(sudoku6_folder, run, ["max_steps=9", f"resume={older}"])
    assert "is an older state of this run" in message and "checkpoint_path=NEW_FOLDER" in message
    new = tmp_path / "new"
    train_here("trm_att", sudoku6_folder, new, ["max_steps=6", f"resume={older}"])
    assert_same_state(new, run)
    assert train_here("trm_att", sudoku6_folder, run, ["max_steps=7", f"resume={run / 'latest_state.pt'}"])


@pytest.mark.parametrize("wrong", ["missing.pt", "."])
def test_a_resume_file_that_is_none(wrong: str, sudoku6_folder: Path, tmp_path: Path) -> None:
    message = refused(sudoku6_folder, tmp_path, [*STEPS, f"resume={tmp_path / wrong}"])
    assert "expected auto, never, must or a state file" in message


def test_weights_are_no_state_and_a_state_is_no_weights(trained: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    message = refused(sudoku6_folder, tmp_path, [*STEPS, f"resume={trained / 'final.pt'}"])
    assert "init_from=FILE" in message
    message = refused(sudoku6_folder, tmp_path, [*STEPS, f"init_from={trained / 'latest_state.pt'}"])
    assert "is a full state, weights were expected" in message


def test_the_folder_is_held(trained: Path, sudoku6_folder: Path) -> None:
    from training.storage.run_folder import RunFolder

    with RunFolder(trained).lock():
        assert "is in use by another run" in refused(sudoku6_folder, trained, ["max_steps=6"])


def test_a_finished_run_is_left_alone(trained: Path, sudoku6_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(trained)
    assert train_here("trm_att", sudoku6_folder, trained, STEPS) == "done"
    assert "finished at update 3" in capsys.readouterr().out
    assert contents(trained) == before
