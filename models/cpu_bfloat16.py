"""The blocks' arithmetic in bfloat16 on a CPU, with hand-written gradients.

The operations of the plain code in `models/layers.py` in fewer passes over memory, which is what they cost: a weight
is cast once per supervision step instead of at each of its uses, rotary positions and attention share their copies, and
gradients are written where they are needed. torch's fused attention is slow here in bfloat16, backward above all;
products, an explicit softmax and their derivative are several times as fast. Roundings are those of the plain code
except where there are fewer: rotated queries and keys stay float32 on their way to the (float32) scores.

These functions have a backward pass only. A JVP through them raises; the tangents of the Lyapunov engine are
float32 or float64 by contract and never come here. Everything is written for any float dtype, so that the tests
can compare with autograd in float64.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Attention keeps a float32 (B, heads, L, L) table per call; longer sequences take torch's fused kernel.
LONGEST_ATTENTION = 256


def is_used_for(x: Tensor) -> bool:
    """Whether an operation on x takes this module's path."""
    return x.dtype is torch.bfloat16 and x.device.type == "cpu" and not torch.compiler.is_compiling()


class WeightCast:
    """A weight in another dtype, kept between its uses within one supervision step.

    `RecursiveModel.supervision_step` forgets it, since a fused optimizer changes a weight without a trace. In between,
    another tensor, address or version of the weight (the trace of plain in-place operations) is noticed.
    """

    def __init__(self) -> None:
        self._cast: Tensor | None = None
        self._weight: weakref.ref[Tensor] | None = None
        self._made_from: tuple[int, int, int] | None = None

    def forget(self) -> None:
        self._cast = self._weight = self._made_from = None

    def __call__(self, weight: Tensor, dtype: torch.dtype, rows: Tensor | None = None) -> Tensor:
        """`weight` (its `rows`, in that order) in `dtype`, detached."""
        made_from = (weight.data_ptr(), weight._version, id(rows))
        same = self._weight is not None and self._weight() is weight and self._made_from == made_from
        if self._cast is None or not same or self._cast.dtype is not dtype:
            chosen = weight.detach() if rows is None else weight.detach()[rows]
            self._cast = chosen.to(dtype)
            self._weight, self._made_from = weakref.ref(weight), made_from
        return self._cast

    def __deepcopy__(self, memo: dict[int, Any]) -> "WeightCast":
        return WeightCast()


class _CastedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cast: Tensor, rows: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, cast, rows)
        ctx.weight_dtype = weight.dtype
        return F.linear(x, cast)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, cast, rows = ctx.saved_tensors
        grad_x = grad @ cast if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad.flatten(0, -2).t() @ x.flatten(0, -2)).to(ctx.weight_dtype)
            if rows is not None:
                grad_weight = torch.empty_like(grad_weight).index_copy_(0, rows, grad_weight)
        return grad_x, grad_weight, None, None


def casted_linear(x: Tensor, weight: Tensor, cast: WeightCast, rows: Tensor | None = None) -> Tensor:
    """x (..., in) times the weight (out, in) in x's dtype; outputs in the order of `rows`.

    Each use's weight gradient is added in the weight's dtype.
    """
    return _CastedLinear.apply(x, weight, cast(weight, x.dtype, rows), rows)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activation = F.silu(gate)
        if not ctx.needs_input_grad[0]:
            return activation.mul_(up)
        ctx.save_for_backward(gate_up, activation)
        return activation * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_up, activation = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        grad_gate, grad_up = result.chunk(2, dim=-1)
        torch.mul(grad, activation, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return result


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of (..., 2 W): (..., W)."""
    return _SwiGLU.apply(gate_up)


class _ResidualRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
        total = x + y
        wide = total.to(torch.promote_types(total.dtype, torch.float32))
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(wide.shape[-1])
        scale = mean_square.add_(eps).rsqrt_()
        ctx.save_for_backward(total, scale)
        if wide is total:
            return wide * scale
        return wide.mul_(scale).to(total.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        total, scale = ctx.saved_tensors
        normed = total.to(scale.dtype) * scale
        wide = grad.to(scale.dtype)
        mean = torch.linalg.vecdot(wide, normed).div_(total.shape[-1]).unsqueeze(-1)
        result = torch.addcmul(wide, normed, mean, value=-1).mul_(scale).to(total.dtype)
        return result, result, None


def residual_rms_norm(x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of x + y over the last axis, statistics in at least float32."""
    return _ResidualRmsNorm.apply(x, y, eps)


@contextmanager
def float32_products_by_onednn() -> Iterator[None]:
    """Float32 products in here are oneDNN's, which for many small ones takes two thirds of the default library's time.

    torch asks oneDNN only where it may round the factors to bfloat16. It does so on CPUs with matrix units for that,
    and never rounds the sums; the plain code rounds queries and keys likewise.
    """
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


@lru_cache
def rows_in_pairs(num_heads: int, head_dim: int) -> Tensor:
    """Order (3 D,) of a qkv projection's rows in which the two values that rotary positions mix are neighbours.

    A pair is a complex number then, and a rotation one multiplication in place. Scores are sums over a head's values
    and do not depend on their order; the values' rows stay where they are.
    """
    half_split = torch.arange(2 * num_heads * head_dim).view(2 * num_heads, 2, head_dim // 2)
    rest = torch.arange(2 * num_heads * head_dim, 3 * num_heads * head_dim)
    return torch.cat((half_split.transpose(1, 2).flatten(), rest))


class _RotaryAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, turns: Tensor | None, num_heads: int) -> Tensor:
        batch, length, width = qkv.shape
        head_dim = width // 3 // num_heads
        wide = torch.promote_types(qkv.dtype, torch.float32)
        split = qkv.view(batch, length, 3, num_heads, head_dim).permute(2, 0, 3, 1, 4)
        queries_keys = torch.empty(2, batch, num_heads, length, head_dim, dtype=wide).copy_(split[:2])
        _turn(queries_keys, turns)
        queries_keys = queries_keys.flatten(1, 2)
        queries, keys = queries_keys
        values = split[2].contiguous().flatten(0, 1)
        with float32_products_by_onednn():
            scores = torch.baddbmm(
                queries.new_empty(()), queries, keys.transpose(1, 2), beta=0, alpha=1 / math.sqrt(head_dim)
            )
        weights = torch.softmax(scores, dim=-1)
        out = torch.bmm(weights.to(qkv.dtype), values)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(queries_keys.to(qkv.dtype), values, weights, turns)
        ctx.num_heads = num_heads
        return out.view(batch, num_heads, length, head_dim).transpose(1, 2).reshape(batch, length, width // 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        queries_keys, values, weights, turns = ctx.saved_tensors
        batch, length, size = grad.shape
        num_heads, head_dim = ctx.num_heads, size // ctx.num_heads
        grad = grad.view(batch, length, num_heads, head_dim).transpose(1, 2).reshape(-1, length, head_dim)
        wide = weights.dtype
        result = torch.empty(batch, length, 3, num_heads, head_dim, dtype=grad.dtype)
        split = result.permute(2, 0, 3, 1, 4)
        shape = (batch, num_heads, length, head_dim)
        split[2].copy_(torch.bmm(weights.to(grad.dtype).transpose(1, 2), grad).view(shape))
        with float32_products_by_onednn():
            grad_weights = torch.bmm(grad.to(wide), values.to(wide).transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, wide)
        grad_scores = grad_scores.mul_(1 / math.sqrt(head_dim)).to(grad.dtype)
        grad_queries = torch.bmm(grad_scores, queries_keys[1]).view(shape)
        grad_keys = torch.bmm(grad_scores.transpose(1, 2), queries_keys[0]).view(shape)
        back = None if turns is None else turns.conj().resolve_conj()
        for slot, gradient in ((split[0], grad_queries), (split[1], grad_keys)):
            slot.copy_(gradient if back is None else _turn(gradient.to(wide), back))
        return result.view(batch, length, 3 * size), None, None


def _turn(x: Tensor, turns: Tensor | None) -> Tensor:
    """Rotate the pairs of contiguous (..., L, head_dim) in place by complex `turns` (L, head_dim / 2)."""
    if turns is not None:
        torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)).mul_(turns)
    return x


def attention(
    x: Tensor, weight: Tensor, cast: WeightCast, cos_sin: tuple[Tensor, Tensor] | None, num_heads: int
) -> Tensor:
    """All heads' attention of x (B, L, D) on its projections by the qkv `weight` (3 D, D): (B, L, D).

    cos_sin: tables (L, head_dim) by which queries and keys are rotated, or None.
    """
    if cos_sin is None:
        return _RotaryAttention.apply(casted_linear(x, weight, cast), None, num_heads)
    half = cos_sin[0].shape[-1] // 2
    turns = torch.complex(*(table[:, :half].contiguous() for table in cos_sin))
    qkv = casted_linear(x, weight, cast, rows_in_pairs(num_heads, 2 * half))
    return _RotaryAttention.apply(qkv, turns, num_heads)
