"""Training batches as a pure function of (seed, position).

The order is the official sampler's: an iteration is `epochs_per_iteration` permutations of all groups, one
after the other; each group gives one of its puzzles, drawn uniformly, with all its examples (a random
subset of them where the batch overflows); the last partial batch of an iteration is dropped. Differs: every
draw comes from a counter-based generator addressed by (seed, iteration, batch), so any batch can be made
without those before it, all ranks agree on all of it, and nothing has to be saved but the position.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dataset.eval_batches import Batch, as_batch
from dataset.puzzle_folder import PuzzleSet, fingerprint
from dataset.puzzle_metadata import PuzzleMetadata
from dataset.source import START, Position, RowLosses
from dataset.steps.base import Moment, Step
from dataset.stream import stream
from dataset.tasks.base import PuzzleTask
from errors import UserError

AUGMENT_CHOICES = ("auto", "stored", "on_the_fly", "none")
# Group orders are made in blocks of whole epochs of about this many groups, of which a few are kept.
BLOCK_GROUPS = 1 << 18
BLOCKS_KEPT = 3
MAX_EMPTY_ITERATIONS = 1000
READ_ROWS = 1 << 16
_ORDER, _DRAW, _AUGMENT = 1, 2, 3  # independent streams of one seed


@dataclass(frozen=True)
class _Draw:
    """One global batch before any token is read: the numbers of its examples."""

    examples: np.ndarray
    cursor: int


class PuzzleSource:
    """Global training batches from one or several sets, whose groups are concatenated.

    augment: "stored" takes the puzzles of a group as they are; "on_the_fly" also lets their task draw a
    symmetry per row, as `dataset.json` allows; "auto" does so for exactly the sets that allow it; "none" takes
    the first puzzle of each group, the original, only. `exclude` is a mask over the concatenated examples
    never to be drawn. steps: see `dataset.steps.base`. The examples that may be drawn are numbered from 0.

    Errors: `UserError` when sets do not fit together, or cannot fill a single batch per iteration.
    """

    def __init__(
        self,
        sets: Sequence[PuzzleSet],
        *,
        seed: int,
        global_batch_size: int,
        epochs_per_iteration: int,
        augment: str = "auto",
        exclude: np.ndarray | None = None,
        steps: Sequence[Step] = (),
    ) -> None:
        if augment not in AUGMENT_CHOICES:
            raise UserError(f"augment={augment!r} is unknown, expected one of {', '.join(AUGMENT_CHOICES)}")
        if global_batch_size < 1 or epochs_per_iteration < 1:
            raise UserError(
                f"global_batch_size={global_batch_size} and {epochs_per_iteration} epochs per iteration must "
                "both be at least 1"
            )
        self.sets = tuple(sets)
        self.metadata = merge_metadata(self.sets)
        self.seed, self.global_batch_size = seed, global_batch_size
        self.epochs_per_iteration, self.augment = epochs_per_iteration, augment
        self._drawing = [self._drawing_task(puzzle_set, augment) for puzzle_set in self.sets]
        self._row_starts = np.cumsum([0] + [puzzle_set.num_examples for puzzle_set in self.sets])
        self._index_puzzles(exclude)
        self._orders: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._block_epochs = max(1, BLOCK_GROUPS // self.total_groups)
        self._next_draw: tuple[Position, _Draw] | None = None
        self._check_capacity()
        self.steps = tuple(steps)
        self.wants_losses = any(step.wants_losses for step in self.steps)
        for step in self.steps:
            step.prepare(self)

    @staticmethod
    def _drawing_task(puzzle_set: PuzzleSet, augment: str) -> PuzzleTask | None:
        """The task that draws symmetries for the rows of a set; None where none are drawn."""
        task = puzzle_set.metadata.task
        allowed = task.augmentation is not None
        if augment == "on_the_fly" and not allowed:
            raise UserError(
                f"{puzzle_set.root}: its dataset.json names no augmentation to draw on the fly; use augment=stored"
            )
        return task if allowed and augment in ("auto", "on_the_fly") else None

    def _index_puzzles(self, exclude: np.ndarray | None) -> None:
        """Offsets of examples and puzzles over all sets, without excluded rows and what they leave empty."""
        total_rows = int(self._row_starts[-1])
        keep = np.ones(total_rows, dtype=bool) if exclude is None else ~np.asarray(exclude, dtype=bool)
        if keep.shape != (total_rows,):
            raise ValueError(f"exclude has shape {keep.shape}, expected {(total_rows,)}")
        puzzles_per_group = np.concatenate([np.diff(puzzle_set.group_indices) for puzzle_set in self.sets])
        examples_per_puzzle = np.concatenate([np.diff(puzzle_set.puzzle_indices) for puzzle_set in self.sets])
        identifiers = np.concatenate([puzzle_set.puzzle_identifiers for puzzle_set in self.sets])
        group_of = np.repeat(np.arange(puzzles_per_group.size), puzzles_per_group)
        if self.augment == "none":
            first = np.concatenate([[0], np.cumsum(puzzles_per_group)[:-1]])
            is_first = np.zeros(group_of.size, dtype=bool)
            is_first[first] = True
            keep &= np.repeat(is_first, examples_per_puzzle)
        puzzle_of = np.repeat(np.arange(examples_per_puzzle.size), examples_per_puzzle)
        self._rows = np.flatnonzero(keep)
        sizes = np.bincount(puzzle_of[self._rows], minlength=examples_per_puzzle.size)
        filled = np.flatnonzero(sizes)
        if filled.size == 0:
            raise UserError(f"{self.sets[0].root}: no example is left to train on; exclude fewer rows")
        self._puzzle_offsets = np.concatenate([[0], np.cumsum(sizes[filled])])
        self._puzzle_identifiers = identifiers[filled]
        puzzle_counts = np.unique(group_of[filled], return_counts=True)[1]
        self._group_offsets = np.concatenate([[0], np.cumsum(puzzle_counts)])
        self._single = bool(sizes[filled].max() == 1)

    def _check_capacity(self) -> None:
        sizes = np.diff(self._puzzle_offsets)
        largest = np.maximum.reduceat(sizes, self._group_offsets[:-1])
        rows = int(largest.sum()) * self.epochs_per_iteration
        if rows < self.global_batch_size:
            raise UserError(
                f"global_batch_size={self.global_batch_size} cannot be filled: {self.total_groups} groups x "
                f"{self.epochs_per_iteration} epochs per iteration give at most {rows} rows, and partial "
                "batches are dropped; use a smaller global_batch_size or a larger eval_interval"
            )

    @property
    def total_groups(self) -> int:
        """Groups that can be drawn."""
        return int(self._group_offsets.size - 1)

    @property
    def mean_examples(self) -> float:
        """Examples per puzzle on average, officially `mean_puzzle_examples`: rows per drawn group."""
        return float(self._puzzle_offsets[-1] / (self._puzzle_offsets.size - 1))

    @property
    def num_batches_estimate(self) -> int:
        """Full batches per iteration; exact when all puzzles have equally many examples."""
        rows = self.total_groups * self.epochs_per_iteration * self.mean_examples
        return int(rows / self.global_batch_size + 1e-9)

    @property
    def num_examples(self) -> int:
        """Examples that can be drawn."""
        return int(self._rows.size)

    @cached_property
    def difficulties(self) -> np.ndarray | None:
        """(num_examples,) int64, as the task of each set says; None where one does not."""
        parts: list[np.ndarray] = []
        for puzzle_set in self.sets:
            for start in range(0, puzzle_set.num_examples, READ_ROWS):
                rows = np.arange(start, min(start + READ_ROWS, puzzle_set.num_examples))
                difficulty = puzzle_set.metadata.task.difficulty(puzzle_set.read_rows(rows)[0])
                if difficulty is None:
                    return None
                parts.append(difficulty)
        return np.concatenate(parts)[self._rows]

    def next(self, position: Position) -> tuple[Batch, Position]:
        """The global batch at `position`, and the position after it.

        Returns inputs (B, S), labels (B, S) with -100 where nothing is asked, puzzle_identifiers (B,), all
        int32, and where a step wants their losses `example` (B,) int64. What is drawn depends on (seed, position) and
        on the state of the steps only.
        """
        position, draw = self._find(position)
        batch = self._read(draw.examples, position)
        following = position | {"batch": position["batch"] + 1, "cursor": draw.cursor}
        upcoming = self._draw(following)
        if upcoming is None:
            following = START | {"iteration": position["iteration"] + 1}
        self._next_draw = None if upcoming is None else (following, upcoming)
        return batch, dict(following)

    def _find(self, position: Position) -> tuple[Position, _Draw]:
        """The draw at `position`, or at the first later iteration that has a full batch."""
        if self._next_draw is not None and self._next_draw[0] == position:
            return self._next_draw
        self._check_position(position)
        for _ in range(MAX_EMPTY_ITERATIONS):
            draw = self._draw(position)
            if draw is not None:
                return position, draw
            position = START | {"iteration": position["iteration"] + 1}
        raise UserError(
            f"global_batch_size={self.global_batch_size} was not filled in {MAX_EMPTY_ITERATIONS} iterations "
            f"of {self.total_groups} groups x {self.epochs_per_iteration} epochs; use a smaller "
            "global_batch_size or a larger eval_interval"
        )

    def _check_position(self, position: Position) -> None:
        values = [position.get(key) for key in START]
        if len(position) != len(START) or not all(type(value) is int and value >= 0 for value in values):
            raise UserError(f"{position} is not a data position; the state was not written by this source")
        if self._single and position["cursor"] != position["batch"] * self.global_batch_size:
            raise UserError(
                f"data position {position} does not fit global_batch_size={self.global_batch_size}; the "
                "state belongs to another run"
            )

    def _draw(self, position: Position) -> _Draw | None:
        """Rows of the batch at `position`; None when the rest of the iteration does not fill it."""
        size, cursor = self.global_batch_size, position["cursor"]
        # Every puzzle has an example, so that `size` groups always suffice.
        groups = self._order(position["iteration"], cursor, size)
        if self._single and groups.size < size:
            return None
        rng = stream(self.seed, _DRAW, position["iteration"], position["batch"])
        puzzles = rng.integers(self._group_offsets[groups], self._group_offsets[groups + 1])
        if self._single:
            return _Draw(self._puzzle_offsets[puzzles], cursor + size)
        sizes = self._puzzle_offsets[puzzles + 1] - self._puzzle_offsets[puzzles]
        ends = np.cumsum(sizes)
        if ends.size == 0 or ends[-1] < size:
            return None
        used = int(np.searchsorted(ends, size)) + 1
        puzzles, sizes, ends = puzzles[:used], sizes[:used], ends[:used]
        order = np.repeat(np.arange(used), sizes)
        inside = np.arange(order.size) - np.repeat(ends - sizes, sizes)
        # The order inside each puzzle is random, so that what overflows is a random part of the last puzzle.
        chosen = np.lexsort((rng.random(order.size), order))[:size]
        owners = puzzles[order[chosen]]
        return _Draw(self._puzzle_offsets[owners] + inside[chosen], cursor + used)

    def _order(self, iteration: int, start: int, count: int) -> np.ndarray:
        """Groups `start` .. `start + count` of the concatenated epochs of an iteration (fewer at its end)."""
        stop = min(start + count, self.total_groups * self.epochs_per_iteration)
        block_size = self._block_epochs * self.total_groups
        pieces = []
        while start < stop:
            block, offset = divmod(start, block_size)
            piece = self._block(iteration, block)[offset : offset + stop - start]
            pieces.append(piece)
            start += piece.size
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)

    def _block(self, iteration: int, block: int) -> np.ndarray:
        key = (iteration, block)
        if key not in self._orders:
            epochs = min(self._block_epochs, self.epochs_per_iteration - block * self._block_epochs)
            table = np.tile(np.arange(self.total_groups), (epochs, 1))
            rng = stream(self.seed, _ORDER, iteration, block)
            self._orders[key] = rng.permuted(table, axis=1).reshape(-1)
            while len(self._orders) > BLOCKS_KEPT:
                self._orders.popitem(last=False)
        self._orders.move_to_end(key)
        return self._orders[key]

    def _read(self, examples: np.ndarray, position: Position) -> Batch:
        iteration, number = position["iteration"], position["batch"]
        epochs = iteration * self.epochs_per_iteration + position["cursor"] / self.total_groups
        moment = Moment(self.seed, iteration, number, epochs)
        for step in self.steps:
            examples = step.choose(examples, moment)
        rng = stream(self.seed, _AUGMENT, iteration, number)
        drawn = self._rows[examples]
        owners = np.searchsorted(self._row_starts, drawn, side="right") - 1
        inputs = np.empty((drawn.size, self.metadata.seq_len), dtype=np.int32)
        labels = np.empty_like(inputs)
        for index, (puzzle_set, task) in enumerate(zip(self.sets, self._drawing, strict=True)):
            mine = np.flatnonzero(owners == index)
            if mine.size == 0:
                continue
            rows = drawn[mine] - self._row_starts[index]
            tokens = puzzle_set.read_rows(rows)
            if task is not None:
                rules = puzzle_set.descriptors
                of_rows = None if rules is None else rules[puzzle_set.puzzle_of(rows)]
                tokens = task.augment_puzzles(*tokens, of_rows, rng)
            inputs[mine], labels[mine] = tokens
        for step in self.steps:
            inputs, labels = step.transform(inputs, labels, moment)
        puzzles = np.searchsorted(self._puzzle_offsets, examples, side="right") - 1
        batch = as_batch(inputs, labels, self._puzzle_identifiers[puzzles], self.metadata)
        return batch | {"example": torch.from_numpy(examples)} if self.wants_losses else batch

    def trained_rows(self) -> list[tuple[PuzzleSet, np.ndarray]]:
        """Of each set the rows that may be drawn. Where its task has symmetries, only those of the first puzzle of a
        group: the others are images of them."""
        chosen = []
        for index, puzzle_set in enumerate(self.sets):
            start, stop = self._row_starts[index : index + 2]
            rows = self._rows[(self._rows >= start) & (self._rows < stop)] - start
            if puzzle_set.metadata.task.augments:
                rows = rows[np.isin(puzzle_set.puzzle_of(rows), puzzle_set.group_indices[:-1])]
            chosen.append((puzzle_set, rows))
        return chosen

    def learn(self, losses: RowLosses) -> None:
        """Tell the steps what became of rows of the last update."""
        for step in self.steps:
            step.learn(losses)

    def numbers(self) -> dict[str, float]:
        """What the steps have to say for the log."""
        return {f"data/{step.name}/{name}": value for step in self.steps for name, value in step.numbers().items()}

    def state_dict(self) -> dict[str, Any]:
        """That of the steps which have one; beside it the position is all there is."""
        states = {step.name: step.state_dict() for step in self.steps}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave. Errors: `ValueError` for anything else."""
        if state.keys() != self.state_dict().keys():
            raise ValueError(f"it holds source state {sorted(map(str, state))}, expected {sorted(self.state_dict())}")
        for step in self.steps:
            step.load_state_dict(state.get(step.name, {}))

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a saved position to mean the same batches."""
        return {
            "data": [fingerprint(puzzle_set.folder, puzzle_set.split) for puzzle_set in self.sets],
            "sets": [puzzle_set.set_name for puzzle_set in self.sets],
            "rows": int(self._rows.size),
            "groups": self.total_groups,
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
            "epochs_per_iteration": self.epochs_per_iteration,
            "augment": [task.augmentation_identity if task else self.augment == "none" for task in self._drawing],
        }


def merge_metadata(sets: Sequence[PuzzleSet]) -> PuzzleMetadata:
    """Metadata of the first set, once all others agree on what the model and the loss depend on.

    Differs: the official loader adds up the identifier counts of its data sets, although all of them count
    from 0; here they share one table. Errors: `UserError` naming the first disagreement.
    """
    if not sets:
        raise UserError("no data set is given; name one with data_paths=[FOLDER]")
    first = sets[0]
    names = (
        "seq_len",
        "vocab_size",
        "pad_id",
        "ignore_label_id",
        "blank_identifier_id",
        "num_puzzle_identifiers",
    )
    for other in sets[1:]:
        for name in names:
            mine, theirs = getattr(first.metadata, name), getattr(other.metadata, name)
            if mine != theirs:
                raise UserError(
                    f"{other.root}: {name} is {theirs}, but {first.root} has {mine}; train them separately "
                    "or rebuild one to match"
                )
    return first.metadata
