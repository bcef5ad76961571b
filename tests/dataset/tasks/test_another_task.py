"""A task that is one file more, and nothing else: built, trained, voted over, evaluated, predicted, drawn."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import evaluate
import predict
from analysis.rollouts import step_by_step
from dataset.eval_batches import validation_rows
from dataset.puzzle_folder import open_puzzle_set
from dataset.puzzle_source import PuzzleSource
from errors import UserError
from tests.dataset.tasks import opposites
from tests.helpers import read_state, train_here
from training.inference import vote
from training.inference.choose import build_inference
from training.settings.schema import EvalConfig


@pytest.fixture
def data(tmp_path: Path, other_task: Callable[..., None]) -> Path:
    other_task(Path(opposites.__file__).read_text(), "opposites")
    return opposites.write_opposites(tmp_path / "data")


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    assert train_here("trm_att", data, folder, ["max_steps=2", "eval.vote.views=24"]) == "done"
    return folder


def test_training_draws_the_symmetries_of_the_task(data: Path) -> None:
    stored = {row.tobytes() for row in open_puzzle_set(data, "train").inputs}
    source = PuzzleSource([open_puzzle_set(data, "train")], seed=0, global_batch_size=16, epochs_per_iteration=4)
    task, position, seen = opposites.Task(6, 4), {"iteration": 0, "batch": 0, "cursor": 0}, []
    for _ in range(4):
        batch, position = source.next(position)
        inputs, labels = (batch[key].numpy() for key in ("inputs", "labels"))
        assert (task.violations(labels) == 0).all() and np.array_equal(labels[inputs > 1], inputs[inputs > 1])
        seen.append([row.astype(np.uint8).tobytes() for row in inputs])
    # An epoch holds every puzzle once; under symmetries it no longer does.
    assert all(set(rows) <= stored for rows in seen) and any(len(set(rows)) < 16 for rows in seen)
    assert source.fingerprint()["augment"] == [{"kind": "opposites"}]
    assert all(first != second for first, second in pairwise(seen))


def test_it_is_trained_resumed_and_scored(run: Path, data: Path) -> None:
    assert read_state(run)["step"] == 2
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["baselines"]) == {"copy_input", "most_frequent_token", "constant", "copy_givens"}
    # Of the blanks, half the cells of a row, right are those that hold the commoner letter: a, of two equally common.
    puzzles = open_puzzle_set(data, "test")
    inputs, labels = puzzles.read_rows(validation_rows(puzzles, 8))
    expected = 0.5 + (labels[inputs == 1] == 2).sum() / labels.size
    assert summary["baselines"]["copy_givens"]["accuracy"] == pytest.approx(expected)
    assert summary["test"]["final"]["denominator"] == 8
    assert train_here("trm_att", data, run, ["max_steps=3", "eval.vote.views=24"]) == "done"
    assert read_state(run)["step"] == 3


def test_it_is_evaluated_with_a_vote_of_all_its_views(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([f"checkpoint={run}/best.pt", "split=test", "eval.vote.views=24", "device=cpu"])
    (result,) = json.loads(next(run.glob("evaluation_best*vote24.json")).read_text())["results"]
    assert result["mode"]["vote"] == 24 and result["exact_accuracy"]["denominator"] == 13
    assert result["compute"]["forward_passes"] == 24 * 4 * 16
    assert "copy_givens" in result["baselines"] and "sudoku" not in result and result["difficulty"] is None
    assert "copy_givens 0.7" in capsys.readouterr().out


def test_more_views_than_it_has_are_refused(data: Path) -> None:
    sets = [open_puzzle_set(data, "test")]
    with pytest.raises(UserError, match="eval.vote.views=25: .*opposites, which have 24 views; use eval.vote.views=24"):
        build_inference(EvalConfig(vote=vote.Settings(views=25)), sets, 0)


def test_it_is_predicted_and_drawn(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    predict.main([f"checkpoint={run}/best.pt", "puzzle=aba___", "device=cpu"])
    text = capsys.readouterr().out
    assert text.splitlines()[2].startswith("a b a ") and text.splitlines()[3].startswith("_ _ _ ")
    assert re.findall(r"step (\d)", text) == ["1", "2", "3", "4"] and "\npuzzle: one solution\nanswer: " in text
    predict.main([f"checkpoint={run}/best.pt", "row=0", "device=cpu"])
    assert "puzzle: one solution" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        predict.main([f"checkpoint={run}/best.pt", "puzzle=abc___", "device=cpu"])
    assert "puzzle: character 'c' at position 3, expected ._ab" in capsys.readouterr().err
    step_by_step.main([str(run / "best.pt"), "--device", "cpu"])
    record = json.loads((run / "figures" / "step_by_step.json").read_text())
    assert len(record["traces"]) == 3
    for trace in record["traces"]:
        solution, given = trace["solution"], [cell for cell in range(6) if trace["puzzle"][cell] != "_"]
        assert len(given) == 3 and all({solution[i], solution[i + 3]} == {"a", "b"} for i in range(3))
        assert all(solution[cell] == trace["puzzle"][cell] for cell in given)


def test_its_verdicts_are_of_its_rules() -> None:
    task = opposites.Task(6, 4)
    puzzle, right = task.parse("aba___"), task.parse("ababab")
    known = task.known(puzzle)
    assert predict.verdict(task, puzzle, right, known).endswith("SOLVED, every column holds both letters")
    wrong = predict.verdict(task, puzzle, task.parse("abaaab"), known)
    assert wrong.endswith("NOT solved; 1 of 3 blanks wrong (r2c1); 1 columns without both letters")
