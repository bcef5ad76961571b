"""The flags of step9_trajectory_perturb_train.py, and what they mean in the schema that all training runs share."""

import argparse
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dataset.puzzle_folder import open_puzzle_set
from dataset.puzzle_metadata import data_folder, read_metadata
from dataset.puzzle_source import PuzzleSource
from errors import UserError
from training.settings.checks import MASK_NORMALIZERS, NOISE_SAMPLINGS, OBJECTIVES, PERTURBED, ROLLOUTS, SITES
from training.settings.flags import FlagParser
from training.settings.resolving import (
    ObjectiveConfig,
    TrainConfig,
    config_to_dict,
    load_config_file,
    nearest_key,
    resolve,
    schema_keys,
)
from training.settings.schema import EvalConfig, WandbConfig
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
  go on from a state file:     ... --resume-state RUN/latest_state.pt
  any option of pretrain.py:   ... --set accumulation_slices=2 --set grad_clip_norm=1.0
  two GPUs:                    torchrun --nproc-per-node 2 step9_trajectory_perturb_train.py ..."""


def build_parser() -> argparse.ArgumentParser:
    """All flags. A mistake raises `UserError`, one line."""
    parser = FlagParser(
        PROGRAM,
        help_command=PROGRAM,
        usage=f"python {PROGRAM} --ckpt-root DIR (--ckpt-name NAME | --resume-state FILE) [flags]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    start = parser.add_argument_group("start")
    start.add_argument("--ckpt-root", required=True, metavar="DIR", help=f"run folder that holds {ALL_CONFIG}")
    start.add_argument(
        "--ckpt-name", metavar="NAME", help="weights to start from: a name in --ckpt-root, or the path of any file"
    )
    start.add_argument("--resume-state", metavar="FILE", help="full state to go on from: everything, bit for bit")

    default = ObjectiveConfig()
    idea = parser.add_argument_group("objective")
    idea.add_argument("--objective", default="multi_perturbed_ce", choices=OBJECTIVES[1:])
    idea.add_argument("--rollout", default=default.rollout, choices=ROLLOUTS)
    idea.add_argument(
        "--num-trajectories", type=int, metavar="K",
        help="per puzzle, the clean one included (multi_perturbed_ce: 4, else 1)",
    )  # fmt: skip
    idea.add_argument("--mask-normalize", default=default.mask_normalize, choices=MASK_NORMALIZERS,
                      help="of the ACT rollouts: every trajectory weighs the same, or every step")  # fmt: skip

    noise = parser.add_argument_group("noise")
    noise.add_argument("--perturb", default=default.perturb, choices=PERTURBED,
                       help="which states; or, as a control, the input or the weights")  # fmt: skip
    noise.add_argument("--noise-sampling", default=default.noise_sampling, choices=NOISE_SAMPLINGS)
    noise.add_argument("--sigma", type=float, default=default.sigma, metavar="S", help="of fixed and mixture")
    noise.add_argument("--sigma-min", type=float, default=default.sigma_min, metavar="S", help="of loguniform")
    noise.add_argument("--sigma-max", type=float, default=default.sigma_max, metavar="S", help="of loguniform")
    noise.add_argument("--p-clean", type=float, default=default.p_clean, metavar="P", help="of mixture")
    noise.add_argument("--clean-warmup-steps", type=int, default=0, metavar="N", help="updates without noise first")
    noise.add_argument("--sigma-ramp-steps", type=int, default=0, metavar="N", help="updates from 0 to full noise")

    train = parser.add_argument_group("training")
    train.add_argument("--batch-size", type=int, metavar="B", help="puzzles per update, over all processes")
    train.add_argument("--train-steps", type=int, default=50000, metavar="N", help="updates")
    train.add_argument("--lr", type=float, help="constant after its warm-up")
    train.add_argument("--puzzle-emb-lr", type=float, metavar="LR")
    train.add_argument("--lr-warmup-steps", type=int, metavar="N")
    train.add_argument("--weight-decay", type=float, metavar="WD")
    train.add_argument("--seed", type=int, help="of data order and noise")
    train.add_argument("--data-path", nargs="+", metavar="DIR", help="dataset folders instead of the run's")

    judge = parser.add_argument_group("evaluation")
    judge.add_argument("--eval-every", type=int, default=2500, metavar="N", help="updates")
    judge.add_argument("--eval-n", type=int, default=1024, metavar="N",
                       help="held-out rows that choose the best checkpoint; the others are the test rows")  # fmt: skip
    judge.add_argument("--sigma-grid", default=",".join(f"{sigma:g}" for sigma in SIGMA_GRID), metavar="S,S,...",
                       help="noise scales of accuracy from perturbed starts; none = not measured")  # fmt: skip
    judge.add_argument("--eval-rollouts", type=int, default=EvalConfig.rollouts, metavar="K",
                       help="perturbed starts per puzzle and noise scale")  # fmt: skip
    judge.add_argument("--max-test-rows", type=int, metavar="N", help="only so many test rows at the end")

    files = parser.add_argument_group("files")
    files.add_argument("--output-dir", metavar="DIR", help="run folder; default: checkpoints/PROJECT/NAME by the "
                       "settings, with --resume-state the folder of that state")  # fmt: skip
    files.add_argument("--save-every-eval", action="store_true", help="weights step_N at each evaluation")
    files.add_argument("--save-train-state", action="store_true",
                       help=f"the full state every {_STATE_EVERY} updates, not only at evaluations")  # fmt: skip
    for name in ("best", "final"):
        files.add_argument(f"--save-{name}", action="store_true", help=f"{name}.pt: written in any case")

    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="auto", metavar="NAME", help="auto | cpu | cuda | cuda:N | mps")
    machine.add_argument("--dtype", metavar="NAME", help="of the layers: float32 | bfloat16 | float64")
    machine.add_argument("--state-dtype", default="auto", metavar="NAME", help="of z_H and z_L; auto = float32")
    machine.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                         help="any option of pretrain.py, such as arch.halt_max_steps=8")  # fmt: skip
    machine.add_argument("--dry-run", action="store_true", help="print the plan and its cost; write nothing")
    return parser


def read_flags(argv: Sequence[str]) -> tuple[TrainConfig, bool]:
    """The run that the flags describe, and whether to print the plan only. Errors: `UserError` in terms of flags."""
    flags = build_parser().parse_args(list(argv))
    try:
        return _to_config(flags), flags.dry_run
    except UserError as error:
        raise in_flags(error) from None


def _to_config(flags: argparse.Namespace) -> TrainConfig:
    settings = config_to_dict(_original_run(Path(flags.ckpt_root)))
    start = _start(flags)
    count = flags.num_trajectories
    if count is None:
        count = 4 if flags.objective == "multi_perturbed_ce" else 1
    settings |= {
        "objective": {
            "name": flags.objective,
            "num_trajectories": count,
            **{
                name: getattr(flags, name)
                for name in (
                    "rollout", "perturb", "noise_sampling", "sigma", "sigma_min", "sigma_max", "p_clean",
                    "clean_warmup_steps", "sigma_ramp_steps", "mask_normalize",
                )
            },
        },
        "eval": {
            "sigma_grid": _grid(flags.sigma_grid),
            "site": flags.perturb if flags.perturb in SITES else "both",  # evaluation perturbs starts only
            "rollouts": flags.eval_rollouts,
        },
        # How the original run was stopped, placed and reported is not what this one is to do.
        **{name: None for name in ("run_name", "max_hours", "load_checkpoint", "compile", "threads", "keep_last")},
        **{name: None for name in ("early_stop_patience", "eval_batch_size", "data_path")},
        "evaluators": [],
        "eval_save_outputs": [],
        "wandb": vars(WandbConfig()),
        "accumulation_slices": 1,
        **start,
        "device": flags.device,
        "state_dtype": flags.state_dtype,
        "max_steps": flags.train_steps,
        "lr_min_ratio": 1.0,
        "fast_eval_interval": flags.eval_every,
        "force_full_eval_every": 1,
        "validation_size": flags.eval_n,
        "fast_validation_size": min(_ROWS_OF_FAST_EVALUATION, flags.eval_n),
        "checkpoint_every_eval": flags.save_every_eval,
        "checkpoint_every_fast_eval": flags.save_every_eval,
        "checkpoint_interval": _STATE_EVERY if flags.save_train_state else None,
    }  # fmt: skip
    given = {
        "global_batch_size": flags.batch_size,
        **{name: getattr(flags, name) for name in ("lr", "puzzle_emb_lr", "lr_warmup_steps", "weight_decay")},
        **{name: getattr(flags, name) for name in ("seed", "dtype", "max_test_rows")},
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    if flags.data_path:
        settings |= {"data_paths": flags.data_path, "data_paths_test": []}
    else:
        for name in ("data_paths", "data_paths_test"):
            settings[name] = [data_folder(path) for path in settings[name]]
    for text in flags.set:
        _set(settings, text)
    if settings["lr_min_ratio"] != 1.0:
        raise UserError(f"--set lr_min_ratio={settings['lr_min_ratio']}: the rate is constant here, expected 1.0")
    _plan_epochs(settings)
    return resolve(settings)


def _original_run(root: Path) -> TrainConfig:
    if not (root / ALL_CONFIG).is_file():
        found = f"holds no {ALL_CONFIG}" if root.is_dir() else "is no folder"
        raise UserError(
            f"--ckpt-root {root} {found}: name the folder of a pretraining run; weights that lie elsewhere are named "
            "by --ckpt-name /PATH/best.pt"
        )
    return load_config_file(root / ALL_CONFIG)


def _start(flags: argparse.Namespace) -> dict[str, Any]:
    """Where the run starts and where it lies."""
    folder = flags.output_dir
    if flags.resume_state is not None:
        state = Path(os.path.expanduser(flags.resume_state))
        if not state.is_file():
            raise UserError(f"--resume-state {state}: there is no such file; name a state such as RUN/latest_state.pt")
        folder = folder or str(state.parent)
    elif flags.ckpt_name is None:
        raise UserError(f"no start: give --ckpt-name with {_weights_in(Path(flags.ckpt_root))}, or --resume-state FILE")
    weights = None if flags.ckpt_name is None else _weights(Path(flags.ckpt_root), flags.ckpt_name)
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
    key, equals, value = text.partition("=")
    valid = schema_keys(TrainConfig)
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
    node = settings
    *parents, leaf = key.split(".")
    for parent in parents:
        node = node[parent]
    node[leaf] = parsed


def _plan_epochs(settings: dict[str, Any]) -> None:
    """So many epochs that `max_steps` ends the run, in passes after which nothing is evaluated."""
    updates, batch = settings["max_steps"], settings["global_batch_size"]
    settings |= {"eval_interval": _EPOCHS, "epochs": _EPOCHS}
    if not all(type(value) is int and value > 0 for value in (updates, batch)):
        return  # refused, with the reason, when the settings are checked
    paths = settings["data_paths"]
    if not paths:
        return
    sets = [open_puzzle_set(path, "train", name) for path in paths for name in read_metadata(path, "train").sets]
    source = PuzzleSource(
        sets, seed=0, global_batch_size=batch, epochs_per_iteration=_EPOCHS, augment=settings["augment"]
    )
    # Half as many again, since an epoch may give fewer batches than it does on average.
    rows_per_pass = _EPOCHS * source.total_groups * source.mean_examples
    passes = math.ceil(1.5 * updates * batch / rows_per_pass) + 1
    settings |= {"epochs": passes * _EPOCHS, "min_eval_interval": 2 * passes * _EPOCHS}


# Options and the flags that set them, as messages name them.
_FLAGS = {
    "objective.num_trajectories": "--num-trajectories",
    "objective.noise_sampling": "--noise-sampling",
    "objective.sigma_ramp_steps": "--sigma-ramp-steps",
    "objective.clean_warmup_steps": "--clean-warmup-steps",
    "objective.mask_normalize": "--mask-normalize",
    "objective.sigma_min": "--sigma-min",
    "objective.sigma_max": "--sigma-max",
    "objective.p_clean": "--p-clean",
    "objective.sigma": "--sigma",
    "objective.perturb": "--perturb",
    "objective.rollout": "--rollout",
    "objective=": "--objective ",
    "global_batch_size": "--batch-size",
    "fast_eval_interval": "--eval-every",
    "fast_validation_size": "--eval-n",
    "validation_size": "--eval-n",
    "eval.sigma_grid": "--sigma-grid",
    "eval.rollouts": "--eval-rollouts",
    "max_test_rows": "--max-test-rows",
    "max_steps": "--train-steps",
    "checkpoint_path=": "--output-dir ",
    "checkpoint_path": "--output-dir",
    "resume=FILE": "--resume-state FILE",
    "init_from=": "--ckpt-name ",
    "data_paths": "--data-path",
}
_KEYS = "|".join(re.escape(key) for key in sorted(_FLAGS, key=len, reverse=True))
_OPTION = re.compile(rf"(?<![\w./-])(?:settings\.)?({_KEYS})")


def in_flags(error: UserError) -> UserError:
    """The same message with flags where it names options."""
    return UserError(_OPTION.sub(lambda match: _FLAGS[match[1]], str(error)))
