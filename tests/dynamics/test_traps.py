"""Maps whose JVP is silently wrong are refused; harmless ones that look alike are not."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dynamics.flat_state import StateLayout
from dynamics.lyapunov import LyapunovResult, lyapunov_spectrum
from dynamics.tangents import disagreement, exact_arithmetic, push_tangents
from tests.dynamics.maps import Map, normal

STATE = normal(2, 3)


def run(advance: Map, state: Tensor = STATE) -> LyapunovResult:
    return lyapunov_spectrum(advance, state, num_exponents=2, num_steps=3)


def expect_exponent(advance: Map, factor: float) -> None:
    expected = torch.full((2, 2), math.log(factor), dtype=torch.float64)
    torch.testing.assert_close(run(advance).exponents, expected, rtol=0, atol=1e-12)


# -- hidden states


def no_grad_inside(z: Tensor) -> Tensor:
    with torch.no_grad():
        z = 3 * z
    return 2 * z


def test_no_grad_inside_is_harmless() -> None:
    expect_exponent(no_grad_inside, 6)
    with torch.no_grad():
        expect_exponent(no_grad_inside, 6)
    with torch.inference_mode():
        expect_exponent(lambda z: 6 * z, 6)


@pytest.mark.parametrize(
    "advance",
    [
        lambda z: 2 * (3 * z).detach(),
        lambda z: 2 * (3 * z).data,
        lambda z: z + 0.5 * z.sin().detach(),
        lambda z: 2 * z.clone().detach_(),
        lambda z: torch.cat((2 * z[:, :2], z[:, 2:].detach().sin()), dim=1),
    ],
)
def test_detach_inside_is_refused(advance: Map) -> None:
    for state in (STATE, STATE.float()):
        with pytest.raises(ValueError, match="hides part of its state"):
            run(advance, state)


def test_detach_deep_in_a_sequence_is_refused() -> None:
    maps = [lambda z: 2 * z, lambda z: z.sin(), lambda z: z + z.detach()]
    with pytest.raises(ValueError, match="hides part of its state"):
        run(maps)  # type: ignore[arg-type]


def test_a_detached_copy_that_is_only_looked_at_passes() -> None:
    seen = []

    def advance(z: Tensor) -> Tensor:
        seen.append(z.detach())
        return 6 * z

    expect_exponent(advance, 6)
    assert seen


def test_a_compiled_map_is_refused_or_right() -> None:
    """Inside a compiled map dual numbers may be lost: then that is an error, never a number."""
    compiled = torch.compile(lambda z: 6 * z, backend="eager")
    try:
        found = run(compiled)
    except (ValueError, RuntimeError):
        return
    torch.testing.assert_close(
        found.exponents, torch.full((2, 2), math.log(6), dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_the_push_itself_can_be_compiled() -> None:
    """The JVP inside the compiled function, not the other way round."""
    layout = StateLayout(STATE)
    tangents = layout.split_tangents(normal(2, 3, 2, seed=1))

    def push(z: Tensor, t: Tensor) -> Tensor:
        return torch.func.vmap(lambda one: torch.func.jvp(lambda x: (2 * x).sin(), (z,), (one,))[1])(t)

    compiled = torch.compile(push, backend="aot_eager", fullgraph=True)
    _, eager = push_tangents(lambda z: (2 * z).sin(), layout, [STATE], tangents)
    with torch.no_grad():
        torch.testing.assert_close(compiled(STATE, tangents[0]), eager[0], rtol=0, atol=1e-5)


# -- precision


def test_lower_precision_inside_is_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16 inside"):
        run(lambda z: (2 * z).bfloat16().to(z.dtype) * 3)
    with pytest.raises(ValueError, match="keep its precision"):
        run(lambda z: (2 * z).float())
    with pytest.raises(ValueError, match="keep its precision"):
        run(lambda z: (2 * z).bfloat16(), STATE.float())


def test_autocast_is_refused() -> None:
    weights = torch.eye(3)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="autocast is on"):
        run(lambda z: z @ weights, STATE.float())

    def inside(z: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (z @ weights).to(z.dtype)

    with pytest.raises(ValueError, match="bfloat16"):
        run(inside, STATE.float())


def test_settings_are_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_arithmetic():
            assert torch.get_float32_matmul_precision() == "highest" and not torch.is_grad_enabled()
        assert torch.get_float32_matmul_precision() == "medium" and torch.is_grad_enabled()
    finally:
        torch.set_float32_matmul_precision(before)


def test_parameters_are_left_alone() -> None:
    """Weights that want gradients give no graph that grows with the run, and no gradient."""
    weights = torch.eye(3, dtype=torch.float64).requires_grad_()
    found = run(lambda z: z @ weights.T)
    assert not found.exponents.requires_grad and not found.final_state.requires_grad
    assert weights.grad is None


# -- a JVP against differences


def attention(z: Tensor) -> Tensor:
    """A block with fused attention and a norm over channels, (B, 5, 8)."""
    heads = z.unflatten(2, (2, 4)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(heads, 2 * heads, heads.sin()).transpose(1, 2).flatten(2)
    return F.rms_norm(z + mixed, (8,), eps=1e-5)


def difference(z: Tensor, t: Tensor, h: float) -> Tensor:
    return (attention(z + h * t) - attention(z - h * t)) / (2 * h)


def test_attention_and_norm_against_differences() -> None:
    z, t = normal(2, 5, 8), normal(2, 5, 8, seed=1)
    layout = StateLayout(z)
    with exact_arithmetic():
        _, pushed = push_tangents(attention, layout, [z], [t[None]])
        errors = torch.stack([(difference(z, t, h) - pushed[0][0]).abs().max() for h in (1e-1, 1e-2, 1e-3, 1e-6)])
    assert errors[3] < 4e-9
    slopes = (errors[:2] / errors[1:3]).log10()
    torch.testing.assert_close(slopes[1], torch.tensor(2.0).double(), rtol=0, atol=0.05)
    assert 1.5 < slopes[0] < 2.5


def test_attention_and_norm_against_reverse_mode() -> None:
    z = normal(1, 5, 8)
    layout = StateLayout(z)
    with exact_arithmetic():
        _, pushed = push_tangents(attention, layout, [z], layout.split_tangents(torch.eye(40)[None]))
    dense = torch.autograd.functional.jacobian(lambda x: attention(x.view(1, 5, 8)).flatten(), z.flatten())
    torch.testing.assert_close(layout.join_tangents(pushed)[0], dense, rtol=0, atol=1e-10)
    with exact_arithmetic():
        assert (disagreement(attention, layout, [z]) < 1e-6).all()


def test_the_norm_annihilates_one_direction_per_token() -> None:
    """After an update tangents are orthogonal to the state token by token; in 5 tokens, 5 exponents are far below."""
    z = normal(2, 5, 8)
    found = lyapunov_spectrum(attention, z, num_exponents=40, num_steps=4, generator=torch.Generator().manual_seed(0))
    state = found.final_state
    leading = found.final_tangents[:, :, :20].unflatten(1, (5, 8))
    cosine = torch.einsum("btck,btc->btk", leading, state) / state.norm(dim=2)[:, :, None]
    assert cosine.abs().max() < 1e-4
    # With eps = 1e-5 the directions keep a factor of about eps instead of 0.
    gap = found.exponents[:, 34] - found.exponents[:, 35]
    assert (gap > 4).all() and (found.exponents[:, 35:] < -6).all()


def test_two_states_of_three_tokens_lose_six_of_24_directions() -> None:
    """With an exact norm one direction per token and state is gone for good, and flagged: the rank is 18."""
    mix = [normal(12, 12, seed=seed) for seed in (11, 12)]

    def norm(x: Tensor) -> Tensor:
        tokens = x.unflatten(1, (3, 4))
        return (tokens / tokens.square().mean(dim=2, keepdim=True).sqrt()).flatten(1)

    def update_L(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z_H, z_L = state
        return z_H, norm(z_L + torch.tanh((z_L + z_H) @ mix[0]))

    def update_H(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z_H, z_L = state
        return norm(z_H + torch.tanh((z_L + z_H) @ mix[1])), z_L

    start = (normal(1, 12, seed=13), normal(1, 12, seed=14))

    def step(flat: Tensor) -> Tensor:
        return torch.cat(update_H(update_L(flat[None].split(12, dim=1))), dim=1)[0]  # type: ignore[arg-type]

    jacobian = torch.autograd.functional.jacobian(step, torch.cat(start, dim=1)[0])
    assert int(torch.linalg.matrix_rank(jacobian, rtol=1e-10)) == 18
    found = lyapunov_spectrum(
        [update_L, update_H], start, num_exponents=24, num_steps=3, qr_interval=2,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    lost = found.flags["rank_lost"][0] | found.flags["zero_growth"][0]
    assert int(lost.sum()) == 6 and not bool(lost[:18].any())
    assert (found.exponents[0, 18:] < -8).all() and (found.exponents[0, :18] > -4).all()
