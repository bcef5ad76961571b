"""Which test puzzles to measure where failures are rare: all that fail, and as many solved ones of equal difficulty.

A network that solves 97 % of 20,000 puzzles fails 600: enough for a statement about failures, while spectra of all
would take days. So all puzzles are answered first, which is cheap (no tangents), and spectra are taken of a sample.
What is measured of failed against solved puzzles is then not a matter of difficulty; rates are of the whole pool, for
which each puzzle of the sample has a weight.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.estimates.matched_failure import quantile_strata
from analysis.samples.measured_rows import Arrays, part_blocks, read_rows, settings_of, write_rows
from analysis.samples.networks import Network, one_batch
from analysis.samples.trajectory_readings import TrajectoryRecorder, late_steps
from dynamics.trajectory import residual
from errors import say
from long_work import progress_bar
from models.recursion_maps import RecursionMaps

FILE_NAME = "answered.npz"
STRATA = 4
_BATCH = 256
_STREAM = 0x43415345  # keeps these draws apart from others made with the same seed


@dataclass(frozen=True)
class CaseControl:
    """A sample of a pool of test puzzles.

    rows: (n,) in ascending order. weight: (n,) puzzles of the pool that each stands for, itself included; they add up
    to `pool`. pool, pool_failed: puzzles that were answered, and those of them that were not solved. strata: of
    difficulty, within which as many solved as failed puzzles were drawn where there were as many.
    """

    rows: np.ndarray
    weight: np.ndarray
    pool: int
    pool_failed: int
    strata: int

    def described(self) -> dict[str, Any]:
        return {"kind": "case-control", "pool": self.pool, "failed": self.pool_failed, "strata": self.strata}


def draw(rows: np.ndarray, failed: np.ndarray, difficulty: np.ndarray, count: int, seed: int) -> CaseControl:
    """At most `count` puzzles: failed ones up to half of it, and solved ones stratum by stratum as many as failed.

    Strata are quarters by difficulty of the failed puzzles, equal values together; each has a share of the sample,
    one failed puzzle at least. Where a stratum has fewer solved than failed puzzles all of them are taken. Where
    nothing failed, or nothing was solved, `count` of what there is.

    Args:
        rows, failed, difficulty: (N,) of the pool; difficulty grows. count: at least 2.
    """
    num_failed = int(failed.sum())
    rng, cases = np.random.default_rng([seed, _STREAM]), np.flatnonzero(failed)
    if num_failed in (0, len(rows)):
        chosen = np.sort(rng.permutation(rows)[:count])
        return CaseControl(chosen, np.full(len(chosen), len(rows) / len(chosen)), len(rows), num_failed, 1)
    wanted = min(count // 2, num_failed)
    labels = quantile_strata(difficulty[cases], min(STRATA, wanted))
    edges = [difficulty[cases][labels == label].min() for label in np.unique(labels)[1:]]
    strata = np.searchsorted(np.array(edges), difficulty, side="right")
    # Of the failed puzzles each stratum's share, rounded so that they add up to `wanted`.
    up_to = np.cumsum(np.bincount(strata[cases], minlength=len(edges) + 1)) * wanted // num_failed
    sizes = np.maximum(np.diff(up_to, prepend=0), 1)
    while sizes.sum() > wanted:
        sizes[sizes.argmax()] -= 1
    places, weights = [], []
    for stratum, size in enumerate(sizes.tolist()):
        for outcome in (True, False):
            pool = np.flatnonzero((strata == stratum) & (failed == outcome))
            taken = rng.permutation(pool)[:size]
            places.append(taken)
            weights.append(np.full(len(taken), len(pool) / max(1, len(taken))))
    order = np.argsort(rows[np.concatenate(places)])
    chosen, weight = rows[np.concatenate(places)][order], np.concatenate(weights)[order]
    return CaseControl(chosen, weight, len(rows), num_failed, len(edges) + 1)


def sample_of(
    network: Network, rows: np.ndarray, *, num_steps: int, count: int, seed: int, folder: Path, label: str
) -> tuple[CaseControl, Arrays]:
    """`draw` of a pool of test rows by what the network answers; and that, as `answered` has it.

    label: of the network, where one outcome is all there is, which is said.
    """
    answers = answered(network, rows, num_steps, folder)
    failed = answers["failed"]
    if failed.all() or not failed.any():
        found = f"{'all' if failed.all() else 'none'} of {len(rows):,} test puzzles failed"
        say(f"{label}: {found}: there is nothing to compare them with", file=sys.stderr)
    return draw(rows, failed, network.difficulty(rows), count, seed), answers


def answered(network: Network, rows: np.ndarray, num_steps: int, folder: Path) -> Arrays:
    """What the network answers, row by row, after `num_steps` supervision steps, and what that costs nothing to know.

    Kept in `folder`; what is there of the same is not answered again. Arrays:

        row, failed           (N,) the rows; whether the last answer is wrong in a cell
        drift, q_halt, ...    (N, `late_steps(num_steps)`) of the last steps, as `TrajectoryRecorder` has them
        residual              (N,) |F(z) - z| / |z| at the end

    Errors: `UserError` for a damaged file, or a folder that cannot be written.
    """
    checkpoint = network.checkpoint
    described = {**network.described(), "num_steps": num_steps, "dtype": checkpoint.config.dtype}
    mend = "the same command makes it again"
    path = folder / FILE_NAME
    if path.exists():
        kept = read_rows(path, ("failed", "drift"), "file of answers", mend)
        if settings_of(path, kept) == described and np.array_equal(kept["row"], rows):
            return kept
    parts = []
    with progress_bar(total=len(rows), desc="answering", unit="puzzle") as progress:
        for block in part_blocks(rows, _BATCH):
            parts.append({"row": block} | _last_readings(network, block, num_steps))
            progress.update(len(block))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    write_rows(path, arrays, described)
    return arrays


@torch.inference_mode()
def _last_readings(network: Network, rows: np.ndarray, num_steps: int) -> Arrays:
    maps = RecursionMaps(network.model, one_batch(network.puzzle_set, rows, network.device))
    state, late = maps.initial_state, late_steps(num_steps)
    unread = max(num_steps - late - 1, 0)  # one is read besides: which cells change is said against its answer
    for _ in range(unread):
        state = maps.step(state)
    readings = TrajectoryRecorder(maps, state, network.violations)
    for _ in range(num_steps - unread):
        state = maps.step(state)
        readings(state)
    arrays = {name: values[:, -late:] for name, values in readings.arrays().items()}
    return arrays | {"failed": ~arrays["exact"][:, -1], "residual": residual(maps.step, state).cpu().numpy()}
