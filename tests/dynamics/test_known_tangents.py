"""Tangents from an analytic Jacobian: the spectrum of forward AD, the flow's own laws, and what is refused."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from dynamics.covariant import covariant_vectors
from dynamics.dimension import dimension
from dynamics.known_tangents import RungeKuttaStep, WithJacobian
from dynamics.lyapunov import LyapunovResult, lyapunov_spectrum
from scripts.benchmark.lorenz96 import SIZE, TIME_STEP, jacobian, states, velocity
from tests.dynamics.maps import henon, normal, random_network, rows

STEP = RungeKuttaStep(velocity, TIME_STEP, jacobian)
WEIGHTS = random_network(6, 1.8)


def henon_jacobian(z: Tensor) -> Tensor:
    upper = torch.stack((-2.8 * z[:, 0], torch.ones_like(z[:, 0])), dim=1)
    return torch.stack((upper, torch.tensor((0.3, 0.0), dtype=z.dtype).expand(len(z), -1)), dim=1)


def network(z: Tensor) -> Tensor:
    return (z @ WEIGHTS.T.to(z.dtype)).tanh()


def network_jacobian(z: Tensor) -> Tensor:
    return (1 - network(z) ** 2)[:, :, None] * WEIGHTS.to(z.dtype)


def spectrum(advance: Any, start: Any, **options: Any) -> LyapunovResult:
    given: dict[str, Any] = {"num_exponents": 2, "num_steps": 40, "qr_interval": 2, **options}
    return lyapunov_spectrum(advance, start, generator=torch.Generator().manual_seed(0), **given)


def assert_same(found: LyapunovResult, expected: LyapunovResult, tolerance: float = 1e-10) -> None:
    for name in ("exponents", "local_growth", "svd_exponents", "final_tangents", "condition_log"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=tolerance)
    for name, flag in expected.flags.items():
        assert torch.equal(found.flags[name], flag)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_flow_has_the_spectrum_of_forward_ad(batch_size: int) -> None:
    start = states(batch_size)
    options = {"num_exponents": 8, "num_steps": 100, "qr_interval": 5, "transient_steps": 3}
    assert_same(spectrum(STEP, start, **options), spectrum(lambda z: STEP(z), start, **options))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("advance", "its_jacobian", "size"), [(henon, henon_jacobian, 2), (network, network_jacobian, 6)]
)
def test_a_map_has_the_spectrum_of_forward_ad(
    advance: Callable[[Tensor], Tensor], its_jacobian: Callable[[Tensor], Tensor], size: int, dtype: torch.dtype
) -> None:
    start = (0.1 * normal(3, size)).to(dtype)
    found = spectrum(advance, start, num_steps=10, jacobian=its_jacobian)
    assert found.dtype == dtype
    assert_same(found, spectrum(advance, start, num_steps=10), 1e-10 if dtype == torch.float64 else 1e-3)


class Pair(NamedTuple):
    slow: Tensor
    fast: Tensor


def test_a_sequence_of_maps_on_a_pytree() -> None:
    """Each map has its own Jacobian over the flattened pair; the second map works in place."""

    def move_fast(z: Pair) -> Pair:
        return Pair(z.slow, torch.tanh(z.slow + 2 * z.fast))

    def move_slow(z: Pair) -> Pair:
        return Pair(z.slow.mul_(0.5).add_(z.fast), z.fast)

    def of_fast(z: Pair) -> Tensor:
        slope = 1 - move_fast(z).fast ** 2
        kept = torch.eye(3, dtype=torch.float64).expand(len(slope), -1, -1)
        return torch.cat(
            (torch.cat((kept, 0 * kept), dim=2), torch.diag_embed(slope) @ torch.cat((kept, 2 * kept), dim=2)), dim=1
        )

    def of_slow(z: Pair) -> Tensor:
        kept = torch.eye(3, dtype=torch.float64).expand(len(z.slow), -1, -1)
        return torch.cat((torch.cat((0.5 * kept, kept), dim=2), torch.cat((0 * kept, kept), dim=2)), dim=1)

    start = Pair(normal(2, 3), normal(2, 3, seed=1))
    options: dict[str, Any] = {"num_exponents": 6, "num_steps": 5}
    found = spectrum([move_fast, move_slow], start, jacobian=[of_fast, of_slow], **options)
    pure = [move_fast, lambda z: Pair(0.5 * z.slow + z.fast, z.fast)]
    assert_same(found, spectrum(pure, start, **options))
    assert torch.equal(start.slow, normal(2, 3))  # the caller's own
    with pytest.raises(ValueError, match="1 Jacobians for 2 maps"):
        spectrum([move_fast, move_slow], start, jacobian=of_fast, **options)


def test_whatever_takes_a_map_takes_one_that_knows_its_tangents() -> None:
    start = states(1)
    options: dict[str, Any] = {"num_exponents": 3, "num_steps": 20, "forward_steps": 20, "backward_steps": 20}
    found, expected = (
        covariant_vectors(advance, start, generator=torch.Generator().manual_seed(0), **options)
        for advance in (STEP, lambda z: STEP(z))
    )
    torch.testing.assert_close(found.cosines, expected.cosines, rtol=0, atol=1e-9)


def test_neither_forward_ad_nor_its_rules_are_needed() -> None:
    """A map that no JVP passes: its values leave torch."""
    outside = WithJacobian(lambda z: torch.from_numpy(henon(z).numpy()), henon_jacobian)
    start = rows((0.1, 0.2))
    assert_same(spectrum(outside, start, num_steps=10), spectrum(henon, start, num_steps=10))


def test_all_forty_exponents_of_lorenz_96() -> None:
    """Their sum is the trace of the Jacobian, -1 for each variable, up to the error of the Runge-Kutta step.

    Reference: lambda_1 about 1.67 per unit of time (errors double in 0.42: Lorenz and Emanuel 1998), 13 positive
    exponents and a Kaplan-Yorke dimension of about 27.1.
    """
    found = spectrum(STEP, states(32), num_exponents=SIZE, num_steps=1000, qr_interval=10, tangent_warmup_steps=500)
    rates = found.exponents / TIME_STEP
    torch.testing.assert_close(rates.sum(dim=1), torch.full((32,), -40.0, dtype=torch.float64), rtol=0, atol=2e-3)
    mean = rates.mean(dim=0)
    assert mean[0].item() == pytest.approx(1.67, abs=0.06)
    assert int((mean > 0.05).sum()) == 13 and mean[13].item() == pytest.approx(0, abs=0.05)
    assert dimension(mean[None]).kaplan_yorke.item() == pytest.approx(27.1, abs=0.3)


def transposed(z: Tensor) -> Tensor:
    return jacobian(z).mT


def one_entry_off(z: Tensor) -> Tensor:
    matrix = jacobian(z)
    matrix[:, 7, 7] *= 1 + 1e-3
    return matrix


@pytest.mark.parametrize("wrong", [transposed, one_entry_off])
def test_a_wrong_jacobian_is_refused(wrong: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"not the map's derivative.*differ by up to [\d.e-]+ .*example \d") as caught:
        spectrum(RungeKuttaStep(velocity, TIME_STEP, wrong), states(3))
    assert "\n" not in str(caught.value)


def test_the_velocitys_jacobian_is_not_the_maps() -> None:
    with pytest.raises(ValueError, match="RungeKuttaStep"):
        spectrum(lambda z: STEP(z), states(2), jacobian=jacobian)


def test_wrong_shapes_precisions_and_states_are_refused() -> None:
    start = 0.1 * normal(3, 2)
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(3, 2, 2\)"):
        spectrum(henon, start, jacobian=lambda z: henon_jacobian(z)[0])
    with pytest.raises(ValueError, match="float32.*float64"):
        spectrum(henon, start, jacobian=lambda z: henon_jacobian(z).float())

    class Off(WithJacobian):
        def with_tangents(self, state: Any, tangents: Tensor) -> tuple[Any, Tensor]:
            moved, pushed = super().with_tangents(state, tangents)
            return moved + 0.5, pushed

    with pytest.raises(ValueError, match=r"0\.5 off the map's own"):
        spectrum(Off(henon, henon_jacobian), start)


def test_a_kink_near_the_start_is_no_wrong_jacobian() -> None:
    """Central differences across a kink say nothing, and a difference of theirs says so."""
    start = rows((1e-7,), (0.3,))
    found = spectrum(lambda z: 2 * z.abs() - 1, start, num_exponents=1, num_steps=4,
                     jacobian=lambda z: torch.where(z < 0, -2.0, 2.0).to(z.dtype)[:, :, None])  # fmt: skip
    torch.testing.assert_close(found.exponents, torch.full((2, 1), 2.0, dtype=torch.float64).log())
