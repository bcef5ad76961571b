"""What a network needs to know about itself. Training options live in `training/settings/schema.py`, not here."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch

from options import (
    MOST_CHANNELS,
    MOST_LAYERS,
    MOST_REPEATS,
    Numbers,
    above_zero,
    anything,
    at_least,
    fraction,
    one_of,
    option,
)

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
POSITION_ENCODINGS = ("rope", "learned", "none")
# (field, what was found, what was expected)
Problem = tuple[str, Any, str]


@dataclass(kw_only=True)
class Architecture:
    """Shape of a recursive model, as `arch.*` sets it. Names are the official TRM/HRM ones, defaults TRM's."""

    halt_exploration_prob: float = option(0.1, "probability per row and step of a minimum number of steps", fraction)
    halt_max_steps: int = option(
        16,
        "supervision steps at most; evaluation takes all of them unless eval.* says otherwise",
        at_least(1, MOST_REPEATS),
    )
    H_cycles: int = option(3, "updates of z_H in a supervision step", at_least(1, MOST_REPEATS))
    L_cycles: int = option(6, "updates of z_L before each update of z_H", at_least(1, MOST_REPEATS))
    H_layers: int = option(
        0, "blocks of the H stack; read by hrm, as trm has one stack of L_layers", at_least(0, MOST_LAYERS)
    )
    L_layers: int = option(2, "blocks of the L stack", at_least(1, MOST_LAYERS))
    hidden_size: int = option(512, "channels D of a token", at_least(1, MOST_CHANNELS))
    num_heads: int = option(8, "attention heads", at_least(1, MOST_CHANNELS))
    expansion: float = option(
        4.0,
        "the SwiGLU width is round(expansion * width * 2/3), rounded up to swiglu_multiple",
        Numbers(0, 1_000, low_open=True),
    )
    swiglu_multiple: int = option(256, "see expansion; written into the official code", at_least(1, MOST_CHANNELS))
    puzzle_emb_ndim: int = option(
        512, "values per puzzle identifier; hidden_size when not given, 0 = none", at_least(0, MOST_CHANNELS)
    )
    puzzle_emb_len: int = option(
        16, "prefix slots; 0 = ceil(puzzle_emb_ndim / hidden_size)", at_least(0, MOST_CHANNELS)
    )
    pos_encodings: str = option("rope", "how attention knows positions", one_of(*POSITION_ENCODINGS))
    rope_theta: float = option(10000.0, "base of the rotary frequencies", above_zero)
    rms_norm_eps: float = option(1e-5, "added to the mean square in RMS norms", above_zero)
    mlp_t: bool = option(False, "mix tokens by an MLP over the sequence axis instead of attention", anything)
    no_ACT_continue: bool = option(
        True, "halt on q_halt > 0, with no second forward pass for a continue target", anything
    )


@dataclass
class ModelConfig(Architecture):
    """An architecture on data of one shape, and its arithmetic.

    Args:
        kind: name in `models.registry.MODELS`; `srm` takes its own class, `models.srm.SRMConfig`.
        seq_len: number of puzzle tokens S; the prefix of puzzle-embedding slots comes on top.
        dtype: dtype in which the layers compute. Parameters are float32 (float64 when dtype is float64).
        state_dtype: dtype of z_H and z_L between sub-updates; None means `dtype`.
        q_dtype: dtype of the halting values and their losses, float32 officially. Training runs in float64 use
            float64: the last bit of a float32 sigmoid depends on how a batch is cut into slices.
    Errors: `ValueError` for a shape that cannot be built.
    """

    kind: str
    seq_len: int
    vocab_size: int
    num_puzzle_identifiers: int
    dtype: torch.dtype = torch.float32
    state_dtype: torch.dtype | None = None
    q_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name, value, expected in self.unbuildable(self):
            raise ValueError(f"{name} is {value!r}, expected {expected}")

    @classmethod
    def problems(cls, shape: Any) -> Iterator[Problem]:
        """What of `shape` (an `Architecture`) no run should ask for: the impossible, and what makes no sense."""
        yield from cls.unbuildable(shape)

    @classmethod
    def unbuildable(cls, shape: Any) -> Iterator[Problem]:
        """What of `shape` (an `Architecture`: of a network or of settings) cannot be built as this kind of model."""
        width, heads = shape.hidden_size, shape.num_heads
        if not shape.mlp_t and width % heads:
            yield "hidden_size", width, f"a multiple of arch.num_heads={heads}"
        if shape.pos_encodings == "rope" and not shape.mlp_t and width // heads % 2:
            yield "hidden_size", width, f"an even size per head for rope, with arch.num_heads={heads}"
        slots = -(-shape.puzzle_emb_ndim // width)
        if 0 < shape.puzzle_emb_len < slots:
            expected = f"at least {slots} slots of {width} for arch.puzzle_emb_ndim={shape.puzzle_emb_ndim}, or 0"
            yield "puzzle_emb_len", shape.puzzle_emb_len, expected

    @property
    def prefix_len(self) -> int:
        """Number of prefix slots P. Differs: without a table there is no prefix (upstream breaks shapes)."""
        if self.puzzle_emb_ndim == 0:
            return 0
        return self.puzzle_emb_len or math.ceil(self.puzzle_emb_ndim / self.hidden_size)

    @property
    def total_len(self) -> int:
        """Sequence length inside the network, P + S."""
        return self.prefix_len + self.seq_len

    @property
    def param_dtype(self) -> torch.dtype:
        """Master weights are float32; float64 models keep float64 weights so that gradients are float64."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def carry_dtype(self) -> torch.dtype:
        """dtype of z_H and z_L."""
        return self.state_dtype or self.dtype

    def swiglu_width(self, size: int) -> int:
        """Inner width of a SwiGLU over an axis of `size`: round(expansion * size * 2/3), rounded up."""
        width = round(self.expansion * size * 2 / 3)
        return -(-width // self.swiglu_multiple) * self.swiglu_multiple

    @classmethod
    def from_official(cls, options: dict[str, Any], **overrides: Any) -> "ModelConfig":
        """Build from official architecture options, with `kind` and the shape of the data among them.

        Unknown keys are ignored: official files carry names of classes and losses here. `forward_dtype` is `dtype`.
        Errors: `ValueError` for a value of another type or size.
        """
        known = {field.name: field.type for field in fields(cls) if field.name not in ("dtype", "state_dtype")}
        given = {key: value for key, value in options.items() if key in known and value is not None}
        for key, value in given.items():
            kind = known[key]
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise ValueError(f"{key} is a {type(value).__name__}, expected {getattr(kind, '__name__', kind)}")
            if kind in (int, float) and not 0 <= value < 1 << 31:
                raise ValueError(f"{key} is negative or beyond any model's size")
        name = options.get("forward_dtype")
        if name is not None:
            if not isinstance(name, str) or name not in DTYPES:
                raise ValueError(f"forward_dtype {name!r} is none of {', '.join(DTYPES)}")
            given["dtype"] = DTYPES[name]
        return cls(**(given | overrides))
