"""How many different tokens an answer has: what a further evaluator is, from its settings to its file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from dataset.puzzle_folder import PuzzleSet
from models.act import Batch
from options import at_least, option
from training.distributed import World
from training.evaluation.answering import Evaluator
from training.inference.base import Predictions, real_rows
from training.judges.base import JudgeSettings
from training.storage.atomic_file import write_json_atomically


@dataclass
class Settings(JudgeSettings):
    """Mean number of different tokens in an answer."""

    first_cells: int = option(10_000, "of an answer that are looked at", at_least(1))

    metrics: ClassVar = {"distinct": "different tokens in an answer, mean over rows"}

    def build(self, puzzle_set: PuzzleSet, rows: np.ndarray) -> Evaluator:
        return DistinctTokens(self.first_cells)


class DistinctTokens(Evaluator):
    def __init__(self, first_cells: int) -> None:
        self.first_cells = first_cells

    def begin(self) -> None:
        self.found = torch.zeros(0, 2, dtype=torch.int64)

    def update(self, batch: Batch, predictions: Predictions) -> None:
        real = real_rows(batch)
        pairs = [
            (int(row), len(set(answer[: self.first_cells].tolist())))
            for row, answer in zip(batch["row"][real], predictions.answers[real], strict=True)
        ]
        self.found = torch.cat([self.found, torch.tensor(pairs, dtype=torch.int64).view(-1, 2)])

    def gather(self, world: World) -> None:
        self.found = world.gather_ragged(self.found)

    def add(self, other: Self) -> None:
        self.found = torch.cat([self.found, other.found])

    def report(self) -> dict[str, Any]:
        found = self.found[self.found[:, 0].argsort()]
        return {"rows": len(found), "distinct": found[:, 1].double().mean().item() if len(found) else None}

    def metrics(self) -> dict[str, float]:
        report = self.report()
        return {"distinct": report["distinct"]} if report["rows"] else {}

    def lines(self) -> list[str]:
        return [f"  {value:.2f} different tokens in an answer" for value in self.metrics().values()]

    def files(self, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "distinct.json"
        write_json_atomically(path, {str(row): distinct for row, distinct in sorted(self.found.tolist())})
        return [path]
