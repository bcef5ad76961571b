"""Sudoku answers judged by the rules themselves, and not only by comparison with the recorded solution."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dataset.puzzle_folder import PuzzleSet
from dataset.sudoku import BLANK_TOKEN, Box, is_solution, side
from dataset.tasks.sudoku import Task
from errors import UserError
from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from training.evaluation.answering import Evaluator
from training.evaluation.evaluators import DifficultyGroup
from training.inference.base import Predictions

COUNTS = (
    "count",
    "exact_count",
    "valid_count",
    "givens_kept_count",
    "solved_otherwise_count",
    "cells_right_count",
    "cells_count",
    "blanks_right_count",
    "blanks_count",
)


class SudokuEvaluator(Evaluator):
    """Counts, over rows with a scored cell, what the answers are by the rules of Sudoku.

    `count` rows; of these `exact_count` have every scored cell right, `valid_count` are filled grids in which every
    unit holds each digit once (`dataset.sudoku.is_solution`), `givens_kept_count` change no given cell, and
    `solved_otherwise_count` are valid, keep the givens and yet are not exact: 0 where every puzzle has one solution,
    so anything else is a fault of the data. Of the `cells_count` scored cells `cells_right_count` are right; of
    these the `blanks_count` cells that the puzzle leaves open, `blanks_right_count`. An answer may hold any
    token: padding and blanks are no digits, so that such a grid is invalid.

    Args:
        box: (rows, columns) of a box; rows are n * n tokens, digit + 1.
        ratings: (N,) of the whole set, indexed by `batch["row"]`; needed for groups only.
        groups: counted apart as well.
    """

    def __init__(self, box: Box, ratings: np.ndarray | None = None, groups: Sequence[DifficultyGroup] = ()) -> None:
        if groups and ratings is None:
            raise ValueError("groups are made of ratings: give both or none")
        self.box, self.groups = box, list(groups)
        self.ratings = None if ratings is None else np.asarray(ratings).astype(np.int64)

    @classmethod
    def for_set(cls, puzzle_set: PuzzleSet, groups: Sequence[DifficultyGroup]) -> "SudokuEvaluator":
        """The judge of a set of Sudokus."""
        task = puzzle_set.metadata.task
        assert isinstance(task, Task)  # no other names this judge
        return cls(task.box, puzzle_set.ratings, groups)

    def begin(self) -> None:
        scopes = ["", *(f"_{g}" for g in range(len(self.groups)))]
        self.sums = dict.fromkeys([name + scope for scope in scopes for name in COUNTS], 0.0)

    @torch.no_grad()
    def update(self, batch: Batch, predictions: Predictions) -> None:
        answers, labels, inputs = (
            tokens.cpu().numpy().astype(np.int64) for tokens in (predictions.answers, batch["labels"], batch["inputs"])
        )
        cells = side(self.box) ** 2
        if inputs.shape[1] != cells:
            raise UserError(
                f"rows have {inputs.shape[1]} tokens, expected {cells} for boxes of {self.box[0]}x{self.box[1]}: the "
                "rules of Sudoku judge Sudokus only"
            )
        scored = labels != IGNORE_LABEL_ID
        right = scored & (answers == labels)
        blank = scored & (inputs == BLANK_TOKEN)
        exact = (right == scored).all(axis=1)
        valid = is_solution(answers - 1, self.box)
        givens_kept = ((answers == inputs) | (inputs <= BLANK_TOKEN)).all(axis=1)
        values = (
            np.ones(len(answers), np.int64),
            exact,
            valid,
            givens_kept,
            valid & givens_kept & ~exact,
            right.sum(axis=1),
            scored.sum(axis=1),
            (right & blank).sum(axis=1),
            blank.sum(axis=1),
        )
        counted = scored.any(axis=1)
        scopes = {"": counted}
        if self.ratings is not None and self.groups:
            ratings = self.ratings[batch["row"].cpu().numpy().clip(0)]
            for g, group in enumerate(self.groups):
                scopes[f"_{g}"] = counted & (ratings >= group.low) & (ratings <= group.high)
        for scope, inside in scopes.items():
            for name, value in zip(COUNTS, values, strict=True):
                self.sums[name + scope] += float(value[inside].sum())

    def result(self) -> dict[str, float]:
        """`rule_valid`, `givens_kept` (shares of rows), `blank_accuracy` (share of blank cells) where defined, and
        `solved_otherwise_count`; `counts` and `per_group` hold numerators and denominators."""
        rates = {
            "rule_valid": ("valid_count", "count"),
            "givens_kept": ("givens_kept_count", "count"),
            "blank_accuracy": ("blanks_right_count", "blanks_count"),
        }
        shares = {
            name: self.sums[numerator] / self.sums[denominator]
            for name, (numerator, denominator) in rates.items()
            if self.sums[denominator]
        }
        return shares | {"solved_otherwise_count": self.sums["solved_otherwise_count"]}

    def counts(self) -> dict[str, int]:
        """Every count of the class, over all rows."""
        return {name: int(self.sums[name]) for name in COUNTS}

    def per_group(self) -> list[dict[str, int]]:
        """One entry per difficulty group: its `low` and `high` rating, and every count over its rows."""
        return [
            {"low": group.low, "high": group.high} | {name: int(self.sums[f"{name}_{g}"]) for name in COUNTS}
            for g, group in enumerate(self.groups)
        ]

    def report(self) -> dict[str, Any]:
        """Every count, over all rows and by difficulty."""
        return {**self.counts(), "difficulty": self.per_group()}

    @staticmethod
    def lines(report: Mapping[str, Any]) -> list[str]:
        """A report for people; nothing where no row was scored."""
        if not report["count"]:
            return []
        shares = [
            f"{name} {report[key]}/{report['count']}"
            for name, key in (("valid by the rules", "valid_count"), ("givens kept", "givens_kept_count"))
        ]
        line = f"  {', '.join(shares)}, blank cells right {report['blanks_right_count']}/{report['blanks_count']}"
        if others := report["solved_otherwise_count"]:
            line += f"; {others} other solutions than the recorded one: these puzzles have several"
        return [line]
