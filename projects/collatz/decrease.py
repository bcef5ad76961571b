"""Objectives of a function V that is to decrease along T: the source's hinge with its anchor, and a saturating loss."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from models.act import Batch
from projects.collatz.closed_forms import SMALLEST_MARGIN
from projects.collatz.settings import CollatzConfig
from projects.collatz.value_networks import DRIFT_INIT, CollatzValue, LookaheadValue, drift
from training.objectives.base import Output, Stateless, UpdateContext

# Extra states whose V must be below V(n) by the margin, and the weight of their hinge.
T4, T8 = (4, 0.5), (8, 0.2)
ANCHOR_FLOOR = 0.001
_HARD = 2.0  # a hard row weighs twice as much


def further_states(settings: CollatzConfig) -> list[tuple[int, float]]:
    """(steps ahead, weight) of the constraints beside that of one step."""
    return [constraint for constraint, used in ((T4, settings.use_t4), (T8, settings.use_t8)) if used]


def values_at(network: CollatzValue, batch: Batch, states: list[int]) -> Tensor:
    """V (B, len(states)) of the states n, T(n), ... of each row, in one pass."""
    window = network.lookahead
    valuations = batch["valuations"].unfold(1, window, 1)[:, states]
    if network.needs_window_logs:
        logs = batch["logs"].unfold(1, window + 1, 1)[:, states]
    else:
        logs = batch["logs"][:, states, None]
    return network(logs, batch["residues"][:, states], valuations)


@torch.no_grad()
def pair_margins(network: CollatzValue, batch: Batch) -> Tensor:
    """V(n) - V(T(n)), (B,) float64."""
    values = values_at(network, batch, [0, 1])
    return values[:, 0] - values[:, 1]


class HingeDecrease(Stateless):
    """The source's loss, a mean over the batch.

    w relu(m - (V(n) - V(Tn))) + 0.5 relu(m - (V(n) - V(T^4 n))) + 0.2 (likewise T^8) + a (V(n) - target)^2, the middle
    ones where asked for. w is `growth_weight` on growth steps and 1 on others, twice that on hard rows; target =
    ln n + beta drift with beta 0.35 (`fixed`) or the network's own, which only this term moves (`adaptive`). a is 1 for
    `decay_start` updates, falls to 0.001 over `decay_len` more, and stays there. A row that is not kept counts as 0.
    """

    name = "collatz_hinge"

    def __init__(self, settings: CollatzConfig) -> None:
        self.settings = settings

    def anchor_weight(self, step: int) -> float:
        """The weight a at `step`, the number of updates made so far."""
        settings = self.settings
        if step < settings.decay_start:
            return 1.0
        falling = ANCHOR_FLOOR ** min(1.0, (step - settings.decay_start) / max(1, settings.decay_len))
        return float(settings.min_anchor + (1 - settings.min_anchor) * falling)

    def outputs(self, model: Any, batch: Batch, context: UpdateContext) -> Iterator[Output]:
        network, settings = cast(LookaheadValue, model), self.settings
        further = further_states(settings)
        states = [0, 1, *(ahead for ahead, _ in further)]
        values = values_at(network, batch, states)
        kept, growth = batch["kept"], batch["valuations"][:, 0] == 1
        margins = values[:, :1] - values[:, 1:]
        hinges = torch.relu(settings.margin - margins)
        weights = torch.where(growth, settings.growth_weight, 1.0) * torch.where(batch["hard"], _HARD, 1.0)
        decrease = weights * settings.decay_weight * hinges[:, 0]
        for column, (_, weight) in enumerate(further, 1):
            decrease = decrease + weight * hinges[:, column]
        beta = network.drift_coefficient if settings.target_type == "adaptive" else DRIFT_INIT
        target = batch["logs"][:, 0] + beta * drift(batch["valuations"][:, : network.lookahead])
        anchor = self.anchor_weight(context.step) * (values[:, 0] - target) ** 2
        decrease_sum, anchor_sum = (decrease * kept).sum(), (anchor * kept).sum()
        rows = len(kept)
        yield Output(
            decrease_sum + anchor_sum,
            float(rows),
            trained_steps=rows * len(states),
            metric_sums=_counts(margins[:, 0], kept, growth)
            | {"decrease_loss": decrease_sum.detach(), "anchor_loss": anchor_sum.detach()},
        )


class SaturatingDecrease(Stateless):
    """Mean over steps of r / (r + tau), r = relu(m - (V(n) - V(Tn))): nearly the share of violations.

    tau falls geometrically from `tau_start` to `tau_end` over the planned updates. Each row of the batch is a segment
    of consecutive states, evaluated once each; margins of 4 steps, where asked for, are differences of the same values.
    Differs from a hinge: a step that is far from being satisfied has little gradient, and does not cost the others
    theirs. Differs from a sigmoid of the margin: a step that is satisfied has none, and is not made more so at the
    cost of others.
    """

    name = "collatz_saturating"

    def __init__(self, settings: CollatzConfig, planned_updates: int) -> None:
        self.settings, self.planned_updates = settings, planned_updates

    def tau(self, step: int) -> float:
        """The temperature at `step`, the number of updates made so far."""
        settings = self.settings
        progress = min(1.0, step / max(1, self.planned_updates))
        return float(settings.tau_start * (settings.tau_end / settings.tau_start) ** progress)

    def _saturating(self, margins: Tensor, tau: float) -> Tensor:
        excess = torch.relu(self.settings.margin - margins)
        return excess / (excess + tau)

    def outputs(self, model: Any, batch: Batch, context: UpdateContext) -> Iterator[Output]:
        network, settings = cast(CollatzValue, model), self.settings
        kept = batch["kept"]
        steps = kept.shape[1]
        values = values_at(network, batch, list(range(steps + 1)))
        margins, tau = values[:, :-1] - values[:, 1:], self.tau(context.step)
        growth = batch["valuations"][:, :steps] == 1
        weights = torch.where(growth, settings.growth_weight, 1.0) * settings.decay_weight * kept
        loss = (weights * self._saturating(margins, tau)).sum()
        for ahead, weight in further_states(settings):
            longer = values[:, :-ahead] - values[:, ahead:]
            apart = kept.unfold(1, ahead, 1).all(dim=-1)
            loss = loss + weight * (apart * self._saturating(longer, tau)).sum()
        yield Output(
            loss, float(kept.numel()), trained_steps=values.numel(), metric_sums=_counts(margins, kept, growth)
        )


def _counts(margins: Tensor, kept: Tensor, growth: Tensor) -> dict[str, Tensor]:
    """Violations among the kept steps; `count` is what they are a share of."""
    violations = (margins.detach() < SMALLEST_MARGIN) & kept
    return {"count": kept.sum(), "violations": violations.sum(), "growth_violations": (violations & growth).sum()}
