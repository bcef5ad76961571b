"""Sudoku answers judged by the rules themselves, and not only by comparison with the recorded solution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from dataset.puzzle_folder import PuzzleSet
from dataset.sudoku import BLANK_TOKEN, Box, is_solution, side
from dataset.tasks.sudoku import Task
from errors import UserError
from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from training.evaluation.answering import Evaluator
from training.evaluation.evaluators import DifficultyGroup, difficulty_groups
from training.inference.base import Predictions
from training.judges.base import JudgeSettings

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


@dataclass
class Settings(JudgeSettings):
    """Answers to Sudokus, by the rules and by what the puzzle gives."""

    metrics: ClassVar = {
        "rule_valid": "share of rows whose answer is a filled grid that breaks no rule",
        "givens_kept": "share of rows whose answer changes no given",
        "blank_accuracy": "share of the cells that puzzles leave open that are right, over all rows together",
        "solved_otherwise_count": "rows whose answer is valid, keeps the givens and is not the recorded solution",
    }

    def build(self, puzzle_set: PuzzleSet, rows: np.ndarray) -> "SudokuEvaluator":
        task, ratings = puzzle_set.metadata.task, puzzle_set.ratings
        if not isinstance(task, Task):
            raise UserError(
                f"evaluators: sudoku judges no puzzles of the task {task}, as in {puzzle_set.root}: leave it out"
            )
        return SudokuEvaluator(task.box, ratings, [] if ratings is None else difficulty_groups(ratings[rows]))


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

    def add(self, other: Self) -> None:
        """Groups of the other one are reported behind these."""
        for name in COUNTS:
            self.sums[name] += other.sums[name]
            for g in range(len(other.groups)):
                self.sums[f"{name}_{len(self.groups) + g}"] = other.sums[f"{name}_{g}"]
        self.groups += other.groups

    def metrics(self) -> dict[str, float]:
        """Those of `Settings`, where defined; `counts` and `per_group` hold numerators and denominators."""
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

    def lines(self) -> list[str]:
        counts = self.counts()
        if not counts["count"]:
            return []
        shares = [
            f"{name} {counts[key]}/{counts['count']}"
            for name, key in (("valid by the rules", "valid_count"), ("givens kept", "givens_kept_count"))
        ]
        line = f"  {', '.join(shares)}, blank cells right {counts['blanks_right_count']}/{counts['blanks_count']}"
        if others := counts["solved_otherwise_count"]:
            line += f"; {others} other solutions than the recorded one: these puzzles have several"
        return [line]
