"""Trivial predictors and collapse guards: what a number has to beat before it means anything."""

import numpy as np
import torch

from dataset.puzzle_folder import PuzzleSet
from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from models.recursive_model import RecursiveModel
from training.evaluation.answering import evaluating
from training.inference.base import Inference

SUDOKU_BLANK = 1


def label_counts(puzzle_set: PuzzleSet, max_rows: int = 100_000) -> np.ndarray:
    """How often each token is a scored label among the first rows of a set; (vocab_size,)."""
    labels = np.asarray(puzzle_set.labels[:max_rows]).ravel()
    counts = np.bincount(labels, minlength=puzzle_set.metadata.vocab_size)
    ignored = puzzle_set.metadata.ignore_label_id
    if ignored is not None and 0 <= ignored < len(counts):
        counts[ignored] = 0
    return counts


def scored_rows(puzzle_set: PuzzleSet, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels (N, S) int64 of some rows, labels -100 where nothing is scored."""
    inputs, labels = puzzle_set.read_rows(rows)
    labels = labels.astype(np.int64)
    ignored = puzzle_set.metadata.ignore_label_id
    if ignored is not None:
        labels[labels == ignored] = IGNORE_LABEL_ID
    return inputs.astype(np.int64), labels


def blank_token(puzzle_set: PuzzleSet) -> int | None:
    """The token of an empty cell, for tasks that have one."""
    return SUDOKU_BLANK if puzzle_set.metadata.extra.get("task") == "sudoku" else None


def trivial_baselines(
    inputs: np.ndarray, labels: np.ndarray, train_counts: np.ndarray, blank_token: int | None = None
) -> dict[str, dict[str, float]]:
    """Token and exact accuracy of predictors that read no rule.

    Args:
        inputs: (N, S). labels: (N, S), -100 = not scored. train_counts: label counts of the training set.
        blank_token: token that stands for an empty cell, when the task has one.
    Returns:
        `copy_input`, `most_frequent_token` (of the training labels), `constant` (the best single token in
        hindsight on these labels: an upper bound of all constants) and, with a blank token, `copy_givens`
        (givens copied, blanks filled with the most frequent token). Where a predictor has a natural
        distribution (training frequencies; certainty on givens) `lm_loss` is its mean token loss in nats.
    """
    valid = labels != IGNORE_LABEL_ID
    frequent = int(train_counts.argmax())
    hindsight = int(np.bincount(labels[valid].astype(np.int64), minlength=1).argmax()) if valid.any() else 0
    predictors = {
        "copy_input": inputs,
        "most_frequent_token": np.full_like(inputs, frequent),
        "constant": np.full_like(inputs, hindsight),
    }
    if blank_token is not None:
        predictors["copy_givens"] = np.where(inputs == blank_token, frequent, inputs)
    result = {}
    scored = valid.sum(axis=1)
    rows = scored > 0
    frequencies = np.maximum(train_counts, 1) / np.maximum(train_counts, 1).sum()
    surprise = np.where(valid, -np.log(frequencies[np.where(valid, labels, 0)]), 0.0)
    losses = {"most_frequent_token": surprise}
    if blank_token is not None:
        losses["copy_givens"] = np.where(inputs == blank_token, surprise, 0.0)
    for name, answer in predictors.items():
        correct = ((answer == labels) & valid).sum(axis=1)
        result[name] = {
            "accuracy": float((correct[rows] / scored[rows]).mean()) if rows.any() else 0.0,
            "exact_accuracy": float((correct[rows] == scored[rows]).mean()) if rows.any() else 0.0,
        }
        if name in losses and rows.any():
            result[name]["lm_loss"] = float((losses[name].sum(axis=1)[rows] / scored[rows]).mean())
    return result


@torch.no_grad()
def collapse_guards(
    model: RecursiveModel, batch: Batch, inference: Inference, accuracy: float, best_baseline: float
) -> dict[str, float]:
    """Signs that a model answers without looking.

    Returns `guard/input_sensitivity` (mean absolute difference of the logits of neighbouring rows; 0 = the
    input does not matter), `guard/unique_pred_tokens` (distinct tokens in the answers) and
    `guard/margin_over_baselines` (token accuracy minus the best trivial predictor's).
    """
    device = model.H_init.device
    with evaluating(model):
        predictions = inference.predict(model, {key: leaf.to(device) for key, leaf in batch.items()})
    logits = predictions.logits.float()
    difference = (logits - logits.roll(1, dims=0)).abs().mean() if len(logits) > 1 else torch.zeros(())
    return {
        "guard/input_sensitivity": float(difference),
        "guard/unique_pred_tokens": float(predictions.answers.unique().numel()),
        "guard/margin_over_baselines": accuracy - best_baseline,
    }


def tripped_guards(guards: dict[str, float]) -> list[str]:
    """The guards that signal a collapse."""
    limits = {
        "guard/input_sensitivity": 1e-6,
        "guard/unique_pred_tokens": 1.5,
        "guard/margin_over_baselines": 0.0,
    }
    return [
        f"{name}={guards[name]:.4g} (expected > {limit:g})"
        for name, limit in limits.items()
        if not guards[name] > limit
    ]
