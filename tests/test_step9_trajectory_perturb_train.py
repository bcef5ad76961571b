"""The flag script: the same schema as pretrain.py, a plan that costs nothing, mistakes in one line."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import step9_trajectory_perturb_train as script
from dataset.plain_data import read_json_object
from models.flops import step_flops
from tests.helpers import assert_same_state, logged, logged_training, read_state, tiny_config, train_here
from training.distributed import World
from training.settings.identity import config_hash, run_identity
from training.settings.resolving import load_config_file
from training.settings.schema import TrainConfig
from training.settings.trajectory_flags import build_parser, read_flags
from training.start import act_objective, build_run, train
from training.storage.checkpoint import save_weights
from training.storage.weights import load_weights

MULTI = """--objective multi_perturbed_ce --rollout parallel_fixed --num-trajectories 3 --perturb both
 --noise-sampling loguniform --sigma-min 3e-3 --sigma-max 0.3 --sigma-ramp-steps 6""".split()
SHORT = "--train-steps 8 --eval-every 4 --eval-n 8 --sigma-grid 1e-2,0.3 --eval-rollouts 2 --device cpu".split()
SAVES = "--save-every-eval --save-best --save-final --save-train-state".split()


@pytest.fixture(scope="module")
def roots(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short pretraining of each architecture."""
    made = {}
    for arch in ("trm_att", "hrm"):
        made[arch] = tmp_path_factory.mktemp("pretrained") / arch
        options = ["max_steps=8", "lr_min_ratio=0.1", "evaluators=[]", "eval.max_steps=3"]
        train_here(arch, sudoku6_folder, made[arch], options)
    return made


@pytest.fixture
def root(roots: dict[str, Path]) -> Path:
    return roots["trm_att"]


def config_of(root: Path, *flags: str) -> TrainConfig:
    return read_flags(["--ckpt-root", str(root), "--ckpt-name", "step_8", *flags])[0]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- translation


def test_flags_become_the_settings_of_a_training_run(root: Path, sudoku6_folder: Path) -> None:
    original = load_config_file(root / "all_config.yaml")
    cfg = config_of(root, *MULTI, *SHORT, *SAVES, "--batch-size", "4", "--lr", "3e-4", "--output-dir", "o")
    objective = cfg.objective
    assert (objective.name, objective.rollout, objective.num_trajectories) == (
        "multi_perturbed_ce", "parallel_fixed", 3,
    )  # fmt: skip
    assert (objective.noise_sampling, objective.sigma_min, objective.sigma_max) == ("loguniform", 3e-3, 0.3)
    assert (objective.sigma_ramp_steps, objective.perturb) == (6, "both")
    assert cfg.arch == original.arch and cfg.optimizer == original.optimizer and cfg.ema == original.ema
    assert cfg.data_paths == [str(sudoku6_folder)]
    assert (cfg.global_batch_size, cfg.lr, cfg.lr_min_ratio, cfg.max_steps) == (4, 3e-4, 1.0, 8)
    assert (cfg.weight_decay, cfg.seed, cfg.lr_warmup_steps) == (original.weight_decay, 0, original.lr_warmup_steps)
    assert cfg.init_from == str(root / "step_8") and cfg.resume == "auto" and cfg.checkpoint_path == "o"
    assert cfg.state_dtype == "float32" and cfg.dtype == "float32"
    assert (cfg.fast_eval_interval, cfg.force_full_eval_every, cfg.validation_size) == (4, 1, 8)
    assert cfg.eval.max_steps is None and cfg.eval.during.sigma_grid == [1e-2, 0.3]
    assert cfg.eval.perturbed_starts.starts == 2
    assert cfg.checkpoint_every_fast_eval and cfg.checkpoint_interval == 1000


def test_defaults(root: Path) -> None:
    cfg = config_of(root)
    assert (cfg.objective.name, cfg.objective.num_trajectories) == ("multi_perturbed_ce", 4)
    assert (cfg.objective.rollout, cfg.objective.noise_sampling) == ("parallel_fixed", "fixed")
    assert cfg.objective.sigma == 1e-3
    assert config_of(root, "--objective", "baseline_ce").objective.num_trajectories == 1
    assert cfg.eval.during.sigma_grid == [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert config_of(root, "--sigma-grid", "none").eval.during.sigma_grid == []
    assert (cfg.max_steps, cfg.fast_eval_interval, cfg.validation_size) == (50000, 2500, 1024)
    assert not cfg.checkpoint_every_fast_eval and cfg.checkpoint_interval is None
    assert cfg.global_batch_size == load_config_file(root / "all_config.yaml").global_batch_size
    assert config_of(root, "--set", "grad_clip_norm=1e-1").grad_clip_norm == 0.1
    assert config_of(root, "--set", "arch.halt_max_steps=6").arch.halt_max_steps == 6
    assert config_of(root, "--state-dtype", "bfloat16").state_dtype == "bfloat16"


def test_a_longer_run_is_the_same_run(root: Path) -> None:
    assert run_identity(config_of(root)) == run_identity(config_of(root, "--train-steps", "70000"))
    assert run_identity(config_of(root)) != run_identity(config_of(root, "--seed", "1"))


@pytest.mark.parametrize("steps", [1, 8, 3001])
def test_no_end_of_the_data_comes_before_the_last_update(root: Path, steps: int) -> None:
    cfg = config_of(root, "--train-steps", str(steps), "--batch-size", "60")
    run = build_run(cfg, World(), act_objective(cfg))
    assert run.planned_updates >= steps
    passes = cfg.epochs // run.source.epochs_per_iteration
    assert passes * (run.source.num_batches_estimate - 1) >= steps
    assert cfg.min_eval_interval is not None and cfg.min_eval_interval > cfg.epochs


def test_checkpoints_by_name_and_by_path(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "best.pt"
    shutil.copy(root / "final.pt", elsewhere)
    for name, path in (("best.pt", root / "best.pt"), (str(elsewhere), elsewhere), ("step_8", root / "step_8")):
        cfg, _ = read_flags(["--ckpt-root", str(root), "--ckpt-name", name])
        assert cfg.init_from == str(path)


def test_an_official_run_folder(root: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    """all_config.yaml as the TRM code writes it, weights with its prefixes."""
    original = load_config_file(root / "all_config.yaml").arch
    names = ("H_cycles L_cycles H_layers L_layers hidden_size num_heads expansion puzzle_emb_ndim pos_encodings "
             "halt_max_steps halt_exploration_prob mlp_t puzzle_emb_len no_ACT_continue swiglu_multiple")  # fmt: skip
    lines = ["arch:", "  name: recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1", "  forward_dtype: float32"]
    lines += [f"  {name}: {getattr(original, name)}" for name in names.split()]
    lines += [f"data_paths: [{sudoku6_folder}]", "global_batch_size: 8", "evaluators: [{name: arc@ARC}]"]
    lines += ["lr: 0.0001", "epochs: 50", "eval_interval: 5", "puzzle_emb_lr: 0.0001"]
    (tmp_path / "all_config.yaml").write_text("\n".join(lines) + "\n")
    weights = {f"_orig_mod.model.inner.{key}": value for key, value in load_weights(root / "step_8").items()}
    save_weights(tmp_path / "step_26040", weights)
    flags = ["--ckpt-root", str(tmp_path), "--ckpt-name", "step_26040", "--output-dir", str(tmp_path / "run")]
    script.main([*flags, *MULTI, *SHORT, "--train-steps", "2"])
    assert read_json_object(tmp_path / "run" / "summary.json")["steps"] == 2
    assert read_state(tmp_path / "run")["initial"]["init_from"] == str(tmp_path / "step_26040")


# -- training


@pytest.mark.parametrize("arch", ["trm_att", "hrm"])
def test_a_run_and_its_files(arch: str, roots: dict[str, Path], tmp_path: Path) -> None:
    flags = ["--ckpt-root", str(roots[arch]), "--ckpt-name", "best.pt", *MULTI, *SHORT, *SAVES]
    script.main([*flags, "--output-dir", str(tmp_path)])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"best.pt", "final.pt", "step_4", "step_8", "latest_state.pt", "best_state.pt", "final_state.pt"} <= names
    summary = read_json_object(tmp_path / "summary.json")
    assert summary["steps"] == 8 and summary["test"].keys() == {"initial", "best", "final"}
    evaluations = [line for line in logged(tmp_path) if "eval/exact_accuracy" in line]
    assert [line["step"] for line in evaluations] == [4, 8], "every evaluation is a full one"
    for line in evaluations:
        assert line["eval/count"] == 8 and line["eval/robust/0.3/count"] == 16
    # The first update starts from the checkpoint, not from new weights.
    assert logged_training(tmp_path)[0]["train/lm_loss"] != pytest.approx(
        _first_loss_from_scratch(arch, flags, tmp_path / "scratch"), abs=1e-3
    )


def _first_loss_from_scratch(arch: str, flags: list[str], folder: Path) -> float:
    cfg, _ = read_flags([*flags, "--output-dir", str(folder), "--train-steps", "1"])
    cfg.init_from = None
    train(cfg)
    return float(logged_training(folder)[0]["train/lm_loss"])


@pytest.mark.parametrize("rollout", ["parallel_fixed", "serial_act", "act_mask"])
def test_resume_state_goes_on_bit_for_bit(rollout: str, root: Path, tmp_path: Path) -> None:
    """In its folder, by the same command alone, and in another folder from the state file."""
    flags = ["--ckpt-root", str(root), "--ckpt-name", "step_8", *MULTI, *SHORT, *SAVES, "--rollout", rollout]
    whole, parts, moved = tmp_path / "whole", tmp_path / "parts", tmp_path / "moved"
    script.main([*flags, "--output-dir", str(whole)])
    script.main([*flags, "--output-dir", str(parts), "--train-steps", "5"])
    state = str(parts / "latest_state.pt")
    script.main([*flags, "--resume-state", state, "--output-dir", str(moved)])
    assert read_state(parts)["step"] == 5
    shutil.copytree(parts, tmp_path / "copy")
    script.main([*flags, "--resume-state", state])
    # The state alone: flags that are not given are those of its run.
    script.main(["--resume-state", str(tmp_path / "copy" / "latest_state.pt"), "--train-steps", "8"])
    for folder in (parts, moved, tmp_path / "copy"):
        assert_same_state(whole, folder)
    assert logged_training(whole) == logged_training(parts)
    alone = tmp_path / "alone"
    for steps in ("3", "8"):
        script.main([*flags, "--output-dir", str(alone), "--train-steps", steps])
    assert_same_state(whole, alone)


def test_a_state_alone_says_its_settings(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--ckpt-root", str(root), "--ckpt-name", "step_8", *MULTI, *SHORT, "--output-dir", str(tmp_path / "run")]
    script.main([*flags, "--train-steps", "2"])
    state = str(tmp_path / "run" / "latest_state.pt")
    saved, _ = read_flags([*flags, "--train-steps", "2"])
    again, _ = read_flags(["--resume-state", state])
    assert config_hash(again) == config_hash(saved) and (again.resume, again.max_steps) == (state, 2)
    longer, _ = read_flags(["--resume-state", state, "--train-steps", "7", "--eval-every", "3"])
    assert (longer.max_steps, longer.fast_eval_interval, longer.objective) == (7, 3, saved.objective)
    assert "--num-trajectories: saved 3, now 4" in mistake(["--resume-state", state, "--num-trajectories", "4"], capsys)
    assert "is the state of another run, a pretraining" in mistake(
        ["--resume-state", str(root / "latest_state.pt")], capsys
    )
    moved = tmp_path / "alone.pt"
    shutil.copy(state, moved)
    assert "no all_config.yaml lies beside it" in mistake(["--resume-state", str(moved)], capsys)


def test_without_noise_it_is_the_baseline(root: Path, tmp_path: Path) -> None:
    start = ["--ckpt-root", str(root), "--ckpt-name", "step_8", *SHORT]
    script.main([*start, "--objective", "baseline_ce", "--output-dir", str(tmp_path / "baseline")])
    single = ["--objective", "single_perturbed_ce", "--sigma", "0", "--output-dir", str(tmp_path / "single")]
    script.main([*start, *single])
    assert logged_training(tmp_path / "baseline") == logged_training(tmp_path / "single")
    assert_same_state(tmp_path / "baseline", tmp_path / "single", ignore=("train_seconds", "identity"))


# -- dry run


@pytest.mark.parametrize("arch", ["trm_att", "hrm"])
def test_dry_run(
    arch: str, roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = files_below(roots[arch])
    flags = ["--ckpt-root", str(roots[arch]), "--ckpt-name", "step_8", *MULTI, *SHORT]
    script.main([*flags, "--dry-run"])
    plan = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [] and files_below(roots[arch]) == before
    assert "multi_perturbed_ce, parallel_fixed" in plan and "8 puzzles x 3 = 24 per update" in plan
    assert "sigma log-uniform in [0.003, 0.3] on z_H and z_L" in plan and "states float32" in plan
    # What it promises is what the run then counts.
    cfg, _ = read_flags([*flags, "--output-dir", str(tmp_path / "run")])
    train(cfg)
    counted = [line for line in logged(tmp_path / "run") if line["step"] == 8][-1]
    run = build_run(cfg, World(), act_objective(cfg))
    passes = counted["train/samples"] + read_state(tmp_path / "run")["extra_passes"]
    assert f"training {passes:,} forward passes, of which {counted['train/samples']:,} trained" in plan
    assert f"{counted['train/flops']:.3g} FLOPs" in plan
    assert step_flops(run.model.config, training=False) > 0


def test_dry_run_of_a_resumed_run(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--ckpt-root", str(root), "--ckpt-name", "step_8", *MULTI, *SHORT, "--output-dir", str(tmp_path / "run")]
    script.main([*flags, "--train-steps", "5"])
    before = files_below(tmp_path)
    capsys.readouterr()
    script.main([*flags, "--dry-run", "--rollout", "parallel_fixed"])
    plan = capsys.readouterr().out
    assert "going on from" in plan and "updates      3 (of 8)" in plan
    assert files_below(tmp_path) == before


def test_help_explains_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for action in build_parser()._actions:
        assert any(flag in text for flag in action.option_strings)
        for choice in action.choices or []:
            assert text.count(str(choice)) >= 2, f"{choice} is listed and explained"


# -- mistakes


def mistake(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        script.main(argv)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--perturb", "z"], ["--perturb", "'z'", "z_H", "both"]),
        (["--noise-sampling", "gaussian"], ["--noise-sampling", "'gaussian'", "loguniform"]),
        (["--objective", "multi"], ["--objective", "multi_perturbed_ce"]),
        (["--rollout", "parallel"], ["--rollout", "parallel_fixed"]),
        (["--sigma-min", "1e-2", "--sigma-max", "1e-3"], ["--sigma-min:", "0.01", "--sigma-max=0.001"]),
        (["--noise-sampling", "loguniform", "--sigma-min", "0"], ["--sigma-min:", "above 0"]),
        (["--sigma", "-1"], ["--sigma:", "0 or more"]),
        (["--sigma", "nan"], ["--sigma:", "finite"]),
        (["--num-trajectories", "0"], ["--num-trajectories:", "from 1"]),
        (["--num-trajectories", "1"], ["--num-trajectories:", "found 1", "at least 2 for multi_perturbed_ce"]),
        (["--objective", "baseline_ce", "--num-trajectories", "4"], ["--num-trajectories:", "multi_perturbed_ce"]),
        (["--train-steps", "0"], ["--train-steps:", "at least 1"]),
        (["--batch-size", "-4"], ["--batch-size:", "from 1"]),
        (["--batch-size", "four"], ["--batch-size", "'four'"]),
        (["--eval-every", "0"], ["--eval-every:", "1"]),
        (["--p-clean", "2"], ["--p-clean:", "0 to 1"]),
        (["--sigma-grid", "1e-3;1e-2"], ["--sigma-grid", "1e-3;1e-2"]),
        (["--sigma-grid", "-1"], ["--sigma-grid:", "0 or more"]),
        (["--set", "lrr=1"], ["--set lrr=1", "'lr'"]),
        (["--set", "epochs=5"], ["--train-steps"]),
        (["--set", "lr_min_ratio=0.1"], ["constant"]),
        (["--set", "hook.swa.enabled=True"], ["hook.swa", "--set hook.swa.start_update=N"]),
        (["--nonsense"], ["--nonsense", "--help"]),
        (["--ckpt-name", "step_9"], ["--ckpt-name step_9", "step_8", "best.pt"]),
        (["--ckpt-name", "/nowhere/best.pt"], ["/nowhere/best.pt is no file"]),
        (["--resume-state", "/nowhere/latest_state.pt"], ["--resume-state /nowhere/latest_state.pt", "no such file"]),
        (["--ckpt-root", "/nowhere"], ["--ckpt-root /nowhere is no folder"]),
        (["--data-path", "/nowhere/data"], ["/nowhere/data"]),
        (["--dtype", "float16"], ["float16", "bfloat16"]),
        (["--device", "tpu"], ["tpu", "cuda"]),
    ],
)
def test_mistakes(
    flags: list[str], words: list[str], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = files_below(root)
    start = ["--ckpt-root", str(root), "--ckpt-name", "step_8", "--output-dir", "run"]
    message = mistake([*start, *SHORT, *flags], capsys)
    assert all(word in message for word in words), message
    assert list(tmp_path.iterdir()) == [] and files_below(root) == before


def test_no_start(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give --ckpt-name with step_8, best.pt, final.pt" in mistake(["--ckpt-root", str(root)], capsys)
    assert "--ckpt-root" in mistake([], capsys)


def test_a_folder_without_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = mistake(["--ckpt-root", str(tmp_path), "--ckpt-name", "best.pt"], capsys)
    assert f"--ckpt-root {tmp_path} holds no all_config.yaml" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry_run"])
def test_a_checkpoint_of_another_architecture(
    dry: list[str], roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--ckpt-root", str(roots["trm_att"]), "--ckpt-name", str(roots["hrm"] / "best.pt"), *SHORT, *dry]
    message = mistake([*flags, "--output-dir", str(tmp_path / "run")], capsys)
    assert "does not fit this model" in message and "H_level" in message
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_another_run(roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another objective, of pretraining, of another architecture; nothing is written, the state stays."""
    flags = ["--ckpt-root", str(roots["trm_att"]), "--ckpt-name", "step_8", *SHORT]
    script.main([*flags, *MULTI, "--output-dir", str(tmp_path / "first"), "--train-steps", "2"])
    before = files_below(tmp_path)
    for state, more, word in (
        (tmp_path / "first" / "latest_state.pt", ["--num-trajectories", "4"], "--num-trajectories: saved 3, now 4"),
        (roots["trm_att"] / "latest_state.pt", MULTI, "is the state of another run"),
        (roots["hrm"] / "latest_state.pt", MULTI, "is the state of another run"),
    ):
        message = mistake([*flags, *more, "--resume-state", str(state), "--output-dir", str(tmp_path / "new")], capsys)
        assert word in message and "--output-dir" in message, message
        assert files_below(tmp_path) == before and not (tmp_path / "new").exists()
    # An older state of the folder it lies in: the way out is said in flags.
    script.main([*flags, *MULTI, "--output-dir", str(tmp_path / "first"), "--train-steps", "4"])
    older = tmp_path / "first" / "previous_state.pt"
    message = mistake([*flags, *MULTI, "--resume-state", str(older)], capsys)
    assert "is an older state of this run" in message and "--output-dir NEW_FOLDER" in message


def test_weights_where_a_state_was_expected(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--ckpt-root", str(root), *SHORT, "--output-dir", str(tmp_path / "run")]
    assert "no full state" in mistake([*flags, "--resume-state", str(root / "best.pt")], capsys)
    assert "full state" in mistake([*flags, "--ckpt-name", "latest_state.pt"], capsys)
    assert list(tmp_path.iterdir()) == []


def test_threads_are_left_alone(root: Path) -> None:
    cfg: Any = config_of(root)
    assert cfg.threads is None and torch.get_num_threads() == 1
    assert tiny_config("trm_att", "x", "y").threads == 1
