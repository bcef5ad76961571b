"""Where a trajectory goes that is not stopped, and where the same puzzle ends from other starts; no tangents.

`endings.npz` (no pickles), n puzzles, N steps, S noise scales, R starts of each:

    settings             () JSON text: what was measured, of which weights and data
    row                  (n,) index in the test set
    exact                (n, N) bool, the answer after the step is right in every cell
    drift                (n, N) float32, |z_t - z_{t-1}| / |z_t|
    recurrence_distance  (n, 16) |F^p(z_N) - z_N| / |z_N|, p = 1 ... 16
    restart_exact        (n, S, R) bool, right after T steps from z0 + sigma * normal noise
    weight               (n,) puzzles of the pool that each stands for, 0 for one of an earlier sample
    givens, rating       (n,) int, cells given; difficulty of the data set, -1 where it has none
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.samples.measured_rows import Arrays, MeasuredRows, read_rows
from dynamics.trajectory import recurrence
from models.act import Batch
from models.losses import correctness
from models.recursion import RecurrentState
from models.recursion_maps import RecursionMaps
from models.recursive_model import RecursiveModel
from training.inference.perturbed_starts import PerturbedInference

FILE_NAME = "endings.npz"
MAX_PERIOD = 16


@dataclass(frozen=True)
class EndingSettings:
    """What is measured of every puzzle.

    Args:
        num_steps: T, supervision steps after which it counts as failed or solved. extended_steps: N, at which it ends.
        sigma: standard deviations of the noise that is added to every value of both states at the start.
        starts: R, for each of them. seed: of the sample. dtype: float32 or float64.
    """

    num_steps: int = 16
    extended_steps: int = 256
    sigma: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 0.3, 1.0)
    starts: int = 4
    seed: int = 0
    dtype: str = "float32"


@torch.no_grad()
def measure_endings(model: RecursiveModel, batch: Batch, settings: EndingSettings) -> Arrays:
    """The measurement of some puzzles; `batch` with `row` and `labels`, on the model's device."""
    maps = RecursionMaps(model, batch)
    state, exact, drift = maps.initial_state, [], []
    for _ in range(settings.extended_steps):
        moved = maps.step(state)
        drift.append(_distance(moved, state) / _distance(moved))
        exact.append(maps.read(moved).exact)
        state = moved
    _, distances = recurrence(maps.step, state, MAX_PERIOD, 0.0)
    restarts = [_from_starts(model, batch, sigma, settings) for sigma in settings.sigma]
    shape = (len(batch["row"]), len(settings.sigma), settings.starts)
    return {
        "row": batch["row"].cpu().numpy(),
        "exact": torch.stack(exact, dim=1).cpu().numpy(),
        "drift": torch.stack(drift, dim=1).float().cpu().numpy(),
        "recurrence_distance": distances.cpu().numpy(),
        "restart_exact": np.stack(restarts, axis=1) if restarts else np.zeros(shape, bool),
    }


def _from_starts(model: RecursiveModel, batch: Batch, sigma: float, settings: EndingSettings) -> np.ndarray:
    """(B, R) bool: right after `num_steps` steps, from each of the starts."""
    inference = PerturbedInference(sigma, "both", settings.starts, settings.num_steps)
    answers = inference.predict(model, batch).rollout_answers
    exact = [correctness(answers[:, start], batch["labels"]).exact for start in range(settings.starts)]
    return torch.stack(exact, dim=1).cpu().numpy()


def _distance(state: RecurrentState, other: RecurrentState | None = None) -> torch.Tensor:
    """(B,) Euclidean, over both states, in float64."""
    squares = torch.zeros(len(state.z_H), dtype=torch.float64, device=state.z_H.device)
    for name in ("z_H", "z_L"):
        leaf = getattr(state, name).double() - (0 if other is None else getattr(other, name).double())
        squares += leaf.square().sum(dim=(1, 2))
    return squares.sqrt()


def ending_store(folder: Path, settings: Mapping[str, Any]) -> MeasuredRows:
    """The endings in an output folder, complete or not; errors as `MeasuredRows`."""
    return MeasuredRows(folder, settings, FILE_NAME, read_endings)


def read_endings(path: Path) -> Arrays:
    """The arrays of one file. Errors: `UserError` when it is missing or damaged."""
    mend = "measure with: python analysis/endings/failure_endings.py --checkpoint RUN/final.pt --out DIR"
    return read_rows(path, ("exact", "drift", "recurrence_distance", "restart_exact"), "measurement of endings", mend)
