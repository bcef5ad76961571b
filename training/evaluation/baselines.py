"""Trivial predictors and collapse guards: what a number has to beat before it means anything."""

import numpy as np
import torch

from dataset.puzzle_folder import PuzzleSet
from dataset.tasks.base import Baseline, PuzzleTask
from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from models.recursive_model import RecursiveModel
from training.evaluation.answering import evaluating
from training.inference.base import Inference


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


def trivial_baselines(
    inputs: np.ndarray, labels: np.ndarray, train_counts: np.ndarray, task: PuzzleTask
) -> dict[str, dict[str, float]]:
    """Token and exact accuracy of predictors that read no rule.

    Args:
        inputs: (N, S). labels: (N, S), -100 = not scored. train_counts: label counts of the training set.
    Returns:
        `copy_input`, `most_frequent_token` (of the training labels), `constant` (the best single token in
        hindsight on these labels: an upper bound of all constants) and those of the task, as `copy_givens`
        (givens copied, blanks filled with the most frequent token). Where a predictor has a natural
        distribution (training frequencies; certainty on givens) `lm_loss` is its mean token loss in nats.
    """
    valid = labels != IGNORE_LABEL_ID
    frequent = int(train_counts.argmax())
    hindsight = int(np.bincount(labels[valid].astype(np.int64), minlength=1).argmax()) if valid.any() else 0
    predictors = {
        "copy_input": Baseline(inputs),
        "most_frequent_token": Baseline(np.full_like(inputs, frequent), np.ones(inputs.shape, bool)),
        "constant": Baseline(np.full_like(inputs, hindsight)),
    } | task.baselines(inputs, frequent)
    result = {}
    scored = valid.sum(axis=1)
    rows = scored > 0
    frequencies = np.maximum(train_counts, 1) / np.maximum(train_counts, 1).sum()
    surprise = np.where(valid, -np.log(frequencies[np.where(valid, labels, 0)]), 0.0)
    for name, predictor in predictors.items():
        correct = ((predictor.answers == labels) & valid).sum(axis=1)
        result[name] = {
            "accuracy": float((correct[rows] / scored[rows]).mean()) if rows.any() else 0.0,
            "exact_accuracy": float((correct[rows] == scored[rows]).mean()) if rows.any() else 0.0,
        }
        if predictor.guessed is not None and rows.any():
            losses = np.where(predictor.guessed, surprise, 0.0).sum(axis=1)
            result[name]["lm_loss"] = float((losses[rows] / scored[rows]).mean())
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
