"""SRM: the bound that its construction promises holds for any weights, and the map is the one that is written down."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import models.srm
from dynamics.lyapunov import lyapunov_spectrum
from models.config import ModelConfig
from models.recursion import RecurrentState
from models.registry import build_model, count_parameters
from models.srm import GAIN_FLOOR, StableRecursionModel
from models.weighted_norm import from_metric, in_metric, state_norm, to_metric
from tests.models.small import small_batch, small_config, small_model
from training.recursion_maps import RecursionMaps

SETTINGS = [(0.5, 0.9), (1.0, 0.95), (0.1, 0.85)]
EVERY_SETTING = pytest.mark.parametrize(("alpha", "kappa"), SETTINGS)


def srm(seed: int = 0, **changes: object) -> StableRecursionModel:
    model = small_model("srm", seed, **changes).eval()
    assert isinstance(model, StableRecursionModel)
    return model


def rescaled(model: StableRecursionModel, seed: int) -> StableRecursionModel:
    """Each parameter anew at random and times 1, 10 or 100."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            factor = 10.0 ** int(torch.randint(0, 3, (), generator=generator))
            parameter.copy_(factor * torch.randn(parameter.shape, generator=generator))
    return model


def states(model: StableRecursionModel, rows: int, seed: int, size: float = 1.0) -> RecurrentState:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, model.config.total_len, model.config.hidden_size)
    return RecurrentState(*(size * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)))


def inputs(model: StableRecursionModel, rows: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, model.config.total_len, model.config.hidden_size, generator=generator, dtype=torch.float64)


def one_application(model: StableRecursionModel, embeddings: Tensor) -> Callable[[RecurrentState], RecurrentState]:
    """In the coordinates in which the weighted norm is the Euclidean one."""
    return in_metric(model.supervision_step(embeddings).sub_updates[:1], model.metric_weights())[0]


def minus(a: RecurrentState, b: RecurrentState) -> RecurrentState:
    return RecurrentState(a.z_H - b.z_H, a.z_L - b.z_L)


def length(z: RecurrentState) -> Tensor:
    return (z.z_H.square().sum(dim=(1, 2)) + z.z_L.square().sum(dim=(1, 2))).sqrt()


def unit(z: RecurrentState) -> RecurrentState:
    size = length(z).clamp_min(1e-300)[:, None, None]
    return RecurrentState(z.z_H / size, z.z_L / size)


def largest_singular_value(
    advance: Callable[[RecurrentState], RecurrentState], at: RecurrentState, start: RecurrentState, rounds: int
) -> Tensor:
    """(B,): by power iteration on J^T J at each row, a lower bound that approaches the norm of the Jacobian."""
    direction = unit(start)
    for _ in range(rounds):
        _, pushed = torch.func.jvp(advance, (at,), (direction,))
        (pulled,) = torch.func.vjp(advance, at)[1](pushed)
        direction = unit(pulled)
    return length(torch.func.jvp(advance, (at,), (direction,))[1])


# -- the bound


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


# -- the map


def written_down(model: StableRecursionModel, embeddings: Tensor, state: RecurrentState) -> RecurrentState:
    """One application in the states' own coordinates, row by row and token by token, from the weights."""
    joint, config = model.joint_level, model.config
    logits = joint.gain_logits
    shares = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in logits.tolist()]
    s = [[GAIN_FLOOR + (1 - 2 * GAIN_FLOOR) * share for share in row] for row in shares]
    root_eta = math.sqrt(s[0][1] / s[1][0])
    identity = torch.eye(config.hidden_size, dtype=torch.float64)
    turns = [(identity - (m - m.T)) @ torch.linalg.inv(identity + (m - m.T)) for m in joint.rotations]

    def orthogonalised(w: Tensor) -> Tensor:
        if w.shape[0] < w.shape[1]:
            return orthogonalised(w.T).T
        return w @ torch.diag((w.T @ w).abs().sum(dim=1) ** -0.5)

    result = []
    for x, h, l in zip(embeddings, *state, strict=True):
        y = torch.cat((h, root_eta * l), dim=1)
        for layer in joint.layers:
            per_group = torch.split(y, y.shape[1] // config.num_heads, dim=1)
            pairs = zip(layer.token_mixing, per_group, strict=True)
            y = torch.cat([orthogonalised(w) @ part for w, part in pairs], dim=1)
            P = orthogonalised(layer.channel_mixing)
            shift = x @ layer.input_proj.weight.T
            y = torch.stack([v - 2 * P @ (P.T @ v + u).clamp(min=0) for v, u in zip(y, shift, strict=True)])
        a, c = y[:, : config.hidden_size], y[:, config.hidden_size :] / root_eta
        b = x @ joint.input_proj.weight.T
        b_H, b_L = b[:, : config.hidden_size], b[:, config.hidden_size :]
        alpha, kappa = config.alpha, config.kappa
        new_H = (1 - alpha) * h + alpha * (kappa * (s[0][0] * a + s[0][1] * c @ turns[0]) + b_H)
        new_L = (1 - alpha) * l + alpha * (kappa * (s[1][0] * a @ turns[1] + s[1][1] * c) + b_L)
        result.append((new_H, new_L))
    return RecurrentState(*(torch.stack(parts) for parts in zip(*result, strict=True)))


@pytest.mark.parametrize("changes", [{}, {"L_layers": 3, "num_heads": 4}, {"expansion": 0.2, "num_heads": 1}], ids=str)
def test_an_application_is_the_formula(changes: dict[str, object]) -> None:
    model = srm(**changes)
    with torch.no_grad():
        model.joint_level.gain_logits.copy_(torch.tensor([[0.3, -0.5], [1.5, 0.2]]))
        embeddings, state = inputs(model, 2), states(model, 2, 1)
        found = model.supervision_step(embeddings).sub_updates[0](state)
        expected = written_down(model, embeddings, state)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_weights_are_prepared_once_per_supervision_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"almost_orthogonal": 0, "cayley": 0}
    for name in calls:
        plain = getattr(models.srm, name)

        def counted(weight: Tensor, name: str = name, plain: Callable[[Tensor], Tensor] = plain) -> Tensor:
            calls[name] += 1
            return plain(weight)

        monkeypatch.setattr(models.srm, name, counted)
    model = srm(L_layers=2)
    step = model.supervision_step(inputs(model, 1))
    step(step(states(model, 1, 1)))
    assert calls == {"almost_orthogonal": 4, "cayley": 1}


def test_many_tangents_at_once_are_each_alone() -> None:
    model = srm()
    advance = model.supervision_step(inputs(model, 2))
    at = states(model, 2, 1)
    tangents = [states(model, 2, seed) for seed in range(3)]
    stacked = RecurrentState(*(torch.stack(leaves) for leaves in zip(*tangents, strict=True)))
    together = torch.func.vmap(lambda t: torch.func.jvp(advance, (at,), (t,))[1])(stacked)
    for number, tangent in enumerate(tangents):
        alone = torch.func.jvp(advance, (at,), (tangent,))[1]
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[number], b, rtol=0, atol=1e-13)


def test_the_answer_is_read_from_z_H_alone() -> None:
    model = srm()
    state = states(model, 2, 1)
    logits, q_halt, _ = model.readout(state)
    other, other_q, _ = model.readout(state._replace(z_L=states(model, 2, 2).z_L))
    assert torch.equal(logits, other) and torch.equal(q_halt, other_q)
    moved = model.supervision_step(inputs(model, 2)).sub_updates[0](state._replace(z_L=states(model, 2, 2).z_L))
    kept = model.supervision_step(inputs(model, 2)).sub_updates[0](state)
    assert not torch.equal(moved.z_H, kept.z_H), "z_L reaches the next z_H"


# -- sizes, dtypes, refusals


def test_gains_stay_inside_their_floor_whatever_the_logits() -> None:
    model = srm()
    for value in (0.0, 5.0, 1e6, -1e6):
        with torch.no_grad():
            model.joint_level.gain_logits.copy_(torch.tensor([[value, 0.0], [0.0, -value]]))
        gains = model.joint_level.gains()
        assert (gains >= GAIN_FLOOR - 1e-15).all()
        torch.testing.assert_close(gains.sum(dim=1), torch.ones(2).double())
        assert model.metric_weights().condition <= (1 - GAIN_FLOOR) / GAIN_FLOOR + 1e-9


def test_bound_per_step_and_in_nats() -> None:
    bound = srm(alpha=0.5, kappa=0.9, H_cycles=2, L_cycles=3).contraction_bound()
    assert (bound.per_application, bound.num_applications) == (0.95, 8)
    assert bound.per_step == 0.95**8 and bound.lambda_per_step == pytest.approx(8 * math.log(0.95), rel=1e-15)


def test_number_of_parameters() -> None:
    """Embedding and heads, and per layer G L^2 + 2 D W + D W; V, the rotations and four gains once."""
    config = ModelConfig("srm", 81, 11, 1, pos_encodings="none")
    size, tokens, width = 512, 97, 2816
    assert config.swiglu_width(2 * size) == width
    layer = 8 * tokens**2 + 3 * size * width
    expected = 2 * 11 * size + 2 * size + 2 + 2 * layer + 2 * size**2 + 2 * size**2 + 4
    with torch.device("meta"):
        model = build_model(config)
    assert count_parameters(model) == expected == 9_862_166
    names = {
        "joint_level.gain_logits": (2, 2), "joint_level.rotations": (2, 512, 512),
        "joint_level.input_proj.weight": (1024, 512), "joint_level.layers.1.token_mixing": (8, 97, 97),
        "joint_level.layers.0.channel_mixing": (1024, width), "joint_level.layers.0.input_proj.weight": (width, 512),
    }  # fmt: skip
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert names.items() <= found.items()


def test_states_are_wide_whatever_the_layers() -> None:
    for dtype, expected in (
        (torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)
    ):  # fmt: skip
        model = srm(dtype=dtype)
        step = model.supervision_step(inputs(model, 2).to(dtype))
        after = step(model.initial_state(2))
        assert after.z_H.dtype == after.z_L.dtype == expected
    assert srm(dtype=torch.float32, state_dtype=torch.float64).config.carry_dtype == torch.float64


def test_float32_and_bfloat16_layers_follow_float64() -> None:
    """Rounding errors do not grow: after 20 supervision steps they are as after one."""
    exact = srm()
    reference = exact.supervision_step(inputs(exact, 2))
    for dtype, allowed in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
        model = srm(dtype=dtype)
        model.load_state_dict(exact.state_dict())
        step = model.supervision_step(inputs(exact, 2).to(dtype))
        a, b = states(exact, 2, 1), RecurrentState(*(z.float() for z in states(exact, 2, 1)))
        with torch.no_grad():
            for _ in range(20):
                a, b = reference(a), step(b)
                off = minus(a, RecurrentState(b.z_H.double(), b.z_L.double()))
                assert (length(off) <= allowed * length(a)).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 0.0}, "alpha 0.0 is not above 0"),
        ({"alpha": 1.5}, "alpha 1.5 is not above 0 and at most 1"),
        ({"alpha": math.nan}, "alpha nan"),
        ({"kappa": 0.8}, "kappa 0.8 is not from 0.85 to 0.95"),
        ({"kappa": 1.0}, "kappa 1.0"),
        ({"pos_encodings": "rope"}, "no rope"),
        ({"mlp_t": True}, "no mlp_t"),
        ({"state_dtype": torch.bfloat16}, "use state_dtype float32"),
        ({"num_heads": 3}, "not divisible by num_heads 3"),
    ],
)
def test_what_would_break_the_bound_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(small_config("srm"), **change)


def test_coordinates_of_the_norm_are_those_of_the_model() -> None:
    """to_metric and from_metric with the model's weights undo each other."""
    model = rescaled(srm(), 1)
    state, weights = states(model, 2, 1), model.metric_weights()
    for a, b in zip(from_metric(to_metric(state, weights), weights), state, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)
