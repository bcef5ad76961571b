"""Command lines: official commands compose to the right values; every mistake is one line and exit code 2."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from errors import UserError
from options import REQUIRED, anything, at_least, option, section
from training.inference import vote
from training.settings.cli import CONFIG_DIR, check_command_line, compose_config, hydra_entry
from training.settings.identity import config_to_dict, sweep_run_name
from training.settings.key_values import parse_key_values
from training.settings.resolving import ARCH_DEFAULTS, resolve
from training.settings.schema import EvalConfig, TrainConfig, schema_keys

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("hydra_leaves_nothing")
EXPERIMENTS = sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml"))

# The README commands of the official programs, from "python pretrain.py" on.
RATES = "lr=1e-4 puzzle_emb_lr=1e-4 weight_decay=1.0 puzzle_emb_weight_decay=1.0"
TRM_MLP = f"""arch=trm data_paths="[data/sudoku-extreme-1k-aug-1000]" evaluators="[]"
 epochs=50000 eval_interval=5000 {RATES} arch.mlp_t=True arch.pos_encodings=none
 arch.L_layers=2 arch.H_cycles=3 arch.L_cycles=6 +run_name=pretrain_mlp_t_sudoku ema=True"""
TRM_ATT = f"""arch=trm data_paths="[data/sudoku-extreme-1k-aug-1000]" evaluators="[]"
 epochs=50000 eval_interval=5000 {RATES}
 arch.L_layers=2 arch.H_cycles=3 arch.L_cycles=6 +run_name=pretrain_att_sudoku ema=True"""
TRM_MAZE = f"""arch=trm data_paths="[data/maze-30x30-hard-1k]" evaluators="[]"
 epochs=50000 eval_interval=5000 {RATES}
 arch.L_layers=2 arch.H_cycles=3 arch.L_cycles=4 +run_name=pretrain_att_maze30x30 ema=True"""
TRM_ARC = """arch=trm data_paths="[data/arc1concept-aug-1000]"
 arch.L_layers=2 arch.H_cycles=3 arch.L_cycles=4 +run_name=pretrain_att_arc1concept_4 ema=True"""
HRM_LAPTOP = """data_path=data/sudoku-extreme-1k-aug-1000 epochs=20000 eval_interval=2000
 global_batch_size=384 lr=7e-5 puzzle_emb_lr=7e-5 weight_decay=1.0 puzzle_emb_weight_decay=1.0"""
HRM_8GPU = f"data_path=data/sudoku-extreme-1k-aug-1000 epochs=20000 eval_interval=2000 {RATES}"
HRM_FULL = """data_path=data/sudoku-hard-full epochs=100 eval_interval=10 lr_min_ratio=0.1
 global_batch_size=2304 lr=3e-4 puzzle_emb_lr=3e-4 weight_decay=0.1 puzzle_emb_weight_decay=0.1
 arch.loss.loss_type=softmax_cross_entropy arch.L_cycles=8 arch.halt_max_steps=8 arch.pos_encodings=learned"""

SUDOKU_1K = "data/sudoku-extreme-1k-aug-1000"


def config_of(command: str) -> TrainConfig:
    return compose_config(shlex.split(command))


def values(cfg: TrainConfig, *keys: str) -> tuple[object, ...]:
    plain = config_to_dict(cfg)
    return tuple(plain["arch"][key[5:]] if key.startswith("arch.") else plain[key] for key in keys)


def test_trm_readme_mlp() -> None:
    cfg = config_of(TRM_MLP)
    assert values(cfg, "data_paths", "evaluators", "epochs", "eval_interval") == (
        [SUDOKU_1K],
        [],
        50000,
        5000,
    )
    assert values(cfg, "lr", "puzzle_emb_lr", "weight_decay", "puzzle_emb_weight_decay") == (
        1e-4,
        1e-4,
        1.0,
        1.0,
    )
    assert values(cfg, "arch.name", "arch.mlp_t", "arch.pos_encodings") == ("trm", True, "none")
    assert values(cfg, "arch.L_layers", "arch.H_cycles", "arch.L_cycles", "arch.H_layers") == (2, 3, 6, 0)
    assert values(cfg, "run_name", "ema", "ema_rate") == ("pretrain_mlp_t_sudoku", True, 0.999)
    assert cfg.checkpoint_path == "checkpoints/Sudoku-extreme-1k-aug-1000-ACT-torch/pretrain_mlp_t_sudoku"
    assert values(cfg, "global_batch_size", "lr_warmup_steps", "lr_min_ratio") == (768, 2000, 1.0)


def test_trm_readme_attention_maze_arc() -> None:
    att, maze, arc = config_of(TRM_ATT), config_of(TRM_MAZE), config_of(TRM_ARC)
    keys = (
        "arch.mlp_t",
        "arch.pos_encodings",
        "arch.L_cycles",
        "arch.puzzle_emb_len",
        "arch.no_ACT_continue",
    )
    assert values(att, *keys) == (False, "rope", 6, 16, True)
    assert values(maze, *keys) == values(arc, *keys) == (False, "rope", 4, 16, True)
    assert maze.data_paths == ["data/maze-30x30-hard-1k"]
    assert values(arc, "epochs", "weight_decay", "puzzle_emb_lr", "ema") == (100000, 0.1, 1e-2, True)


@pytest.mark.parametrize("prefix", ["", "arch=hrm_v1 ", "arch=hrm "])
def test_hrm_readme_laptop(prefix: str) -> None:
    cfg = config_of(prefix + HRM_LAPTOP)
    assert values(cfg, "arch.name", "data_paths", "data_path") == ("hrm", [SUDOKU_1K], None)
    assert values(cfg, "epochs", "eval_interval", "global_batch_size") == (20000, 2000, 384)
    assert values(cfg, "lr", "puzzle_emb_lr", "weight_decay", "puzzle_emb_weight_decay") == (
        7e-5,
        7e-5,
        1.0,
        1.0,
    )
    assert values(cfg, "arch.H_cycles", "arch.L_cycles", "arch.H_layers", "arch.L_layers") == (2, 2, 4, 4)
    assert values(cfg, "arch.puzzle_emb_len", "arch.no_ACT_continue", "ema") == (1, False, False)


def test_hrm_readme_full_and_8_gpus() -> None:
    cfg = config_of(HRM_FULL)
    assert values(cfg, "arch.name", "arch.L_cycles", "arch.halt_max_steps", "arch.pos_encodings") == (
        "hrm",
        8,
        8,
        "learned",
    )
    assert cfg.arch.loss.loss_type == "softmax_cross_entropy"
    assert values(cfg, "epochs", "eval_interval", "lr_min_ratio", "global_batch_size") == (100, 10, 0.1, 2304)
    assert values(cfg, "lr", "puzzle_emb_lr", "weight_decay", "puzzle_emb_weight_decay") == (
        3e-4,
        3e-4,
        0.1,
        0.1,
    )
    assert values(config_of(HRM_8GPU), "arch.name", "global_batch_size", "lr") == ("hrm", 768, 1e-4)


def test_data_path_selects_hrm_and_says_so_unless_an_architecture_is_named() -> None:
    assert any("hrm_v1" in note for note in check_command_line(["data_path=x"]).notes)
    for argv in (["data_path=x", "arch=trm"], ["data_path=x", "+experiment=smoke"], ["data_paths=[x]"]):
        checked = check_command_line(argv)
        assert checked.notes == [] and compose_config(argv).arch.name == "trm"
    assert compose_config(["+experiment=smoke", "data_path=x"]).data_paths == ["x"]
    assert compose_config(["arch.name=trm", "data_path=x"]).arch.name == "trm"


def test_official_plus_forms_and_aliases() -> None:
    argv = [
        "+run_name=r",
        "+project_name=p",
        "+load_checkpoint=w/step_5",
        "+checkpoint_path=c/d",
        "data_paths=[x]",
    ]
    cfg = compose_config([*argv, "arch.forward_dtype=bfloat16"])
    assert values(cfg, "run_name", "project_name", "init_from") == ("r", "p", "w/step_5")
    assert values(cfg, "checkpoint_path", "dtype") == ("c/d", "bfloat16")


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_any_valid_key_takes_any_plus(plus: str) -> None:
    argv = [f"{plus}{text}" for text in ("arch=hrm", "arch.swiglu_multiple=8", "wandb.mode=offline", "threads=2")]
    cfg = compose_config([*argv, f"{plus}guards={{mode: abort}}", f"{plus}experiment=smoke"])
    assert values(cfg, "arch.name", "arch.swiglu_multiple", "threads") == ("hrm", 8, 2)
    assert (cfg.wandb.mode, cfg.guards.mode, cfg.guards.after_updates) == ("offline", "abort", 1000)


def test_yaml_and_schema_say_the_same() -> None:
    assert compose_config([], require_data=False) == resolve({}, require_data=False)
    for name in ("hrm", "hrm_v1"):
        from_yaml = compose_config([f"arch={name}"], require_data=False)
        assert from_yaml == resolve({"arch": {"name": name, **ARCH_DEFAULTS["hrm"]}}, require_data=False)
    assert compose_config(["arch=srm"], require_data=False) == resolve({"arch": {"name": "srm"}}, require_data=False)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_its_architecture_can_be_changed(name: str) -> None:
    cfg = compose_config([f"+experiment={name}"])
    assert cfg.data_paths
    header = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text()
    for word in ("# @package _global_", "# claim:", "# data:", f"+experiment={name}", "# hardware:"):
        assert word in header
    other = "hrm" if cfg.arch.name == "trm" else "trm"
    if not cfg.arch.mlp_t:
        assert compose_config([f"+experiment={name}", f"arch={other}", "arch.H_layers=1"]).arch.name == other


def test_presets_are_the_readme_commands() -> None:
    control = {"run_name": None, "checkpoint_path": None, "project_name": None}
    pairs = (
        ("trm_sudoku_mlp", TRM_MLP),
        ("trm_sudoku_att", TRM_ATT),
        ("trm_maze", TRM_MAZE),
        ("hrm_sudoku", HRM_LAPTOP),
    )
    for name, command in pairs:
        preset, official = compose_config([f"+experiment={name}"]), config_of(command)
        assert config_to_dict(preset) | control == config_to_dict(official) | control


MISTAKES = [
    ("lrr=1", "'lr'"),
    ("+lrr=1", "'lr'"),
    ("++lrr=1", "'lr'"),
    ("~lrr", "'lr'"),
    ("arch.hiden_size=3", "'arch.hidden_size'"),
    ("+arch.hiden_size=3", "'arch.hidden_size'"),
    ("hidden_size=3", "'arch.hidden_size'"),
    ("arhc=trm", "'arch'"),
    ("+experimnt=smoke", "'experiment'"),
    ("guards.mod=warn", "'guards.mode'"),
    ("arch=foo", "hrm, hrm_v1, srm, trm"),
    ("+arch=foo", "hrm, hrm_v1, srm, trm"),
    ("arch=null", "hrm, hrm_v1, srm, trm"),
    ("~arch", "arch"),
    ("+experiment=quickstrat", "the nearest is quickstart; python pretrain.py --help"),
    ("experiment=quickstrat", "quickstart"),
    ("+experiment=[smoke,quickstrat]", "quickstart"),
    ("lr=abc", "float"),
    ("lr=", "float"),
    ("epochs=-1", "at least 1"),
    ("epochs=1.5", "int"),
    ("lr", "lr=VALUE"),
    ("lrr", "lr=VALUE"),
    ("=3", "key=value"),
    ("--lr 1e-4", "'--lr' is written lr=1e-4 here"),
    ("--lr-warmup-steps=7", "'--lr-warmup-steps' is written lr_warmup_steps=7 here"),
    ("--arch trm", "'--arch' is written arch=trm here"),
    ("", "key=value"),
    ("lr=[1", "quote"),
    ("lr=1,2", "-m"),
    ("arch@x=trm", "package"),
    ("lr='${nothing}'", "nothing"),
    ("guards={mod: warn}", "'guards.mode'"),
    ("arch.loss.loss_type=mse", "stablemax_cross_entropy"),
    ("data_paths=data/x", "list[str]"),
    ("--foo", "--foo"),
    ("--config-name", "config-name"),
    ("--config-name nope", "nope"),
    ("--config-dir nope", "nope"),
    ("--config-path nope", "nope"),
    ("--experimental-rerun x.pickle", "refused"),
    ("--resolve", "--cfg"),
    ("-m --cfg job", "only one"),
    ("-m lr=interval(1,2)", ""),
    ("-m lr=range(a)", ""),
    ("-m arch=trm,foo", "hrm, hrm_v1, srm, trm"),
    ("-m +run_name=x seed=1,2", "run_name"),
    ("hydra.run.dirr=x", "dirr"),
    ("hydra/launcher=nope", "nope"),
    ("data_path=a data_paths=[b]", "data_path"),
]


@pytest.mark.parametrize("command, named", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(
    command: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [command] if " " not in command or "{" in command else command.split()
    extra = [] if "data_path" in command else ["data_paths=[x]"]
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *(argv or [""]), *extra])
    if command == "--config-name":
        monkeypatch.setattr(sys, "argv", ["pretrain.py", "--config-name"])
    with pytest.raises(SystemExit) as caught:
        hydra_entry("cfg_pretrain", lambda cfg: pytest.fail("must not run"))
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert named in err


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_entry(monkeypatch: pytest.MonkeyPatch, *argv: str) -> list[TrainConfig]:
    seen: list[TrainConfig] = []
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *argv])
    hydra_entry("cfg_pretrain", seen.append)
    return seen


def test_a_run_gets_its_config_and_leaves_no_files(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cfg,) = run_entry(monkeypatch, "+experiment=smoke", "seed=3")
    assert cfg == compose_config(["+experiment=smoke", "seed=3"])
    assert list(empty_folder.iterdir()) == []
    assert sys.argv == ["pretrain.py", "+experiment=smoke", "seed=3"]


def test_a_sweep_runs_each_in_its_own_folder(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = run_entry(monkeypatch, "-m", "data_path=a,b", "seed=0,1")
    assert [(cfg.data_paths, cfg.seed) for cfg in runs] == [(["a"], 0), (["a"], 1), (["b"], 0), (["b"], 1)]
    assert len({cfg.checkpoint_path for cfg in runs}) == 4
    runs = run_entry(monkeypatch, "-m", "+experiment=quickstart,smoke", "run_name='r${seed}'", "seed=5")
    assert [cfg.global_batch_size for cfg in runs] == [128, 8] and runs[0].run_name == "r5"
    assert [path.name for path in empty_folder.rglob("*") if path.is_file()] == ["multirun.yaml"]


def test_a_sweep_names_its_overrides_in_the_folder(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["+experiment=smoke", "arch.hidden_size=64", "arch.num_heads=2"]
    (alone,) = run_entry(monkeypatch, *words, "seed=1", "lr=1e-3")
    sweep = ["-m", *words, "seed=0,1", "lr=1e-3,1e-4"]
    runs = run_entry(monkeypatch, *sweep)
    assert alone.run_name is not None and alone.checkpoint_path is not None
    assert [cfg.run_name.partition("-")[2][9:] for cfg in runs if cfg.run_name is not None] == [
        "seed_0-lr_0.001", "seed_0-lr_0.0001", "seed_1-lr_0.001", "seed_1-lr_0.0001",
    ]  # fmt: skip
    assert runs[2].run_name == f"{alone.run_name}-seed_1-lr_0.001", "the same hash, and the overrides behind it"
    assert runs[2].checkpoint_path == f"{alone.checkpoint_path}-seed_1-lr_0.001"
    assert replace(runs[2], run_name=alone.run_name, checkpoint_path=alone.checkpoint_path) == alone
    # A folder of before goes on; a sweep without several values is a run alone.
    _leave_settings(alone)
    assert run_entry(monkeypatch, *sweep)[2] == alone
    assert run_entry(monkeypatch, "-m", *words, "seed=1", "lr=1e-3") == [alone]
    named = run_entry(monkeypatch, "-m", *words, "seed=0,1", "checkpoint_path='x/${seed}'")
    assert [cfg.checkpoint_path for cfg in named] == ["x/0", "x/1"]
    # Groups and experiments, values with special characters, and keys that end alike.
    (first, _) = run_entry(monkeypatch, "-m", "+experiment=smoke,quickstart", "data_paths=['a/b c']")
    assert str(first.run_name).endswith("-experiment_smoke")
    (first, *_) = run_entry(monkeypatch, "-m", "+experiment=smoke", "data_paths=['a/b c'],['a/d']")
    assert str(first.run_name).endswith("-data_paths_b_c")


@pytest.mark.parametrize(
    "swept", ["max_steps=5,6,7", "threads=3,4", "log_interval=5,10", "eval_batch_size=4,8", "max_hours=1,2"]
)
def test_a_sweep_over_run_control_never_meets_in_one_folder(
    swept: str, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run control leaves a run's name alone: a folder of that name is of the one that it was made with, or of none."""
    key, _, values = swept.partition("=")
    fresh = run_entry(monkeypatch, "-m", "+experiment=smoke", swept)
    (alone,) = run_entry(monkeypatch, "+experiment=smoke")
    _leave_settings(alone)
    assert run_entry(monkeypatch, "-m", "+experiment=smoke", swept) == fresh
    (second,) = run_entry(monkeypatch, "+experiment=smoke", f"{key}={values.split(',')[1]}")
    assert second.checkpoint_path == alone.checkpoint_path
    _leave_settings(second)
    assert run_entry(monkeypatch, "-m", "+experiment=smoke", swept) == [fresh[0], second, *fresh[2:]]
    _leave_settings(fresh[1])
    assert run_entry(monkeypatch, "-m", "+experiment=smoke", swept) == fresh, "the sweep's own folder goes on"


def _leave_settings(config: TrainConfig) -> None:
    """The folder of a run with the settings that it was made with."""
    folder = Path(str(config.checkpoint_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "all_config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config_to_dict(config))))


@pytest.mark.parametrize(
    ("words", "folder", "first", "second"),
    [
        (["checkpoint_path=a,b", "max_steps=2,4"], "a", "max_steps=2", "max_steps=4"),
        (["checkpoint_path='s_${seed}'", "seed=0,1", "max_steps=2,4"], "s_0", "max_steps=2", "max_steps=4"),
        (["run_name='s_${lr}'", "lr=1e-3,1e-2", "seed=0,1"], "s_0.001", "seed=0", "seed=1"),
        (["checkpoint_path='s/${seed}','s/./${seed}'", "seed=range(3)"], "s/0", "s/${seed}", "s/./${seed}"),
    ],
)
def test_two_runs_of_a_sweep_have_no_folder_in_common(
    words: list[str],
    folder: str,
    first: str,
    second: str,
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the first of them has begun."""
    begun: list[TrainConfig] = []
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "+experiment=smoke", "-m", *words])
    with pytest.raises(SystemExit) as caught:
        hydra_entry("cfg_pretrain", begun.append)
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and not begun and not list(empty_folder.iterdir())
    told, runs = line.split(" would hold two runs of this sweep, ")
    assert told.startswith("error: ") and Path(told.removeprefix("error: ")).name == Path(folder).name
    one, other = runs.split(": name all that is swept in ")[0].split(" and ")
    assert first in one and second in other


def test_folders_that_name_all_that_is_swept_are_taken(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["-m", "+experiment=smoke", "seed=0,1", "max_steps=2,4"]
    for name in ("s_${seed}_${max_steps}", "s_${hydra:job.num}"):
        runs = run_entry(monkeypatch, *words, f"checkpoint_path='{name}'")
        assert len({cfg.checkpoint_path for cfg in runs}) == 4
    runs = run_entry(monkeypatch, *words[:3], "checkpoint_path='s_${seed}'", "max_steps=2")
    assert [cfg.checkpoint_path for cfg in runs] == ["s_0", "s_1"]


def test_the_name_of_a_run_of_a_sweep_is_a_plain_word() -> None:
    config = compose_config(["+experiment=smoke"])
    plain = str(config.run_name)
    alike = {"term.a.weight": "1", "term.b.weight": "2", "lr": "0.1"}
    assert sweep_run_name(config, alike) == f"{plain}-term.a.weight_1-term.b.weight_2-lr_0.1"
    for value in ("x" * 500, "['/a','/b/']", "", "..", "a\nb", "$(x)"):
        name = sweep_run_name(config, {"data_path": value})
        assert name.startswith(plain) and len(name) <= 150 and re.fullmatch(r"[\w.+-]+", name), value


def test_a_late_mistake_in_a_sweep_is_one_line(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_entry(monkeypatch, "-m", "+experiment=smoke", "lr=1e-3,abc")
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_errors_of_the_run_itself(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "+experiment=smoke"])

    def refuses(cfg: TrainConfig) -> None:
        raise UserError("no such folder: x")

    def crashes(cfg: TrainConfig) -> None:
        raise ValueError("a fault of the program")

    with pytest.raises(SystemExit) as caught:
        hydra_entry("cfg_pretrain", refuses)
    assert caught.value.code == 2 and capsys.readouterr().err == "error: no such folder: x\n"
    with pytest.raises(ValueError, match="a fault of the program"):
        hydra_entry("cfg_pretrain", crashes)


def test_inspection_flags_pass_through(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_entry(monkeypatch, "--cfg", "job", "data_path=x", "--resolve") == []
    captured = capsys.readouterr()
    assert "name: hrm" in captured.out and "data_path without" in captured.err
    assert run_entry(monkeypatch, "--info", "searchpath") == []
    with pytest.raises(SystemExit) as caught:
        run_entry(monkeypatch, "--help")
    assert caught.value.code == 0
    assert "quickstart" in capsys.readouterr().out


def test_configs_of_the_users_own(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_folder / "mine" / "experiment").mkdir(parents=True)
    (empty_folder / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nlr: 0.5\ndata_paths: [y]\n")
    (empty_folder / "mine" / "base.yaml").write_text("defaults:\n  - cfg_pretrain\n  - _self_\nseed: 7\n")
    (cfg,) = run_entry(monkeypatch, "--config-dir", "mine", "--config-name", "base", "+experiment=own")
    assert (cfg.lr, cfg.seed, cfg.data_paths) == (0.5, 7, ["y"])
    (cfg,) = run_entry(monkeypatch, "--config-path", "config", "--config-name=cfg_pretrain", "data_paths=[x]")
    assert cfg.seed == 0


words = st.sampled_from(
    [
        *schema_keys(TrainConfig),
        "=",
        "+",
        "~",
        ",",
        "[",
        "]",
        "{",
        "}",
        "'",
        '"',
        "(",
        "${",
        "@",
        ":",
        "\\",
        "\n",
    ]
    + [
        "experiment",
        "smoke",
        "trm",
        "-m",
        "--cfg",
        "job",
        "1",
        "null",
        "???",
        "\udcff",
        "range(",
        "glob(*)",
        "hydra.",
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(st.one_of(st.lists(words, max_size=5).map("".join), st.text(max_size=8)), min_size=1, max_size=3))
def test_no_command_line_is_a_crash(argv: list[str]) -> None:
    try:
        check_command_line(argv)
    except UserError as error:
        assert "\n" not in str(error)
    except SystemExit as done:
        assert done.code == 0


@dataclass
class Inner:
    """A group of options."""

    size: int | None = option(None, "of the inside", at_least(1))
    hot: bool = option(False, "very", anything)


@dataclass
class Options:
    """A script's options."""

    checkpoint: str = option(REQUIRED, "weights", anything)
    batch_size: int | None = option(None, "rows at once", at_least(1))
    sigma: float = option(0.0, "noise", at_least(0))
    names: list[str] = option([], "of things", anything)
    note: str | None = option(None, "words", anything)
    inner: Inner = section(Inner, "the inside")


def test_key_values() -> None:
    parsed = parse_key_values(["checkpoint=a b=c/best.pt", "+batch_size=3", "sigma=1e-3", "names=[a,b]"], Options)
    assert parsed == Options("a b=c/best.pt", 3, 1e-3, ["a", "b"])
    assert parse_key_values(["checkpoint=7", "note=null", "batch_size=null"], Options) == Options("7")
    nested = parse_key_values(["inner.size=3", "checkpoint=7", "inner.hot=true"], Options)
    assert nested == Options("7", inner=Inner(3, True))
    assert parse_key_values(["checkpoint=7", "inner.size=null"], Options) == Options("7")


@pytest.mark.parametrize(
    "argv, named",
    [
        (["chekpoint=x"], "'checkpoint'"),
        ([], "checkpoint=VALUE"),
        (["checkpoint=x", "batch_size=many"], "int"),
        (["checkpoint=x", "batch_size=1.5"], "int"),
        (["checkpoint=x", "sigma=[1"], "sigma"),
        (["checkpoint=x", "names=a"], "list[str]"),
        (["checkpoint=x", "note=${a}"], "note"),
        (["checkpoint=x", "inner=3"], "expected keys such as 'inner.size'"),
        (["checkpoint=x", "inner=3", "inner.size=3"], "expected keys such as 'inner.size'"),
        (["checkpoint=x", "inner.siz=3"], "'inner.size'"),
        (["checkpoint=x", "inner.size=many"], "inner.size"),
        (["checkpoint=x", "inner.size.much=1"], "'inner.size'"),
        (["checkpoint="], "checkpoint"),
        (["checkpoint"], "key=value"),
        (["=3"], "key=value"),
        (["--checkpoint", "x"], "'--checkpoint' is written checkpoint=x here"),
        (["--checkpoint=a b"], "'--checkpoint' is written checkpoint='a b' here"),
        (["--checkpoint"], "'--checkpoint' is written checkpoint=VALUE here"),
        (["--inner.size", "3"], "'--inner.size' is written inner.size=3 here"),
    ],
)
def test_key_value_mistakes(argv: list[str], named: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_key_values(argv, Options)
    assert named in str(caught.value)


def test_key_value_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_key_values(["--help"], Options, description="What it does.\n\n    python x.py\n")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("What it does.\n\n    python x.py\n\noptions (key=value):\n")
    assert "rows at once" in printed and f"  {'inner.size':<28} default null; at least 1; of the inside\n" in printed
    assert f"  {'inner.hot':<28} default False; very\n" in printed and "Inner(" not in printed


SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from training.settings.cli import hydra_entry

def run(cfg):
    print("run", cfg.arch.name, cfg.data_paths[0])

if __name__ == "__main__":
    hydra_entry("cfg_pretrain", run)
"""


def test_as_a_program(tmp_path: Path) -> None:
    script = tmp_path / "entry.py"
    script.write_text(SCRIPT)

    def start(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), *argv],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, **env},
        )

    good = start("data_path=x")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.splitlines()[-1] == "run hrm x" and "arch=hrm_v1" in good.stdout
    quiet = start("data_path=x", RANK="1", WORLD_SIZE="2")
    assert quiet.stdout == "run hrm x\n"
    bad = start("+lrr=1", "data_path=x")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.count("\n") == 1 and "'lr'" in bad.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["entry.py"]


def test_evaluation_is_set_on_the_command_line() -> None:
    words = ["data_paths=[data/x]", "eval.max_steps=64", "+eval.vote.views=8", "eval.adaptive_halt=true"]
    assert compose_config(words).eval == EvalConfig(max_steps=64, adaptive_halt=True, vote=vote.Settings(views=8))
    assert compose_config(words[:1]).eval == EvalConfig()
    with pytest.raises(UserError, match="option 'eval.vote.views': found 0, expected a number from 1 to 100000"):
        compose_config([*words[:1], "eval.vote.views=0"])
    with pytest.raises(UserError, match="nearest valid key is 'eval.max_steps'"):
        check_command_line([*words[:1], "eval.maxsteps=3"])
