"""`best.pt` is what the state calls the best: after a kill between the two, after going back to an older state."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers import differences, train_here
from training.storage.checkpoint import save_weights
from training.storage.weights import load_weights

OFTEN = ["fast_eval_interval=2", "force_full_eval_every=1", "checkpoint_interval=1"]


@pytest.fixture
def train(sudoku6_folder: Path, tmp_path: Path) -> Callable[[int], Path]:
    def to(steps: int) -> Path:
        train_here("trm_mlp", sudoku6_folder, tmp_path / "run", [*OFTEN, f"max_steps={steps}"])
        return tmp_path / "run"

    return to


def replaced_by_a_later_best(run: Path) -> dict[str, torch.Tensor]:
    """Other weights in place of best.pt, not of the file that the archive shares; returns what they were."""
    before = load_weights(run / "best.pt")
    (run / "best.pt").unlink()
    save_weights(run / "best.pt", {name: value + 1 for name, value in before.items()})
    return before


@pytest.mark.parametrize("best_at_the_state", [True, False])
def test_other_weights_in_place_of_the_best_are_put_right(
    train: Callable[[int], Path], best_at_the_state: bool
) -> None:
    run = train(2 if best_at_the_state else 3)
    before = replaced_by_a_later_best(run)
    train(4)
    assert json.loads((run / "summary.json").read_text())["best"]["step"] == 2, "ties keep the earlier one"
    for path in (run / "best.pt", run / "best" / "step_2" / "weights.pt"):
        assert differences(load_weights(path), before) == []


def test_a_best_that_is_gone_is_said_and_chosen_anew(
    train: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(3)
    replaced_by_a_later_best(run)
    shutil.rmtree(run / "best" / "step_2")
    (run / "best_state.pt").unlink()
    shutil.copy(run / "latest_state.pt", run / "best_state.pt")
    later = (run / "best.pt").read_bytes()
    capsys.readouterr()
    train(4)
    said = capsys.readouterr().err
    assert "warning: the weights of the best so far, of update 2, have given way" in said
    (kept,) = (path for path in run.glob("best_*.pt") if path.name != "best_state.pt")
    assert kept.name in said and kept.read_bytes() == later
    assert json.loads((run / "summary.json").read_text())["best"]["step"] == 4
    assert differences(load_weights(run / "best.pt"), load_weights(run / "final.pt")) == []


@pytest.mark.parametrize("without", [[], ["best"], ["best", "best.pt"]], ids=["archive", "best_file", "nothing"])
def test_a_run_that_branches_off_takes_the_best_with_it(
    without: list[str],
    train: Callable[[int], Path],
    sudoku6_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, branch = train(3), tmp_path / "branch"
    best = load_weights(run / "best.pt")
    for name in without:
        (shutil.rmtree if (run / name).is_dir() else os.remove)(run / name)
    capsys.readouterr()
    train_here("trm_mlp", sudoku6_folder, branch, [*OFTEN, "max_steps=3", f"resume={run / 'latest_state.pt'}"])
    tested = json.loads((branch / "summary.json").read_text())["test"]
    lost = "best.pt" in without
    assert ("of update 2, are not there" in capsys.readouterr().err) == lost
    assert ("best" in tested) != lost and (branch / "best.pt").exists() != lost
    assert lost or differences(load_weights(branch / "best.pt"), best) == []
