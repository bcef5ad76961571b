"""The evaluator of mazes: its counts against each row by itself, and in a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from dataset.maze import FREE, PATH, judged, solved, with_random_paths
from dataset.maze_generator import TEST_STREAM, Request, generate
from dataset.puzzle_folder import open_puzzle_set
from errors import UserError
from tests.helpers import train_here
from training.inference.base import Predictions
from training.judges.maze import MazeEvaluator, Settings


def predictions(answers: np.ndarray) -> Predictions:
    tokens = torch.from_numpy(answers.astype(np.int64))
    count = len(tokens)
    return Predictions(
        answers=tokens,
        logits=torch.nn.functional.one_hot(tokens, 6).float(),
        q_halt=torch.zeros(count),
        steps=torch.ones(count, dtype=torch.int32),
        forward_passes=count,
    )


def answered(evaluator: MazeEvaluator, inputs: np.ndarray, labels: np.ndarray, answers: np.ndarray) -> None:
    batch = {
        "inputs": torch.from_numpy(inputs.astype(np.int32)),
        "labels": torch.from_numpy(labels.astype(np.int32)),
        "row": torch.arange(len(inputs)),
    }
    evaluator.update(batch, predictions(answers))


def test_counts_are_those_of_each_row() -> None:
    mazes = generate(Request(6, 1, 6, 0.3, unique=False), TEST_STREAM, 0)
    rng = np.random.default_rng(0)
    answers = with_random_paths(mazes.inputs, rng)
    # Some with a mark more, some with a cell changed, some with everything marked.
    kind = rng.integers(4, size=len(answers))
    for row in np.flatnonzero(kind == 1):
        answers[row, rng.choice(np.flatnonzero(answers[row] == FREE))] = PATH
    for row in np.flatnonzero(kind == 2):
        answers[row, rng.integers(36)] = rng.integers(6)
    every = (kind == 3)[:, None] & (mazes.inputs == FREE)
    answers[every] = PATH
    labels = mazes.labels.astype(np.int64)
    labels[-5:] = -100
    evaluator = MazeEvaluator()
    evaluator.begin()
    for rows in np.array_split(np.arange(len(answers)), 3):
        answered(evaluator, mazes.inputs[rows], labels[rows], answers[rows])
    expected = dict.fromkeys(MazeEvaluator.names, 0.0)
    for maze, label, answer in list(zip(mazes.inputs, mazes.labels, answers, strict=True))[:-5]:
        found, (paths,) = judged(maze[None], answer[None]), solved(maze[None])[1]
        expected["count"] += 1
        expected["exact_count"] += bool((answer == label).all())
        expected["kept_count"] += bool(found.kept[0])
        expected["valid_count"] += bool(found.valid[0])
        expected["shortest_count"] += bool(found.shortest[0])
        expected["excess_cells"] += float(found.excess[0]) if found.valid[0] else 0
        expected["one_way_count"] += bool(paths == 1)
        expected["exact_by_chance"] += 1 / paths
    assert evaluator.sums == pytest.approx(expected, rel=1e-12)
    sums = evaluator.sums
    assert 0 < sums["exact_count"] < sums["shortest_count"] < sums["valid_count"] < sums["kept_count"] < sums["count"]
    assert evaluator.metrics() == pytest.approx(
        {
            "valid_path": sums["valid_count"] / sums["count"],
            "shortest_path": sums["shortest_count"] / sums["count"],
            "maze_kept": sums["kept_count"] / sums["count"],
            "excess_cells": sums["excess_cells"] / sums["valid_count"],
        }
    )
    assert evaluator.metrics().keys() == Settings.metrics.keys()


def test_trivial_drawings() -> None:
    """Nothing drawn is no path; everything marked is a valid one, and no shortest; a search draws what is."""
    mazes = generate(Request(8, 2, 8, 0.3, unique=False), TEST_STREAM, 0)
    found = {}
    for name, answers in (
        ("nothing", mazes.inputs),
        ("everything", np.where(mazes.inputs == FREE, PATH, mazes.inputs)),
        ("search", with_random_paths(mazes.inputs, np.random.default_rng(5))),
    ):
        evaluator = MazeEvaluator()
        evaluator.begin()
        answered(evaluator, mazes.inputs, mazes.labels, answers)
        found[name] = evaluator
    rates = {name: evaluator.metrics() for name, evaluator in found.items()}
    assert [rates[name]["valid_path"] for name in rates] == [0, 1, 1]
    assert [rates[name]["shortest_path"] for name in rates] == [0, 0, 1]
    assert "excess_cells" not in rates["nothing"] and rates["search"]["excess_cells"] == 0
    # A search that chooses among shortest paths meets the label as often as chance has it, to four deviations.
    sums = found["search"].sums
    assert abs(sums["exact_count"] - sums["exact_by_chance"]) < 4 * sums["exact_by_chance"] ** 0.5
    assert "breadth-first search: all shortest, and" in found["search"].lines()[0]


def test_nothing_to_judge() -> None:
    evaluator = MazeEvaluator()
    evaluator.begin()
    assert evaluator.metrics() == {} and evaluator.lines() == []


def test_a_run_reports_both_verdicts(maze6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_here("trm_att", maze6_folder, tmp_path / "run", ["max_steps=2"]) == "done"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/validation/valid_path" in line and "eval/shortest_path" in line for line in lines)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["baselines"].keys() == {"copy_input", "most_frequent_token", "constant", "mark_all_free"}
    evaluate.main([f"checkpoint={tmp_path}/run/best.pt", "split=test", "device=cpu", "eval.vote.views=8"])
    (result,) = json.loads(next((tmp_path / "run").glob("evaluation_best*vote8.json")).read_text())["results"]
    shortest = summary["test"]["final"]["judges"]["maze"]["shortest_path"]
    numbers = {(number["name"], number.get("moment")): number for number in summary["record"]["numbers"]}
    assert numbers["test shortest_path", "final"]["of"] == shortest["denominator"] == 8
    report = json.loads(next((tmp_path / "run").glob("evaluation_best*vote8.json")).read_text())
    (number,) = (each for each in report["record"]["numbers"] if each["name"].endswith(": valid_path"))
    assert number["of"] == 32 and number["value"] == 100 * result["maze"]["valid_count"] / 32
    assert result["maze"]["count"] == 32 and result["maze"]["valid_count"] <= result["maze"]["kept_count"]
    assert "valid paths" in capsys.readouterr().out


def test_other_puzzles_are_refused(maze6_folder: Path, sudoku4_folder: Path, tmp_path: Path) -> None:
    puzzles = open_puzzle_set(sudoku4_folder, "test")
    with pytest.raises(UserError, match="evaluators: maze judges no puzzles of the task sudoku with boxes of 2x2"):
        Settings().build(puzzles, np.arange(4))
    with pytest.raises(UserError, match="evaluators: sudoku judges no puzzles of the task maze of 6x6"):
        train_here("trm_att", maze6_folder, tmp_path / "run", ["max_steps=1", "evaluators=[sudoku]"])
