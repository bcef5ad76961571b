"""The evaluators of one evaluation: those that are due, over all its sets of rows together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset.puzzle_folder import PuzzleSet
from errors import UserError
from training.distributed import World
from training.evaluation.answering import AccuracyEvaluator, Evaluator
from training.judges.base import JudgeSettings
from training.settings.evaluator_list import Entries, judge_settings


@dataclass(frozen=True)
class Judge:
    """An evaluator and the settings that built it."""

    settings: JudgeSettings
    evaluator: Evaluator


def build_judges(entries: Entries, puzzle_set: PuzzleSet, rows: np.ndarray) -> dict[str, Judge]:
    """The evaluators of some rows of a set, by what reports call them.

    Errors: `UserError` where one cannot judge such puzzles, or two would write the same metric.
    """
    named = judge_settings(puzzle_set.metadata.task.judges() if entries is None else entries)
    written = dict.fromkeys(AccuracyEvaluator.metric_names, "accuracy")
    for label, settings in named.items():
        for key in (settings.prefix + metric for metric in settings.metrics):
            if key in written:
                raise UserError(f"evaluators: {written[key]} and {label} both write {key}; give {label} another prefix")
            written[key] = label
    return {label: Judge(settings, settings.build(puzzle_set, rows)) for label, settings in named.items()}


class Judging:
    """Builds evaluators set by set, and adds up what they found.

    Args:
        entries: `evaluators` of the settings. due: which of them judge this time.
    """

    def __init__(self, entries: Entries, due: Callable[[JudgeSettings], bool] = lambda settings: True) -> None:
        self.entries, self.due = entries, due
        self.judges: dict[str, Judge] = {}

    def build(self, puzzle_set: PuzzleSet, rows: np.ndarray) -> dict[str, Judge]:
        """Those of some rows of a set, by what reports call them; `add` takes them back."""
        built = build_judges(self.entries, puzzle_set, rows)
        return {label: judge for label, judge in built.items() if self.due(judge.settings)}

    def add(self, judges: Mapping[str, Judge]) -> None:
        """Take in evaluators that have judged and gathered."""
        for label, judge in judges.items():
            if label in self.judges:
                self.judges[label].evaluator.add(judge.evaluator)
            else:
                self.judges[label] = judge

    def metrics(self) -> dict[str, float]:
        """Under the names that a log has for them, without the set's."""
        return {
            judge.settings.prefix + name: value
            for judge in self.judges.values()
            for name, value in judge.evaluator.metrics().items()
        }

    def reports(self) -> dict[str, Any]:
        return {label: judge.evaluator.report() for label, judge in self.judges.items()}

    def lines(self) -> list[str]:
        return [line for judge in self.judges.values() for line in judge.evaluator.lines()]

    def files(self, folder_of: Callable[[str], Path], world: World) -> list[Path]:
        """Write all files, those of a judge into the folder that `folder_of` has for it. Errors: `OSError`."""
        return [
            path
            for label, judge in self.judges.items()
            if world.is_main or judge.evaluator.keeps_shares
            for path in judge.evaluator.files(folder_of(label.replace("/", "-")))
        ]
