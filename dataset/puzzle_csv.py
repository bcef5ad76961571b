"""Puzzles with their answers in CSV files: the published form `source,question,answer,rating`, and Kaggle's.

A header names the columns, in any order; every line below it is one row. Every row is validated: a cell for each cell
of the task, an answer that keeps the givens and the rules, an integer rating. That the answer is the only one is taken
on trust here (see the builder's `--rating search`).
"""

import csv
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.puzzle_grids import read_puzzle_grids
from dataset.puzzle_lists import ANSWER_COLUMNS, QUESTION_COLUMNS, PuzzleList, read_puzzle_list, tokens_of
from dataset.puzzle_text import MAX_LINE_LENGTH, BadLines, text_lines
from dataset.tasks.base import PuzzleTask
from errors import UserError

OTHER_COLUMNS = ("source", "id", "clues", "difficulty")  # not read
_BLOCK = 10_000
_LONGEST_ROW = 1 << 20
_BESIDE = 1000  # characters that may stand beside a question and an answer
_MEND = "correct or remove what is no such row"
_EMPTY = "holds no puzzle; expected rows below the header"


@dataclass(frozen=True)
class PuzzleTable:
    """Rows of a CSV file: tokens and answers (N, S) uint8, ratings (N,) int32 or None, line numbers (N,) int64."""

    path: Path
    tokens: np.ndarray
    answers: np.ndarray
    ratings: np.ndarray | None
    lines: np.ndarray

    def at_least(self, rating: int | None) -> "PuzzleTable":
        """The rows with this rating or a larger one; all where it is None. Errors: `UserError` without ratings."""
        if rating is None:
            return self
        if self.ratings is None:
            raise UserError(
                f"{self.path}: has no column 'rating' to choose by; leave --min-difficulty out, or make a list, "
                f"which is rated by search: {_as_list(self.path)}"
            )
        keep = self.ratings >= rating
        return PuzzleTable(self.path, self.tokens[keep], self.answers[keep], self.ratings[keep], self.lines[keep])


def is_csv(path: Path) -> bool:
    """Whether the name says CSV (`.csv`, `.csv.gz`); anything else is a list."""
    return path.name.lower().endswith((".csv", ".csv.gz"))


def read_puzzle_file(path: Path, task: PuzzleTask, max_puzzles: int) -> PuzzleList:
    """The puzzles of a file of either form. Errors: `UserError`, also where there are more than `max_puzzles`."""
    if not is_csv(path):
        return (read_puzzle_grids if task.space_is_cell else read_puzzle_list)(path, task, max_puzzles)
    table = read_puzzle_csv(path, task)
    if len(table.lines) > max_puzzles:
        raise UserError(f"{path}: {len(table.lines):,} puzzles, at most {max_puzzles:,}; evaluate.py takes whole sets")
    return PuzzleList(path, table.tokens, table.lines, ())


def _as_list(path: Path) -> str:
    packed = path.suffix.lower() == ".gz"
    return f"{'zcat' if packed else 'cat'} {shlex.quote(str(path))} | tail -n +2 > puzzles.txt"


@dataclass
class _Block:
    """Rows whose texts have not been looked into."""

    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    ratings: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


class _Header:
    """Where the columns are, and what parts them."""

    def __init__(self, path: Path, line: str) -> None:
        self.delimiter = next((each for each in ",;\t" if each in line), ",")
        names = [name.strip().strip('"').lower() for name in line.split(self.delimiter)]
        self.count = len(names)
        questions = [place for place, name in enumerate(names) if name in QUESTION_COLUMNS]
        answers = [place for place, name in enumerate(names) if name in ANSWER_COLUMNS]
        known = (*QUESTION_COLUMNS, *ANSWER_COLUMNS, *OTHER_COLUMNS, "rating")
        if len(questions) != 1 or len(answers) != 1 or len(set(names)) < len(names) or not set(names) <= set(known):
            named = self.delimiter.join(names)[:80] or "nothing"
            raise UserError(
                f"{path}:1: the header is {named!r}, expected source,question,answer,rating, or quizzes,solutions, or "
                f"puzzle,solution, with id, clues or difficulty beside them; without answers it is a list: "
                f"{_as_list(path)}"
            )
        self.question, self.answer = questions[0], answers[0]
        self.rating = names.index("rating") if "rating" in names else None


def read_puzzle_csv(path: Path, task: PuzzleTask) -> PuzzleTable:
    """All rows of a CSV file. Errors: `UserError` with the number and the first of the lines that are no such rows."""
    lines = text_lines(path, max(MAX_LINE_LENGTH, 2 * task.seq_len + _BESIDE))
    header = _Header(path, next(lines, (1, ""))[1])
    bad = BadLines(path, _MEND)
    tables: list[PuzzleTable] = []
    block = _Block()
    strip = _as_it_is if task.space_is_cell else str.strip
    for number, line in tqdm(lines, desc=f"reading {path.name}", unit=" rows", disable=None):
        if not line.strip():
            continue
        try:
            row = _fields(line, header.delimiter)
            if len(row) != header.count:
                raise ValueError(f"has {len(row)} fields, expected {header.count}")
            block.ratings.append(0 if header.rating is None else _rating(row[header.rating]))
        except ValueError as error:
            bad.add(number, str(error))
            continue
        block.questions.append(strip(row[header.question]))
        block.answers.append(strip(row[header.answer]))
        block.lines.append(number)
        if len(block.lines) == _BLOCK:
            tables.append(_validated(path, task, block, bad))
            block = _Block()
    if block.lines:
        tables.append(_validated(path, task, block, bad))
    bad.refuse()
    if not tables:
        raise UserError(f"{path}: {_EMPTY}")
    ratings = np.concatenate([table.ratings for table in tables if table.ratings is not None])
    return PuzzleTable(
        path,
        np.concatenate([table.tokens for table in tables]),
        np.concatenate([table.answers for table in tables]),
        None if header.rating is None else ratings,
        np.concatenate([table.lines for table in tables]),
    )


def first_question(path: Path) -> tuple[int, str]:
    """The number of the first line below the header that holds anything, and its question as it stands there.

    It tells the shape of puzzles that have any side. Errors: as `read_puzzle_csv`.
    """
    lines = text_lines(path, _LONGEST_ROW)
    header = _Header(path, next(lines, (1, ""))[1])
    for number, line in lines:
        if line.strip():
            try:
                row = _fields(line, header.delimiter)
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}; {_MEND}") from None
            return number, row[header.question] if header.question < len(row) else ""
    raise UserError(f"{path}: {_EMPTY}")


def _as_it_is(text: str) -> str:
    return text


def _fields(line: str, delimiter: str) -> list[str]:
    """The fields of one row. Errors: `ValueError` for a quote that would go on in the next line."""
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ValueError(f"has a stray quote ({error})") from None


def _rating(text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError(f"has the rating {text[:20]!r}, expected an integer of at most 9 digits")
    return int(text)


def _validated(path: Path, task: PuzzleTask, block: _Block, bad: BadLines) -> PuzzleTable:
    """The rows of a block, the bad ones among them noted."""
    texts = {"question": (block.questions, task.characters), "answer": (block.answers, task.answer_characters)}
    faults = {
        line: fault
        for column, (column_texts, characters) in texts.items()
        for line, fault in _text_faults(column_texts, block.lines, column, characters, task.seq_len)
    }
    keep = [place for place, line in enumerate(block.lines) if line not in faults]
    lines = np.array(block.lines)[keep]
    tokens, answers = (
        tokens_of([column_texts[place] for place in keep], characters, task.seq_len)
        for column_texts, characters in texts.values()
    )
    faults |= {int(lines[row]): fault for row, fault in task.row_faults(tokens, answers).items()}
    for line, fault in sorted(faults.items()):
        bad.add(line, fault)
    return PuzzleTable(path, tokens, answers, np.array(block.ratings, np.int32)[keep], lines)


def _text_faults(
    texts: list[str], lines: list[int], column: str, characters: dict[str, int], seq_len: int
) -> list[tuple[int, str]]:
    """(line, fault) of the texts that are not `seq_len` of the characters."""
    allowed = "".join(characters)
    if all(len(text) == seq_len for text in texts) and re.fullmatch(f"[{re.escape(allowed)}]*", "".join(texts)):
        return []
    faults = []
    for text, line in zip(texts, lines, strict=True):
        strange = sorted(set(text) - set(characters))
        if len(text) != seq_len:
            faults.append((line, f"has a {column} of {len(text)} characters, expected {seq_len}"))
        elif strange:
            faults.append((line, f"has {strange[0]!r} in its {column}, expected {allowed}"))
    return faults
