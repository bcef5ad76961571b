"""A batched Sudoku solver: solution, uniqueness and difficulty rating of many boards at once, in plain numpy.

Every board keeps one bitmask of candidates per cell. A slot of the batch carries one board and its own
depth-first search, and each pass over the batch does one round of propagation (naked and hidden singles in
all rows, columns and boxes) for every slot; slots that have come to rest are settled, branched or
backtracked, and a finished slot takes the next board. So numpy always works on a full batch, memory is
bounded by the batch and not by the number of boards, and what happens to a board does not depend on which
boards share the batch with it.

Rating: the number of branch nodes of the full search tree, i.e. of states in which propagation has come to
rest without a solution or a contradiction and a cell must be guessed (the cell with fewest candidates, the
first of them in reading order). 0 means solved by singles alone. The tree is exhausted, as proving
uniqueness needs, so the number does not depend on the order of the guesses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tqdm import tqdm

from dataset.sudoku import Box, side, units

DEFAULT_BATCH = 1024
DEFAULT_MAX_NODES = 200_000  # seconds a board; uniquely solvable 9x9 boards need a few thousand


@dataclass(frozen=True)
class Solved:
    """What the search found for N boards of C cells.

    solutions      (N, C) uint8, digits; zeros where there is none. With several solutions, one of them.
    num_solutions  (N,) int32, counted up to the limit asked for (2 = two or more).
    ratings        (N,) int32, branch nodes; for a board with several solutions those visited until the
                   limit was reached.
    complete       (N,) bool, False where the node cap ended the search undecided.
    """

    solutions: np.ndarray
    num_solutions: np.ndarray
    ratings: np.ndarray
    complete: np.ndarray

    @property
    def unique(self) -> np.ndarray:
        """(N,) bool: exactly one solution, proved."""
        return self.complete & (self.num_solutions == 1)


def candidates_from_boards(boards: np.ndarray, box: Box) -> np.ndarray:
    """Bitmasks (N, C) uint16 of boards (N, C): bit d-1 for a given digit d, all n bits for a blank (0)."""
    n = side(box)
    table = np.concatenate([[(1 << n) - 1], 1 << np.arange(n)]).astype(np.uint16)
    return table[boards]


def solve(
    boards: np.ndarray,
    box: Box,
    *,
    max_solutions: int = 2,
    max_nodes: int | None = DEFAULT_MAX_NODES,
    batch_size: int = DEFAULT_BATCH,
    progress: str | None = None,
) -> Solved:
    """Solve boards (N, n*n) uint8 (0 = blank) with boxes of `box` = (rows, columns) cells, n = rows*columns.

    Solutions are counted up to `max_solutions`, where a board's search stops: an empty grid is answered at
    once. `max_nodes` caps the branch nodes of one board (see `Solved.complete`); None never gives up.
    `progress` names a bar, shown on a terminal only.
    """
    candidates = candidates_from_boards(boards, box)
    return solve_candidates(
        candidates,
        box,
        max_solutions=max_solutions,
        max_nodes=max_nodes,
        batch_size=batch_size,
        progress=progress,
    )


def solve_candidates(
    candidates: np.ndarray,
    box: Box,
    *,
    max_solutions: int = 2,
    max_nodes: int | None = DEFAULT_MAX_NODES,
    guess_order: np.ndarray | None = None,
    batch_size: int = DEFAULT_BATCH,
    progress: str | None = None,
) -> Solved:
    """As `solve`, from candidate masks (N, n*n) uint16 (any subset of digits may be allowed in a cell).

    `guess_order` (N, n*n, n) ranks the digits of each cell for guessing (smallest first); the default is
    ascending digits. It decides which solution is met first, not the ratings of exhausted searches.
    """
    n = side(box)
    total = len(candidates)
    result = Solved(
        solutions=np.zeros((total, n * n), np.uint8),
        num_solutions=np.zeros(total, np.int32),
        ratings=np.zeros(total, np.int32),
        complete=np.ones(total, bool),
    )
    if total == 0:
        return result
    search = _Search(candidates, box, result, max_solutions, max_nodes, guess_order, min(batch_size, total))
    # With disable=None tqdm draws a bar on a terminal only, with disable=True none.
    with tqdm(total=total, desc=progress, unit=" puzzles", disable=None if progress else True) as bar:
        for num_finished in search.run():
            bar.update(num_finished)
    return result


class _Search:
    """The slots: current masks (cells, W), the board each belongs to, and a stack of frames per slot.

    A frame is a branch node: its masks, the guessed cell and the digits not yet tried. A frame whose last
    digit has been taken is dropped at once, so the stack only holds choices that are still open.
    """

    def __init__(
        self,
        candidates: np.ndarray,
        box: Box,
        result: Solved,
        max_solutions: int,
        max_nodes: int | None,
        guess_order: np.ndarray | None,
        width: int,
    ) -> None:
        self.candidates, self.box, self.result = candidates, box, result
        self.max_solutions, self.guess_order = max_solutions, guess_order
        self.max_nodes = np.iinfo(np.int32).max if max_nodes is None else max_nodes
        self.num_cells = candidates.shape[1]
        self.next_board = width
        self.owner = np.arange(width)
        self.masks = np.ascontiguousarray(candidates[:width].T)
        self.depth = np.zeros(width, np.int64)
        self.frame_masks = np.zeros((width, 4, self.num_cells), np.uint16)
        self.frame_cell = np.zeros((width, 4), np.int64)
        self.frame_left = np.zeros((width, 4), np.uint16)

    def run(self) -> Iterator[int]:
        """Advance until every board is settled; yields how many boards each pass finished."""
        result = self.result
        while len(self.owner):
            self.masks, resting, contradictory, solved = propagate_once(self.masks, self.box)
            dead = np.flatnonzero(contradictory)
            won = np.flatnonzero(solved)
            stuck = np.flatnonzero(resting & ~contradictory & ~solved)

            boards = self.owner[won]
            first = result.num_solutions[boards] == 0
            result.solutions[boards[first]] = _digits(self.masks[:, won[first]].T)
            result.num_solutions[boards] += 1
            enough = result.num_solutions[boards] >= self.max_solutions

            boards_stuck = self.owner[stuck]
            over = result.ratings[boards_stuck] >= self.max_nodes
            result.complete[boards_stuck[over]] = False
            grow = stuck[~over]
            result.ratings[self.owner[grow]] += 1
            self._push(grow)

            back = np.concatenate([dead, won[~enough]])
            exhausted = self.depth[back] == 0
            self._take_next(np.concatenate([grow, back[~exhausted]]))
            finished = np.concatenate([back[exhausted], won[enough], stuck[over]])
            if len(finished):
                self._refill(finished)
                yield len(finished)

    def _push(self, slots: np.ndarray) -> None:
        if not len(slots):
            return
        depth = self.depth[slots]
        if depth.max() >= self.frame_cell.shape[1]:
            for name in ("frame_masks", "frame_cell", "frame_left"):
                frames = getattr(self, name)
                setattr(self, name, np.concatenate([frames, np.zeros_like(frames)], axis=1))
        masks = self.masks[:, slots]
        choices = np.bitwise_count(masks)
        choices[choices == 1] = 255  # decided cells are never guessed; argmin takes the first of equals
        cell = choices.argmin(axis=0)
        self.frame_masks[slots, depth] = masks.T
        self.frame_cell[slots, depth] = cell
        self.frame_left[slots, depth] = masks[cell, np.arange(len(slots))]
        self.depth[slots] += 1

    def _take_next(self, slots: np.ndarray) -> None:
        """Put each slot on the next untried digit of its newest frame."""
        if not len(slots):
            return
        top = self.depth[slots] - 1
        left, cell = self.frame_left[slots, top], self.frame_cell[slots, top]
        if self.guess_order is None:
            digit = left & (~left + np.uint16(1))  # lowest set bit
        else:
            rank = self.guess_order[self.owner[slots], cell].astype(np.int64)
            bits = np.uint16(1) << np.arange(rank.shape[1], dtype=np.uint16)
            rank[(left[:, None] & bits) == 0] = np.iinfo(np.int64).max
            digit = bits[rank.argmin(axis=1)]
        self.masks[:, slots] = self.frame_masks[slots, top].T
        self.masks[cell, slots] = digit
        left ^= digit
        self.frame_left[slots, top] = left
        self.depth[slots[left == 0]] -= 1

    def _refill(self, finished: np.ndarray) -> None:
        """Give finished slots the next boards; when none are left, drop them once they are half the batch."""
        fresh = np.arange(self.next_board, min(self.next_board + len(finished), len(self.candidates)))
        slots, idle = finished[: len(fresh)], finished[len(fresh) :]
        self.next_board += len(fresh)
        self.owner[slots] = fresh
        self.depth[slots] = 0
        self.masks[:, slots] = self.candidates[fresh].T
        if len(idle):
            keep = np.setdiff1d(np.arange(len(self.owner)), idle)
            self.owner, self.depth = self.owner[keep], self.depth[keep]
            self.masks = np.ascontiguousarray(self.masks[:, keep])
            self.frame_masks, self.frame_cell = self.frame_masks[keep], self.frame_cell[keep]
            self.frame_left = self.frame_left[keep]


def _digits(masks: np.ndarray) -> np.ndarray:
    """Digits 1..n of one-bit masks."""
    return np.bitwise_count(masks - np.uint16(1)) + np.uint8(1)


@lru_cache
def _places(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3n) cells: the i-th of every unit; (3, n*n) units: the row, the column and the box of every cell."""
    members = units(box)
    of_cell = np.stack([np.argsort(kind.ravel(), kind="stable") // side(box) for kind in np.split(members, 3)])
    return np.ascontiguousarray(members.T), of_cell + side(box) * np.arange(3)[:, None]


def propagate_once(masks: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One round of naked and hidden singles for W boards side by side.

    masks: (n*n, W) uint16, the batch last so that every operation runs along contiguous memory.
    Returns the new masks and, per board, (W,) bool: resting (nothing changed), contradictory (an empty
    cell, a digit without a place or twice in a unit), solved (every cell decided, no contradiction).
    """
    members, of_cell = _places(box)
    full = np.uint16((1 << side(box)) - 1)
    open_cell = masks & (masks - np.uint16(1)) != 0
    is_open = np.negative(open_cell.astype(np.uint16))  # all bits or none: bit operations are faster than `where`
    decided = masks & ~is_open

    # All units at once, (3n, W), member by member: few calls, since late in a batch few boards are left.
    present, total = np.zeros((2, members.shape[1], masks.shape[1]), np.uint16)
    once, twice = np.zeros_like(present), np.zeros_like(present)
    for cells in members:
        member, digit = masks[cells], decided[cells]
        twice |= once & member
        once |= member
        present |= digit
        total += digit
    # Where a digit is decided twice in a unit, the sum of the one-bit masks exceeds their union.
    bad = ((total != present) | (once != full)).any(axis=0)
    once &= ~twice
    taken = present[of_cell[0]] | present[of_cell[1]] | present[of_cell[2]]
    sole = once[of_cell[0]] | once[of_cell[1]] | once[of_cell[2]]

    forced = masks & sole
    new = masks & ~(taken & is_open) & (forced | (np.equal(forced, 0).astype(np.uint16) * full))
    # Two digits may have no other place than the same cell.
    bad |= (forced & (forced - np.uint16(1)) != 0).any(axis=0)
    bad |= (new == 0).any(axis=0)
    resting = (new == masks).all(axis=0)
    solved = ~open_cell.any(axis=0) & ~bad
    return new, resting, bad, solved
