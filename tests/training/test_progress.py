from dataclasses import fields

import pytest

from training.progress import Progress

MIDDLE = Progress(
    step=7, position={"iteration": 1, "batch": 2, "cursor": 3}, samples_seen=56, extra_passes=8, clip_events=2,
    train_seconds=0.1 + 0.2, metric_sums={"loss": 1 / 3},
)  # fmt: skip


def test_counters_go_through_a_state_unchanged_and_unshared() -> None:
    state = MIDDLE.state_dict()
    assert list(state) == [counter.name for counter in fields(Progress)]
    back = Progress.from_state({**state, "model": {}})
    assert back == MIDDLE and Progress.unfit_entry(state) is None
    back.metric_sums["loss"] = back.position["batch"] = 0
    assert state == MIDDLE.state_dict() == Progress.from_state(state).state_dict()


@pytest.mark.parametrize("value", [None, -1, "7", [], float("nan"), {"batch": "x"}, True, 1 << 63])
@pytest.mark.parametrize("name", [counter.name for counter in fields(Progress)])
def test_a_counter_of_another_form_is_named(name: str, value: object) -> None:
    state = MIDDLE.state_dict() | {name: value}
    unfit = Progress.unfit_entry(state)
    assert unfit is not None and unfit[0] == name
    del state[name]
    assert Progress.unfit_entry(state) == unfit
