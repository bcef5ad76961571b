"""One rollout: how many steps there are, who is still on its way at each, and what is computed besides."""

import pytest
import torch
from torch import Tensor

from models.recursion import RecurrentState
from tests.models.small import small_batch, small_model
from training.objectives.rollout import RolloutStep, rollout

B, K = 2, 2
HALTS_AFTER = [2, 1, 3, 2]  # the step after which each trajectory halts


def steps(arch: str, rule: bool) -> list[RolloutStep]:
    model = small_model(arch, halt_max_steps=4)
    state = model.initial_state(B)
    starts = RecurrentState(*(leaf.repeat(K, 1, 1) for leaf in state))

    def halts(number: int, q_halt: Tensor, q_continue: Tensor) -> Tensor:
        assert q_halt.shape == q_continue.shape == (B * K,) and not q_halt.requires_grad
        return torch.tensor(HALTS_AFTER) == number

    return list(rollout(model, small_batch(B), starts, halts if rule else None))


@pytest.mark.parametrize(("arch", "extra"), [("trm-mlp", 0), ("hrm", B * K)])
def test_without_a_rule_all_go_to_the_end(arch: str, extra: int) -> None:
    """HRM learns q_continue: after the last step one more is computed for its target."""
    found = steps(arch, rule=False)
    assert [step.number for step in found] == [1, 2, 3, 4] and [step.last for step in found] == [False] * 3 + [True]
    assert all(step.active.all() for step in found)
    assert [step.halted.tolist() for step in found] == [[False] * 4] * 3 + [[True] * 4]
    assert [step.extra_passes for step in found] == [0, 0, 0, extra]
    for step in found:
        assert ("target_q_continue" in step.outputs) == (extra > 0)
        assert step.outputs["logits"].requires_grad and step.outputs["logits"].shape[0] == B * K


@pytest.mark.parametrize(("arch", "extra"), [("trm-mlp", 0), ("hrm", B * K)])
def test_who_has_halted_is_active_no_more_and_the_last_ends_it(arch: str, extra: int) -> None:
    found = steps(arch, rule=True)
    active = [[after >= number for after in HALTS_AFTER] for number in (1, 2, 3)]
    assert [step.active.tolist() for step in found] == active
    assert [step.halted.tolist() for step in found] == [[after == n for after in HALTS_AFTER] for n in (1, 2, 3)]
    assert [step.last for step in found] == [False, False, True] and [step.extra_passes for step in found][-1] == extra


def test_the_target_of_q_continue_is_the_better_value_one_step_later() -> None:
    found = steps("hrm", rule=False)
    for step, following in zip(found, found[1:], strict=False):
        better = torch.maximum(following.outputs["q_halt_logits"], following.outputs["q_continue_logits"])
        torch.testing.assert_close(step.outputs["target_q_continue"], better.detach().sigmoid(), rtol=1e-12, atol=0)
