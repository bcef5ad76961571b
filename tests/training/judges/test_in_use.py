"""Evaluators of the list at work: in a run at their interval, by evaluate.py, and on two ranks as on one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset.eval_batches import validation_rows
from dataset.puzzle_folder import open_puzzle_set
from evaluate import main
from tests.helpers import logged, refused_line, train_here
from tests.training import rank_jobs
from tests.training.judges.toys import ROOM
from tests.training.ranks import run_ranks
from training.distributed import World
from training.settings import evaluator_list
from training.settings.schema import EvaluateConfig

OPTIONS = ["fast_eval_interval=2", "force_full_eval_every=1", "eval_save_outputs=[preds]"]
TOY = "evaluators=[{name: distinct_tokens, interval: 2, prefix: toy/, first_cells: 7}]"


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator_list, "JUDGES", ROOM)


@pytest.fixture(scope="module")
def trained(sudoku4_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_here("trm_mlp", sudoku4_folder, folder, ["max_steps=4", "dtype=float64"])
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def distinct(predictions: np.ndarray, cells: int) -> list[int]:
    return [len(np.unique(row[:cells])) for row in predictions]


@pytest.mark.usefixtures("toys")
def test_a_run_is_judged_at_the_interval(
    sudoku4_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the full validations at updates 2, 3, 4 and 6 the first and the third; a run that is resumed counts on."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_here("trm_mlp", sudoku4_folder, whole, [*OPTIONS, TOY, "max_steps=6"])
    key = "eval/validation/toy/distinct"
    judged = {line["step"]: line for line in logged(whole) if key in line}
    full = [line["step"] for line in logged(whole) if "eval/validation/count" in line]
    assert full == [2, 3, 4, 6] and list(judged) == [2, 4]
    rows = validation_rows(open_puzzle_set(sudoku4_folder, "test")).tolist()
    for step, line in judged.items():
        with np.load(whole / f"step_{step}_all_preds.0.npz") as file:
            counts = distinct(file["preds"], 7)
        assert line[key] == line["eval/toy/distinct"] == pytest.approx(np.mean(counts), abs=1e-12)
        written = json.loads((whole / f"evaluator_toy-distinct_tokens_step_{step}" / "distinct.json").read_text())
        assert written == {str(row): count for row, count in zip(rows, counts, strict=True)}
        assert f"  {np.mean(counts):.2f} different tokens in an answer" in capsys.readouterr().out or step > 2
    assert not any("rule_valid" in key for line in logged(whole) for key in line), "the list is the whole list"
    tested = json.loads((whole / "summary.json").read_text())["test"]
    for which in ("initial", "best", "final"):
        assert tested[which]["judges"]["toy/distinct_tokens"]["rows"] == tested[which]["denominator"] == 8
    assert (whole / "evaluator_toy-distinct_tokens_test_final" / "distinct.json").is_file()
    for steps in (3, 6):
        train_here("trm_mlp", sudoku4_folder, parts, [*OPTIONS, TOY, f"max_steps={steps}"])
    resumed = {line["step"]: line for line in logged(parts) if key in line}
    assert {step: line[key] for step, line in resumed.items()} == {step: line[key] for step, line in judged.items()}


@pytest.mark.usefixtures("toys")
def test_evaluate_takes_the_list_from_its_own_command_line(
    run: Path, sudoku4_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"checkpoint={run}/best.pt", "device=cpu", "evaluators=[distinct_tokens]", "save_outputs=[preds]"]
    main(words)
    printed = capsys.readouterr().out
    name = "best_distinct_tokens"
    test, validation = json.loads((run / f"evaluation_{name}.json").read_text())["results"]
    assert "sudoku" not in test
    counts: dict[str, int] = {}
    for result, apart in ((test, ""), (validation, "_validation")):
        with np.load(run / f"predictions_{name}{apart}.npz") as file:
            found = distinct(file["preds"], 16)
            assert result["distinct_tokens"] == {"rows": len(found), "distinct": pytest.approx(np.mean(found))}
            assert f"  {np.mean(found):.2f} different tokens in an answer" in printed
            counts |= {str(row): count for row, count in zip(file["row"].tolist(), found, strict=True)}
    # One file holds the rows of all selections.
    path = run / f"evaluation_{name}" / "distinct_tokens" / "distinct.json"
    assert json.loads(path.read_text()) == counts and f"written: {path}" in printed
    assert len(counts) == open_puzzle_set(sudoku4_folder, "test").num_examples


def test_nothing_beside_accuracy(run: Path) -> None:
    """[] leaves the task's judge out, under a name of its own; null is the evaluation that it always was."""
    for words in ([], ["evaluators=null"], ["evaluators=[]"], ["evaluators=[{name: sudoku, prefix: by-rules-}]"]):
        main([f"checkpoint={run}/best.pt", "device=cpu", *words])
    names = {path.name for path in run.glob("evaluation_*.json")}
    assert names == {f"evaluation_best{part}.json" for part in ("", "_accuracy", "_by-rules-sudoku")}
    records = {name: json.loads((run / name).read_text())["results"][0] for name in names}
    judged, bare = records["evaluation_best.json"], records["evaluation_best_accuracy.json"]
    assert judged.keys() - bare.keys() == {"sudoku"}
    assert records["evaluation_best_by-rules-sudoku.json"]["by-rules-sudoku"] == judged["sudoku"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("evaluators=[nope]", "names: arc, "),
        ("evaluators=[arc@ARC]", "ARC scoring is not part of this suite yet"),
        ("evaluators=sudoku", "option 'evaluators': found 'sudoku', expected list"),
        ("evaluators=[{name: sudoku, interva: 1}]", "the nearest valid key is 'interval'"),
    ],
)
def test_mistakes_of_a_command_line(run: Path, words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused_line(capsys, main, [f"checkpoint={run}/best.pt", "device=cpu", words])


def of_section(name: str, **values: Any) -> EvaluateConfig:
    settings = EvaluateConfig()
    for key, value in values.items():
        setattr(getattr(settings, name), key, value)
    return settings


MODES: dict[str, dict[str, Any]] = {
    "official": {"save_outputs": ["preds", "logits"]},
    "adaptive": {"eval": EvaluateConfig(adaptive_halt=True)},
    "perturbed": {"eval": of_section("perturbed_starts", sigma=[0.0, 0.5], starts=3)},
    "rollouts": {"eval": of_section("stochastic_rollouts", sigma=0.3, rollouts=4)},
    "toys": {"evaluators": ["distinct_tokens"]},
}


def assert_alike(first: Any, second: Any, place: str = "results") -> None:
    """Equal; floats but for the order in which processes add them."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for key in first:
            assert_alike(first[key], second[key], f"{place}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), place
        for number, pair in enumerate(zip(first, second, strict=True)):
            assert_alike(*pair, f"{place}.{number}")
    else:
        expected = pytest.approx(second, rel=1e-9, abs=1e-12) if isinstance(second, float) else second
        assert type(first) is type(second) and first == expected, place


@pytest.mark.parametrize("mode", MODES)
def test_two_ranks_report_what_one_does(mode: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole records of evaluate.py, which ask every evaluator; 9 and 2 rows; each file once and whole."""
    monkeypatch.setattr(evaluator_list, "JUDGES", evaluator_list.JUDGES)  # put back what the job here changes
    other = shutil.copytree(run, tmp_path / "other")
    arguments = {"options": {**MODES[mode], "max_test_rows": 9, "batch_size": 4}, "toys": mode == "toys"}
    alone = rank_jobs.evaluation(World(), str(run), **arguments)
    ranks = run_ranks("evaluation", run=str(other), **arguments)
    assert_alike(ranks[0]["results"], ranks[1]["results"])
    assert_alike(alone["results"], ranks[0]["results"])
    assert [result["exact_accuracy"]["denominator"] for result in alone["results"]] == [9, 2]
    asked = {
        "official": "per_step halting difficulty sudoku calibration", "adaptive": "step_counts",
        "perturbed": "robustness", "rollouts": "rollouts", "toys": "distinct_tokens",
    }  # fmt: skip
    assert all(alone["results"][0][key] for key in asked[mode].split())
    lines = ["test rows of", "validation rows of"]
    assert all(line in ranks[0]["printed"] and line not in ranks[1]["printed"] for line in lines)
    if mode == "toys":
        file = Path("evaluation_best_first9_distinct_tokens") / "distinct_tokens" / "distinct.json"
        assert (run / file).read_bytes() == (other / file).read_bytes()
    if mode == "rollouts":
        one, two = (np.load(folder / "evaluation_best_first9_rollouts0.3.npz") for folder in (run, other))
        with one, two:
            assert set(one) == set(two) and np.array_equal(one["test/exact"], two["test/exact"])
            assert len(one["test/row"]) == 9
    if mode == "official":
        with np.load(run / "predictions_best_first9.npz") as whole:
            parts = [np.load(other / f"predictions_best_first9.{rank}.npz") for rank in (0, 1)]
            rows = np.concatenate([part["row"] for part in parts])
            assert np.array_equal(np.sort(rows), whole["row"])
            predictions = np.concatenate([part["preds"] for part in parts])
            assert np.array_equal(predictions[rows.argsort()], whole["preds"])
