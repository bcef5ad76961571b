"""Objectives that make several updates of a batch: what is planned, when an interval is due, what an update is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import training.loop
from errors import UserError
from models.act import Batch
from models.recursive_model import RecursiveModel
from tests.helpers import logged, tiny_config
from training.distributed import World
from training.loop import run_training
from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import Output, UpdateContext
from training.objectives.flossing import Flossing
from training.run import Run
from training.settings.schema import FlossConfig
from training.start import build_run

WORLD = World()


class ThreeUpdates(ACTStreaming):
    """Three supervision steps of the same batch, an update after each."""

    updates_per_batch = 3
    told: list[int]

    def outputs(self, model: RecursiveModel, batch: Batch, context: UpdateContext) -> Iterator[Output]:
        for _ in range(3):
            self.told.append(context.step)
            yield from super().outputs(model, batch, context)


def run_of(data: Path, folder: Path, *options: str) -> tuple[Run, ThreeUpdates]:
    objective = ThreeUpdates("stablemax_cross_entropy")
    objective.told = []
    run = build_run(tiny_config("trm_att", data, folder, options), WORLD, objective)
    run.folder.create()
    return run, objective


def test_an_interval_is_due_when_it_was_crossed(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of multiples of 10 and of 7: the first boundary at or after each, none twice."""
    saved, evaluated = [], []
    original = training.loop.save_latest
    monkeypatch.setattr(
        training.loop, "save_latest", lambda path, state: (saved.append(state["step"]), original(path, state))[1]
    )
    options = ["max_steps=45", "checkpoint_interval=10", "fast_eval_interval=7", "log_interval=5", "eval_interval=null"]
    run, objective = run_of(sudoku6_folder, tmp_path, *options)
    assert run_training(run) == "done" and run.step == 45
    evaluated = [line["step"] for line in logged(tmp_path) if "eval/fast/count" in line]
    due = lambda interval: [-(-multiple // 3) * 3 for multiple in range(interval, 46, interval)]  # noqa: E731
    assert evaluated == [*due(7), 45] == [9, 15, 21, 30, 36, 42, 45]
    assert saved == sorted({*due(10), *due(7), 45}) and {12, 21, 30, 42} <= set(saved)
    assert objective.told == list(range(45)), "each update is told how many were made before it"
    lines = [line["step"] for line in logged(tmp_path) if "train/loss" in line]
    assert lines == list(range(5, 46, 5)), "a line sums up the updates up to its own"


def test_all_updates_are_planned(sudoku6_folder: Path, tmp_path: Path) -> None:
    run, _ = run_of(sudoku6_folder, tmp_path)
    once = build_run(tiny_config("trm_att", sudoku6_folder, tmp_path), WORLD)
    assert run.planned_updates == 3 * once.planned_updates == 96
    assert run_training(run) == "done" and run.step == 96, "32 batches of four epochs"


def test_it_goes_on_where_it_was(sudoku6_folder: Path, tmp_path: Path) -> None:
    """`max_steps` is rounded up to a boundary."""
    run, _ = run_of(sudoku6_folder, tmp_path, "max_steps=10")
    assert run_training(run) == "done" and run.step == 12


def test_flossing_beside_it_counts_updates_too(sudoku6_folder: Path, tmp_path: Path) -> None:
    inner = ThreeUpdates("stablemax_cross_entropy")
    inner.told = []
    floss = FlossConfig(mode="inter", every=2, k=1, rows=2)
    objective: Any = Flossing(inner, floss)
    assert objective.updates_per_batch == 3
    run = build_run(tiny_config("trm_att", sudoku6_folder, tmp_path, ["max_steps=6"]), WORLD, objective)
    run.folder.create()
    run_training(run)
    flossed = [line["step"] for line in logged(tmp_path) if line.get("train/floss/updates")]
    assert flossed == [1, 3, 5], "the updates after 0, 2 and 4 others"


def test_an_objective_without_terms_refuses_them(sudoku6_folder: Path, tmp_path: Path) -> None:
    class NoTerms(ACTStreaming):
        takes_terms = False

    config = tiny_config("trm_att", sudoku6_folder, tmp_path, ["term.halt_entropy.weight=0.1"])
    with pytest.raises(UserError, match="option 'term.halt_entropy.weight': objective act_streaming takes no term"):
        build_run(config, WORLD, NoTerms("stablemax_cross_entropy"))
