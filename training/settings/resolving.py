"""From a plain dictionary to a checked `TrainConfig`, and back: merge, aliases, ranges, defaults, identity.

`resolve` is the one gate: Hydra's composition, flag scripts and a run's `all_config.yaml` pass through it.
It is idempotent: `resolve(config_to_dict(cfg)) == cfg`.
"""

import copy
import difflib
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dataset.plain_data import read_yaml
from errors import UserError
from models.registry import MODELS
from options import CONTROL, JUDGING, Setting, settings_of
from training.projects import project_of, settings_classes
from training.settings.checks import check_ranges, check_resolved, shown, unread_of, value_of
from training.settings.schema import (
    ArchConfig,
    EvalConfig,
    EvaluateConfig,
    FlossConfig,
    GuardConfig,
    LossConfig,
    ObjectiveConfig,
    TrainConfig,
    WandbConfig,
    schema_keys,
)

__all__ = [
    "ARCH_DEFAULTS",
    "ARCH_NAMES",
    "LOSS_NAMES",
    "RUN_CONTROL",
    "ArchConfig",
    "EvalConfig",
    "EvaluateConfig",
    "FlossConfig",
    "GuardConfig",
    "LossConfig",
    "ObjectiveConfig",
    "TrainConfig",
    "WandbConfig",
    "config_hash",
    "config_to_dict",
    "default_run_name",
    "load_config_file",
    "merge_into_schema",
    "nearest_key",
    "resolve",
    "run_identity",
    "schema_keys",
    "with_defaults",
]

# Official class strings and group names -> ours. A foreign file's string is looked up here, never imported.
ARCH_NAMES = {word: name for name, model in MODELS.items() for word in (name, *model.official_names)}
LOSS_NAMES = {"act_loss": "act_loss", "losses@ACTLossHead": "act_loss"}

# What an architecture means by a key that is not given, where that differs from the schema.
ARCH_DEFAULTS: dict[str, dict[str, Any]] = {
    name: {
        setting.key: setting.default
        for setting in settings_of(model.Config)
        if hasattr(ArchConfig, setting.key) and setting.default != getattr(ArchConfig, setting.key)
    }
    for name, model in MODELS.items()
}

_TRUTH_WORDS = ("true", "false", "yes", "no", "on", "off", "y", "n", "1", "0")


def nearest_key(key: str, valid: Iterable[str]) -> str:
    """The valid dotted key most like `key`; a key with the same last part (`hidden_size`) wins."""
    names = list(valid)
    leaf = _leaf(key)
    same_leaf = [name for name in names if _leaf(name) == leaf]
    if same_leaf:
        return max(same_leaf, key=lambda name: _likeness(key, name))
    by_whole = max(names, key=lambda name: _likeness(key, name))
    by_leaf = max(names, key=lambda name: _likeness(leaf, _leaf(name)))
    return by_leaf if _likeness(leaf, _leaf(by_leaf)) > _likeness(key, by_whole) else by_whole


def _leaf(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a.lower()[:200], b.lower()).ratio()


def _type_name(kind: Any) -> str:
    if isinstance(kind, type) and not getattr(kind, "__args__", None):
        return kind.__name__
    return str(kind).replace("typing.", "").replace(" | None", " or null")


def _bad_value(key: str, suffix: str, found: Any, kind: Any) -> UserError:
    return UserError(f"option '{key}'{suffix}: found {shown(found)}, expected {_type_name(kind)}")


def merge_into_schema(raw: Mapping[Any, Any], schema: type, where: str = "") -> Any:
    """Merge a plain container into the dataclass `schema` and return its instance.

    `where` (a file name, say) is added to messages. Errors: `UserError` for an unknown key (the nearest
    valid one is named) and for a value of another type.
    """
    valid = schema_keys(schema)
    suffix = f" in {where}" if where else ""
    _check_keys(raw, "", valid, suffix)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(raw)))
    except OmegaConfBaseException as error:
        key = (getattr(error, "full_key", None) or "").split("[", 1)[0]
        if key not in valid:
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(f"unreadable settings{suffix}: {reason}") from None
        found = _lookup(raw, key)
        if found is _ABSENT:
            raise UserError(f"option '{key}'{suffix} is required: give {key}=VALUE") from None
        raise _bad_value(key, suffix, found, valid[key]) from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(f"unreadable settings{suffix}: {type(error).__name__}: {error}") from None


class _Absent:
    pass


_ABSENT = _Absent()


def _lookup(raw: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(raw, Mapping) or part not in raw:
            return _ABSENT
        raw = raw[part]
    return raw


def _check_keys(raw: Mapping[Any, Any], prefix: str, valid: Mapping[str, Any], suffix: str) -> None:
    for name, value in raw.items():
        key = f"{prefix}{name}"
        if key not in valid or not isinstance(name, str):
            raise UserError(f"unknown option '{key}'{suffix}: the nearest valid key is '{nearest_key(key, valid)}'")
        kind = valid[key]
        if is_dataclass(kind):
            if not isinstance(value, Mapping):
                inner = next(name for name in valid if name.startswith(f"{key}."))
                raise UserError(f"option '{key}'{suffix}: found {shown(value)}, expected keys such as '{inner}'")
            _check_keys(value, f"{key}.", valid, suffix)
        elif _is_markup(value) or (isinstance(value, list | tuple) and any(map(_is_markup, value))):
            raise _bad_value(key, suffix, value, kind)
        elif kind == list[str] and isinstance(value, list | tuple):
            if not all(isinstance(item, str) for item in value):
                raise _bad_value(key, suffix, value, kind)
        elif "bool" in _type_name(kind).split() and not (value is None or _is_truth(value)):
            # OmegaConf would take any number but 0 for true.
            raise _bad_value(key, suffix, value, kind)
        elif isinstance(value, float) and "int" in _type_name(kind).split():
            # OmegaConf would cut 1.5 down to 1.
            if not math.isfinite(value) or value != int(value):
                raise _bad_value(key, suffix, value, kind)


def _is_truth(value: Any) -> bool:
    return value in (True, False) or (isinstance(value, str) and value.lower() in _TRUTH_WORDS)


def _is_markup(value: Any) -> bool:
    # OmegaConf would pass over a missing-value mark, and look up an interpolation (the environment, for one).
    return isinstance(value, str) and (value == "???" or "${" in value)


def _mapped(table: Mapping[str, str], key: str, value: Any) -> str:
    if not isinstance(value, str) or value not in table:
        names = ", ".join(dict.fromkeys(table.values()))
        raise UserError(f"option '{key}': found {shown(value)}, expected one of: {names}")
    return table[value]


def resolve(raw: Mapping[str, Any], *, require_data: bool = True) -> TrainConfig:
    """Merge, check and complete one run's settings.

    `raw` is a plain container (interpolations resolved). Aliases are moved to the one name the code reads
    (`data_path`, `load_checkpoint`, `arch.forward_dtype` end as None); official class strings become ours.
    `require_data=False` lets a config without data folders pass (to print it, or to build a model only).
    Errors: `UserError`, one line naming the key, what was found and what was expected.
    """
    plain = copy.deepcopy(dict(raw))
    arch = plain.get("arch", {})
    if isinstance(arch, dict):
        name = _mapped(ARCH_NAMES, "arch.name", arch.get("name", "trm"))
        arch = {**ARCH_DEFAULTS[name], **arch, "name": name}
        if arch.get("puzzle_emb_ndim") is None:
            arch["puzzle_emb_ndim"] = arch.get("hidden_size", ArchConfig.hidden_size)
        loss = arch.get("loss")
        if isinstance(loss, dict) and "name" in loss:
            arch["loss"] = {**loss, "name": _mapped(LOSS_NAMES, "arch.loss.name", loss["name"])}
        plain["arch"] = arch
    cfg: TrainConfig = merge_into_schema(plain, TrainConfig)
    _move_aliases(cfg)
    check_ranges(cfg)
    project = project_of(cfg)
    if project is not None:
        project[1].check(cfg)
    for name, kind in settings_classes().items():
        section = getattr(cfg, name)
        changed = [s.key for s in settings_of(kind) if value_of(section, s.key) != s.default]
        if changed and not section.in_use:
            raise UserError(
                f"option '{name}.{changed[0]}' is read by {name.capitalize()} runs only: start one with {kind.command}"
            )
    _complete(cfg)
    check_resolved(cfg, require_data=require_data and project is None)
    return cfg


def _move_aliases(cfg: TrainConfig) -> None:
    if cfg.data_path is not None:
        named = [os.path.normpath(path) for path in cfg.data_paths]
        if named and named != [os.path.normpath(cfg.data_path)]:
            raise _conflict("data_path", cfg.data_path, "data_paths", cfg.data_paths)
        cfg.data_paths, cfg.data_path = cfg.data_paths or [cfg.data_path], None
    if cfg.load_checkpoint is not None:
        if cfg.init_from not in (None, cfg.load_checkpoint):
            raise _conflict("load_checkpoint", cfg.load_checkpoint, "init_from", cfg.init_from)
        cfg.init_from, cfg.load_checkpoint = cfg.load_checkpoint, None
    if cfg.arch.forward_dtype is not None:
        if cfg.dtype not in ("auto", cfg.arch.forward_dtype):
            raise _conflict("arch.forward_dtype", cfg.arch.forward_dtype, "dtype", cfg.dtype)
        cfg.dtype, cfg.arch.forward_dtype = cfg.arch.forward_dtype, None


def _conflict(alias: str, alias_value: Any, name: str, value: Any) -> UserError:
    return UserError(f"{alias}={alias_value} and {name}={value} say different things: give one of them")


def _complete(cfg: TrainConfig) -> None:
    if cfg.arch.puzzle_emb_len == 0:
        cfg.arch.puzzle_emb_len = -(-cfg.arch.puzzle_emb_ndim // cfg.arch.hidden_size)
    if cfg.objective.name != "act_streaming" and cfg.state_dtype == "auto" and cfg.dtype != "float64":
        # The baseline among these objectives too: what it is compared with must differ from it by the noise alone.
        cfg.state_dtype = "float32"
    if cfg.floss.in_use:
        # Tangents are lost in bfloat16. What is compared with such a run must be asked for the same.
        cfg.dtype = "float32" if cfg.dtype == "auto" else cfg.dtype
        cfg.state_dtype = cfg.dtype if cfg.state_dtype == "auto" else cfg.state_dtype
    if cfg.project_name is None:
        project = project_of(cfg)
        folder = os.path.basename(os.path.normpath(cfg.data_paths[0])) if cfg.data_paths else "no-data"
        cfg.project_name = f"{folder.capitalize()}-ACT-torch" if project is None else project[1].project_name
    if cfg.run_name is None:
        cfg.run_name = default_run_name(cfg)
    if cfg.checkpoint_path is None:
        cfg.checkpoint_path = str(Path("checkpoints") / cfg.project_name / cfg.run_name)


def default_run_name(cfg: TrainConfig) -> str:
    """`<kind>-<8 hexadecimal digits>`. Other starting weights make another run, though not other settings."""
    project = project_of(cfg)
    start = f"{config_hash(cfg)}{cfg.init_from or ''}".encode("utf-8", "surrogateescape")
    return f"{cfg.arch.name if project is None else project[1].run_kind}-{hashlib.sha256(start).hexdigest()[:8]}"


def config_to_dict(cfg: TrainConfig) -> dict[str, Any]:
    """The config as nested plain containers (what `all_config.yaml` holds), without what the run does not read."""
    project = project_of(cfg)
    unread = {name for name in settings_classes() if project is None or name != project[0]}
    if project is not None:
        unread |= project[1].unread
    return {key: value for key, value in asdict(cfg).items() if key not in unread}


def _deciding(cfg: TrainConfig, *unless: str) -> Iterator[tuple[Setting, Any]]:
    """Settings with their values, but for those whose role is among `unless` and those that the run does not read."""
    off = [name for name, value in vars(cfg).items() if getattr(value, "in_use", True) is False]
    project = project_of(cfg)
    if project is not None:
        off += project[1].unread
    off += [f"arch.{setting.key}" for setting in unread_of(cfg.arch)]
    for setting in settings_of(type(cfg)):
        parts = setting.key.split(".")
        if not setting.is_section and setting.role not in unless:
            if not any(".".join(parts[:depth]) in off for depth in (1, 2)):
                value = value_of(cfg, setting.key)
                if setting.key in ("data_paths", "data_paths_test"):
                    value = [os.path.normpath(path) for path in value]
                yield setting, value


# Of the settings at the top, and sections, those that decide nothing of what is computed.
RUN_CONTROL = tuple(s.key for s in settings_of(TrainConfig) if s.role == CONTROL and "." not in s.key)


def config_hash(cfg: TrainConfig) -> str:
    """sha256 (hex) of the settings that decide what is computed and how it is judged, where they are not the defaults.

    So a new setting, or a section that is off, leaves the hashes of other runs alone. Run control is left out.
    """
    kept = {setting.key: value for setting, value in _deciding(cfg, CONTROL) if value != setting.default}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def run_identity(cfg: TrainConfig) -> dict[str, Any]:
    """Dotted keys and values that must be equal for a saved state to go on: all that shape the weights.

    `epochs` is among them only where it shapes the learning rate (a cosine), so that a run with a constant
    learning rate can be made longer.
    """
    identity = {setting.key: value for setting, value in _deciding(cfg, CONTROL, JUDGING)}
    if cfg.lr_min_ratio == 1.0:
        del identity["epochs"]
    return identity


def with_defaults(identity: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`identity`, and for the keys that only `other` has what a run without them has: the schema's defaults.

    So a state of before a setting existed goes on with that setting at its default, and with no other.
    """
    defaults = {setting.key: setting.default for setting in settings_of(TrainConfig) if not setting.is_section}
    return {key: defaults[key] for key in other if key in defaults and key != "epochs"} | dict(identity)


def load_config_file(path: str | os.PathLike[str]) -> TrainConfig:
    """Read a run's `all_config.yaml`, ours or one written by the official TRM or HRM code.

    Keys this schema does not have (forks add many) are ignored with one warning line. Only safe yaml
    is read, at most 128 KiB. Errors: `UserError` naming the file.
    """
    path = Path(path)
    raw = read_yaml(path, "expected a run's all_config.yaml")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: found {type(raw).__name__}, expected option names with values")
    ignored: list[str] = []
    try:
        known = _drop_unknown(raw, "", schema_keys(TrainConfig), ignored)
        cfg = resolve(known, require_data=False)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a config file") from None
    if ignored:
        names = " ".join(", ".join(ignored)[:500].split())
        print(f"warning: {path}: options unknown here are ignored: {names}", file=sys.stderr)
    return cfg


def _drop_unknown(raw: Mapping[Any, Any], prefix: str, valid: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
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
