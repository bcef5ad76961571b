"""Noise on gradients: its size at each update, what it leaves alone, where it comes from."""

from typing import Any

import pytest
import torch
from torch import nn

from training.hooks.base import TrainState
from training.hooks.grad_noise import GradientNoise, Settings


def train_state(parameters: dict[str, nn.Parameter], step: int, seed: int = 0) -> TrainState:
    nothing: Any = nn.Module()
    return TrainState(nothing, parameters, {}, {}, step, 100, seed)


def noise_at(step: int, settings: Settings, gradient: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, Any]:
    parameter = nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient.clone()
    reported = GradientNoise(settings).before_update(train_state({"w": parameter}, step, seed))
    return parameter.grad - gradient, reported


@pytest.mark.parametrize(("step", "share"), [(1, 1.0), (51, 0.5), (101, 0.0), (500, 0.0)])
@pytest.mark.parametrize("mode", ["absolute", "relative"])
def test_its_size_follows_half_a_cosine(mode: str, step: int, share: float) -> None:
    settings = Settings(enabled=True, mode=mode, begin=0.3, end=0.1, steps=100)
    gradient = 7 * torch.randn(400_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise, reported = noise_at(step, settings, gradient)
    sigma = (0.1 + 0.2 * share) * (float(gradient.square().mean().sqrt()) if mode == "relative" else 1.0)
    assert float(noise.std()) == pytest.approx(sigma, rel=0.01) and abs(float(noise.mean())) < 5 * sigma / 400_000**0.5
    assert abs(float(torch.corrcoef(torch.stack([noise, gradient]))[0, 1])) < 0.01
    assert float(reported["grad_noise/relative_norm"]) == pytest.approx(float(noise.norm() / gradient.norm()))


def test_it_is_a_function_of_seed_and_update() -> None:
    settings = Settings(enabled=True, begin=0.3, end=0.3)
    gradient = torch.randn(100, generator=torch.Generator().manual_seed(1))
    first, _ = noise_at(3, settings, gradient)
    assert torch.equal(first, noise_at(3, settings, gradient)[0])
    assert not torch.equal(first, noise_at(4, settings, gradient)[0])
    assert not torch.equal(first, noise_at(3, settings, gradient, seed=1)[0])


def test_what_has_no_gradient_gets_none_and_the_end_is_silent() -> None:
    first, second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    first.grad = torch.ones(3)
    hook = GradientNoise(Settings(enabled=True, begin=0.1, end=0.0, steps=10))
    hook.before_update(train_state({"first": first, "second": second}, 1))
    assert second.grad is None and not torch.equal(first.grad, torch.ones(3))
    first.grad = torch.ones(3)
    assert hook.before_update(train_state({"first": first}, 11)) == {} and torch.equal(first.grad, torch.ones(3))


def test_without_any_gradient_there_is_no_ratio() -> None:
    """It would spoil the mean over the updates of a line of the log."""
    _, reported = noise_at(1, Settings(enabled=True, mode="absolute", begin=0.1), torch.zeros(3))
    assert {name: float(value) for name, value in reported.items()} == {
        "grad_noise/relative_norm": 0.0,
        "grad_noise/updates": 0.0,
    }
