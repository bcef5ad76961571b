"""A further file in dataset/tasks, for the time of a test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dataset.tasks


@pytest.fixture
def other_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Takes the text of a task's file, and optionally its name."""
    folder = tmp_path / "further-tasks"
    folder.mkdir()
    monkeypatch.setattr(dataset.tasks, "__path__", [*dataset.tasks.__path__, str(folder)])
    names = []

    def write(text: str, name: str = "other") -> None:
        names.append(name)
        (folder / f"{name}.py").write_text(text)

    yield write
    for name in names:
        sys.modules.pop(f"dataset.tasks.{name}", None)
        vars(dataset.tasks).pop(name, None)
