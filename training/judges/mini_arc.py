"""Answers to mini-ARC puzzles: as grids, by op and by rule, and by votes over the stored views of a query."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from dataset.arc_tokens import PAD, GridViews, cropped, grids_of, read_view_name, tokens_of
from dataset.hashing import token_hashes
from dataset.mini_arc import OP_NAMES
from dataset.puzzle_folder import PuzzleSet
from dataset.puzzle_metadata import read_identifiers
from dataset.tasks.mini_arc import Task
from errors import UserError
from models.act import Batch
from models.losses import IGNORE_LABEL_ID
from training.distributed import World
from training.evaluation.answering import Evaluator, counted_rate, effective_wilson
from training.evaluation.view_votes import num_passed, ranks_of_right
from training.inference.base import Predictions
from training.judges.base import JudgeSettings

COUNTS = ("count", "right_count", "right_shape_count", "copied_count")
ATTEMPTS = (1, 2)


@dataclass
class Settings(JudgeSettings):
    """Answers to mini-ARC puzzles, as grids, by op and by rule, and by votes over stored views."""

    metrics: ClassVar = {
        "right_grid": "share of rows whose answer, cut out as officially, is the right grid",
        "right_shape": "share of rows whose answer has the right height and width",
        "copied_input": "share of rows whose answer is the input",
        "pass@1": "share of queries whose grid with the most votes over the stored views is right",
        "pass@2": "share of queries of which one of the two grids with the most votes is right",
    }

    def build(self, puzzle_set: PuzzleSet, rows: np.ndarray) -> "MiniArcEvaluator":
        if not isinstance(puzzle_set.metadata.task, Task):
            raise UserError(
                f"evaluators: mini_arc judges no puzzles of the task {puzzle_set.metadata.task}, as in "
                f"{puzzle_set.root}: leave it out"
            )
        return MiniArcEvaluator(puzzle_set)


class MiniArcEvaluator(Evaluator):
    """Of every row of a set its answer as a grid, and whether that is right, has its shape, or is the input.

    A query is a test pair with its stored views: their answers are mapped back and vote. The rule of a view is that of
    the pair itself.
    """

    def __init__(self, puzzle_set: PuzzleSet) -> None:
        self.canvas = puzzle_set.metadata.task.canvas  # type: ignore[attr-defined]
        owners = puzzle_set.puzzle_of(np.arange(puzzle_set.num_examples))
        self.identifiers = puzzle_set.puzzle_identifiers[owners]
        names = [""] * puzzle_set.metadata.num_puzzle_identifiers
        if puzzle_set.folder.num_identifiers is not None:
            names = read_identifiers(puzzle_set.root)
        used, which = np.unique(self.identifiers, return_inverse=True)
        views = [read_view_name(names[identifier] or str(identifier)) for identifier in used.tolist()]
        rules = {name: number for number, name in enumerate(dict.fromkeys(name for name, _, _ in views))}
        self.rules = np.array([rules[name] for name, _, _ in views])[which]
        self.symmetries = np.array([symmetry for _, symmetry, _ in views])[which]
        self.colours = np.stack([colours for _, _, colours in views])[which]
        self.ops = None if puzzle_set.descriptors is None else puzzle_set.descriptors[owners, 0]

    def begin(self) -> None:
        self.sums = dict.fromkeys([*COUNTS, *(f"{name}_{op}" for op in OP_NAMES for name in COUNTS)], 0.0)
        # A row each: query, answer, the bits of sigmoid(q_halt), whether right, rule. One for each set.
        self.tables = [np.zeros((0, 5), np.int64)]

    @torch.no_grad()
    def update(self, batch: Batch, predictions: Predictions) -> None:
        answers, labels, inputs = (
            tokens.cpu().numpy().astype(np.int64) for tokens in (predictions.answers, batch["labels"], batch["inputs"])
        )
        rows = batch["row"].cpu().numpy()
        counted = np.flatnonzero((labels != IGNORE_LABEL_ID).any(axis=1) & (rows >= 0))
        rows, labels, inputs = rows[counted], labels[counted], inputs[counted]
        given, answer = grids_of(inputs, self.canvas), cropped(answers[counted], self.canvas)
        wanted = grids_of(np.where(labels == IGNORE_LABEL_ID, PAD, labels), self.canvas)
        back = GridViews(self.symmetries[rows], self.colours[rows]).inverse()
        number, asked = (token_hashes(tokens_of(back.apply(grids))) for grids in (answer, given))
        right, copied = ((answer.cells == other.cells).all(axis=(1, 2)) for other in (wanted, given))
        shape = (answer.heights == wanted.heights) & (answer.widths == wanted.widths)
        right &= shape
        copied &= (answer.heights == given.heights) & (answer.widths == given.widths)
        values = (np.ones(len(rows)), right, shape, copied)
        for name, value in zip(COUNTS, values, strict=True):
            self.sums[name] += float(value.sum())
            if self.ops is not None:
                for op in np.unique(self.ops[rows]).tolist():
                    self.sums[f"{name}_{OP_NAMES[op]}"] += float(value[self.ops[rows] == op].sum())
        sure = predictions.q_halt.cpu().double().sigmoid().numpy()[counted]
        query = asked ^ token_hashes(self.rules[rows][:, None])
        columns = (query.view(np.int64), number.view(np.int64), sure.view(np.int64), right, self.rules[rows])
        self.tables[0] = np.concatenate([self.tables[0], np.column_stack(columns).astype(np.int64)])

    def gather(self, world: World) -> None:
        super().gather(world)
        self.tables[0] = world.gather_ragged(torch.from_numpy(self.tables[0])).numpy()

    def add(self, other: Self) -> None:
        """Rules of the other one are others than these, and so are its queries."""
        super().add(other)
        self.tables += other.tables

    def ranks(self) -> np.ndarray:
        """As `ranks_of_right`, of all queries."""
        columns = [[np.ascontiguousarray(column) for column in table.T] for table in self.tables]
        parts = [
            ranks_of_right(query, answer.view(np.uint64), sure.view(np.float64), right == 1)
            for query, answer, sure, right, _ in columns
        ]
        return np.concatenate(parts)

    def metrics(self) -> dict[str, float]:
        """Those of `Settings`, where there is a row."""
        count, ranks = self.sums["count"], self.ranks()
        if not count:
            return {}
        shares = {
            "right_grid": self.sums["right_count"] / count,
            "right_shape": self.sums["right_shape_count"] / count,
            "copied_input": self.sums["copied_count"] / count,
        }
        return shares | {f"pass@{k}": num_passed(ranks, k) / len(ranks) for k in ATTEMPTS}

    def by_rule(self) -> dict[str, Any]:
        """The mean over rules of the share of right rows, with the interval that its scatter between rules gives."""
        parts = []
        for table in self.tables:
            rows = np.unique(table[:, 4], return_inverse=True)[1]
            parts.append(np.bincount(rows, table[:, 3]) / np.bincount(rows))
        shares, count = np.concatenate(parts), sum(map(len, self.tables))
        if not count:
            return {"rules": 0, "value": None, "interval95": None}
        low, high = effective_wilson(float(shares.mean()), float(shares.var()), len(shares), count)
        return {"rules": len(shares), "value": float(shares.mean()), "interval95": [low, high]}

    def report(self) -> dict[str, Any]:
        """Every count, over all rows and by op; votes; the mean over rules."""
        ranks = self.ranks()
        ops = {
            op: {name: int(self.sums[f"{name}_{op}"]) for name in COUNTS} for op in OP_NAMES if self.sums[f"count_{op}"]
        }
        voted = {f"pass@{k}": counted_rate(num_passed(ranks, k), len(ranks)) for k in ATTEMPTS}
        return {name: int(self.sums[name]) for name in COUNTS} | voted | {"by_rule": self.by_rule(), "by_op": ops}

    def lines(self) -> list[str]:
        found = self.report()
        if not found["count"]:
            return []
        count, rule = found["count"], found["by_rule"]
        low, high = rule["interval95"]
        lines = [
            f"  right grids {found['right_count']}/{count}, right shapes {found['right_shape_count']}/{count}, inputs "
            f"copied {found['copied_count']}/{count}; mean of {rule['rules']} rules {rule['value']:.4f} "
            f"(95% {low:.3f}-{high:.3f})"
        ]
        if len(found["by_op"]) > 1:
            shares = [f"{op} {counts['right_count']}/{counts['count']}" for op, counts in found["by_op"].items()]
            lines.append(f"  by op: {', '.join(shares)}")
        if found["pass@1"]["denominator"] < count:
            shares = [f"pass@{k} {found[f'pass@{k}']['numerator']}" for k in ATTEMPTS]
            lines.append(f"  votes over stored views: {', '.join(shares)} of {found['pass@1']['denominator']} queries")
        return lines
