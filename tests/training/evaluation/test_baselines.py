"""Trivial predictors in closed form; guards that trip on a collapsed model and on no other."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.puzzle_folder import open_puzzle_set
from dataset.tasks import plain
from models.recursive_model import RecursiveModel
from tests.dataset.folders import sudoku_task
from tests.helpers import tiny_config
from tests.models.small import ARCHITECTURES, small_batch, small_model
from training.distributed import World
from training.evaluation.baselines import collapse_guards, label_counts, tripped_guards, trivial_baselines
from training.inference.fixed import OfficialInference
from training.start import act_objective, build_run
from training.update import train_on_batch

PLAIN = plain.Task(3, 4)


def test_predictors_by_hand() -> None:
    """Blank is 1. Training labels are mostly 4; in hindsight 2 is the best constant here."""
    inputs = np.array([[2, 1, 1, 3], [1, 1, 2, 2]])
    labels = np.array([[2, 4, 4, 3], [2, 2, 2, 2]])
    result = trivial_baselines(inputs, labels, np.array([0, 0, 5, 1, 9]), sudoku_task((2, 2)))
    accuracies = {name: (value["accuracy"], value["exact_accuracy"]) for name, value in result.items()}
    assert accuracies == {
        "copy_input": (0.5, 0.0),
        "most_frequent_token": (0.25, 0.0),
        "constant": (0.625, 0.5),
        "copy_givens": (0.75, 0.5),
    }
    # Frequencies of tokens 2, 3, 4 with every token counted at least once: 5/17, 1/17, 9/17.
    two, three, four = math.log(17 / 5), math.log(17), math.log(17 / 9)
    losses = {name: value["lm_loss"] for name, value in result.items() if "lm_loss" in value}
    assert losses == {
        "most_frequent_token": pytest.approx(((two + three + 2 * four) / 4 + two) / 2),
        "copy_givens": pytest.approx((2 * four / 4 + 2 * two / 4) / 2),
    }


def test_ignored_labels_and_empty_rows_do_not_count() -> None:
    inputs = np.array([[3, 3, 3], [3, 3, 3], [2, 2, 2]])
    labels = np.array([[3, -100, 2], [-100, 3, -100], [-100, -100, -100]])
    result = trivial_baselines(inputs, labels, np.array([0, 0, 1, 0]), PLAIN)
    assert result["copy_input"] == {"accuracy": 0.75, "exact_accuracy": 0.5}
    frequent = result["most_frequent_token"]
    assert (frequent["accuracy"], frequent["exact_accuracy"]) == (0.25, 0.0)
    assert frequent["lm_loss"] == pytest.approx(math.log(4))
    assert "copy_givens" not in result


def test_no_scored_row_at_all() -> None:
    nothing = np.full((2, 3), -100)
    result = trivial_baselines(np.ones((2, 3), int), nothing, np.array([0, 1]), PLAIN)
    assert all(value == {"accuracy": 0.0, "exact_accuracy": 0.0} for value in result.values())


def test_label_counts_leave_out_what_is_ignored(sudoku4_folder: Path) -> None:
    puzzle_set = open_puzzle_set(sudoku4_folder, "train", "all")
    counts = label_counts(puzzle_set)
    # 24 solved 4x4 boards hold each digit four times; token = digit + 1, pad 0 is ignored, blank 1 no label.
    assert counts.tolist() == [0, 0, 96, 96, 96, 96]
    assert label_counts(puzzle_set, max_rows=2).tolist() == [0, 0, 8, 8, 8, 8]


def constant(model: RecursiveModel) -> RecursiveModel:
    """A model that answers one token whatever it is asked: its head does not read the state."""
    with torch.no_grad():
        model.lm_head.weight.zero_()
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_guards_trip_on_a_constant_model(name: str) -> None:
    guards = collapse_guards(constant(small_model(name)), small_batch(), OfficialInference(), 0.2, 0.25)
    assert guards == {
        "guard/input_sensitivity": 0.0,
        "guard/unique_pred_tokens": 1.0,
        "guard/margin_over_baselines": pytest.approx(-0.05),
    }
    assert len(tripped_guards(guards)) == 3


def test_each_guard_trips_alone() -> None:
    fine = {
        "guard/input_sensitivity": 0.3, "guard/unique_pred_tokens": 4.0, "guard/margin_over_baselines": 0.1,
    }  # fmt: skip
    assert tripped_guards(fine) == []
    for name, bad in (
        ("guard/input_sensitivity", 1e-9),
        ("guard/unique_pred_tokens", 1.0),
        ("guard/margin_over_baselines", 0.0),
        ("guard/input_sensitivity", float("nan")),
    ):
        (message,) = tripped_guards(fine | {name: bad})
        assert message.startswith(name)


def test_input_sensitivity_is_the_mean_difference_of_neighbours() -> None:
    model, batch = small_model("trm-att").train(), small_batch(3)
    guards = collapse_guards(model, batch, OfficialInference(), 0.5, 0.25)
    logits = OfficialInference().predict(model.eval(), batch).logits
    pairs = [(0, 2), (1, 0), (2, 1)]
    expected = np.mean([(logits[a] - logits[b]).abs().mean().item() for a, b in pairs])
    assert guards["guard/input_sensitivity"] == pytest.approx(expected, rel=1e-5)
    assert guards["guard/unique_pred_tokens"] == len(logits.argmax(-1).unique())


def test_guards_keep_the_mode() -> None:
    model = small_model("trm-att").train()
    collapse_guards(model, small_batch(), OfficialInference(), 0.5, 0.25)
    assert model.training


def test_guards_are_silent_on_a_model_that_has_learned(sudoku4_folder: Path, tmp_path: Path) -> None:
    """A few hundred updates on one batch beat every trivial predictor there; the same model, cut off, trips."""
    options = "arch.hidden_size=32 arch.expansion=4 arch.halt_max_steps=2 optimizer=adamw lr=3e-3".split()
    config = tiny_config("trm_mlp", sudoku4_folder, tmp_path / "run", [*options, "weight_decay=0.0"])
    run = build_run(config, World(), act_objective(config))
    batch, _ = run.source.next(run.progress.position)
    inputs, labels = (batch[key].numpy().astype(np.int64) for key in ("inputs", "labels"))
    baselines = trivial_baselines(inputs, labels, label_counts(run.source.sets[0]), run.source.metadata.task)
    best = max(value["accuracy"] for value in baselines.values())

    def guards() -> dict[str, float]:
        answers = run.inference.predict(run.model.eval(), batch).answers
        accuracy = (answers == batch["labels"]).double().mean().item()
        run.model.train()
        return collapse_guards(run.model, batch, run.inference, accuracy, best)

    assert "guard/margin_over_baselines" in "".join(tripped_guards(guards()))
    for _ in range(200):
        train_on_batch(run, batch, stop_requested=False)
    assert tripped_guards(guards()) == []
    constant(run.model)
    assert len(tripped_guards(guards())) == 3
