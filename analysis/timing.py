"""Seconds of a call on a device, measured again and again: median and spread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Timing:
    """Median and spread of `count` repeated measurements, in seconds; q1 and q3 are the quartiles."""

    median: float
    min: float
    max: float
    q1: float
    q3: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        low, q1, median, q3, high = np.percentile(seconds, (0, 25, 50, 75, 100)).tolist()
        return cls(median, low, high, q1, q3, len(seconds))


def timed(action: Callable[[], object], repeats: int, device: torch.device, calls: int = 1) -> Timing:
    """`repeats` times `seconds_of`, one by one."""
    return Timing.of([seconds_of(action, device, calls) for _ in range(repeats)])


def seconds_of(action: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Seconds of one call, the mean of several in a row; what they left for the device to do is included.

    None starts before the device is idle.
    """
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        action()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
