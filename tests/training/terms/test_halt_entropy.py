"""Entropy of the halting decision: closed form, which rows count, what it moves, what it leaves alone."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.act import Batch, act_step, initial_carry
from models.recursive_model import RecursiveModel
from tests.models.small import ARCHITECTURES, small_batch, small_model
from tests.training.terms.views import view_of
from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import UpdateContext
from training.terms.base import View, WeightedTerm
from training.terms.halt_entropy import HaltEntropy


def view(q: Tensor, steps: Tensor, q_continue: Tensor | None = None, weights: Tensor | None = None) -> View:
    return view_of(q_halt=q, steps=steps, q_continue=q_continue, weights=weights)


def entropy_of(q: Tensor, after_step: int = 0, steps: int = 5) -> Tensor:
    return HaltEntropy(after_step)(view(q, torch.full(q.shape, steps)))[0]


def test_closed_form() -> None:
    assert float(entropy_of(torch.zeros(1, dtype=torch.float64))) == pytest.approx(math.log(2), rel=1e-15)
    q = torch.linspace(-30, 30, 61, dtype=torch.float64)
    p = q.sigmoid()
    expected = sum(-x * math.log(x) - (1 - x) * math.log1p(-x) for x in p.tolist() if 0 < x < 1)
    assert float(entropy_of(q)) == pytest.approx(expected, rel=1e-9)


def test_of_two_values_it_is_the_entropy_of_their_softmax() -> None:
    q, other = torch.tensor([0.3, -2.0], dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    found, metrics = HaltEntropy(0)(view(q, torch.tensor([1, 1]), other))
    expected = torch.distributions.Categorical(logits=torch.stack([q, other], 1)).entropy().sum()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(metrics["halt_entropy/entropy"], expected, rtol=1e-12, atol=0)


def test_extreme_values_are_finite_with_their_gradient() -> None:
    q = torch.tensor([1e4, -1e4, 0.0], dtype=torch.bfloat16, requires_grad=True)
    loss = entropy_of(q)
    (gradient,) = torch.autograd.grad(loss, q)
    assert (
        loss.isfinite() and gradient.isfinite().all() and float(loss.detach()) == pytest.approx(math.log(2), rel=1e-2)
    )


def test_only_late_rows_of_the_objective_count() -> None:
    q = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    loss, metrics = HaltEntropy(4)(view(q, torch.tensor([4, 5, 6, 7]), weights=weights))
    (gradient,) = torch.autograd.grad(loss, q)
    one = -0.5 * math.exp(0.5) / (1 + math.exp(0.5)) ** 2  # dH/dq = -q p (1 - p)
    torch.testing.assert_close(
        gradient, torch.tensor([0.0, one, one / 2, 0.0], dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert int(metrics["halt_entropy/rows"]) == 2, "late, and part of the loss"


def streamed(model: RecursiveModel, batch: Batch, terms: list[WeightedTerm], updates: int) -> dict[str, Tensor]:
    """Gradients after some supervision steps of ACT streaming without an optimizer between them."""
    objective = ACTStreaming("softmax_cross_entropy")
    objective.terms = terms
    for step in range(updates):
        model.zero_grad()
        for output in objective.outputs(model, batch, UpdateContext(step, 0, slice(0, 4), 4)):
            output.loss_sum.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_its_gradient_is_added_and_reaches_the_trunk(arch: str) -> None:
    """With the term minus without it is weight times the gradient of an entropy computed apart from all this code."""
    weight, updates = 0.25, 3
    model, batch = small_model(arch, q_dtype=torch.float64), small_batch()
    with torch.no_grad():
        model.q_head.weight.mul_(0.1)
        model.q_head.bias.fill_(-3.0)  # nobody halts before the end, so that rows get late
    without, with_term = (
        streamed(model, batch, [], updates),
        streamed(model, batch, [WeightedTerm("halt_entropy", weight, HaltEntropy(2))], updates),
    )
    carry = initial_carry(model, batch)
    for _ in range(updates):
        carry, outputs = act_step(model, carry, batch, training=True)
    assert (carry["steps"] == updates).all()
    q = outputs["q_halt_logits"]
    if not model.config.no_ACT_continue:
        q = q - outputs["q_continue_logits"]
    model.zero_grad()
    torch.distributions.Bernoulli(logits=q).entropy().sum().backward()
    for name, parameter in model.named_parameters():
        alone = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(with_term[name] - without[name], weight * alone, rtol=1e-9, atol=1e-12)
    assert model.q_head.weight.grad is not None and model.q_head.weight.grad.abs().max() > 0
    trunk = [p.grad for name, p in model.named_parameters() if ".layers." in name and p.grad is not None]
    assert any(gradient.abs().max() > 0 for gradient in trunk)


def test_early_rows_leave_the_gradient_alone() -> None:
    model, batch = small_model("trm-att"), small_batch()
    terms = [WeightedTerm("halt_entropy", 0.25, HaltEntropy(3))]
    without, with_term = streamed(model, batch, [], 3), streamed(model, batch, terms, 3)
    assert all(torch.equal(without[name], with_term[name]) for name in without)


def test_the_view_is_frozen() -> None:
    seen = view(torch.zeros(2), torch.tensor([1, 2]))
    assert replace(seen, weights=torch.tensor([0.0, 2.0])).counted.tolist() == [False, True]
    assert seen.counted.all()
