"""From a plain dictionary to a checked `TrainConfig`, and back: merge, aliases, ranges, defaults, identity.

`resolve` is the one gate: Hydra's composition, flag scripts and a run's `all_config.yaml` all pass through it. It is
idempotent: `resolve(config_to_dict(cfg)) == cfg`.
"""

import copy
import difflib
import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from errors import UserError
from training.config_checks import check_ranges, check_resolved
from training.config_schema import ArchConfig, GuardConfig, LossConfig, TrainConfig, WandbConfig, schema_keys

__all__ = [
    "ARCH_DEFAULTS",
    "ARCH_NAMES",
    "LOSS_NAMES",
    "ArchConfig",
    "GuardConfig",
    "LossConfig",
    "TrainConfig",
    "WandbConfig",
    "config_hash",
    "config_to_dict",
    "load_config_file",
    "merge_into_schema",
    "nearest_key",
    "resolve",
    "run_identity",
    "schema_keys",
]

# Official class strings (and group names) -> ours. A string of a foreign file is looked up here, never imported.
ARCH_NAMES = {
    "trm": "trm",
    "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1": "trm",
    "hrm": "hrm",
    "hrm_v1": "hrm",
    "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1": "hrm",
    "recursive_reasoning.hrm@HierarchicalReasoningModel_ACTV1": "hrm",
}
LOSS_NAMES = {"act_loss": "act_loss", "losses@ACTLossHead": "act_loss"}

# What an architecture means by a key that is not given, where that differs from the dataclass.
ARCH_DEFAULTS: dict[str, dict[str, Any]] = {
    "trm": {},
    "hrm": {
        "H_cycles": 2,
        "L_cycles": 2,
        "H_layers": 4,
        "L_layers": 4,
        "puzzle_emb_len": 0,
        "no_ACT_continue": False,
    },
}

# How a run is started, stopped, placed and reported; none of it changes what is computed.
RUN_CONTROL = (
    "project_name",
    "run_name",
    "checkpoint_path",
    "data_path",
    "load_checkpoint",
    "init_from",
    "resume",
    "max_steps",
    "max_hours",
    "checkpoint_interval",
    "checkpoint_every_eval",
    "keep_last",
    "device",
    "compile",
    "threads",
    "eval_batch_size",
    "eval_save_outputs",
    "log_interval",
    "status_interval_seconds",
    "wandb",
)

# A state of one run goes on only under the same of these (and the same arch.*).
IDENTITY = (
    "data_paths",
    "global_batch_size",
    "eval_interval",
    "lr",
    "lr_min_ratio",
    "lr_warmup_steps",
    "beta1",
    "beta2",
    "weight_decay",
    "puzzle_emb_weight_decay",
    "puzzle_emb_lr",
    "seed",
    "ema",
    "ema_rate",
    "freeze_weights",
    "optimizer",
    "grad_clip_norm",
    "accumulation_slices",
    "augment",
    "dtype",
    "state_dtype",
)

MAX_CONFIG_BYTES = 1 << 20
MAX_YAML_ALIASES = 16


def nearest_key(key: str, valid: Mapping[str, Any] | list[str]) -> str:
    """The valid dotted key most like `key`; a key with the same last part (`hidden_size`) wins."""
    names = list(valid)
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [name for name in names if name.rsplit(".", 1)[-1] == leaf]
    if same_leaf:
        return max(same_leaf, key=lambda name: difflib.SequenceMatcher(None, key, name).ratio())
    lowered = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(key.lower(), list(lowered), n=1, cutoff=0.0)
    by_leaf = difflib.get_close_matches(
        leaf.lower(), [name.rsplit(".", 1)[-1].lower() for name in names], n=1, cutoff=0.8
    )
    if by_leaf and difflib.SequenceMatcher(None, key.lower(), close[0]).ratio() < 0.7:
        return next(name for name in names if name.rsplit(".", 1)[-1].lower() == by_leaf[0])
    return lowered[close[0]]


def type_name(kind: Any) -> str:
    """A type as a reader of a command line would say it."""
    if is_dataclass(kind):
        return "a group of keys"
    if isinstance(kind, type) and not getattr(kind, "__args__", None):
        return kind.__name__
    return str(kind).replace("typing.", "").replace(" | None", " or null")


def merge_into_schema(raw: Mapping[Any, Any], schema: type, where: str = "") -> Any:
    """Merge a plain container into `schema` and return its instance.

    Errors: `UserError` for an unknown key (the nearest valid one is named) or a value of another type.
    """
    valid = schema_keys(schema)
    suffix = f" in {where}" if where else ""
    _refuse_unknown(raw, "", valid, suffix)
    try:
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(raw)))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or ""
        key = key.split("[", 1)[0]
        if key not in valid:
            raise UserError(f"unreadable settings{suffix}: {str(error).splitlines()[0]}") from None
        found = _lookup(raw, key)
        if found is _ABSENT:
            raise UserError(
                f"option '{key}' is required{suffix}: give {key}=<{type_name(valid[key])}>"
            ) from None
        raise UserError(
            f"option '{key}'{suffix}: found {found!r}, expected {type_name(valid[key])}"
        ) from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(f"unreadable settings{suffix}: {error}") from None
    return merged


class _Absent:
    pass


_ABSENT = _Absent()


def _lookup(raw: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(raw, Mapping) or part not in raw:
            return _ABSENT
        raw = raw[part]
    return raw


def _refuse_unknown(raw: Mapping[Any, Any], prefix: str, valid: Mapping[str, Any], suffix: str) -> None:
    for name, value in raw.items():
        key = f"{prefix}{name}"
        if key not in valid or not isinstance(name, str):
            raise UserError(
                f"unknown option '{key}'{suffix}: nearest valid key is '{nearest_key(key, valid)}'"
            )
        kind = valid[key]
        if is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise UserError(
                    f"option '{key}'{suffix}: found {value!r}, expected a group of keys such as '{key}."
                    f"{next(k for k in valid if k.startswith(key + '.'))[len(key) + 1 :]}'"
                )
            _refuse_unknown(value, f"{key}.", valid, suffix)
        elif isinstance(value, float) and not isinstance(value, bool) and "int" in type_name(kind).split():
            # OmegaConf would cut 1.5 down to 1.
            if not math.isfinite(value) or value != int(value):
                raise UserError(f"option '{key}'{suffix}: found {value!r}, expected {type_name(kind)}")


def _mapped(table: Mapping[str, str], key: str, value: Any) -> str:
    if not isinstance(value, str) or value not in table:
        names = ", ".join(dict.fromkeys(table.values()))
        raise UserError(f"option '{key}': found {value!r}, expected one of: {names}")
    return table[value]


def resolve(raw: Mapping[str, Any], *, require_data: bool = True) -> TrainConfig:
    """Merge, check and complete one run's settings.

    `raw` is a plain container (interpolations resolved). Aliases are moved to the one name the code reads
    (`data_path`, `load_checkpoint`, `arch.forward_dtype` end as None); official class strings become ours.
    `require_data=False` lets a config without data folders pass (to print it, or to build a model only).
    Errors: `UserError`, one line naming key, value and what was expected.
    """
    plain = copy.deepcopy(dict(raw))
    arch = plain.get("arch")
    if isinstance(arch, dict):
        name = _mapped(ARCH_NAMES, "arch.name", arch.get("name", "trm"))
        arch = {**ARCH_DEFAULTS[name], **arch, "name": name}
        if arch.get("puzzle_emb_ndim") is None and "hidden_size" in arch:
            arch["puzzle_emb_ndim"] = arch["hidden_size"]
        if isinstance(arch.get("loss"), dict) and "name" in arch["loss"]:
            arch["loss"] = {
                **arch["loss"],
                "name": _mapped(LOSS_NAMES, "arch.loss.name", arch["loss"]["name"]),
            }
        plain["arch"] = arch
    cfg: TrainConfig = merge_into_schema(plain, TrainConfig)
    _move_aliases(cfg)
    check_ranges(cfg)
    _complete(cfg)
    check_resolved(cfg, require_data=require_data)
    return cfg


def _move_aliases(cfg: TrainConfig) -> None:
    if cfg.data_path is not None:
        if cfg.data_paths and [os.path.normpath(p) for p in cfg.data_paths] != [
            os.path.normpath(cfg.data_path)
        ]:
            raise UserError(
                f"data_path={cfg.data_path} and data_paths={cfg.data_paths} name different folders: give one of them"
            )
        cfg.data_paths, cfg.data_path = cfg.data_paths or [cfg.data_path], None
    if cfg.load_checkpoint is not None:
        if cfg.init_from not in (None, cfg.load_checkpoint):
            raise UserError(
                f"load_checkpoint={cfg.load_checkpoint} and init_from={cfg.init_from} differ: give one of them"
            )
        cfg.init_from, cfg.load_checkpoint = cfg.load_checkpoint, None
    if cfg.arch.forward_dtype is not None:
        if cfg.dtype not in ("auto", cfg.arch.forward_dtype):
            raise UserError(
                f"arch.forward_dtype={cfg.arch.forward_dtype} and dtype={cfg.dtype} differ: give one of them"
            )
        cfg.dtype, cfg.arch.forward_dtype = cfg.arch.forward_dtype, None


def _complete(cfg: TrainConfig) -> None:
    if cfg.arch.puzzle_emb_len == 0:
        cfg.arch.puzzle_emb_len = -(-cfg.arch.puzzle_emb_ndim // cfg.arch.hidden_size)
    if cfg.project_name is None:
        folder = os.path.basename(os.path.normpath(cfg.data_paths[0])) if cfg.data_paths else "no data"
        cfg.project_name = f"{folder.capitalize()}-ACT-torch"
    if cfg.run_name is None:
        # Other starting weights make another run, though not other settings.
        start = f"{config_hash(cfg)}{cfg.init_from or ''}"
        cfg.run_name = f"{cfg.arch.name}-{hashlib.sha256(start.encode()).hexdigest()[:8]}"
    if cfg.checkpoint_path is None:
        cfg.checkpoint_path = str(Path("checkpoints") / cfg.project_name / cfg.run_name)


def config_to_dict(cfg: TrainConfig) -> dict[str, Any]:
    """The config as nested plain containers (what `all_config.yaml` holds)."""
    return asdict(cfg)


def config_hash(cfg: TrainConfig) -> str:
    """sha256 (hex) of the settings that decide what is computed; run control (`RUN_CONTROL`) is left out."""
    plain = config_to_dict(cfg)
    kept = {key: value for key, value in plain.items() if key not in RUN_CONTROL}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def run_identity(cfg: TrainConfig) -> dict[str, Any]:
    """Dotted keys and values that must be equal for a saved state to go on.

    `epochs` is among them only where it shapes the learning rate (a cosine), so that a run with a constant
    learning rate can be made longer.
    """
    plain = config_to_dict(cfg)
    identity = {key: plain[key] for key in IDENTITY}
    identity["data_paths"] = [os.path.normpath(path) for path in cfg.data_paths]
    if cfg.lr_min_ratio != 1.0:
        identity["epochs"] = cfg.epochs
    for key, kind in schema_keys(ArchConfig).items():
        if not is_dataclass(kind):
            identity[f"arch.{key}"] = _lookup(plain["arch"], key)
    return identity


def load_config_file(path: str | os.PathLike[str]) -> TrainConfig:
    """Read a run's `all_config.yaml`, ours or one written by the official TRM or HRM code.

    Keys this schema does not have (forks add many) are ignored with one warning line. Safe yaml only, at most
    1 MiB. Errors: `UserError` naming the file.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise UserError(f"{path}: {size} bytes, expected a config of at most {MAX_CONFIG_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; expected the all_config.yaml of a run folder"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text; expected the all_config.yaml of a run folder") from None
    try:
        # Aliases can make a small file expand without bound.
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        if aliases > MAX_YAML_ALIASES:
            raise UserError(f"{path}: {aliases} yaml aliases, expected a plain config file")
        raw = yaml.safe_load(text)
        if not isinstance(raw, dict):
            raise UserError(
                f"{path}: found {type(raw).__name__}, expected a mapping of option names to values"
            )
        ignored: list[str] = []
        known = _drop_unknown(raw, "", schema_keys(TrainConfig), ignored)
        if ignored:
            print(
                f"warning: {path}: ignored options this program does not have: {', '.join(ignored)}",
                file=sys.stderr,
            )
        return resolve(known, require_data=False)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not a safe yaml file: {str(error).splitlines()[0]}") from None
    except (RecursionError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a config file: {type(error).__name__}") from None
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _drop_unknown(
    raw: Mapping[Any, Any], prefix: str, valid: Mapping[str, Any], ignored: list[str]
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in raw.items():
        key = f"{prefix}{name}"
        if key not in valid:
            ignored.append(key)
        elif is_dataclass(valid[key]) and isinstance(value, Mapping):
            kept[name] = _drop_unknown(value, f"{key}.", valid, ignored)
        else:
            kept[name] = value
    return kept
