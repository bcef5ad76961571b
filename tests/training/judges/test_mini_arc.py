"""Mini-ARC answers as grids and votes: made answers, a run, and one judge for two ranks."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
from dataset.arc_tokens import FIRST_COLOUR, PAD
from dataset.build_mini_arc_dataset import main as build
from dataset.eval_batches import EvalBatches
from dataset.puzzle_folder import PuzzleSet, open_puzzle_set
from models.losses import IGNORE_LABEL_ID
from tests.helpers import logged, refused_line, train_here
from tests.training import rank_jobs
from tests.training.judges.test_in_use import assert_alike
from tests.training.judges.test_sudoku import made
from tests.training.ranks import run_ranks
from training.distributed import World
from training.evaluation.baselines import scored_rows, trivial_baselines
from training.judges.mini_arc import MiniArcEvaluator, Settings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four ops on a canvas of 5x5, each pair with two views."""
    folder = tmp_path_factory.mktemp("data") / "mini-arc"
    build([*"--tier G --canvas 5 --num-aug 2 --train-pairs 2 --test-pairs 2 --output-dir".split(), str(folder)])
    return folder


def judged(one: PuzzleSet, answers: np.ndarray, q_halt: np.ndarray | None = None) -> MiniArcEvaluator:
    """Of answers to all rows, in batches that do not divide their number."""
    judge = Settings().build(one, np.arange(one.num_examples))
    judge.begin()
    for batch in EvalBatches(one, np.arange(one.num_examples), 100):
        predictions = made(torch.from_numpy(answers.astype(np.int64))[batch["row"]])
        if q_halt is not None:
            predictions.q_halt = torch.from_numpy(q_halt)[batch["row"]]
        judge.update(batch, predictions)
    judge.gather(World())
    return judge


def test_right_answers_copies_and_nothing(data: Path) -> None:
    """By op: copies are right where the op and all else leave the input as it is, and in the count of exact rows."""
    one = open_puzzle_set(data, "test")
    rows, queries = one.num_examples, one.num_examples // 3
    inputs, labels = scored_rows(one, np.arange(rows))
    found = judged(one, np.asarray(one.labels)).report()
    assert [found[name] for name in ("count", "right_count", "right_shape_count")] == [rows] * 3
    assert found["pass@1"]["numerator"] == found["pass@1"]["denominator"] == queries
    assert found["by_rule"]["rules"] == 63 and found["by_rule"]["value"] == 1
    assert set(found["by_op"]) == {"identity", "gravity", "shift", "hollow"}
    assert sum(counts["count"] for counts in found["by_op"].values()) == rows
    found = judged(one, inputs).report()
    same = (inputs == np.where(labels == IGNORE_LABEL_ID, PAD, labels)).all(axis=1)
    baselines = trivial_baselines(inputs, labels, np.ones(12), one.metadata.task)
    assert found["copied_count"] == rows and 0 < found["right_count"] == same.sum() < rows / 4
    assert baselines["copy_input"]["exact_accuracy"] == pytest.approx(found["right_count"] / rows)
    assert baselines["black"]["exact_accuracy"] == 0 and baselines["black"]["accuracy"] > 0.1
    assert found["pass@2"]["numerator"] == found["pass@1"]["numerator"]
    for answers in (np.zeros_like(inputs), np.full_like(inputs, 11), np.ones_like(inputs)):
        found = judged(one, answers).report()
        assert found["right_count"] == found["copied_count"] == found["pass@2"]["numerator"] == 0


def test_what_lies_outside_the_grid_is_cut_off(data: Path) -> None:
    """As officially: neither the end of the grid nor anything beyond a row of padding counts, but its shape does."""
    one = open_puzzle_set(data, "test")
    labels = np.asarray(one.labels).reshape(-1, 5, 5).copy()
    small = (labels[:, 4] < FIRST_COLOUR).all(axis=1) & (labels[:, :, 4] < FIRST_COLOUR).all(axis=1)
    assert small.sum() > 20
    beyond = labels.copy()
    beyond[small, 4, 4] = FIRST_COLOUR
    assert judged(one, beyond.reshape(-1, 25)).report()["right_count"] == one.num_examples
    wider = labels.copy()
    wider[small, :4, 4] = FIRST_COLOUR
    found = judged(one, wider.reshape(-1, 25)).report()
    assert found["right_count"] == found["right_shape_count"] == one.num_examples - small.sum()


def test_views_outvote_a_wrong_answer(data: Path) -> None:
    """Right answers to three views of a query are mapped back to one grid, and so are wrong ones that are alike."""
    one = open_puzzle_set(data, "test")
    labels, queries = np.asarray(one.labels), one.num_examples // 3
    view = np.arange(one.num_examples) % 3
    black = np.where(labels >= FIRST_COLOUR, FIRST_COLOUR, labels)
    # One right view of three: two black grids are one grid, whatever the view, and win; the right one is second.
    found = judged(one, np.where((view == 1)[:, None], labels, black)).report()
    assert [found[f"pass@{k}"]["numerator"] for k in (1, 2)] == [0, queries]
    # Two right of three win.
    found = judged(one, np.where((view == 1)[:, None], black, labels)).report()
    assert found["pass@1"]["numerator"] == queries and found["right_count"] == 2 * queries
    # One against one and nothing: the surer one wins.
    answers = np.where((view == 0)[:, None], labels, np.where((view == 1)[:, None], black, 0))
    for sure, passed in ((3.0, queries), (-3.0, 0)):
        found = judged(one, answers, np.where(view == 0, sure, np.where(view == 1, 0.0, -9.0))).report()
        assert found["pass@1"]["numerator"] == passed


def test_parts_of_two_sets_are_added(data: Path) -> None:
    """Of a set twice all counts double, and so do the queries: equal ones of two sets are two."""
    one = open_puzzle_set(data, "test")
    once, twice, more = (judged(one, np.asarray(one.labels)) for _ in range(3))
    twice.add(more)
    first, both = once.report(), twice.report()
    assert both["count"] == 2 * first["count"] and both["by_rule"]["rules"] == 2 * first["by_rule"]["rules"]
    assert both["pass@1"]["denominator"] == 2 * first["pass@1"]["denominator"]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_here("trm_att", data, folder, ["max_steps=4", "dtype=float64", "validation_size=60", "max_test_rows=40"])
    return folder


def test_a_run_is_judged(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = [line for line in logged(run) if "eval/pass@1" in line][-1]
    assert set(Settings.metrics) <= {key.removeprefix("eval/") for key in last}
    assert last["eval/right_shape"] >= last["eval/right_grid"] == 0
    # The rules that were held out are data of their own, which the same network reads.
    evaluate.main([f"checkpoint={run}/best.pt", f"data_paths_test=[{data}/held_out_rules]", "device=cpu"])
    assert "by op: identity 0/" in capsys.readouterr().out
    report = json.loads((run / "evaluation_best_held_out_rules.json").read_text())
    result: dict[str, Any] = next(result for result in report["results"] if result["rows"] == "test")
    assert result["mini_arc"]["by_rule"]["rules"] == 21
    assert result["known"]["training"] == 0 if "known" in result else True


def test_two_ranks_report_what_one_does(run: Path, tmp_path: Path) -> None:
    options = {"options": {"max_test_rows": 41, "batch_size": 4}}
    alone = rank_jobs.evaluation(World(), str(shutil.copytree(run, tmp_path / "one")), **options)
    ranks = run_ranks("evaluation", run=str(shutil.copytree(run, tmp_path / "two")), **options)
    assert_alike(ranks[0]["results"], ranks[1]["results"])
    assert_alike(alone["results"], ranks[0]["results"])
    assert alone["results"][0]["mini_arc"]["count"] == 41


def test_other_puzzles_are_refused(sudoku4_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["max_steps=1", "evaluators=[mini_arc]"]
    with pytest.raises(Exception, match="mini_arc judges no puzzles of the task sudoku .*: leave it out"):
        train_here("trm_mlp", sudoku4_folder, tmp_path / "run", words)


def test_another_canvas_or_vocabulary_is_refused(
    run: Path, sudoku4_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build([*"--tier P --train-pairs 1 --test-pairs 1 --output-dir".split(), str(tmp_path / "mini-arc")])
    reads = "reads puzzles of 25 cells, 12 tokens, 289 puzzle identifiers, but these data"
    for folder, found in (
        (tmp_path / "mini-arc", "(mini_arc on a canvas of 4x4) have 16 cells, 12 tokens, 121 puzzle identifiers"),
        (sudoku4_folder, "(sudoku with boxes of 2x2) have 16 cells, 6 tokens, 1 puzzle identifiers"),
    ):
        words = [f"checkpoint={run}/best.pt", f"data_paths_test=[{folder}]", "device=cpu"]
        line = refused_line(capsys, evaluate.main, words)
        assert f"{reads} {found}: give data that were built as those of its run" in line
