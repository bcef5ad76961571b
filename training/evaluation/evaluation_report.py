"""Everything measured about one checkpoint on one selection of rows, as a plain record and as lines of text."""

from dataclasses import dataclass
from functools import partial
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
from training.evaluation.answering import AccuracyEvaluator, Evaluator, describe_rate, evaluate
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
from training.evaluation.rollout_report import rollout_lines, rollout_record
from training.evaluation.rollout_table import RolloutRecorder
from training.evaluation.sudoku_rules import SudokuEvaluator
from training.inference import perturbed_starts
from training.inference.choose import build_inference, keeps_steps, mode
from training.inference.stochastic_rollouts import Settings as Rollouts
from training.records.result_numbers import wilson_interval
from training.settings.schema import AnswerConfig, TrainConfig

# What tasks name as their `judges`; each reports under its name.
JUDGES = {"sudoku": SudokuEvaluator}
BASELINE_ROWS = 20_000  # trivial predictors vary little from row to row; ARC has hundreds of thousands


@dataclass(frozen=True)
class Selection:
    """Rows of one set that are reported together: `test` (chose nothing) or `validation` (chose the best)."""

    kind: str
    puzzle_set: PuzzleSet
    rows: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.kind} rows of {self.puzzle_set.root} ({self.puzzle_set.set_name})"


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
            rest = test_rows(puzzle_set, config.validation_size)[:max_test_rows]
            selections.append(Selection("test", puzzle_set, rest))
        if split != "test":
            chosen = validation_rows(puzzle_set, config.validation_size)
            selections.append(Selection("validation", puzzle_set, chosen))
    selections = [selection for selection in selections if len(selection.rows)]
    if not selections:
        raise UserError(
            f"no {split} rows in {config.data_paths_test or config.data_paths or 'no data folder'}: give "
            "data_paths_test=[data/NAME]"
        )
    return selections


def training_label_counts(config: TrainConfig, folders: PuzzleFolders) -> np.ndarray | None:
    """Label counts of the training sets, for the trivial predictors; None when those folders are not there."""
    try:
        sets = open_puzzle_sets([folders[data_folder(path)] for path in config.data_paths], "train")
    except UserError:
        return None
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
    save_outputs: list[str] | None = None,
    rollouts: RolloutRecorder | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Evaluate a selection as `settings` say; returns the record and the recorded outputs (this process's rows).

    Where rows stop by themselves there are no answers after each step: `per_step` and `halting` are None, and
    `step_counts` says after how many steps the rows stopped. With a vote or stochastic rollouts there are none either.
    `rollouts` keeps the latter, and must be given for them.
    """
    max_steps = settings.max_steps or model.config.halt_max_steps
    ratings = selection.puzzle_set.ratings
    groups = [] if ratings is None else difficulty_groups(ratings[selection.rows])
    calibration = CalibrationEvaluator()
    steps = StepAccuracyEvaluator(max_steps, partial(wants_to_halt, model.config)) if keeps_steps(settings) else None
    counts = StepCountEvaluator(max_steps) if settings.adaptive_halt else None
    difficulty = None if ratings is None else DifficultyEvaluator(ratings, groups)
    names = selection.puzzle_set.metadata.task.judges()
    judges = {name: JUDGES[name].for_set(selection.puzzle_set, groups) for name in names}
    recorder = OutputRecorder(save_outputs) if save_outputs else None
    evaluators: list[Evaluator] = [AccuracyEvaluator(loss_type), calibration]
    optional = (steps, counts, difficulty, *judges.values(), recorder, rollouts)
    evaluators += [evaluator for evaluator in optional if evaluator is not None]
    batches = EvalBatches(selection.puzzle_set, selection.rows, min(batch_size, len(selection.rows)))
    inference = build_inference(settings, [selection.puzzle_set], seed, stepwise=True)
    result = evaluate(
        model,
        batches,
        inference,
        evaluators,
        world,
        description=selection.kind,
        show_progress=world.is_main,
    )
    scales = perturbed_starts.Settings.of(settings).sigma
    robustness = measure_robustness(model, [batches], scales, settings, world, show_progress=world.is_main)
    record: dict[str, Any] = {
        "rows": selection.kind,
        "data": str(selection.puzzle_set.root),
        "set": selection.puzzle_set.set_name,
        "mode": mode(settings, model.config.halt_max_steps),
        "exact_accuracy": rate(result["exact_count"], result["count"]),
        "compute": compute(result, model.config),
        **{key: result.get(key) for key in ("accuracy", "lm_loss", "q_halt_accuracy")},
        "supervision_steps": max_steps,
        "trained_steps": model.config.halt_max_steps,
        "per_step": None if steps is None else steps.per_step(),
        "halting": None if steps is None else steps.halting(),
        "step_counts": None if counts is None else counts.histogram(),
        "difficulty": None
        if difficulty is None
        else [
            {"low": group["low"], "high": group["high"], **rate(group["exact_count"], group["count"])}
            for group in difficulty.per_group()
        ],
        **{name: judge.report() for name, judge in judges.items()},
        "calibration": calibration.report(),
        "robustness": robustness or None,
        **(
            {}
            if rollouts is None
            else {"rollouts": rollout_record(Rollouts.of(settings), rollouts.table(), model.config)}
        ),
        "baselines": baselines(selection, train_counts),
    }
    return record, recorder.arrays() if recorder is not None else {}


def compute(result: dict[str, float], config: ModelConfig) -> dict[str, Any]:
    """What an evaluation cost: steps a row, passes, operations (closed form), wall clock of all processes together."""
    rows, passes, seconds = int(result["rows"]), int(result["forward_passes"]), result["seconds"]
    return {
        "mean_steps": result.get("steps"),
        "rows": rows,
        "forward_passes": passes,
        "flops": passes * step_flops(config, training=False),
        "seconds": seconds,
        "rows_per_second": rows / seconds,
    }


def rate(successes: float, total: float) -> dict[str, Any]:
    """A rate with numerator, denominator and 95 % Wilson interval; nulls without trials."""
    successes, total = int(successes), int(total)
    if not total:
        return {"value": None, "numerator": 0, "denominator": 0, "interval95": None}
    low, high = wilson_interval(successes, total)
    return {"value": successes / total, "numerator": successes, "denominator": total, "interval95": [low, high]}


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


def report_lines(record: dict[str, Any]) -> list[str]:
    """A record for people: exact accuracy first, with its denominator and interval."""
    exact = record["exact_accuracy"]
    counts = {"exact_count": exact["numerator"], "count": exact["denominator"]}
    note = ", which chose the best checkpoint" if record["rows"] == "validation" else ""
    lines = [f"{record['rows']} rows of {record['data']} ({record['set']}){note}", f"  {describe_rate(counts)}"]
    if record.get("accuracy") is None:
        return lines
    lines.append(
        f"  token accuracy {record['accuracy']:.4f}, loss {record['lm_loss']:.4f}, "
        f"q_halt accuracy {record['q_halt_accuracy']:.4f}"
    )
    trivial = {key: value for key, value in record["baselines"].items() if isinstance(value, dict)}
    listed = ", ".join(f"{name} {value['accuracy']:.4f}" for name, value in trivial.items())
    best = max(value["exact_accuracy"] for value in trivial.values())
    lines.append(f"  trivial predictors, token accuracy: {listed} (exact accuracy at most {best:.4f})")
    lines += [line for name, judge in JUDGES.items() if name in record for line in judge.lines(record[name])]
    lines += _calibration_lines(record) + _compute_lines(record)
    lines += robustness_lines(record.get("robustness")) + rollout_lines(record.get("rollouts")) + _step_lines(record)
    if record["difficulty"]:
        lines.append("  by difficulty rating (quarters of the rows; equal ratings stay together)")
        for group in record["difficulty"]:
            span = f"{group['low']}" if group["low"] == group["high"] else f"{group['low']} to {group['high']}"
            counts = {"exact_count": group["numerator"], "count": group["denominator"]}
            lines.append(f"    rating {span}: {describe_rate(counts)}")
    return lines


def _calibration_lines(record: dict[str, Any]) -> list[str]:
    calibration = record["calibration"]
    known = [(name, calibration[name]) for name in ("auroc", "brier", "ece") if calibration[name] is not None]
    listed = ", ".join(f"{name.upper() if name != 'brier' else 'Brier'} {value:.4f}" for name, value in known)
    return [f"  q_halt as a probability of being right: {listed}"] if known else []


def _compute_lines(record: dict[str, Any]) -> list[str]:
    mode, spent = record["mode"], record["compute"]
    steps = f"{mode['max_steps']} supervision steps"
    if mode["adaptive_halt"]:
        steps = f"at most {steps}, stopping where q_halt says so"
    if mode["vote"] > 1:
        steps += f", {mode['vote']} views of each puzzle voting"
    if mode.get("rollouts"):
        steps += f", {mode['rollouts']} stochastic rollouts, of which the highest q_halt counts"
    return [
        f"  {steps}: {spent['mean_steps']:.2f} steps a row, {spent['forward_passes']:,} forward passes, "
        f"{spent['flops']:.3g} operations, {spent['seconds']:.1f} s, {spent['rows_per_second']:.1f} rows/s"
    ]


def _step_lines(record: dict[str, Any]) -> list[str]:
    lines = []
    if record["per_step"] is None:
        lines.append("  no answers after each step: rows that stop, views and rollouts keep their last one only")
    else:
        halting = record["halting"]
        lines.append(
            f"  stopping where q_halt says so: {describe_rate(halting)}, {halting['mean_steps']:.2f} steps on average"
        )
        lines.append("  step  exact accuracy  token accuracy  first wants to stop here")
        for step in record["per_step"]:
            bar = "#" * round(20 * step["exact_accuracy"])
            lines.append(
                f"  {step['step']:>4}  {step['exact_accuracy']:>14.4f}  {step['accuracy']:>14.4f}  "
                f"{step['halted_count']:>24}  {bar}".rstrip()
            )
    if record["step_counts"] is not None:
        most = max(entry["count"] for entry in record["step_counts"])
        lines.append("  step  rows that stopped here")
        for entry in record["step_counts"]:
            bar = "#" * round(20 * entry["count"] / most)
            lines.append(f"  {entry['step']:>4}  {entry['count']:>22}  {bar}".rstrip())
    return lines
