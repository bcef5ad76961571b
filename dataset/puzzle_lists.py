"""Lists of puzzles as people pass them around, one reader for builders and `predict.py`.

A puzzle stands on one line, its cells together or spaced, and a name, a rating or its solution may stand beside it,
parted by white space, ',', ';' or '|'; or it stands on as many lines as it has rows, with or without rules drawn
between them, and `Grid 01` or an empty line between puzzles. Text after '#' is passed over.

No line is passed over that could be more: whatever is none of these is refused with its number.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.puzzle_text import BadLines, text_lines
from dataset.tasks.base import PuzzleTask
from errors import UserError

QUESTION_COLUMNS = ("question", "questions", "quiz", "quizzes", "puzzle", "puzzles")
ANSWER_COLUMNS = ("answer", "answers", "solution", "solutions")
_SEPARATORS = re.compile(r"[\s,;|]+")
_DRAWN = re.compile(r"[\s|]+")
_RULE = re.compile(r"[-=+|\s]*[-=+][-=+|\s]*")
# A word and perhaps a number: Grid 01, [Puzzle 3], easy. One of x alone may be a row of blanks that lost a cell, and
# what is longer a puzzle that did.
_LABEL = re.compile(r"\W{0,3}(?![xX]+\b)[A-Za-z]{2,}[\s.:_-]{0,3}\d{0,6}\W{0,3}")


@dataclass(frozen=True)
class PuzzleList:
    """Puzzles (N, S) uint8 tokens, the lines (N,) int64 that they begin on, and notes for who reads them."""

    path: Path
    tokens: np.ndarray
    lines: np.ndarray
    notes: tuple[str, ...]


def read_puzzle_list(path: Path, task: PuzzleTask, max_puzzles: int | None = None) -> PuzzleList:
    """All puzzles of a list. Errors: `UserError` with the number and the first of the lines that cannot be used."""
    if len(task.alphabet) < task.vocab_size:
        raise UserError(f"{path}: the {task.vocab_size} tokens of {task} have no characters; give a row of its data")
    reader = _Reader(path, task)
    for number, line in text_lines(path):
        reader.take(number, line.partition("#")[0].strip())
        if max_puzzles is not None and len(reader.lines) > max_puzzles:
            raise UserError(f"{path}: more than {max_puzzles:,} puzzles; evaluate.py takes whole sets")
    reader.close()
    reader.bad.refuse()
    if not reader.lines:
        raise UserError(f"{path}: holds no puzzle; {reader.bad.mend}")
    tokens = tokens_of(reader.puzzles, task.characters, task.seq_len)
    clashing = BadLines(path, "correct or remove what is no puzzle")
    for row in np.flatnonzero(task.clashes(tokens)).tolist():
        clashing.add(reader.lines[row], task.clash_text(tokens[row]))
    if reader.answers and task.rules is not None:
        wrong = task.violations(tokens_of(list(reader.answers.values()), task.characters, task.seq_len)) > 0
        for number in np.array(list(reader.answers))[wrong].tolist():
            clashing.add(number, f"has a solution that breaks the rule: {task.rules}")
    clashing.refuse()
    more = f"{path.name}: what {reader.more:,} lines say beside their puzzle (names, ratings) was passed over"
    return PuzzleList(path, tokens, np.array(reader.lines), (more,) if reader.more else ())


def tokens_of(texts: Sequence[str], characters: Mapping[str, int], seq_len: int) -> np.ndarray:
    """(N, S) uint8 of texts of S known characters each."""
    codes = np.zeros(128, np.uint8)
    codes[[ord(character) for character in characters]] = list(characters.values())
    return codes[np.frombuffer("".join(texts).encode("ascii"), np.uint8)].reshape(-1, seq_len)


def _expected(path: Path, task: PuzzleTask) -> str:
    """The accepted forms, and a command that takes out of a file whatever is a puzzle on one line."""
    cells = "".join(sorted(task.characters))
    shown = "".join(character for character in cells if character != "-") + "-" * ("-" in cells)
    rows, columns = task.grid
    lines = f", or {rows} lines of {columns} cells" if rows > 1 else ""
    name, packed = shlex.quote(str(path)), path.suffix.lower() == ".gz"
    # Whatever is no cell ends a line; then lines of other lengths are left out, also longer ones.
    command = (
        f"tr -c '\\n{shown}' '\\n' {'' if packed else f'< {name} '}| grep -axE '.{{{task.seq_len}}}' > puzzles.txt"
    )
    command = f"gzip -dc {name} | {command}" if packed else command
    return (
        f"expected a puzzle of {task.seq_len} cells ({cells}) a line, its name, rating or solution beside it{lines}; "
        f"to take puzzles out of other text: {command}"
    )


class _Reader:
    """Puzzles of the lines taken so far, and a puzzle of which only some rows have been read."""

    def __init__(self, path: Path, task: PuzzleTask) -> None:
        self.task = task
        self.cells = frozenset(task.characters)
        self.rows, self.columns = task.grid
        self.band = task.block[0]
        self.puzzles: list[str] = []
        self.lines: list[int] = []
        self.answers: dict[int, str] = {}  # by line, that of the puzzle on it
        self.more = 0
        self.bad = BadLines(path, _expected(path, task))
        self.begun: list[str] = []  # rows of a puzzle that stands on several lines
        self.begun_on = 0
        self.block = 0  # rows since the last empty line
        self.grids = 0
        self.gaps: bool | None = None  # whether empty lines stand between bands; None before the first
        self.run = re.compile(f"[{re.escape(''.join(self.cells))}]{{{task.seq_len},}}")

    def take(self, number: int, text: str) -> None:
        """The next line, without comment."""
        if len(text) == self.task.seq_len and self.cells.issuperset(text):
            self._finish(text, number)
        elif not text:
            self._empty()
        else:
            self._take_other(number, text)

    def _take_other(self, number: int, text: str) -> None:
        together = _DRAWN.sub("", text)
        of_cells = self.cells.issuperset(together)
        if of_cells and len(together) == self.task.seq_len:
            self._finish(together, number)
        elif of_cells and len(together) == self.columns and not self._is_rule(together):
            self._row(together, number)
        elif _RULE.fullmatch(text):
            pass
        elif _LABEL.fullmatch(text) and not self.run.search(text):
            self.close()
        else:
            self._take_fields(number, text)

    def _is_rule(self, together: str) -> bool:
        """Whether dashes of a row's length are a rule under a band, in a grid whose blanks are no dashes."""
        at_a_band = 0 < len(self.begun) < self.rows and len(self.begun) % self.band == 0
        return set(together) == {"-"} and at_a_band and not any("-" in row for row in self.begun)

    def _take_fields(self, number: int, text: str) -> None:
        fields = [field.strip("\"'") for field in _SEPARATORS.split(text)]
        whole = [field for field in fields if len(field) == self.task.seq_len and self.cells.issuperset(field)]
        rest = [field for field in fields if field not in whole]
        beside = sum(len(field) for field in rest if self.cells.issuperset(field))
        glued = [field for field in rest if self.run.search(field)]
        if len(whole) > 2 or (whole and glued) or any(len(field) >= 2 * self.task.seq_len for field in glued):
            self._refuse(number, "holds more than one puzzle; put each on a line of its own")
        elif not whole and all({*map(str.lower, fields)} & {*names} for names in (QUESTION_COLUMNS, ANSWER_COLUMNS)):
            raise UserError(f"{self.bad.path}:{number}: is the header of a CSV file; name the file .csv to read it so")
        elif not whole:
            self._refuse(number, self._fault(fields))
        elif 2 * beside >= self.task.seq_len:
            self._refuse(number, f"holds {beside} more cells beside its puzzle, more than a name and a rating have")
        elif len(whole) == 2 and not self._answers(*whole):
            self._refuse(number, "holds two puzzles; put each on a line of its own")
        else:
            self.more += 1
            if len(whole) == 2:
                self.answers[number] = whole[1]
            self._finish(whole[0], number)

    def _answers(self, puzzle: str, other: str) -> bool:
        """Whether the other is a filled puzzle with the same givens."""
        codes = self.task.characters
        pairs = [(codes[cell], codes[answer]) for cell, answer in zip(puzzle, other, strict=True)]
        return all(answer != self.task.blank and cell in (self.task.blank, answer) for cell, answer in pairs)

    def _fault(self, fields: list[str]) -> str:
        longest = max(fields, key=len)
        strange = next((place for place, cell in enumerate(longest) if cell not in self.cells), None)
        if len(longest) == self.task.seq_len and strange is not None:
            return f"character {longest[strange]!r} at position {strange + 1}"
        if strange is None or len(fields) == 1:
            return f"{len(longest)} characters, expected {self.task.seq_len}"
        return f"no puzzle of {self.task.seq_len} characters"

    def _refuse(self, number: int, fault: str) -> None:
        self.close()
        self.bad.add(number, fault)

    def _finish(self, puzzle: str, number: int) -> None:
        self.close()
        self.puzzles.append(puzzle)
        self.lines.append(number)

    def _row(self, row: str, number: int) -> None:
        if not self.begun:
            self.begun_on = number
        self.begun.append(row)
        self.block += 1
        if len(self.begun) == self.rows:
            rows, self.begun = self.begun, []
            self.grids += 1
            self._finish("".join(rows), self.begun_on)

    def _empty(self) -> None:
        """Empty lines part puzzles, or else the bands of puzzles too, as the first one shows."""
        if self.gaps is None and (self.begun or self.grids):
            self.gaps = bool(self.begun) and self.block == self.band
        if self.begun and not (self.gaps and self.block in (0, self.band)):
            self.close()
        self.block = 0

    def close(self) -> None:
        """No more rows of the puzzle that was begun."""
        if self.begun:
            self.bad.add(self.begun_on, f"begins a puzzle of {len(self.begun)} rows, expected {self.rows}")
            self.begun = []
        self.block = 0
