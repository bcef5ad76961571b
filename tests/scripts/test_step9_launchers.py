"""The launchers of the long runs and of their CPU twins: what they start, and the twins from end to end."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dataset.plain_data import read_json_object
from scripts.grid_file import find_grid, read_grid
from tests.helpers import ROOT
from tests.python_server import PythonServer
from training.settings.cli import CONFIG_DIR, compose_config
from training.settings.identity import config_to_dict
from training.settings.schema import TrainConfig
from training.settings.trajectory_flags import read_flags

LONG, TWINS = (ROOT / "scripts" / f"launch_step9_{name}.sh" for name in ("long_runs", "cpu_twins"))
PRESETS = {
    "E": "step9_E_hrm_baseline",
    "F": "step9_F_hrm_multi4",
    "G": "step9_G_trm_baseline",
    "H": "step9_H_trm_multi4",
    "control_batch": "step9_control_batch",
    "control_steps": "step9_control_steps",
    "control_input_noise": "step9_control_input_noise",
    "control_weight_noise": "step9_control_weight_noise",
}

# In place of an interpreter: asks the grid runner for its plan. All else is done by the real one.
PLAN = f"""#!{sys.executable}
import os, sys
words = sys.argv[1:]
if words[0] == "scripts/run_grid.py":
    words.insert(1, "--dry-run")
os.execv(sys.executable, [sys.executable, *words])
"""


def bash(script: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "OUT", "DATA", "NPROC")}
    return subprocess.run(["bash", str(script), *words], capture_output=True, text=True, env=own | env, timeout=900)


def commands(tmp_path: Path, script: Path, *words: str, **env: str) -> list[list[str]]:
    """The commands that a launcher would run, without those that are finished."""
    fake = tmp_path / "python3"
    fake.write_text(PLAN)
    fake.chmod(0o755)
    done = bash(script, *words, PYTHON=str(fake), NO_VENV="1", **env)
    assert done.returncode == 0, done.stderr
    *plan, _ = done.stdout.splitlines()
    return [
        shlex.split(command)[1:]
        for state, command in zip(plan[::2], plan[1::2], strict=True)
        if not state.endswith(": finished")
    ]


def pretrained(folder: Path, preset: str, data: Path) -> None:
    """A run folder with the settings of a preset; its weights are not looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    config = compose_config([f"+experiment={preset}", f"data_paths=[{data}]"])
    (folder / "all_config.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    for name in ("step_26040", "step_26041", "final.pt"):
        (folder / name).write_bytes(b"")


def same_training(flags: TrainConfig, preset: TrainConfig) -> None:
    assert flags.arch == preset.arch
    assert flags.objective == preset.objective
    for name in (
        "global_batch_size", "max_steps", "optimizer", "lr", "lr_min_ratio", "lr_warmup_steps", "puzzle_emb_lr",
        "weight_decay", "puzzle_emb_weight_decay", "beta1", "beta2", "ema", "ema_rate", "fast_eval_interval",
        "force_full_eval_every", "validation_size", "state_dtype", "augment", "checkpoint_every_fast_eval",
    ):  # fmt: skip
        assert getattr(flags, name) == getattr(preset, name), name


@pytest.mark.parametrize("letter", PRESETS)
@pytest.mark.parametrize("script", [LONG, TWINS], ids=["long", "twin"])
def test_a_launcher_and_its_preset_describe_one_run(
    script: Path, letter: str, sudoku6_folder: Path, tmp_path: Path
) -> None:
    kind = "hrm" if letter in "EF" else "trm"
    twin = script == TWINS
    root = tmp_path / f"{kind}_pretrained"
    presets = {"hrm": ("hrm_sudoku", "hrm_sudoku_6x6_cpu"), "trm": ("trm_sudoku_mlp", "quickstart")}
    pretrained(root, presets[kind][twin], sudoku6_folder)
    (root / "summary.json").write_text("{}")
    roots = {"HRM_ROOT": str(root), "TRM_ROOT": str(root), "OUT": str(tmp_path), "DATA": str(sudoku6_folder)}
    found = commands(tmp_path, script, letter, **roots)
    assert len(found) == 1 and found[0][0] == "step9_trajectory_perturb_train.py"
    config, dry = read_flags(found[0][1:])
    name = PRESETS[letter] + ("_cpu" if twin else "")
    registered = compose_config([f"+experiment={name}", f"data_paths=[{sudoku6_folder}]"])
    if not twin and kind == "hrm":
        # The README's laptop recipe, which the preset of this name is, has another rate than its 8-GPU form.
        config.lr = config.puzzle_emb_lr = 1e-4
    same_training(config, registered)
    assert not dry and config.init_from == str(root / ("final.pt" if twin else f"step_2604{int(kind == 'trm')}"))
    assert Path(config.checkpoint_path or "").name.startswith(PRESETS[letter] if not twin else name)


def test_the_order_and_what_is_passed_on(tmp_path: Path) -> None:
    found = commands(tmp_path, LONG, "G", "E", "--save-best", "--seed", "3", OUT="o")
    assert [words[words.index("--output-dir") + 1][:9] for words in found] == ["o/step9_G", "o/step9_E"]
    assert all(words[-3:] == ["--save-best", "--seed", "3"] for words in found)
    assert len(commands(tmp_path, LONG)) == 4
    (two,) = commands(tmp_path, LONG, "F", NPROC="2")
    assert two[:4] == ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    # Without puzzles and weights, those are made first; a folder's name may have a space, a flag's value a brace.
    data, out = tmp_path / "my puzzles", tmp_path / "my runs"
    made = commands(tmp_path, TWINS, "F", "G", "--seed", "{3}", OUT=str(out), DATA=str(data), PRETRAIN_UPDATES="9")
    assert [words[0] for words in made] == [
        "dataset/build_sudoku_dataset.py", "pretrain.py", "step9_trajectory_perturb_train.py",
        "pretrain.py", "step9_trajectory_perturb_train.py",
    ]  # fmt: skip
    assert made[0][1:3] == ["--output-dir", str(data)]
    assert f"data_paths=['{data}']" in made[1] and f"checkpoint_path='{out}/hrm_pretrained'" in made[1]
    assert "max_steps=9" in made[1]
    assert made[2][made[2].index("--ckpt-root") + 1] == f"{out}/hrm_pretrained"
    assert made[2][-2:] == ["--seed", "{3}"] and "{3}" not in made[1]


def files_of_the_suite() -> set[Path]:
    return {path for name in ("runs", "data", "config", "scripts") for path in (ROOT / name).rglob("*")
            if "__pycache__" not in path.parts}  # fmt: skip


def test_a_dry_run_plans_all_and_writes_nothing(tmp_path: Path) -> None:
    """Neither puzzles nor pretrainings are there; both launchers, every kind of run."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {"PYTHON": sys.executable, "NO_VENV": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    places = {name: str(tmp_path / name) for name in ("OUT", "DATA", "HRM_ROOT", "TRM_ROOT")}
    before = files_of_the_suite()
    twins = bash(TWINS, "H", "--seed", "3", "--dry-run", PRETRAIN_UPDATES="9", **env, **places)
    long = bash(LONG, "E", "--dry-run", "--max-test-rows", "2000", **env, **places)
    assert (twins.returncode, long.returncode) == (0, 0), twins.stderr + long.stderr
    assert list(tmp_path.rglob("*")) == [temporary] and files_of_the_suite() == before
    assert str(temporary) not in twins.stdout + long.stdout
    puzzles, pretraining, further, _ = twins.stdout.split("\n\n")
    assert f"makes        {places['DATA']}" in puzzles
    assert "objective    act_streaming" in pretraining and "updates      9 (of 9)" in pretraining
    # 128 slots, one step each in an update.
    assert f"training {9 * 128:,} forward passes, of which {9 * 128:,} trained" in pretraining
    assert "32 puzzles x 4 = 128 per update" in further and "seed 3" in further
    assert f"weights of {places['OUT']}/trm_pretrained/final.pt\n" in further
    for plan in (pretraining, further, long.stdout):
        assert plan.count("    memory       about ") == 1 and plan.count("    time         about ") == 1
        assert "not there yet: python dataset/build_sudoku_dataset.py --output-dir" in plan
    assert f"weights of {places['HRM_ROOT']}/step_26040\n" in long.stdout
    assert "not there yet: python pretrain.py +experiment=hrm_sudoku global_batch_size=768 " in long.stdout
    assert "20 times on 1024 rows" in long.stdout and "best and final on 2,000 test rows" in long.stdout
    assert "training 3,400,000 forward passes" in long.stdout and "hours at 1e+13 FLOP/s" in long.stdout


def test_the_named_pretrainings_end_at_the_updates_that_the_long_runs_start_from(tmp_path: Path) -> None:
    grid = read_grid(find_grid("step9_long_runs"))
    data, *trainings = grid.earlier
    assert data.sizes is not None
    for run in trainings:
        config = compose_config(run.command[1:])
        assert ROOT / str(config.checkpoint_path) == run.finished_file.parent and config.checkpoint_every_eval
        assert config.data_paths == [data.command[data.command.index("--output-dir") + 1]]
        # The sampler gives full batches of a pass only.
        batches = data.sizes[1] * (config.eval_interval or config.epochs) // config.global_batch_size
        passes = config.epochs // (config.eval_interval or config.epochs)
        assert run.finished_file.name == f"step_{passes * batches}"


@pytest.mark.parametrize("script", [LONG, TWINS], ids=["long", "twin"])
def test_help_and_mistakes(script: Path) -> None:
    done = bash(script, "--help")
    assert done.returncode == 0 and f"bash scripts/{script.name}" in done.stdout and "#" not in done.stdout
    done = bash(script, "E", "X", PYTHON=sys.executable, NO_VENV="1")
    assert done.returncode == 2 and done.stderr.startswith("error: --only step9_X*: ")
    assert "has no such run, the nearest is 'step9_" in done.stderr and done.stderr.count("\n") == 1


def test_pretraining_updates_are_a_whole_number() -> None:
    done = bash(TWINS, PRETRAIN_UPDATES="many")
    assert done.returncode == 2
    assert done.stderr == "error: PRETRAIN_UPDATES is 'many', expected a whole number from 1\n"


def test_every_long_run_has_a_twin() -> None:
    names = {path.stem for path in (CONFIG_DIR / "experiment").glob("step9_*.yaml")}
    assert names == {f"{name}{suffix}" for name in PRESETS.values() for suffix in ("", "_cpu")}


@pytest.mark.parametrize("name", PRESETS.values())
def test_a_twin_is_the_long_run_at_another_scale(name: str) -> None:
    big, twin = (compose_config([f"+experiment={name}{suffix}"]) for suffix in ("", "_cpu"))
    assert config_to_dict(compose_config([f"+experiment={name}", "scale=cpu6x6"])) == config_to_dict(twin)
    assert config_to_dict(compose_config([f"+experiment={name}_cpu", "scale=gpu"])) == config_to_dict(big)
    assert config_to_dict(big) != config_to_dict(twin)
    assert big.objective.name == twin.objective.name and big.arch.name == twin.arch.name
    assert big.objective.num_trajectories == twin.objective.num_trajectories
    assert big.objective.perturb == twin.objective.perturb


@pytest.mark.parametrize("suffix", ["", "_cpu"])
def test_controls_differ_in_one_thing(suffix: str) -> None:
    """Equal passes for the controls without noise, equal noise elsewhere for the others."""
    baseline, multi = (compose_config([f"+experiment={PRESETS[name]}{suffix}"]) for name in ("G", "H"))
    passes = multi.global_batch_size * multi.objective.num_trajectories * (multi.max_steps or 0)
    for name, changed, compared in (
        ("control_batch", {"global_batch_size"}, baseline),
        ("control_steps", {"max_steps", "fast_eval_interval"}, baseline),
        ("control_input_noise", {"objective"}, multi),
        ("control_weight_noise", {"objective"}, multi),
    ):
        control = compose_config([f"+experiment={PRESETS[name]}{suffix}"])
        differing = {field for field in vars(control) if getattr(control, field) != getattr(compared, field)}
        assert differing == changed | {"run_name", "checkpoint_path"}
        made = control.global_batch_size * control.objective.num_trajectories * (control.max_steps or 0)
        assert made == passes
        assert replace(control.objective, perturb="both") == compared.objective


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_twins_run_from_end_to_end_and_go_on(
    python_server: PythonServer, sudoku6_folder: Path, tmp_path: Path
) -> None:
    """Shortened: two updates of pretraining, two of each run."""
    env = {
        "PYTHON": str(python_server.python), "NO_VENV": "1", "OMP_NUM_THREADS": "1", "PRETRAIN_UPDATES": "2",
        "OUT": str(tmp_path / "a run"), "DATA": str(sudoku6_folder),
    }  # fmt: skip
    short = ["--train-steps", "2", "--eval-every", "1", "--eval-n", "8"]
    done = bash(TWINS, *PRESETS, *short, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in PRESETS.values():
        folder = tmp_path / "a run" / f"{name}_cpu"
        summary = read_json_object(folder / "summary.json")
        assert summary["steps"] == 2 and summary["test"].keys() == {"initial", "best", "final"}
        assert (folder / "step_1").exists() and (folder / "latest_state.pt").exists()
    again = bash(TWINS, "H", *short, **env)
    assert again.returncode == 0 and "finished at update 2" in again.stdout
