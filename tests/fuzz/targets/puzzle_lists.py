"""Puzzles as text: published CSV files and raw lists, plain and packed."""

import csv
import gzip
import io
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from dataset.sudoku_collect import Collected, collect_lists, collect_published
from dataset.sudoku_sources import PublishedSet, RawList, read_published_csv, read_raw_list, resolve_input
from tests.fuzz.byte_edits import BINARY, TEXT, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace

CELLS = 81
DIGITS = "0123456789."
BOX = (3, 3)


@cache
def peers() -> tuple[tuple[int, ...], ...]:
    """Cells that share a row, column or box with each cell."""

    def together(a: int, b: int) -> bool:
        (r, c), (s, d) = divmod(a, 9), divmod(b, 9)
        return a != b and (r == s or c == d or (r // 3, c // 3) == (s // 3, d // 3))

    return tuple(tuple(b for b in range(CELLS) if together(a, b)) for a in range(CELLS))


@cache
def solutions(puzzle: str) -> tuple[str, ...]:
    """Up to two solutions of 81 characters, by plain depth-first search over possible digits."""
    cells = puzzle.replace(".", "0")
    options = [set("123456789") for _ in range(CELLS)]
    found: list[str] = []

    def put(options: list[set[str]], cell: int, digit: str) -> bool:
        queue = [(cell, digit)]
        while queue:
            cell, digit = queue.pop()
            if digit not in options[cell]:
                return False
            options[cell] = {digit}
            for other in peers()[cell]:
                if digit in options[other]:
                    options[other] = options[other] - {digit}
                    if not options[other]:
                        return False
                    if len(options[other]) == 1:
                        queue.append((other, next(iter(options[other]))))
        return True

    def search(options: list[set[str]]) -> None:
        open_cells = [(len(each), cell) for cell, each in enumerate(options) if len(each) > 1]
        if not open_cells:
            found.append("".join(next(iter(each)) for each in options))
            return
        _, cell = min(open_cells)
        for digit in sorted(options[cell]):
            copy = [set(each) for each in options]
            if len(found) < 2 and put(copy, cell, digit):
                search(copy)

    if all(put(options, cell, digit) for cell, digit in enumerate(cells) if digit != "0"):
        search(options)
    return tuple(found)


def is_valid(answer: str) -> bool:
    """Whether 81 digits are a finished Sudoku."""
    return len(answer) == CELLS and all(
        answer[cell] in "123456789" and all(answer[cell] != answer[other] for other in peers()[cell])
        for cell in range(CELLS)
    )


def sound_puzzles(count: int) -> list[tuple[str, str]]:
    """(question, answer) pairs with one solution and 28 to 40 clues: relabelled, holed copies of one solution."""
    rng = Random(81)
    made: list[tuple[str, str]] = []
    pattern = [(3 * (i % 3) + i // 3 + j) % 9 for i in range(9) for j in range(9)]
    while len(made) < count:
        digits = rng.sample("123456789", 9)
        answer = "".join(digits[value] for value in pattern)
        cells = list(answer)
        for cell in rng.sample(range(CELLS), CELLS):
            kept, cells[cell] = cells[cell], "."
            if len(solutions("".join(cells))) > 1:
                cells[cell] = kept
            if sum(each != "." for each in cells) <= 28 + len(made) % 12:
                break
        made.append(("".join(cells), answer))
    return made


def _text(board: np.ndarray) -> str:
    return "".join(map(str, board.tolist()))


def _plain(question: str) -> str:
    return question.replace(".", "0")


def _unpacked(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")


def _edit_rows(rng: Random, lines: list[str], changes: list[str]) -> None:
    """Changes that keep the form and touch the meaning: a digit, a given, a swap, a column, a quote."""
    row = rng.randrange(len(lines))
    line = lines[row]
    places = [place for place, character in enumerate(line) if character in DIGITS]
    kind = rng.choice(
        [
            "digit",
            "digit",
            "clear",
            "two digits",
            "fields",
            "quote",
            "spaces",
            "double",
            "rating",
            "unicode",
            "relabel",
        ]
    )
    changes.append(kind)
    if kind in ("digit", "two digits", "clear") and places:
        for _ in range(2 if kind == "two digits" else rng.choice([1, 1, 5, 30])):
            place = rng.choice(places)
            new = rng.choice("0.") if kind == "clear" else rng.choice(DIGITS)
            line = line[:place] + new + line[place + 1 :]
    elif kind == "fields":
        parts = line.split(",")
        rng.shuffle(parts)
        line = ",".join(parts if rng.random() < 0.5 else [*parts, "7"])
    elif kind == "quote":
        line = ",".join(f'"{part}"' for part in line.split(","))
        line = line if rng.random() < 0.5 else line[:-1]
    elif kind == "spaces":
        line = rng.choice([" " + line, line + "  ", line.replace(",", ", "), "\t" + line, line + "\tcomment # x"])
    elif kind == "double":
        lines.insert(rng.randrange(len(lines)), line)
    elif kind == "rating":
        new = rng.choice(["-1", "1e3", "", "99999999999", "+5", "5.0", "\u0665", "\u00b2", " 12 ", "0x10", "1_000"])
        line = line.rsplit(",", 1)[0] + "," + new
    elif kind == "unicode" and places:
        place = rng.choice(places)
        line = line[:place] + rng.choice("\u0661\uff15\u00b3\u2460\u0967") + line[place + 1 :]
    elif kind == "relabel":
        line = line.translate(str.maketrans("123456789", "".join(rng.sample("123456789", 9))))
    lines[row] = line


class _TextTarget:
    name = ""
    share = 1.0
    suffix = ""

    def lines(self, rng: Random) -> list[str]:
        raise TypeError("a kind of list says what its lines are")

    def read(self, path: Path) -> Any:
        raise TypeError("a kind of list says how it is read")

    def judge(self, result: Any, path: Path) -> str | None:
        raise TypeError("a kind of list says what is right")

    def prepare(self) -> None:
        if not hasattr(self, "puzzles"):
            self.puzzles = sound_puzzles(12)

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        lines = self.lines(rng)
        packed = rng.random() < 0.3
        path = folder / f"puzzles.{self.suffix}{'.gz' if packed else ''}"
        sound = rng.random() < 0.03
        for _ in range(0 if sound else rng.choice([0, 1, 1, 2])):
            _edit_rows(rng, lines, changes)
        data = ("\n".join(lines) + "\n").encode("utf-8")
        if not sound and rng.random() < 0.5:
            data = damage(rng, data, TEXT, changes)
        if packed:
            if not sound and rng.random() < 0.15:
                changes.append("a bomb")
                data = rng.choice([b"1", b"\n", b"0" * 80 + b"\n", b"#\n"]) * rng.choice([200_000, 2_000_000])
            data = gzip.compress(data, 6, mtime=0)
            if not sound and rng.random() < 0.4:
                changes.append("packed")
                data = damage(rng, data, BINARY, changes)
        path.write_bytes(data)
        if not sound and rng.random() < 0.03:
            misplace(rng, path, changes)
        return Case(changes, lambda: self.read(path), lambda result: self.judge(result, path), must_read=sound)


class PublishedCsv(_TextTarget):
    """`source,question,answer,rating`, with every row validated again by plain Python."""

    name = "csv"
    share = 4.0
    suffix = "csv"

    def lines(self, rng: Random) -> list[str]:
        rows = [f"made,{question},{answer},{n}" for n, (question, answer) in enumerate(self.puzzles[:8])]
        return ["source,question,answer,rating", *rows]

    def read(self, path: Path) -> tuple[PublishedSet, Collected]:
        found = read_published_csv(resolve_input(str(path)))
        collected = collect_published(
            [path],
            [],
            seed=1,
            num_train=None,
            test_size=None,
            min_difficulty=None,
            rating="published",
            num_workers=1,
        )
        return found, collected

    def judge(self, result: tuple[PublishedSet, Collected], path: Path) -> str | None:
        found, collected = result
        table = list(csv.reader(io.StringIO(_unpacked(path), newline="")))
        header = [name.strip().lower() for name in table[0]]
        rows = [dict(zip(header, row, strict=True)) for row in table[1:] if row]
        if len(rows) != len(found.boards):
            return f"{len(found.boards)} puzzles of {len(rows)} rows"
        for row, board, solution, rating in zip(rows, found.boards, found.solutions, found.ratings, strict=True):
            question, answer = _plain(row["question"]), row["answer"]
            if _text(board) != question or _text(solution) != answer or int(rating) != int(row["rating"]):
                return f"a row was read as something else: {row}"
            if not is_valid(answer) or any(q not in ("0", a) for q, a in zip(question, answer, strict=True)):
                return f"a wrong row was accepted: {row}"
            if not row["rating"].strip().isascii():
                return "a rating in other digits"
        distinct = {_plain(row["question"]) for row in rows}
        kept = [_text(board) for part in (collected.train, collected.test) for board in part.boards]
        if len(kept) != len(set(kept)) or set(kept) != distinct:
            return "the splits do not hold each puzzle once"
        return None


class RawPuzzleList(_TextTarget):
    """81 characters a line, solved; uniqueness confirmed by another solver."""

    name = "raw-list"
    share = 4.0
    suffix = "txt"

    def lines(self, rng: Random) -> list[str]:
        chosen = [question for question, _ in self.puzzles[:6]]
        if rng.random() < 0.3:
            return ["# puzzles", "", *(f"{_plain(each)}  # note" for each in chosen), ""]
        return chosen

    def read(self, path: Path) -> tuple[RawList, Collected]:
        found = read_raw_list(resolve_input(str(path)))
        collected = collect_lists([path], seed=2, num_train=None, test_size=None, min_difficulty=None, num_workers=1)
        return found, collected

    def judge(self, result: tuple[RawList, Collected], path: Path) -> str | None:
        found, collected = result
        expected = []
        for line in _unpacked(path).split("\n"):
            words = line.strip().split()
            if words and not words[0].startswith("#"):
                expected.append(_plain(words[0].split("#")[0]))
        boards = [_text(board) for board in found.boards]
        if boards != expected:
            return f"{len(boards)} puzzles were read, the text holds {len(expected)} (or others)"
        kept = []
        for part in (collected.train, collected.test):
            for board, solution in zip(part.boards, part.solutions, strict=True):
                puzzle = _text(board)
                if solutions(puzzle) != (_text(solution),):
                    return f"{puzzle} was accepted; it has {len(solutions(puzzle))} solutions, or another one"
                kept.append(puzzle)
        if len(kept) != len(set(kept)) or set(kept) != set(boards):
            return "the splits do not hold each puzzle once"
        return None
