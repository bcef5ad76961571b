"""SRM: the bound that its construction promises holds for any weights, on any trajectory, and is attained."""

import math

import pytest
import torch

from dynamics.lyapunov import lyapunov_spectrum
from models.recursion import RecurrentState
from models.recursion_maps import RecursionMaps
from models.weighted_norm import in_metric, state_norm, to_metric
from tests.models.small import small_batch
from tests.models.srm_models import (
    inputs,
    largest_singular_value,
    length,
    minus,
    one_application,
    rescaled,
    srm,
    states,
    unit,
)

SETTINGS = [(0.5, 0.9), (1.0, 0.95), (0.1, 0.85)]
EVERY_SETTING = pytest.mark.parametrize(("alpha", "kappa"), SETTINGS)


@EVERY_SETTING
@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4])
def test_ten_thousand_pairs(alpha: float, kappa: float, seed: int | None) -> None:
    """Near and far ones, each with an input of its own; also with weights of any size."""
    model = srm(alpha=alpha, kappa=kappa)
    if seed is not None:
        rescaled(model, seed)
    bound, weights = model.contraction_bound().per_application, model.metric_weights()
    assert bound == 1 - alpha + alpha * kappa
    a = states(model, 10_000, 1)
    distance = 10 ** (5 * torch.rand(10_000, 1, 1, generator=torch.Generator().manual_seed(0)).double() - 3)
    b = RecurrentState(*(z + distance * d for z, d in zip(a, states(model, 10_000, 2), strict=True)))
    with torch.no_grad():
        update = model.supervision_step(inputs(model, 10_000)).sub_updates[0]
        ratios = state_norm(minus(update(a), update(b)), weights) / state_norm(minus(a, b), weights)
    assert ratios.max() <= bound + 1e-9
    assert ratios.max() > (0.1 if seed else 0.5) * bound, "a map that forgets everything would pass above"


@EVERY_SETTING
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_no_direction_at_any_state_is_stretched_by_more(alpha: float, kappa: float, seed: int | None) -> None:
    model = srm(alpha=alpha, kappa=kappa)
    if seed is not None:
        rescaled(model, seed)
    advance = one_application(model, inputs(model, 64))
    for size in (0.1, 10.0):
        at = states(model, 64, 4, size)
        found = largest_singular_value(advance, at, states(model, 64, 5), rounds=60)
        assert found.max() <= model.contraction_bound().per_application + 1e-9


def test_power_iteration_finds_the_norm() -> None:
    """The instrument of the test above, against singular values of the whole Jacobian."""
    model = srm()
    advance = one_application(model, inputs(model, 1))
    at = states(model, 1, 4)
    columns = torch.autograd.functional.jacobian(lambda h, l: tuple(advance(RecurrentState(h, l))), tuple(at))
    whole = torch.cat([torch.cat([part.reshape(128, 128) for part in row], dim=1) for row in columns])
    expected = torch.linalg.matrix_norm(whole, ord=2)
    found = largest_singular_value(advance, at, states(model, 1, 5), rounds=300)
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=0)
    assert found[0] <= expected + 1e-12
    assert expected <= model.contraction_bound().per_application


@EVERY_SETTING
def test_the_bound_is_attained(alpha: float, kappa: float) -> None:
    """Residual units off, no rotation, unequal gains: exactly 1 - alpha + alpha kappa, along (1, sqrt(eta)) u."""
    model = srm(alpha=alpha, kappa=kappa)
    with torch.no_grad():
        for layer in model.joint_level.layers:
            layer.channel_mixing.zero_()
            layer.token_mixing.copy_(torch.eye(model.config.total_len).expand_as(layer.token_mixing))
        model.joint_level.rotations.zero_()
        model.joint_level.gain_logits.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.3]]))
    advance = one_application(model, inputs(model, 2))
    found = largest_singular_value(advance, states(model, 2, 4), states(model, 2, 5), rounds=150)
    bound = model.contraction_bound().per_application
    torch.testing.assert_close(found, torch.full((2,), bound, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_bound_is_one_in_the_weighted_norm_only() -> None:
    """Gains by which z_L feeds both states: the Euclidean norm grows in an application, the weighted one may not."""
    model = srm(alpha=1.0, kappa=0.95)
    with torch.no_grad():
        model.joint_level.gain_logits.copy_(torch.tensor([[-9.0, 9.0], [-9.0, 9.0]]))
    plain = model.supervision_step(inputs(model, 8)).sub_updates[0]
    at, start = states(model, 8, 4), states(model, 8, 5)
    assert largest_singular_value(plain, at, start, rounds=100).max() > 1.1
    weighted = largest_singular_value(one_application(model, inputs(model, 8)), at, start, rounds=100)
    assert weighted.max() <= 0.95 + 1e-9


def test_training_against_the_bound_does_not_pass_it() -> None:
    """Gradient ascent on the stretching of a direction, over all weights, the direction and the state."""
    model = srm(alpha=1.0, kappa=0.95)
    embeddings = inputs(model, 4)
    free = [z.requires_grad_() for z in (*states(model, 4, 1), *states(model, 4, 2))]
    optimizer = torch.optim.Adam([*model.parameters(), *free], lr=0.03)
    found = []
    for _ in range(150):
        advance = one_application(model, embeddings)
        out = torch.func.jvp(advance, (RecurrentState(*free[:2]),), (unit(RecurrentState(*free[2:])),))[1]
        stretching = length(out)
        found.append(float(stretching.detach().max()))
        optimizer.zero_grad()
        (-stretching.log().sum()).backward()
        optimizer.step()
    assert found[0] < 0.6 and max(found) > 0.93, "the ascent is one, and nearly arrives"
    assert max(found) <= 0.95 + 1e-9


@EVERY_SETTING
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_lyapunov_exponents_never_exceed_the_bound(alpha: float, kappa: float, seed: int | None) -> None:
    """Every interval of the leading exponent in the weighted norm; in the Euclidean one up to ln(cond) / 2 in all."""
    model = srm(alpha=alpha, kappa=kappa)
    if seed is not None:
        rescaled(model, seed)
    maps, weights, bound = RecursionMaps(model, small_batch(2)), model.metric_weights(), model.contraction_bound()
    for start in (maps.initial_state, states(model, 2, 7, 100.0)):
        generator = torch.Generator().manual_seed(0)
        found = lyapunov_spectrum(
            in_metric(maps.sub_updates, weights), to_metric(start, weights), num_exponents=3, num_steps=4,
            generator=generator,
        )  # fmt: skip
        assert found.local_growth.max() <= bound.lambda_per_application + 1e-9
        assert found.exponents.max() <= bound.lambda_per_step + 1e-9
        assert found.svd_exponents.max() <= bound.lambda_per_step + 1e-9
        assert found.num_maps == bound.num_applications
        plain = lyapunov_spectrum(maps.sub_updates, start, num_exponents=3, num_steps=4, generator=generator)
        allowance = math.log(weights.condition) / (2 * 4)
        assert plain.exponents[:, 0].max() <= bound.lambda_per_step + allowance + 1e-9
        assert plain.svd_exponents.max() <= bound.lambda_per_step + allowance + 1e-9


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_one_fixed_point_from_any_start_at_the_promised_speed(seed: int | None) -> None:
    model = srm(alpha=1.0, kappa=0.85)
    if seed is not None:
        rescaled(model, seed)
    step, weights = model.supervision_step(inputs(model, 3)), model.metric_weights()
    rate = model.contraction_bound().per_step
    a, b = states(model, 3, 1), states(model, 3, 2, 1000.0)
    scale = state_norm(b, weights).max()
    with torch.no_grad():
        for _ in range(60):
            before = state_norm(minus(a, b), weights)
            a, b = step(a), step(b)
            size = max(scale, state_norm(a, weights).max())
            assert (state_norm(minus(a, b), weights) <= rate * before + 1e-12 * size).all()
        assert (state_norm(minus(a, b), weights) <= 1e-12 * size).all()
        assert (state_norm(minus(step(a), a), weights) <= 1e-12 * size).all(), "it is a fixed point"
    assert state_norm(a, weights).min() > 1e-2


def test_alpha_is_the_speed_and_not_the_place() -> None:
    fast, slow = srm(alpha=1.0), srm(alpha=0.3)
    slow.load_state_dict(fast.state_dict())
    ends = []
    with torch.no_grad():
        for model in (fast, slow):
            step, state = model.supervision_step(inputs(model, 2)), states(model, 2, 1)
            for _ in range(300):
                state = step(state)
            ends.append(state)
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
