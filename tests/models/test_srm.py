"""SRM: the map is the one that is written down; its sizes, dtypes and refusals."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import models.srm
from models.recursion import RecurrentState
from models.registry import build_model, count_parameters
from models.srm import GAIN_FLOOR, SRMConfig, StableRecursionModel
from models.weighted_norm import from_metric, to_metric
from tests.models.small import small_config
from tests.models.srm_models import inputs, length, minus, rescaled, srm, states


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
    config = SRMConfig("srm", 81, 11, 1, pos_encodings="none")
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
        ({"alpha": 0.0}, "alpha is 0.0, expected a number above 0"),
        ({"alpha": 1.5}, "alpha is 1.5, expected a number above 0 and at most 1"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"kappa": 0.8}, "kappa is 0.8, expected a number from 0.85 to 0.95"),
        ({"kappa": 1.0}, "kappa is 1.0"),
        ({"pos_encodings": "rope"}, "expected none or learned for srm"),
        ({"mlp_t": True}, "mlp_t is True, expected False"),
        ({"state_dtype": torch.bfloat16}, "use state_dtype float32"),
        ({"num_heads": 3}, "expected a multiple of arch.num_heads=3"),
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
