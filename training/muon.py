"""Muon for the matrices inside the blocks, AdamW for everything else, as one optimizer with one state."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Both of torch's optimizers keep per-parameter state by parameter and settings by group, so they can share both.
_MATRICES, _OTHERS = 0, 1


class MuonAdamW(torch.optim.Optimizer):
    """torch.optim.Muon on `matrices` (2-D), torch.optim.AdamW on `others`; one lr serves both.

    Muon replaces a matrix's averaged gradient by the nearest semi-orthogonal matrix, scaled here to the size of
    AdamW's update (0.2 sqrt(larger side)), so that a learning rate means the same for both.
    Source: Jordan et al. 2024 (Muon); Liu et al. 2025, arXiv:2502.16982 (the scale).
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        self._parts: tuple[torch.optim.Optimizer, torch.optim.Optimizer] = (
            torch.optim.Muon(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr, betas, weight_decay=weight_decay),
        )
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        for part, index in zip(self._parts, (_MATRICES, _OTHERS), strict=True):
            part.state = self.state
            part.param_groups = self.param_groups[index : index + 1]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What `load_state_dict` ends in: it brings new containers."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for part in self._parts:
            part.step()


def muon_adamw(model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> MuonAdamW:
    """Matrices of the stacks (`…layers…`) go to Muon; embeddings, heads and biases to AdamW, as is the custom."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (matrices if ".layers." in name and parameter.ndim == 2 else others).append(parameter)
    return MuonAdamW(matrices, others, lr, betas, weight_decay)
