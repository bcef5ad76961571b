"""The rate network and its hand-written gradients, against autograd, differences, explicit Jacobians and the engine."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dynamics.lyapunov import lyapunov_spectrum
from projects.flossing_toy.rate_exponents import qr_steps, window_exponents
from projects.flossing_toy.rate_network import RateNetwork, task_pass

N, K, T = 12, 9, 20


def rate_maps(network: RateNetwork, inputs: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """The state maps for the rates h = phi(x): h_t = phi(J h_{t-1} + b + w_s s_t / S); its exponents are those of x.

    The form in which the source propagates tangents; over a finite window the two differ at its ends.
    """

    def next_rate(drive: Tensor, h: Tensor) -> Tensor:
        return (h @ network.J.mT + drive).tanh()

    return [partial(next_rate, drive) for drive in network.drive(inputs).unbind()]


def network(dtype: torch.dtype = torch.float64, **options: object) -> RateNetwork:
    return RateNetwork(N, 4, torch.Generator().manual_seed(3), dtype=dtype, **options)  # type: ignore[arg-type]


def bits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).double()


def first_tangents(dtype: torch.dtype = torch.float64) -> Tensor:
    draws = torch.randn(N, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.linalg.qr(draws).Q.to(dtype)


def test_initial_weights() -> None:
    network = RateNetwork(200, 3, torch.Generator().manual_seed(0), gain=1.5).requires_grad_(False)
    assert network.J.std().item() * 200**0.5 == pytest.approx(1.5, rel=0.02)
    assert network.b.min() >= 0 and network.b.max() <= 0.1 and network.b.mean().item() == pytest.approx(0.05, rel=0.1)
    for weight in (network.w_s, network.w_r):
        assert weight.std().item() == pytest.approx(1, rel=0.15)
    turned = RateNetwork(200, 3, torch.Generator().manual_seed(0), gain=1.5, orthogonal=True)
    torch.testing.assert_close(turned.J @ turned.J.mT, 2.25 * torch.eye(200), rtol=0, atol=1e-5)
    assert torch.equal(network.w_s, turned.w_s) and torch.equal(network.w_r, turned.w_r)
    # Where g < 1 the states relax to the one fixed point without input.
    calm = RateNetwork(50, 3, torch.Generator().manual_seed(0), gain=0.5, dtype=torch.float64)
    torch.testing.assert_close(calm.x0.tanh() @ calm.J.mT + calm.b, calm.x0, rtol=0, atol=1e-12)


def test_task_pass_against_autograd() -> None:
    """Loss, accuracy and the gradient of every parameter of the plain recursion."""
    one = network()
    inputs, targets = bits(T, 4, 1), bits(T, 4, seed=9)
    state, logits = one.x0, []
    for shown in inputs:
        state = state.tanh() @ one.J.mT + one.b + shown @ one.w_s.mT
        logits.append((state @ one.w_r.mT)[:, 0] + one.offset)
    scored = torch.stack(logits)[6:]
    loss = F.binary_cross_entropy_with_logits(scored, targets[6:])
    by_hand = task_pass(one, inputs, targets, 6)
    torch.testing.assert_close(by_hand.loss, loss.detach(), rtol=0, atol=1e-14)
    assert float(by_hand.accuracy) == float(((scored.sigmoid() >= 0.5) == targets[6:].bool()).double().mean())
    assert by_hand.gradients is not None
    assert by_hand.gradients.keys() == dict(one.named_parameters()).keys()
    for name, parameter in one.named_parameters():
        (expected,) = torch.autograd.grad(loss, parameter, retain_graph=True)
        assert float(expected.abs().max()) > 1e-6
        torch.testing.assert_close(by_hand.gradients[name], expected, rtol=1e-10, atol=1e-14)
    assert task_pass(one, inputs, targets, 6, gradients=False).gradients is None


def by_numpy(one: RateNetwork, inputs: Tensor, tangents: Tensor, transient: int) -> np.ndarray:
    """Exponents from explicit Jacobians diag(1 - h^2) J and NumPy's QR, step by step."""
    J, w_s, b = (leaf.detach().numpy() for leaf in (one.J, one.w_s, one.b))
    h, Q = np.tanh(one.x0[0].detach().numpy()), tangents.numpy()
    growth = np.zeros(tangents.shape[1])
    for step, shown in enumerate(inputs.numpy(), start=1):
        h = np.tanh(J @ h + b + w_s @ shown)
        Q, R = np.linalg.qr(np.diag(1 - h**2) @ J @ Q)
        if step > transient:
            growth += np.log(np.abs(np.diag(R)))
    return growth / (len(inputs) - transient)


@pytest.mark.parametrize("interval", [1, 3, 7])
def test_exponents_against_explicit_jacobians_and_the_engine(interval: int) -> None:
    one, inputs, tangents = network(), bits(T, 1), first_tangents()
    by_hand = window_exponents(one, one.x0[0], inputs, tangents, transient=5, qr_interval=interval)
    expected = by_numpy(one, inputs, tangents, 5)
    assert np.abs(by_hand.exponents.numpy() - expected).max() < 1e-8
    with torch.no_grad():
        maps = rate_maps(one, inputs[:, None])
        aligned = lyapunov_spectrum(
            maps[:5], one.x0[:1].tanh(), num_exponents=K, num_steps=1, initial_tangents=tangents[None]
        )
        engine = lyapunov_spectrum(
            maps[5:], aligned.final_state, num_exponents=K, num_steps=1, initial_tangents=aligned.final_tangents
        )
    torch.testing.assert_close(engine.exponents_per_map[0], by_hand.exponents, rtol=0, atol=1e-8)


def test_both_forms_of_the_map_are_the_recursion() -> None:
    one, inputs = network(), bits(3, 4, 1)
    x = h = one.x0
    h = h.tanh()
    with torch.no_grad():
        for to_state, to_rate, shown in zip(one.state_maps(inputs), rate_maps(one, inputs), inputs, strict=True):
            expected = torch.stack([one.J @ row.tanh() + one.b + one.w_s @ s for row, s in zip(x, shown, strict=True)])
            x, h = to_state(x), to_rate(h)
            torch.testing.assert_close(x, expected, rtol=0, atol=1e-14)
            torch.testing.assert_close(h, x.tanh(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("interval", "transient"), [(1, 5), (3, 5), (4, 0)])
def test_gradient_of_the_flossing_loss_against_differences(interval: int, transient: int) -> None:
    """Central differences of fourth order along a random direction of each of J, w_s and b, with unequal targets."""
    one, inputs, tangents = network(), bits(T, 1), first_tangents()
    target = torch.linspace(-0.2, 0.1, K, dtype=torch.float64)

    def loss() -> Tensor:
        exponents = window_exponents(
            one, one.x0[0], inputs, tangents, transient=transient, qr_interval=interval
        ).exponents
        return (exponents - target).square().mean()

    by_hand = window_exponents(one, one.x0[0], inputs, tangents, transient=transient, qr_interval=interval)
    gradients = by_hand.pull(2 * (by_hand.exponents - target) / K)
    assert gradients.keys() == {"J", "w_s", "b"}
    h = 1e-4
    for name, gradient in gradients.items():
        weight = getattr(one, name)
        change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        at = {}
        for step in (-2, -1, 1, 2):
            with torch.no_grad():
                weight += step * h * change
                at[step] = loss()
                weight -= step * h * change
        expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
        assert abs(float(expected)) > 1e-4
        torch.testing.assert_close((gradient * change).sum(), expected, rtol=1e-7, atol=1e-10)


def test_float32_keeps_what_the_interval_leaves() -> None:
    exact = window_exponents(network(), network().x0[0], bits(T, 1), first_tangents(), transient=5).exponents
    single = network(torch.float32)
    for interval in (1, 3):
        rounded = window_exponents(
            single, single.x0[0], bits(T, 1).float(), first_tangents(torch.float32), transient=5, qr_interval=interval
        )
        torch.testing.assert_close(rounded.exponents.double(), exact, rtol=0, atol=1e-3)


def test_where_tangents_are_orthonormalised() -> None:
    assert qr_steps(10, 4, 3) == [1, 4, 7, 10]
    assert qr_steps(10, 4, 4) == [4, 8, 10]
    assert qr_steps(3, 0, 1) == [1, 2, 3]
    with pytest.raises(ValueError, match="expected 0 to 9"):
        qr_steps(10, 10, 1)
