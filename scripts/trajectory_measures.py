"""Updates on perturbed trajectories, several kinds side by side: time, passes, steps and memory of each."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.recursive_model import RecursiveModel
from scripts.benchmark_measures import (
    WARM_UP_STEPS,
    Note,
    Record,
    describe,
    training_step,
    updates_per_sample,
)
from scripts.benchmark_memory import kept_bytes, peak_over_base
from scripts.benchmark_setup import DataShape, compose_preset, synthetic_run
from scripts.benchmark_timing import Timing, seconds_of
from training.config import TrainConfig
from training.objectives.base import Objective, UpdateContext
from training.objectives.choose import build_objective
from training.objectives.perturbed_starts import Trajectories
from training.objectives.rollout import HaltingRule
from training.objectives.trajectory_perturbation import ROLLOUTS, ACTMask, SerialACT
from training.run import Run
from training.setup import load_initial_weights

CLEAN = "clean"

# Log-uniform as in the long runs, at full strength from the first update on.
_NOISE = {
    "objective.perturb": "both",
    "objective.noise_sampling": "loguniform",
    "objective.sigma_min": "3e-5",
    "objective.sigma_max": "3e-3",
    "objective.sigma_ramp_steps": "0",
    "objective.clean_warmup_steps": "0",
}


@dataclass(frozen=True)
class Variant:
    """One kind of update: `num_trajectories` of each puzzle, rolled out so."""

    name: str
    objective: str
    rollout: str
    num_trajectories: int

    def compose(self, preset: str, overrides: Mapping[str, str]) -> TrainConfig:
        """The preset with this objective. Errors: `UserError`."""
        own = {
            "objective": self.objective,
            "objective.rollout": self.rollout,
            "objective.num_trajectories": str(self.num_trajectories),
        }
        return compose_preset(preset, {**own, **_NOISE, **overrides})


def variants(num_trajectories: int) -> list[Variant]:
    """The clean fixed unroll first, then what is compared with it."""
    return [
        Variant(CLEAN, "baseline_ce", "parallel_fixed", 1),
        Variant("single", "single_perturbed_ce", "parallel_fixed", 1),
        *(Variant(name, "multi_perturbed_ce", name, num_trajectories) for name in ROLLOUTS),
    ]


def _nobody_halts(step: int, q_halt: Tensor, q_continue: Tensor) -> Tensor:
    return torch.zeros_like(q_halt, dtype=torch.bool)


class FullLengthACTMask(ACTMask):
    """Asks for halting at every step as `ACTMask` does, and nobody halts before `halt_max_steps`."""

    def _halting_rule(self, model: RecursiveModel, context: UpdateContext, chosen: Trajectories) -> HaltingRule:
        return _nobody_halts


class FullLengthSerialACT(FullLengthACTMask, SerialACT):
    """`SerialACT` in which nobody halts before `halt_max_steps`."""


def full_length_objective(config: TrainConfig) -> Objective:
    """The objective of a run, but every trajectory takes `halt_max_steps` supervision steps."""
    full = {"serial_act": FullLengthSerialACT, "act_mask": FullLengthACTMask}.get(config.objective.rollout)
    if full is None:
        return build_objective(config)
    return full(config.objective, config.arch.loss.loss_type, config.accumulation_slices)


@dataclass
class _Subject:
    """A variant's run, ready to be measured."""

    variant: Variant
    run: Run
    step: Callable[[], object]
    seconds: list[float]

    def counters(self) -> Record:
        """What is counted over updates; differences of two calls mean the updates between them."""
        sums = self.run.metric_sums
        return {
            "updates": self.run.step, "trained": self.run.samples_seen, "extra": self.run.extra_passes,
            "ended": sums.get("count", 0.0), "steps": sums.get("steps", 0.0),
        }  # fmt: skip


def measure_variants(
    chosen: Sequence[Variant],
    configs: Sequence[TrainConfig],
    shape: DataShape,
    repeats: int,
    *,
    own_halting: bool = False,
    weights: str | None = None,
    note: Note = lambda text: None,
) -> Record:
    """Measure all variants in turns, `repeats` times; the first is what the others are compared with.

    A sample is one update (on CUDA eight), with optimizer and average, as the loop makes it. Turns begin with another
    variant each time, so that a machine that slows down slows all. `own_halting`: trajectories halt as the weights
    say, else all take `halt_max_steps`. `weights`: a file that all start from. Errors: `UserError`.
    """
    factory = build_objective if own_halting else full_length_objective
    with contextlib.ExitStack() as held:
        subjects = []
        for variant, config in zip(chosen, configs, strict=True):
            note(f"{variant.name}: warm-up")
            run = held.enter_context(synthetic_run(config, shape, factory))
            if weights is not None:
                _start_from(run, weights)
            step = training_step(run)
            for _ in range(WARM_UP_STEPS):
                step()
            subjects.append(_Subject(variant, run, step, []))
        peaks = []
        for subject in subjects:
            note(f"{subject.variant.name}: memory")
            peaks.append(peak_over_base(subject.step, subject.run.device))
        before = [subject.counters() for subject in subjects]
        for turn in range(repeats):
            note(f"turn {turn + 1} of {repeats}")
            for index in range(len(subjects)):
                _sample(subjects[(turn + index) % len(subjects)])
        first = subjects[0]
        rollouts = [
            _describe(subject, first, counted, peak, peaks[0])
            for subject, counted, peak in zip(subjects, before, peaks, strict=True)
        ]
        return {"run": describe(first.run), "rollouts": rollouts, "comparisons": _comparisons(subjects, peaks)}


def _start_from(run: Run, weights: str) -> None:
    load_initial_weights(run.model, os.path.expanduser(weights))
    if run.ema is not None:
        run.ema.load_state_dict(dict(run.model.named_parameters()))  # type: ignore[arg-type]


def _sample(subject: _Subject) -> None:
    updates = updates_per_sample(subject.run.device)

    def several() -> None:
        for _ in range(updates):
            subject.step()

    subject.seconds.append(seconds_of(several, subject.run.device) / updates)


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios turn by turn."""
    q1, median, q3 = np.percentile(np.divide(above, below), (25, 50, 75)).tolist()
    return {"median": median, "q1": q1, "q3": q3}


def _describe(subject: _Subject, first: _Subject, before: Record, peak: int | None, first_peak: int | None) -> Record:
    after = subject.counters()
    counted = {name: after[name] - before[name] for name in after}
    updates = counted["updates"]
    return {
        **asdict(subject.variant),
        "trajectories": subject.run.config.global_batch_size * subject.variant.num_trajectories,
        "seconds": asdict(Timing.of(subject.seconds)),
        "over_clean": paired_ratio(subject.seconds, first.seconds),
        "trained_passes": counted["trained"] / updates,
        "extra_passes": counted["extra"] / updates,
        "mean_steps": counted["steps"] / counted["ended"] if counted["ended"] else None,
        "kept_bytes": kept_bytes(subject.run),
        "peak_bytes": peak,
        "peak_over_clean": _ratio(peak, first_peak),
    }


def _comparisons(subjects: Sequence[_Subject], peaks: Sequence[int | None]) -> Record:
    """What is asked of perturbed training, each beside the words that say it."""
    by_name = {subject.variant.name: index for index, subject in enumerate(subjects)}

    def seconds(name: str) -> list[float]:
        return subjects[by_name[name]].seconds

    return {
        "parallel_over_clean": paired_ratio(seconds("parallel_fixed"), seconds(CLEAN)),
        "serial_over_parallel": paired_ratio(seconds("serial_act"), seconds("parallel_fixed")),
        "mask_over_parallel": paired_ratio(seconds("act_mask"), seconds("parallel_fixed")),
        "peak_parallel_over_clean": _ratio(peaks[by_name["parallel_fixed"]], peaks[by_name[CLEAN]]),
    }


def _ratio(above: int | None, below: int | None) -> float | None:
    return above / below if above is not None and below else None


def is_equally_long(rollouts: Sequence[Mapping[str, Any]], steps: int) -> bool:
    """Whether all trajectories of all variants took so many supervision steps."""
    return all(each["mean_steps"] == steps for each in rollouts)
