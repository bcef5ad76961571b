"""Mini-ARC as a task: predicted by its row, drawn, and told from what is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import predict
from analysis.rollouts import step_by_step
from dataset.arc_tokens import EOS, FIRST_COLOUR, PAD
from dataset.build_mini_arc_dataset import main as build
from dataset.eval_batches import test_rows as rows_of_test
from dataset.puzzle_folder import open_puzzle_set
from dataset.tasks.base import TaskError
from dataset.tasks.mini_arc import Task
from tests.helpers import refused_line, train_here
from training.trained_model import Checkpoint, open_puzzle_checkpoint
from training.trained_model import test_metadata as metadata_of_test

AUGMENTATION = {"kind": "mini_arc", "sides": [3, 4], "num_colours": 5}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mini-arc")
    build([*"--tier P --train-pairs 2 --test-pairs 1 --output-dir".split(), str(place / "data")])
    train_here("trm_att", place / "data", place / "run", ["max_steps=2", "validation_size=4"])
    return place / "run"


def test_shapes_and_augmentations() -> None:
    assert Task(16, 12).canvas == 4 and str(Task(25, 12)) == "mini_arc on a canvas of 5x5"
    assert Task(16, 12, augmentation=AUGMENTATION).augmentation_identity == AUGMENTATION
    for shape in ((15, 12), (16, 11)):
        with pytest.raises(TaskError):
            Task(*shape)
    for change in (
        {"sides": [3, 5]}, {"sides": [0, 4]}, {"sides": [4, 3]}, {"sides": 4}, {"sides": [3, True]},
        {"num_colours": 10}, {"num_colours": 0}, {"kind": "sudoku"}, {"more": 1},
    ):  # fmt: skip
        with pytest.raises(TaskError):
            Task(16, 12, augmentation=AUGMENTATION | change)


def test_text_and_back() -> None:
    task = Task(16, 12)
    text = ["1 . 5 ~", ". 2 9 ~", "~ ~ ~  ", "       "]
    tokens = task.parse("1.5~ .29~ ~~~_ ____")
    assert tokens.tolist()[:4] == [FIRST_COLOUR + 1, FIRST_COLOUR, FIRST_COLOUR + 5, EOS] and tokens[15] == PAD
    assert task.draw(tokens) == text
    assert np.array_equal(task.parse("105~ 029~ ~~~_ ____"), tokens)
    assert task.difficulty(tokens[None]).tolist() == [6]
    answers = np.stack([tokens, tokens])
    answers[1, 11:] = FIRST_COLOUR  # beyond the end of the grid
    assert np.array_equal(task.as_judged(answers), [tokens, tokens])


def test_a_row_is_predicted_under_its_identifier(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer is that of the row's own embedding, not of the blank one, and is judged by the recorded one."""
    checkpoint: Checkpoint = open_puzzle_checkpoint(run / "best.pt", device="cpu")
    one = open_puzzle_set(run.parent / "data", "test")
    metadata = predict.puzzle_metadata(checkpoint, None)
    assert metadata.num_puzzle_identifiers == 121 == metadata_of_test(checkpoint.config).num_puzzle_identifiers
    asked = predict.test_puzzle(checkpoint, metadata, 7, None)
    assert asked.identifiers is not None and asked.identifiers.tolist() == [one.puzzle_identifiers[7]] != [0]
    known = asked.known(metadata.task, 0)
    assert known.solution is not None and np.array_equal(known.solution, one.labels[7])
    about = predict.verdict(metadata.task, asked.tokens[0], known.solution, known)
    assert about.endswith("answer: SOLVED, every cell is right")
    model = predict.restore_model(checkpoint, metadata, torch.device("cpu"))
    assert model.puzzle_emb is not None
    model.puzzle_emb.weights[one.puzzle_identifiers[7]] += 1.0  # two updates have left most of them at 0
    own = predict.answer_puzzles(model, asked.tokens, metadata, asked.identifiers)
    blank = predict.answer_puzzles(model, asked.tokens, metadata)
    assert not torch.equal(own.logits, blank.logits)
    predict.main([f"checkpoint={run}/best.pt", "row=7", "device=cpu"])
    printed = capsys.readouterr().out
    assert "whose rule is that of its identifier\nanswer: NOT solved; " in printed and " cells wrong (r1c1" in printed


def test_a_puzzle_without_identifier_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused_line(capsys, predict.main, [f"checkpoint={run}/best.pt", "puzzle=1234", "device=cpu"])
    assert line.startswith("error: puzzle: ") and "knows puzzles by 121 identifiers" in line and "give row=N" in line


def test_steps_are_drawn(run: Path, tmp_path: Path) -> None:
    rows = rows_of_test(open_puzzle_set(run.parent / "data", "test"), 4)[:2].tolist()
    words = [str(run / "best.pt"), "--rows", *map(str, rows), "--output-dir", str(tmp_path), "--device", "cpu"]
    step_by_step.main(words)
    record = json.loads((tmp_path / "step_by_step.json").read_text())
    assert (tmp_path / "step_by_step.png").stat().st_size and [str(row) in json.dumps(record) for row in rows]
