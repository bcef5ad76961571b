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

    def divided_by(self, count: int) -> "Timing":
        """Per part, where a measurement spans several equal ones."""
        median, low, high, q1, q3 = (x / count for x in (self.median, self.min, self.max, self.q1, self.q3))
        return Timing(median, low, high, q1, q3, self.count)


def timed(action: Callable[[], object], repeats: int, device: torch.device) -> Timing:
    """Time `repeats` calls one by one. On CUDA each is waited for, and none starts before the device is idle."""
    return Timing.of([seconds_of(action, device) for _ in range(repeats)])


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, what it left for the device to do included."""
    synchronize(device)
    start = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
