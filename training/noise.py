"""Perturbed starts z0 + sigma * epsilon, as functions of (seed, step, trajectory) alone.

Source: trajectory augmentation of HRM and TRM (x and y unchanged, z0 -> z0 + epsilon, the same supervised loss).
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dataset.stream import stream as counter_stream
from models.recursion import RecurrentState
from training.seeding import derived_seed

if TYPE_CHECKING:  # the schema is made of objectives
    from training.settings.schema import ObjectiveConfig

# The states that each site perturbs.
SITES: dict[str, tuple[str, ...]] = {"z_H": ("z_H",), "z_L": ("z_L",), "both": ("z_H", "z_L")}

_NOISE = 5  # 1 to 4 are the streams of training batches and of the views of a vote


def draw_noise(
    seed: int, step: int, trajectories: Sequence[int] | Tensor, shape: tuple[int, ...], stream: str
) -> Tensor:
    """Standard normal numbers (len(trajectories), *shape), float32, on the CPU.

    Those of a trajectory depend on (seed, step, its number, `stream`) only: not on the other trajectories, the batch,
    the number of processes or of threads.

    Each trajectory has a counter-based generator of its own, so that a process draws what it needs and no more. One
    generator for the whole batch would be simpler and make every process draw all of it: 3,072 starts of 97x512
    are 305 million numbers, a few seconds on one core.
    """
    numbers = _numbers(trajectories)
    noise = np.empty((len(numbers), *shape), np.float32)

    def fill(row: int) -> None:
        _stream(seed, step, numbers[row], stream).standard_normal(dtype=np.float32, out=noise[row])

    # NumPy releases the interpreter lock while it draws.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(fill, range(len(numbers))))
    return torch.from_numpy(noise)


def draw_state_noise(
    seed: int, step: int, trajectories: Sequence[int] | Tensor, shape: tuple[int, ...], site: str, stream: str
) -> dict[str, Tensor]:
    """The noise of each state that `site` (a key of `SITES`) names: independent of one another, as `draw_noise`.

    z_H has the same noise at the sites `z_H` and `both`, and z_L likewise.
    """
    return {name: draw_noise(seed, step, trajectories, shape, f"{stream}/{name}") for name in SITES[site]}


def perturb(state: RecurrentState, sigma: Tensor, noise: Mapping[str, Tensor], site: str) -> RecurrentState:
    """z + sigma * noise for the states that `site` names; the others are returned as they are.

    The sum is made in float32 (in float64 for float64 states) and rounded once, to the state's dtype: a bfloat16
    state keeps 8 % of the noise's rms at sigma = 1e-5 and 27 % at 1e-4. Rows whose sigma is 0 are returned bit
    for bit.

    Args:
        state: (B, P+S, D) each. sigma: (B,). noise: by state, (B, P+S, D); on any device.
    """
    return state._replace(**{name: _moved(getattr(state, name), sigma, noise[name]) for name in SITES[site]})


def _moved(leaf: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    wide = torch.promote_types(leaf.dtype, torch.float32)
    scale = sigma.to(leaf.device, wide).view(-1, *(1,) * (leaf.ndim - 1))
    moved = (leaf.to(wide) + scale * noise.to(leaf.device, wide)).to(leaf.dtype)
    # Adding 0 would turn -0 into 0, and NaN noise would spoil a clean row.
    return torch.where(scale == 0, leaf, moved)


def ramp(settings: "ObjectiveConfig", step: int) -> float:
    """The factor of all sigmas at the update after `step` updates, from 0 to 1.

    0 for the first `clean_warmup_steps` updates; then from 0 linearly to 1 over `sigma_ramp_steps` more.
    """
    past = step - settings.clean_warmup_steps
    if past < 0:
        return 0.0
    return min(1.0, past / settings.sigma_ramp_steps) if settings.sigma_ramp_steps else 1.0


def draw_sigma(settings: "ObjectiveConfig", seed: int, step: int, trajectories: Sequence[int] | Tensor) -> Tensor:
    """The standard deviation of each trajectory's perturbation at one update: (len(trajectories),) float32.

    `fixed`: sigma. `loguniform`: ln sigma uniform between those of sigma_min and sigma_max. `mixture`: 0 with
    probability p_clean, else sigma. Each times `ramp`, so that the log-uniform interval opens from 0 to its final
    ends. The perturbation itself is centred whatever its sigma.
    """
    factor = ramp(settings, step)
    numbers = _numbers(trajectories)
    if factor == 0.0:
        return torch.zeros(len(numbers))
    if settings.noise_sampling == "fixed":
        return torch.full((len(numbers),), factor * settings.sigma)
    uniform = np.array([_stream(seed, step, number, "sigma").random() for number in numbers])
    if settings.noise_sampling == "loguniform":
        low, high = math.log(settings.sigma_min), math.log(settings.sigma_max)
        sigma = factor * np.exp(low + (high - low) * uniform)
    else:
        sigma = np.where(uniform < settings.p_clean, 0.0, factor * settings.sigma)
    return torch.from_numpy(sigma.astype(np.float32))


def _numbers(trajectories: Sequence[int] | Tensor) -> list[int]:
    return trajectories.tolist() if isinstance(trajectories, Tensor) else list(trajectories)


def _stream(seed: int, step: int, trajectory: int, name: str) -> np.random.Generator:
    return counter_stream(derived_seed(seed, f"noise/{name}"), _NOISE, step, trajectory)
