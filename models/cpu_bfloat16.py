"""The blocks' arithmetic in bfloat16 on a CPU, with hand-written gradients.

Same operations and roundings as the plain code in `models/layers.py`, in fewer passes over memory: a weight is cast
once per update instead of at each of its uses, rotary positions and attention share their copies, and gradients
are written where they are needed. torch's fused attention is slow here in bfloat16, backward above all; products,
an explicit softmax and their derivative are several times as fast.

These functions have a backward pass only. A JVP through them raises; the tangents of the Lyapunov engine are
float32 or float64 by contract and never come here. Everything is written for any float dtype, so that the tests
can compare with autograd in float64.
"""

import math
import weakref
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
        self._made_from: tuple[int, int] | None = None

    def forget(self) -> None:
        self._cast = self._weight = self._made_from = None

    def __call__(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """`weight` in `dtype`, detached."""
        made_from = (weight.data_ptr(), weight._version)
        same = self._weight is not None and self._weight() is weight and self._made_from == made_from
        if self._cast is None or not same or self._cast.dtype is not dtype:
            self._cast = weight.detach().to(dtype)
            self._weight, self._made_from = weakref.ref(weight), made_from
        return self._cast

    def __deepcopy__(self, memo: dict[int, Any]) -> "WeightCast":
        return WeightCast()


class _CastedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cast: Tensor) -> Tensor:
        ctx.save_for_backward(x, cast)
        ctx.weight_dtype = weight.dtype
        return F.linear(x, cast)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, cast = ctx.saved_tensors
        grad_x = grad @ cast if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad.flatten(0, -2).t() @ x.flatten(0, -2)).to(ctx.weight_dtype)
        return grad_x, grad_weight, None


def casted_linear(x: Tensor, weight: Tensor, cast: WeightCast) -> Tensor:
    """x (..., in) times the weight (out, in) in x's dtype; each use's weight gradient is added in the weight's."""
    return _CastedLinear.apply(x, weight, cast(weight, x.dtype))


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activation = F.silu(gate)
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


class _RotaryAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor | None, sin: Tensor | None, num_heads: int) -> Tensor:
        batch, length, width = qkv.shape
        head_dim = width // 3 // num_heads
        parts = qkv.view(batch, length, 3, num_heads, head_dim).permute(2, 0, 3, 1, 4)
        table_dtype = torch.promote_types(qkv.dtype, torch.float32)
        queries_keys = parts[:2].to(table_dtype, memory_format=torch.contiguous_format)
        if cos is not None and sin is not None:
            queries_keys = _rotate(queries_keys, cos, sin)
        queries_keys = queries_keys.to(qkv.dtype).flatten(1, 2)  # rounded, as it is between separate operations
        values = parts[2].contiguous().flatten(0, 1)
        queries, keys = queries_keys.to(table_dtype)
        scores = torch.baddbmm(
            queries.new_empty(()), queries, keys.transpose(1, 2), beta=0, alpha=1 / math.sqrt(head_dim)
        )
        weights = torch.softmax(scores, dim=-1)
        out = torch.bmm(weights.to(qkv.dtype), values)
        ctx.save_for_backward(queries_keys, values, weights, cos, sin)
        ctx.num_heads = num_heads
        return out.view(batch, num_heads, length, head_dim).transpose(1, 2).reshape(batch, length, width // 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        queries_keys, values, weights, cos, sin = ctx.saved_tensors
        batch, length, size = grad.shape
        num_heads, head_dim = ctx.num_heads, size // ctx.num_heads
        grad = grad.view(batch, length, num_heads, head_dim).transpose(1, 2).reshape(-1, length, head_dim)
        wide = weights.dtype
        result = torch.empty(batch, length, 3, num_heads, head_dim, dtype=grad.dtype)
        parts = result.permute(2, 0, 3, 1, 4)
        shape = (batch, num_heads, length, head_dim)
        parts[2].copy_(torch.bmm(weights.to(grad.dtype).transpose(1, 2), grad).view(shape))
        grad_weights = torch.bmm(grad.to(wide), values.to(wide).transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, wide)
        grad_scores = grad_scores.mul_(1 / math.sqrt(head_dim)).to(grad.dtype)
        grad_queries = torch.bmm(grad_scores, queries_keys[1])
        grad_keys = torch.bmm(grad_scores.transpose(1, 2), queries_keys[0])
        for part, made in ((parts[0], grad_queries), (parts[1], grad_keys)):
            made = made.view(shape)
            part.copy_(made if cos is None else _rotate(made.to(wide), cos, -sin))
        return result.view(batch, length, 3 * size), None, None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotation of (..., L, head_dim); with -sin the inverse, which is the transpose."""
    half = x.shape[-1] // 2
    cos, sin = cos[:, :half], sin[:, :half]
    first, second = x[..., :half], x[..., half:]
    result = torch.empty_like(x)
    torch.mul(first, cos, out=result[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=result[..., half:]).addcmul_(first, sin)
    return result


def rotary_attention(qkv: Tensor, cos_sin: tuple[Tensor, Tensor] | None, num_heads: int) -> Tensor:
    """Attention of all heads on projections (B, L, 3 D), queries and keys rotated by position: (B, L, D)."""
    cos, sin = cos_sin if cos_sin is not None else (None, None)
    return _RotaryAttention.apply(qkv, cos, sin, num_heads)
