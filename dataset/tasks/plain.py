"""A task of which nothing is known but its tokens: no blank, no views, no rules. Training works as with any other."""

from dataset.tasks.base import PuzzleTask


class Task(PuzzleTask):
    """What a folder that names no task holds, where its shape is that of no known one."""
