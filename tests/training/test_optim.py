"""Optimizers against scalar transcriptions of their formulas."""

import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn

from models.puzzle_embedding import SparsePuzzleEmbedding
from tests.models.small import small_config
from training.optim import AdamATan2, SparseSignSGD, dense_optimizer, merge_gathers, sum_rows


class ScalarATan2:
    """One number under the reference formula, in Python floats."""

    def __init__(self, value: float, betas: tuple[float, float], weight_decay: float) -> None:
        self.value, self.betas, self.weight_decay = value, betas, weight_decay
        self.m = self.v = 0.0
        self.t = 0

    def step(self, gradient: float, lr: float) -> None:
        b1, b2 = self.betas
        self.t += 1
        self.m = b1 * self.m + (1 - b1) * gradient
        self.v = b2 * self.v + (1 - b2) * gradient * gradient
        root = math.sqrt(self.v) / math.sqrt(1 - b2**self.t)
        self.value *= 1 - lr * self.weight_decay
        self.value -= lr / (1 - b1**self.t) * math.atan2(self.m, root)


def rate(step: int) -> float:
    """A learning rate that changes at every step and is zero at the first."""
    return 0.01 * (1 + math.sin(step / 7)) * (step > 0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.7])
def test_adam_atan2_is_the_reference_formula_over_200_steps(weight_decay: float) -> None:
    """Two parameters; the second has no gradient before step 50, and its correction counts from there."""
    generator = torch.Generator().manual_seed(0)
    first = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64))
    late = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64))
    scalars = [ScalarATan2(x, (0.9, 0.95), weight_decay) for x in [*first.tolist(), *late.flatten().tolist()]]
    optimizer = AdamATan2([first, late], lr=0.0, betas=(0.9, 0.95), weight_decay=weight_decay)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        first.grad = torch.randn(3, generator=generator, dtype=torch.float64) + 0.3
        late.grad = torch.randn(2, 2, generator=generator, dtype=torch.float64) if step >= 50 else None
        optimizer.step()
        for scalar, gradient in zip(scalars, first.grad.tolist(), strict=False):
            scalar.step(gradient, rate(step))
        if late.grad is not None:
            for scalar, gradient in zip(scalars[3:], late.grad.flatten().tolist(), strict=True):
                scalar.step(gradient, rate(step))
    found = torch.cat((first.detach(), late.detach().flatten()))
    expected = torch.tensor([scalar.value for scalar in scalars], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_adam_atan2_steady_state_is_a_quarter_turn_of_lr() -> None:
    """Under a constant gradient the step tends to lr atan(1) = lr pi/4, not to 1.27 times it (= lr)."""
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = AdamATan2([parameter], lr=1e-3)
    for _ in range(400):
        before = parameter.item()
        parameter.grad = torch.full((1,), 5.0, dtype=torch.float64)
        optimizer.step()
    step = before - parameter.item()
    assert step == pytest.approx(1e-3 * math.pi / 4, rel=1e-9)
    assert step / (1.27 * 1e-3 * math.pi / 4) == pytest.approx(1 / 1.27, rel=1e-9)


def test_adam_atan2_first_step_corrects_outside_the_arctangent() -> None:
    """t = 1: m = 0.1 g, root = |g|; the step is 10 atan(0.1) lr, where inside it would be atan(1) lr."""
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = AdamATan2([parameter], lr=1.0)
    parameter.grad = torch.full((1,), -3.0, dtype=torch.float64)
    optimizer.step()
    assert parameter.item() == pytest.approx(10 * math.atan(0.1), abs=1e-14)
    assert abs(parameter.item() - math.atan(1)) > 0.2


def test_adam_atan2_of_a_zero_gradient_only_decays() -> None:
    parameter = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = AdamATan2([parameter], lr=0.1, weight_decay=0.5)
    parameter.grad = torch.zeros(2, dtype=torch.float64)
    optimizer.step()
    assert parameter.tolist() == [0.95, 0.95]


def _train(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        for index, parameter in enumerate(parameters):
            generator = torch.Generator().manual_seed(1000 * index + step)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("name", ["adam_atan2", "adamw"])
def test_optimizer_state_round_trip_is_bitwise(name: str) -> None:
    model = nn.Linear(4, 3)
    optimizer = dense_optimizer(name, model, 0.01, (0.9, 0.95), 0.1)
    _train(list(model.parameters()), optimizer, range(5))
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    _train(list(model.parameters()), optimizer, range(5, 9))

    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    again = nn.Linear(4, 3)
    again.load_state_dict(state["model"])
    resumed = dense_optimizer(name, again, 0.5, (0.5, 0.5), 0.0)
    resumed.load_state_dict(state["optimizer"])
    _train(list(again.parameters()), resumed, range(5, 9))
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_adamw_is_the_library_s() -> None:
    mine, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(mine.state_dict())
    ours = dense_optimizer("adamw", mine, 0.01, (0.8, 0.9), 0.3)
    library = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.8, 0.9), weight_decay=0.3)
    _train(list(mine.parameters()), ours, range(10))
    _train(list(theirs.parameters()), library, range(10))
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="adam_atan2, adamw"):
        dense_optimizer("sgd", nn.Linear(2, 2), 0.1, (0.9, 0.95), 0.0)


def test_frozen_parameters_are_not_optimized() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = dense_optimizer("adam_atan2", model, 0.1, (0.9, 0.95), 0.0)
    assert [p is model.weight for group in optimizer.param_groups for p in group["params"]] == [True]


def table() -> Tensor:
    return torch.arange(10, dtype=torch.float64).view(5, 2) + 1


def test_sign_sgd_sums_duplicates_and_touches_only_their_rows() -> None:
    weights = table()
    optimizer = SparseSignSGD(weights, lr=0.1, weight_decay=0.5)
    ids = torch.tensor([3, 1, 3, 3], dtype=torch.int32)
    grads = torch.tensor([[5.0, -1.0], [-2.0, 0.25], [-2.0, -1.0], [-4.0, 3.0]], dtype=torch.float64)
    optimizer.step(ids, grads)  # row 3 sums to (-1, 1), row 1 to (-2, 0.25)
    expected = table()
    expected[1] = expected[1] * 0.95 - 0.1 * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    expected[3] = expected[3] * 0.95 - 0.1 * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-15)
    assert torch.equal(weights[[0, 2, 4]], table()[[0, 2, 4]])


def test_sign_sgd_of_a_vanishing_sum_only_decays() -> None:
    weights = table()
    SparseSignSGD(weights, lr=0.1, weight_decay=0.5).step(
        torch.tensor([2, 2]), torch.tensor([[1.5, 2.0], [-1.5, -2.0]], dtype=torch.float64)
    )
    torch.testing.assert_close(weights[2], table()[2] * 0.95, rtol=0, atol=1e-15)


def test_sign_sgd_does_not_see_the_size_of_gradients() -> None:
    small, large = table(), table()
    ids, grads = torch.tensor([0, 4]), torch.tensor([[1e-30, -1.0], [3.0, -7.0]], dtype=torch.float64)
    SparseSignSGD(small, 0.1, 0.0).step(ids, grads)
    SparseSignSGD(large, 0.1, 0.0).step(ids, 1e9 * grads)
    assert torch.equal(small, large)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(small[0], table()[0] - 0.1 * signs, rtol=0, atol=1e-15)


def test_sum_rows_equals_a_dense_scatter() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 7, (50,), generator=generator)
    grads = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    rows, sums = sum_rows(ids, grads)
    dense = torch.zeros(7, 3, dtype=torch.float64).index_put((ids,), grads, accumulate=True)
    assert rows.tolist() == sorted(ids.tolist())
    torch.testing.assert_close(sums, dense[rows])


def test_gathers_of_several_calls_make_one_gradient() -> None:
    """What an unroll or accumulation leaves behind equals one call with all rows."""
    embedding = SparsePuzzleEmbedding(small_config("trm-att")).train()
    whole = copy.deepcopy(embedding)
    ids = torch.tensor([0, 2, 2, 1])
    factors = torch.arange(4.0, dtype=torch.float64).view(4, 1)
    for part in (slice(0, 1), slice(1, 4)):
        (embedding(ids[part]) * factors[part]).sum().backward()
    embedding(ids[:2])  # gathered, but outside the loss
    merged = merge_gathers(embedding.take_gathers())
    (whole(ids) * factors).sum().backward()
    expected = merge_gathers(whole.take_gathers())
    assert merged is not None and expected is not None
    assert merged[0].tolist() == [0, 2, 2, 1, 0, 2]
    assert torch.equal(merged[1][:4], expected[1]) and not merged[1][4:].any()
    assert merge_gathers([]) is None
