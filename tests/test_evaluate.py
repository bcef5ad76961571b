"""evaluate.py: the same numbers by other routes, refusals in one line, nothing written by a refusal."""

import json
import re
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
from tests.dataset.folders import edit_metadata
from tests.helpers import ROOT, assert_same_state, newest_report, train_here
from training.evaluation.answering import AccuracyEvaluator
from training.evaluation.evaluators import (
    OUTPUTS,
    DifficultyEvaluator,
    OutputRecorder,
    StepAccuracyEvaluator,
    StepCountEvaluator,
    difficulty_groups,
)
from training.inference.fixed import OfficialInference
from training.inference.stepwise import StepwiseInference, StepwisePredictions
from training.records.metrics_log import read_metrics
from training.storage.weights import load_weights
from training.trained_model import open_checkpoint, restore_model


@pytest.fixture(scope="module")
def trained(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mlp"
    assert train_here("trm_mlp", sudoku6_folder, folder, ["max_steps=6"]) == "done"
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def evaluated(run: Path, *options: str, name: str | None = None) -> dict[str, Any]:
    evaluate.main([f"checkpoint={run}/best.pt", "device=cpu", *options])
    return newest_report(run, name)


def without_times(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results as they are on any machine."""
    timed = ("seconds", "rows_per_second")
    kept = [{key: value for key, value in result["compute"].items() if key not in timed} for result in results]
    return [result | {"compute": compute} for result, compute in zip(results, kept, strict=True)]


def assert_equal_steps(first: dict[str, Any], second: dict[str, Any]) -> None:
    for one, other in zip(first["per_step"], second["per_step"], strict=True):
        assert one == pytest.approx(other, abs=1e-12)


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as caught:
        evaluate.main(list(options))
    captured = capsys.readouterr()
    assert caught.value.code == 2 and captured.out == ""
    *warnings, error = captured.err.splitlines()
    assert error.startswith("error: ")
    assert all("weights.json" in line for line in warnings) and len(warnings) <= 1
    return error


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
    assert lines[0].startswith("16 rows x 4 supervision steps each: ") and lines[1].startswith("8 of 32 test rows of ")
    assert lines[2].lstrip().startswith("exact_accuracy ") and "/8, 95%" in lines[2]


def test_saved_outputs_tell_the_same(run: Path, sudoku6_folder: Path) -> None:
    names = "inputs,labels,puzzle_identifiers,preds,logits,q_halt_logits,q_continue_logits,step_preds"
    record = evaluated(run, f"save_outputs=[{names}]", "split=test")
    (result,) = record["results"]
    with np.load(run / "predictions_best_test_rows.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert set(arrays) == {"row", *names.split(",")}, "the official keys"
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


def test_rows_that_chose_the_checkpoint_are_not_reported(
    run: Path, sudoku6_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test, validation = evaluated(run)["results"]
    puzzle_set = open_puzzle_set(sudoku6_folder, "test")
    chosen = validation_rows(puzzle_set, 8)
    assert validation["exact_accuracy"]["denominator"] == len(chosen) == 8
    assert (test["known"]["chose"], validation["known"]["chose"]) == (0, 8)
    assert test["exact_accuracy"]["denominator"] == puzzle_set.num_examples - 8
    capsys.readouterr()
    (everything,) = evaluated(run, "validation_size=0", name="best_validation0")["results"]
    assert everything["exact_accuracy"]["denominator"] == puzzle_set.num_examples
    assert everything["known"]["chose"] == 8
    assert "8 of 40 test rows chose the best checkpoint of this run" in capsys.readouterr().out


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
    for own in ("weights.json", "training_puzzles.npy", "evaluation_best.json"):
        (run / own).unlink()
    for result in plain:
        result["known"] |= {"training": None, "up_to_symmetry": False, "chose": 0}
    assert without_times(evaluated(run)["results"]) == without_times(plain)


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
        (
            ["checkpoint={run}/best.pt", "split=train"],
            "option 'split': found 'train', expected one of: test, validation, all",
        ),
        (["checkpoint={run}/best.pt", "chekpoint=1"], "nearest valid key is 'checkpoint'"),
        (["checkpoint={run}/best.pt", "save_outputs=[everything]"], "'everything' is none of inputs"),
        (
            ["checkpoint={run}/best.pt", "eval.max_steps=0"],
            "option 'eval.max_steps': found 0, expected a number",
        ),
        (
            ["checkpoint={run}/best.pt", "eval.vote.views=-1"],
            "option 'eval.vote.views': found -1, expected a number",
        ),
        (["checkpoint={run}/best.pt", "eval.max_step=2"], "nearest valid key is 'eval.max_steps'"),
        (["checkpoint={run}/best.pt", "eval=3"], "cannot read 'eval=3': expected keys such as 'eval.max_steps'"),
        (["checkpoint={run}/best.pt", "eval.adaptive_halt=maybe"], "adaptive_halt': found 'maybe', expected bool"),
        (
            ["checkpoint={run}/best.pt", "eval.adaptive_halt=true", "save_outputs=[preds,step_preds]"],
            "save_outputs: 'step_preds' needs the answers after every step",
        ),
        (
            ["checkpoint={run}/best.pt", "eval.vote.views=2", "save_outputs=[q_continue_logits]"],
            "'q_continue_logits' needs",
        ),
        (["checkpoint={run}/best.pt", "max_test_rows=0"], "option 'max_test_rows': found 0, expected at least 1"),
        (["checkpoint={run}/best.pt", "data_paths_test=[nowhere]"], "nowhere"),
        (["checkpoint={run}/best.pt", "dtype=int8"], "option 'dtype': found 'int8', expected one of: auto"),
        (["checkpoint={run}/best.pt", "device=abacus"], "option 'device': found 'abacus', expected one of: auto, cpu"),
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
    assert "was changed since its run: arch.L_layers: saved 1, now 2 (and 2 more); put it back, or remove" in message
    (run / "weights.json").unlink()
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
        steps=torch.tensor([2, 1, 2, 2]),
        logits=torch.zeros(4, 2, 4),
        forward_passes=8,
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
        "exact_count": 1,
        "count": 3,
        "exact_accuracy": pytest.approx(1 / 3),
        "mean_steps": pytest.approx(4 / 3),
    }


def test_difficulty_and_outputs_by_hand() -> None:
    ratings = np.array([5, 0, 0, 0, 1])
    evaluator = DifficultyEvaluator(ratings, difficulty_groups(ratings[[4, 0, 2]]))
    evaluator.begin()
    evaluator.update(*made_by_hand())
    assert [
        (group["low"], group["high"], group["numerator"], group["denominator"]) for group in evaluator.report()
    ] == [
        (0, 0, 0, 1),
        (1, 1, 1, 1),
        (5, 5, 1, 1),
    ]
    recorder = OutputRecorder(["preds", "row", "step_preds"], "outputs.npz")
    recorder.begin()
    assert all(array.shape == (0,) for array in recorder.arrays().values())
    recorder.update(*made_by_hand())
    arrays = recorder.arrays()
    assert arrays["row"].tolist() == [0, 2, 4] and arrays["preds"].tolist() == [[2, 3], [2, 2], [2, 3]]
    assert arrays["step_preds"][:, 0].tolist() == [[2, 2], [3, 3], [2, 3]]
    counts = StepCountEvaluator(3)
    counts.begin()
    counts.update(*made_by_hand())
    assert counts.report() == [{"step": 1, "count": 1}, {"step": 2, "count": 2}]


def group_of(batch: dict[str, torch.Tensor], made: StepwisePredictions, rows: list[int]) -> Any:
    parts = {key: value[rows] for key, value in vars(made).items() if isinstance(value, torch.Tensor)}
    return {key: leaf[rows] for key, leaf in batch.items()}, StepwisePredictions(**parts, forward_passes=0)


def test_evaluators_take_groups_of_any_size_in_any_order() -> None:
    """One batch, or its rows in groups of 2, 0, 1 and 1 in another order: equal sums, equal arrays."""
    batch, made = made_by_hand()
    batch["inputs"] = batch["labels"]
    ratings = np.array([5, 0, 0, 0, 1])
    results = []
    for groups in ([[0, 1, 2, 3]], [[2, 0], [], [3], [1]]):
        evaluators = [
            AccuracyEvaluator("softmax_cross_entropy"),
            StepAccuracyEvaluator(2, lambda q_halt, q_continue: q_halt > q_continue),
            StepCountEvaluator(2),
            DifficultyEvaluator(ratings, difficulty_groups(ratings)),
        ]
        recorder = OutputRecorder([name for name in OUTPUTS if name != "puzzle_identifiers"], "outputs.npz")
        for evaluator in (*evaluators, recorder):
            evaluator.begin()
            for rows in groups:
                evaluator.update(*group_of(batch, made, rows))
        results.append(([evaluator.sums for evaluator in evaluators], recorder.arrays()))
    (sums, arrays), (other_sums, other_arrays) = results
    for one, other in zip(sums, other_sums, strict=True):
        assert one == pytest.approx(other, abs=1e-12) and any(one.values())
    for name, array in arrays.items():
        assert np.array_equal(array, other_arrays[name]), name


# -- modes


def test_compute_is_reported_beside_the_accuracy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (result,) = evaluated(run, "split=test", "max_test_rows=9", "batch_size=5")["results"]
    spent = result["compute"]
    assert (spent["mean_steps"], spent["rows"], spent["forward_passes"]) == (4, 9, 10 * 4)
    assert result["mode"] == {"max_steps": 4, "adaptive_halt": False, "vote": 1} and result["step_counts"] is None
    # 2 H cycles of 2 updates of z_L and 1 of z_H, one block each: SwiGLUs of 22 over 16 channels, 20 over 38 tokens.
    widths = round(2 * 16 * 2 / 3), round(2 * 38 * 2 / 3)
    block = 2 * 3 * 16 * widths[0] * 38 + 2 * 3 * 38 * widths[1] * 16
    assert spent["flops"] == 10 * 4 * 6 * block
    assert spent["rows_per_second"] == pytest.approx(9 / spent["seconds"])
    printed = capsys.readouterr().out
    assert "  4 supervision steps: 4.00 steps a row, 40 forward passes, " in printed


ROLLOUTS = "eval.stochastic_rollouts"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["eval.max_steps=9"],
        ["eval.vote.views=3"],
        ["eval.perturbed_starts.sigma=[0.1,0.2]", "eval.perturbed_starts.starts=3"],
        [f"{ROLLOUTS}.sigma=0.3", f"{ROLLOUTS}.rollouts=3"],
        [f"{ROLLOUTS}.sigma=0.3", f"{ROLLOUTS}.probes.sizes=[1e-3,1e-2]", f"{ROLLOUTS}.judged_steps=[2,4]"],
    ],
)
def test_what_it_takes_is_said_before(options: list[str], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The passes of the first line are those that are made, where no batch is filled up."""
    (result,) = evaluated(run, "split=test", "max_test_rows=4", "batch_size=2", *options)["results"]
    found = re.search(
        r"^4 rows x (\d+) supervision steps each: (\d+) passes, (\S+) operations$", capsys.readouterr().out, re.M
    )
    assert found is not None
    made = result["compute"]["forward_passes"]
    made += sum(scale["forward_passes"] for scale in result["robustness"] or [])
    assert (4 * int(found[1]), int(found[2])) == (made, made)
    flops = result["compute"]["flops"] / result["compute"]["forward_passes"]
    assert float(found[3]) == pytest.approx(made * flops, rel=6e-3)


def test_more_steps_than_in_training(run: Path) -> None:
    """The first steps of the longer evaluation are those of the official one, and its last one is reported."""
    plain, longer = evaluated(run), evaluated(run, "eval.max_steps=9", name="best_steps9")
    for short, long in zip(plain["results"], longer["results"], strict=True):
        assert len(short["per_step"]) == 4 and len(long["per_step"]) == long["supervision_steps"] == 9
        for one, other in zip(short["per_step"][:3], long["per_step"][:3], strict=True):
            assert one == other
        assert long["per_step"][3]["exact_count"] == short["exact_accuracy"]["numerator"]
        assert long["per_step"][3]["accuracy"] == pytest.approx(short["accuracy"], abs=1e-12)
        assert long["accuracy"] == pytest.approx(long["per_step"][8]["accuracy"], abs=1e-12)
        assert long["compute"]["forward_passes"] * 4 == short["compute"]["forward_passes"] * 9
    fewer = evaluated(run, "eval.max_steps=1", name="best_steps1")["results"]
    assert [result["accuracy"] for result in fewer] == pytest.approx(
        [result["per_step"][0]["accuracy"] for result in plain["results"]], abs=1e-12
    )
    assert plain == json.loads((run / "evaluation_best.json").read_text())


def halting_run(run: Path) -> None:
    """Give the weights a halting head under which some rows stop early."""
    weights = load_weights(run / "best.pt")
    generator = torch.Generator().manual_seed(1)
    weights["q_head.weight"] = torch.randn(weights["q_head.weight"].shape, generator=generator)
    weights["q_head.bias"] = torch.tensor([-2.0, 0.0])
    torch.save(weights, run / "best.pt")


def test_stopping_by_itself_is_what_the_halting_line_predicts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The official evaluation says where rows would stop; the adaptive one stops them there."""
    halting_run(run)
    options = ["batch_size=7", "dtype=float64", "save_outputs=[row,preds,steps,q_halt_logits,inputs,labels]"]
    plain = evaluated(run, *options)["results"]
    capsys.readouterr()
    adaptive = evaluated(run, "eval.adaptive_halt=true", *options, name="best_float64_adaptive")["results"]
    for fixed, stopped in zip(plain, adaptive, strict=True):
        assert stopped["per_step"] is None and stopped["halting"] is None
        assert stopped["exact_accuracy"]["numerator"] == fixed["halting"]["exact_count"]
        assert stopped["compute"]["mean_steps"] == pytest.approx(fixed["halting"]["mean_steps"])
        counts = {entry["step"]: entry["count"] for entry in stopped["step_counts"]}
        assert counts == {step["step"]: step["halted_count"] for step in fixed["per_step"] if step["halted_count"]}
        assert len(counts) > 1
        assert stopped["compute"]["forward_passes"] == sum(step * count for step, count in counts.items())
        assert stopped["difficulty"] is None or sum(group["denominator"] for group in stopped["difficulty"]) == sum(
            counts.values()
        )
    printed = capsys.readouterr().out
    assert printed.count("no answers after each step") == 2 and "step  rows that stopped here" in printed
    assert "step  exact accuracy" not in printed and "stopping where q_halt says so:" in printed
    names = [f"predictions_best_float64{mode}.npz" for mode in ("", "_adaptive")]
    with np.load(run / names[0]) as file, np.load(run / names[1]) as other:
        for name in ("row", "inputs", "labels"):
            assert np.array_equal(file[name], other[name])
        assert (file["steps"] == 4).all() and set(other["steps"].tolist()) <= {1, 2, 3, 4}
        same = other["steps"] == 4
        assert np.array_equal(file["preds"][same], other["preds"][same])
        assert not np.array_equal(file["q_halt_logits"], other["q_halt_logits"])


def test_modes_go_together_and_overwrite_nothing(run: Path) -> None:
    halting_run(run)
    evaluated(run)
    before = (run / "evaluation_best.json").read_bytes()
    options = ["eval.max_steps=6", "eval.adaptive_halt=true", "eval.vote.views=3", "batch_size=6", "max_test_rows=8"]
    test, validation = evaluated(run, *options, name="best_first8_steps6_adaptive_vote3")["results"]
    assert test["mode"] == {"max_steps": 6, "adaptive_halt": True, "vote": 3}
    assert (test["compute"]["rows"], test["exact_accuracy"]["denominator"]) == (8, 8)
    # Three views of each row, each at least one step.
    assert test["compute"]["forward_passes"] >= 3 * 8 and validation["per_step"] is None
    assert (run / "evaluation_best.json").read_bytes() == before


def test_a_vote_over_data_without_symmetries(
    run: Path, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.iterdir())
    data = shutil.copytree(sudoku6_folder, tmp_path / "data")
    edit_metadata(data / "test", task="plain", augmentation=None)
    options = [f"checkpoint={run}/best.pt", f"data_paths_test=[{data}]", "eval.vote.views=2"]
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(options)
    assert "puzzles of the task plain, which have 1 view; use eval.vote.views=1" in capsys.readouterr().err
    assert sorted(run.iterdir()) == before


def test_training_judges_as_evaluate_does(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same settings give a run and evaluate.py the same number; another evaluation leaves the weights alone."""
    options = ["max_steps=4", "fast_eval_interval=2", "eval.max_steps=7", "eval.vote.views=2"]
    plain, voted = tmp_path / "plain", tmp_path / "voted"
    assert train_here("trm_mlp", sudoku6_folder, plain, options[:2]) == "done"
    assert train_here("trm_mlp", sudoku6_folder, voted, options) == "done"
    assert_same_state(plain, voted, ignore=("train_seconds", "validation"))
    summary = json.loads((voted / "summary.json").read_text())
    test, validation = evaluated(voted, *options[2:], "max_test_rows=8", name="best_first8_steps7_vote2")["results"]
    for result, known in ((test, summary["test"]["best"]), (validation, summary["best"])):
        assert result["exact_accuracy"]["numerator"] == known["numerator"]
        assert result["exact_accuracy"]["denominator"] == known["denominator"]
    for name in ("accuracy", "lm_loss", "q_halt_accuracy"):
        assert test[name] == pytest.approx(summary["test"]["best"][name], rel=1e-6)
    logged = read_metrics(voted / "metrics.jsonl")
    assert {line["eval/steps"] for line in logged if "eval/steps" in line} == {7}
    # Going on under another evaluation is said in one line, under the same in none.
    capsys.readouterr()
    train_here("trm_mlp", sudoku6_folder, voted, ["max_steps=6", *options[1:]])
    assert "since update" not in capsys.readouterr().err
    train_here("trm_mlp", sudoku6_folder, voted, ["max_steps=8", "fast_eval_interval=2"])
    warning = capsys.readouterr().err
    assert "warning: eval.max_steps 7 -> None, eval.vote.views 2 -> 1 since update 6: " in warning


@pytest.mark.slow
def test_processes_share_the_rows(run: Path, sudoku6_folder: Path) -> None:
    """Two processes under torchrun count what one does, also where the rows do not divide evenly."""
    alone = evaluated(run, "max_test_rows=9", "batch_size=5")["results"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [str(ROOT / "evaluate.py"), f"checkpoint={run}/best.pt", "device=cpu", "max_test_rows=9", "batch_size=5"]
    done = subprocess.run([*command, *words, "save_outputs=[preds]"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    together = newest_report(run, "best_first9")["results"]
    for first, second in zip(alone, together, strict=True):
        assert first["exact_accuracy"] == second["exact_accuracy"]
        assert_equal_steps(first, second)
        assert first["difficulty"] == second["difficulty"]
    rows = [np.load(run / f"predictions_best_first9.{rank}.npz")["row"] for rank in (0, 1)]
    assert sorted(np.concatenate(rows).tolist()) == test_rows(open_puzzle_set(sudoku6_folder, "test"), 8)[:9].tolist()


def test_names_of_checkpoints(run: Path) -> None:
    named: Callable[[str], str] = lambda file: open_checkpoint(run / file).name  # noqa: E731
    shutil.copy(run / "best.pt", run / "step_5")
    assert [named("best.pt"), named("step_5"), open_checkpoint(run).name] == ["best", "step_5", "best"]
