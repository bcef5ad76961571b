"""Ranges and combinations of settings. A failure is one line: the key, what was found, what was expected."""

import math
import re
from collections.abc import Iterable
from typing import Any

from errors import UserError
from models.config import KAPPA_RANGE
from training.settings.schema import ArchConfig, EvalConfig, FlossConfig, ObjectiveConfig, TrainConfig

LOSS_TYPES = ("stablemax_cross_entropy", "stablemax_cross_entropy_float32", "softmax_cross_entropy")
POS_ENCODINGS = ("rope", "learned", "none")
DTYPES = ("auto", "float64", "float32", "bfloat16")
OPTIMIZERS = ("adam_atan2", "adamw", "muon")
AUGMENTS = ("auto", "stored", "on_the_fly", "none")
GUARD_MODES = ("warn", "abort", "off")
WANDB_MODES = ("disabled", "offline", "online")
EVALUATORS = ("arc@ARC",)
OBJECTIVES = ("act_streaming", "baseline_ce", "single_perturbed_ce", "multi_perturbed_ce")
ROLLOUTS = ("parallel_fixed", "serial_act", "act_mask")
SITES = ("z_H", "z_L", "both")
PERTURBED = (*SITES, "input", "weights")  # in training; the last two are controls
NOISE_SAMPLINGS = ("fixed", "loguniform", "mixture")
MASK_NORMALIZERS = ("trajectory", "valid_steps")
FLOSS_MODES = ("off", "pre", "inter", "pre_inter")
FLOSS_UNITS = ("step", "sub_update")
FLOSS_PLACES = ("all", "late", "failed")

_AT_LEAST_ONE = (
    "arch.halt_max_steps arch.H_cycles arch.L_cycles arch.L_layers arch.hidden_size arch.num_heads "
    "arch.swiglu_multiple global_batch_size epochs eval_interval max_steps checkpoint_interval keep_last "
    "archive_keep accumulation_slices threads eval_batch_size max_test_rows fast_eval_interval force_full_eval_every "
    "early_stop_patience log_interval eval.max_steps eval.vote "
    "objective.num_trajectories floss.k floss.window floss.qr_interval floss.rows floss.every"
).split()
_NOT_NEGATIVE = (
    "arch.H_layers arch.puzzle_emb_ndim arch.puzzle_emb_len lr lr_warmup_steps weight_decay "
    "puzzle_emb_weight_decay puzzle_emb_lr min_eval_interval validation_size fast_eval_delta "
    "status_interval_seconds guards.after_updates objective.sigma objective.sigma_min objective.sigma_max "
    "objective.clean_warmup_steps objective.sigma_ramp_steps floss.weight floss.warmup floss.pre_steps"
).split()
_POSITIVE = (
    "arch.expansion arch.rope_theta arch.rms_norm_eps max_hours grad_clip_norm collective_timeout_seconds floss.clip"
).split()
_RATES = "lr puzzle_emb_lr weight_decay puzzle_emb_weight_decay".split()
MAX_RATE = 1e30  # larger ones overflow float32 inside the optimizers
_FRACTION = "arch.halt_exploration_prob lr_min_ratio ema_rate objective.p_clean".split()
_BELOW_ONE = "beta1 beta2".split()
_TEXT = "resume run_name project_name checkpoint_path init_from wandb.project wandb.entity".split()


def shown(value: Any) -> str:
    """A value as messages show it: not too long, and without the digits of a number of thousands of them."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no integer of more than 4,300 digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def _fail(key: str, value: Any, expected: str) -> None:
    raise UserError(f"option '{key}': found {shown(value)}, expected {expected}")


def _value(cfg: TrainConfig, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = getattr(node, part)
    return node


def _one_of(cfg: TrainConfig, key: str, names: Iterable[str]) -> None:
    if _value(cfg, key) not in names:
        _fail(key, _value(cfg, key), f"one of: {', '.join(names)}")


def _check_number(key: str, value: int | float | None) -> None:
    if value is None:
        return
    if isinstance(value, int) and value >= 2**63:
        _fail(key, value, "an integer below 2^63")
    if not math.isfinite(value):
        _fail(key, value, "a finite number")
    if key in _RATES and value > MAX_RATE:
        _fail(key, value, f"at most {MAX_RATE:g}")
    if key in _AT_LEAST_ONE and value < 1:
        _fail(key, value, "at least 1")
    if key in _NOT_NEGATIVE and value < 0:
        _fail(key, value, "0 or more")
    if key in _POSITIVE and value <= 0:
        _fail(key, value, "a number above 0")
    if key in _FRACTION and not 0 <= value <= 1:
        _fail(key, value, "a number from 0 to 1")
    if key in _BELOW_ONE and not 0 <= value < 1:
        _fail(key, value, "a number from 0 to below 1")


def check_eval(settings: EvalConfig) -> None:
    """Refuse `eval.*` out of range where there is no `TrainConfig` around it."""
    for key in ("max_steps", "vote"):
        _check_number(f"eval.{key}", getattr(settings, key))


def check_ranges(cfg: TrainConfig) -> None:
    """Refuse a single value out of its range, before anything is derived from it."""
    for key in [*_AT_LEAST_ONE, *_NOT_NEGATIVE, *_POSITIVE, *_FRACTION, *_BELOW_ONE, "floss.target"]:
        _check_number(key, _value(cfg, key))
    if not 0 <= cfg.seed < 2**63:
        _fail("seed", cfg.seed, "an integer from 0 to 2^63 - 1")
    for key in _TEXT:
        value = _value(cfg, key)
        if value is not None and (not value.strip() or "\0" in value or "\n" in value):
            _fail(key, value, "a name or path of at least one visible character on one line")
    for key in ("project_name", "run_name"):
        value = _value(cfg, key)
        if value is not None and (value.startswith("/") or ".." in value.split("/")):
            _fail(key, value, "a name inside checkpoints/; use checkpoint_path=DIR for another place")
    for key in ("data_paths", "data_paths_test"):
        if not all(path.strip() for path in _value(cfg, key)):
            _fail(key, _value(cfg, key), "paths of dataset folders")

    _one_of(cfg, "arch.loss.loss_type", LOSS_TYPES)
    _one_of(cfg, "arch.pos_encodings", POS_ENCODINGS)
    _one_of(cfg, "dtype", DTYPES)
    _one_of(cfg, "state_dtype", DTYPES)
    _one_of(cfg, "optimizer", OPTIMIZERS)
    _one_of(cfg, "augment", AUGMENTS)
    _one_of(cfg, "guards.mode", GUARD_MODES)
    _one_of(cfg, "wandb.mode", WANDB_MODES)
    _one_of(cfg, "objective.name", OBJECTIVES)
    _one_of(cfg, "objective.rollout", ROLLOUTS)
    _one_of(cfg, "objective.perturb", PERTURBED)
    _one_of(cfg, "objective.noise_sampling", NOISE_SAMPLINGS)
    _one_of(cfg, "objective.mask_normalize", MASK_NORMALIZERS)
    _one_of(cfg, "floss.mode", FLOSS_MODES)
    _one_of(cfg, "floss.unit", FLOSS_UNITS)
    _one_of(cfg, "floss.where", FLOSS_PLACES)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", cfg.device):
        _fail("device", cfg.device, "one of: auto, cpu, mps, cuda, cuda:N")
    for entry in cfg.evaluators:
        name = entry.get("name") if isinstance(entry, dict) else entry
        if not isinstance(entry, dict) or name not in EVALUATORS:
            known = ", ".join(EVALUATORS)
            _fail("evaluators", name, f"a list like [{{name: {EVALUATORS[0]}}}] with names among: {known}")


def check_resolved(cfg: TrainConfig, *, require_data: bool) -> None:
    """Refuse combinations that cannot run."""
    _check_arch(cfg.arch)
    _check_objective(cfg.objective)
    if cfg.floss.mode != "off":
        _check_floss(cfg, cfg.floss)
    epochs, interval, batch = cfg.epochs, cfg.eval_interval, cfg.global_batch_size
    if interval is not None and epochs % interval:
        fits = math.gcd(epochs, interval)
        _fail("eval_interval", interval, f"a divisor of epochs={epochs}, for example eval_interval={fits}")
    if batch % cfg.accumulation_slices:
        _fail("accumulation_slices", cfg.accumulation_slices, f"a divisor of global_batch_size={batch}")
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


def _check_floss(cfg: TrainConfig, floss: FlossConfig) -> None:
    arch = cfg.arch
    if cfg.freeze_weights:
        _fail("floss.mode", floss.mode, "off: freeze_weights=True trains no weight")
    for key in ("dtype", "state_dtype"):
        if _value(cfg, key) == "bfloat16":
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
    width, heads = arch.hidden_size, arch.num_heads
    if width % heads:
        _fail("arch.hidden_size", width, f"a multiple of arch.num_heads={heads}")
    if arch.pos_encodings == "rope" and not arch.mlp_t and width // heads % 2:
        _fail("arch.hidden_size", width, f"an even size per head for rope, with arch.num_heads={heads}")
    if arch.puzzle_emb_ndim == 0 and arch.puzzle_emb_len > 0:
        _fail("arch.puzzle_emb_len", arch.puzzle_emb_len, "0, as arch.puzzle_emb_ndim=0 means no prefix")
    slots = -(-arch.puzzle_emb_ndim // width)
    if arch.puzzle_emb_len < slots:
        expected = f"at least {slots} slots of {width} for arch.puzzle_emb_ndim={arch.puzzle_emb_ndim}, or 0"
        _fail("arch.puzzle_emb_len", arch.puzzle_emb_len, expected)
    low, high = KAPPA_RANGE
    if not 0 < arch.alpha <= 1:  # of no meaning for others, and NaN is none there either
        _fail("arch.alpha", arch.alpha, "a number above 0 and at most 1")
    if not low <= arch.kappa <= high:
        _fail("arch.kappa", arch.kappa, f"a number from {low} to {high}")
    if arch.name == "srm":
        _check_srm(arch)
    if arch.name == "hrm":
        if arch.H_layers < 1:
            _fail("arch.H_layers", arch.H_layers, "at least 1 for hrm, whose z_H has a stack of its own")
        if arch.pos_encodings == "none" and not arch.mlp_t:
            _fail("arch.pos_encodings", "none", "rope or learned for hrm, whose attention needs positions")


def _check_srm(arch: ArchConfig) -> None:
    if arch.pos_encodings == "rope":
        _fail("arch.pos_encodings", "rope", "none or learned for srm, whose token matrices know positions")
    if arch.mlp_t:
        _fail("arch.mlp_t", True, "False for srm, which mixes tokens by matrices of its own")
