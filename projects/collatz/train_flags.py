"""The training flags of collatz.py, and what they mean in the schema that all training runs share."""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errors import UserError
from projects.collatz.checks import EMPTY_POOLS, MOST_LAYERS, PRESETS, TARGET_TYPES
from training.settings.resolving import CollatzConfig, TrainConfig, resolve

SCHEDULES = ("constant", "cosine")
_STATE_EVERY = 1000

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
# Flags with a name of their own in the schema; the others are fields of `collatz`.
_OF_THE_RUN = {
    "epochs": "epochs", "batch_size": "global_batch_size", "lr": "lr", "lr_warmup_steps": "lr_warmup_steps",
    "weight_decay": "weight_decay", "seed": "seed", "output_dir": "checkpoint_path", "max_steps": "max_steps",
    "max_hours": "max_hours", "checkpoint_interval": "checkpoint_interval", "log_interval": "log_interval",
    "save_every_eval": "checkpoint_every_fast_eval", "device": "device", "dtype": "dtype", "threads": "threads",
    "ema": "ema",
}  # fmt: skip
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
    default = CollatzConfig()
    yes_no = argparse.BooleanOptionalAction

    model = parser.add_argument_group("training: network and loss")
    model.add_argument("--preset", choices=PRESETS, help="default faithful; see below")
    model.add_argument("--layers", type=_layers, metavar="W,W,...", help="hidden widths (128,128,128; orbit 64,64)")
    model.add_argument("--target-type", choices=TARGET_TYPES, help="of the anchor ln n + beta drift: beta 0.35, or "
                       "learned")  # fmt: skip
    model.add_argument("--use-t4", action="store_true", help="V(T^4 n) must be below V(n) too")
    model.add_argument("--use-t8", action="store_true", help="V(T^8 n) likewise")
    model.add_argument("--margin", type=float, metavar="M", help="by which V is to decrease (0.05; orbit 0.005)")
    model.add_argument("--growth-weight", type=float, metavar="W", help="of steps with T(n) > n (10; orbit 1)")
    model.add_argument("--decay-start", type=int, metavar="N", help="updates with the full anchor (1000)")
    model.add_argument("--decay-len", type=int, metavar="N", help="updates over which it falls (5000)")
    model.add_argument("--min-anchor", type=float, metavar="A", help="share of it that stays (0)")
    model.add_argument("--tau-start", type=float, metavar="T", help="excess at which orbit's loss is one half, in nats "
                       f"({default.tau_start})")  # fmt: skip
    model.add_argument("--tau-end", type=float, metavar="T", help=f"the same at the end ({default.tau_end})")

    data = parser.add_argument_group("training: data")
    data.add_argument("--curriculum", action="store_true", help="hard seeds join one after the other")
    data.add_argument("--ramp-len", type=int, metavar="N", help=f"updates until all have ({default.ramp_len})")
    data.add_argument("--start-seeds", type=int, metavar="N", help=f"those there at once ({default.start_seeds})")
    data.add_argument("--hard-ratio", type=float, metavar="R", help="share of hard rows (0.25)")
    data.add_argument("--max-bits", type=int, metavar="B", help="of random numbers (128)")
    data.add_argument("--mine-negatives", action="store_true", help="numbers on which V decreases least join the pool")
    data.add_argument("--mine-interval", type=int, metavar="N", help=f"updates ({default.mine_interval})")
    data.add_argument("--mine-count", type=int, metavar="N", help=f"numbers each time ({default.mine_count})")
    data.add_argument("--mine-start-epoch", type=int, metavar="N", help="no mining before so many updates (0)")
    data.add_argument("--empty-pool", choices=EMPTY_POOLS, help="hard rows while there is no hard seed: the orbit of "
                      "27, a test orbit, as in the source (default), or random numbers")  # fmt: skip
    data.add_argument("--decontaminate", action=yes_no, help="keep states on test orbits out of training (orbit: on; "
                      "faithful: off, as in the source)")  # fmt: skip
    data.add_argument("--segment-steps", type=int, metavar="S", help=f"steps of orbit's rows ({default.segment_steps})")
    data.add_argument("--fewest-bits", type=int, metavar="B", help=f"of orbit's starts ({default.fewest_bits})")
    data.add_argument("--most-bits", type=int, metavar="B", help=f"of orbit's starts ({default.most_bits})")

    train = parser.add_argument_group("training: updates")
    train.add_argument("--epochs", type=int, metavar="N", help="updates (20001; orbit 20000)")
    train.add_argument("--batch-size", type=int, metavar="B", help="numbers (1024), of orbit segments (32)")
    train.add_argument("--lr", type=float, help="(1e-3; orbit 3e-3)")
    train.add_argument("--lr-schedule", choices=SCHEDULES, help="constant, or half a cosine down to 0 (orbit)")
    train.add_argument("--legacy-lr-plateau", action=yes_no, help="halve the rate when single losses set no record: on "
                       "in faithful, as in the source, unless --lr-schedule is given")  # fmt: skip
    train.add_argument("--lr-warmup-steps", type=int, metavar="N", help="(0; orbit 200)")
    train.add_argument("--weight-decay", type=float, metavar="WD", help="(0.01)")
    train.add_argument("--ema", action=yes_no, help="evaluate an average of the weights (orbit: on)")
    train.add_argument("--seed", type=int, help="of weights and data (0)")
    train.add_argument("--max-steps", type=int, metavar="N", help="stop early, the plan staying that of --epochs")
    train.add_argument("--max-hours", type=float, metavar="H", help="stop and save; the same command goes on")

    judge = parser.add_argument_group("training: evaluation")
    judge.add_argument("--eval-interval", type=int, metavar="N", help=f"updates ({default.eval_interval})")
    judge.add_argument("--quick-eval-interval", type=int, metavar="N", help=f"updates ({default.quick_eval_interval})")
    judge.add_argument("--test-starts", type=int, metavar="N", help="orbits of the on-orbit sample that is reported "
                       f"({default.test_starts})")  # fmt: skip
    judge.add_argument("--validation-starts", type=int, metavar="N", help="of the one that chooses the best "
                       f"({default.validation_starts})")  # fmt: skip

    files = parser.add_argument_group("training: files and machine")
    files.add_argument("--output-dir", metavar="DIR", help="run folder; default: checkpoints/Collatz/NAME by the "
                       "settings, with --resume-state the folder of that state")  # fmt: skip
    files.add_argument("--resume-state", metavar="FILE", help="full state to go on from; by itself the same command "
                       "goes on from its folder's newest")  # fmt: skip
    files.add_argument("--save-every-eval", action="store_true", help="weights step_N at each evaluation")
    files.add_argument("--checkpoint-interval", type=int, metavar="N", help=f"updates between states ({_STATE_EVERY})")
    files.add_argument("--log-interval", type=int, metavar="N", help="updates between lines of metrics.jsonl (10)")
    files.add_argument("--device", metavar="NAME", help="auto | cpu | cuda | cuda:N")
    files.add_argument("--dtype", metavar="NAME", help="of the layers: float32 | float64")
    files.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    files.add_argument("--dry-run", action="store_true", help="print the plan; write nothing")


def to_config(given: Mapping[str, Any]) -> tuple[TrainConfig, bool]:
    """The run that the given flags describe, and whether to print its plan only. Errors: `UserError`."""
    flags = dict(given)
    dry_run = flags.pop("dry_run", False)
    preset = flags.pop("preset", "faithful")
    for other, names in _ONLY.items():
        for name in names:
            if other != preset and name in flags:
                raise UserError(f"--{name.replace('_', '-')} belongs to --preset {other}, found --preset {preset}")
    run, collatz = (dict(settings) for settings in PRESET_SETTINGS[preset])
    collatz["preset"] = preset
    schedule = flags.pop("lr_schedule", None)
    if schedule is not None:
        run["lr_min_ratio"] = 0.0 if schedule == "cosine" else 1.0
        collatz["legacy_lr_plateau"] = False
    if flags.get("legacy_lr_plateau") and schedule == "cosine":
        raise UserError("--legacy-lr-plateau and --lr-schedule cosine both set the rate: give one of them")
    state = flags.pop("resume_state", None)
    if state is not None:
        path = Path(os.path.expanduser(state))
        if not os.path.isfile(path):  # of a name that is too long, too
            raise UserError(f"--resume-state {state}: there is no such file; name a state such as RUN/latest_state.pt")
        run |= {"resume": str(path), "checkpoint_path": str(path.parent)}
    if "eval_csv" in flags:
        flags["eval_csv"] = str(flags["eval_csv"])
    for name, value in flags.items():
        if name in _OF_THE_RUN:
            run[_OF_THE_RUN[name]] = value
        else:
            collatz[name] = value
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


def _layers(text: str) -> list[int]:
    words = text.split(",")
    if len(words) > MOST_LAYERS or not all(
        word.strip().isascii() and word.strip().isdigit() and 0 < len(word.strip()) <= 6 for word in words
    ):
        raise argparse.ArgumentTypeError(
            f"{text[:60]!r} are no widths of at most {MOST_LAYERS} layers such as 256,128,64"
        )
    return [int(word) for word in words]


_NAMES = {name: flag.replace("_", "-") for flag, name in _OF_THE_RUN.items()}
_OPTION = re.compile(r"option '(?:collatz\.(\w+)|(\w+))'")
_INLINE = {
    "checkpoint_path=": "--output-dir ", "resume=": "--resume-state ", "max_steps=": "--max-steps ",
    "quick_eval_interval=": "--quick-eval-interval ", "most_bits=": "--most-bits ",
}  # fmt: skip


def in_flags(error: UserError) -> UserError:
    """The same message with flags where it names options."""

    def flag(match: re.Match[str]) -> str:
        inner, outer = match[1], match[2]
        return "--" + (inner.replace("_", "-") if inner else _NAMES.get(outer, outer.replace("_", "-")))

    text = _OPTION.sub(flag, str(error))
    return UserError(re.sub(r"\b\w+=", lambda match: _INLINE.get(match[0], match[0]), text))
