"""Mazes as text: CSV files with a path drawn in, and mazes on lines of their own; read, and split by the builder."""

import csv
from pathlib import Path
from random import Random

import numpy as np

from dataset import dihedral
from dataset.maze import CHARACTERS, Mazes
from dataset.maze_collect import Collected, collect_files
from dataset.maze_generator import TEST_STREAM, Request, generate
from dataset.published_files import resolve_input
from tests.fuzz.targets.puzzle_lists import TextTarget, lines_of

SIDE = 4


def sound_mazes(count: int) -> list[tuple[str, str]]:
    mazes = generate(Request(SIDE, 0, 3, 0.3, unique=False), TEST_STREAM, 0).take(slice(count))
    return [(_text(maze), _text(label)) for maze, label in zip(mazes.inputs, mazes.labels, strict=True)]


def _text(tokens: np.ndarray) -> str:
    return "".join(CHARACTERS[token - 1] for token in tokens.tolist())


def connected(cells: str, through: str) -> int | None:
    """Steps from S to G through cells of these characters, by a search of its own; None without a way."""
    side = int(len(cells) ** 0.5)
    reached, distance = {cells.index("S")}, 0
    met = set(reached)
    while reached:
        if any(cells[cell] == "G" for cell in reached):
            return distance
        near = {cell + step for cell in reached for step in (-side, side)}
        near |= {cell + 1 for cell in reached if cell % side < side - 1} | {cell - 1 for cell in reached if cell % side}
        reached = {cell for cell in near if 0 <= cell < len(cells) and cells[cell] in through} - met
        met |= reached
        distance += 1
    return None


def is_maze(cells: str) -> bool:
    ends = cells.count("S") == 1 and cells.count("G") == 1
    return ends and not set(cells) - set("# SG") and connected(cells, " G") is not None


def turned(line: str) -> str:
    """By half a turn, where whole mazes stand on the line."""
    return ",".join(part[::-1] if len(part) == SIDE * SIDE else part for part in line.split(","))


def read_by_builder(path: Path) -> Collected:
    return collect_files([resolve_input(str(path))], [], seed=1, num_train=None, test_size=None)


def _pairs(mazes: Mazes) -> list[tuple[str, str]]:
    return [(_text(maze), _text(label)) for maze, label in zip(mazes.inputs, mazes.labels, strict=True)]


def split_fault(collected: Collected, mazes: set[str]) -> str | None:
    """Every maze on one side, with its images; steps as the search here has them."""
    train, test = _pairs(collected.train), _pairs(collected.test)
    found = [maze for maze, _ in train + test]
    if set(found) != mazes or len(found) != len(mazes):
        return f"{len(found)} mazes of {len(mazes)}"
    side = collected.train.side
    forms = [
        {row.tobytes() for row in dihedral.smallest_images(part.inputs, side)}
        for part in (collected.train, collected.test)
    ]
    if forms[0] & forms[1]:
        return "an image of a test maze is trained on"
    for part in (collected.train, collected.test):
        for (maze, label), steps in zip(_pairs(part), part.steps.tolist(), strict=True):
            if connected(maze, " G") != steps or connected(label, "oG") is None or label.replace("o", " ") != maze:
                return f"a wrong answer or length: {maze!r}, {label!r}, {steps}"
    return None


class MazeCsv(TextTarget):
    """The published form, every row validated again by plain Python."""

    name = "maze-csv"
    suffix = "csv"
    cells, empty = "# SGo.", " ."

    def image(self, rng: Random, line: str) -> str:
        return turned(line)

    def prepare(self) -> None:
        if not hasattr(self, "puzzles"):
            self.puzzles = sound_mazes(12)

    def lines(self, rng: Random) -> list[str]:
        rows = [f"made,{question},{answer},{n}" for n, (question, answer) in enumerate(self.puzzles[:8])]
        return ["source,question,answer,rating", *rows]

    def read(self, path: Path) -> Collected:
        return read_by_builder(path)

    def judge(self, result: Collected, path: Path) -> str | None:
        first, *others = lines_of(path)
        delimiter = next((each for each in ",;\t" if each in first), ",")
        header = [name.strip().strip('"').lower() for name in first.split(delimiter)]
        names = {"quizzes": "question", "puzzle": "question", "solutions": "answer", "solution": "answer"}
        header = [names.get(name, name) for name in header]
        mazes = set()
        for line in others:
            if not line.strip():
                continue
            row = dict(zip(header, next(csv.reader([line], delimiter=delimiter)), strict=True))
            question, answer = row["question"].replace(".", " "), row["answer"].replace(".", " ")
            if not is_maze(question) or answer.replace("o", " ") != question or connected(answer, "oG") is None:
                return f"a wrong row was accepted: {row}"
            mazes.add(question)
        return split_fault(result, mazes)


class MazeTexts(TextTarget):
    """Rows on lines, or whole mazes on lines."""

    name = "maze-texts"
    suffix = "txt"
    cells, empty = "# SGo.", " ."

    def image(self, rng: Random, line: str) -> str:
        return turned(line)

    def prepare(self) -> None:
        if not hasattr(self, "puzzles"):
            self.puzzles = sound_mazes(12)

    def lines(self, rng: Random) -> list[str]:
        lines: list[str] = []
        for question, _ in self.puzzles[:8]:
            cells = question.replace(" ", rng.choice(" ."))
            rows = [cells[start : start + SIDE] for start in range(0, SIDE * SIDE, SIDE)]
            # Two empty lines, of which one is left where LF behind CR makes one end of two.
            lines += [*(rows if rng.random() < 0.7 else [cells]), "", ""]
        return lines

    def read(self, path: Path) -> Collected:
        return read_by_builder(path)

    def judge(self, result: Collected, path: Path) -> str | None:
        side = result.train.side
        mazes, rows = set(), ""
        for line in [*(line.replace(".", " ") for line in lines_of(path)), ""]:
            whole = len(line) == side * side
            for cells in [rows, line] if whole else [] if line else [rows]:
                if cells and (len(cells) != side * side or not is_maze(cells)):
                    return f"a wrong maze was accepted: {cells!r}"
                mazes |= {cells} - {""}
            rows = rows + line if line and not whole else ""
        return split_fault(result, mazes)
