"""What a network needs to know about itself. Training options live in `training/settings/resolving.py`, not here."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
KINDS = ("trm", "hrm", "srm")
POSITION_ENCODINGS = ("rope", "learned", "none")
KAPPA_RANGE = (0.85, 0.95)  # of SRM; less loses what is far away, more hardly contracts


@dataclass(frozen=True)
class ModelConfig:
    """Shape and arithmetic of a recursive model. Field names are the official TRM/HRM ones.

    Args:
        kind: `trm` (one shared stack), `hrm` (separate H and L stacks) or `srm` (one contracting map of both states).
        seq_len: number of puzzle tokens S; the prefix of puzzle-embedding slots comes on top.
        puzzle_emb_ndim: width of a row of the puzzle table; 0 means no table and no prefix.
        puzzle_emb_len: number of prefix slots P; 0 means ceil(puzzle_emb_ndim / hidden_size).
        swiglu_multiple: the SwiGLU width is rounded up to a multiple of this (256 officially).
        dtype: dtype in which the layers compute. Parameters are float32 (float64 when dtype is float64).
        alpha: SRM: weight of the new state in an application, above 0 and at most 1.
        kappa: SRM: bound of the joint gain, in `KAPPA_RANGE`.
        state_dtype: dtype of z_H and z_L between sub-updates; None means dtype, for SRM at least float32.
        q_dtype: dtype of the halting values and their losses, float32 officially. Training runs in float64 use
            float64: the last bit of a float32 sigmoid depends on how a batch is cut into slices.
        no_ACT_continue: halt on q_halt > 0 and train no continue value; False trains it by Q-learning.
    """

    kind: str
    seq_len: int
    vocab_size: int
    num_puzzle_identifiers: int
    puzzle_emb_ndim: int = 512
    puzzle_emb_len: int = 16
    hidden_size: int = 512
    num_heads: int = 8
    expansion: float = 4.0
    H_cycles: int = 3
    L_cycles: int = 6
    H_layers: int = 0
    L_layers: int = 2
    pos_encodings: str = "rope"
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    swiglu_multiple: int = 256
    mlp_t: bool = False
    halt_max_steps: int = 16
    halt_exploration_prob: float = 0.1
    no_ACT_continue: bool = True
    alpha: float = 0.5
    kappa: float = 0.9
    dtype: torch.dtype = torch.float32
    state_dtype: torch.dtype | None = None
    q_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"model kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.kind == "srm":
            self._check_srm()
        if not self.mlp_t and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        if self.pos_encodings == "rope" and not self.mlp_t and (self.hidden_size // self.num_heads) % 2:
            raise ValueError("rope needs an even head size; found hidden_size / num_heads odd")
        if self.prefix_len * self.hidden_size < self.puzzle_emb_ndim:
            raise ValueError(
                f"puzzle_emb_ndim {self.puzzle_emb_ndim} does not fit into puzzle_emb_len "
                f"{self.puzzle_emb_len} slots of hidden_size {self.hidden_size}"
            )

    def _check_srm(self) -> None:
        low, high = KAPPA_RANGE
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha} is not above 0 and at most 1")
        if not low <= self.kappa <= high:
            raise ValueError(f"kappa {self.kappa} is not from {low} to {high}")
        if self.mlp_t or self.pos_encodings == "rope":
            raise ValueError("srm mixes tokens by matrices of its own: it takes no mlp_t and no rope")
        if self.state_dtype == torch.bfloat16:
            raise ValueError(
                "srm keeps its states wide, as bfloat16 rounds by more than they contract: use state_dtype float32 or "
                "float64"
            )

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
        if self.state_dtype is None and self.kind == "srm":
            return torch.promote_types(self.dtype, torch.float32)
        return self.state_dtype or self.dtype

    def swiglu_width(self, size: int) -> int:
        """Inner width of a SwiGLU over an axis of `size`: round(expansion * size * 2/3), rounded up."""
        width = round(self.expansion * size * 2 / 3)
        return -(-width // self.swiglu_multiple) * self.swiglu_multiple

    @classmethod
    def from_official(cls, options: dict[str, Any], **overrides: Any) -> "ModelConfig":
        """Build from official architecture options (`forward_dtype`, no `kind` defaults differ per kind).

        HRM has no `puzzle_emb_len` (its prefix is ceil(ndim / hidden)) and always trains the continue value.
        Unknown keys are ignored: official files carry names of classes and losses here.
        """
        merged: dict[str, Any] = {}
        if options.get("kind") == "hrm":
            merged |= {"puzzle_emb_len": 0, "no_ACT_continue": False}
        elif options.get("kind") == "srm":
            merged |= {"pos_encodings": "none"}
        fields = cls.__dataclass_fields__
        merged |= {key: value for key, value in options.items() if key in fields and value is not None}
        merged.pop("dtype", None)  # these two are no official options
        merged.pop("state_dtype", None)
        for key, value in merged.items():
            kind = fields[key].type
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise ValueError(f"{key} is a {type(value).__name__}, expected {getattr(kind, '__name__', kind)}")
            if kind in (int, float) and not 0 <= value < 1 << 31:
                raise ValueError(f"{key} is negative or beyond any model's size")
        name = options.get("forward_dtype")
        if name is not None:
            if not isinstance(name, str) or name not in DTYPES:
                raise ValueError(f"forward_dtype {name!r} is none of {', '.join(DTYPES)}")
            merged["dtype"] = DTYPES[name]
        return cls(**(merged | overrides))

    def with_dtype(self, dtype: torch.dtype, state_dtype: torch.dtype | None = None) -> "ModelConfig":
        """The same model computing in another dtype."""
        return replace(self, dtype=dtype, state_dtype=state_dtype)
