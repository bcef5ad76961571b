"""From a plain dictionary to a checked `TrainConfig`: merge, aliases, ranges, defaults that follow from others.

`resolve` is the one gate: Hydra's composition, flag scripts and a run's `all_config.yaml` pass through it.
It is idempotent: `resolve(config_to_dict(cfg)) == cfg`.
"""

import copy
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from dataset.plain_data import read_yaml
from errors import UserError, say
from models.registry import MODELS
from options import settings_of
from training.projects import project_of, settings_classes
from training.settings.checks import check_ranges, check_resolved, shown, value_of
from training.settings.evaluator_list import listed
from training.settings.identity import (
    config_to_dict,
    default_run_name,
    schema_fingerprint,
    shaping_settings,
    with_defaults,
)
from training.settings.merging import ABSENT, look_up, merge_into_schema
from training.settings.older_names import move_older_names
from training.settings.schema import ArchConfig, TrainConfig, schema_keys
from training.storage.run_folder import WEIGHTS_RECORD, compare_run_identity
from training.storage.weights_record import WeightsRecord, read_record

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


def _mapped(table: Mapping[str, str], key: str, value: Any) -> str:
    if not isinstance(value, str) or value not in table:
        names = ", ".join(dict.fromkeys(table.values()))
        raise UserError(f"option '{key}': found {shown(value)}, expected one of: {names}")
    return table[value]


def resolve(raw: Mapping[str, Any], *, require_data: bool = True) -> TrainConfig:
    """Merge, check and complete one run's settings.

    `raw` is a plain container (interpolations resolved). Older names and aliases are moved to the one name the code
    reads (`data_path`, `load_checkpoint`, `arch.forward_dtype` end as None); official class strings become ours.
    `require_data=False` lets a config without data folders pass (to print it, or to build a model only).
    Errors: `UserError`, one line naming the key, what was found and what was expected.
    """
    plain = copy.deepcopy(dict(raw))
    move_older_names(plain, TrainConfig)
    if plain.get("compile") == "auto":
        plain["compile"] = None
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
    cfg.evaluators = listed(cfg.evaluators)


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


# What every run of this suite has written and no official one has. One is enough: others may be damaged.
_OWN_KEYS = ("checkpoint_interval", "term", "hook", "guards", "collatz", "fast_validation_size")


def load_config_file(path: str | os.PathLike[str]) -> TrainConfig:
    """Read a run's `all_config.yaml`, ours or one written by the official TRM or HRM code.

    Ours is read strictly: an unknown key is refused; a missing one is at its default where the file was written before
    the key existed, else refused; and what the folder's `weights.json` says the weights were made with must stand
    here. In a foreign file keys that this schema does not have (forks add many) are ignored with one warning line.
    Only safe yaml is read, at most 128 KiB. Errors: `UserError` naming the file.
    """
    path = Path(path)
    raw = read_yaml(path, "expected a run's all_config.yaml")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: found {type(raw).__name__}, expected option names with values")
    record = read_record(path.parent)
    ours = record is not None or any(key in raw for key in _OWN_KEYS)
    ignored: list[str] = []
    try:
        move_older_names(raw, TrainConfig)
        known = raw if ours else _drop_unknown(raw, "", schema_keys(TrainConfig), ignored)
        cfg = resolve(known, require_data=False)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a config file") from None
    if record is not None:
        _refuse_edited(path, raw, cfg, record)
    if ignored:
        names = " ".join(", ".join(ignored)[:500].split())
        say(f"warning: {path}: options unknown here are ignored: {names}", file=sys.stderr)
    return cfg


def _refuse_edited(path: Path, raw: Mapping[str, Any], cfg: TrainConfig, record: WeightsRecord) -> None:
    """Errors: `UserError` where settings are not those of the run that made the folder's weights."""
    way_out = f"put it back, or remove {path.with_name(WEIGHTS_RECORD)} to use other settings with these weights"
    if record.schema == schema_fingerprint():
        missing = [key for key in _leaves(config_to_dict(cfg)) if look_up(raw, key) is ABSENT]
        if missing:
            raise UserError(f"{path}: option {missing[0]!r} is missing, which the run had written; {way_out}")
    now, before = shaping_settings(cfg), dict(record.settings)
    differences = compare_run_identity(with_defaults(before, now), with_defaults(now, before))
    size = (record.rows or {}).get("validation_size", cfg.validation_size)
    differences += compare_run_identity({"validation_size": size}, {"validation_size": cfg.validation_size})
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise UserError(f"{path} was changed since its run: {differences[0]}{more}; {way_out}")


def _leaves(plain: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of what is no section. A free-form value, such as one of `evaluators`, is a leaf."""
    valid = schema_keys(TrainConfig)
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if is_dataclass(valid.get(key)) and isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.")
        else:
            yield key


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
