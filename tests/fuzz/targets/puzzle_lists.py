"""Puzzles as text: published CSV files and raw lists, plain and packed."""

import csv
import gzip
import re
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from dataset.published_files import resolve_input
from dataset.puzzle_csv import PuzzleTable
from dataset.puzzle_lists import PuzzleList
from dataset.sudoku import BLANKS, boards_from_tokens
from dataset.sudoku_collect import Collected, collect_lists
from dataset.sudoku_collect_published import collect_published
from dataset.sudoku_sources import read_list, read_table
from tests.fuzz.byte_edits import BINARY, TEXT, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace

CELLS = 81
DIGITS = "0123456789" + BLANKS[0]
BOX = (3, 3)
# What a bomb repeats, and how often. Wrong lines are too many to be kept, which shows a reader that does; those that
# hold nothing are fewer, as a reader looks at each.
BOMBS = {b"1": 2_000_000, b"\n": 200_000, b"0" * 8 + b"\n": 8_000_000, b"#\n": 200_000}


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


@cache
def bomb(unit: bytes, count: int) -> bytes:
    """So many repetitions, packed."""
    return gzip.compress(unit * count, 6, mtime=0)


def _text(board: np.ndarray) -> str:
    return "".join(map(str, board.tolist()))


def _plain(question: str) -> str:
    return re.sub(f"[{re.escape(BLANKS)}]", "0", question)


def lines_of(path: Path) -> list[str]:
    """The lines of a file: LF, CR LF and CR end one, a byte order mark may begin one."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    return [line.removeprefix("\ufeff") for line in re.split("\r\n|\r|\n", text)]


def _relabelled(puzzle: str) -> str:
    """Digits in the order in which they appear: one text for all that differ by their names."""
    names: dict[str, str] = {"0": "0"}
    return "".join(names.setdefault(digit, str(len(names))) for digit in puzzle)


def _split_fault(collected: Collected, distinct: set[str]) -> str | None:
    """Whether the splits lose or repeat a puzzle, or part two that differ by the names of digits only."""
    train, test = ([_text(board) for board in part.boards] for part in (collected.train, collected.test))
    kept = [*train, *test]
    if len(kept) != len(set(kept)) or set(kept) != distinct:
        return "the splits do not hold each puzzle once"
    return (
        "a puzzle and its image are on both sides" if {*map(_relabelled, train)} & {*map(_relabelled, test)} else None
    )


def _other_digits(rng: Random, line: str) -> str:
    return line.translate(str.maketrans("123456789", "".join(rng.sample("123456789", 9))))


def _edit_rows(rng: Random, lines: list[str], changes: list[str], target: "TextTarget") -> None:
    """Changes that keep the form and touch the meaning: a cell, a given, a swap, a column, a quote."""
    row = rng.randrange(len(lines))
    line = lines[row]
    places = [place for place, character in enumerate(line) if character in target.cells]
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
            "image",
            "join",
            "end",
        ]
    )
    changes.append(kind)
    if kind in ("digit", "two digits", "clear") and places:
        for _ in range(2 if kind == "two digits" else rng.choice([1, 1, 5, 30])):
            place = rng.choice(places)
            new = rng.choice(target.empty if kind == "clear" else target.cells)
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
    elif kind == "image":
        lines.insert(rng.randrange(1, len(lines) + 1), target.image(rng, line))
    elif kind == "join" and row:
        line = lines[row - 1] + rng.choice(["", " ", ",", ";", "|", "\t", " x "]) + line
    elif kind == "end":
        line += rng.choice("\v\f\x1c\x1d\x1e\x85\u2028\u2029") + rng.choice(lines)
    elif kind == "relabel":
        line = target.image(rng, line)
    lines[row] = line


class TextTarget:
    name = ""
    share = 1.0
    suffix = ""
    cells, empty = DIGITS, "0."

    def image(self, rng: Random, line: str) -> str:
        """The line with its puzzle as a symmetry shows it."""
        return _other_digits(rng, line)

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
            _edit_rows(rng, lines, changes, self)
        ends = rng.choice([["\n"], ["\r"], ["\r\n"], ["\n", "\r", "\r\n"]])
        data = "".join(line + rng.choice(ends) for line in lines).encode("utf-8")
        data = (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + data
        if not sound and rng.random() < 0.5:
            data = damage(rng, data, TEXT, changes)
        if packed:
            if not sound and rng.random() < 0.15:
                changes.append("a bomb")
                unit = rng.choice(list(BOMBS))
                data = bomb(unit, BOMBS[unit] // rng.choice([10, 1]))
            else:
                data = gzip.compress(data, 6, mtime=0)
            if not sound and rng.random() < 0.4:
                changes.append("packed")
                data = damage(rng, data, BINARY, changes)
        path.write_bytes(data)
        if not sound and rng.random() < 0.03:
            misplace(rng, path, changes)
        return Case(changes, lambda: self.read(path), lambda result: self.judge(result, path), must_read=sound)


class PublishedCsv(TextTarget):
    """`source,question,answer,rating` and Kaggle's columns, with every row validated again by plain Python."""

    name = "csv"
    share = 4.0
    suffix = "csv"

    def lines(self, rng: Random) -> list[str]:
        if rng.random() < 0.3:
            header = rng.choice(["quizzes,solutions", "puzzle,solution"])
            return [header, *(f"{question},{answer}" for question, answer in self.puzzles[:8])]
        rows = [f"made,{question},{answer},{n}" for n, (question, answer) in enumerate(self.puzzles[:8])]
        return ["source,question,answer,rating", *rows]

    def read(self, path: Path) -> tuple[PuzzleTable, Collected]:
        found = read_table(resolve_input(str(path)))
        collected = collect_published(
            [path],
            [],
            seed=1,
            num_train=None,
            test_size=None,
            min_difficulty=None,
            rating=None,
            num_workers=1,
        )
        return found, collected

    def judge(self, result: tuple[PuzzleTable, Collected], path: Path) -> str | None:
        found, collected = result
        first, *others = lines_of(path)
        delimiter = next((each for each in ",;\t" if each in first), ",")
        header = [name.strip().strip('"').lower() for name in first.split(delimiter)]
        names = {"quizzes": "question", "puzzle": "question", "solutions": "answer", "solution": "answer"}
        header = [names.get(name, name) for name in header]
        rows = [
            dict(zip(header, next(csv.reader([line], delimiter=delimiter)), strict=True))
            for line in others
            if line.strip()
        ]
        if len(rows) != len(found.tokens):
            return f"{len(found.tokens)} puzzles of {len(rows)} rows"
        boards, solutions = boards_from_tokens(found.tokens), boards_from_tokens(found.answers)
        for row, board, solution in zip(rows, boards, solutions, strict=True):
            question, answer = _plain(row["question"].strip()), row["answer"].strip()
            if _text(board) != question or _text(solution) != answer:
                return f"a row was read as something else: {row}"
            if not is_valid(answer) or any(q not in ("0", a) for q, a in zip(question, answer, strict=True)):
                return f"a wrong row was accepted: {row}"
        ratings = [row.get("rating", "") for row in rows]
        if found.ratings is not None and not all(map(str.isascii, map(str.strip, ratings))):
            return "a rating in other digits"
        if found.ratings is not None and found.ratings.tolist() != list(map(int, ratings)):
            return "a rating was read as something else"
        answers: dict[str, set[str]] = {}
        for row in rows:
            answers.setdefault(_plain(row["question"].strip()), set()).add(row["answer"].strip())
        if any(len(each) > 1 for each in answers.values()):
            return "a question with two answers was accepted"
        return _split_fault(collected, set(answers))


class RawPuzzleList(TextTarget):
    """Lists in all layouts, solved; uniqueness confirmed by another solver."""

    name = "raw-list"
    share = 4.0
    suffix = "txt"

    def lines(self, rng: Random) -> list[str]:
        blank = rng.choice(BLANKS)
        chosen = [question.replace(".", blank) for question, _ in self.puzzles[:6]]
        layout = rng.choice(["plain", "plain", "comments", "beside", "spaced", "grid", "ruled"])
        if layout == "comments":
            return ["# puzzles", "", *(f"{each}  # note" for each in chosen), ""]
        if layout == "beside":
            return [rng.choice([f"0000183b305c {each}  1.2", f"{each};ED=9.9/1.2;5"]) for each in chosen]
        if layout == "spaced":
            return [" ".join(each) for each in chosen]
        if layout in ("grid", "ruled"):
            between = rng.choice(["", "Grid 01", "[Puzzle 7]"])
            return [line for each in chosen for line in [between, *self.grid(each, ruled=layout == "ruled")]]
        return chosen

    def grid(self, puzzle: str, *, ruled: bool) -> list[str]:
        rows = [puzzle[start : start + 9] for start in range(0, CELLS, 9)]
        if not ruled:
            return rows
        drawn = [" | ".join(" ".join(row[start : start + 3]) for start in (0, 3, 6)) for row in rows]
        rule = "------+-------+------"
        return [*drawn[:3], rule, *drawn[3:6], rule, *drawn[6:]]

    def read(self, path: Path) -> tuple[PuzzleList, Collected]:
        found = read_list(resolve_input(str(path)))
        collected = collect_lists([path], seed=2, num_train=None, test_size=None, min_difficulty=None, num_workers=1)
        return found, collected

    def judge(self, result: tuple[PuzzleList, Collected], path: Path) -> str | None:
        found, collected = result
        cells = f"[1-9{re.escape(BLANKS)}]"
        expected = ""
        for line in lines_of(path):
            text = line.split("#")[0]
            together = re.sub(r"[\s|]", "", text)
            whole = [together] if re.fullmatch(f"{cells}{{81}}", together) else re.findall(f"{cells}{{81}}", text)
            if len(whole) > 1 and not (len(whole) == 2 and is_valid(whole[1])):
                return f"a line with {len(whole)} puzzles was accepted"
            if not whole and re.fullmatch(f"{cells}{{9}}", together):
                whole = [together]
            expected += "".join(whole[:1])
        boards = [_text(board) for board in boards_from_tokens(found.tokens)]
        if "".join(boards) != _plain(expected):
            return f"{len(boards)} puzzles were read, the text holds {len(expected) / CELLS} (or others)"
        for part in (collected.train, collected.test):
            for board, solution in zip(part.boards, part.solutions, strict=True):
                puzzle = _text(board)
                if solutions(puzzle) != (_text(solution),):
                    return f"{puzzle} was accepted; it has {len(solutions(puzzle))} solutions, or another one"
        return _split_fault(collected, set(boards))
