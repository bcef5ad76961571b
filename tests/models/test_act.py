"""ACT around the map: resets, halting, exploration, targets, the carry."""

import pytest
import torch

from models.act import act_step, draw_min_halt_steps, initial_carry, start_halted_slots
from models.recursive_model import RecursiveModel
from tests.models.small import ARCHITECTURES, small_batch, small_model


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> RecursiveModel:
    return small_model(request.param)


def force_q(model: RecursiveModel, halt: float, go_on: float) -> None:
    """Make the halting head a constant."""
    with torch.no_grad():
        model.q_head.weight.zero_()
        model.q_head.bias.copy_(torch.tensor([halt, go_on]))


def test_initial_carry_is_all_halted_and_finite(model: RecursiveModel) -> None:
    carry = initial_carry(model, small_batch())
    assert carry["halted"].all() and not carry["steps"].any()
    assert all(len(leaf) == 4 for leaf in carry.values())
    assert carry["z_H"].isfinite().all() and carry["z_H"].is_contiguous()


def test_halted_slots_restart_and_the_others_go_on(model: RecursiveModel) -> None:
    first, second = small_batch(seed=0), small_batch(seed=1)
    carry, _ = act_step(model, initial_carry(model, first), first, training=False)
    carry["halted"] = torch.tensor([True, False, True, False])
    current = start_halted_slots(model, carry, second)
    for slot in range(4):
        new = slot in (0, 2)
        source = second if new else first
        for key in model.row_keys:
            assert torch.equal(current[key][slot], source[key][slot])
        z_H = model.initial_state(4).z_H[slot] if new else carry["z_H"][slot]
        z_L = model.initial_state(4).z_L[slot] if new else carry["z_L"][slot]
        assert torch.equal(current["z_H"][slot], z_H) and torch.equal(current["z_L"][slot], z_L)
        assert current["steps"][slot] == (0 if new else 1)


def test_a_restarted_slot_forgets_its_past(model: RecursiveModel) -> None:
    """Slots are independent: a restarted one computes what a fresh one would, bit for bit in float64."""
    old, new = small_batch(seed=0), small_batch(seed=1)
    carry, _ = act_step(model, initial_carry(model, old), old, training=False)
    carry["halted"] = torch.ones(4, dtype=torch.bool)
    _, restarted = act_step(model, carry, new, training=False)
    _, fresh = act_step(model, initial_carry(model, new), new, training=False)
    assert torch.equal(restarted["logits"], fresh["logits"])


def test_the_carry_has_no_history(model: RecursiveModel) -> None:
    batch = small_batch()
    carry, outputs = act_step(model.train(), initial_carry(model, batch), batch, training=True)
    assert all(leaf.grad_fn is None and not leaf.requires_grad for leaf in carry.values())
    assert outputs["logits"].requires_grad and outputs["q_halt_logits"].requires_grad


def test_gradients_of_a_step_do_not_reach_the_step_before(model: RecursiveModel) -> None:
    """The second step's gradient is the same whether or not its carry came from a graph."""
    model.train()
    force_q(model, -1, 0)
    batch = small_batch()
    carry, _ = act_step(model, initial_carry(model, batch), batch, training=True)
    parameters = [p for stack in model.stacks() for p in stack.parameters()]
    gradients = []
    for start in (carry, {key: leaf.clone() for key, leaf in carry.items()}):
        _, outputs = act_step(model, start, batch, training=True)
        gradients.append(torch.autograd.grad(outputs["logits"].square().sum(), parameters))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("halt", [-9.0, 9.0])
def test_evaluation_takes_all_steps_whatever_q_says(model: RecursiveModel, halt: float) -> None:
    force_q(model, halt, 0)
    batch = small_batch()
    carry = initial_carry(model, batch)
    for step in range(1, 5):
        carry, outputs = act_step(model, carry, batch, training=False)
        assert (carry["steps"] == step).all()
        assert carry["halted"].all() if step == 4 else not carry["halted"].any()
        assert "target_q_continue" not in outputs


@pytest.mark.parametrize(
    ("halt", "go_on", "halting_only", "q_learning"),
    [
        (1, 2, True, False),
        (-1, -2, False, True),
        (1, -1, True, True),
        (-2, -1, False, False),
        (0, 0, False, False),
    ],
)
def test_training_halts_by_the_rule_of_the_architecture(
    halt: float, go_on: float, halting_only: bool, q_learning: bool
) -> None:
    for no_continue, expected in ((True, halting_only), (False, q_learning)):
        model = small_model("trm-att", no_ACT_continue=no_continue)
        force_q(model, halt, go_on)
        batch = small_batch()
        carry, _ = act_step(model, initial_carry(model, batch), batch, training=True)
        assert carry["halted"].tolist() == [expected] * 4


def test_training_halts_at_the_last_step_at_the_latest(model: RecursiveModel) -> None:
    force_q(model, -9, 9)
    batch = small_batch()
    carry = initial_carry(model, batch)
    halted = []
    for _ in range(6):
        carry, _ = act_step(model, carry, batch, training=True)
        halted.append(bool(carry["halted"].all()))
    assert halted == [False, False, False, True, False, False]


def test_a_minimum_delays_a_halt_and_never_causes_one(model: RecursiveModel) -> None:
    batch = small_batch()
    minimum = torch.tensor([0, 2, 3, 4], dtype=torch.int32)
    force_q(model, 9, 0)
    carry, first_halt = initial_carry(model, batch), torch.zeros(4, dtype=torch.int32)
    for step in range(1, 5):
        carry, _ = act_step(model, carry, batch, training=True, min_halt_steps=minimum)
        first_halt = torch.where((first_halt == 0) & carry["halted"], step, first_halt)
        carry["halted"] = torch.zeros_like(carry["halted"])
    assert first_halt.tolist() == [1, 2, 3, 4]
    force_q(model, -9, 0)
    carry, _ = act_step(model, initial_carry(model, batch), batch, training=True, min_halt_steps=minimum)
    assert not carry["halted"].any()


def test_one_step_models_never_ask_q() -> None:
    model = small_model("hrm", halt_max_steps=1)
    force_q(model, -9, 9)
    batch = small_batch()
    carry, outputs = act_step(model, initial_carry(model, batch), batch, training=True)
    assert carry["halted"].all() and "target_q_continue" not in outputs


@pytest.mark.parametrize(("last", "halt", "go_on", "value"), [(False, 1, 3, 3), (False, 3, 1, 3), (True, 1, 3, 1)])
def test_continue_target_is_the_better_value_ahead(last: bool, halt: float, go_on: float, value: float) -> None:
    model = small_model("hrm")
    force_q(model, halt, go_on)
    batch = small_batch()
    carry = initial_carry(model, batch)
    if last:
        carry |= {"steps": torch.full((4,), 3, dtype=torch.int32), "halted": torch.zeros(4, dtype=torch.bool)}
    _, outputs = act_step(model, carry, batch, training=True)
    target = outputs["target_q_continue"]
    assert not target.requires_grad
    torch.testing.assert_close(target, torch.full((4,), value, dtype=torch.float32).sigmoid())


def test_exploration_is_uniform_from_two_to_the_maximum() -> None:
    """100,000 draws; each frequency within five standard deviations of its expectation."""
    number, prob, most = 100_000, 0.3, 16
    drawn = draw_min_halt_steps(number, most, prob, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int32
    counts = torch.bincount(drawn, minlength=most + 1).double()
    assert counts[1] == 0 and len(counts) == most + 1
    expected = torch.tensor([1 - prob, 0, *[prob / 15] * 15], dtype=torch.float64) * number
    deviation = (expected * (1 - expected / number)).sqrt()
    assert ((counts - expected).abs() <= 5 * deviation).all()


def test_exploration_off_and_always() -> None:
    assert not draw_min_halt_steps(1000, 16, 0.0, torch.Generator().manual_seed(0)).any()
    always = draw_min_halt_steps(1000, 4, 1.0, torch.Generator().manual_seed(0))
    assert set(always.tolist()) == {2, 3, 4}
    assert draw_min_halt_steps(8, 1, 1.0, torch.Generator().manual_seed(0)).shape == (8,)


def test_puzzle_rows_are_recorded_only_where_they_are_trained() -> None:
    model = small_model("trm-att")
    table = model.puzzle_emb
    assert table is not None
    ids = torch.tensor([2, 0, 2], dtype=torch.int32)
    model.eval()
    model.puzzle_emb(ids)
    assert table.take_gathers() == []
    model.train()
    with torch.no_grad():
        table(ids)
    assert table.take_gathers() == []
    table(ids).sum().backward()
    table(ids[:1])
    (first, rows), (second, unused) = table.take_gathers()
    assert first.tolist() == [2, 0, 2] and second.tolist() == [2]
    assert torch.equal(rows, table.weights[ids.long()]) and torch.equal(rows.grad, torch.ones(3, 16).double())
    assert unused.grad is None and table.take_gathers() == []
    table.trainable = False
    assert not table(ids).requires_grad and table.take_gathers() == []
