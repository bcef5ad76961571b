"""The pure map: forward and backward derivatives are those of one and the same function."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.act import truncated_step
from models.recursion import RecurrentState, cycle_order
from models.recursive_model import RecursiveModel
from tests.models.small import ARCHITECTURES, small_batch, small_model


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> RecursiveModel:
    return small_model(request.param).eval()


@pytest.fixture(autouse=True)
def math_attention() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH):
        yield


def start(model: RecursiveModel) -> tuple[RecurrentState, Tensor]:
    """A random state and the embeddings of a batch."""
    generator = torch.Generator().manual_seed(5)
    shape = (2, model.config.total_len, model.config.hidden_size)
    z_H, z_L = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    batch = small_batch(2)
    return RecurrentState(z_H, z_L), model.embed(batch).detach()


def tangents(like: RecurrentState, seed: int) -> RecurrentState:
    generator = torch.Generator().manual_seed(seed)
    return RecurrentState(*(torch.randn(z.shape, generator=generator, dtype=torch.float64) for z in like))


def inner(a: RecurrentState, b: RecurrentState) -> Tensor:
    return sum(((x * y).sum() for x, y in zip(a, b, strict=True)), torch.zeros((), dtype=torch.float64))


def test_jvp_and_vjp_agree(model: RecursiveModel) -> None:
    """<w, J v> from both sides: a hidden no_grad or detach would zero the right one only."""
    state, embeddings = start(model)
    step = model.supervision_step(embeddings)
    v, w = tangents(state, 1), tangents(state, 2)
    out, forward = torch.func.jvp(step, (state,), (v,))
    again, pull = torch.func.vjp(step, state)
    (backward,) = pull(w)
    left, right = inner(w, forward), inner(backward, v)
    assert abs(left) > 1e-3
    assert abs(left - right) <= 1e-10 * abs(left)
    for a, b in zip(out, again, strict=True):
        assert torch.equal(a, b)


def test_jvp_is_the_difference_quotient(model: RecursiveModel) -> None:
    state, embeddings = start(model)
    step = model.supervision_step(embeddings)
    v = tangents(state, 1)
    _, forward = torch.func.jvp(step, (state,), (v,))
    h = 1e-6
    ahead, behind = (step(RecurrentState(*(z + s * h * d for z, d in zip(state, v, strict=True)))) for s in (1, -1))
    for derivative, a, b in zip(forward, ahead, behind, strict=True):
        difference = (a - b) / (2 * h)
        assert (derivative - difference).norm() <= 1e-5 * difference.norm()


def test_every_sub_update_moves_its_states_by_a_differentiable_map(model: RecursiveModel) -> None:
    """One of them each, except that SRM's move both."""
    state, embeddings = start(model)
    step = model.supervision_step(embeddings)
    order = cycle_order(model.config.H_cycles, model.config.L_cycles)
    assert len(step.sub_updates) == len(order)
    for which, sub_update in zip(order, step.sub_updates, strict=True):
        after, moved = torch.func.jvp(sub_update, (state,), (tangents(state, 3),))
        kept, changed = ("z_L", "z_H") if which == "H" else ("z_H", "z_L")
        if model.config.kind != "srm":
            assert torch.equal(getattr(after, kept), getattr(state, kept))
        for name in (changed, kept) if model.config.kind == "srm" else (changed,):
            assert not torch.equal(getattr(after, name), getattr(state, name))
            assert getattr(moved, name).norm() > 1e-3
        state = after
    again = step(start(model)[0])
    assert torch.equal(state.z_H, again.z_H) and torch.equal(state.z_L, again.z_L)


def test_order_of_updates() -> None:
    assert "".join(cycle_order(2, 3)) == "LLLHLLLH"
    assert cycle_order(1, 1) == ["L", "H"]


@pytest.mark.parametrize(
    ("name", "calls", "with_gradient"), [("trm-att", 21, 7), ("trm-mlp", 21, 7), ("hrm", 21, 2), ("srm", 21, 7)]
)
def test_number_of_stack_calls_with_gradient(name: str, calls: int, with_gradient: int) -> None:
    model = small_model(name, H_cycles=3, L_cycles=6)
    step = model.supervision_step(start(model)[1])
    assert len(step.sub_updates) == calls
    assert calls - step.grad_start == with_gradient


def test_truncated_step_has_the_value_of_the_map_and_the_gradient_of_its_end(model: RecursiveModel) -> None:
    state, embeddings = start(model)
    step = model.supervision_step(embeddings)
    truncated = truncated_step(model.supervision_step(embeddings), state)
    whole = step(state)
    for a, b in zip(truncated, whole, strict=True):
        assert torch.equal(a, b)

    middle = state
    for sub_update in step.sub_updates[: step.grad_start]:
        middle = sub_update(middle)
    middle = RecurrentState(*(z.detach() for z in middle))
    by_hand = middle
    for sub_update in step.sub_updates[step.grad_start :]:
        by_hand = sub_update(by_hand)
    parameters = [p for stack in model.stacks() for p in stack.parameters()]
    # SRM's prepared weights are in the graphs of both.
    expected = torch.autograd.grad(by_hand.z_H.square().sum() + by_hand.z_H.sum(), parameters, retain_graph=True)
    found = torch.autograd.grad(truncated.z_H.square().sum() + truncated.z_H.sum(), parameters)
    full = torch.autograd.grad(whole.z_H.square().sum() + whole.z_H.sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert any((a - b).norm() > 1e-3 * b.norm() for a, b in zip(found, full, strict=True))


def test_state_before_the_truncation_gets_no_gradient(model: RecursiveModel) -> None:
    state, embeddings = start(model)
    leaves = RecurrentState(*(z.clone().requires_grad_() for z in state))
    out = truncated_step(model.supervision_step(embeddings), leaves)
    gradients = torch.autograd.grad(out.z_H.sum() + out.z_H.square().sum(), leaves, allow_unused=True)
    assert gradients == (None, None)
