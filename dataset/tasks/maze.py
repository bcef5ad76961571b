"""Mazes of any side: the eight symmetries of a square, what a drawn path is worth, their text.

Mazes themselves are `dataset.maze`'s.
"""

from collections.abc import Sequence
from math import isqrt

import numpy as np

from dataset import dihedral, maze
from dataset.hashing import token_hashes
from dataset.tasks.base import Baseline, Known, PuzzleTask, TaskError, Views

FREE_CHARACTERS = " ."  # the official one, and one that no editor strips


class Task(PuzzleTask):
    """Square mazes with a start and a goal each; an answer marks the free cells of a shortest path."""

    official_shapes = ((900, maze.VOCAB_SIZE),)
    blank = maze.FREE
    augments = True
    rules = "the marked cells are those of a shortest path from S to G"

    def check(self) -> None:
        if self.side < 2 or self.side**2 != self.seq_len or self.vocab_size != maze.VOCAB_SIZE:
            raise TaskError("task", f"one that fits seq_len {self.seq_len} and vocab_size {self.vocab_size}")
        super().check()

    @property
    def side(self) -> int:
        """Cells of a row, and of a column."""
        return isqrt(self.seq_len)

    def __str__(self) -> str:
        return f"{self.name} of {self.side}x{self.side}"

    def augment(
        self, inputs: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        cells = dihedral.sources(self.side)[rng.integers(dihedral.COUNT, size=len(inputs))]
        return np.take_along_axis(inputs, cells, axis=1), np.take_along_axis(labels, cells, axis=1)

    @property
    def num_views(self) -> int | None:
        return dihedral.COUNT

    def views(self, view: int, draws: Sequence[np.random.Generator]) -> Views:
        """The symmetries by their official numbers (`dataset.dihedral`); every token stays what it is."""
        cells = dihedral.sources(self.side)[view]
        return Views(np.tile(cells, (len(draws), 1)), np.tile(np.arange(self.vocab_size), (len(draws), 1)))

    def equivalence_keys(self, rows: np.ndarray) -> np.ndarray:
        """Equal for mazes that are turned or mirrored images of each other."""
        keys = token_hashes(rows)
        for source in dihedral.sources(self.side)[1:]:
            keys = np.minimum(keys, token_hashes(rows[:, source]))
        return keys

    def judges(self) -> tuple[str, ...]:
        return ("maze",)

    def violations(self, answers: np.ndarray) -> np.ndarray:
        """As `dataset.maze.violations`, of the answers alone."""
        return maze.violations(answers)

    def faults(self, puzzle: np.ndarray, answer: np.ndarray) -> list[str]:
        found = maze.judged(puzzle[None], answer[None])
        changed = int(((answer != puzzle) & ~((answer == maze.PATH) & (puzzle == maze.FREE))).sum())
        faults = [f"{changed} cells of the maze changed"] if changed else []
        if found.valid[0]:
            more = int(found.excess[0])
            return [f"a path is drawn, with {more} cells more than a shortest one has"] if more else []
        return faults if faults else ["no path from S to G is drawn"]

    def known(self, puzzle: np.ndarray) -> Known:
        """What a breadth-first search finds: the length of shortest paths, and how many there are."""
        (steps,), (paths,) = maze.solved(puzzle[None])
        if steps < 0:
            return Known("maze: no path leads from S to G")
        length = f"maze: the shortest path has {steps} steps"
        if paths > 1:
            return Known(f"{length}, and there are {paths:,.0f} of them")
        only = maze.with_random_paths(puzzle[None], np.random.default_rng(0))[0]
        return Known(f"{length}, and there is one", only)

    def row_faults(self, puzzles: np.ndarray, answers: np.ndarray) -> dict[int, str]:
        """Also puzzles that are no mazes. A path that is not the shortest is none of them."""
        faults = {int(row): self.clash_text(puzzles[row]) for row in np.flatnonzero(self.clashes(puzzles))}
        found = maze.judged(puzzles, answers)
        for row in np.flatnonzero(~found.valid).tolist():
            what = "draws no path from S to G" if found.kept[row] else "changes the maze"
            faults.setdefault(row, f"has an answer that {what}")
        return faults

    def baselines(self, inputs: np.ndarray, frequent: int) -> dict[str, Baseline]:
        """Every free cell marked: that connects whatever is connected, and hardly ever is a shortest path."""
        return {"mark_all_free": Baseline(np.where(inputs == maze.FREE, maze.PATH, inputs))}

    def difficulty(self, inputs: np.ndarray) -> np.ndarray | None:
        """(N,) int64: steps of a shortest path."""
        return maze.solved(inputs)[0].astype(np.int64)

    @property
    def rating_meaning(self) -> str | None:
        return {"path_steps": "steps of a shortest path"}.get(str(self.rating))

    @property
    def alphabet(self) -> str:
        """Padding is no cell of a maze, and is shown all the same where an answer holds it."""
        return "?" + maze.CHARACTERS

    @property
    def colours(self) -> Sequence[str] | None:
        return ("#fee090", "#404040", "white", "#1a9850", "#d73027", "#74add1")

    @property
    def characters(self) -> dict[str, int]:
        tokens = {character: token for token, character in enumerate(maze.CHARACTERS, 1)}
        return tokens | dict.fromkeys(FREE_CHARACTERS, maze.FREE)

    @property
    def answer_characters(self) -> dict[str, int]:
        """All: free cells beside the path stay free."""
        return self.characters

    @property
    def expected_cells(self) -> str:
        return "# for a wall, a space or . for a free cell, S, G, and o on the path of an answer"

    def clashes(self, puzzles: np.ndarray) -> np.ndarray:
        """Not one start and one goal, no way between them, or a path that is drawn in already."""
        return (maze.solved(puzzles)[0] < 0) | (puzzles == maze.PATH).any(axis=1)

    def clash_text(self, puzzle: np.ndarray) -> str:
        for token, name in ((maze.START, "S"), (maze.GOAL, "G")):
            count = int((puzzle == token).sum())
            if count != 1:
                return f"the maze has {count or 'no'} {name}, expected one S and one G"
        if (puzzle == maze.PATH).any():
            return "the maze has a path drawn in (o), expected none before it is solved"
        return "no path leads from S to G, expected a maze with one" if maze.solved(puzzle[None])[0][0] < 0 else ""
