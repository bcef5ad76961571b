"""The same rows answered by several trajectories with noise at every supervision step, one of which is chosen.

Source: Sghaier, Parviz, Jolicoeur-Martineau 2026 (Probabilistic TRM, arXiv:2605.19943): Gaussian noise into the latent
at each deep recursion step, K rollouts, the answer of the one that the existing Q head values most; nothing is trained.
Differs: which state has the noise is an option, because public accounts of it do not agree (z_L, z_H or both).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dataset.puzzle_folder import PuzzleSet
from errors import UserError
from models.act import Batch
from models.recursion import RecurrentState, SupervisionStep
from models.recursive_model import RecursiveModel
from options import MOST_REPEATS, anything, at_least, one_of, option, section
from training.inference.base import Inference, InferenceSettings, Predictions, changed_settings
from training.inference.fixed import FixedInference, start_state, step_of
from training.inference.stability import ProbeSettings, StabilityProbe
from training.noise import SITES, draw_state_noise, perturb

if TYPE_CHECKING:
    from training.settings.schema import AnswerConfig


@dataclass
class Settings(InferenceSettings):
    """Noise at every supervision step, many rollouts of each row, of which the highest q_halt counts."""

    sigma: float | None = option(None, "noise scale; null = no stochastic rollouts", at_least(0))
    rollouts: int = option(4, "rollouts of each row", at_least(1, MOST_REPEATS))
    site: str = option("both", "which states have noise", one_of(*SITES))
    noise_seed: int = option(0, "seed of the noise", at_least(0))
    clean_first: bool = option(False, "the first rollout has no noise", anything)
    judged_steps: list[int] = option(
        [], "steps after which rollouts are judged; default: max_steps, its half and quarter", at_least(1)
    )
    probes: ProbeSettings = section(ProbeSettings, "how stable each rollout is where it is judged; off by default")

    in_runs: ClassVar[bool] = False
    excludes: ClassVar[tuple[str, ...]] = ("adaptive_halt", "vote", "perturbed_starts")
    excludes_because: ClassVar[str] = "they take a fixed number of steps and choose among themselves"
    named: ClassVar[str] = "rollouts"
    named_by: ClassVar[str] = "sigma"
    switched_on_by: ClassVar[str] = "eval.stochastic_rollouts.sigma=0.3"

    @property
    def in_use(self) -> bool:
        return self.sigma is not None

    def unread(self) -> dict[str, str]:
        if not self.in_use or self.probes.in_use:
            return super().unread()
        switch = "eval.stochastic_rollouts.probes.sizes=[1e-3]"
        return {f"probes.{key}": switch for key in changed_settings(self.probes)}

    def check(self, settings: "AnswerConfig") -> None:
        self.probes.check()
        if settings.max_steps is not None:
            judged_steps(self.judged_steps, settings.max_steps)

    def mode(self) -> dict[str, Any]:
        return {"rollouts": self.rollouts} if self.in_use else {}

    def passes(self, inner: int, steps: int) -> int:
        probe = self.probes.build(self.noise_seed)
        probing = 0 if probe is None else probe.passes() * len(judged_steps(self.judged_steps, steps))
        return self.rollouts * (steps + probing) + (0 if self.clean_first or self.sigma == 0 else steps)

    def build(
        self, inner: Inference, settings: "AnswerConfig", puzzle_sets: Sequence[PuzzleSet], seed: int
    ) -> Inference:
        """Rollouts of their own in place of `inner`; their noise has a seed of its own too."""
        assert self.sigma is not None
        return StochasticRollouts(
            self.sigma, self.site, self.rollouts, settings.max_steps, judged_steps=self.judged_steps,
            seed=self.noise_seed, clean_first=self.clean_first, probe=self.probes.build(self.noise_seed),
        )  # fmt: skip

    def recipe(self) -> dict[str, Any]:
        """How the rollouts are made, as reports and tables say it."""
        return {
            "sigma": self.sigma, "site": self.site, "rollouts": self.rollouts,
            "noise_seed": self.noise_seed, "clean_first": self.clean_first,
            "stability": asdict(self.probes) if self.probes.in_use else None,
        }  # fmt: skip


@dataclass(kw_only=True)
class RolloutPredictions(Predictions):
    """What `Predictions` has is of the rollout with the highest q after the last step, the first of equal ones.

    Of R rollouts, each judged after C of its supervision steps (`judged_steps`, ascending): rollout_answers
    (B, R, C, S) int; rollout_q (B, R, C) the halting logit; rollout_margin (B, R, C) mean over cells of the largest
    logit minus the second; rollout_growth (B, R, C, Z) for Z sizes of `StabilityProbe.growth`, Z = 0 without a probe.
    noiseless_answers (B, C, S) int: of the trajectory without noise, which none of the rules chooses.
    forward_passes: of all rollouts and probes together, and of the trajectory without noise.
    """

    judged_steps: tuple[int, ...]
    rollout_answers: Tensor
    rollout_q: Tensor
    rollout_margin: Tensor
    rollout_growth: Tensor
    noiseless_answers: Tensor


class StochasticRollouts(FixedInference):
    """Exactly `max_steps` supervision steps in each of `rollouts` trajectories: z <- step(z + sigma * epsilon).

    The noise comes before each step, the first one included, so that what is read has been through the network. The
    standard normal epsilon of a step is a function of (seed, `batch["row"]`, rollout, step, state) alone: not of
    sigma, the batch, its order, the number of rollouts, processes or devices. It is drawn on the CPU, added in float32
    and rounded to the state's dtype. With sigma=0 a rollout is `FixedInference`, to the bit. Rollouts are made one
    after the other, in batches as they come, and before them one trajectory without noise, to compare with: the
    first rollout where that has none either. Labels are not looked at.

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
        noiseless: list[Tensor] = []
        first_is_noiseless = self.clean_first or self.sigma == 0
        for rollout in range(self.rollouts) if first_is_noiseless else (None, *range(self.rollouts)):
            state = start_state(model, size)
            for moment in range(1, num_steps + 1):
                state = step(self._with_noise(state, rows, rollout, moment))
                if moment not in judged:
                    continue
                logits, q_halt, _ = model.readout(state)
                answers = logits.argmax(dim=-1)
                if rollout is None or (rollout == 0 and first_is_noiseless):
                    noiseless.append(answers)
                if rollout is not None:
                    growth = self._growth(step, state, rows, rollout, moment)
                    readings.append(_Reading(answers, q_halt, _margin(logits), growth))
            if rollout is None:
                continue
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
            forward_passes=size * (self.rollouts * passes + (0 if first_is_noiseless else num_steps)),
            judged_steps=tuple(judged),
            rollout_answers=by_rollout["answers"],
            rollout_q=by_rollout["q_halt"],
            rollout_margin=by_rollout["margin"],
            rollout_growth=by_rollout["growth"],
            noiseless_answers=torch.stack(noiseless, dim=1),
        )

    def _with_noise(self, state: RecurrentState, rows: Tensor, rollout: int | None, moment: int) -> RecurrentState:
        """The state before supervision step `moment` (from 1); without noise where `rollout` is None."""
        if self.sigma == 0 or rollout is None or (self.clean_first and rollout == 0):
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
            raise UserError(
                f"option 'eval.stochastic_rollouts.judged_steps': found {step}, expected steps from 1 to {num_steps}"
            )
    return sorted({*chosen, num_steps})


def _margin(logits: Tensor) -> Tensor:
    """(B,) float32: how much the largest logit of a cell exceeds the second, mean over cells."""
    first, second = logits.float().topk(2, dim=-1).values.unbind(-1)
    return (first - second).mean(dim=-1)


def _ranked(q: Tensor) -> Tensor:
    """A q that is no number is below all others."""
    return torch.where(q.isnan(), -torch.inf, q)
