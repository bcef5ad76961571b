"""Token losses and the ACT loss, as sums over rows: who divides, and by what, is the loop's business."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_LABEL_ID = -100


def log_stablemax(logits: Tensor) -> Tensor:
    """log of s(x)/sum s(x) over the last axis with s(x) = x+1 for x >= 0 and 1/(1-x) below.

    Source: Prieto et al. 2025, arXiv:2501.04697.
    Differs: the lower branch sees min(x, 0). Upstream evaluates 1/(1-x+1e-30) everywhere and masks it; at a
    logit of exactly 1 its gradient there overflows float32, and 0 * inf makes the whole gradient NaN.
    """
    scores = torch.where(logits < 0, 1 / (1 - logits.clamp_max(0)), logits + 1)
    return scores.log() - scores.sum(dim=-1, keepdim=True).log()


def _pick(log_probs: Tensor, labels: Tensor) -> Tensor:
    valid = labels != IGNORE_LABEL_ID
    chosen = torch.where(valid, labels, 0).long().unsqueeze(-1)
    return -torch.where(valid, log_probs.gather(-1, chosen).squeeze(-1), 0)


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Per-token loss (B, S) of logits (B, S, V), in float64 as officially; 0 where the label is ignored."""
    return _pick(log_stablemax(logits.to(torch.float64)), labels)


def stablemax_cross_entropy_float32(logits: Tensor, labels: Tensor) -> Tensor:
    """As `stablemax_cross_entropy`, in float32: float64 runs at 1/32 or 1/64 of the rate on many GPUs."""
    return _pick(log_stablemax(logits.to(torch.float32)), labels)


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Per-token softmax loss (B, S), in float32 as officially; 0 where the label is ignored.

    In float32 for float64 logits too: gradients computed in float64 part from the official ones by 5e-8.
    """
    loss = F.cross_entropy(
        logits.to(torch.float32).flatten(0, -2),
        labels.flatten().long(),
        ignore_index=IGNORE_LABEL_ID,
        reduction="none",
    )
    return loss.view(labels.shape)


TOKEN_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "stablemax_cross_entropy": stablemax_cross_entropy,
    "stablemax_cross_entropy_float32": stablemax_cross_entropy_float32,
    "softmax_cross_entropy": softmax_cross_entropy,
}


class Correctness(NamedTuple):
    """Of each answer: num_right, its right tokens among the num_scored that have a label, and exact, all of them right.

    num_scored is (B,), or (B, 1) beside several answers to a row; the others have the shape of the answers.
    """

    num_scored: Tensor
    num_right: Tensor
    exact: Tensor


def correctness(answers: Tensor, labels: Tensor) -> Correctness:
    """Compare answers (B, S), or several to each row (B, T, S), with labels (B, S), of which -100 is not scored."""
    if answers.ndim == 3:
        labels = labels[:, None]
    scored = labels != IGNORE_LABEL_ID
    num_scored, num_right = scored.sum(dim=-1), (scored & (answers == labels)).sum(dim=-1)
    return Correctness(num_scored, num_right, num_right == num_scored)


def act_loss(
    outputs: dict[str, Tensor],
    labels: Tensor,
    halted: Tensor,
    steps: Tensor,
    loss_type: str,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and metrics of one ACT step, summed over rows.

    Args:
        outputs: `logits` (B, S, V), `q_halt_logits` (B,), and for Q-learning `q_continue_logits` and
            `target_q_continue` (B,).
        labels: (B, S), -100 = not scored. halted: (B,) bool. steps: (B,) supervision steps so far.
        loss_type: key of `TOKEN_LOSSES`.
        weights: (B,) of the rows in the loss and in the metrics ending in `_loss`; None = 1 each.
    Returns:
        sum over rows of [mean token loss + 0.5 (q_halt loss + q_continue loss)], and metric sums. `count`,
        `accuracy`, `exact_accuracy`, `q_halt_accuracy` and `steps` are over rows that halt at this step and
        have a scored token; keys ending in `_loss` are over all rows.
    """
    counts, correct, exact = correctness(outputs["logits"].argmax(dim=-1), labels)
    token_loss = TOKEN_LOSSES[loss_type](outputs["logits"], labels)
    token_loss = token_loss / counts.clamp_min(1).unsqueeze(-1)
    lm_loss = (token_loss if weights is None else token_loss * weights.to(token_loss.dtype).unsqueeze(-1)).sum()
    q_halt = outputs["q_halt_logits"]
    q_weights = None if weights is None else weights.to(q_halt.dtype)
    q_halt_loss = F.binary_cross_entropy_with_logits(q_halt, exact.to(q_halt.dtype), q_weights, reduction="sum")
    with torch.no_grad():
        scored = halted & (counts > 0)
        metrics = {
            "count": scored.sum(),
            "accuracy": (scored * (correct / counts.clamp_min(1))).sum(),
            "exact_accuracy": (scored & exact).sum(),
            "q_halt_accuracy": (scored & ((q_halt >= 0) == exact)).sum(),
            "steps": (scored * steps).sum(),
        }
    metrics |= {"lm_loss": lm_loss.detach(), "q_halt_loss": q_halt_loss.detach()}
    q_loss = q_halt_loss
    if "target_q_continue" in outputs:
        q_continue_loss = F.binary_cross_entropy_with_logits(
            outputs["q_continue_logits"], outputs["target_q_continue"], q_weights, reduction="sum"
        )
        metrics["q_continue_loss"] = q_continue_loss.detach()
        q_loss = q_loss + q_continue_loss
    return lm_loss + 0.5 * q_loss, metrics
