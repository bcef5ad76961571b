"""One update: backward as outputs come, one reduction, one division, a finite check, the optimizers, the EMA."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.source import RowLosses
from models.act import Batch
from training.apart_gradients import PER_UPDATE, SUMS, ApartGradients, nonzero
from training.devices import DeviceNumbers, on_device, wide
from training.hooks.base import TrainState
from training.objectives.base import Output, UpdateContext
from training.optim import merge_gathers
from training.run import Run

# These numbers are summed over processes beside those of the objective.
_TRAINED = "trained steps"
_EXTRA = "extra passes"
_STOP = "stop requested"
_NORM = "gradient norm"
_FINITE = "all finite"
_WAY_OUT = (
    "nothing of it was saved. Go on from the last state with a smaller lr or grad_clip_norm in a new checkpoint_path "
    "(init_from=FILE)"
)


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite. Nothing has been saved of it."""


@dataclass
class UpdateResult:
    """What came of update `step`. The numbers are known once it is settled.

    `grad_norm` is before clipping; `stop_requested` by any process.
    """

    step: int
    lr: float
    numbers: DeviceNumbers
    origin: str  # which batch of which seed
    of_hooks: DeviceNumbers | None = None
    grad_norm: float = math.nan
    clipped: bool = False
    stop_requested: bool = False


def reads_late(run: Run) -> bool:
    """Whether an update's numbers are read only after the next one is queued.

    On CUDA the host runs ahead of the device; reading at once would stop it at every update. A value that is not finite
    is then noticed one update late: nothing of it has been saved by then either, since boundaries settle first.
    """
    waits = run.source.wants_losses or any(hook.reads_losses for hook in run.hooks)
    return run.device.type == "cuda" and not waits


def train_on_batch(run: Run, batch: Batch, *, stop_requested: bool) -> list[UpdateResult]:
    """All updates of one batch (rows of this process), to be settled.

    Errors: `NonFiniteError`, before an update is made unless the numbers are read late.
    """
    context = UpdateContext(
        step=run.step,
        seed=run.config.seed,
        slots=run.world.slots(run.config.global_batch_size),
        num_slots=run.config.global_batch_size,
    )
    state = run.train_state(run.step)
    for hook in run.hooks:
        batch = hook.before_batch(state, batch)
    started = time.monotonic()
    pending: list[Output] = []
    parameters = list(state.parameters.values())
    apart = ApartGradients(parameters)
    results = []
    for output in run.objective.outputs(run.model, batch, context):
        if output.apart is None:
            output.loss_sum.backward()  # type: ignore[no-untyped-call]
        else:
            apart.add(output)
        pending.append(output)
        if output.ends_update:
            results.append(_update(run, pending, apart, stop_requested))
            pending, apart = [], ApartGradients(parameters)
            context.step = run.step
    if pending:
        raise AssertionError(f"objective {run.objective.name} ended a batch inside an update")
    run.progress.train_seconds += time.monotonic() - started
    return results


def _update(run: Run, outputs: list[Output], apart: ApartGradients, stop_requested: bool) -> UpdateResult:
    """Reduce, divide, check, clip, step. Nothing here makes the host wait for a GPU."""
    names, sums = _local_sums(outputs, run.device)
    names.append(_STOP)
    sums = torch.cat([sums, on_device(float(stop_requested), run.device).view(1)])
    run.world.sum_([sums], "numbers")
    normalizer = nonzero(sums[names.index("normalizer")])

    parameters = apart.parameters
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    run.world.sum_(gradients)
    if gradients:
        torch._foreach_div_(gradients, normalizer.to(gradients[0].dtype))
    gathered = None
    if run.model.puzzle_emb is not None:
        gathered = merge_gathers(run.model.puzzle_emb.take_gathers())
        if gathered is not None:
            ids, rows = map(run.world.gather_rows, gathered)
            gathered = (ids, rows / normalizer.to(rows.dtype))
    more_names, more = apart.merge(run.world, names, sums, run.device)

    norm = on_device(0.0, run.device)
    if gradients:
        norm = on_device(torch.nn.utils.get_total_norm(gradients), run.device)
    finite = sums[names.index("loss")].isfinite() & norm.isfinite()
    if gathered is not None:
        finite = finite & gathered[1].isfinite().all()
    result = UpdateResult(
        step=run.step + 1,
        lr=math.nan,
        numbers=DeviceNumbers(
            [*names, *more_names, _NORM, _FINITE],
            torch.cat([sums, torch.stack([*more, norm, finite.to(norm.dtype)])]),
        ),
        origin=f"batch {run.progress.position} of seed {run.config.seed}",
    )
    if not reads_late(run):
        _require_finite_update(run, result)
    clip = run.config.grad_clip_norm
    if clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)

    step = run.step + 1
    state = run.train_state(step)
    reported: dict[str, Tensor] = {}
    for hook in run.hooks:
        reported |= hook.before_update(state)
    result.lr = _rate(run, state, run.config.lr)
    if run.dense is not None:
        for group in run.dense.param_groups:
            group["lr"] = _rate(run, state, group["initial_lr"])
        run.dense.step()
        run.dense.zero_grad(set_to_none=True)
    if run.sparse is not None and gathered is not None:
        run.sparse.lr = _rate(run, state, run.config.puzzle_emb_lr)
        run.sparse.step(*gathered)
    for average in run.averages.values():
        average.update()
    run.progress.step = step
    if run.source.wants_losses:
        state = replace(state, answered=_answered(run, outputs))
        run.source.learn(state.answered)
    for hook in run.hooks:
        reported |= hook.after_update(state)
    if reported:
        values = torch.stack([on_device(value.to(run.device), run.device) for value in reported.values()])
        result.of_hooks = DeviceNumbers(list(reported), values)
    return result


def _answered(run: Run, outputs: list[Output]) -> RowLosses:
    """The rows that are done with this update, of all processes, in the order of their numbers. Collective."""
    mine = [output.answered for output in outputs if output.answered is not None]
    if not mine:
        mine = [wide(torch.zeros(0, 3, device=run.device))]
    rows = run.world.gather_ragged(torch.cat(mine)).cpu()
    _, examples, losses = rows[rows[:, 0].argsort(stable=True)].numpy().T
    return RowLosses(examples.astype(np.int64), losses)


def _rate(run: Run, state: TrainState, initial: float) -> float:
    """The rate of an update, by the schedule and by hooks, for parameters whose rate began as `initial`."""
    config = run.config
    rate = learning_rate(state.step, initial, config.lr_warmup_steps, run.planned_updates, config.lr_min_ratio)
    for hook in run.hooks:
        rate = hook.rate(state, rate, initial)
    return rate


def learning_rate(step: int, base: float, warmup_steps: int, total_steps: int, min_ratio: float) -> float:
    """Linear warm-up from 0, then half a cosine down to `min_ratio * base`.

    Args:
        step: 1 for the first update, as officially (the counter moves before the rate is read).
        total_steps: planned updates; beyond them the rate stays at its minimum.
            Differs: upstream's cosine would rise again.
    """
    if step < warmup_steps:
        return base * step / max(1, warmup_steps)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return base * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


def settle(run: Run, result: UpdateResult) -> None:
    """Read an update's numbers: complete its result, and add them to the run's sums.

    Errors: `NonFiniteError`.
    """
    started = time.monotonic()
    sums = _require_finite_update(run, result)
    run.progress.train_seconds += time.monotonic() - started  # where the host waits for a device that computes
    norm = sums.pop(_NORM)
    clip = run.config.grad_clip_norm
    result.grad_norm = norm
    result.clipped = clip is not None and norm > clip
    result.stop_requested = sums.pop(_STOP) > 0
    run.progress.clip_events += result.clipped
    run.progress.samples_seen += int(sums.pop(_TRAINED))
    run.progress.extra_passes += int(sums.pop(_EXTRA))
    if result.of_hooks is not None:
        sums |= result.of_hooks.read()
    if sums["normalizer"]:  # an update may be of losses kept apart alone
        for hook in run.hooks:
            hook.settled(result.step, sums["loss"] / sums["normalizer"])
    for name, value in sums.items():
        run.progress.metric_sums[name] = run.progress.metric_sums.get(name, 0.0) + value


def _require_finite_update(run: Run, result: UpdateResult) -> dict[str, float]:
    """The update's numbers. Errors: `NonFiniteError`."""
    sums = dict(result.numbers.read())
    if sums.pop(_FINITE):
        return sums
    run.model.zero_grad(set_to_none=True)
    loss = sums["loss"] / (sums["normalizer"] or 1.0)
    raise NonFiniteError(
        f"not finite at update {result.step}: loss {loss:g}, gradient norm {sums[_NORM]:g}, {result.origin}; {_WAY_OUT}"
    )


def require_finite(run: Run) -> None:
    """Look at all that is about to be saved. Collective. Errors: `NonFiniteError`.

    A finite gradient does not tell of a weight that no row of the batch uses.
    """
    saved: dict[str, Any] = {"model": run.model.state_dict(), "carry": run.objective.carry}
    saved |= {name: average.state_dict() for name, average in run.averages.items()}
    saved |= {name: module.state_dict() for name, module in run.owned.items()}
    if run.dense is not None:
        saved["optimizer"] = run.dense.state_dict()["state"]
    named = list(_floating_tensors(saved))
    flags = [tensor.isfinite().all().to(run.device) for _, tensor in named]
    finite = torch.stack(flags).tolist()
    bad = [name for (name, _), good in zip(named, finite, strict=True) if not good]
    if run.world.sum_numbers([float(len(bad))], run.device)[0]:
        listed = ", ".join(bad[:4]) + (f" and {len(bad) - 4} more" if len(bad) > 4 else "")
        raise NonFiniteError(
            f"not finite after update {run.step}: {listed or 'values of another process'}, before batch "
            f"{run.progress.position} of seed {run.config.seed}; {_WAY_OUT}"
        )


def _floating_tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _floating_tensors(item, f"{name}.{key}" if name else str(key))


def _local_sums(outputs: list[Output], device: torch.device) -> tuple[list[str], Tensor]:
    """Names, and one vector on the device: loss, normalizer and metrics of this process, summed over one update."""
    metrics = {name for output in outputs for name in _values(output)}
    names = ["loss", "normalizer", _TRAINED, _EXTRA, *sorted(metrics - {"loss", "normalizer"})]
    rows = []
    for output in outputs:
        values = _values(output) | {_TRAINED: output.trained_steps, _EXTRA: output.extra_passes}
        rows.append(torch.stack([on_device(values.get(name, 0.0), device) for name in names]))
    return names, torch.stack(rows).sum(dim=0)


def _values(output: Output) -> dict[str, float | Tensor]:
    """An output's sums by name; a loss kept apart has its loss and its normalizer under names of its own."""
    if output.apart is None:
        return {**output.metric_sums, "loss": output.loss_sum, "normalizer": output.normalizer}
    name = output.apart.name
    return {**output.metric_sums, f"{name}/loss": output.loss_sum, f"{name}/rows": output.normalizer}


def mean_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Training metrics from sums: losses per row of the batch, the rest per halted row, as officially.

    Those of a loss kept apart, of a term or a hook, which have a `/` in their names: per row of its own where it counts
    rows, else per update; or as `apart_gradients` says.
    """
    normalizer = max(sums.get("normalizer", 0.0), 1.0)
    count = max(sums.get("count", 0.0), 1.0)
    result = {}
    for name, value in sums.items():
        if name == "normalizer":
            continue
        if name == "count":
            result["train/count"] = value
        elif "/" in name:
            apart, _, kind = name.rpartition("/")
            by = "updates" if kind in PER_UPDATE or f"{apart}/rows" not in sums else "rows"
            result[f"train/{name}"] = value / (1.0 if kind in SUMS else max(sums.get(f"{apart}/{by}", 0.0), 1.0))
        else:
            result[f"train/{name}"] = value / (normalizer if name.endswith("loss") else count)
    return result
