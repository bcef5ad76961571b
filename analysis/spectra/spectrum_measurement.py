"""One trajectory per puzzle: Lyapunov spectrum, answers and free baselines, all read from the same states.

ACT is recorded but not applied: every puzzle takes the same number of supervision steps, and its halting values are
kept. Labels only enter `exact`; every other number can be had without them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.samples.measured_rows import Arrays
from analysis.samples.trajectory_readings import MAX_PERIOD, CountViolations, TrajectoryRecorder
from dynamics.lyapunov import LyapunovResult, lyapunov_spectrum
from dynamics.trajectory import recurrence, residual
from errors import UserError
from models.act import Batch
from models.recursion import RecurrentState, SubUpdate
from models.recursion_maps import RecursionMaps
from models.recursive_model import RecursiveModel
from models.srm import StableRecursionModel
from models.weighted_norm import MetricWeights, from_metric, in_metric, to_metric


@dataclass(frozen=True)
class SpectrumSettings:
    """What is measured of every puzzle.

    Args:
        num_exponents: k. num_steps: T, supervision steps. qr_interval: sub-updates between two QRs; divides the
            sub-updates of one step. dtype: float32 or float64.
        seed: of the tangents, together with the puzzle's row.
        extended_steps: N, further steps included; the trajectory goes on to step N with the leading tangent only.
            0 ends at T.
        replicate: measure again with other tangents, which shows the estimator's own variance.
        norm: `euclidean`, or `model`: the weighted one in which a model contracts by construction (SRM).
    """

    num_exponents: int = 8
    num_steps: int = 16
    qr_interval: int = 1
    dtype: str = "float32"
    seed: int = 0
    extended_steps: int = 0
    replicate: bool = False
    norm: str = "euclidean"


def tangents_of_rows(rows: Tensor, size: int, count: int, seed: int, copy: int = 0) -> Tensor:
    """Normal tangents (B, D, k) in float32, a function of (seed, row, copy): no batch size changes them."""
    drawn = []
    for row in rows.tolist():
        sequence = np.random.SeedSequence([seed, copy, row + 1])  # rows of padding are -1
        generator = torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        drawn.append(torch.randn(size, count, generator=generator))
    return torch.stack(drawn)


def measure_batch(
    model: RecursiveModel, batch: Batch, settings: SpectrumSettings, violations: CountViolations | None = None
) -> Arrays:
    """The measurement of some puzzles, in the arrays that `analysis.spectra.spectrum_files` documents.

    Args:
        model: in evaluation mode, float32 or float64. batch: on the model's device, with `row`.
    Errors: `UserError` for a model in lower precision; ValueError as `lyapunov_spectrum`.
    """
    maps = RecursionMaps(model, batch)
    coordinates = Coordinates(model, settings.norm)
    sub_updates = coordinates.maps(maps.sub_updates)
    dtype = getattr(torch, settings.dtype)
    k, steps = settings.num_exponents, settings.num_steps
    state = maps.initial_state
    size = sum(leaf[0].numel() for leaf in state)

    def spectrum(copy: int, on_step: Callable[[object], None] | None = None) -> LyapunovResult:
        # More tangents than components are refused below; a number that nobody could draw is so at once.
        start = tangents_of_rows(batch["row"], size, min(k, size), settings.seed, copy).to(state.z_H.device, dtype)
        return lyapunov_spectrum(
            sub_updates, coordinates.enter(state), num_exponents=k, num_steps=steps, qr_interval=settings.qr_interval,
            initial_tangents=start, dtype=dtype, on_step=on_step,
        )  # fmt: skip

    trajectory = TrajectoryRecorder(maps, state, violations)
    result = spectrum(0, lambda reached: trajectory(coordinates.leave(reached)))
    per_step = len(sub_updates) // settings.qr_interval
    growth = result.local_growth.unflatten(1, (steps, per_step))
    arrays = {
        "row": batch["row"].cpu().numpy(),
        "step_growth": growth.sum(dim=2).cpu().numpy(),
        "sub_update_growth": growth.flatten(1, 2).float().cpu().numpy(),
        "svd_exponents": result.svd_exponents.cpu().numpy(),
        "condition_log": result.condition_log.amax(dim=1).cpu().numpy(),
        "first_nonfinite": result.first_nonfinite.cpu().numpy(),
    }
    arrays |= {
        f"flag_{name}": flag.reshape(len(flag), -1).any(dim=1).cpu().numpy() for name, flag in result.flags.items()
    }
    if settings.replicate:
        again = spectrum(1).local_growth.unflatten(1, (steps, per_step)).sum(dim=2)
        arrays["replicate_step_growth"] = again.cpu().numpy()
    arrays |= trajectory.arrays()
    # The residual is that of the end of the measured steps, whether or not the trajectory goes on.
    arrays["residual"] = residual(maps.step, coordinates.leave(result.final_state)).cpu().numpy()
    if settings.extended_steps:
        arrays |= _extension(maps, coordinates, result, settings, violations)
    return arrays


class Coordinates:
    """The coordinates in which growth is measured: the state's own, or those of a model's own norm."""

    def __init__(self, model: RecursiveModel, norm: str) -> None:
        """Errors: `UserError` for a model without a norm of its own."""
        self._weights: MetricWeights | None = None
        if norm != "euclidean":
            if not isinstance(model, StableRecursionModel):
                raise UserError("--norm model: only a model that contracts by construction (arch=srm) has its own norm")
            self._weights = model.metric_weights()

    def maps(self, sub_updates: Sequence[SubUpdate]) -> list[SubUpdate]:
        return list(sub_updates) if self._weights is None else in_metric(sub_updates, self._weights)

    def enter(self, state: RecurrentState) -> RecurrentState:
        return state if self._weights is None else to_metric(state, self._weights)

    def leave(self, state: Any) -> RecurrentState:
        return state if self._weights is None else from_metric(state, self._weights)


def _extension(
    maps: RecursionMaps,
    coordinates: Coordinates,
    result: LyapunovResult,
    settings: SpectrumSettings,
    violations: CountViolations | None,
) -> Arrays:
    """The trajectory goes on from step T to step N with the leading tangent: where does it end up?"""
    trajectory = TrajectoryRecorder(maps, coordinates.leave(result.final_state), violations)
    further = lyapunov_spectrum(
        coordinates.maps(maps.sub_updates), result.final_state, num_exponents=1,
        num_steps=settings.extended_steps - settings.num_steps, qr_interval=settings.qr_interval,
        initial_tangents=result.final_tangents[:, :, :1], dtype=result.dtype,
        on_step=lambda reached: trajectory(coordinates.leave(reached)),
    )  # fmt: skip
    per_step = len(maps.sub_updates) // settings.qr_interval
    _, distances = recurrence(maps.step, coordinates.leave(further.final_state), MAX_PERIOD, 0.0)
    readings = trajectory.arrays()
    return {
        "extended_growth": further.local_growth[..., 0].unflatten(1, (-1, per_step)).sum(dim=2).cpu().numpy(),
        "extended_exact": readings["exact"],
        "extended_drift": readings["drift"],
        "extended_q_halt": readings["q_halt"],
        "extended_changed": readings["changed"],
        "recurrence_distance": distances.cpu().numpy(),
        "answer_period": trajectory.answer_period(),
    }
