"""How much memory a call needs on top of what exists before it, and how much a run keeps between its updates."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from scripts.benchmark_timing import synchronize
from training.run import Run

_MEMORY_EVENT = "[memory]"


def peak_over_base(action: Callable[[], object], device: torch.device) -> int | None:
    """Bytes of tensors alive at the worst moment of a call, above those that existed before it.

    On CUDA the peak of torch's allocator less what is allocated when the call begins. On a CPU the same sum, over the
    allocations and releases that torch's profiler reports, exact to the byte: a resident size also holds what the C
    library keeps of freed memory, cannot be set back, and is mostly Python and torch where models are small. It leaves
    out what is not torch's: work space of MKL, and the noise while NumPy draws it, which is gone before the first step.
    None on other devices.
    """
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        action()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _silent_stderr():
        profiler.start()
    try:
        action()
    finally:
        with _silent_stderr():
            profiler.stop()
    results: Any = profiler.profiler.kineto_results  # type: ignore[union-attr]
    changes = [
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == _MEMORY_EVENT and event.device_type() == DeviceType.CPU
    ]
    peak = now = 0
    for _, change in sorted(changes, key=lambda moment: moment[0]):
        now += change
        peak = max(peak, now)
    return peak


def kept_bytes(run: Run) -> int:
    """Bytes of a run's tensors between updates: weights, average, puzzle table, optimizer state; shared ones once."""
    parts: list[Any] = [*run.model.parameters(), *run.model.buffers()]
    if run.ema is not None:
        parts += [*run.ema.model.parameters(), *run.ema.model.buffers()]
    if run.dense is not None:
        parts.append(list(run.dense.state.values()))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(parts)}
    return sum(storages.values())


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """torch 2.13's profiler writes a line to the descriptor as it starts and stops, whatever its log level."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
