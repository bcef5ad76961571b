"""One update: backward as outputs come, one reduction, one division, a finite check, the optimizers, the EMA."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from models.act import Batch
from training.objectives.base import Output, UpdateContext
from training.optim import merge_gathers
from training.run import Run
from training.schedule import learning_rate


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite. Nothing has been updated or saved."""


@dataclass
class UpdateReport:
    """What the loop logs about an update. `grad_norm` is before clipping."""

    lr: float
    grad_norm: float
    clipped: bool
    stop_requested: bool


def train_on_batch(run: Run, batch: Batch, *, stop_requested: bool) -> list[UpdateReport]:
    """All updates of one batch (rows of this process). Errors: `NonFiniteError` before an update is made."""
    context = UpdateContext(
        step=run.step,
        seed=run.config.seed,
        slots=run.world.slots(run.config.global_batch_size),
        num_slots=run.config.global_batch_size,
    )
    for hook in run.hooks:
        batch = hook.before_batch(run.model, batch, run.step)
    started = time.monotonic()
    pending: list[Output] = []
    reports = []
    for output in run.objective.outputs(run.model, batch, context):
        output.loss_sum.backward()  # type: ignore[no-untyped-call]
        pending.append(output)
        if output.ends_update:
            reports.append(_update(run, pending, stop_requested))
            pending = []
    if pending:
        raise AssertionError(f"objective {run.objective.name} ended a batch inside an update")
    run.train_seconds += time.monotonic() - started
    return reports


def _update(run: Run, outputs: list[Output], stop_requested: bool) -> UpdateReport:
    """Reduce, divide, check, clip, step."""
    local = _local_sums(outputs)
    names = sorted(local)
    numbers = run.world.sum_numbers([local[name] for name in names] + [float(stop_requested)], run.device)
    sums = dict(zip(names, numbers, strict=False))
    normalizer = sums.pop("normalizer")

    parameters = [p for p in run.model.parameters() if p.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    run.world.sum_(gradients)
    if gradients:
        torch._foreach_div_(gradients, normalizer)
    gathered = None
    if run.model.puzzle_emb is not None:
        gathered = merge_gathers(run.model.puzzle_emb.take_gathers())
        if gathered is not None:
            ids, rows = (run.world.gather_rows(part) for part in gathered)
            gathered = (ids, rows / normalizer)

    norm = 0.0
    if gradients:
        norm = float(torch.nn.utils.get_total_norm(gradients))
    finite_rows = gathered is None or bool(gathered[1].isfinite().all())
    if not (math.isfinite(sums["loss"]) and math.isfinite(norm) and finite_rows):
        run.model.zero_grad(set_to_none=True)
        raise NonFiniteError(
            f"not finite at update {run.step + 1}: loss {sums['loss'] / normalizer:g}, gradient norm {norm:g}, "
            f"batch {run.position} of seed {run.config.seed}; nothing was updated or saved. Go on from the last "
            "state with a smaller lr or grad_clip_norm in a new checkpoint_path (init_from=FILE)"
        )
    clip = run.config.grad_clip_norm
    clipped = clip is not None and norm > clip
    if clipped and clip is not None:
        torch._foreach_mul_(gradients, clip / (norm + 1e-6))
        run.clip_events += 1

    step = run.step + 1
    for hook in run.hooks:
        hook.before_update(run.model, step)
    config = run.config
    schedule = (config.lr_warmup_steps, run.planned_updates, config.lr_min_ratio)
    lr = learning_rate(step, config.lr, *schedule)
    if run.dense is not None:
        for group in run.dense.param_groups:
            group["lr"] = lr
        run.dense.step()
        run.dense.zero_grad(set_to_none=True)
    if run.sparse is not None and gathered is not None:
        run.sparse.lr = learning_rate(step, config.puzzle_emb_lr, *schedule)
        run.sparse.step(*gathered)
    if run.ema is not None:
        run.ema.update()
    run.step = step
    run.samples_seen += config.global_batch_size
    for name, value in sums.items():
        run.metric_sums[name] = run.metric_sums.get(name, 0.0) + value
    run.metric_sums["normalizer"] = run.metric_sums.get("normalizer", 0.0) + normalizer
    for hook in run.hooks:
        hook.after_update(run.model, step)
    return UpdateReport(lr, norm, clipped, numbers[-1] > 0)


def require_finite(run: Run) -> None:
    """Look at all that is about to be saved. Collective. Errors: `NonFiniteError`.

    A finite gradient does not tell of a weight that no row of the batch uses.
    """
    parts: dict[str, Any] = {"model": run.model.state_dict(), "carry": run.objective.carry}
    if run.ema is not None:
        parts["ema"] = run.ema.state_dict()
    if run.dense is not None:
        parts["optimizer"] = run.dense.state_dict()["state"]
    named = list(_floating_tensors(parts))
    flags = [tensor.isfinite().all().to(run.device) for _, tensor in named]
    finite = torch.stack(flags).tolist()
    bad = [name for (name, _), good in zip(named, finite, strict=True) if not good]
    if run.world.sum_numbers([float(len(bad))], run.device)[0]:
        listed = ", ".join(bad[:4]) + (f" and {len(bad) - 4} more" if len(bad) > 4 else "")
        raise NonFiniteError(
            f"not finite after update {run.step}: {listed or 'values of another process'}, before batch "
            f"{run.position} of seed {run.config.seed}; nothing of it was saved. Go on from the last state with a "
            "smaller lr or grad_clip_norm in a new checkpoint_path (init_from=FILE)"
        )


def _floating_tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _floating_tensors(item, f"{name}.{key}" if name else str(key))


def _local_sums(outputs: list[Output]) -> dict[str, float]:
    """Loss, normalizer and metric sums of this process over the outputs of one update, as numbers."""
    names = ["loss", *sorted({name for output in outputs for name in output.metric_sums})]
    rows = []
    for output in outputs:
        values = {"loss": output.loss_sum.detach()} | output.metric_sums
        device = output.loss_sum.device
        # One transfer for all numbers. MPS has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        zero = torch.zeros((), device=device, dtype=dtype)
        rows.append(torch.stack([values[name].to(dtype) if name in values else zero for name in names]))
    totals = torch.stack(rows).sum(dim=0).tolist()
    return dict(zip(names, totals, strict=True)) | {
        "normalizer": sum(output.normalizer for output in outputs)
    }


def mean_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Training metrics from sums: losses per row of the batch, the rest per halted row, as officially."""
    normalizer = max(sums.get("normalizer", 0.0), 1.0)
    count = max(sums.get("count", 0.0), 1.0)
    result = {}
    for name, value in sums.items():
        if name == "normalizer":
            continue
        if name == "count":
            result["train/count"] = value
        else:
            result[f"train/{name}"] = value / (normalizer if name.endswith("loss") else count)
    return result
