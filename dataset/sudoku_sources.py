"""Where Sudoku puzzles are read from: the published CSV form and raw lists of 81 characters.

Files may come from anyone: lines and totals are bounded (a compressed file cannot unfold without end), and
what does not fit is refused by file and line number. Solving is left to the caller, so that a subsample
solves only what it needs.
"""

import csv
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from tqdm import tqdm

from dataset.safe_files import file_size
from dataset.sudoku import has_conflict, is_solution, parse_board
from errors import UserError
from files import open_regular

ROOT = Path(__file__).resolve().parents[1]
BOX = (3, 3)
CELLS = 81
FEWEST_CLUES = 17
CSV_COLUMNS = ("source", "question", "answer", "rating")
PUBLISHED_REPO = "sapientinc/sudoku-extreme"
# The largest published file (3.8 million rows, 0.7 GB) fits in easily; a compression bomb does not.
MAX_LINE_BYTES = 4096
MAX_LINES = 20_000_000
MAX_BYTES = 4 << 30
_CSV_BLOCK = 50_000


@dataclass(frozen=True)
class RawList:
    """Puzzles of a list without solutions: boards (N, 81) uint8 and their line numbers (N,), from 1."""

    path: Path
    boards: np.ndarray
    lines: np.ndarray


@dataclass(frozen=True)
class PublishedSet:
    """Rows of a CSV file: boards and solutions (N, 81) uint8, ratings (N,) int32, line numbers (N,)."""

    path: Path
    boards: np.ndarray
    solutions: np.ndarray
    ratings: np.ndarray
    lines: np.ndarray

    def at_least(self, rating: int | None) -> "PublishedSet":
        """The rows with this rating or a larger one; all where it is None."""
        keep = slice(None) if rating is None else self.ratings >= rating
        return PublishedSet(self.path, self.boards[keep], self.solutions[keep], self.ratings[keep], self.lines[keep])


def concatenated(parts: Sequence[object], *names: str) -> dict[str, np.ndarray]:
    """The arrays of these names of all parts, one after the other along the first axis."""
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}


def resolve_input(name: str) -> Path:
    """The file as given, else below the project's root (so that `dataset/raw/…` works anywhere)."""
    path = Path(os.path.expanduser(name))
    if not os.path.exists(path) and not path.is_absolute() and os.path.exists(ROOT / path):
        return ROOT / path
    file_size(path, "give an existing file to --input-file")
    return path


def is_csv(path: Path) -> bool:
    """Whether the name says published CSV form (`.csv`, `.csv.gz`); anything else is a raw list."""
    return path.name.lower().endswith((".csv", ".csv.gz"))


def bounded_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, `.gz` unpacked on the way, without line ends.

    Errors: `UserError` for a file that is no such text, a line or a total beyond the limits.
    """
    file_size(path, "give a readable text file to --input-file")
    number, total = 0, 0
    try:
        with _open_binary(path) as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                total += len(line)
                if len(line) > MAX_LINE_BYTES:
                    refuse_line(path, number, f"is longer than {MAX_LINE_BYTES} bytes")
                if number > MAX_LINES or total > MAX_BYTES:
                    refuse_line(path, number, f"is beyond the limit of {MAX_LINES:,} lines or {MAX_BYTES >> 30} GiB")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.rstrip("\r\n")
    except UnicodeDecodeError:
        refuse_line(path, number, "is not UTF-8 text; compressed files must be named .gz")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is not an intact gzip file ({error}); expected text, or gzip if named .gz") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); give a readable text file to --input-file") from error


def _open_binary(path: Path) -> BinaryIO | gzip.GzipFile:
    file = open_regular(path)
    return gzip.GzipFile(fileobj=file, mode="rb") if path.suffix.lower() == ".gz" else file


def refuse_line(path: Path, number: int, fault: str) -> NoReturn:
    """Raise the one-line `UserError` for a line of a file."""
    raise UserError(f"{path}:{number}: {fault}; correct or remove the line and build again")


def read_raw_list(path: Path) -> RawList:
    """A list with one puzzle a line: 81 characters, '.' or '0' = blank.

    Whatever follows after white space, lines that begin with '#' and empty lines are ignored. The whole file
    is checked for what shows without solving: length, characters, a digit given twice in a row, column or
    box, and fewer than 17 clues (which never have one solution).
    """
    boards: list[np.ndarray] = []
    lines: list[int] = []
    for number, text in enumerate(bounded_lines(path), start=1):
        fields = text.split(None, 1)
        if not fields or fields[0].startswith("#"):
            continue
        try:
            boards.append(parse_board(fields[0].split("#", 1)[0], BOX))
        except ValueError as error:
            hint = " (rows of the CSV form belong in a file named .csv)" if "," in fields[0] else ""
            refuse_line(path, number, f"is not a 9x9 puzzle{hint}: {error}")
        lines.append(number)
    if not boards:
        raise UserError(f"{path}: holds no puzzle; expected one of 81 characters ('.' or '0' blank) a line")
    result = RawList(path, np.array(boards), np.array(lines))
    _refuse_first(result, has_conflict(result.boards, BOX), "gives a digit twice in a row, column or box")
    clues = (result.boards != 0).sum(axis=1)
    _refuse_first(result, clues < FEWEST_CLUES, f"has fewer than {FEWEST_CLUES} clues, so more than one solution")
    return result


def _refuse_first(source: RawList | PublishedSet, wrong: np.ndarray, found: str) -> None:
    if wrong.any():
        refuse_line(source.path, int(source.lines[np.argmax(wrong)]), found)


def read_published_csv(path: Path) -> PublishedSet:
    """The form of the published sets: a header, then `source,question,answer,rating` (columns in any order).

    Every row is validated: 81 characters each, givens that agree with the answer, a valid answer, an integer
    rating. Uniqueness is taken on trust here (see the builder's `--rating search`).
    """
    blocks: list[PublishedSet] = []
    questions: list[str] = []
    answers: list[str] = []
    ratings: list[int] = []
    lines: list[int] = []
    reader = csv.reader(bounded_lines(path))
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if sorted(header) != sorted(CSV_COLUMNS):
            named = ",".join(header)[:80] or "nothing"
            raise UserError(f"{path}:1: the header is {named!r}, expected {','.join(CSV_COLUMNS)}")
        columns = [header.index(name) for name in CSV_COLUMNS[1:]]
        for row in tqdm(reader, desc=f"reading {path.name}", unit=" rows", disable=None):
            if not row:
                continue
            if len(row) != len(header):
                refuse_line(path, reader.line_num, f"has {len(row)} fields, expected {len(header)}")
            question, answer, rating = (row[column] for column in columns)
            questions.append(question)
            answers.append(answer)
            ratings.append(_rating(path, reader.line_num, rating))
            lines.append(reader.line_num)
            if len(lines) == _CSV_BLOCK:
                blocks.append(_validated(path, questions, answers, ratings, lines))
                questions, answers, ratings, lines = [], [], [], []
    except csv.Error as error:
        refuse_line(path, reader.line_num, f"is not a row of a CSV file ({error})")
    if lines:
        blocks.append(_validated(path, questions, answers, ratings, lines))
    if not blocks:
        raise UserError(f"{path}: holds no puzzle; expected rows of {','.join(CSV_COLUMNS)} below the header")
    return PublishedSet(path, **concatenated(blocks, "boards", "solutions", "ratings", "lines"))


def _rating(path: Path, number: int, text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        refuse_line(path, number, f"has the rating {text[:20]!r}, expected an integer of at most 9 digits")
    return int(text)


def _validated(
    path: Path, questions: list[str], answers: list[str], ratings: list[int], lines: list[int]
) -> PublishedSet:
    block = PublishedSet(
        path,
        boards=_board_block(path, questions, lines, "question", "1-9, '.' or '0'"),
        solutions=_board_block(path, answers, lines, "answer", "1-9"),
        ratings=np.array(ratings, np.int32),
        lines=np.array(lines),
    )
    disagree = ((block.boards != 0) & (block.boards != block.solutions)).any(axis=1)
    invalid = ~is_solution(block.solutions, BOX)
    wrong = disagree | invalid
    if wrong.any():
        row = int(np.argmax(wrong))
        fault = "has an answer that is no valid Sudoku" if invalid[row] else "has an answer that changes a given"
        refuse_line(path, lines[row], fault)
    return block


def _board_block(path: Path, texts: list[str], lines: list[int], column: str, expected: str) -> np.ndarray:
    """(N, 81) uint8 of many texts at once; the slow way is taken only to name the faulty line."""
    allowed = b"123456789" if column == "answer" else b"0123456789."
    data = b""
    if all(len(text) == CELLS for text in texts):
        data = "".join(texts).encode("utf-8")
    if len(data) != CELLS * len(texts) or data.translate(None, allowed):
        for text, number in zip(texts, lines, strict=True):
            if len(text) != CELLS:
                refuse_line(path, number, f"has a {column} of {len(text)} characters, expected {CELLS}")
            strange = sorted(set(text) - set(allowed.decode()))
            if strange:
                refuse_line(path, number, f"has {strange[0]!r} in its {column}, expected {expected}")
    cells = np.frombuffer(data.replace(b".", b"0"), np.uint8) - np.uint8(ord("0"))
    return cells.reshape(len(texts), CELLS)


def published_files(folder: Path) -> tuple[Path, Path]:
    """train.csv and test.csv (or .csv.gz) in a folder."""
    paths = []
    for name in ("train.csv", "test.csv"):
        candidates = [folder / name, folder / f"{name}.gz"]
        existing = [path for path in candidates if os.path.isfile(path)]
        if not existing:
            raise UserError(f"{candidates[0]}: no such file; --input-dir expects train.csv and test.csv")
        paths.append(existing[0])
    return paths[0], paths[1]


def fetch_published(repo: str) -> tuple[Path, Path]:
    """train.csv and test.csv of a Hugging Face data set, from its cache or the network.

    Errors: `UserError` that says which files to place by hand when they cannot be had.
    """
    by_hand = (
        f"download train.csv and test.csv of https://huggingface.co/datasets/{repo} by hand into a folder "
        "and pass --input-dir FOLDER, or build from the shipped puzzles: "
        "--input-file dataset/raw/royle_17clue.txt.gz, or --generate 6x6"
    )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub import logging as hub_logging
    except ImportError as error:
        raise UserError(f"{repo}: huggingface_hub is not installed; {by_hand}") from error
    hub_logging.set_verbosity_error()  # its warnings about retries; the outcome is reported below
    print(f"fetching {repo} (without a network this gives up within a minute)", flush=True)
    try:
        train, test = (Path(hf_hub_download(repo, name, repo_type="dataset")) for name in ("train.csv", "test.csv"))
    # The client raises its own errors, its HTTP library's and plain OSError, which all mean the same to a user.
    except Exception as error:
        raise UserError(f"{repo}: could not be fetched ({type(error).__name__}, no network?); {by_hand}") from error
    return train, test
