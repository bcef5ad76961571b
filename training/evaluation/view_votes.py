"""Answers to stored views of one query vote for whole grids: ARC's way, where a view is a puzzle of its own."""

import numpy as np


def ranks_of_right(queries: np.ndarray, answers: np.ndarray, weights: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(Q,) int64: of each different query how many grids are elected before the right one; -1 where none gave it.

    Most votes first, then the higher mean weight, then the smaller number of the grid: so a full tie is broken by
    content, not by the order of the rows, which are judged the same on any number of processes.

    Args:
        queries (N,) int64, answers (N,) uint64: of N answers the query, and a number that equal grids share, mapped
        back from the view. weights (N,): how sure the network was. right (N,) bool.
    """
    which, query_of = np.unique(queries, return_inverse=True)
    candidates = np.zeros(len(queries), [("query", np.int64), ("answer", np.uint64)])
    candidates["query"], candidates["answer"] = query_of, answers
    grids, grid_of = np.unique(candidates, return_inverse=True)
    votes = np.bincount(grid_of, minlength=len(grids))
    # Sorted, so that sums do not depend on the order of rows either.
    order = np.lexsort((weights, grid_of))
    means = np.bincount(grid_of[order], weights[order], minlength=len(grids)) / np.maximum(votes, 1)
    is_right = np.zeros(len(grids), bool)
    is_right[grid_of[right]] = True
    ranking = np.lexsort((grids["answer"], -means, -votes, grids["query"]))
    starts = np.searchsorted(grids["query"][ranking], np.arange(len(which)))
    places = np.empty(len(grids), np.int64)
    places[ranking] = np.arange(len(grids)) - starts[grids["query"][ranking]]
    ranks = np.full(len(which), -1)
    ranks[grids["query"][is_right]] = places[is_right]
    return ranks


def num_passed(ranks: np.ndarray, attempts: int) -> int:
    """How many queries are solved by that many elected grids, by the ranks of the right ones."""
    return int(((ranks >= 0) & (ranks < attempts)).sum())
