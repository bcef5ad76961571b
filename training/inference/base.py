"""The inference seam: ways of producing predictions. Evaluators only judge what these return."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from models.recursive_model import RecursiveModel


@dataclass
class Predictions:
    """answers (B, S) tokens, q_halt (B,) logits, steps (B,) supervision steps spent, logits (B, S, V).

    q_halt and logits are those of the step at which a row stopped. forward_passes: supervision steps computed for
    these rows, one for each row and step, padding and discarded work included: never below steps.sum().
    """

    answers: Tensor
    q_halt: Tensor
    steps: Tensor
    logits: Tensor
    forward_passes: int


class Inference(ABC):
    """How rows are answered. A subclass says how one batch is; what it draws follows from its seed and the rows."""

    name: str

    @abstractmethod
    def predict(self, model: RecursiveModel, batch: Batch) -> Predictions:
        """Answers to a batch on the model's device, in the batch's order; a model in evaluation mode."""

    def answer(self, model: RecursiveModel, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Predictions]]:
        """Answers to batches on any device, as groups of rows on the model's.

        Every real row is in exactly one group; groups may have any size, and rows any order. Here: batch by batch.
        """
        for batch in batches:
            rows = to_device(batch, model.H_init.device)
            yield rows, self.predict(model, rows)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every leaf on `device`."""
    return {key: leaf.to(device) for key, leaf in batch.items()}


def real_rows(batch: Batch) -> Tensor:
    """(B,) bool: no padding. By `row` where the batch has it, else by having a scored token."""
    if "row" in batch:
        return batch["row"] >= 0
    return (batch["labels"] != IGNORE_LABEL_ID).any(dim=-1)
