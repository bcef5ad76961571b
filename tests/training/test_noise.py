"""Perturbed starts: a function of (seed, step, trajectory), centred, of the right size, not lost in rounding."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats

from models.layers import truncated_normal_
from models.recursion import RecurrentState
from tests.models.small import small_model
from training.noise import SITES, draw_noise, draw_sigma, draw_state_noise, perturb, ramp
from training.settings.schema import ObjectiveConfig

SHAPE = (8, 16)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# -- noise


def test_a_trajectory_has_its_noise_whatever_is_drawn_beside_it(two_threads: None) -> None:
    """Slices of processes, another order, single trajectories, another number of threads."""
    whole = draw_noise(3, 7, range(12), SHAPE, "start")
    assert whole.shape == (12, *SHAPE) and whole.dtype == torch.float32
    slices = [draw_noise(3, 7, range(start, start + 4), SHAPE, "start") for start in (0, 4, 8)]
    assert torch.equal(torch.cat(slices), whole)
    order = torch.tensor([5, 0, 11, 5])
    assert torch.equal(draw_noise(3, 7, order, SHAPE, "start"), whole[order])
    torch.set_num_threads(1)
    assert torch.equal(draw_noise(3, 7, range(12), SHAPE, "start"), whole)
    assert draw_noise(3, 7, [], SHAPE, "start").shape == (0, *SHAPE)


def test_noise_differs_by_seed_step_trajectory_and_stream() -> None:
    drawn = [
        draw_noise(*address, SHAPE, stream)[0]
        for stream in ("a", "b")
        for address in [(0, 0, [0]), (1, 0, [0]), (0, 1, [0]), (0, 0, [1])]
    ]
    flat = torch.stack(drawn).flatten(1)
    correlations = torch.corrcoef(flat).fill_diagonal_(0)
    assert correlations.abs().max() < 4.5 / flat.shape[1] ** 0.5


def test_noise_is_standard_normal() -> None:
    noise = draw_noise(0, 0, range(50), (20, 100), "start").double().numpy().ravel()
    assert stats.kstest(noise, "norm").pvalue > 1e-4
    assert abs(noise.mean()) < 4 / noise.size**0.5
    assert abs(noise.std() - 1) < 4 / (2 * noise.size) ** 0.5


# -- perturbed states


def start(dtype: torch.dtype, rows: int = 3) -> RecurrentState:
    draws = torch.Generator().manual_seed(1)
    leaves = [torch.randn(SHAPE, generator=draws).to(dtype).expand(rows, *SHAPE) for _ in range(2)]
    return RecurrentState(*leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("site", SITES)
def test_the_sum_is_made_wide_and_rounded_once(dtype: torch.dtype, site: str) -> None:
    state, sigma = start(dtype), torch.tensor([0.5, 1e-3, 2.0])
    noise = draw_state_noise(0, 4, range(3), SHAPE, "both", "start")
    moved = perturb(state, sigma, noise, site)
    for name in ("z_H", "z_L"):
        before, after = getattr(state, name), getattr(moved, name)
        assert after.dtype == dtype
        if name not in SITES[site]:
            assert after is before
            continue
        # numpy knows no bfloat16, and its float32 arithmetic is not torch's.
        kind = np.float64 if dtype == torch.float64 else np.float32
        z, epsilon, s = before.to(torch.float64).numpy(), noise[name].numpy(), sigma.numpy()[:, None, None]
        expected = z.astype(kind) + s.astype(kind) * epsilon.astype(kind)
        assert torch.equal(after, torch.from_numpy(expected).to(dtype))


def test_rows_without_perturbation_are_the_same_bits() -> None:
    state = start(torch.float32)
    state = RecurrentState(state.z_H.clone(), state.z_L.clone())
    state.z_H[:, 0, 0] = -0.0
    noise = draw_state_noise(0, 0, range(3), SHAPE, "both", "start")
    moved = perturb(state, torch.tensor([0.0, 0.1, 0.0]), noise, "both")
    for before, after in zip(state, moved, strict=True):
        assert torch.equal(before[[0, 2]].view(torch.int32), after[[0, 2]].view(torch.int32))
        assert not torch.equal(before[1], after[1])


def test_sites_share_their_noise_and_states_do_not() -> None:
    both = draw_state_noise(0, 2, range(3), SHAPE, "both", "start")
    for site in ("z_H", "z_L"):
        alone = draw_state_noise(0, 2, range(3), SHAPE, site, "start")
        assert alone.keys() == {site} and torch.equal(alone[site], both[site])
    assert not torch.equal(both["z_H"], both["z_L"])


def surviving_share(dtype: torch.dtype, sigma: float, channels: int = 1 << 20) -> float:
    """rms of what is added to an initial state after rounding, over sigma."""
    z = truncated_normal_(torch.empty(channels), 1.0, torch.Generator().manual_seed(0)).bfloat16()
    state = RecurrentState(*(z.to(dtype).view(1, 1, -1) for _ in range(2)))
    noise = draw_state_noise(0, 0, [0], (1, channels), "both", "start")
    moved = perturb(state, torch.tensor([sigma]), noise, "both")
    added = moved.z_H.double() - state.z_H.double()
    return float(added.square().mean().sqrt()) / sigma


def test_a_bfloat16_state_loses_most_of_a_small_perturbation() -> None:
    """8 % of its rms is left at 1e-5 (fewer or more for 512 channels), 27 % at 1e-4; in float32 nearly all of it."""
    assert surviving_share(torch.bfloat16, 1e-5) == pytest.approx(0.084, abs=0.006)
    assert surviving_share(torch.bfloat16, 1e-4) == pytest.approx(0.266, abs=0.006)
    assert surviving_share(torch.bfloat16, 1e-2) == pytest.approx(1, abs=0.02)
    for sigma in (1e-5, 1e-4, 1e-3, 1e-2):
        assert surviving_share(torch.float32, sigma) == pytest.approx(1, abs=0.003)


def test_a_bfloat16_network_with_float32_states_feels_a_small_perturbation() -> None:
    """Layers compute in bfloat16, the residual stream does not: two starts 1e-5 apart end up apart."""
    after = []
    for sigma in (0.0, 1e-5):
        model = small_model("trm-att", dtype=torch.bfloat16, state_dtype=torch.float32)
        state = model.initial_state(1)
        shape = tuple(state.z_H.shape[1:])
        moved = perturb(state, torch.tensor([sigma]), draw_state_noise(0, 0, [0], shape, "both", "start"), "both")
        rows = {"inputs": torch.zeros(1, 6, dtype=torch.int32), "puzzle_identifiers": torch.zeros(1, dtype=torch.int32)}
        with torch.no_grad():
            step = model.supervision_step(model.embed(rows))
            after.append(step.sub_updates[0](moved).z_L)
    distance = (after[0] - after[1]).square().mean().sqrt()
    assert 1e-6 < distance < 1e-3


# -- sigma


def sigmas(step: int = 0, count: int = 4000, seed: int = 0, **settings: object) -> np.ndarray:
    drawn = draw_sigma(ObjectiveConfig(**settings), seed, step, range(count))  # type: ignore[arg-type]
    assert drawn.dtype == torch.float32 and drawn.shape == (count,)
    return drawn.double().numpy()


def test_fixed() -> None:
    assert np.array_equal(np.unique(sigmas(sigma=2e-3)), [np.float32(2e-3)])
    assert not sigmas(sigma=0.0).any()


def test_loguniform_is_uniform_in_the_logarithm() -> None:
    drawn = sigmas(noise_sampling="loguniform", sigma_min=3e-5, sigma_max=3e-3)
    assert 3e-5 * (1 - 1e-6) <= drawn.min() and drawn.max() <= 3e-3 * (1 + 1e-6)
    share = np.log(drawn / 3e-5) / np.log(100)
    assert stats.kstest(share, "uniform").pvalue > 1e-4
    one = sigmas(noise_sampling="loguniform", sigma_min=1e-3, sigma_max=1e-3)
    assert np.allclose(one, 1e-3, rtol=1e-6)


def test_mixture_has_clean_trajectories() -> None:
    drawn = sigmas(noise_sampling="mixture", sigma=1e-3, p_clean=0.3)
    assert set(np.unique(drawn)) == {0.0, float(np.float32(1e-3))}
    assert stats.binomtest(int((drawn == 0).sum()), 4000, 0.3).pvalue > 1e-4
    assert not sigmas(noise_sampling="mixture", p_clean=1.0).any()
    assert sigmas(noise_sampling="mixture", p_clean=0.0).all()


@pytest.mark.parametrize("sampling", ["loguniform", "mixture"])
def test_sigma_is_a_function_of_seed_step_and_trajectory(sampling: str) -> None:
    settings = ObjectiveConfig(noise_sampling=sampling)
    whole = draw_sigma(settings, 0, 5, range(64))
    order = torch.tensor([63, 2, 17])
    assert torch.equal(draw_sigma(settings, 0, 5, order), whole[order])
    assert not torch.equal(draw_sigma(settings, 1, 5, range(64)), whole)
    assert not torch.equal(draw_sigma(settings, 0, 6, range(64)), whole)


@pytest.mark.parametrize("sampling", ["fixed", "loguniform", "mixture"])
def test_warm_up_and_ramp(sampling: str) -> None:
    """Clean for 10 updates, then from 0 to the target over 20, then the target itself; one factor for all."""
    settings = {"noise_sampling": sampling, "clean_warmup_steps": 10, "sigma_ramp_steps": 20}
    assert [ramp(ObjectiveConfig(**settings), step) for step in (0, 9, 10, 20, 30, 31, 10**6)] == [  # type: ignore[arg-type]
        0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0,
    ]  # fmt: skip
    for step in (0, 9, 10):
        assert not sigmas(step, **settings).any()
    for step, factor in ((11, 0.05), (25, 0.75), (30, 1.0), (400, 1.0)):
        target = sigmas(step, noise_sampling=sampling)
        assert np.allclose(sigmas(step, **settings), factor * target, rtol=1e-6, atol=0)
    assert np.array_equal(sigmas(30, **settings), sigmas(30, noise_sampling=sampling))
    assert sigmas(0, noise_sampling=sampling).any(), "without warm-up and ramp from the first update on"
    abrupt = {"noise_sampling": sampling, "clean_warmup_steps": 10}
    assert not sigmas(9, **abrupt).any() and np.array_equal(sigmas(10, **abrupt), sigmas(10, noise_sampling=sampling))


def test_perturbed_starts_are_centred_on_the_clean_one() -> None:
    """Their mean is the clean start, whatever the sampling; no trajectory moves to a new fixed offset."""
    for sampling in ("fixed", "loguniform", "mixture"):
        count = 4000
        sigma = draw_sigma(ObjectiveConfig(noise_sampling=sampling), 0, 0, range(count))
        noise = draw_state_noise(0, 0, range(count), (1, 8), "both", "start")
        state = RecurrentState(*(torch.zeros(count, 1, 8) for _ in range(2)))
        for leaf in perturb(state, sigma, noise, "both"):
            mean, scale = leaf.mean(dim=0), sigma.square().mean().sqrt() / count**0.5
            assert (mean.abs() < 4.5 * scale).all()
