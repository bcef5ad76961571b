"""Ranges and combinations of settings. A failure is one line: the key, what was found, what was expected."""

import math
from typing import Any

from errors import UserError
from models.registry import MODELS
from options import settings_of
from training.projects import project_of
from training.rooms import HOOKS, TERMS
from training.settings.schema import ArchConfig, FlossConfig, ObjectiveConfig, TrainConfig


def shown(value: Any) -> str:
    """A value as messages show it: not too long, and without the digits of a number of thousands of them."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no integer of more than 4,300 digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def _fail(key: str, value: Any, expected: str) -> None:
    raise UserError(f"option '{key}': found {shown(value)}, expected {expected}")


def value_of(config: Any, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        config = getattr(config, name)
    return config


def check_ranges(config: Any, prefix: str = "") -> None:
    """Refuse a single value out of its range, before anything is derived from it. `prefix`: of the keys in messages."""
    for setting in settings_of(type(config)):
        if not setting.is_section:
            value = value_of(config, setting.key)
            expected = setting.refusal(value)
            if expected is not None:
                _fail(prefix + setting.key, value, expected)


def check_resolved(cfg: TrainConfig, *, require_data: bool) -> None:
    """Refuse combinations that cannot run."""
    _check_arch(cfg.arch)
    _check_objective(cfg.objective)
    if cfg.floss.mode != "off":
        _check_floss(cfg, cfg.floss)
    _check_ideas(cfg)
    epochs, interval, batch = cfg.epochs, cfg.eval_interval, cfg.global_batch_size
    if interval is not None and epochs % interval:
        fits = math.gcd(epochs, interval)
        _fail("eval_interval", interval, f"a divisor of epochs={epochs}, for example eval_interval={fits}")
    if batch % cfg.accumulation_slices:
        _fail("accumulation_slices", cfg.accumulation_slices, f"a divisor of global_batch_size={batch}")
    if cfg.early_stop_patience is not None and cfg.validation_size == 0 and project_of(cfg) is None:
        _fail("early_stop_patience", cfg.early_stop_patience, "null: validation_size=0 leaves no rows to judge by")
    if cfg.freeze_weights and cfg.arch.puzzle_emb_ndim == 0:
        _fail("freeze_weights", True, "a puzzle table to train: arch.puzzle_emb_ndim is 0")
    if cfg.freeze_weights and cfg.objective.perturb == "weights":
        _fail("objective.perturb", "weights", "another site: freeze_weights=True trains no weight")
    if require_data and not cfg.data_paths:
        raise UserError(
            'no data: give data_paths="[FOLDER]"; a folder is built by '
            "python dataset/build_sudoku_dataset.py --output-dir FOLDER (other options: --help)"
        )


def _check_objective(objective: ObjectiveConfig) -> None:
    name, count = objective.name, objective.num_trajectories
    if name == "multi_perturbed_ce":
        if count < 2:
            _fail("objective.num_trajectories", count, f"at least 2 for {name}: a clean one and a perturbed one")
    elif count != 1:
        _fail("objective.num_trajectories", count, f"1 for {name}; objective=multi_perturbed_ce takes several")
    if objective.sigma_min > objective.sigma_max:
        expected = f"at most objective.sigma_max={objective.sigma_max:g}"
        _fail("objective.sigma_min", objective.sigma_min, expected)
    if objective.noise_sampling == "loguniform" and objective.sigma_min == 0:
        _fail("objective.sigma_min", 0.0, "a number above 0, as loguniform takes its logarithm")


def _check_ideas(cfg: TrainConfig) -> None:
    """Averages and steps must be there that are named, and a project's runs have no term, hook or step of puzzles."""
    asked = cfg.evaluate_weights
    if asked == "ema" and not cfg.ema:
        _fail("evaluate_weights", asked, "raw, or ema=True beside it")
    if asked == "swa" and "swa" not in dict(HOOKS.in_use(cfg.hook)):
        _fail("evaluate_weights", asked, "raw or ema, or hook.swa.enabled=True beside it")
    steps = cfg.source.steps
    if len(set(steps)) < len(steps):
        _fail("source.steps", steps, "each step once")
    for setting in settings_of(type(cfg.step)):
        name = setting.key.partition(".")[0]
        value = None if setting.is_section else value_of(cfg.step, setting.key)
        if not setting.is_section and name not in steps and value != setting.default:
            _fail(f"step.{setting.key}", value, f"{setting.default!r}, or source.steps=[{','.join([*steps, name])}]")
    project = project_of(cfg)
    if project is not None:
        named = {"source.steps": steps} if steps else {}
        for room in (TERMS, HOOKS):
            for name, settings in room.in_use(getattr(cfg, room.key)):
                named[f"{room.key}.{name}.{settings.switch}"] = getattr(settings, settings.switch)
        for key, value in named.items():
            _fail(key, value, f"its default: {project[0].capitalize()} runs do not read it")


def check_read(cfg: TrainConfig) -> None:
    """Refuse terms and hooks that would do nothing. Asked of a new run only: earlier ones go on as they were begun."""
    for room in (TERMS, HOOKS):
        for name, settings in room.in_use(getattr(cfg, room.key)):
            if (found := settings.unread(cfg)) is not None:
                _fail(f"{room.key}.{name}.{found[0]}", getattr(settings, found[0]), found[1])


def _check_floss(cfg: TrainConfig, floss: FlossConfig) -> None:
    arch = cfg.arch
    if cfg.freeze_weights:
        _fail("floss.mode", floss.mode, "off: freeze_weights=True trains no weight")
    for key in ("dtype", "state_dtype"):
        if value_of(cfg, key) == "bfloat16":
            _fail(key, "bfloat16", "float32 or float64 with floss.mode, as bfloat16 loses tangents")
    updates = arch.H_cycles * (arch.L_cycles + 1)
    maps = floss.window * (updates if floss.unit == "step" else 1)
    if maps % floss.qr_interval:
        _fail("floss.qr_interval", floss.qr_interval, f"a divisor of the window's {maps} sub-updates")
    steps = floss.warmup + -(-maps // updates)
    if steps > arch.halt_max_steps:
        expected = f"at most {arch.halt_max_steps} supervision steps (arch.halt_max_steps) with floss.warmup"
        _fail("floss.window", f"{floss.window} {floss.unit}s, with the warm-up {steps} steps", expected)


def _check_arch(arch: ArchConfig) -> None:
    """What the model itself says of this shape."""
    if arch.puzzle_emb_ndim == 0 and arch.puzzle_emb_len > 0:
        _fail("arch.puzzle_emb_len", arch.puzzle_emb_len, "0, as arch.puzzle_emb_ndim=0 means no prefix")
    for name, value, expected in MODELS[arch.name].Config.problems(arch):
        _fail(f"arch.{name}", value, expected)


def unread_of(arch: ArchConfig) -> list[Any]:
    """The settings of `arch` that other models read and this one does not."""
    read = MODELS[arch.name].Config.__dataclass_fields__
    others = {name for model in MODELS.values() for name in model.Config.__dataclass_fields__} - set(read)
    return [setting for setting in settings_of(type(arch)) if setting.key in others]
