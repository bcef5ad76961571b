"""evaluate.py: the same numbers by other routes, refusals in one line, nothing written by a refusal."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import evaluate
from dataset.eval_batches import EvalBatches, test_rows, validation_rows
from dataset.puzzle_folder import open_puzzle_set
from tests.helpers import ROOT, train_here
from training.evaluators import DifficultyEvaluator, OutputRecorder, StepAccuracyEvaluator, difficulty_groups
from training.inference.official import OfficialInference
from training.inference.stepwise import StepwiseInference, StepwisePredictions
from training.trained_model import open_checkpoint, restore_model
from training.weights import load_weights


@pytest.fixture(scope="module")
def trained(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mlp"
    assert train_here("trm_mlp", sudoku6_folder, folder, ["max_steps=6"]) == "done"
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def evaluated(run: Path, *options: str, name: str = "best") -> dict[str, Any]:
    evaluate.main([f"checkpoint={run}/best.pt", "device=cpu", *options])
    return json.loads((run / f"evaluation_{name}.json").read_text())


def assert_equal_steps(first: dict[str, Any], second: dict[str, Any]) -> None:
    for one, other in zip(first["per_step"], second["per_step"], strict=True):
        assert one == pytest.approx(other, abs=1e-12)


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as caught:
        evaluate.main(list(options))
    captured = capsys.readouterr()
    assert caught.value.code == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_agrees_with_the_end_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = evaluated(run, "max_test_rows=8")
    summary = json.loads((run / "summary.json").read_text())
    test, validation = record["results"]
    assert (test["rows"], validation["rows"]) == ("test", "validation")
    for result, known in ((test, summary["test"]["best"]), (validation, summary["best"])):
        assert result["exact_accuracy"]["numerator"] == known["numerator"]
        assert result["exact_accuracy"]["denominator"] == known["denominator"]
    assert test["accuracy"] == pytest.approx(summary["test"]["best"]["accuracy"], abs=1e-12)
    assert test["lm_loss"] == pytest.approx(summary["test"]["best"]["lm_loss"], rel=1e-6)
    assert validation["baselines"]["copy_givens"] == summary["baselines"]["copy_givens"]
    assert record["num_params"] == summary["num_params"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].lstrip().startswith("exact_accuracy ") and "/8, 95%" in lines[1]


def test_saved_outputs_tell_the_same(run: Path, sudoku6_folder: Path) -> None:
    names = "inputs,labels,puzzle_identifiers,preds,logits,q_halt_logits,q_continue_logits,step_preds"
    record = evaluated(run, f"save_outputs=[{names}]", "split=test")
    (result,) = record["results"]
    with np.load(run / "predictions_best.npz", allow_pickle=False) as file:
        arrays = {key.removeprefix("test/"): file[key] for key in file.files}
    puzzle_set = open_puzzle_set(sudoku6_folder, "test")
    assert np.array_equal(arrays["row"], test_rows(puzzle_set, 8))
    assert np.array_equal(arrays["inputs"], puzzle_set.inputs[arrays["row"]])
    assert np.array_equal(arrays["labels"], puzzle_set.labels[arrays["row"]])
    assert np.array_equal(arrays["logits"].argmax(-1), arrays["preds"])
    assert np.array_equal(arrays["step_preds"][:, -1], arrays["preds"])
    right = arrays["preds"] == arrays["labels"]
    assert result["exact_accuracy"]["numerator"] == right.all(axis=1).sum()
    assert result["accuracy"] == pytest.approx(right.mean(), abs=1e-12)
    steps = arrays["step_preds"] == arrays["labels"][:, None]
    assert [step["accuracy"] for step in result["per_step"]] == pytest.approx(steps.mean(axis=(0, 2)), abs=1e-12)
    assert [step["exact_count"] for step in result["per_step"]] == steps.all(axis=2).sum(axis=0).tolist()
    q_right = (arrays["q_halt_logits"] >= 0) == right.all(axis=1)
    assert result["q_halt_accuracy"] == pytest.approx(q_right.mean())
    assert sum(step["halted_count"] for step in result["per_step"]) == len(right)
    assert sum(group["denominator"] for group in result["difficulty"]) == len(right)


def test_rows_that_chose_the_checkpoint_are_not_reported(run: Path, sudoku6_folder: Path) -> None:
    test, validation = evaluated(run)["results"]
    puzzle_set = open_puzzle_set(sudoku6_folder, "test")
    chosen = validation_rows(puzzle_set, 8)
    assert validation["exact_accuracy"]["denominator"] == len(chosen) == 8
    assert test["exact_accuracy"]["denominator"] == puzzle_set.num_examples - 8
    (everything,) = evaluated(run, "validation_size=0")["results"]
    assert everything["exact_accuracy"]["denominator"] == puzzle_set.num_examples


def test_batch_size_changes_nothing(run: Path) -> None:
    whole, single = (evaluated(run, f"batch_size={size}", "max_test_rows=9")["results"] for size in (40, 2))
    for first, second in zip(whole, single, strict=True):
        assert first["exact_accuracy"] == second["exact_accuracy"]
        assert first["accuracy"] == pytest.approx(second["accuracy"], abs=1e-12)
        assert_equal_steps(first, second)


def test_prefixes_and_official_settings(run: Path, sudoku6_folder: Path) -> None:
    plain = evaluated(run)["results"]
    weights = load_weights(run / "best.pt")
    torch.save({f"_orig_mod.model.inner.{key}": value for key, value in weights.items()}, run / "best.pt")
    settings = yaml.safe_load((run / "all_config.yaml").read_text())
    arch = {key: value for key, value in settings["arch"].items() if value is not None}
    arch["name"] = "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1"
    arch["loss"] = {"name": "losses@ACTLossHead", "loss_type": settings["arch"]["loss"]["loss_type"]}
    arch["forward_dtype"] = "float32"
    official = {"arch": arch, "data_paths": [str(sudoku6_folder)], "global_batch_size": 8, "validation_size": 8}
    (run / "all_config.yaml").write_text(yaml.safe_dump(official))
    assert evaluated(run)["results"] == plain


def test_other_data_gets_a_file_of_its_own(run: Path, sudoku6_stored_folder: Path) -> None:
    before = evaluated(run)
    evaluated(run, f"data_paths_test=[{sudoku6_stored_folder}]", name="best_sudoku-6x6-stored")
    assert json.loads((run / "evaluation_best.json").read_text()) == before


def test_stepwise_is_the_official_inference(trained: Path, sudoku6_folder: Path) -> None:
    checkpoint = open_checkpoint(trained, device="cpu")
    puzzle_set = open_puzzle_set(sudoku6_folder, "test")
    model = restore_model(checkpoint, puzzle_set.metadata, torch.device("cpu"))
    batch = next(iter(EvalBatches(puzzle_set, np.arange(6), 6)))
    official, stepwise = (kind.predict(model, batch) for kind in (OfficialInference(), StepwiseInference()))
    for name in ("answers", "q_halt", "steps", "logits"):
        assert torch.equal(getattr(official, name), getattr(stepwise, name)), name
    assert isinstance(stepwise, StepwisePredictions)
    assert torch.equal(stepwise.step_answers[:, -1], official.answers)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "'checkpoint' is required"),
        (["checkpoint=nowhere/best.pt"], "there is no such file"),
        (["checkpoint={run}/best.pt", "split=train"], "split=train is none of test, validation, all"),
        (["checkpoint={run}/best.pt", "chekpoint=1"], "nearest valid key is 'checkpoint'"),
        (["checkpoint={run}/best.pt", "save_outputs=[everything]"], "'everything' is none of inputs"),
        (["checkpoint={run}/best.pt", "max_test_rows=0"], "max_test_rows=0: expected at least 1"),
        (["checkpoint={run}/best.pt", "data_paths_test=[nowhere]"], "nowhere"),
        (["checkpoint={run}/best.pt", "dtype=int8"], "dtype=int8 is none of auto"),
        (["checkpoint={run}/best.pt", "device=abacus"], "device=abacus is no device"),
        (["checkpoint={run}/latest_state.pt"], "is a full state, weights were expected"),
    ],
)
def test_bad_options(run: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str) -> None:
    before = sorted(run.iterdir())
    assert says in refused(capsys, *(option.format(run=run) for option in options))
    assert sorted(run.iterdir()) == before


def test_weights_of_another_shape(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load((run / "all_config.yaml").read_text())
    settings["arch"] |= {"L_layers": 2, "hidden_size": 32, "puzzle_emb_ndim": 32}
    (run / "all_config.yaml").write_text(yaml.safe_dump(settings))
    message = refused(capsys, f"checkpoint={run}/best.pt", "device=cpu")
    assert "does not fit this model" in message
    for words in ("missing: L_level.layers.1.", "misshapen", "H_init (file 16, model 32)"):
        assert words in message
    (run / "all_config.yaml").unlink()
    assert "has no all_config.yaml beside it" in refused(capsys, f"checkpoint={run}/best.pt")


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_difficulty_groups_partition_the_ratings(ratings: list[int]) -> None:
    groups = difficulty_groups(np.array(ratings))
    assert 1 <= len(groups) <= 4
    assert groups[0].low == min(ratings) and groups[-1].high == max(ratings)
    for rating in ratings:
        assert sum(group.low <= rating <= group.high for group in groups) == 1
    if len(set(ratings)) == len(ratings):
        sizes = [sum(group.low <= rating <= group.high for rating in ratings) for group in groups]
        assert max(sizes) - min(sizes) <= 1


def made_by_hand() -> tuple[dict[str, torch.Tensor], StepwisePredictions]:
    """Three rows of two cells and two steps, and one row of padding; right answers are 2, 3."""
    labels = torch.tensor([[2, 3]] * 3 + [[-100, -100]])
    answers = torch.tensor([[[2, 3], [2, 3]], [[2, 2], [2, 3]], [[3, 3], [2, 2]], [[0, 0], [0, 0]]])
    q_halt = torch.tensor([[1.0, 1.0], [2.0, 1.0], [-1.0, -1.0], [1.0, 1.0]])
    batch = {"labels": labels, "row": torch.tensor([4, 0, 2, -1])}
    made = StepwisePredictions(
        answers=answers[:, -1],
        q_halt=q_halt[:, -1],
        steps=torch.full((4,), 2),
        logits=torch.zeros(4, 2, 4),
        step_answers=answers,
        step_q_halt=q_halt,
        step_q_continue=torch.zeros(4, 2),
    )
    return batch, made


def test_step_accuracy_by_hand() -> None:
    evaluator = StepAccuracyEvaluator(2, lambda q_halt, q_continue: q_halt > q_continue)
    evaluator.begin()
    evaluator.update(*made_by_hand())
    first, second = evaluator.per_step()
    assert (first["exact_count"], first["count"], first["halted_count"]) == (1, 3, 2)
    assert (second["exact_count"], second["count"], second["halted_count"]) == (2, 3, 1)
    assert first["accuracy"] == pytest.approx((2 + 1 + 1) / 6)
    # Rows 1 and 2 stop at once, row 3 at the last step: only row 1 is right there.
    assert evaluator.halting() == {
        "exact_count": 1, "count": 3, "exact_accuracy": pytest.approx(1 / 3), "mean_steps": pytest.approx(4 / 3)
    }


def test_difficulty_and_outputs_by_hand() -> None:
    ratings = np.array([5, 0, 0, 0, 1])
    evaluator = DifficultyEvaluator(ratings, difficulty_groups(ratings[[4, 0, 2]]))
    evaluator.begin()
    evaluator.update(*made_by_hand())
    assert [(group["low"], group["high"], group["exact_count"], group["count"]) for group in evaluator.per_group()] == [
        (0, 0, 0, 1), (1, 1, 1, 1), (5, 5, 1, 1)
    ]
    recorder = OutputRecorder(["preds", "row"])
    recorder.begin()
    recorder.update(*made_by_hand())
    arrays = recorder.arrays()
    assert arrays["row"].tolist() == [4, 0, 2] and arrays["preds"].tolist() == [[2, 3], [2, 3], [2, 2]]


@pytest.mark.slow
def test_processes_share_the_rows(run: Path, sudoku6_folder: Path) -> None:
    """Two processes under torchrun count what one does, also where the rows do not divide evenly."""
    alone = evaluated(run, "max_test_rows=9", "batch_size=5")["results"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [str(ROOT / "evaluate.py"), f"checkpoint={run}/best.pt", "device=cpu", "max_test_rows=9", "batch_size=5"]
    done = subprocess.run([*command, *words, "save_outputs=[preds]"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    together = json.loads((run / "evaluation_best.json").read_text())["results"]
    for first, second in zip(alone, together, strict=True):
        assert first["exact_accuracy"] == second["exact_accuracy"]
        assert_equal_steps(first, second)
        assert first["difficulty"] == second["difficulty"]
    rows = [np.load(run / f"predictions_best.{rank}.npz")["test/row"] for rank in (0, 1)]
    assert sorted(np.concatenate(rows).tolist()) == test_rows(open_puzzle_set(sudoku6_folder, "test"), 8)[:9].tolist()


def test_names_of_checkpoints(run: Path) -> None:
    named: Callable[[str], str] = lambda file: open_checkpoint(run / file).name  # noqa: E731
    shutil.copy(run / "best.pt", run / "step_5")
    assert [named("best.pt"), named("step_5"), open_checkpoint(run).name] == ["best", "step_5", "best"]
