"""The pure map: what one supervision step does to the recurrent state, and nothing else.

Every consumer (ACT wrapper, objectives, Lyapunov engine) calls the same map, so there is no `no_grad`, no
`detach` and no halting in this file. Truncation is a decision of the caller: under `no_grad` a JVP still
sees the derivative while a VJP is silently zero, and the two would disagree about one and the same model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class RecurrentState(NamedTuple):
    """The latent state. z_H ("answer") and z_L ("latent") are (B, P+S, D); a tuple, hence a pytree."""

    z_H: Tensor
    z_L: Tensor


SubUpdate = Callable[[RecurrentState], RecurrentState]


@dataclass(frozen=True)
class SupervisionStep:
    """One supervision step as an ordered list of pure sub-updates.

    Args:
        sub_updates: each replaces z_L or z_H by one call of a stack; SRM's replace both.
        grad_start: index of the first sub-update through which the training loss is back-propagated.
    """

    sub_updates: Sequence[SubUpdate]
    grad_start: int

    def __call__(self, state: RecurrentState) -> RecurrentState:
        """Apply all sub-updates: the map whose iterates are the model's inference."""
        for sub_update in self.sub_updates:
            state = sub_update(state)
        return state


def cycle_order(H_cycles: int, L_cycles: int) -> list[str]:
    """The order of updates in a step: per H cycle L_cycles updates of z_L, then one of z_H.

    Source: Wang et al. 2025 (HRM, arXiv:2506.21734), Jolicoeur-Martineau 2025 (TRM, arXiv:2510.04871).
    """
    return (["L"] * L_cycles + ["H"]) * H_cycles
