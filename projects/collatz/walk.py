"""Numbers walked along T into what a network sees of them: logarithms, residues, valuations. All of it exact."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.source import RowLosses
from projects.collatz import limbs as collatz_limbs
from projects.collatz.kept_out import KeptOut
from projects.collatz.settings import CollatzConfig
from projects.collatz.windows import MODULUS, next_residues

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Walk:
    """States n, T(n), ..., T^(M-1)(n) of B numbers and the valuations that their windows need.

    Attributes:
        logs: (B, J) float64, ln T^j(n) for j < J, J >= M.
        residues: (B, M) uint8, modulo 81.
        valuations: (B, M - 1 + L) int16, k_1, k_2, ...
        on_test_orbit: (B, M) bool. at_one: (B, M) bool, T^j(n) = 1.
    """

    logs: np.ndarray
    residues: np.ndarray
    valuations: np.ndarray
    on_test_orbit: np.ndarray
    at_one: np.ndarray

    def batch(self, **more: np.ndarray) -> Batch:
        """Logs, residues, valuations and further arrays as tensors."""
        arrays = {"logs": self.logs, "residues": self.residues, "valuations": self.valuations, **more}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


class DrawnSource:
    """What the sources of Collatz runs share: a position is an update, whose batch is drawn anew.

    Attributes: `overlap`, how much of the batches so far lies on a test orbit, of `drawn`: of the whole run, since both
    are in its state. A state of before they were goes on from none.
    """

    epochs_per_iteration = 1
    mean_examples = 1.0
    wants_losses = False
    data: str  # in the fingerprint

    def __init__(self, settings: CollatzConfig, batch_size: int, seed: int, kept_out: KeptOut) -> None:
        self.settings, self.total_groups, self.seed, self._kept_out = settings, batch_size, seed, kept_out
        self.overlap = self.drawn = 0

    def _counted_state(self) -> dict[str, Any]:
        return {"overlap": self.overlap, "drawn": self.drawn}

    def _take_counts(self, state: dict[str, Any]) -> dict[str, Any]:
        """Take the counts out of a state; the rest of it. Errors: `ValueError` for what is no count."""
        counts = [state.get(name, 0) for name in self._counted_state()]
        if not all(type(count) is int and 0 <= count < 2**63 for count in counts) or counts[0] > counts[1]:
            raise ValueError(f"the state's source has {counts} for overlap and drawn, which are no counts")
        self.overlap, self.drawn = counts
        return {name: value for name, value in state.items() if name not in self._counted_state()}

    def learn(self, losses: RowLosses) -> None:
        """Nothing here hears of single rows."""

    def numbers(self) -> dict[str, float]:
        return {}

    def fingerprint(self) -> dict[str, Any]:
        return {"data": self.data, "seed": self.seed, "test_states": len(self._kept_out.states)}


def walk(limbs: np.ndarray, states: int, lookahead: int, kept_out: KeptOut, *, window_logs: bool) -> Walk:
    """Walk odd numbers in limbs (limbs, B) through `states` states and a window beyond the last.

    `window_logs`: logarithms of all states of the windows too, not of the first states alone.
    """
    size, steps = limbs.shape[1], states - 1 + lookahead
    num_logs = states + lookahead if window_logs else states
    logs, valuations = np.empty((num_logs, size)), np.empty((steps, size), np.int16)
    residues = np.empty((states, size), np.int64)
    on_test_orbit, at_one = np.empty((states, size), bool), np.empty((states, size), bool)
    stepper = collatz_limbs.Stepper(limbs)
    residues[0] = collatz_limbs.remainders(limbs, MODULUS)
    for step in range(max(steps + 1, num_logs)):
        if step:
            stepper.step()
            if step <= steps:
                valuations[step - 1] = stepper.valuations
        if step < num_logs:
            logs[step] = collatz_limbs.logarithms(stepper.limbs)
        if step < states:
            on_test_orbit[step] = kept_out.holds(stepper.limbs)
            at_one[step] = collatz_limbs.is_one(stepper.limbs)
            if step:
                residues[step] = next_residues(residues[step - 1], valuations[step - 1])
    return Walk(logs.T, residues.T.astype(np.uint8), valuations.T, on_test_orbit.T, at_one.T)
