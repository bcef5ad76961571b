"""A network as a function that evaluation can judge, beside the closed forms and by the same rule."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from projects.collatz.closed_forms import SMALLEST_MARGIN
from projects.collatz.syracuse import orbit
from projects.collatz.value_networks import CollatzValue
from projects.collatz.windows import Windows, next_residues, orbit_windows
from training.devices import has_float64

_ROWS = 1 << 12  # of one pass


@dataclass(frozen=True)
class NetworkJudge:
    """V of a network. A margin V(n) - V(T(n)) below 1e-6 is a violation, as for the closed forms.

    float64: a copy of the network that computes in float64 throughout, so that no violation is one of rounding; on the
    CPU where the network's device has no such format.
    """

    name: str
    network: CollatzValue

    @classmethod
    def float64(cls, name: str, network: CollatzValue) -> "NetworkJudge":
        twin = copy.deepcopy(network)
        device = next(network.parameters()).device
        twin = twin if has_float64(device) else twin.cpu()
        return cls(name, twin.double().eval().requires_grad_(False))

    def margins(self, windows: Windows) -> np.ndarray:
        """(B,) float64."""
        blocks = [self._margins(windows.cut(slice(first, first + _ROWS))) for first in range(0, len(windows), _ROWS)]
        return np.concatenate(blocks) if blocks else np.empty(0)

    def violations(self, windows: Windows) -> np.ndarray:
        """(B,) bool."""
        return self.margins(windows) < SMALLEST_MARGIN

    def worst_margin(self, start: int) -> float | None:
        """The smallest margin among the violations along the orbit of `start`; None without one."""
        margins = self.margins(orbit_windows(orbit(start), self.network.lookahead))
        bad = margins[margins < SMALLEST_MARGIN]
        return float(bad.min()) if len(bad) else None

    @torch.no_grad()
    def _margins(self, windows: Windows) -> np.ndarray:
        device = next(self.network.parameters()).device
        after = next_residues(windows.residues, windows.valuations[:, 0])
        pairs = [
            (windows.logs[:, :-1], windows.residues, windows.valuations[:, :-1]),
            (windows.logs[:, 1:], after, windows.valuations[:, 1:]),
        ]
        before, following = (self.network(*(_tensor(array, device) for array in pair)) for pair in pairs)
        return np.asarray((before - following).cpu().double().numpy())


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return (tensor if has_float64(device) or tensor.dtype != torch.float64 else tensor.float()).to(device)
