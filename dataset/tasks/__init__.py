"""Kinds of puzzles, one file each with one class `Task` (base.py says what it has); `dataset.find_task` finds them."""
