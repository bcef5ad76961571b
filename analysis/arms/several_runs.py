"""A statistic of (scores, failed) over several training runs: puzzles say nothing of how much runs differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.arms.seed_pairs import MeanInterval, mean_interval
from analysis.estimates.puzzle_resampling import Estimate, checked, estimate, missing_class, random_numbers

Statistic = Callable[[np.ndarray, np.ndarray], float | None]
Table = tuple[np.ndarray, np.ndarray]

BOTH = "other runs and other puzzles"
PUZZLES_ONLY = "other puzzles for this run only: variation from run to run is not included"
_ATTEMPTS = 1000


@dataclass(frozen=True)
class SeveralRuns:
    """Mean over runs of a statistic of each, and what is known of its uncertainty.

    values, n, num_failed: by run, in the order given; a run without the statistic, one without a failure for
    instance, has None, and `runs_used` counts the others. mean: with the interval of the hierarchical bootstrap.
    over_runs: Student's t interval of the same mean from the runs' values alone (see `analysis.arms.seed_pairs`).
    speaks_of: what the interval of `mean` covers. redrawn: resamples of puzzles without the statistic, drawn again.
    """

    values: list[float | None]
    n: list[int]
    num_failed: list[int]
    runs: int
    runs_used: int
    same_puzzles: bool
    draws: int
    redrawn: int
    seed: int
    mean: Estimate
    over_runs: MeanInterval | None
    speaks_of: str
    reason: str | None = None


def hierarchical_bootstrap(
    tables: Sequence[Table], statistic: Statistic, *, same_puzzles: bool = False, draws: int = 2000, seed: int = 0
) -> SeveralRuns:
    """95 % percentile interval of the mean of `statistic` over runs: runs are drawn with replacement, then puzzles.

    Whatever their class, so that the number of failures varies. A resample of puzzles without the statistic (None or
    not finite) is drawn again, and counted: of a run that failed once, more than a third have no failure, and leaving
    out the whole draw would leave out that run more often than others.

    With variance t between runs and s over puzzles within one, draws over R runs have the variance
    (R - 1) / R (t + s) / R + s / R, where the mean has (t + s) / R on other runs and other puzzles. So the interval is
    wide where puzzles are what matters, since they vary in the values of the runs and again in the draws, and narrow
    where a few runs differ; read `over_runs` beside it.

    Args:
        tables: (scores, failed) of each run, see `failure_statistics.separation`; each (n,) with its own n.
        statistic: `training.evaluation.calibration.auroc` and `failure_statistics.median_difference` are such; called
            once per run and draw, so that it is to take well under a millisecond.
        same_puzzles: all runs were measured on the same puzzles, row by row. Then a draw has the same puzzles in all
            its runs: a puzzle that is hard is hard for all, and does not average out over runs.
    Errors: ValueError, see `puzzle_resampling.checked`; for no run, and for `same_puzzles` with other numbers of rows.
    """
    pairs = [checked(scores, failed) for scores, failed in tables]
    if not pairs:
        raise ValueError("no run: expected at least one table of scores and failed")
    sizes = [len(failed) for _, failed in pairs]
    if same_puzzles and len(set(sizes)) > 1:
        raise ValueError(f"same_puzzles with {', '.join(map(str, sizes))} rows: expected the same rows in every run")
    values = [_known(statistic(*pair)) if len(pair[0]) else None for pair in pairs]
    used = [pair for pair, value in zip(pairs, values, strict=True) if value is not None]
    known = [value for value in values if value is not None]
    reason = None if used else f"no run has the statistic: {missing_class(pairs[0][1]) or 'undefined'}"
    drawn, redrawn, gave_up = _draws(used, statistic, same_puzzles, draws, seed)
    return SeveralRuns(
        values=values,
        n=sizes,
        num_failed=[int(failed.sum()) for _, failed in pairs],
        runs=len(pairs),
        runs_used=len(used),
        same_puzzles=same_puzzles,
        draws=draws,
        redrawn=redrawn,
        seed=seed,
        mean=estimate(float(np.mean(known)) if known else None, drawn, reason or gave_up),
        over_runs=mean_interval(known) if known else None,
        speaks_of=BOTH if len(used) > 1 else PUZZLES_ONLY,
        reason=reason,
    )


def _draws(
    used: Sequence[Table], statistic: Statistic, same_puzzles: bool, draws: int, seed: int
) -> tuple[np.ndarray, int, str | None]:
    """Means (draws,) over drawn runs, how many resamples were drawn again, and why there are fewer, if so."""
    rng = random_numbers(seed, "hierarchical_bootstrap")
    means, redrawn = [], 0
    for _ in range(draws if used else 0):
        picked = rng.integers(len(used), size=len(used))
        values: list[float] = []
        # Each group of runs has its own resample of puzzles.
        for group in [picked] if same_puzzles else picked[:, None]:
            for _attempt in range(_ATTEMPTS):
                n = len(used[group[0]][0])
                rows = rng.integers(n, size=n)
                statistics = [_known(statistic(used[run][0][rows], used[run][1][rows])) for run in group]
                defined = [value for value in statistics if value is not None]
                if len(defined) == len(statistics):
                    values += defined
                    break
                redrawn += 1
            else:
                return np.empty(0), redrawn, f"{_ATTEMPTS} resamples in a row are without the statistic"
        means.append(np.mean(values))
    return np.array(means), redrawn, None


def _known(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
