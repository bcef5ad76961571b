"""The source's rate schedule, and the moments of a hook that it needs."""

from typing import Any

import pytest
import torch

from training.hooks.base import TrainState
from training.hooks.loss_plateau import LossPlateau


def rates(losses: list[float], hook: LossPlateau | None = None) -> list[float]:
    """The rate that follows each loss."""
    hook = hook or LossPlateau(1e-3)
    state = TrainState(torch.nn.Module(), {}, {}, {}, 0, 1, 0)  # type: ignore[arg-type]
    found = []
    for step, loss in enumerate(losses, 1):
        hook.settled(step, loss)
        found.append(hook.rate(state, 0.5, 1e-3))
    return found


def test_the_rate_halves_after_2000_losses_without_a_record() -> None:
    found = rates([1.0] * 4003)
    assert found[:2001] == [1e-3] * 2001 and found[2001:4002] == [5e-4] * 2001 and found[4002] == 2.5e-4
    better = rates([1.0 - 0.001 * i for i in range(900)] * 1 + [0.05] * 2000)
    assert better == [1e-3] * 2900, "a record begins the count anew"
    noise = rates([1.0] * 1999 + [0.99995] + [1.0] * 2)
    assert noise[-1] == 5e-4, "one part in ten thousand is no record"


def test_the_rate_stops_at_its_floor() -> None:
    """lr / 2^16: the next halving would change less than torch's eps."""
    assert rates([1.0] * 45_000)[-1] == 1e-3 / 2**16


def test_it_goes_on_from_its_state() -> None:
    losses = [1.0] * 2500
    whole, first = LossPlateau(1e-3), LossPlateau(1e-3)
    straight = rates(losses, whole)
    rates(losses[:1700], first)
    second = LossPlateau(1e-3)
    second.load_state_dict(first.state_dict())
    assert rates(losses[1700:], second) == straight[1700:] and second.state_dict() == whole.state_dict()
    assert first.reads_losses


@pytest.mark.parametrize("change", [{"lr": "1e-3"}, {"best": None}, {"more": 1}])
def test_a_foreign_state_is_refused(change: dict[str, Any]) -> None:
    hook = LossPlateau(1e-3)
    with pytest.raises(ValueError, match="not those it saves"):
        hook.load_state_dict(hook.state_dict() | change)
