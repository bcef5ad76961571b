"""What makes a run itself: the hash that names its folder, and what a saved state must agree with to go on."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from models.registry import MODELS
from options import CONTROL, JUDGING, Setting, settings_of
from training.projects import project_of, settings_classes
from training.rooms import STEPS
from training.settings.checks import unread_of, value_of
from training.settings.older_names import first_name
from training.settings.schema import TrainConfig

_LONGEST_NAME, _LONGEST_VALUE = 150, 40  # file systems take 255 bytes


def default_run_name(cfg: TrainConfig) -> str:
    """`<kind>-<8 hexadecimal digits>`. Other starting weights make another run, though not other settings."""
    project = project_of(cfg)
    start = f"{config_hash(cfg)}{cfg.init_from or ''}".encode("utf-8", "surrogateescape")
    return f"{cfg.arch.name if project is None else project[1].run_kind}-{hashlib.sha256(start).hexdigest()[:8]}"


def sweep_run_name(cfg: TrainConfig, swept: Mapping[str, str]) -> str:
    """The default name and the overrides that a sweep gave this run: `trm-1a2b3c4d-lr_0.001-seed_1`.

    Only letters that a command line takes without quotes; keys by their last part where no other ends alike, long
    values and names cut: the hash tells runs apart.
    """
    last = [key.rpartition(".")[2] for key in swept]
    words = [
        f"{short if last.count(short) == 1 else key}_{_plain_word(value)}"
        for short, (key, value) in zip(last, swept.items(), strict=True)
    ]
    return "-".join([default_run_name(cfg), *words])[:_LONGEST_NAME].rstrip("-_.")


def _plain_word(value: str) -> str:
    """Of a path its last folder; without brackets, quotes and blanks."""
    words = re.findall(r"[A-Za-z0-9.+-]+", value.rstrip("/'\"]").rpartition("/")[2])
    return "_".join(words)[:_LONGEST_VALUE] or "empty"


def config_to_dict(cfg: TrainConfig) -> dict[str, Any]:
    """The config as nested plain containers (what `all_config.yaml` holds), without what the run does not read."""
    project = project_of(cfg)
    unread = {name for name in settings_classes() if project is None or name != project[0]}
    if project is not None:
        unread |= project[1].unread
    return {key: value for key, value in asdict(cfg).items() if key not in unread}


def counted_evaluators(evaluators: Any) -> Any:
    """`evaluators` as hashes and comparisons of runs see it: [], once the default, is null. Neither changes a run."""
    return evaluators or None


def _deciding(cfg: TrainConfig, *unless: str) -> Iterator[tuple[Setting, Any]]:
    """Settings with their values, but for those whose role is among `unless` and those that the run does not read."""
    settings = list(settings_of(type(cfg)))
    # Of what only judges nothing is off here: a section may be read by another, as perturbed starts are by eval.during.
    sections = [s.key for s in settings if s.is_section and s.role != JUDGING]
    off = [key for key in sections if getattr(value_of(cfg, key), "in_use", True) is False]
    off += [f"step.{name}" for name in STEPS.names() if name not in cfg.source.steps]
    project = project_of(cfg)
    if project is not None:
        off += project[1].unread
    off += [f"arch.{setting.key}" for setting in unread_of(cfg.arch)]
    for setting in settings:
        parts = setting.key.split(".")
        if not setting.is_section and setting.role not in unless:
            if not any(".".join(parts[:depth]) in off for depth in (1, 2)):
                value = value_of(cfg, setting.key)
                if setting.key in ("data_paths", "data_paths_test"):
                    value = [os.path.normpath(path) for path in value]
                if setting.key == "evaluators":
                    value = counted_evaluators(value)
                yield setting, value


def given_in_vain(cfg: TrainConfig) -> dict[str, Any]:
    """Settings, by dotted key, that are not at their default though the run does not read them, as their part is off.

    What only judges is left out: `training.inference.choose.check_inference` refuses it.
    """
    read = {setting.key for setting, _ in _deciding(cfg)}
    objective, rates = cfg.objective, cfg.objective.noise_sampling == "loguniform"
    off = {"ema_rate": not cfg.ema, "objective.sigma": rates and objective.in_use}
    off |= {f"wandb.{name}": cfg.wandb.mode == "disabled" for name in ("project", "entity")}
    off |= {f"objective.{name}": not rates for name in ("sigma_min", "sigma_max")}
    return {
        setting.key: value_of(cfg, setting.key)
        for setting in settings_of(type(cfg))
        if not setting.is_section
        and (setting.key not in read or off.get(setting.key, False))
        and value_of(cfg, setting.key) != setting.default
    }


# Of the settings at the top, and sections, those that decide nothing of what is computed.
RUN_CONTROL = tuple(s.key for s in settings_of(TrainConfig) if s.role == CONTROL and "." not in s.key)


def config_hash(cfg: TrainConfig) -> str:
    """sha256 (hex) of the settings that decide what is computed and how it is judged, where they are not the defaults.

    So a new setting, a section that is off, or a new name leaves the hashes of other runs alone. Run control is left
    out.
    """
    kept = {first_name(setting.key): value for setting, value in _deciding(cfg, CONTROL) if value != setting.default}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def run_identity(cfg: TrainConfig) -> dict[str, Any]:
    """Dotted keys and values that must be equal for a saved state to go on: all that shape the weights.

    `epochs` is among them only where it shapes the weights (a cosine, a schedule of a project's or a hook's own), so
    that another run can be made longer.
    """
    identity = {setting.key: value for setting, value in _deciding(cfg, CONTROL, JUDGING)}
    if cfg.lr_min_ratio == 1.0 and not paced_by_epochs(cfg):
        del identity["epochs"]
    return identity


def judged_otherwise(before: TrainConfig, now: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Settings of one run, by dotted key, that say how it is judged and have changed: (then, now)."""
    then, today = ({setting.key: value for setting, value in _deciding(cfg, CONTROL)} for cfg in (before, now))
    kept = {"eval_save_outputs": (before.eval_save_outputs, now.eval_save_outputs)}
    shaping = run_identity(now)
    judging = {key: (then.get(key), value) for key, value in today.items() if key not in (*shaping, "epochs")}
    return {key: values for key, values in (judging | kept).items() if values[0] != values[1]}


def shaping_settings(cfg: TrainConfig) -> dict[str, Any]:
    """Dotted keys and values that shape what a run's weights answer: all of its identity, closed by default.

    Not where its data lie, nor how long it is, which may change in the life of a run.
    """
    deciding = _deciding(cfg, CONTROL, JUDGING)
    return {setting.key: value for setting, value in deciding if setting.key not in ("data_paths", "epochs")}


def schema_fingerprint() -> str:
    """SHA-256 (hex) of the names of all settings: settings under another one were written by other code."""
    keys = sorted(setting.key for setting in settings_of(TrainConfig) if not setting.is_section)
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def paced_by_epochs(cfg: TrainConfig) -> list[str]:
    """Sections whose schedule is drawn over the planned number of updates."""
    sections = (setting.key for setting in settings_of(type(cfg)) if setting.is_section)
    return [key for key in sections if getattr(value_of(cfg, key), "epochs_shape_weights", False)]


def with_defaults(identity: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`identity`, and for the keys that only `other` has what a run without them has: the schema's defaults.

    So a state of before a setting existed goes on with that setting at its default, and with no other.
    """
    defaults = {setting.key: setting.default for setting in settings_of(TrainConfig) if not setting.is_section}
    kind = identity.get("arch.name", other.get("arch.name"))
    if isinstance(kind, str) and kind in MODELS:
        defaults |= {f"arch.{setting.key}": setting.default for setting in settings_of(MODELS[kind].Config)}
    return {key: defaults[key] for key in other if key in defaults and key != "epochs"} | dict(identity)
