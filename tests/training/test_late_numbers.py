"""Numbers read one update late, as on a GPU: the same run, the same log, and nothing that makes the host wait."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import training.loop
import training.update
from tests.helpers import (
    ARCHITECTURES,
    assert_same_state,
    logged_training,
    read_state,
    tiny_config,
    train_here,
)
from tests.training.test_nonfinite import assert_all_finite, before_update, nan_weight
from training.devices import DeviceNumbers, on_device
from training.distributed import World
from training.start import act_objective, build_run
from training.update import settle, train_on_batch

OPTIONS = ["checkpoint_interval=4", "log_interval=3", "max_steps=20", "grad_clip_norm=0.5"]


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (training.loop, training.update):
        monkeypatch.setattr(module, "reads_late", lambda run: True)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_run_and_its_log_are_the_same(
    arch: str, sudoku6_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    train_here(arch, sudoku6_folder, tmp_path / "at_once", OPTIONS)
    request.getfixturevalue("late")
    train_here(arch, sudoku6_folder, tmp_path / "late", OPTIONS)
    assert_same_state(tmp_path / "at_once", tmp_path / "late")
    assert logged_training(tmp_path / "at_once") == logged_training(tmp_path / "late")


def test_a_fault_is_noticed_before_anything_of_it_is_saved(
    late: None,
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_here("trm_att", sudoku6_folder, whole, OPTIONS)
    for update, saved in ((11, 8), (12, 8)):  # the second is the last one before a save
        with monkeypatch.context() as patch:
            before_update(patch, update, nan_weight)
            with pytest.raises(SystemExit) as stop:
                train_here("trm_att", sudoku6_folder, run, OPTIONS)
        assert stop.value.code == 1
        assert f"not finite at update {update}" in capsys.readouterr().err
        assert read_state(run)["step"] == saved and assert_all_finite(run) >= 2
        assert json.loads((run / "status.json").read_text())["state"] == "failed"
    train_here("trm_att", sudoku6_folder, run, OPTIONS)
    assert_same_state(run, whole)


# What torch's own check of synchronisation finds on CUDA: a number asked for, or a shape that depends on values.
WAITS = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero", "equal", "bincount")


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if any(name == wait or name.startswith(f"{wait}_") or name == f"_{wait}2" for wait in WAITS):
            watched = [a for a in args if isinstance(a, torch.Tensor)]
            raise AssertionError(f"{name} of {[tuple(a.shape) for a in watched]} makes the host wait")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [[], ["arch.no_ACT_continue=False", "grad_clip_norm=0.1"]], ids=["plain", "all"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_in_an_update_waits_for_the_device(
    late: None,
    arch: str,
    options: list[str],
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config(arch, sudoku6_folder, tmp_path, options)
    run = build_run(config, World(), act_objective(config))
    batch, run.progress.position = run.source.next(run.progress.position)

    assert run.dense is not None

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("a tensor was read by the host")

    dense_step = run.dense.step

    def step_unwatched() -> None:
        """An optimizer reads its own counts of updates; they live on the host, whatever the device."""
        with _disable_current_modes():
            dense_step()

    monkeypatch.setattr(run.dense, "step", step_unwatched)
    for name in ("tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    with NoWaiting():
        (report,) = train_on_batch(run, batch, stop_requested=False)
    monkeypatch.undo()
    settle(run, report)
    assert report.grad_norm > 0 and run.progress.metric_sums["normalizer"] == 8


def test_numbers_keep_their_names_and_their_float64() -> None:
    values = torch.stack([on_device(0.1, torch.device("cpu")), on_device(torch.tensor(2), torch.device("cpu"))])
    assert values.dtype == torch.float64
    assert DeviceNumbers(["a", "b"], values).read() == {"a": 0.1, "b": 2.0}
