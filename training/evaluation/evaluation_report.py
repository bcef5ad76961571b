"""Everything measured about one checkpoint on one selection of rows, as a plain record and as lines of text."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataset.eval_batches import EvalBatches, test_rows, validation_rows
from dataset.puzzle_folder import PuzzleSet, open_puzzle_sets
from dataset.puzzle_metadata import PuzzleFolders, data_folder
from errors import UserError
from models.act import wants_to_halt
from models.config import ModelConfig
from models.flops import step_flops
from models.recursive_model import RecursiveModel
from training.distributed import World
from training.evaluation.answering import AccuracyEvaluator, Evaluator, counted_rate, evaluate
from training.evaluation.baselines import label_counts, scored_rows, trivial_baselines
from training.evaluation.calibration import CalibrationEvaluator
from training.evaluation.evaluators import (
    DifficultyEvaluator,
    OutputRecorder,
    StepAccuracyEvaluator,
    StepCountEvaluator,
    difficulty_groups,
)
from training.evaluation.robustness import measure_robustness, robustness_lines
from training.evaluation.rollout_report import RolloutEvaluator
from training.inference import perturbed_starts
from training.inference.choose import build_inference, keeps_steps, mode
from training.known_rows import Known
from training.settings.schema import AnswerConfig, TrainConfig

BASELINE_ROWS = 20_000  # trivial predictors vary little from row to row; ARC has hundreds of thousands


@dataclass(frozen=True)
class Selection:
    """Rows of one set that are reported together: `test` (chose nothing) or `validation` (chose the best).

    available: how many there are of this kind.
    """

    kind: str
    puzzle_set: PuzzleSet
    rows: np.ndarray
    available: int

    @property
    def name(self) -> str:
        """`200 of 800 test rows of data/NAME (all)`."""
        share = "" if len(self.rows) == self.available else f"{len(self.rows)} of "
        return f"{share}{self.available} {self.kind} rows of {self.puzzle_set.root} ({self.puzzle_set.set_name})"


def select_rows(
    config: TrainConfig, split: str, max_test_rows: int | None, folders: PuzzleFolders | None = None
) -> list[Selection]:
    """The selections of every test folder of a run, in order; empty ones are left out.

    `split`: test | validation | all (both, apart). Errors: `UserError` when nothing is left to evaluate.
    """
    if split not in ("test", "validation", "all"):
        raise UserError(f"split={split} is none of test, validation, all")
    selections = []
    folders = folders or PuzzleFolders()
    paths = map(data_folder, config.data_paths_test or config.data_paths)
    for puzzle_set in open_puzzle_sets([folders[path] for path in paths], "test"):
        if split != "validation":
            rest = test_rows(puzzle_set, config.validation_size)
            selections.append(Selection("test", puzzle_set, rest[:max_test_rows], len(rest)))
        if split != "test":
            chosen = validation_rows(puzzle_set, config.validation_size)
            selections.append(Selection("validation", puzzle_set, chosen, len(chosen)))
    selections = [selection for selection in selections if len(selection.rows)]
    if not selections:
        raise UserError(
            f"no {split} rows in {config.data_paths_test or config.data_paths or 'no data folder'}: give "
            "data_paths_test=[data/NAME]"
        )
    return selections


def training_label_counts(config: TrainConfig, folders: PuzzleFolders) -> np.ndarray | None:
    """Label counts of the training sets, for the trivial predictors; None when those folders are not there."""
    paths = [data_folder(path) for path in config.data_paths]
    if not all(Path(path, "train").is_dir() for path in paths):
        return None
    sets = open_puzzle_sets([folders[path] for path in paths], "train")
    return np.sum([label_counts(puzzle_set) for puzzle_set in sets], axis=0) if sets else None


def measure(
    model: RecursiveModel,
    selection: Selection,
    world: World,
    *,
    settings: AnswerConfig,
    seed: int,
    loss_type: str,
    batch_size: int,
    train_counts: np.ndarray | None,
    known: Known,
    judges: Mapping[str, Evaluator],
    outputs: OutputRecorder | None = None,
    rollouts: RolloutEvaluator | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Evaluate a selection as `settings` say; returns the record, and the same for people.

    Where rows stop by themselves there are no answers after each step: `per_step` and `halting` are None, and
    `step_counts` says after how many steps the rows stopped. With a vote or stochastic rollouts there are none either.
    `rollouts` keeps the latter, and must be given for them. known: what the network knows of the rows. judges: further
    evaluators, by what the record calls them.
    """
    max_steps = settings.max_steps or model.config.halt_max_steps
    ratings = selection.puzzle_set.ratings
    accuracy, calibration = AccuracyEvaluator(loss_type), CalibrationEvaluator()
    steps = StepAccuracyEvaluator(max_steps, partial(wants_to_halt, model.config)) if keeps_steps(settings) else None
    counts = StepCountEvaluator(max_steps) if settings.adaptive_halt else None
    groups = [] if ratings is None else difficulty_groups(ratings[selection.rows])
    difficulty = None if ratings is None else DifficultyEvaluator(ratings, groups)
    at_work = (accuracy, calibration, steps, counts, difficulty, *judges.values(), outputs, rollouts)
    batches = EvalBatches(selection.puzzle_set, selection.rows, min(batch_size, len(selection.rows)))
    inference = build_inference(settings, [selection.puzzle_set], seed, stepwise=True)
    cost = evaluate(
        model,
        batches,
        inference,
        [evaluator for evaluator in at_work if evaluator is not None],
        world,
        description=selection.kind,
        show_progress=world.is_main,
    )
    scales = perturbed_starts.Settings.of(settings).sigma
    robustness = measure_robustness(model, [batches], scales, settings, world, show_progress=world.is_main)
    found = accuracy.report()
    record: dict[str, Any] = {
        "rows": selection.kind,
        "data": str(selection.puzzle_set.root),
        "set": selection.puzzle_set.set_name,
        "available_rows": selection.available,
        "known": known.report(),
        "mode": mode(settings, model.config.halt_max_steps),
        "exact_accuracy": counted_rate(found["exact_count"], found["count"]),
        "compute": compute(cost, found.get("steps"), model.config),
        **{key: found.get(key) for key in ("accuracy", "lm_loss", "q_halt_accuracy")},
        "supervision_steps": max_steps,
        "trained_steps": model.config.halt_max_steps,
        **({"per_step": None, "halting": None} if steps is None else steps.report()),
        "step_counts": None if counts is None else counts.report(),
        "difficulty": None if difficulty is None else difficulty.report(),
    }
    taken = judges.keys() & {*record, "calibration", "robustness", "rollouts", "baselines"}
    if taken:
        raise UserError(f"evaluators: {min(taken)} is the name of another part of reports; give it another prefix")
    record |= {
        **{name: judge.report() for name, judge in judges.items()},
        "calibration": calibration.report(),
        "robustness": robustness or None,
        **({} if rollouts is None else {"rollouts": rollouts.report()}),
        "baselines": baselines(selection, train_counts),
    }
    note = ", which chose the best checkpoint" if selection.kind == "validation" else ""
    lines = [f"{selection.name}{note}", *accuracy.lines(), *known.lines(selection.kind)]
    if found["count"]:
        lines += [_baseline_line(record), *(line for judge in judges.values() for line in judge.lines())]
        lines += [*calibration.lines(), _compute_line(record), *robustness_lines(robustness)]
        lines += [] if rollouts is None else rollouts.lines()
        kept_last = ["  no answers after each step: rows that stop, views and rollouts keep their last one only"]
        lines += kept_last if steps is None else steps.lines()
        lines += [line for evaluator in (counts, difficulty) if evaluator is not None for line in evaluator.lines()]
    return record, lines


def compute(cost: dict[str, float], mean_steps: float | None, config: ModelConfig) -> dict[str, Any]:
    """What an evaluation cost: steps a row, passes, operations (closed form), wall clock of all processes together."""
    rows, passes, seconds = int(cost["rows"]), int(cost["forward_passes"]), cost["seconds"]
    return {
        "mean_steps": mean_steps,
        "rows": rows,
        "forward_passes": passes,
        "flops": passes * step_flops(config, training=False),
        "seconds": seconds,
        "rows_per_second": rows / seconds,
    }


def baselines(selection: Selection, train_counts: np.ndarray | None) -> dict[str, Any]:
    """Trivial predictors on the selection's first rows; without training data the frequent token is unknown."""
    rows = selection.rows[:BASELINE_ROWS]
    inputs, labels = scored_rows(selection.puzzle_set, rows)
    vocab_size = selection.puzzle_set.metadata.vocab_size
    counts = train_counts
    if counts is None or len(counts) != vocab_size:
        counts = np.bincount(labels[labels >= 0], minlength=vocab_size)
    task = selection.puzzle_set.metadata.task
    predictors: dict[str, Any] = dict(trivial_baselines(inputs, labels, counts, task))
    return {"num_rows": len(rows), "counts_from": "train" if counts is train_counts else "these rows", **predictors}


def _baseline_line(record: dict[str, Any]) -> str:
    trivial = {key: value for key, value in record["baselines"].items() if isinstance(value, dict)}
    listed = ", ".join(f"{name} {value['accuracy']:.4f}" for name, value in trivial.items())
    best = max(value["exact_accuracy"] for value in trivial.values())
    return f"  trivial predictors, token accuracy: {listed} (exact accuracy at most {best:.4f})"


def _compute_line(record: dict[str, Any]) -> str:
    mode, spent = record["mode"], record["compute"]
    steps = f"{mode['max_steps']} supervision steps"
    if mode["adaptive_halt"]:
        steps = f"at most {steps}, stopping where q_halt says so"
    if mode["vote"] > 1:
        steps += f", {mode['vote']} views of each puzzle voting"
    if mode.get("rollouts"):
        steps += f", {mode['rollouts']} stochastic rollouts, of which the highest q_halt counts"
    return (
        f"  {steps}: {spent['mean_steps']:.2f} steps a row, {spent['forward_passes']:,} forward passes, "
        f"{spent['flops']:.3g} operations, {spent['seconds']:.1f} s, {spent['rows_per_second']:.1f} rows/s"
    )
