"""status.json under a clock of our own, a reader in a loop, and exceptions."""

import errno
import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from training.records.status import StatusWriter

REQUIRED = (
    "run_id timestamp_utc epoch global_step update_step micro_step steps_per_sec samples_seen "
    "samples_per_sec lr grad_norm clip_events last_fast_eval_step last_full_eval_step last_ckpt best "
    "best_eval_acc best_eval_step eta_sec eta_to_next_fast_eval_sec eta_to_next_full_eval_sec state "
    "pid git_sha config_hash schema_version"
).split()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def read(path: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_every_field_is_always_there(tmp_path: Path, clock: Clock) -> None:
    status = StatusWriter(tmp_path / "status.json", clock=clock, run_id="a", git_sha="f00", config_hash="c")
    assert status.event()
    found = read(tmp_path / "status.json")
    assert set(REQUIRED) <= found.keys()
    assert (found["run_id"], found["git_sha"], found["config_hash"]) == ("a", "f00", "c")
    assert found["state"] == "running" and found["pid"] == os.getpid() and found["schema_version"] == 1
    assert found["global_step"] is None and found["eta_sec"] is None
    assert found["timestamp_utc"].endswith("+00:00")


def test_cadence(tmp_path: Path, clock: Clock) -> None:
    status = StatusWriter(tmp_path / "status.json", interval_seconds=60, clock=clock)
    written = []
    for step in range(1, 200):
        clock.now += 1
        if status.update(global_step=step):
            written.append(step)
            assert read(tmp_path / "status.json")["global_step"] == step
    assert written == [1, 61, 121, 181]


def test_an_event_writes_at_once_and_restarts_the_interval(tmp_path: Path, clock: Clock) -> None:
    status = StatusWriter(tmp_path / "status.json", interval_seconds=60, clock=clock)
    status.update(global_step=1)
    clock.now += 50
    assert status.event(state="eval", last_fast_eval_step=1)
    assert read(tmp_path / "status.json")["state"] == "eval"
    clock.now += 59
    assert not status.update(global_step=2)
    clock.now += 1
    assert status.update(global_step=3)


def test_rates_over_a_window_and_etas(tmp_path: Path, clock: Clock) -> None:
    status = StatusWriter(tmp_path / "s.json", clock=clock, window=4, total_steps=100, next_fast_eval_step=20)
    seconds_per_step = [5.0] * 6 + [0.5] * 4  # the slow start has left the window
    for step, seconds in enumerate(seconds_per_step, start=1):
        clock.now += seconds
        status.update(global_step=step, samples_seen=step * 32)
    found = status.snapshot()
    assert found["steps_per_sec"] == pytest.approx(2.0) and found["samples_per_sec"] == pytest.approx(64.0)
    assert found["eta_sec"] == pytest.approx(45.0)
    assert found["eta_to_next_fast_eval_sec"] == pytest.approx(5.0)
    assert found["eta_to_next_full_eval_sec"] is None


def test_an_evaluation_is_no_part_of_the_rate(tmp_path: Path, clock: Clock) -> None:
    status = StatusWriter(tmp_path / "s.json", clock=clock)
    for step in (1, 2, 3):
        clock.now += 1
        status.update(global_step=step)
    status.event(state="eval")
    clock.now += 1000
    status.event(state="running")
    for step in (4, 5):
        clock.now += 2
        status.update(global_step=step)
    assert status.snapshot()["steps_per_sec"] == pytest.approx(0.5)


def test_best_and_its_flat_copies(tmp_path: Path, clock: Clock) -> None:
    status = StatusWriter(tmp_path / "s.json", clock=clock)
    status.event(best={"metric": "eval/exact_accuracy", "value": torch.tensor(0.75), "step": 40})
    found = read(tmp_path / "s.json")
    assert found["best"] == {"metric": "eval/exact_accuracy", "value": 0.75, "step": 40}
    assert (found["best_eval_acc"], found["best_eval_step"]) == (0.75, 40)


def test_nonfinite_numbers_become_null(tmp_path: Path, clock: Clock) -> None:
    StatusWriter(tmp_path / "s.json", clock=clock).event(grad_norm=math.nan, lr=math.inf, best={"value": -math.inf})
    found = read(tmp_path / "s.json")
    assert found["grad_norm"] is None and found["lr"] is None and found["best"] == {"value": None}


def test_unknown_names_are_programming_errors(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no field typo"):
        StatusWriter(tmp_path / "s.json").update(typo=1)
    with pytest.raises(ValueError, match="expected one of"):
        StatusWriter(tmp_path / "s.json").event(state="finished")


def test_always_parseable_while_being_written(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    status = StatusWriter(path, interval_seconds=0, run_id="x")
    status.event()
    stop, seen, failures = threading.Event(), [], []

    def reader() -> None:
        while not stop.is_set():
            try:
                seen.append(read(path)["global_step"])
            except (ValueError, OSError) as error:
                failures.append(error)

    thread = threading.Thread(target=reader)
    thread.start()
    for step in range(400):
        status.update(global_step=step, run_id="x" * (step % 7 * 500))
    stop.set()
    thread.join()
    assert not failures and len(set(seen)) > 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (None, "done", None),
        (RuntimeError("loss is\nnan"), "failed", "RuntimeError: loss is nan"),
        (KeyboardInterrupt(), "stopped", None),
        (SystemExit(2), "failed", "SystemExit: 2"),
    ],
)
def test_state_at_the_end(tmp_path: Path, error: BaseException | None, state: str, text: str | None) -> None:
    try:
        with StatusWriter(tmp_path / "s.json") as status:
            assert read(tmp_path / "s.json")["state"] == "running"
            status.update(global_step=7)
            if error is not None:
                raise error
    except BaseException as caught:
        assert caught is error
    found = read(tmp_path / "s.json")
    assert (found["state"], found["error"], found["global_step"]) == (state, text, 7)


def test_a_stop_that_was_asked_for_stays(tmp_path: Path) -> None:
    with StatusWriter(tmp_path / "s.json") as status:
        status.event(state="stopped")
    assert read(tmp_path / "s.json")["state"] == "stopped"


def test_full_disk_never_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = StatusWriter(tmp_path / "s.json", interval_seconds=0)
    status.event(global_step=1)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        assert not status.update(global_step=2)
        assert not status.update(global_step=3)
    assert read(tmp_path / "s.json")["global_step"] == 1
    assert capsys.readouterr().err.count("cannot be written") == 1
    assert status.update(global_step=4)
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
