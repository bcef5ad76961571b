"""One answer per puzzle from R rollouts: what each rule of choice solves, and what it would from fewer rollouts.

All functions take tables (N puzzles, R rollouts) and return a share for each puzzle, (N,) float64.
"""

import numpy as np

from training.inference.vote import tally

_CHUNK = 4096


def first_best(exact: np.ndarray, score: np.ndarray, size: int) -> np.ndarray:
    """1 where the rollout with the highest score among the first `size` is exact, the first one of equal scores.

    A score that is NaN is below all others.
    """
    chosen = _ranked(score)[:, :size].argmax(axis=1)
    return exact[np.arange(len(exact)), chosen].astype(np.float64)


def first_majority(exact: np.ndarray, answer: np.ndarray, q: np.ndarray, size: int) -> np.ndarray:
    """1 where the most frequent answer of the first `size` rollouts is exact.

    Ties go to the answer with the higher mean q, then to the one that came first. `answer`: equal values, equal
    answers.
    """
    head = answer[:, :size]
    # There are many pairs of rollouts, so they are compared for some puzzles at a time.
    chunks = [head[start : start + _CHUNK] for start in range(0, len(head), _CHUNK)]
    first = np.concatenate([(chunk[:, :, None] == chunk[:, None, :]).argmax(axis=2) for chunk in chunks])
    winner = tally(first, q[:, :size].astype(np.float64)).winner
    return exact[np.arange(len(exact)), winner].astype(np.float64)


def groups_majority(exact: np.ndarray, answer: np.ndarray, q: np.ndarray, size: int) -> np.ndarray:
    """Mean of `first_majority` over the R // size groups of rollouts that follow one another, none in two of them.

    What a majority of `size` rollouts is expected to solve; over all sets it has no closed form.
    """
    starts = range(0, exact.shape[1] - size + 1, size)
    groups = [first_majority(exact[:, i:], answer[:, i:], q[:, i:], size) for i in starts]
    return np.mean(groups, axis=0)


def subset_best(exact: np.ndarray, score: np.ndarray, size: int) -> np.ndarray:
    """Probability that the rollout with the highest score in a random set of `size` of the R is exact.

    With rollouts sorted by score, the i-th (from 1) is the highest of C(R - i, size - 1) of the C(R, size) sets. Equal
    scores are taken in a random order, so that each counts as the mean of its equals.
    """
    ranked = _ranked(score)
    order = np.argsort(-ranked, axis=1, kind="stable")
    sorted_score = np.take_along_axis(ranked, order, axis=1)
    sorted_exact = np.take_along_axis(exact, order, axis=1).astype(np.float64)
    starts = np.ones(exact.shape, bool)
    starts[:, 1:] = sorted_score[:, 1:] != sorted_score[:, :-1]
    group = np.cumsum(starts.ravel()) - 1  # every row begins a group, so that no group spans two
    means = np.bincount(group, sorted_exact.ravel()) / np.bincount(group)
    return means[group].reshape(exact.shape) @ _highest_of_a_set(exact.shape[1], size)


def subset_any(exact: np.ndarray, size: int) -> np.ndarray:
    """Probability that a random set of `size` of the R rollouts holds an exact one: 1 - C(R - c, size) / C(R, size)."""
    total = exact.shape[1]
    wrong = total - exact.sum(axis=1).astype(np.float64)
    drawn = np.arange(size)
    return 1.0 - np.prod(np.clip(wrong[:, None] - drawn, 0, None) / (total - drawn), axis=1)


def _ranked(score: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(score), -np.inf, score.astype(np.float64))


def _highest_of_a_set(total: int, size: int) -> np.ndarray:
    """(total,): C(total - i, size - 1) / C(total, size) for i = 1..total, each from the one before."""
    if not 1 <= size <= total:
        raise ValueError(f"sets of {size} of {total} rollouts")
    i = np.arange(1, total)
    ratios = np.clip(total - i - size + 1, 0, None) / (total - i)
    return np.concatenate([[size / total], size / total * np.cumprod(ratios)])
