"""The losses of a decreasing V by hand, their schedules, and what moves what."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from projects.collatz.decrease import HingeDecrease, SaturatingDecrease, pair_margins
from projects.collatz.settings import CollatzConfig
from projects.collatz.train_flags import to_config
from projects.collatz.value_networks import LookaheadValue, SelectionValue
from training.objectives.base import Output, UpdateContext

L = 3


class Prescribed(LookaheadValue):
    """V is read off a table by ln n, so that a loss can be computed by hand."""

    def __init__(self, table: dict[int, float]) -> None:
        super().__init__(L, [4], 0)
        self.table = torch.nn.ParameterDict(
            {str(n): torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for n, v in table.items()}
        )

    def forward(self, logs: Tensor, residues: Tensor, valuations: Tensor) -> Tensor:
        names = logs[..., 0].exp().round().long()
        flat = [self.table[str(n)] for n in names.flatten().tolist()]
        return torch.stack(flat).reshape(names.shape)


def batch_of(numbers: list[int], states: int, hard: list[bool], kept: list[bool] | None = None) -> dict[str, Tensor]:
    walked = []
    for number in numbers:
        visited, valuations = [number], []
        for _ in range(states + L):
            tripled = 3 * visited[-1] + 1
            k = (tripled & -tripled).bit_length() - 1
            visited.append(tripled >> k)
            valuations.append(k)
        walked.append((visited, valuations))
    return {
        "logs": torch.tensor([[math.log(n) for n in v[:states]] for v, _ in walked], dtype=torch.float64),
        "residues": torch.tensor([[n % 81 for n in v[:states]] for v, _ in walked]),
        "valuations": torch.tensor([ks[: states - 1 + L] for _, ks in walked], dtype=torch.int16),
        "hard": torch.tensor(hard),
        "kept": torch.tensor(kept or [True] * len(numbers)),
    }


def only(objective: Any, model: Any, batch: dict[str, Tensor], step: int = 0) -> Output:
    (output,) = objective.outputs(model, batch, UpdateContext(step, 0, slice(0, 2), 2))
    assert output.ends_update and isinstance(output, Output)
    return output


# 7 -> 11 grows (k = 1), then 17, 13, 5; 9 -> 7 decays (k = 2), then 11, 17, 13.
TABLE = {7: 2.0, 11: 2.5, 17: 1.98, 13: 1.9, 5: 1.0, 9: 3.0}


def anchors(beta: float) -> float:
    """Sum of (V - ln n - beta drift)^2 of 7 (k 1, 1, 2) and 9 (k 2, 1, 1)."""
    drift = L * math.log2(3) - 4
    return sum((TABLE[n] - math.log(n) - beta * drift) ** 2 for n in (7, 9))


def test_the_hinge_by_hand() -> None:
    settings = CollatzConfig(preset="faithful", lookahead=L)
    output = only(HingeDecrease(settings), Prescribed(TABLE), batch_of([7, 9], 2, [True, False]))
    # 7: growth and hard, margin -0.5; 9: decay and random, margin 1.
    expected = 20 * (0.05 + 0.5) + 1 * 0.0 + anchors(0.35)
    assert float(output.loss_sum) == pytest.approx(expected, rel=1e-12)
    assert output.normalizer == 2 and output.trained_steps == 4
    assert {name: int(output.metric_sums[name]) for name in ("count", "violations", "growth_violations")} == {
        "count": 2,
        "violations": 1,
        "growth_violations": 1,
    }
    # The other way round: hard decay weighs 2, random growth 10.
    settings.margin = 1.5
    output = only(HingeDecrease(settings), Prescribed(TABLE), batch_of([7, 9], 2, [False, True]))
    assert float(output.loss_sum) == pytest.approx(10 * 2.0 + 2 * 0.5 + anchors(0.35), rel=1e-12)


def test_four_and_eight_steps_are_added_unweighted() -> None:
    settings = CollatzConfig(preset="faithful", lookahead=L, use_t4=True)
    output = only(HingeDecrease(settings), Prescribed(TABLE), batch_of([7, 9], 5, [True, False]))
    # T^4(7) = 5: margin 1; T^4(9) = 13: margin 1.1. Neither costs anything.
    plain = 20 * 0.55 + anchors(0.35)
    assert float(output.loss_sum) == pytest.approx(plain, rel=1e-12) and output.trained_steps == 6
    settings.margin = 1.05
    output = only(HingeDecrease(settings), Prescribed(TABLE), batch_of([7, 9], 5, [True, False]))
    assert float(output.loss_sum) == pytest.approx(20 * 1.55 + 1 * 0.05 + 0.5 * 0.05 + anchors(0.35), rel=1e-12)
    settings.use_t4, settings.use_t8 = False, True
    batch = batch_of([7], 9, [False])
    assert math.exp(batch["logs"][0, 8]) == pytest.approx(1), "the orbit of 7 has ended by then"
    output = only(HingeDecrease(settings), Prescribed(TABLE | {1: 1.5}), batch)
    first = 10 * 1.55 + 0.2 * (1.05 - 0.5)
    assert float(output.loss_sum) == pytest.approx(
        first + (2.0 - math.log(7) - 0.35 * (L * math.log2(3) - 4)) ** 2, rel=1e-12
    )


def test_rows_that_are_not_kept_count_as_0() -> None:
    settings = CollatzConfig(preset="faithful", lookahead=L)
    model = Prescribed(TABLE)
    output = only(HingeDecrease(settings), model, batch_of([7, 9], 2, [True, False], [False, True]))
    drift = L * math.log2(3) - 4
    assert float(output.loss_sum) == pytest.approx((3 - math.log(9) - 0.35 * drift) ** 2, rel=1e-12)
    assert output.normalizer == 2 and int(output.metric_sums["count"]) == 1
    output.loss_sum.backward()
    assert model.table["7"].grad is None or float(model.table["7"].grad) == 0


def test_the_anchor_falls_to_a_thousandth_and_stays() -> None:
    weight = HingeDecrease(CollatzConfig()).anchor_weight
    assert [weight(step) for step in (0, 999, 1000)] == [1, 1, 1]
    assert weight(3500) == pytest.approx(0.001**0.5)
    assert weight(6000) == pytest.approx(0.001) == weight(100_000)
    assert HingeDecrease(CollatzConfig(min_anchor=0.5)).anchor_weight(9000) == pytest.approx(0.5 + 0.5 * 0.001)


@pytest.mark.parametrize("target_type", ["fixed", "adaptive"])
def test_beta_moves_only_where_it_is_learned_and_by_the_anchor_alone(target_type: str) -> None:
    settings = CollatzConfig(preset="faithful", lookahead=L, target_type=target_type)
    model = Prescribed(TABLE)
    only(HingeDecrease(settings), model, batch_of([7, 9], 2, [True, False])).loss_sum.backward()
    gradient = model.drift_coefficient.grad
    drift = L * math.log2(3) - 4
    by_hand = sum(-2 * drift * (TABLE[n] - math.log(n) - 0.35 * drift) for n in (7, 9))
    if target_type == "fixed":
        assert gradient is None
    else:
        assert gradient is not None and float(gradient) == pytest.approx(by_hand, rel=1e-6)


def test_margins_for_mining() -> None:
    assert pair_margins(Prescribed(TABLE), batch_of([7, 9], 2, [True, False])).tolist() == [-0.5, 1.0]


# -- the saturating loss


def segments() -> dict[str, Tensor]:
    """Two segments of 8 steps with windows of 4, of states so large that + 1 is nothing."""
    generator = torch.Generator().manual_seed(0)
    valuations = torch.randint(1, 4, (2, 12), generator=generator).to(torch.int16)
    gains = math.log(3) - valuations.double() * math.log(2)
    logs = 100 + torch.cat([torch.zeros(2, 1, dtype=torch.float64), gains.cumsum(1)], dim=1)
    kept = torch.ones(2, 8, dtype=torch.bool)
    kept[1, 3] = False
    return {"logs": logs, "residues": torch.zeros(2, 9, dtype=torch.uint8), "valuations": valuations, "kept": kept}


@pytest.mark.parametrize("use_t4", [False, True])
def test_the_saturating_loss_state_by_state(use_t4: bool) -> None:
    settings = CollatzConfig(preset="orbit", lookahead=4, margin=0.02, growth_weight=3.0, use_t4=use_t4)
    network, batch = SelectionValue(4, [8], 0).double(), segments()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    objective = SaturatingDecrease(settings, planned_updates=100)
    output = only(objective, network, batch, step=50)
    tau = math.sqrt(settings.tau_start * settings.tau_end)
    assert objective.tau(50) == pytest.approx(tau)
    expected = violations = 0.0
    for row in range(2):
        value = [
            float(network(batch["logs"][row, j : j + 5], torch.tensor(0), batch["valuations"][row, j : j + 4]))
            for j in range(9)
        ]
        for j in range(8):
            weight = 3.0 if batch["valuations"][row, j] == 1 else 1.0
            if batch["kept"][row, j]:
                excess = max(0.0, 0.02 - (value[j] - value[j + 1]))
                expected += weight * excess / (excess + tau)
                violations += value[j] - value[j + 1] < 1e-6
        for j in range(5 if use_t4 else 0):
            if batch["kept"][row, j : j + 4].all():
                excess = max(0.0, 0.02 - (value[j] - value[j + 4]))
                expected += 0.5 * excess / (excess + tau)
    assert float(output.loss_sum) == pytest.approx(expected, rel=1e-9)
    assert output.normalizer == 16 and int(output.metric_sums["count"]) == 15
    assert int(output.metric_sums["violations"]) == violations and output.trained_steps == 18


def test_tau_falls_geometrically_and_stays() -> None:
    tau = SaturatingDecrease(CollatzConfig(tau_start=0.1, tau_end=0.001), planned_updates=100).tau
    assert [tau(step) for step in (0, 50, 100, 200)] == pytest.approx([0.1, 0.01, 0.001, 0.001])


def test_objectives_keep_no_state() -> None:
    for objective in (HingeDecrease(CollatzConfig()), SaturatingDecrease(CollatzConfig(), 10)):
        assert objective.state_dict() == {} and objective.carry is None
        with pytest.raises(ValueError, match="keeps no state"):
            objective.load_state_dict({"a": 1})


def test_presets_choose_their_loss() -> None:
    config, _ = to_config({"preset": "orbit"})
    assert config.collatz.growth_weight == 1.0 and config.lr_min_ratio == 0.0 and config.ema
    config, _ = to_config({})
    assert config.collatz.growth_weight == 10.0 and config.lr_min_ratio == 1.0 and not config.ema
