"""Projects that train by the one loop, found by their folders: `projects/NAME/settings.py` holds its section of the
settings, `projects/NAME/setup.py` the function `build_run`.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from errors import UserError

if TYPE_CHECKING:
    from training.distributed import World
    from training.run import Run
    from training.settings.schema import TrainConfig

FOLDER = Path(__file__).resolve().parents[1] / "projects"


class ProjectSettings:
    """Base of a project's section, a dataclass: what the core must know of its runs."""

    # Settings that its runs do not read, sections by their name; the prefix of its project_name; how one is started.
    unread: ClassVar[frozenset[str]] = frozenset()
    project_name: ClassVar[str]
    command: ClassVar[str]

    @property
    def in_use(self) -> bool:
        """Whether a run with these settings is one of this project."""
        raise NotImplementedError

    @property
    def epochs_shape_weights(self) -> bool:
        """Whether the planned number of epochs decides what an update does, beside the learning rate."""
        return False

    @property
    def run_kind(self) -> str:
        """What the default name of a run begins with."""
        raise NotImplementedError

    @property
    def float64(self) -> str | None:
        """What its runs compute in float64 whatever `dtype` says, as `the loss is computed`; None for nothing."""
        return None

    def check(self, config: "TrainConfig") -> None:
        """Refuse combinations that cannot run. Errors: `UserError`."""


def offered() -> list[str]:
    """The projects that are here."""
    return sorted(path.parent.name for path in FOLDER.glob("*/settings.py"))


def settings_classes() -> dict[str, type[ProjectSettings]]:
    """Names of sections to their classes."""
    return {name: importlib.import_module(f"projects.{name}.settings").Settings for name in offered()}


def project_of(config: "TrainConfig") -> tuple[str, ProjectSettings] | None:
    """The project that a run belongs to, with its section; None for one of puzzles."""
    for name in offered():
        section: ProjectSettings = getattr(config, name)
        if section.in_use:
            return name, section
    return None


def refuse_project(config: "TrainConfig", source: object) -> None:
    """Errors: `UserError` where a run on puzzles is needed and `source` is of a project's run."""
    project = project_of(config)
    if project is not None:
        name, section = project
        raise UserError(f"{source} is of a run of {name}, expected one on puzzles; see {section.command}")


def builder_of(config: "TrainConfig") -> "Callable[[TrainConfig, World], Run] | None":
    """What makes the parts of a project's run; None for a run of puzzles."""
    project = project_of(config)
    if project is None:
        return None
    build: Any = importlib.import_module(f"projects.{project[0]}.setup").build_run
    return build
