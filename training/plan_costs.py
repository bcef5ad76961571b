"""What a planned run needs of a machine: memory and hours. Estimates, each with what it rests on."""

import time
from collections.abc import Iterator
from typing import Any

import torch

from dataset.source import START
from models.config import ModelConfig
from models.recursive_model import RecursiveModel
from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import UpdateContext
from training.settings.schema import TrainConfig

# Operations per second that a GPU is taken to sustain on networks of this size, where nothing is measured.
FLOPS_OF_A_GPU = 1e13
# As many operations are timed on a CPU: seconds at most, also for the published networks.
_FLOPS_TIMED = 2e10
_HOURS_OF_A_DAY = 24.0


def memory_bytes(config: TrainConfig, model: RecursiveModel, rows: int) -> dict[str, float]:
    """Bytes by what they are for. rows: trajectories of an update, on one process.

    Dense parameters have a gradient, optimizer moments (two; one for Muon's matrices, which are most) and with `ema` a
    copy; the puzzle table has neither moments nor a copy. A row has z_H and z_L, logits with their gradient, and what
    the sub-updates with gradients keep for the backward pass: per block and token the inputs of its products and norms.
    """
    shape = model.config
    dense = sum(p.numel() * p.element_size() for p in model.parameters())
    table = (
        0 if model.puzzle_emb is None else model.puzzle_emb.weights.numel() * model.puzzle_emb.weights.element_size()
    )
    moments = 1 if config.optimizer == "muon" else 2
    copies = {"weights": 1, "gradients": 1, "optimizer": moments, "averages": int(config.ema)}
    tokens, layer = rows * shape.total_len, shape.dtype.itemsize
    state = (shape.state_dtype or shape.dtype).itemsize
    _, backward = type(model).passes(shape, training=True)
    return {name: float(count * dense) for name, count in copies.items()} | {
        "puzzle table": float(table),
        "states": float(2 * tokens * shape.hidden_size * state),
        "logits": float(2 * tokens * shape.vocab_size * 8),  # the stable loss computes in float64
        "backward pass": float(backward * tokens * _kept_per_token(shape) * layer),
    }


def _kept_per_token(config: ModelConfig) -> int:
    """Numbers that a pass through a block keeps per token: queries, keys, values and inputs of products and norms."""
    size = config.hidden_size
    mixing = 3 * config.swiglu_width(config.total_len) * size // config.total_len if config.mlp_t else 6 * size
    return mixing + 6 * size + 3 * config.swiglu_width(size)


def measured_flops_per_second(config: TrainConfig, model: RecursiveModel, source: Any) -> tuple[float, int]:
    """Operations per second of a trained supervision step on this CPU, and of how many rows; weights are left alone."""
    per_row = model.trained_flops() + (0 if model.config.no_ACT_continue else model.extra_flops())
    rows = max(1, min(config.global_batch_size, int(_FLOPS_TIMED / per_row)))
    batch, _ = source.next(START)
    batch = {name: leaf[:rows] for name, leaf in batch.items()}

    def seconds() -> Iterator[float]:
        while True:
            started = time.perf_counter()
            objective = ACTStreaming(config.arch.loss.loss_type)
            context = UpdateContext(step=0, seed=config.seed, slots=slice(0, rows), num_slots=rows)
            for output in objective.outputs(model, batch, context):
                output.loss_sum.backward()  # type: ignore[no-untyped-call]
            model.zero_grad(set_to_none=True)
            if model.puzzle_emb is not None:
                model.puzzle_emb.take_gathers()
            yield time.perf_counter() - started

    timed = seconds()
    next(timed)  # the first one allocates
    return rows * per_row / next(timed), rows


def cost_lines(
    config: TrainConfig, model: RecursiveModel, source: Any, device: torch.device, rows: int, flops: float
) -> list[str]:
    """Memory and hours, as lines of a plan. rows: trajectories of an update. flops: training and evaluation."""
    parts = memory_bytes(config, model, rows)
    listed = ", ".join(f"{name} {_size(value)}" for name, value in parts.items() if value)
    if device.type == "cpu":
        rate, timed = measured_flops_per_second(config, model, source)
        hours = flops / rate / 3600
        lines = [f"time         about {_duration(hours)} at {rate:.2g} FLOP/s, timed here on a step of {timed} rows"]
        if hours > _HOURS_OF_A_DAY:
            lines.append(f"             about {_at_a_gpu(flops)}")
    else:
        lines = [f"time         about {_at_a_gpu(flops)}; compiling and saving not counted"]
    return [f"memory       about {_size(sum(parts.values()))} on one process: {listed}", *lines]


def _at_a_gpu(flops: float) -> str:
    return f"{_duration(flops / FLOPS_OF_A_GPU / 3600)} at {FLOPS_OF_A_GPU:.0e} FLOP/s, as a GPU is taken to sustain"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _duration(hours: float) -> str:
    """In the unit that suits it: hours, or minutes below one."""
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.2g} minutes ({hours:.2g} hours)"
