"""The training flags of collatz.py, and what they mean in the schema that all training runs share."""

import argparse
from collections.abc import Mapping
from typing import Any

from analysis.command_line import whole_numbers
from errors import UserError
from options import settings_of
from projects.collatz.settings import WIDEST_LAYER, CollatzConfig
from training.settings.flags import add_setting_flags, state_file
from training.settings.flags import in_flags as named_in_flags
from training.settings.identity import config_to_dict
from training.settings.resolving import load_config_file, resolve
from training.settings.schema import TrainConfig
from training.storage.run_folder import ALL_CONFIG

SCHEDULES = ("constant", "cosine")
_STATE_EVERY = 1000


def _of_collatz(names: str) -> dict[str, str]:
    return {f"--{name}": f"collatz.{name.replace('-', '_')}" for name in names.split()}


# What a preset means where no flag says otherwise: settings of the run, and of `collatz`.
PRESET_SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "faithful": (
        {
            "epochs": 20001, "global_batch_size": 1024, "optimizer": "adamw", "lr": 1e-3, "lr_warmup_steps": 0,
            "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01,
        },
        {"legacy_lr_plateau": True},
    ),
    "orbit": (
        {
            "epochs": 20000, "global_batch_size": 32, "optimizer": "adamw", "lr": 3e-3, "lr_warmup_steps": 200,
            "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.01, "grad_clip_norm": 1.0, "ema": True, "ema_rate": 0.999,
            "lr_min_ratio": 0.0,
        },
        {
            "lookahead": 20, "layers": [64, 64], "growth_weight": 1.0, "margin": 0.005, "decontaminate": True,
        },
    ),
}  # fmt: skip
# The flags that set settings, in the groups of --help: a flag of `collatz`, or of the run with the key it sets.
GROUPS: dict[str, dict[str, str]] = {
    "training: network and loss": _of_collatz(
        "preset layers target-type use-t4 use-t8 margin growth-weight decay-start decay-len min-anchor tau-start "
        "tau-end"
    ),
    "training: data": _of_collatz(
        "curriculum ramp-len start-seeds hard-ratio max-bits mine-negatives mine-interval mine-count mine-start-epoch "
        "empty-pool decontaminate segment-steps fewest-bits most-bits"
    ),
    "training: updates": {
        "--epochs": "epochs",
        "--batch-size": "global_batch_size",
        "--lr": "lr",
        **_of_collatz("legacy-lr-plateau"),
        "--lr-warmup-steps": "lr_warmup_steps",
        "--weight-decay": "weight_decay",
        "--ema": "ema",
        "--seed": "seed",
        "--max-steps": "max_steps",
        "--max-hours": "max_hours",
    },
    "training: evaluation": _of_collatz("eval-interval quick-eval-interval test-starts validation-starts"),
    "training: files and machine": {
        "--output-dir": "checkpoint_path",
        "--save-every-eval": "checkpoint_every_fast_eval",
        "--checkpoint-interval": "checkpoint_interval",
        "--log-interval": "log_interval",
        "--device": "device",
        "--dtype": "dtype",
        "--threads": "threads",
    },
}
_BY_FLAG = {flag: key for group in GROUPS.values() for flag, key in group.items()} | _of_collatz("lookahead eval-csv")
# Fields of one preset only; given with the other they would be ignored in silence.
_ONLY = {
    "faithful": (
        "target_type decay_start decay_len min_anchor hard_ratio max_bits curriculum start_seeds ramp_len empty_pool "
        "mine_negatives mine_interval mine_count mine_start_epoch"
    ).split(),
    "orbit": "tau_start tau_end segment_steps fewest_bits most_bits".split(),
}


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of training, without defaults: those that are not given are the preset's."""
    switch: dict[str, Any] = {"action": "store_true"}
    differs: dict[str, dict[str, Any]] = {
        "--layers": {"type": whole_numbers(1, WIDEST_LAYER), "metavar": "W,W,..."},
        **{flag: switch for flag in ("--use-t4", "--use-t8", "--curriculum", "--mine-negatives", "--save-every-eval")},
        "--batch-size": {"help": "numbers, of orbit segments, per update"},
        "--epochs": {"help": "updates"},
        "--max-steps": {"help": "stop early, the plan staying that of --epochs"},
        "--output-dir": {
            "metavar": "DIR",
            "help": "run folder; default: checkpoints/Collatz/NAME by the settings, with --resume-state the folder of "
            "that state",
        },
        "--save-every-eval": switch | {"help": "weights step_N at each evaluation"},
        "--dtype": {"choices": None, "metavar": "NAME", "help": "of the layers: float32 | float64"},
    }
    groups = {
        title: add_setting_flags(parser, title, flags, differs=differs, defaults=_defaults())
        for title, flags in GROUPS.items()
    }
    groups["training: updates"].add_argument(
        "--lr-schedule", choices=SCHEDULES, help="constant, or half a cosine down to 0 (orbit)"
    )
    files = groups["training: files and machine"]
    files.add_argument(
        "--resume-state",
        metavar="FILE",
        help="full state to go on from; by itself the same command goes on from its folder's newest",
    )
    files.add_argument("--dry-run", action="store_true", help="print the plan; write nothing")


def _defaults() -> dict[str, str]:
    """By key, what the presets mean without a flag: `1000`, or `10; orbit 1`."""
    texts = {}
    for key in _BY_FLAG.values():
        name, of_collatz = key.removeprefix("collatz."), key.startswith("collatz.")
        schema: type = CollatzConfig if of_collatz else TrainConfig
        start = next(setting.default for setting in settings_of(schema) if setting.key == name)
        values = [_shown(settings[of_collatz].get(name, start)) for settings in PRESET_SETTINGS.values()]
        texts[key] = values[0] if values[0] == values[1] else f"{values[0]}; orbit {values[1]}"
    return texts | {"collatz.preset": "faithful", "checkpoint_path": "", "collatz.decontaminate": "orbit: on"}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def to_config(given: Mapping[str, Any]) -> tuple[TrainConfig, bool]:
    """The run that the given flags describe, and whether to print its plan only. Errors: `UserError`."""
    flags = dict(given)
    dry_run = flags.pop("dry_run", False)
    state = flags.pop("resume_state", None)
    before = None if state is None else _run_of(state)
    preset = flags.pop("preset", "faithful" if before is None else before["collatz"]["preset"])
    for other, names in _ONLY.items():
        for name in names:
            if other != preset and name in flags:
                raise UserError(f"--{name.replace('_', '-')} belongs to --preset {other}, found --preset {preset}")
    run, collatz = (dict(settings) for settings in PRESET_SETTINGS[preset])
    if before is not None:
        collatz |= before.pop("collatz")
        run |= before
    collatz["preset"] = preset
    schedule = flags.pop("lr_schedule", None)
    if schedule is not None:
        run["lr_min_ratio"] = 0.0 if schedule == "cosine" else 1.0
        collatz["legacy_lr_plateau"] = False
    if flags.get("legacy_lr_plateau") and schedule == "cosine":
        raise UserError("--legacy-lr-plateau and --lr-schedule cosine both set the rate: give one of them")
    if "eval_csv" in flags:
        flags["eval_csv"] = str(flags["eval_csv"])
    for name, value in flags.items():
        key = _BY_FLAG[f"--{name.replace('_', '-')}"]
        (collatz if key.startswith("collatz.") else run)[key.removeprefix("collatz.")] = value
    default = CollatzConfig()
    intervals = [collatz.get(name, getattr(default, name)) for name in ("eval_interval", "quick_eval_interval")]
    epochs = run["epochs"]
    settings = {
        "dtype": "float32",
        "checkpoint_interval": _STATE_EVERY,
        "checkpoint_every_eval": False,
        **run,
        "collatz": collatz,
        # An epoch is an update, after which nothing is due by itself.
        "eval_interval": None,
        "min_eval_interval": 2 * epochs if type(epochs) is int and 0 < epochs < 2**62 else None,
        "fast_eval_interval": min(intervals),
    }
    return resolve(settings, require_data=False), dry_run


def _run_of(state: str) -> dict[str, Any]:
    """The settings of the run that a state is of, with the state as its start; a preset's where none lie beside it.

    How early that run was to stop is not what this one is to do. Errors: `UserError`.
    """
    path = state_file(state)
    start = {"resume": str(path), "checkpoint_path": str(path.parent)}
    beside = path.parent / ALL_CONFIG
    if not beside.is_file():
        return start | {"collatz": {"preset": "faithful"}}
    before = config_to_dict(load_config_file(beside))
    if before.get("collatz") is None:
        raise UserError(f"--resume-state {state} is of another kind of run: python pretrain.py goes on with it")
    return before | start | dict.fromkeys(("max_steps", "max_hours", "run_name"))


_NAMED = {key: flag for flag, key in _BY_FLAG.items()} | {
    "checkpoint_path=": "--output-dir ",
    "resume=": "--resume-state ",
    "max_steps=": "--max-steps ",
    "quick_eval_interval=": "--quick-eval-interval ",
    "most_bits=": "--most-bits ",
}


def in_flags(error: UserError) -> UserError:
    """The same message with flags where it names options."""
    return named_in_flags(error, _NAMED)
