"""Building blocks shared by HRM and TRM: casted linear maps, rotary attention, SwiGLU, post-norm blocks.

Weights are kept in their master dtype and cast to the activations' dtype at each call, as in the official
code; there is no autocast. Parameter names are the official ones, so official checkpoints load unchanged.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models import cpu_bfloat16
from models.config import ModelConfig

CosSin = tuple[Tensor, Tensor]


def truncated_normal_(tensor: Tensor, std: float, generator: torch.Generator | None = None) -> Tensor:
    """Fill with a normal truncated at two sigma, rescaled so that the result has standard deviation `std`.

    Source: the variance of a normal truncated to [-2, 2] (JAX's `truncated_normal` initialisers correct
    by it; `torch.nn.init.trunc_normal_` does not).
    """
    if std == 0:
        return nn.init.zeros_(tensor)
    density_at_two = math.exp(-2.0) / math.sqrt(2 * math.pi)
    mass = math.erf(2 / math.sqrt(2))
    sigma = std / math.sqrt(1 - 4 * density_at_two / mass)
    return nn.init.trunc_normal_(tensor, 0.0, sigma, -2 * sigma, 2 * sigma, generator=generator)


def rms_norm(x: Tensor, eps: float, dim: int = -1) -> Tensor:
    """Root-mean-square norm over an axis without a gain; statistics in at least float32.

    Written out on a CPU, where `F.rms_norm` takes more passes over memory, and copies what lies in another order.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.device.type == "cpu" or dim != -1:
        return (wide * torch.rsqrt(wide.square().mean(dim, keepdim=True) + eps)).to(x.dtype)
    return F.rms_norm(wide, (x.shape[-1],), eps=eps).to(x.dtype)


def residual_rms_norm(x: Tensor, y: Tensor, eps: float, dim: int = -1) -> Tensor:
    """`rms_norm(x + y)`."""
    if cpu_bfloat16.is_used_for(x) and dim == -1:
        return cpu_bfloat16.residual_rms_norm(x, y, eps)
    return rms_norm(x + y, eps, dim)


class CastedLinear(nn.Module):
    """Linear map whose weight (out, in) is cast to the input's dtype. Initialised with std 1/sqrt(in)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool, config: ModelConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        weight = torch.empty(out_features, in_features, dtype=config.param_dtype)
        self.weight = nn.Parameter(truncated_normal_(weight, in_features**-0.5, generator))
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=config.param_dtype)) if bias else None
        self.cast = cpu_bfloat16.WeightCast()

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None and cpu_bfloat16.is_used_for(x):
            return cpu_bfloat16.casted_linear(x, self.weight, self.cast)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)

    def from_left(self, x: Tensor) -> Tensor:
        """The map over the second axis of x (B, in, D), as one product per row: (B, out, D), without a bias."""
        return torch.bmm(self.weight.to(x.dtype).expand(x.shape[0], -1, -1), x)


class CastedEmbedding(nn.Module):
    """Table (num, D) cast to `dtype` at each call; also used as the table of learned positions."""

    def __init__(self, num: int, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        table = torch.empty(num, config.hidden_size, dtype=config.param_dtype)
        self.embedding_weight = nn.Parameter(truncated_normal_(table, config.hidden_size**-0.5, generator))
        self.dtype = config.dtype

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embedding_weight.to(self.dtype))


def rotary_table(length: int, head_dim: int, theta: float, dtype: torch.dtype, device: torch.device) -> CosSin:
    """cos and sin (length, head_dim) of half-split rotary positions, in at least float32.

    Computed in float64 and rounded once: a float32 table cast up would be off by 1e-5 in a float64 model.
    Source: Su et al. 2021, arXiv:2104.09864.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu") / head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float64, device="cpu"), theta**-exponents)
    angles = torch.cat((angles, angles), dim=-1)
    wide = torch.promote_types(dtype, torch.float32)
    return angles.cos().to(device, wide), angles.sin().to(device, wide)


def apply_rotary(x: Tensor, cos_sin: CosSin) -> Tensor:
    """Rotate (B, L, heads, head_dim) by position; computed in the table's dtype, returned in x's."""
    cos, sin = (table.unsqueeze(-2) for table in cos_sin)
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (x * cos + rotated * sin).to(x.dtype)


class Attention(nn.Module):
    """Bidirectional multi-head attention with one fused qkv projection; no mask, no bias, no dropout."""

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        size = config.hidden_size
        self.qkv_proj = CastedLinear(size, 3 * size, False, config, generator)
        self.o_proj = CastedLinear(size, size, False, config, generator)

    def forward(self, x: Tensor, cos_sin: CosSin | None) -> Tensor:
        if cpu_bfloat16.is_used_for(x) and x.shape[1] <= cpu_bfloat16.LONGEST_ATTENTION:
            weight, cast = self.qkv_proj.weight, self.qkv_proj.cast
            return self.o_proj(cpu_bfloat16.attention(x, weight, cast, cos_sin, self.num_heads))
        q, k, v = rearrange(self.qkv_proj(x), "b l (three h d) -> three b l h d", three=3, h=self.num_heads)
        if cos_sin is not None:
            q, k = apply_rotary(q, cos_sin), apply_rotary(k, cos_sin)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.o_proj(rearrange(out, "b h l d -> b l (h d)"))


class SwiGLU(nn.Module):
    """silu(gate) * up over the last axis, one fused gate/up matrix.

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(self, size: int, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        width = config.swiglu_width(size)
        self.gate_up_proj = CastedLinear(size, 2 * width, False, config, generator)
        self.down_proj = CastedLinear(width, size, False, config, generator)

    def forward(self, x: Tensor) -> Tensor:
        gate_up = self.gate_up_proj(x)
        if cpu_bfloat16.is_used_for(gate_up):
            return self.down_proj(cpu_bfloat16.swiglu(gate_up))
        gate, up = gate_up.chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)

    def from_left(self, x: Tensor) -> Tensor:
        """The same over the second axis of x (B, L, D), which stays as it lies in memory."""
        gate, up = self.gate_up_proj.from_left(x).chunk(2, dim=1)
        return self.down_proj.from_left(F.silu(gate) * up)


class Block(nn.Module):
    """Post-norm block: x <- rms(x + mixer(x)), x <- rms(x + SwiGLU(x)).

    With `mlp_t` the mixer is a SwiGLU over the token axis, and its norm is taken over tokens per channel.
    The residual stream stays in x's dtype while the mixers compute in the model's.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.dtype = config.dtype
        self.mlp_t: SwiGLU | None = None
        self.self_attn: Attention | None = None
        if config.mlp_t:
            self.mlp_t = SwiGLU(config.total_len, config, generator)
        else:
            self.self_attn = Attention(config, generator)
        self.mlp = SwiGLU(config.hidden_size, config, generator)

    def forward(self, x: Tensor, cos_sin: CosSin | None) -> Tensor:
        if self.mlp_t is not None:
            x = self._mix_tokens(x, self.mlp_t)
        elif self.self_attn is not None:
            x = residual_rms_norm(x, self.self_attn(x.to(self.dtype), cos_sin).to(x.dtype), self.eps)
        return residual_rms_norm(x, self.mlp(x.to(self.dtype)).to(x.dtype), self.eps)

    def _mix_tokens(self, x: Tensor, mixer: SwiGLU) -> Tensor:
        """On a CPU one product per row, since one large product would copy its transposed input, and its result.

        Not in bfloat16, where large products gain more than copies cost, and not on a GPU.
        """
        if x.device.type == "cpu" and self.dtype is not torch.bfloat16:
            return residual_rms_norm(x, mixer.from_left(x.to(self.dtype)).to(x.dtype), self.eps, dim=1)
        by_channel = x.transpose(1, 2)
        mixed = mixer(by_channel.to(self.dtype)).to(x.dtype)
        return residual_rms_norm(by_channel, mixed, self.eps).transpose(1, 2)


class Stack(nn.Module):
    """A state plus its injection, through `num_layers` blocks: the operator behind each sub-update."""

    def __init__(self, num_layers: int, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config, generator) for _ in range(num_layers))

    def forward(self, state: Tensor, injection: Tensor, cos_sin: CosSin | None) -> Tensor:
        x = state + injection.to(state.dtype)
        for layer in self.layers:
            x = layer(x, cos_sin)
        return x
