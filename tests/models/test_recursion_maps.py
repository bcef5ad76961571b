"""TRM, HRM and SRM as maps for the engine: the model's own steps, with derivatives that differences confirm."""

import pytest
import torch
from torch import Tensor

from dynamics.alignment import aligned_tangents
from dynamics.differentiable import differentiable_exponents
from dynamics.finite_size import finite_size_growth
from dynamics.flat_state import StateLayout
from dynamics.lyapunov import lyapunov_spectrum
from dynamics.readout import readout_growth
from dynamics.tangents import disagreement, exact_arithmetic
from errors import UserError
from models.act import initial_carry, start_halted_slots, truncated_step
from models.recursion import RecurrentState
from models.recursion_maps import RecursionMaps
from tests.models.small import ARCHITECTURES, small_batch, small_model


def make(name: str, size: int = 2, **changes: object) -> RecursionMaps:
    return RecursionMaps(small_model(name, **changes).eval(), small_batch(size))


def own(state: RecurrentState) -> RecurrentState:
    return RecurrentState(*(leaf.clone() for leaf in state))


def flat_jacobian(maps: RecursionMaps, layout: StateLayout, steps: int) -> Tensor:
    """D(F^steps) of a batch of one by reverse mode, (D, D)."""

    def advance(z: Tensor) -> Tensor:
        state = layout.state(layout.unflatten(z[None]))
        for _ in range(steps):
            state = maps.step(state)
        return layout.flatten(layout.leaves(state))[0]

    start = layout.flatten(layout.leaves(maps.initial_state))[0]
    return torch.autograd.functional.jacobian(advance, start)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_steps_are_the_models_own_bit_for_bit(name: str) -> None:
    """Three supervision steps: the model's map, the sub-updates one by one, and the ACT wrapper's states."""
    maps = make(name)
    model, batch = maps.model, maps.batch
    carry = start_halted_slots(model, initial_carry(model, batch), batch)
    acted = RecurrentState(carry["z_H"], carry["z_L"])
    whole = by_parts = reference = maps.initial_state
    with torch.no_grad():
        for _ in range(3):
            step = model.supervision_step(model.embed(batch))
            reference, whole, acted = step(reference), maps.step(whole), truncated_step(step, acted)
            for sub_update in maps.sub_updates:
                by_parts = sub_update(by_parts)
            for other in (whole, by_parts, acted):
                assert torch.equal(other.z_H, reference.z_H) and torch.equal(other.z_L, reference.z_L)
    config = model.config
    assert len(maps.sub_updates) == config.H_cycles * (config.L_cycles + 1)
    found = lyapunov_spectrum(maps.sub_updates, maps.initial_state, num_exponents=2, num_steps=3)
    torch.testing.assert_close(found.final_state.z_H, reference.z_H, rtol=0, atol=1e-12)
    assert not (found.flags["nonfinite_state"] | found.flags["nonfinite_tangents"]).any()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_sub_update_against_differences(name: str) -> None:
    """float64, central, also through math attention, which the engine uses instead of the fused kernel."""
    maps = make(name)
    state = own(maps.step(maps.initial_state))
    layout = StateLayout(state)
    with exact_arithmetic():
        for advance in (*maps.sub_updates, maps.step):
            leaves = layout.leaves(state)
            # Steps of 1e-5, of which the error is the square times the third derivative.
            assert (disagreement(advance, layout, leaves) < 1e-6).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_spectrum_against_reverse_mode(name: str) -> None:
    """Forward products by sub-update and by step agree with singular values of the whole reverse-mode Jacobian."""
    maps = make(name, size=1)
    layout = StateLayout(own(maps.initial_state))
    jacobian = flat_jacobian(maps, layout, 2)
    tangents = torch.linalg.qr(torch.randn(1, layout.size, 5, generator=torch.Generator().manual_seed(0)).double()).Q
    expected = torch.linalg.svdvals(jacobian @ tangents[0]).log() / 2
    results = [
        lyapunov_spectrum(advance, maps.initial_state, num_exponents=5, num_steps=2, initial_tangents=tangents)
        for advance in (maps.sub_updates, maps.step)
    ]
    for found in results:
        torch.testing.assert_close(found.svd_exponents[0], expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(results[0].exponents, results[1].exponents, rtol=0, atol=1e-8)
    assert results[0].num_maps == len(maps.sub_updates) and results[1].num_maps == 1


def test_the_norm_of_a_token_annihilates_a_direction() -> None:
    """TRM with attention: after an update of z_L its tangents are orthogonal to it in each of the 8 tokens."""
    maps = make("trm-att")
    found = lyapunov_spectrum(
        maps.sub_updates[:1], maps.initial_state, num_exponents=4, num_steps=2,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    size = found.final_state.z_L[0].numel()
    moved = found.final_tangents[:, size:].unflatten(1, found.final_state.z_L.shape[1:])
    inner = torch.einsum("btck,btc->btk", moved, found.final_state.z_L)
    scale = moved.norm(dim=2) * found.final_state.z_L.norm(dim=2)[:, :, None]
    assert (inner / scale).abs().max() < 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_whole_toolbox_takes_these_maps(name: str) -> None:
    """A readout's growth and a real perturbation along one tangent are the same numbers."""
    maps = make(name)
    state = maps.initial_state
    tangent = aligned_tangents(
        maps.sub_updates, state, num_exponents=1, num_steps=2, generator=torch.Generator().manual_seed(0)
    )
    seen = readout_growth(maps.sub_updates, state, lambda z: z.z_H, num_steps=2, initial_tangents=tangent)
    assert seen.shape == (2, 1, 3) and maps.logits(state).shape == (2, 6, 5)
    real = finite_size_growth(maps.step, state, sizes=[1e-6], num_steps=2, directions=tangent, relative=False)
    leading = lyapunov_spectrum(
        maps.sub_updates, state, num_exponents=1, num_steps=2, initial_tangents=tangent
    ).exponents
    torch.testing.assert_close(real.growth()[:, 0], leading, rtol=0, atol=1e-4)
    answers = readout_growth(maps.sub_updates, state, maps.logits, num_steps=2, initial_tangents=tangent)
    assert answers.isfinite()[:, :, 1:].all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_exponents_have_a_gradient_in_the_weights(name: str) -> None:
    """Through two steps, math attention and the QR, against differences along one direction of one weight matrix."""
    maps = make(name)
    weight = next(maps.model.stacks()[-1].parameters())
    generator = torch.Generator().manual_seed(0)
    tangents = torch.randn(2, maps.initial_state.z_H[0].numel() * 2, 2, generator=generator).double()
    change = torch.randn(weight.shape, generator=generator).double()

    def loss() -> Tensor:
        # With the weights as they are now: SRM prepares them once per map.
        advance = RecursionMaps(maps.model, maps.batch).sub_updates
        return differentiable_exponents(
            advance, maps.initial_state, num_exponents=2, num_steps=2, qr_interval=3,
            initial_tangents=tangents,
        ).mean_square()  # fmt: skip

    (gradient,) = torch.autograd.grad(loss(), weight)
    h, at = 2e-5, {}
    for step in (-2, -1, 1, 2):
        with torch.no_grad():
            weight += step * h * change
        at[step] = loss().detach()
        with torch.no_grad():
            weight -= step * h * change
    expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    torch.testing.assert_close((gradient * change).sum(), expected, rtol=2e-7, atol=1e-7)


def test_a_puzzle_alone_has_the_spectrum_that_it_has_in_a_batch() -> None:
    batch = small_batch(3)
    model = small_model("trm-att").eval()
    tangents = torch.randn(3, 256, 2, generator=torch.Generator().manual_seed(0)).double()

    def run(rows: slice) -> Tensor:
        maps = RecursionMaps(model, {key: value[rows] for key, value in batch.items()})
        return lyapunov_spectrum(
            maps.sub_updates,
            maps.initial_state,
            num_exponents=2,
            num_steps=3,
            initial_tangents=tangents[rows],
        ).local_growth

    whole = run(slice(0, 3))
    for row in range(3):
        torch.testing.assert_close(run(slice(row, row + 1))[0], whole[row], rtol=0, atol=1e-10)


def test_readings_come_from_the_very_state() -> None:
    maps = make("trm-mlp", size=3)
    state = own(maps.step(maps.initial_state))
    first = maps.read(state)
    assert first.logits.shape == (3, 6, 5) and first.q_halt.shape == (3,)
    maps.batch["labels"] = first.logits.argmax(dim=-1)
    maps.batch["labels"][1, 2] = (maps.batch["labels"][1, 2] + 1) % 5
    assert maps.read(state).exact.tolist() == [True, False, True]


@pytest.mark.parametrize("changes", [{"dtype": torch.bfloat16}, {"state_dtype": torch.bfloat16}])
def test_lower_precision_is_refused_with_the_way_out(changes: dict[str, torch.dtype]) -> None:
    with pytest.raises(UserError, match="bfloat16, in which tangents are lost: .*dtype=float32"):
        make("trm-att", **changes)
