"""The term seam: a loss beside the objective's, of the same supervision step and the same rows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from options import Numbers, option


@dataclass(frozen=True)
class View:
    """What a term sees: n rows after one supervision step, with the step's graph.

    z_H, z_L: (n, P+S, D). logits: (n, S, V). q_halt: (n,). q_continue: (n,), None where the model has no use for it.
    labels: (n, S), -100 = not scored. steps: (n,) int32, supervision steps taken, this one included. weights: (n,) of
    the rows in the objective's loss, None = 1 each. rows: what of the batch belongs to them, `inputs` among it.
    """

    z_H: Tensor
    z_L: Tensor
    logits: Tensor
    q_halt: Tensor
    q_continue: Tensor | None
    labels: Tensor
    steps: Tensor
    weights: Tensor | None
    rows: Mapping[str, Tensor]

    @property
    def counted(self) -> Tensor:
        """(n,) bool: rows that are part of the objective's loss."""
        return torch.ones_like(self.steps, dtype=torch.bool) if self.weights is None else self.weights != 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum of one value per row (n,), each with its row's weight."""
        return values.sum() if self.weights is None else (values * self.weights.to(values.dtype)).sum()


@dataclass
class TermSettings:
    """Base of a term's settings.

    metrics: what it writes under `train/`, name by name, as `docs/metrics.md` tells it; the loss is `<name>_loss`.
    tried_with: settings with which it does something in a tiny run of the tests, which try it with every objective.
    """

    weight: float = option(0.0, "of this loss beside the objective's; 0 = off", Numbers(0, 1e30))

    switch: ClassVar[str] = "weight"
    metrics: ClassVar[Mapping[str, str]] = {}
    tried_with: ClassVar[Mapping[str, Any]]

    @property
    def in_use(self) -> bool:
        return self.weight != 0

    def unread(self, config: Any) -> tuple[str, str] | None:
        """(one of its settings, what is expected of it) where the term would do nothing in a run of these settings."""
        return None

    def build(self, config: ModelConfig, generator: torch.Generator) -> "Term":
        """The term. generator: of the initial weights of its module, where it has one."""
        raise NotImplementedError


class Term(ABC):
    """A loss, summed over rows: the objective's normalizer divides it with the rest.

    A term may own a `module`. It is trained with the network by the run's optimizer, averaged where that is, saved with
    the full state, and stays out of weight files.
    """

    module: nn.Module | None = None

    @abstractmethod
    def __call__(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss sum, metric sums): the first unweighted, the others under `<name>/…` with `<name>/rows` beside them."""


@dataclass(frozen=True)
class WeightedTerm:
    name: str
    weight: float
    term: Term


def add_terms(
    terms: Sequence[WeightedTerm], view: View, loss: Tensor, metrics: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A step's loss and metric sums with all terms added: the one function by which every objective does it.

    `train/<name>_loss` is the term's loss before its weight, per unit of the normalizer.
    """
    for item in terms:
        term_loss, term_metrics = item.term(view)
        loss = loss + item.weight * term_loss
        written = term_metrics | {f"{item.name}_loss": term_loss.detach()}
        if twice := metrics.keys() & written.keys():
            raise ValueError(f"the term {item.name} writes over {sorted(twice)}")
        metrics = metrics | written
    return loss, metrics


def owned_modules(terms: Sequence[WeightedTerm]) -> dict[str, nn.Module]:
    """The modules that terms own, by the terms' names."""
    return {item.name: item.term.module for item in terms if item.term.module is not None}
