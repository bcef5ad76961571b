"""Correlation within puzzles: ranks among the rollouts of one puzzle, then the mean over puzzles.

Pooled over puzzles, two scores of rollouts correlate because easy puzzles are easy for everything. What a choice among
the rollouts of one puzzle can use is what is left within it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_BLOCK = 500  # bootstrap draws at a time


@dataclass(frozen=True)
class PuzzleStatistic:
    """A statistic and its 95 % interval over puzzles; None where it is not defined.

    puzzles: how many it is made of.
    """

    value: float | None
    interval95: tuple[float, float] | None
    puzzles: int


def mixed_success(exact: np.ndarray) -> np.ndarray:
    """(N, R) -> (N,): puzzles that some rollouts solve and some do not."""
    right = exact.sum(axis=1)
    return (right > 0) & (right < exact.shape[1])


def rank_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of two tables (N, R): (N,), NaN where a row of one of them is constant.

    Ties have their mean rank. No NaN in the tables; infinities are the ends of the order.
    """
    from scipy.stats import rankdata  # takes as long to import as the script to start

    x, y = (_centred(rankdata(table, axis=1)) for table in (first, second))
    spread = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.divide((x * y).sum(axis=1), spread, out=np.full(len(x), np.nan), where=spread > 0)


def within(first: np.ndarray, second: np.ndarray, draws: int) -> PuzzleStatistic:
    """Mean over puzzles of `rank_correlations`, without those where it is not defined. Bootstrap over puzzles."""
    correlations = rank_correlations(first, second)
    return _bootstrapped(correlations[~np.isnan(correlations), None], lambda sums: sums[:, 0] / sums[:, -1], draws)


def within_given(first: np.ndarray, second: np.ndarray, third: np.ndarray, draws: int) -> PuzzleStatistic:
    """The partial correlation of two given a third, of the mean over puzzles of the three rank correlations.

    Of the mean, because the partial correlation of a few rollouts of one puzzle is all noise.
    """
    pairs = [rank_correlations(a, b) for a, b in ((first, second), (first, third), (second, third))]
    table = np.stack(pairs, axis=1)

    def partial(sums: np.ndarray) -> np.ndarray:
        ab, ac, bc = (sums[:, :3] / sums[:, 3:]).T
        rest = (1 - ac * ac) * (1 - bc * bc)
        return np.divide(ab - ac * bc, np.sqrt(rest), out=np.full(len(ab), np.nan), where=rest > 1e-12)

    return _bootstrapped(table[~np.isnan(table).any(axis=1)], partial, draws)


def pooled(first: np.ndarray, second: np.ndarray, draws: int) -> PuzzleStatistic:
    """Spearman's correlation over all rollouts of all puzzles, for contrast. Bootstrap over puzzles, ranks kept."""
    from scipy.stats import rankdata  # takes as long to import as the script to start

    x, y = (rankdata(table).reshape(table.shape) if table.size else table for table in (first, second))
    moments = np.stack([x, y, x * x, y * y, x * y], axis=2).sum(axis=1) / max(1, first.shape[1])

    def correlation(sums: np.ndarray) -> np.ndarray:
        mx, my, xx, yy, xy = (sums[:, :5] / sums[:, 5:]).T
        vx, vy = xx - mx * mx, yy - my * my
        # Sums of squared ranks: what is left of a constant is rounding.
        flat = (vx <= 1e-12 * xx) | (vy <= 1e-12 * yy)
        spread = np.sqrt(np.where(flat, 1.0, vx * vy))
        return np.where(flat, np.nan, (xy - mx * my) / spread)

    return _bootstrapped(moments, correlation, draws)


def within_auroc(exact: np.ndarray, score: np.ndarray, draws: int) -> PuzzleStatistic:
    """Mean over mixed-success puzzles: how often the score ranks an exact rollout above another one, ties half."""
    from scipy.stats import rankdata  # takes as long to import as the script to start

    ranks = rankdata(score, axis=1)
    right = exact.sum(axis=1)
    wrong = exact.shape[1] - right
    above = (ranks * exact).sum(axis=1) - right * (right + 1) / 2
    return _bootstrapped((above / (right * wrong))[:, None], lambda sums: sums[:, 0] / sums[:, -1], draws)


def standardised(table: np.ndarray) -> np.ndarray:
    """Each row minus its mean, divided by its standard deviation; NaN where that is 0 or a value is not finite."""
    known = np.isfinite(table).all(axis=1, keepdims=True)
    centred = _centred(np.where(known, table, 0.0))
    scale = np.sqrt((centred * centred).mean(axis=1, keepdims=True))
    return np.divide(centred, scale, out=np.full(table.shape, np.nan), where=known & (scale > 0))


def _centred(table: np.ndarray) -> np.ndarray:
    return table - table.mean(axis=1, keepdims=True)


def _bootstrapped(table: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], draws: int) -> PuzzleStatistic:
    """`statistic` of sums (m, k + 1) over puzzles, the last of them their number; percentiles of `draws` resamples.

    table: (puzzles, k).
    """
    count = len(table)
    if not count:
        return PuzzleStatistic(None, None, 0)
    columns = np.concatenate([table, np.ones((count, 1))], axis=1)
    value = float(statistic(columns.sum(axis=0, keepdims=True))[0])
    if not np.isfinite(value):
        return PuzzleStatistic(None, None, count)
    if count < 2:
        return PuzzleStatistic(value, None, count)
    rng, blocks = np.random.default_rng(0), []
    for start in range(0, draws, _BLOCK):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=min(_BLOCK, draws - start))
        blocks.append(statistic(weights @ columns))
    resampled = np.concatenate(blocks)
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.percentile(resampled, [2.5, 97.5]) if len(resampled) else (value, value)
    return PuzzleStatistic(value, (float(low), float(high)), count)
