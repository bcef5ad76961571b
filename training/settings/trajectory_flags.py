"""The flags of step9_trajectory_perturb_train.py, and what they mean in the schema that all training runs share."""

import argparse
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from arguments import FlagParser, nearest_key
from dataset.puzzle_folder import open_puzzle_sets
from dataset.puzzle_metadata import data_folder
from dataset.puzzle_source import PuzzleSource
from errors import UserError
from options import settings_of
from training.noise import SITES
from training.projects import refuse_project
from training.settings.flags import add_setting_flags, destination, state_file
from training.settings.flags import in_flags as named_in_flags
from training.settings.identity import config_to_dict, paced_by_epochs
from training.settings.key_values import refuse_undecoded
from training.settings.merging import put
from training.settings.older_names import todays_name
from training.settings.resolving import load_config_file, resolve
from training.settings.schema import (
    OBJECTIVE_NAMES,
    ObjectiveConfig,
    TrainConfig,
    WandbConfig,
    schema_keys,
)
from training.storage.checkpoint import load_state
from training.storage.run_folder import ALL_CONFIG

PROGRAM = "step9_trajectory_perturb_train.py"
SIGMA_GRID = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
# Epochs per pass of the sampler: evaluations are counted in updates, and a long pass drops few partial batches.
_EPOCHS = 1000
_ROWS_OF_FAST_EVALUATION = 256
_STATE_EVERY = 1000

DESCRIPTION = """\
Train a checkpoint of HRM or TRM further so that starts around z0 reach the answer too, not z0 alone:
x and y as they are, z0 -> z0 + epsilon, the supervised loss of pretraining.

    python step9_trajectory_perturb_train.py --ckpt-root RUN --ckpt-name step_26040 \\
      --objective multi_perturbed_ce --num-trajectories 4 --perturb both \\
      --noise-sampling loguniform --sigma-min 3e-5 --sigma-max 3e-3 --sigma-ramp-steps 5000 \\
      --batch-size 4 --train-steps 50000 --eval-every 2500 --eval-n 1024 \\
      --save-every-eval --save-best --save-final --save-train-state

Architecture, data, optimizer, averages and rates are those of the run in --ckpt-root unless a flag says otherwise.
The same command goes on where it was stopped. Under torchrun it uses all processes."""

EPILOG = """\
objectives
  baseline_ce          a fixed unroll from z0, without noise: what the others are compared with
  single_perturbed_ce  one trajectory per puzzle, from z0 + epsilon
  multi_perturbed_ce   K per puzzle: one from z0, K-1 from z0 + epsilon; mean loss
rollouts
  parallel_fixed  B puzzles become B*K trajectories of exactly halt_max_steps supervision steps, no halting; loss:
                  mean over trajectories and steps
  serial_act      the K trajectories one after the other, each until it halts
  act_mask        all B*K together until the last has halted; after a trajectory has halted it is in no loss
  The loss of the last two is by --mask-normalize the mean over trajectories of each one's mean (trajectory; the
  lengths are found by a rollout without gradients first), or the mean over all steps before halting (valid_steps).
noise: epsilon is normal with mean 0 and standard deviation sigma, drawn for each trajectory and update
  fixed           sigma
  loguniform      ln sigma uniform between ln sigma_min and ln sigma_max
  mixture         no noise with probability p_clean, else sigma
  All of it is 0 for --clean-warmup-steps updates and then grows linearly over --sigma-ramp-steps more. It is added to
  float32 states (--state-dtype), since bfloat16 would round most of it away.
what is perturbed (--perturb)
  z_H, z_L, both  the start z0; evaluation from perturbed starts then perturbs the same, else both
  input           a control: the embedded input instead, one draw for all steps of a trajectory
  weights         a control: every trained weight (not the puzzle table) instead, one draw for all puzzles of a
                  trajectory index; the gradients are applied to the clean weights. Trajectories are rolled out one
                  index after the other
files, in --output-dir: all_config.yaml, metrics.jsonl, best.pt, final.pt, latest_state.pt, best_state.pt,
  final_state.pt, summary.json (initial, best and final on test rows that chose nothing), status.json, provenance.json
examples
  what it would do and cost:   ... --dry-run
  go on from a state file:     --resume-state RUN/latest_state.pt [flags that are to differ]
  any option of pretrain.py:   ... --set accumulation_slices=2 --set grad_clip_norm=1.0
  two GPUs:                    torchrun --nproc-per-node 2 step9_trajectory_perturb_train.py ..."""


# The flags that set settings, in the groups of --help.
FLAGS = {
    "objective": {
        "--objective": "objective.name",
        "--rollout": "objective.rollout",
        "--num-trajectories": "objective.num_trajectories",
        "--mask-normalize": "objective.mask_normalize",
    },
    "noise": {
        f"--{name.replace('_', '-')}": f"objective.{name}"
        for name in (
            *("perturb", "noise_sampling", "sigma", "sigma_min", "sigma_max", "p_clean"),
            *("clean_warmup_steps", "sigma_ramp_steps"),
        )
    },
    "training": {
        "--batch-size": "global_batch_size",
        "--train-steps": "max_steps",
        "--lr": "lr",
        "--puzzle-emb-lr": "puzzle_emb_lr",
        "--lr-warmup-steps": "lr_warmup_steps",
        "--weight-decay": "weight_decay",
        "--seed": "seed",
        "--data-path": "data_paths",
    },
    "evaluation": {
        "--eval-every": "fast_eval_interval",
        "--eval-n": "validation_size",
        "--sigma-grid": "eval.during.sigma_grid",
        "--eval-rollouts": "eval.perturbed_starts.starts",
        "--max-test-rows": "max_test_rows",
    },
    "run": {
        "--output-dir": "checkpoint_path",
        "--save-every-eval": "checkpoint_every_fast_eval",
        "--device": "device",
        "--dtype": "dtype",
        "--state-dtype": "state_dtype",
    },
}
_BY_FLAG = {flag: key for group in FLAGS.values() for flag, key in group.items()}
# Flags without a default here leave the setting of the original run.
_DEFAULTS: dict[str, Any] = {
    "--objective": "multi_perturbed_ce",
    "--train-steps": 50000,
    "--eval-every": 2500,
    "--eval-n": 1024,
    "--sigma-grid": ",".join(f"{sigma:g}" for sigma in SIGMA_GRID),
    "--eval-rollouts": next(s.default for s in settings_of(TrainConfig) if s.key == "eval.perturbed_starts.starts"),
    "--device": "auto",
    "--state-dtype": "auto",
    **{
        flag: getattr(ObjectiveConfig, key.removeprefix("objective."))
        for flag, key in _BY_FLAG.items()
        if key.startswith("objective.") and flag not in ("--objective", "--num-trajectories")
    },
}
_WORDS: dict[str, dict[str, Any]] = {
    "--objective": {"choices": OBJECTIVE_NAMES[1:], "help": "see below"},
    "--lr": {"help": "constant after its warm-up"},
    "--data-path": {"nargs": "+", "metavar": "DIR", "help": "dataset folders instead of the run's"},
    "--eval-every": {"help": "updates between evaluations"},
    "--eval-n": {"help": "held-out rows that choose the best checkpoint; the others are the test rows"},
    "--sigma-grid": {
        "metavar": "S,S,...",
        "type": str,
        "help": "noise scales of accuracy from perturbed starts; none = not measured",
    },
    "--output-dir": {
        "metavar": "DIR",
        "help": "run folder; default: checkpoints/PROJECT/NAME by the settings, with --resume-state the folder of "
        "that state",
    },
    "--save-every-eval": {"action": "store_true", "help": "weights step_N at each evaluation"},
    "--dtype": {"choices": None, "metavar": "NAME", "help": "of the layers: float32 | bfloat16 | float64"},
    "--state-dtype": {"choices": None, "metavar": "NAME", "help": "of z_H and z_L; auto = float32"},
}
# What argparse is told instead of what the setting's field says.
_DIFFERS = {flag: {"default": value} | _WORDS.get(flag, {}) for flag, value in _DEFAULTS.items()}
_DIFFERS |= {flag: words for flag, words in _WORDS.items() if flag not in _DEFAULTS}


def build_parser() -> argparse.ArgumentParser:
    """All flags. A mistake raises `UserError`, one line."""
    parser = FlagParser(
        PROGRAM,
        help_command=PROGRAM,
        usage=f"python {PROGRAM} (--ckpt-root DIR --ckpt-name NAME | --resume-state FILE) [flags]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    start = parser.add_argument_group("start")
    start.add_argument("--ckpt-root", metavar="DIR", help=f"run folder that holds {ALL_CONFIG}")
    start.add_argument(
        "--ckpt-name", metavar="NAME", help="weights to start from: a name in --ckpt-root, or the path of any file"
    )
    start.add_argument(
        "--resume-state",
        metavar="FILE",
        help="full state to go on from, bit for bit; flags that are not given are those of its run",
    )

    defaults = {"objective.num_trajectories": "multi_perturbed_ce: 4, else 1"}
    for title, flags in FLAGS.items():
        add_setting_flags(parser, title, flags, differs=_DIFFERS, defaults=defaults)
    files = parser.add_argument_group("files")
    files.add_argument(
        "--save-train-state",
        action="store_true",
        help=f"the full state every {_STATE_EVERY} updates, not only at evaluations",
    )
    for name in ("best", "final"):
        files.add_argument(f"--save-{name}", action="store_true", help=f"{name}.pt: written in any case")
    machine = parser.add_argument_group("more")
    machine.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any option of pretrain.py, such as arch.halt_max_steps=8",
    )
    machine.add_argument("--dry-run", action="store_true", help="print the plan and its cost; write nothing")
    return parser


def read_flags(argv: Sequence[str]) -> tuple[TrainConfig, bool]:
    """The run that the flags describe, and whether to print the plan only. Errors: `UserError` in terms of flags."""
    parser = build_parser()
    flags = parser.parse_args(list(argv))
    for action in parser._actions:  # once more, for the flags that were given
        action.default = argparse.SUPPRESS
    given = parser.parse_args(list(argv))
    try:
        if flags.resume_state is not None and (beside := state_file(flags.resume_state).parent / ALL_CONFIG).is_file():
            return _of_the_state(flags, given, load_config_file(beside)), flags.dry_run
        return _to_config(flags), flags.dry_run
    except UserError as error:
        raise in_flags(error) from None


def _of_the_state(flags: argparse.Namespace, given: argparse.Namespace, before: TrainConfig) -> TrainConfig:
    """The settings of the run that a state is of, but for what is given now."""
    if before.objective.name not in OBJECTIVE_NAMES[1:]:
        load_state(flags.resume_state)  # what is no state at all is told as such
        raise UserError(
            f"--resume-state {flags.resume_state} is the state of another run, a pretraining: pretrain.py goes on with "
            "it; to train its weights further give --ckpt-root DIR, --ckpt-name NAME and an --output-dir"
        )
    settings = config_to_dict(before)
    if "perturb" in given:
        put(settings, "eval.perturbed_starts.site", flags.perturb if flags.perturb in SITES else "both")
    start = _start(flags) | ({} if flags.ckpt_name is not None else {"init_from": before.init_from})
    if start["checkpoint_path"] != str(state_file(flags.resume_state).parent):
        settings["run_name"] = None
    if "save_train_state" in given:
        settings["checkpoint_interval"] = _STATE_EVERY
    if "save_every_eval" in given:
        settings["checkpoint_every_eval"] = True
    if "eval_n" in given:
        settings["fast_validation_size"] = min(_ROWS_OF_FAST_EVALUATION, flags.eval_n)
    return _complete(settings | start, given, start)


def _to_config(flags: argparse.Namespace) -> TrainConfig:
    original = None if flags.ckpt_root is None else _original_run(Path(flags.ckpt_root))
    start = _start(flags)
    if original is None:
        raise UserError(
            f"--resume-state {flags.resume_state}: no {ALL_CONFIG} lies beside it to say its settings; give "
            "--ckpt-root and the flags that the run was started with"
        )
    settings = config_to_dict(original)
    settings |= {
        "objective": {"num_trajectories": 4 if flags.objective == "multi_perturbed_ce" else 1},
        # Evaluation perturbs starts only.
        "eval": {"perturbed_starts": {"site": flags.perturb if flags.perturb in SITES else "both"}},
        # How the original run was stopped, placed and reported is not what this one is to do.
        **{name: None for name in ("run_name", "max_hours", "load_checkpoint", "threads", "keep_last")},
        **{name: None for name in ("early_stop_patience", "eval_batch_size", "data_path", "evaluators")},
        "eval_save_outputs": [],
        "wandb": vars(WandbConfig()),
        "accumulation_slices": 1,
        **start,
        "lr_min_ratio": 1.0,
        "force_full_eval_every": 1,
        "fast_validation_size": min(_ROWS_OF_FAST_EVALUATION, flags.eval_n),
        "checkpoint_every_eval": flags.save_every_eval,
        "checkpoint_interval": _STATE_EVERY if flags.save_train_state else None,
    }
    return _complete(settings, flags, start)


def _complete(settings: dict[str, Any], flags: argparse.Namespace, start: Mapping[str, Any]) -> TrainConfig:
    """The settings with those that flags set; a flag that `flags` lacks leaves its own alone."""
    for flag, key in _BY_FLAG.items():
        value = getattr(flags, destination(flag), None)
        if value is not None and key not in start:
            put(settings, key, _grid(value) if flag == "--sigma-grid" else value)
    if getattr(flags, "data_path", None):
        settings["data_paths_test"] = []
    else:
        for name in ("data_paths", "data_paths_test"):
            settings[name] = [data_folder(path) for path in settings[name]]
    for text in getattr(flags, "set", []):
        _set(settings, text)
    if settings["lr_min_ratio"] != 1.0:
        raise UserError(f"--set lr_min_ratio={settings['lr_min_ratio']}: the rate is constant here, expected 1.0")
    _plan_epochs(settings)
    config = resolve(settings)
    for key in paced_by_epochs(config):
        raise UserError(
            f"option '{key}' is drawn over the planned updates, and --train-steps ends the run before them: say it in "
            "updates (--set hook.swa.start_update=N), or switch it off (--set hook.swa.enabled=False)"
        )
    return config


def _original_run(root: Path) -> TrainConfig:
    if not (root / ALL_CONFIG).is_file():
        found = f"holds no {ALL_CONFIG}" if root.is_dir() else "is no folder"
        raise UserError(
            f"--ckpt-root {root} {found}: name the folder of a pretraining run; weights that lie elsewhere are named "
            "by --ckpt-name /PATH/best.pt"
        )
    original = load_config_file(root / ALL_CONFIG)
    refuse_project(original, f"--ckpt-root {root}")
    return original


def _start(flags: argparse.Namespace) -> dict[str, Any]:
    """Where the run starts and where it lies."""
    folder = flags.output_dir
    if flags.resume_state is not None:
        folder = folder or str(state_file(flags.resume_state).parent)
    elif flags.ckpt_root is None:
        raise UserError("no start: give --ckpt-root DIR with --ckpt-name NAME, or --resume-state FILE")
    elif flags.ckpt_name is None:
        raise UserError(f"no start: give --ckpt-name with {_weights_in(Path(flags.ckpt_root))}, or --resume-state FILE")
    root = Path(flags.ckpt_root or ".")
    weights = None if flags.ckpt_name is None else _weights(root, flags.ckpt_name)
    return {
        "init_from": weights,
        "resume": "auto" if flags.resume_state is None else flags.resume_state,
        "checkpoint_path": folder,
    }


def _weights(root: Path, name: str) -> str:
    path = root / os.path.expanduser(name)  # an absolute name replaces the root
    if not path.is_file():
        raise UserError(f"--ckpt-name {name}: {path} is no file; {root} holds {_weights_in(root)}")
    return str(path)


def _weights_in(root: Path) -> str:
    """The weights of a run folder, in words."""
    steps = [path for path in root.glob("step_*") if re.fullmatch(r"step_[0-9]+", path.name) and path.is_file()]
    names = [path.name for path in sorted(steps, key=lambda path: int(path.name[5:]))]
    names += [name for name in ("best.pt", "final.pt") if (root / name).is_file()]
    if not names:
        return "no weights (step_N, best.pt, final.pt)"
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:3])}, ... {', '.join(names[-3:])}"


def _grid(text: str) -> list[float]:
    if text.strip().lower() in ("none", ""):
        return []
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--sigma-grid {text}: expected numbers such as 1e-4,1e-3, or none") from None


def _set(settings: dict[str, Any], text: str) -> None:
    refuse_undecoded(text)
    key, equals, value = text.partition("=")
    valid = schema_keys(TrainConfig)
    key = todays_name(key, valid) or key
    if not equals or key not in valid:
        raise UserError(f"--set {text}: expected KEY=VALUE; the nearest valid key is '{nearest_key(key, valid)}'")
    if key in ("epochs", "eval_interval", "min_eval_interval"):
        raise UserError(f"--set {text}: {key} follows from --train-steps and --eval-every; give those")
    try:
        parsed = yaml.safe_load(value)
        # yaml takes 1e-4 for a text.
        parsed = float(parsed) if isinstance(parsed, str) and "float" in str(valid[key]) else parsed
    except (yaml.YAMLError, ValueError):
        raise UserError(f"--set {text}: cannot read the value {value!r}") from None
    put(settings, key, parsed)


def _plan_epochs(settings: dict[str, Any]) -> None:
    """So many epochs that `max_steps` ends the run, in passes after which nothing is evaluated."""
    updates, batch = settings["max_steps"], settings["global_batch_size"]
    settings |= {"eval_interval": _EPOCHS, "epochs": _EPOCHS}
    if not all(type(value) is int and value > 0 for value in (updates, batch)):
        return  # refused, with the reason, when the settings are checked
    paths = settings["data_paths"]
    if not paths:
        return
    sets, augment = open_puzzle_sets(paths, "train", verify=False), settings["augment"]
    source = PuzzleSource(sets, seed=0, global_batch_size=batch, epochs_per_iteration=_EPOCHS, augment=augment)
    # Half as many again, since an epoch may give fewer batches than it does on average.
    rows_per_pass = _EPOCHS * source.total_groups * source.mean_examples
    passes = math.ceil(1.5 * updates * batch / rows_per_pass) + 1
    settings |= {"epochs": passes * _EPOCHS, "min_eval_interval": 2 * passes * _EPOCHS}


# Options and the flags that set them, as messages name them.
_NAMED = {key: flag for flag, key in _BY_FLAG.items()} | {
    "objective=": "--objective ",
    "fast_validation_size": "--eval-n",
    "checkpoint_path=": "--output-dir ",
    "resume=FILE": "--resume-state FILE",
    "init_from=": "--ckpt-name ",
}


def in_flags(error: UserError) -> UserError:
    """The same message with flags where it names options."""
    return named_in_flags(error, _NAMED)
