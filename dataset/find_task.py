"""Which task a folder holds: the one that `dataset.json` names, else the one whose shape its tokens have.

Tasks are the modules of `dataset.tasks`, found by looking into that folder. A name in a data file is compared with
theirs before anything is imported.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import dataset.tasks
from dataset.tasks.base import PuzzleTask, TaskError

PLAIN = "plain"


def task_names() -> list[str]:
    """All tasks there are."""
    return sorted(module.name for module in pkgutil.iter_modules(dataset.tasks.__path__) if module.name != "base")


def task_class(name: str) -> type[PuzzleTask]:
    """The class of a task in `task_names`."""
    module = importlib.import_module(f"{dataset.tasks.__name__}.{name}")
    found: type[PuzzleTask] = module.Task
    return found


def official_shapes(vocab_size: int) -> list[tuple[str, int]]:
    """(task, seq_len) of all puzzles of official builders that have so many tokens."""
    shapes = [(name, shape) for name in task_names() for shape in task_class(name).official_shapes]
    return [(name, seq_len) for name, (seq_len, size) in shapes if size == vocab_size]


def recognised_task(seq_len: int, vocab_size: int) -> str:
    """The only task with official puzzles of this shape, else `plain`."""
    fitting = [name for name, length in official_shapes(vocab_size) if length == seq_len]
    return fitting[0] if len(fitting) == 1 else PLAIN


def find_task(description: Mapping[str, Any], seq_len: int, vocab_size: int, pad_id: int = 0) -> PuzzleTask:
    """The task of puzzles of this shape; `description` holds the keys of `dataset.json` beside the official ones.

    An "augmentation" names the task too, by its "kind". Errors: `TaskError`.
    """
    known, augmentation, name = task_names(), description.get("augmentation"), description.get("task")
    if name is None:
        kind = augmentation.get("kind") if isinstance(augmentation, dict) else None
        name = kind if kind in known else recognised_task(seq_len, vocab_size)
    if not isinstance(name, str) or name not in known:
        raise TaskError("task", f"one of {', '.join(known)}")
    return task_class(name)(seq_len, vocab_size, pad_id, augmentation, description.get("rating"))
