"""Gradients of losses that are kept apart until the update: measured and clipped on their own, then added.

Protocol: `training.objectives.base.Apart`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.devices import on_device
from training.distributed import World
from training.objectives.base import Apart, Output

# A loss kept apart reports means over updates (the first), sums (the second), and otherwise means over rows.
PER_UPDATE = ("grad_norm", "clipped")
SUMS = ("rows", "degenerate", "updates", "samples")


class ApartGradients:
    """Sums of one update, by name."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self._sums: dict[str, list[Tensor]] = {}
        self._kinds: dict[str, Apart] = {}

    def add(self, output: Output) -> None:
        """Back-propagate an output kept apart; nobody's `.grad` changes. One without a graph has the gradient 0."""
        assert output.apart is not None
        name = output.apart.name
        self._kinds[name] = output.apart
        sums = self._sums.setdefault(name, [torch.zeros_like(p) for p in self.parameters])
        if output.loss_sum.requires_grad and self.parameters:
            gradients = torch.autograd.grad(output.loss_sum, self.parameters, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient

    def merge(
        self, world: World, names: Sequence[str], sums: Tensor, device: torch.device
    ) -> tuple[list[str], list[Tensor]]:
        """Add all to the parameters' gradients, which are there; returns names and values of new numbers. Collective.

        Args:
            names, sums: the update's numbers over all processes, `<name>/rows` among them.
        """
        new_names: list[str] = []
        values: list[Tensor] = []
        for name, kind in self._kinds.items():
            gradients = self._sums[name]
            world.sum_(gradients)
            rows = sums[names.index(f"{name}/rows")]
            norm, clipped = on_device(0.0, device), on_device(0.0, device)
            if gradients:
                torch._foreach_div_(gradients, nonzero(rows).to(gradients[0].dtype))
                norm = on_device(torch.nn.utils.get_total_norm(gradients), device)
                factor = torch.full_like(norm, kind.weight)
                if kind.clip is not None:
                    clipped = (norm > kind.clip).to(norm.dtype)
                    factor = factor * (kind.clip / norm.clamp_min(kind.clip))
                for parameter, gradient in zip(self.parameters, gradients, strict=True):
                    assert parameter.grad is not None
                    parameter.grad += gradient * factor.to(gradient.dtype)
            new_names += [f"{name}/grad_norm", f"{name}/clipped", f"{name}/updates"]
            values += [norm, clipped, on_device(1.0, device)]
        return new_names, values


def nonzero(normalizer: Tensor) -> Tensor:
    """What a sum of no rows is divided by."""
    return torch.where(normalizer == 0, torch.ones_like(normalizer), normalizer)
