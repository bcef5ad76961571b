"""A loss or gradient that is NaN or infinite stops the run before the update, and reaches no file."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import training.loop
import training.objectives.base
from tests.helpers import (
    ARCHITECTURES,
    assert_same_state,
    logged_training,
    read_state,
    temporaries,
    train_here,
)
from training.records.metrics_log import read_metrics
from training.storage.checkpoint import load_state
from training.storage.weights import load_weights

OPTIONS = ["checkpoint_interval=4", "log_interval=1", "max_steps=20"]
Poison = Callable[[Any], None]


def nan_weight(run: Any) -> None:
    dict(run.model.named_parameters())["embed_tokens.embedding_weight"].data[2] = math.nan


def infinite_weight(run: Any) -> None:
    dict(run.model.named_parameters())["lm_head.weight"].data[0, 0] = math.inf


def nan_puzzle_row(run: Any) -> None:
    run.model.puzzle_emb.weights[0, 0] = math.nan


def nan_carry(run: Any) -> None:
    run.objective.carry["z_H"][0] = math.nan
    run.objective.carry["halted"][0] = False


POISONS = [nan_weight, infinite_weight, nan_puzzle_row, nan_carry]


def before_update(monkeypatch: pytest.MonkeyPatch, number: int, poison: Poison) -> None:
    """Apply `poison` to the run just before the batch of update `number`."""
    original = training.loop.train_on_batch

    def poisoned(run: Any, batch: Any, *, stop_requested: bool) -> Any:
        if run.step == number - 1:
            poison(run)
        return original(run, batch, stop_requested=stop_requested)

    monkeypatch.setattr(training.loop, "train_on_batch", poisoned)


def numbers(value: Any) -> Iterator[Any]:
    """All tensors and floats of nested containers."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, torch.Tensor | float):
        yield value


def strict_json(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in a JSON file")

    return json.loads(text, parse_constant=refuse)


def assert_all_finite(folder: Path) -> int:
    """Scan every file of a run folder; returns how many states and weights were among them."""
    archives = 0
    for path in folder.rglob("*"):
        if not path.is_file() or path.name in (".lock", "all_config.yaml", "git_diff.patch", "training_puzzles.npy"):
            continue
        if path.suffix == ".json":
            values: Any = strict_json(path.read_text())
        elif path.suffix == ".jsonl":
            values = [strict_json(line) for line in path.read_text().splitlines()]
            assert not any("nonfinite" in line for line in values)
        else:
            assert path.suffix == ".pt" or path.name.startswith("step_"), path
            is_state = path.name.endswith("state.pt")
            values = load_state(path) if is_state else load_weights(path)
            values = dict(values)
            archives += 1
        for value in numbers(values):
            finite = torch.as_tensor(value).isfinite().all()
            assert finite, f"{path} holds a number that is not finite"
    return archives


def assert_stopped_cleanly(folder: Path, update: int, said: str) -> None:
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert f"not finite at update {update}" in lines[0]
    iteration, batch = divmod(update - 1, 8)
    assert f"batch {{'iteration': {iteration}, 'batch': {batch}, 'cursor': {8 * batch}}} of seed 0" in lines[0]
    assert "Traceback" not in said
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "failed" and f"update {update}" in status["error"]
    assert json.loads((folder / "provenance.json").read_text())["sessions"][-1]["outcome"] == "failed"
    assert assert_all_finite(folder) >= 2
    assert max(line["step"] for line in read_metrics(folder / "metrics.jsonl")) == update - 1
    assert temporaries(folder) == []


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__)
@pytest.mark.parametrize("arch", ["trm_att", "hrm"])
def test_stops_before_the_update(
    arch: str,
    poison: Poison,
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        before_update(patch, 11, poison)
        with pytest.raises(SystemExit) as stop:
            train_here(arch, sudoku6_folder, tmp_path, OPTIONS)
    assert stop.value.code == 1
    assert_stopped_cleanly(tmp_path, 11, capsys.readouterr().err)
    assert read_state(tmp_path)["step"] == 8


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_gradient_alone(
    arch: str,
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Finite loss, infinite gradient: stopped too; nothing of it stays in the weights, and the run goes on."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_here(arch, sudoku6_folder, whole, OPTIONS)
    kept: dict[str, Any] = {}

    def poison(run: Any) -> None:
        parameter = next(run.model.parameters())
        handle = parameter.register_hook(lambda gradient: gradient * math.inf)
        kept.update(run=run, weights=parameter.detach().clone(), handle=handle)

    with monkeypatch.context() as patch:
        before_update(patch, 11, poison)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            train_here(arch, sudoku6_folder, run, OPTIONS)
    said = capsys.readouterr().err
    assert_stopped_cleanly(run, 11, said)
    assert "loss nan" not in said and "loss inf" not in said
    stopped = kept["run"]
    assert stopped.step == 10 and torch.equal(next(stopped.model.parameters()), kept["weights"])
    assert all(parameter.grad is None for parameter in stopped.model.parameters())
    train_here(arch, sudoku6_folder, run, OPTIONS)
    assert_same_state(run, whole)
    assert logged_training(run) == logged_training(whole)


def test_a_gradient_of_the_puzzle_table_alone(
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With all other weights frozen there is no gradient norm to tell."""
    original = training.loop.train_on_batch

    def poisoned(run: Any, batch: Any, *, stop_requested: bool) -> Any:
        if run.step == 10:
            take = run.model.puzzle_emb.take_gathers
            run.model.puzzle_emb.take_gathers = lambda: [
                (ids, leaf) for ids, leaf in take() if leaf.grad.mul_(math.nan) is not None
            ]
        return original(run, batch, stop_requested=stop_requested)

    monkeypatch.setattr(training.loop, "train_on_batch", poisoned)
    with pytest.raises(SystemExit):
        train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "freeze_weights=True", "ema=False"])
    assert_stopped_cleanly(tmp_path, 11, capsys.readouterr().err)


def test_in_the_first_update_there_is_nothing_to_save(
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before_update(monkeypatch, 1, nan_weight)
    with pytest.raises(SystemExit) as stop:
        train_here("trm_att", sudoku6_folder, tmp_path, OPTIONS)
    assert stop.value.code == 1 and "not finite at update 1" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pt")) and assert_all_finite(tmp_path) == 0


@pytest.mark.parametrize("update", [11, 15])
def test_a_weight_that_no_gradient_tells_of(
    update: int,
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The embedding of the padding token, which no Sudoku has: found before anything is saved or evaluated."""

    def poison(run: Any) -> None:
        dict(run.model.named_parameters())["embed_tokens.embedding_weight"].data[0, 0] = math.nan

    with monkeypatch.context() as patch:
        before_update(patch, update, poison)
        with pytest.raises(SystemExit) as stop:
            train_here("trm_att", sudoku6_folder, tmp_path, OPTIONS)
    said = capsys.readouterr().err
    found_at = 12 if update == 11 else 16
    assert stop.value.code == 1
    assert f"not finite after update {found_at}: model.embed_tokens.embedding_weight" in said
    assert assert_all_finite(tmp_path) >= 2
    assert read_state(tmp_path)["step"] == found_at - 4
    assert not (tmp_path / f"step_{found_at}").exists()


def test_in_a_later_slice_of_the_batch(
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Accumulation: a fault in the last slice of a batch leaves no gradient of the first ones behind."""
    original = training.objectives.base.act_loss
    calls = 0

    def poisoned(*arguments: Any) -> Any:
        nonlocal calls
        loss, metrics = original(*arguments)
        calls += 1
        return (loss * math.nan if calls == 2 * 11 else loss), metrics

    monkeypatch.setattr(training.objectives.base, "act_loss", poisoned)
    with pytest.raises(SystemExit):
        train_here("trm_att", sudoku6_folder, tmp_path, [*OPTIONS, "accumulation_slices=2"])
    assert_stopped_cleanly(tmp_path, 11, capsys.readouterr().err)
