"""The yardstick: a network and an update as the official formulas are read, without a thought of speed.

Weights are those of a model of the suite, cast at each call; attention, SwiGLU and norms are the formulas of the
official TRM and HRM code, one operation after the other, Adam-atan2 and the weight average one parameter at a time.
"""

import copy
import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.act import Batch, act_step, draw_min_halt_steps, initial_carry
from models.layers import Attention, Block, CastedLinear, CosSin, Stack, SwiGLU
from models.losses import act_loss
from models.recursive_model import RecursiveModel
from training.optim import SparseSignSGD, merge_gathers
from training.settings.schema import TrainConfig


def linear(x: Tensor, layer: CastedLinear) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype))


def rms_norm(x: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean_square = wide.square().mean(-1, keepdim=True)
    return (wide * torch.rsqrt(mean_square + eps)).to(x.dtype)


def swiglu(x: Tensor, layer: SwiGLU) -> Tensor:
    gate, up = linear(x, layer.gate_up_proj).chunk(2, dim=-1)
    return linear(F.silu(gate) * up, layer.down_proj)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    wide = x.to(cos.dtype)
    turned = torch.cat((-x2, x1), dim=-1).to(cos.dtype)
    return (wide * cos.unsqueeze(-2) + turned * sin.unsqueeze(-2)).to(x.dtype)


def attention(x: Tensor, layer: Attention, cos_sin: CosSin | None) -> Tensor:
    batch, length, size = x.shape
    heads = layer.num_heads
    qkv = linear(x, layer.qkv_proj).view(batch, length, 3 * heads, size // heads)
    q, k, v = qkv[:, :, :heads], qkv[:, :, heads : 2 * heads], qkv[:, :, 2 * heads :]
    if cos_sin is not None:
        q, k = rotate(q, *cos_sin), rotate(k, *cos_sin)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return linear(out.transpose(1, 2).reshape(batch, length, size), layer.o_proj)


class PlainStack(nn.Module):
    """The blocks of a stack of HRM or TRM, its weights shared."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.layers = stack.layers

    def forward(self, state: Tensor, injection: Tensor, cos_sin: CosSin | None) -> Tensor:
        x = state + injection
        for module in self.layers:
            block = cast(Block, module)
            if block.mlp_t is not None:
                x = x.transpose(1, 2)
                x = rms_norm(x + swiglu(x, block.mlp_t), block.eps).transpose(1, 2)
            elif block.self_attn is not None:
                x = rms_norm(x + attention(x, block.self_attn, cos_sin), block.eps)
            x = rms_norm(x + swiglu(x, block.mlp), block.eps)
        return x


def plain_copy(model: RecursiveModel) -> RecursiveModel:
    """The same network with weights of its own. Errors: TypeError for one whose stacks are no blocks of TRM or HRM."""
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_children()):
        if isinstance(module, Stack):
            setattr(plain, name, PlainStack(module))
    if any(not isinstance(stack, PlainStack) for stack in plain.stacks()):
        raise TypeError(f"{type(model).__name__} has no plain form here: only HRM and TRM have official formulas")
    return plain


class PlainAdamATan2:
    """Adam-atan2 one parameter at a time."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float):
        self.parameters, self.lr, self.betas, self.weight_decay = parameters, lr, betas, weight_decay
        self.averages = [torch.zeros_like(parameter) for parameter in parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        beta1, beta2 = self.betas
        for parameter, average, square in zip(self.parameters, self.averages, self.squares, strict=True):
            if parameter.grad is None:
                continue
            parameter.mul_(1 - self.lr * self.weight_decay)
            average.lerp_(parameter.grad, 1 - beta1)
            square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            root = (square / (1 - beta2**self.steps)).sqrt()
            parameter.add_(torch.atan2(average, root), alpha=-self.lr / (1 - beta1**self.steps))


def plain_update(model: RecursiveModel, config: TrainConfig, batch: Batch) -> Callable[[], None]:
    """A call makes one update of ACT streaming on the batch: step, loss, backward pass, optimizer, weight average."""
    parameters = list(model.parameters())
    kind = PlainAdamATan2 if config.optimizer == "adam_atan2" else torch.optim.AdamW
    optimizer = kind(parameters, lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay)
    table = model.puzzle_emb
    rate, decay = config.puzzle_emb_lr, config.puzzle_emb_weight_decay
    sparse = None if table is None else SparseSignSGD(table.weights, rate, decay)
    shadow = [parameter.detach().clone() for parameter in parameters] if config.ema else []
    carry, size = initial_carry(model, batch), len(batch["inputs"])
    draws = torch.Generator().manual_seed(config.seed)

    def update() -> None:
        nonlocal carry
        prob, most = model.config.halt_exploration_prob, model.config.halt_max_steps
        minimum = draw_min_halt_steps(size, most, prob, draws)
        carry, outputs = act_step(model, carry, batch, training=True, min_halt_steps=minimum)
        loss, _ = act_loss(outputs, carry["labels"], carry["halted"], carry["steps"], config.arch.loss.loss_type)
        (loss / size).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if table is not None and sparse is not None and (gathered := merge_gathers(table.take_gathers())):
            sparse.step(*gathered)
        for parameter in parameters:
            parameter.grad = None
        with torch.no_grad():
            for average, parameter in zip(shadow, parameters, strict=bool(shadow)):
                average.copy_((1 - config.ema_rate) * parameter + config.ema_rate * average)

    return update


def largest_difference(ours: RecursiveModel, plain: RecursiveModel, batch: Batch) -> float:
    """Of the logits after one supervision step, relative to the largest logit: what rounding leaves."""
    with torch.no_grad():
        logits = [
            act_step(model, initial_carry(model, batch), batch, training=False)[1]["logits"].double()
            for model in (ours, plain)
        ]
    return float((logits[0] - logits[1]).abs().max() / logits[1].abs().max().clamp_min(math.ulp(1.0)))
