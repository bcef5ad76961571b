"""The seam of named evaluators: a file with a class `Settings` is one, and the settings build it for a set of rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dataset.puzzle_folder import PuzzleSet
from options import Range, at_least, option
from training.evaluation.answering import Evaluator


class Prefix(Range):
    def refusal(self, value: Any) -> str | None:
        fits = re.fullmatch(r"([\w-]+/)*[\w-]*", value, re.ASCII)
        return None if fits else "letters, digits, _ and -, with a / between and behind, or nothing"


@dataclass
class JudgeSettings:
    """Base of an evaluator's settings; `metrics` says what it writes, name by name, as `docs/metrics.md` tells it."""

    interval: int = option(1, "full validations of a run from one that it judges to the next", at_least(1))
    prefix: str = option("", "of the names of its metrics, reports and files", Prefix())

    metrics: ClassVar[Mapping[str, str]] = {}

    def build(self, puzzle_set: PuzzleSet, rows: np.ndarray) -> Evaluator:
        """The evaluator of some rows of a set. Errors: `UserError` where it cannot judge puzzles of this kind."""
        raise NotImplementedError
