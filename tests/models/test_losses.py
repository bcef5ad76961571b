"""Losses against closed forms, the official expression and the library."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses import (
    IGNORE_LABEL_ID,
    act_loss,
    correctness,
    log_stablemax,
    softmax_cross_entropy,
    stablemax_cross_entropy,
    stablemax_cross_entropy_float32,
)


def official_log_stablemax(x: Tensor) -> Tensor:
    """The official expression, with its epsilon and without protection of the unused branch."""
    s = torch.where(x < 0, 1 / (1 - x + 1e-30), x + 1)
    return torch.log(s / s.sum(dim=-1, keepdim=True))


def test_stablemax_closed_form() -> None:
    """s(-1) = 1/2, s(0) = 1, s(1) = 2, s(3) = 4; the sum is 7.5."""
    logits = torch.tensor([-1.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([0.5, 1, 2, 4], dtype=torch.float64).div(7.5).log()
    torch.testing.assert_close(log_stablemax(logits), expected, rtol=0, atol=1e-15)


def test_stablemax_gradient_closed_form() -> None:
    """d(-log p_i)/dx_j = s'_j / sum - [i=j] s'_i / s_i with s' = 1 above zero and s^2 below."""
    logits = torch.tensor([[[-1.0, 0.5, 1.0, 3.0]]], dtype=torch.float64, requires_grad=True)
    stablemax_cross_entropy(logits, torch.tensor([[2]])).sum().backward()
    scores = torch.tensor([0.5, 1.5, 2, 4], dtype=torch.float64)
    slopes = torch.tensor([0.25, 1, 1, 1], dtype=torch.float64)
    expected = slopes / scores.sum() - torch.tensor([0, 0, 0.5, 0], dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected.view(1, 1, 4), rtol=0, atol=1e-15)


def test_stablemax_equals_the_official_expression_with_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = 30 * torch.randn(200, 9, generator=generator, dtype=torch.float64)
    special = torch.tensor(
        [[0.0, 1.0, -1.0, 1.0 + 2**-52, 1 - 2**-53, 1e-300, -1e-300, 1e6, -1e6]], dtype=torch.float64
    )
    values = torch.cat((wide, special))
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    a, b = log_stablemax(ours), official_log_stablemax(theirs)
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    weights = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    (a * weights).sum().backward()
    (b * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_float32_stablemax_has_a_gradient_at_a_logit_of_one() -> None:
    """Upstream's form in float32 gives NaN there; a bfloat16 head hits exactly 1.0 all the time."""
    values = torch.tensor([[[1.0, 1.0, -2.0, 0.0]]])
    trap = values.clone().requires_grad_()
    official_log_stablemax(trap)[..., 0].sum().backward()
    assert trap.grad is not None and trap.grad.isnan().any()
    ours = values.clone().requires_grad_()
    stablemax_cross_entropy_float32(ours, torch.tensor([[0]])).sum().backward()
    wide = values.double().requires_grad_()
    stablemax_cross_entropy(wide, torch.tensor([[0]])).sum().backward()
    torch.testing.assert_close(ours.grad, wide.grad.float(), rtol=1e-6, atol=1e-7)


def test_stablemax_dtypes() -> None:
    logits, labels = torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.int32)
    assert stablemax_cross_entropy(logits.bfloat16(), labels).dtype == torch.float64
    assert stablemax_cross_entropy_float32(logits.double(), labels).dtype == torch.float32
    assert softmax_cross_entropy(logits.bfloat16(), labels).dtype == torch.float32
    wide = stablemax_cross_entropy(logits, labels)
    torch.testing.assert_close(stablemax_cross_entropy_float32(logits, labels).double(), wide, rtol=1e-5, atol=1e-5)


def test_softmax_equals_the_library() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=generator)
    labels = torch.randint(0, 7, (3, 5), generator=generator)
    labels[0, 1] = labels[2, 4] = IGNORE_LABEL_ID
    mine = softmax_cross_entropy(logits, labels)
    library = F.cross_entropy(logits.permute(0, 2, 1), labels, ignore_index=-100, reduction="none")
    torch.testing.assert_close(mine, library)
    assert mine[0, 1] == mine[2, 4] == 0


LOSSES = [stablemax_cross_entropy, stablemax_cross_entropy_float32, softmax_cross_entropy]


@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_tokens_have_neither_loss_nor_gradient(loss: object) -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[1, -100, 2], [-100, -100, -100]])
    values = loss(logits, labels)  # type: ignore[operator]
    values.sum().backward()
    ignored = labels == -100
    assert (values[ignored] == 0).all() and (values[~ignored] > 0).all()
    assert logits.grad is not None and (logits.grad[ignored] == 0).all() and (logits.grad[~ignored] != 0).any()


def certain(answers: list[list[int]], vocab: int = 4) -> Tensor:
    """Logits whose argmax is `answers`: 3 there, 0 elsewhere."""
    return 3.0 * F.one_hot(torch.tensor(answers), vocab).double()


def test_correctness_counts() -> None:
    labels = torch.tensor([[1, 2, 3], [1, -100, 3], [-100, -100, -100]])
    answers = torch.tensor([[1, 2, 0], [1, 0, 3], [1, 1, 1]])
    num_scored, num_right, exact = correctness(answers, labels)
    assert num_scored.tolist() == [3, 2, 0] and num_right.tolist() == [2, 2, 0]
    assert exact.tolist() == [False, True, True]
    several = correctness(torch.stack([answers, torch.zeros_like(answers)], dim=1), labels)
    assert several.num_scored.tolist() == [[3], [2], [0]] and several.num_right.tolist() == [[2, 0], [2, 0], [0, 0]]
    assert several.exact.tolist() == [[False, False], [True, False], [True, True]]


def example() -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Rows: running; halted exact, q says so; halted 2 of 3, q wrong; halted without scored tokens."""
    labels = torch.tensor([[1, 2, 3], [1, -100, 3], [1, 2, 3], [-100, -100, -100]])
    outputs = {
        "logits": certain([[1, 2, 3], [1, 0, 3], [1, 2, 0], [0, 0, 0]]),
        "q_halt_logits": torch.tensor([0.0, 2.0, 1.0, -1.0]),
    }
    halted = torch.tensor([False, True, True, True])
    return outputs, labels, halted, torch.tensor([1, 4, 2, 3], dtype=torch.int32)


def test_act_loss_by_hand() -> None:
    outputs, labels, halted, steps = example()
    loss, metrics = act_loss(outputs, labels, halted, steps, "stablemax_cross_entropy")
    hit, miss = math.log(7 / 4), math.log(7 / 1)  # scores 4 against three ones
    lm = hit + hit + (2 * hit + miss) / 3
    softplus = lambda q: math.log1p(math.exp(q))  # noqa: E731
    q_halt = softplus(-0.0) + softplus(-2.0) + softplus(1.0) + softplus(1.0)
    assert metrics["lm_loss"].item() == pytest.approx(lm, abs=1e-12)
    assert metrics["q_halt_loss"].item() == pytest.approx(q_halt, abs=1e-6)
    assert loss.item() == pytest.approx(lm + 0.5 * q_halt, abs=1e-6)
    exact = {"count": 2, "exact_accuracy": 1, "q_halt_accuracy": 1, "steps": 6}
    assert {name: metrics[name].item() for name in exact} == exact
    assert metrics["accuracy"].item() == pytest.approx(1 + 2 / 3, abs=1e-6)
    assert "q_continue_loss" not in metrics


def test_act_loss_of_q_learning_adds_half_the_continue_loss() -> None:
    outputs, labels, halted, steps = example()
    plain, _ = act_loss(outputs, labels, halted, steps, "softmax_cross_entropy")
    go_on = torch.tensor([0.3, -0.2, 1.0, 0.0])
    target = torch.tensor([0.1, 0.9, 0.5, 0.7])
    with_value = outputs | {"q_continue_logits": go_on, "target_q_continue": target}
    loss, metrics = act_loss(with_value, labels, halted, steps, "softmax_cross_entropy")
    p = go_on.sigmoid()
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).sum()
    assert metrics["q_continue_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (loss - plain).item() == pytest.approx(0.5 * expected.item(), rel=1e-4)


def test_q_loss_reaches_the_trunk() -> None:
    """As officially, the halting loss is not detached from what it reads."""
    outputs, labels, halted, steps = example()
    source = torch.zeros(4, requires_grad=True)
    outputs["q_halt_logits"] = outputs["q_halt_logits"] + source
    act_loss(outputs, labels, halted, steps, "stablemax_cross_entropy")[0].backward()
    exact = torch.tensor([1.0, 1.0, 0.0, 1.0])
    expected = 0.5 * (torch.tensor([0.0, 2.0, 1.0, -1.0]).sigmoid() - exact)
    torch.testing.assert_close(source.grad, expected)
