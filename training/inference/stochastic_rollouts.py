"""The same rows answered by several trajectories with noise at every supervision step, one of which is chosen.

Source: Sghaier, Parviz, Jolicoeur-Martineau 2026 (Probabilistic TRM, arXiv:2605.19943): Gaussian noise into the latent
at each deep recursion step, K rollouts, the answer of the one that the existing Q head values most; nothing is trained.
Differs: which state has the noise is an option, because public accounts of it do not agree (z_L, z_H or both).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errors import UserError
from models.act import Batch
from models.recursion import RecurrentState, SupervisionStep
from models.recursive_model import RecursiveModel
from training.inference.base import Predictions
from training.inference.fixed import FixedInference, start_state, step_of
from training.inference.stability import StabilityProbe
from training.noise import draw_state_noise, perturb


@dataclass(kw_only=True)
class RolloutPredictions(Predictions):
    """What `Predictions` has is of the rollout with the highest q after the last step, the first of equal ones.

    Of R rollouts, each judged after C of its supervision steps (`judged_steps`, ascending): rollout_answers
    (B, R, C, S) int; rollout_q (B, R, C) the halting logit; rollout_margin (B, R, C) mean over cells of the largest
    logit minus the second; rollout_growth (B, R, C, Z) for Z sizes of `StabilityProbe.growth`, Z = 0 without a probe.
    forward_passes: of all rollouts and probes together.
    """

    judged_steps: tuple[int, ...]
    rollout_answers: Tensor
    rollout_q: Tensor
    rollout_margin: Tensor
    rollout_growth: Tensor


class StochasticRollouts(FixedInference):
    """Exactly `max_steps` supervision steps in each of `rollouts` trajectories: z <- step(z + sigma * epsilon).

    The noise comes before each step, the first one included, so that what is read has been through the network. The
    standard normal epsilon of a step is a function of (seed, `batch["row"]`, rollout, step, state) alone: not of
    sigma, the batch, its order, the number of rollouts, processes or devices. It is drawn on the CPU, added in float32
    and rounded to the state's dtype. With sigma=0 a rollout is `FixedInference`, to the bit. Rollouts are made one
    after the other, in batches as they come. Labels are not looked at.

    Args:
        sigma: standard deviation for each value of the states that have noise, 0 or more.
        site: z_H | z_L | both. rollouts: at least 1. max_steps: None means the model's halt_max_steps.
        judged_steps: supervision steps after which rollouts are read, as `judged_steps`; the last one always is.
        clean_first: the first rollout has no noise (not so in the source).
        probe: measures the stability of each rollout where it is read; None measures nothing.
        on_rollout: called after each rollout of a batch, for progress.
    """

    name = "stochastic_rollouts"

    def __init__(
        self,
        sigma: float,
        site: str,
        rollouts: int,
        max_steps: int | None = None,
        *,
        judged_steps: Sequence[int] = (),
        seed: int = 0,
        clean_first: bool = False,
        probe: StabilityProbe | None = None,
        on_rollout: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(max_steps)
        self.sigma, self.site, self.rollouts = sigma, site, rollouts
        self.judged_steps, self.seed, self.clean_first = tuple(judged_steps), seed, clean_first
        self.probe, self.on_rollout = probe, on_rollout

    @torch.no_grad()
    def predict(self, model: RecursiveModel, batch: Batch) -> RolloutPredictions:
        num_steps, size = self.num_steps(model), len(batch["inputs"])
        judged = judged_steps(self.judged_steps, num_steps)
        rows = batch["row"].cpu().clamp_min(0)  # padding has no number, and its noise is all the same
        step = step_of(model, batch)
        readings: list[_Reading] = []
        for rollout in range(self.rollouts):
            state = start_state(model, size)
            for moment in range(1, num_steps + 1):
                state = step(self._with_noise(state, rows, rollout, moment))
                if moment in judged:
                    logits, q_halt, _ = model.readout(state)
                    growth = self._growth(step, state, rows, rollout, moment)
                    readings.append(_Reading(logits.argmax(dim=-1), q_halt, _margin(logits), growth))
            # Logits take most of the memory, so only those of the best rollout so far are kept.
            if rollout == 0:
                best_answers, best_logits, best_q = readings[-1].answers, logits, q_halt
            else:
                better = _ranked(q_halt) > _ranked(best_q)
                best_answers = torch.where(better[:, None], readings[-1].answers, best_answers)
                best_logits = torch.where(better[:, None, None], logits, best_logits)
                best_q = torch.where(better, q_halt, best_q)
            self.on_rollout()
        passes = num_steps + (0 if self.probe is None else len(judged) * self.probe.passes())
        by_rollout = {
            name: torch.stack([getattr(reading, name) for reading in readings], dim=1).unflatten(1, (-1, len(judged)))
            for name in ("answers", "q_halt", "margin", "growth")
        }
        return RolloutPredictions(
            answers=best_answers,
            q_halt=best_q,
            steps=torch.full_like(batch["puzzle_identifiers"], num_steps),
            logits=best_logits,
            forward_passes=self.rollouts * size * passes,
            judged_steps=tuple(judged),
            rollout_answers=by_rollout["answers"],
            rollout_q=by_rollout["q_halt"],
            rollout_margin=by_rollout["margin"],
            rollout_growth=by_rollout["growth"],
        )

    def _with_noise(self, state: RecurrentState, rows: Tensor, rollout: int, moment: int) -> RecurrentState:
        """The state before supervision step `moment` (from 1)."""
        if self.sigma == 0 or (self.clean_first and rollout == 0):
            return state
        shape = tuple(state.z_H.shape[1:])
        noise = draw_state_noise(self.seed, moment, rows, shape, self.site, f"rollouts/{rollout}")
        return perturb(state, torch.full((len(rows),), self.sigma, dtype=torch.float64), noise, self.site)

    def _growth(self, step: SupervisionStep, state: RecurrentState, rows: Tensor, rollout: int, moment: int) -> Tensor:
        if self.probe is None:
            return torch.zeros(len(rows), 0, device=state.z_H.device)
        return self.probe.growth(step, state, rows, rollout, moment)


@dataclass
class _Reading:
    """Of one rollout after one of its steps: answers (B, S), q_halt (B,), margin (B,), growth (B, Z)."""

    answers: Tensor
    q_halt: Tensor
    margin: Tensor
    growth: Tensor


def judged_steps(asked: Sequence[int], num_steps: int) -> list[int]:
    """Steps after which rollouts of `num_steps` steps are read, ascending: those asked for and the last.

    Where none is asked for also a quarter and a half of them. Errors: `UserError` for one that is never reached.
    """
    chosen = asked or [step for step in (num_steps // 4, num_steps // 2) if step]
    for step in chosen:
        if not 1 <= step <= num_steps:
            raise UserError(f"option 'eval.judged_steps': found {step}, expected steps from 1 to {num_steps}")
    return sorted({*chosen, num_steps})


def _margin(logits: Tensor) -> Tensor:
    """(B,) float32: how much the largest logit of a cell exceeds the second, mean over cells."""
    first, second = logits.float().topk(2, dim=-1).values.unbind(-1)
    return (first - second).mean(dim=-1)


def _ranked(q: Tensor) -> Tensor:
    """A q that is no number is below all others."""
    return torch.where(q.isnan(), -torch.inf, q)
