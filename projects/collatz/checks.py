"""Ranges and combinations of the settings of a Collatz run. A failure is one line, as in `config_checks`."""

from typing import Any

from errors import UserError
from projects.collatz.hard_pool import TRAINING_SEEDS
from training.settings.schema import TrainConfig

PRESETS = ("faithful", "orbit")
TARGET_TYPES = ("fixed", "adaptive")
EMPTY_POOLS = ("reserved-seed", "random")
MOST_LOOKAHEAD = 1000
MOST_LAYERS, WIDEST_LAYER = 64, 65536
MOST_BITS = 4096

_AT_LEAST_ONE = (
    "ramp_len mine_interval mine_count segment_steps eval_interval quick_eval_interval test_starts validation_starts"
).split()
_NOT_NEGATIVE = "margin growth_weight decay_weight decay_start decay_len mine_start_epoch".split()
_ABOVE_ZERO = "tau_start tau_end".split()
_FRACTION = "hard_ratio min_anchor".split()


def _fail(key: str, value: Any, expected: str) -> None:
    raise UserError(f"option 'collatz.{key}': found {value!r}, expected {expected}")


def check_collatz(cfg: TrainConfig) -> None:
    """Refuse what cannot run. Errors: `UserError`."""
    settings = cfg.collatz
    for key, names in (("preset", PRESETS), ("target_type", TARGET_TYPES), ("empty_pool", EMPTY_POOLS)):
        if getattr(settings, key) not in names:
            _fail(key, getattr(settings, key), f"one of: {', '.join(names)}")
    for key in _AT_LEAST_ONE + _NOT_NEGATIVE + _ABOVE_ZERO + _FRACTION:
        value = getattr(settings, key)
        if not -(2**63) < value < 2**63:  # nor is NaN, and a huge integer is no float
            _fail(key, value, "a finite number below 2^63")
        if key in _AT_LEAST_ONE and value < 1:
            _fail(key, value, "at least 1")
        if key in _NOT_NEGATIVE and value < 0:
            _fail(key, value, "0 or more")
        if key in _ABOVE_ZERO and value <= 0:
            _fail(key, value, "a number above 0")
        if key in _FRACTION and not 0 <= value <= 1:
            _fail(key, value, "a number from 0 to 1")
    if not 1 <= settings.lookahead <= MOST_LOOKAHEAD:
        _fail("lookahead", settings.lookahead, f"a whole number from 1 to {MOST_LOOKAHEAD}")
    widths = settings.layers
    if not 1 <= len(widths) <= MOST_LAYERS or not all(1 <= width <= WIDEST_LAYER for width in widths):
        _fail("layers", widths, f"1 to {MOST_LAYERS} widths from 1 to {WIDEST_LAYER}, such as 256,128,64")
    if not 0 <= settings.start_seeds <= len(TRAINING_SEEDS):
        _fail("start_seeds", settings.start_seeds, f"0 to {len(TRAINING_SEEDS)}, of which there are so many")
    if not 8 <= settings.max_bits <= MOST_BITS:
        _fail("max_bits", settings.max_bits, f"8 to {MOST_BITS}")
    if not 8 <= settings.fewest_bits <= settings.most_bits <= MOST_BITS:
        _fail("fewest_bits", settings.fewest_bits, f"8 to most_bits={settings.most_bits}, itself at most {MOST_BITS}")
    if settings.preset == "orbit" and settings.segment_steps < (8 if settings.use_t8 else 4):
        _fail("segment_steps", settings.segment_steps, "at least 4, or 8 with use_t8")
    full, quick = settings.eval_interval, settings.quick_eval_interval
    if full % quick and quick % full:
        _fail("eval_interval", full, f"a multiple or a divisor of quick_eval_interval={quick}")
    if settings.legacy_lr_plateau and cfg.lr_min_ratio != 1.0:
        _fail("legacy_lr_plateau", True, f"a constant rate to lower, found lr_min_ratio={cfg.lr_min_ratio:g}")
    if cfg.device == "mps" or cfg.device.startswith("mps"):
        raise UserError(f"option 'device': found {cfg.device!r}, which has no float64; expected cpu or cuda")
