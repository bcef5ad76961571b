"""Delayed tasks on random bits: copy s_{t-d}, and the temporal XOR |s_{t-d} - s_{t-2d}|.

Source: the tasks of Engelken 2023 (arXiv:2312.17306) in the lags of github.com/RainerEngelken/GradientFlossing (the
paper's text has the XOR of lags d/2 and d).
Differs: every scored target depends on bits that were shown; the source also scores the one step before the first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# How many delays back the earliest bit lies that a target depends on.
TASKS = {"xor": 2, "copy": 1}


@dataclass(frozen=True)
class DelayedBits:
    """inputs (T, B, 1) and targets (T, B) in float32, 0 or 1; targets are scored from step `first` (from 0) on."""

    inputs: Tensor
    targets: Tensor
    first: int


def first_scored(task: str, delay: int) -> int:
    """The first step whose target depends on shown bits only. Errors: KeyError for another task than `TASKS`."""
    return TASKS[task] * delay


def delayed_bits(task: str, delay: int, bits: Tensor) -> DelayedBits:
    """The task on bits (T, B), 0 or 1. Errors: ValueError when no step is left to score."""
    first = first_scored(task, delay)
    if delay < 1 or first >= len(bits):
        raise ValueError(
            f"{task} with delay={delay} in {len(bits)} steps: expected a delay of at least 1, and more "
            f"than {first} steps"
        )
    shown = bits.to(torch.float32)
    targets = torch.zeros_like(shown)
    lagged = shown[first - delay : len(shown) - delay]
    targets[first:] = lagged if task == "copy" else (lagged - shown[: len(shown) - first]).abs()
    return DelayedBits(shown[..., None], targets, first)


def draw_bits(num_steps: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Fair bits (T, B)."""
    return torch.randint(0, 2, (num_steps, batch_size), generator=generator)
