"""Paths drawn into mazes, judged by the maze itself: most have many shortest paths, and the label is one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dataset.maze import judged, solved
from dataset.puzzle_folder import PuzzleSet
from dataset.tasks.maze import Task
from errors import UserError
from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from training.evaluation.answering import Evaluator, counted_rate
from training.inference.base import Predictions
from training.judges.base import JudgeSettings


@dataclass
class Settings(JudgeSettings):
    """Answers to mazes, by the path that they draw."""

    metrics: ClassVar = {
        "valid_path": "share of rows whose answer leaves walls, start, goal and free cells as they are, but for those "
        "it marks, and whose marked cells connect start and goal",
        "shortest_path": "share of rows whose answer is so, and marks exactly the cells of one shortest path",
        "excess_cells": "cells that valid paths mark beyond those of a shortest one, mean over `valid_path`",
        "maze_kept": "share of rows whose answer leaves the maze as it is, whatever it marks",
    }

    def build(self, puzzle_set: PuzzleSet, rows: np.ndarray) -> "MazeEvaluator":
        task = puzzle_set.metadata.task
        if not isinstance(task, Task):
            raise UserError(
                f"evaluators: maze judges no puzzles of the task {task}, as in {puzzle_set.root}: leave it out"
            )
        return MazeEvaluator()


class MazeEvaluator(Evaluator):
    """Counts, over rows with a scored cell, what the drawn paths are (`dataset.maze.judged`).

    `count` rows; of these `exact_count` are the label, `kept_count`, `valid_count` and `shortest_count` are what
    `judged` says, `excess_cells` are those of the valid ones, added up. `one_way_count` have one shortest path only,
    and `exact_by_chance` adds up 1 / (number of shortest paths): how many labels breadth-first search would meet that
    draws any shortest path with equal odds, which is valid and shortest in every row.
    """

    names = (
        *("count", "exact_count", "kept_count", "valid_count", "shortest_count", "excess_cells"),
        *("one_way_count", "exact_by_chance"),
    )

    def begin(self) -> None:
        self.sums = dict.fromkeys(self.names, 0.0)

    @torch.no_grad()
    def update(self, batch: Batch, predictions: Predictions) -> None:
        inputs, labels, answers = (
            tokens.cpu().numpy() for tokens in (batch["inputs"], batch["labels"], predictions.answers)
        )
        scored = labels != IGNORE_LABEL_ID
        counted = scored.any(axis=1)
        inputs, labels, answers, scored = (each[counted] for each in (inputs, labels, answers, scored))
        steps, paths = solved(inputs)
        found = judged(inputs, answers, steps)
        values: Mapping[str, np.ndarray] = {
            "count": counted,
            "exact_count": ((answers == labels) | ~scored).all(axis=1),
            "kept_count": found.kept,
            "valid_count": found.valid,
            "shortest_count": found.shortest,
            "excess_cells": found.excess[found.valid],
            "one_way_count": paths == 1,
            "exact_by_chance": 1 / np.maximum(paths, 1),
        }
        for name, value in values.items():
            self.sums[name] += float(value.sum())

    def metrics(self) -> dict[str, float]:
        """Those of `Settings`, where defined."""
        sums, count = self.sums, self.sums["count"]
        if not count:
            return {}
        rates = {"valid_path": "valid_count", "shortest_path": "shortest_count", "maze_kept": "kept_count"}
        found = {name: sums[numerator] / count for name, numerator in rates.items()}
        return found | ({"excess_cells": sums["excess_cells"] / sums["valid_count"]} if sums["valid_count"] else {})

    def report(self) -> dict[str, Any]:
        """Every sum of the class, as whole numbers but for the last, and the rates of paths."""
        sums = self.sums
        return {
            **{name: value if name == "exact_by_chance" else int(value) for name, value in sums.items()},
            "valid_path": counted_rate(sums["valid_count"], sums["count"]),
            "shortest_path": counted_rate(sums["shortest_count"], sums["count"]),
        }

    def lines(self) -> list[str]:
        found, rates = self.report(), self.metrics()
        if not found["count"]:
            return []
        shares = [
            f"{name} {found[key]}/{found['count']}"
            for name, key in (("valid paths", "valid_count"), ("shortest", "shortest_count"))
        ]
        more = f", {rates['excess_cells']:.2f} cells more than needed on average" if "excess_cells" in rates else ""
        return [
            f"  {', '.join(shares)}{more}; breadth-first search: all shortest, and "
            f"{found['exact_by_chance']:.1f} of them the recorded path by chance"
        ]
