"""The same rows answered several times, each time from another point near the initial state.

Source: trajectory perturbation of HRM and TRM: x and the number of steps unchanged, z0 -> z0 + sigma * epsilon.
"""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from errors import UserError
from models.act import Batch
from models.recursive_model import RecursiveModel
from options import MOST_REPEATS, at_least, one_of, option
from training.inference.base import InferenceSettings, Predictions
from training.inference.fixed import FixedInference, start_state, step_of, unroll
from training.noise import SITES, draw_state_noise, perturb

if TYPE_CHECKING:
    from training.settings.schema import AnswerConfig

# This is not a run's seed, so that all models and all evaluations are tried from the same perturbations.
SEED = 0


@dataclass
class Settings(InferenceSettings):
    """Accuracy from perturbed starts z0 + sigma epsilon, beside everything else."""

    sigma: list[float] = option([], "noise scales, each measured; in a run once, at its end", at_least(0))
    starts: int = option(4, "perturbed starts of each row and noise scale", at_least(1, MOST_REPEATS))
    site: str = option("both", "what is perturbed", one_of(*SITES))

    answers: ClassVar[bool] = False
    excludes: ClassVar[tuple[str, ...]] = ("adaptive_halt", "vote")
    excludes_because: ClassVar[str] = "perturbed starts are answered after a fixed number of steps"
    named: ClassVar[str] = "perturbed"
    named_by: ClassVar[str] = "sigma"
    switched_on_by: ClassVar[str] = "eval.perturbed_starts.sigma=[0.1]"

    @property
    def in_use(self) -> bool:
        return bool(self.sigma)

    def passes(self, inner: int, steps: int) -> int:
        return inner + len(self.sigma) * self.starts * steps

    def unread(self) -> dict[str, str]:
        """None: `eval.during.sigma_grid` reads them too."""
        return {}

    def check(self, settings: "AnswerConfig") -> None:
        """Noise scales twice, and those of `eval.during` beside what perturbed starts exclude."""
        _refuse_equal(self.sigma, "eval.perturbed_starts.sigma")
        during = getattr(settings, "during", None)  # evaluate.py has none
        if during is not None and during.sigma_grid:
            _refuse_equal(during.sigma_grid, "eval.during.sigma_grid")
            self.refuse_excluded(settings, "eval.during.sigma_grid")


def _refuse_equal(sigmas: list[float], option: str) -> None:
    names = [f"{sigma:g}" for sigma in sigmas]
    if len(set(names)) < len(names):
        raise UserError(f"option '{option}': found {', '.join(names)}, expected each noise scale once")


@dataclass(kw_only=True)
class PerturbedPredictions(Predictions):
    """Of K rollouts: rollout_answers (B, K, S) int, rollout_steps (B, K). What `Predictions` has is the first one's.

    forward_passes: of all rollouts together.
    """

    rollout_answers: Tensor
    rollout_steps: Tensor


class PerturbedInference(FixedInference):
    """Exactly `max_steps` supervision steps, q ignored, from each of `rollouts` starts z0 + sigma * epsilon.

    The standard normal epsilon of a rollout depends on (`batch["row"]`, number of the rollout, state) only: not on
    sigma, the batch, its order, the number of processes or the run. It is added in float32 and rounded to the state's
    dtype, so that a bfloat16 state loses most of a sigma below 1e-3 (`training.noise.perturb`). With sigma=0
    every rollout is `FixedInference`, to the bit. Rollouts are made one after the other, in batches as they come.

    Args:
        sigma: standard deviation of each value of the states that are perturbed, 0 or more.
        site: z_H | z_L | both. rollouts: at least 1. max_steps: None means the model's halt_max_steps.
    """

    name = "perturbed"

    def __init__(self, sigma: float, site: str, rollouts: int, max_steps: int | None = None) -> None:
        super().__init__(max_steps)
        self.sigma, self.site, self.rollouts = sigma, site, rollouts

    @torch.no_grad()
    def predict(self, model: RecursiveModel, batch: Batch) -> PerturbedPredictions:
        num_steps, step = self.num_steps(model), step_of(model, batch)
        clean = start_state(model, batch["inputs"].shape[0])
        rows = batch["row"].cpu().clamp_min(0)  # padding has no number, and what it starts from is all the same
        sigma = torch.full((len(rows),), self.sigma, dtype=torch.float64)
        answers = []
        for rollout in range(self.rollouts):
            noise = draw_state_noise(SEED, rollout, rows, tuple(clean.z_H.shape[1:]), self.site, "evaluation")
            start = perturb(clean, sigma, noise, self.site)
            (state,) = deque(unroll(step, start, num_steps), maxlen=1)
            logits, q_halt, _ = model.readout(state)
            answers.append(logits.argmax(dim=-1))
            if rollout == 0:
                first_logits, first_q_halt = logits, q_halt
        steps = torch.full_like(batch["puzzle_identifiers"], num_steps)
        return PerturbedPredictions(
            answers=answers[0],
            q_halt=first_q_halt,
            steps=steps,
            logits=first_logits,
            forward_passes=self.rollouts * len(steps) * num_steps,
            rollout_answers=torch.stack(answers, dim=1),
            rollout_steps=steps[:, None].expand(-1, self.rollouts),
        )
