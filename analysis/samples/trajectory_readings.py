"""What is said about the states of a trajectory as they come: answers, halting values, how far they move."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from analysis.samples.measured_rows import Arrays
from models.recursion import RecurrentState
from models.recursion_maps import RecursionMaps

MAX_PERIOD = 8
LATE_STEPS = 4
# (B, S) answers -> (B,) number of broken rules, for a task that has rules.
CountViolations = Callable[[np.ndarray], np.ndarray]


def late_steps(num_steps: int) -> int:
    """How many of the last steps of a trajectory are its end: at most 4, and at most half of all."""
    return max(1, min(LATE_STEPS, num_steps // 2))


def free_scores(arrays: Arrays, late_drift: np.ndarray) -> dict[str, np.ndarray]:
    """What costs nothing, each (n,) and turned so that more means failure; none of it needs the label.

    arrays: (n, steps), of which the last step is read, and `residual`.
    """
    scores = {
        "late_drift": late_drift,
        "residual": arrays["residual"],
        "minus_q_halt": -arrays["q_halt"][:, -1],
        "minus_logit_margin": -arrays["margin"][:, -1],
        "entropy": arrays["entropy"][:, -1],
        "changed_cells": arrays["changed"][:, -1].astype(float),
    }
    if "violations" in arrays:
        scores["violations"] = arrays["violations"][:, -1].astype(float)
    return scores


class TrajectoryRecorder:
    """Collects what is said about the states as they come; an `on_step` of `lyapunov_spectrum`."""

    def __init__(self, maps: RecursionMaps, start: RecurrentState, violations: CountViolations | None) -> None:
        self._maps, self._violations = maps, violations
        self._state = start
        self._answers: Tensor | None = None
        self.steps: list[dict[str, Tensor]] = []
        self.recent_answers: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, state: object) -> None:
        assert isinstance(state, RecurrentState)
        readings = self._maps.read(state)
        answers = readings.logits.argmax(dim=-1)
        cells = self._maps.batch["inputs"] != 0  # token 0 is padding in all data sets
        log_p = readings.logits.double().log_softmax(dim=-1)
        top = log_p.topk(2, dim=-1).values
        norm = _norm(state)
        step = {
            "exact": readings.exact,
            "q_halt": readings.q_halt.double(),
            "drift": _norm(RecurrentState(state.z_H - self._state.z_H, state.z_L - self._state.z_L)) / norm,
            "norm": norm,
            "margin": _mean(top[..., 0] - top[..., 1], cells),
            "entropy": _mean(-(log_p.exp() * log_p).sum(dim=-1), cells),
            "changed": (answers != self._answers).logical_and(cells).sum(dim=1)
            if self._answers is not None
            else cells.sum(dim=1),
        }
        if self._violations is not None:
            step["violations"] = torch.from_numpy(self._violations(answers.cpu().numpy()))
        self.steps.append({name: value.cpu() for name, value in step.items()})
        self.recent_answers = [*self.recent_answers, answers.cpu()][-(MAX_PERIOD + 1) :]
        self._state, self._answers = state, answers

    def arrays(self) -> Arrays:
        """Every reading as (B, steps)."""
        return {name: torch.stack([step[name] for step in self.steps], dim=1).numpy() for name in self.steps[0]}

    def answer_period(self) -> np.ndarray:
        """(B,) smallest p <= 8 after which the last answer had been given before; 0 where none."""
        last = self.recent_answers[-1]
        period = np.zeros(len(last), np.int64)
        for p in range(len(self.recent_answers) - 1, 0, -1):
            same = (self.recent_answers[-1 - p] == last).all(dim=1).numpy()
            period[same] = p
        return period


def _norm(state: RecurrentState) -> Tensor:
    squares = state.z_H.double().square().sum(dim=(1, 2)) + state.z_L.double().square().sum(dim=(1, 2))
    return squares.sqrt()


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum(dim=1) / where.sum(dim=1).clamp_min(1)
