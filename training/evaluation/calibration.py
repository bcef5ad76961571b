"""Is q_halt, read as a probability that the answer is right, true to its word, and does it rank answers?"""

import math
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from models.act import Batch
from models.losses import correctness
from training.distributed import World
from training.evaluation.answering import Evaluator
from training.inference.base import Predictions

NUM_BINS = 15


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve: the share of (positive, negative) pairs in which the positive scores higher.

    scores (N,) in any monotone unit; positive (N,) bool. A tie counts half. None when one class is absent.
    NaN where a score is. Source: Mann and Whitney 1947.
    """
    positive = np.asarray(positive, bool)
    num_positive = int(positive.sum())
    num_negative = positive.size - num_positive
    if not num_positive or not num_negative:
        return None
    scores = np.asarray(scores)
    if np.isnan(scores).any():
        return math.nan
    beaten = np.sort(scores[~positive])
    wins = sum(int(np.searchsorted(beaten, scores[positive], side).sum()) for side in ("left", "right")) / 2
    return wins / (num_positive * num_negative)


def brier_score(probabilities: np.ndarray, positive: np.ndarray) -> float | None:
    """Mean squared difference between a probability and what happened (0 or 1); None without rows.

    0 is perfect; predicting the base rate r for every row gives r (1 - r). Source: Brier 1950.
    """
    if not len(positive):
        return None
    return float(np.mean((np.asarray(probabilities, np.float64) - np.asarray(positive, np.float64)) ** 2))


def reliability_table(
    probabilities: np.ndarray, positive: np.ndarray, num_bins: int = NUM_BINS
) -> list[dict[str, Any]]:
    """Rows by their probability, in bins of equal width over [0, 1].

    Bin i holds probabilities in [i / num_bins, (i + 1) / num_bins), the last one also 1. One entry per bin, empty
    ones included: `low`, `high`, `count`, `mean_confidence` (mean probability), `exact_count` (positives) and
    `exact_share`; the means are None in an empty bin.
    """
    probabilities, positive = np.asarray(probabilities, np.float64), np.asarray(positive, bool)
    edges = np.arange(num_bins + 1) / num_bins
    bins = np.searchsorted(edges[1:-1], probabilities, side="right")
    table: list[dict[str, Any]] = []
    for i in range(num_bins):
        inside = bins == i
        count, exact = int(inside.sum()), int(positive[inside].sum())
        table.append(
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "count": count,
                "mean_confidence": float(probabilities[inside].mean()) if count else None,
                "exact_count": exact,
                "exact_share": exact / count if count else None,
            }
        )
    return table


def expected_calibration_error(
    probabilities: np.ndarray, positive: np.ndarray, num_bins: int = NUM_BINS
) -> float | None:
    """Sum over the bins of `reliability_table` of count / N times |mean_confidence - exact_share|; None without rows.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    Differs: the probability is that of being exact and fills [0, 1], because a row has two outcomes and the model
    states one number; bins are closed below, not above.
    """
    if not len(positive):
        return None
    filled = [entry for entry in reliability_table(probabilities, positive, num_bins) if entry["count"]]
    gaps = (entry["count"] * abs(entry["mean_confidence"] - entry["exact_share"]) for entry in filled)
    return float(sum(gaps)) / len(positive)


class CalibrationEvaluator(Evaluator):
    """Compares q_halt with whether the row is exact, over the rows that have a scored token.

    The halting head is trained on "the row is exact now" by binary cross-entropy, so sigmoid(q_halt) is its
    probability for that. The values of all rows are kept, two numbers each: ranks cannot be added up.
    """

    def begin(self) -> None:
        self.q_halt: list[Tensor] = []
        self.exact: list[Tensor] = []

    @torch.no_grad()
    def update(self, batch: Batch, predictions: Predictions) -> None:
        num_scored, _, exact = correctness(predictions.answers, batch["labels"])
        scored = num_scored > 0
        self.exact.append(exact[scored])
        self.q_halt.append(predictions.q_halt[scored].float())

    def gather(self, world: World) -> None:
        """Every process gets the rows of all, in rank order. Collective."""
        if world.size > 1:
            q_halt, exact = self._rows()
            self.q_halt, self.exact = [world.gather_ragged(q_halt)], [world.gather_ragged(exact)]

    def _rows(self) -> tuple[Tensor, Tensor]:
        """q_halt (N,) float32 and exact (N,) bool of the rows kept; N = 0 where this process had none."""
        if not self.q_halt:
            return torch.zeros(0), torch.zeros(0, dtype=torch.bool)
        return torch.cat(self.q_halt), torch.cat(self.exact)

    def add(self, other: Self) -> None:
        self.q_halt, self.exact = self.q_halt + other.q_halt, self.exact + other.exact

    def metrics(self) -> dict[str, float]:
        """`q_halt_auroc`, `q_halt_brier`, `q_halt_ece`; `report` holds the rest."""
        report = self.report()
        return {f"q_halt_{name}": report[name] for name in ("auroc", "brier", "ece") if report[name] is not None}

    def lines(self) -> list[str]:
        names = {"auroc": "AUROC", "brier": "Brier", "ece": "ECE"}
        report = self.report()
        known = [f"{names[name]} {report[name]:.4f}" for name in names if report[name] is not None]
        return [f"  q_halt as a probability of being right: {', '.join(known)}"] if known else []

    def report(self) -> dict[str, Any]:
        """`count`, `exact_count`, `base_rate`, `auroc`, `brier`, `ece`, and `bins` as in `reliability_table`.

        What is not defined is None: without rows all rates, with one class the AUROC. A model whose q_halt is
        NaN on some row states no probability there; then `auroc`, `brier`, `ece` and `bins` are None.
        """
        from scipy.special import expit  # here, as the import is a tenth of what a script takes to start

        # The logits are ranked, because probabilities of 1 - 1e-17 and of 1 would tie.
        q_halt, kept = self._rows()
        logits, exact = q_halt.cpu().double().numpy(), kept.cpu().numpy()
        report: dict[str, Any] = {
            "count": len(exact),
            "exact_count": int(exact.sum()),
            "base_rate": float(exact.mean()) if len(exact) else None,
        }
        if np.isnan(logits).any():
            return report | dict.fromkeys(("auroc", "brier", "ece", "bins"))
        probabilities = expit(logits)
        return report | {
            "auroc": auroc(logits, exact),
            "brier": brier_score(probabilities, exact),
            "ece": expected_calibration_error(probabilities, exact),
            "bins": reliability_table(probabilities, exact),
        }
