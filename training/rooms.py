"""Named ideas that are found by their files: a module of a room that defines a class `Settings` is one.

    training/terms/halt_entropy.py     term.halt_entropy.weight     a loss beside the objective's
    training/hooks/swa.py              hook.swa.enabled             something around an update
    training/inference/vote.py         eval.vote.views              how rows are answered
    training/judges/sudoku.py          evaluators=[sudoku]          what is judged beside accuracy
    dataset/steps/replay.py            step.replay.fraction         which rows make a batch, and how

The file's name is the idea's, the dataclass holds its settings, and nothing else needs an edit: checks, `--help`, hash
and identity follow from the fields. A room may hold other modules beside these.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from files import bounded_text
from options import extended, section

ROOT = Path(__file__).resolve().parents[1]
_IDEA = re.compile(r"^class Settings\b", re.MULTILINE)


@dataclass(frozen=True)
class Room:
    """A folder of ideas. package: its dotted name. key: of its section of the settings. writes: what the names of its
    metrics begin with. reserved: names that no idea may have, because others write metrics under them.
    """

    package: str
    key: str
    writes: str = ""
    reserved: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """The ideas of the room, in alphabetical order. Read off the text: no module is imported for it."""
        return list(_ideas(self.package))

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.package}.{name}")

    def settings_class(self, name: str) -> Any:
        """The dataclass of one idea. Errors: `TypeError` where its file's first words do not say what it is."""
        settings = self.module(name).Settings
        if not _words(settings) and sys.flags.optimize < 2:  # `python -OO` takes all docstrings away
            raise TypeError(f"{self.package}.{name}.Settings has no docstring, which is its help")
        if name in self.reserved:
            raise TypeError(f"{self.package}.{name} would write over metrics of the objective; rename its file")
        return settings

    def classes(self) -> dict[str, Any]:
        """Every name to its dataclass. A file serves one name, its own, or those that its `Settings.names` are."""
        kinds = ((name, self.settings_class(name)) for name in self.names())
        return {word: kind for name, kind in kinds for word in (getattr(kind, "names", ()) or (name,))}

    def section(self, base: type, wanted: Callable[[type], bool] = lambda kind: True) -> type:
        """The dataclass `base` with the settings of every idea, or of the wanted ones, under the idea's name."""
        kinds = {name: self.settings_class(name) for name in self.names()}
        additions = [(name, kind, section(kind, _first_sentence(kind))) for name, kind in kinds.items() if wanted(kind)]
        return extended(base, base.__module__, additions)

    def metrics(self) -> dict[str, str]:
        """What its ideas write while training, by full name, in words."""
        return {
            self.writes + name: words
            for idea in self.names()
            for name, words in self.settings_class(idea).metrics.items()
        }

    def in_use(self, ideas: Any) -> Iterator[tuple[str, Any]]:
        """Names and settings of those that are on. ideas: the room's section of a config."""
        for name in self.names():
            settings = getattr(ideas, name)
            if settings.in_use:
                yield name, settings


@cache
def _ideas(package: str) -> tuple[str, ...]:
    folder = ROOT.joinpath(*package.split("."))
    files = [path for path in sorted(folder.glob("*.py")) if path.stem.isidentifier()]
    return tuple(path.stem for path in files if _IDEA.search(bounded_text(path)))


def _words(kind: type) -> str:
    words = kind.__doc__ or ""
    return "" if words.startswith(f"{kind.__name__}(") else words  # what `dataclass` writes where there is none


def _first_sentence(kind: type) -> str:
    return " ".join(_words(kind).split(". ")[0].split()).rstrip(".")


OBJECTIVES = Room("training.objectives", "objective")
# As `<name>_loss` a term writes its loss, and these are losses of models/losses.py.
TERMS = Room("training.terms", "term", "train/", ("lm", "q_halt", "q_continue"))
HOOKS = Room("training.hooks", "hook", "train/")
INFERENCES = Room("training.inference", "eval")
JUDGES = Room("training.judges", "evaluators")
STEPS = Room("dataset.steps", "step", "data/")
