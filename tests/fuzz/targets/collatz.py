"""What collatz.py is given: the evaluation file, row by row, and its command line in all three modes."""

import re
import shlex
from pathlib import Path
from random import Random
from typing import Any

from projects.collatz.eval_file import COLUMNS, EvalRows, csv_lines, draw_numbers, read_eval_file
from projects.collatz.flags import (
    CheckpointRequest,
    ClosedFormRequest,
    Request,
    TrainingRequest,
    build_parser,
    read_flags,
)
from projects.collatz.labels import labels_of
from projects.collatz.settings import collatz_of
from projects.collatz.syracuse import TEST_STARTS
from tests.fuzz.byte_edits import TEXT, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace
from tests.fuzz.targets.command_lines import VALUES, typo
from tests.fuzz.targets.configs import wrong_types

ROWS = 12
_CELLS = ["", "0", "1", "2", "-1", "+7", "7.0", "1e3", "0x1f", "1_0", " 9", "9 ", "nan", "inf", "\u0669", "\u00b2",
          "9" * 4300, "9" * 5000, "1.0000", "2.3010", "x", '"7"', "1,2"]  # fmt: skip


class CollatzCsv:
    """`read_eval_file`: an accepted row is true of its number, by plain integers."""

    name = "collatz-csv"
    share = 3.0

    def prepare(self) -> None:
        numbers = draw_numbers(ROWS, 7)
        self.lines = list(csv_lines(numbers, labels_of(numbers)))

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        lines, path = list(self.lines), folder / "eval.csv"
        sound = rng.random() < 0.05
        for _ in range(0 if sound else rng.choice([0, 1, 1, 2])):
            _edit(rng, lines, changes)
        ends = rng.choice(["\r\n", "\n"])
        data = (ends.join(lines) + rng.choice([ends, ""])).encode("utf-8")
        if not sound and rng.random() < 0.5:
            data = damage(rng, data, TEXT, changes)
        path.write_bytes(data)
        if not sound and rng.random() < 0.04:
            misplace(rng, path, changes)
        return Case(changes, lambda: read_eval_file(path), lambda rows: _wrong_rows(rows, path), must_read=sound)


def _edit(rng: Random, lines: list[str], changes: list[str]) -> None:
    """A change that keeps the form of the file and touches what it says."""
    row = rng.randrange(len(lines))
    cells = lines[row].split(",")
    kind = rng.choice(["cell", "cell", "digit", "digit", "swap", "double", "drop", "even", "column", "header"])
    changes.append(kind)
    column = rng.randrange(len(cells))
    if kind == "cell":
        cells[column] = rng.choice(_CELLS)
    elif kind == "digit" and cells[column]:
        place = rng.randrange(len(cells[column]))
        cells[column] = cells[column][:place] + rng.choice("0123456789") + cells[column][place + 1 :]
    elif kind == "swap":
        other = rng.randrange(len(cells))
        cells[column], cells[other] = cells[other], cells[column]
    elif kind == "double":
        lines.insert(rng.randrange(len(lines)), lines[row])
    elif kind == "drop":
        del lines[row]
        return
    elif kind == "even" and cells[0].isdigit():
        cells[0] = str(int(cells[0]) + 1)
    elif kind == "column":
        cells.insert(column, rng.choice(_CELLS))
    elif kind == "header":
        others = [lines[0].upper(), ",".join(COLUMNS[:-1]), ",".join(reversed(COLUMNS)), "", "\ufeff" + lines[0]]
        lines[0] = rng.choice(others)
        return
    lines[row] = ",".join(cells)


def _wrong_rows(rows: EvalRows, path: Path) -> str | None:
    text = path.read_bytes().decode("ascii")
    table = [line.rstrip("\r").split(",") for line in text.split("\n")[1:] if line]
    if len(table) != len(rows) or len(rows.is_growth) != len(rows) or len(rows.weights) != len(rows):
        return f"{len(rows)} rows of {len(table)} lines"
    if len(set(rows.numbers)) != len(rows):
        return "a number was accepted twice"
    for cells, number, growth, weight in zip(table, rows.numbers, rows.is_growth, rows.weights, strict=True):
        if str(number) != cells[0].lstrip("0") or number < 3 or number % 2 == 0:
            return f"n = {cells[0]} was read as {number}"
        following = 3 * number + 1
        while following % 2 == 0:
            following //= 2
        if int(cells[1]) != following or bool(growth) != (following > number) or int(cells[2]) != int(growth):
            return f"a wrong step of {number} was accepted: {cells[1:3]}"
        if weight != float(cells[5]) or not re.fullmatch(r"[0-9]+\.[0-9]+", cells[5]):
            return f"w_expansion {cells[5]} was read as {weight}"
    return None


SOUND = [
    "--epochs 100000 --layers 2048,1024,1024,512,512,512,256,128,64 --curriculum --ramp-len 50000 --start-seeds 0 "
    "--lookahead 20",
    "--epochs 100000 --layers 256,128 --curriculum --start-seeds 0 --use-t4 --mine-negatives --mine-interval 10000",
    "--epochs 50 --target-type adaptive --eval-interval 5000 --quick-eval-interval 1000",
    "--preset orbit --epochs 40 --seed 3 --segment-steps 16",
    "--closed-forms --lookahead 20 --orbits 27,703,8400511",
    "--closed-forms",
    "--evaluate runs/a/best.pt --lookahead 10",
]
_VALUES = [*VALUES, "27,703", "1", "27,28", "0", "256,128,64", "0,1", "orbit", "faithful", "cosine", "adaptive", "20",
           "1e3", "9" * 2600, "random", "cpu", "mps"]  # fmt: skip


class CollatzFlags:
    """`read_flags`: what is understood is what the words say."""

    name = "collatz-flags"
    share = 3.0

    def prepare(self) -> None:
        self.flags = [flag for action in build_parser()._actions for flag in action.option_strings]

    def case(self, rng: Random, folder: Path) -> Case:
        words = shlex.split(rng.choice(SOUND)) if rng.random() < 0.7 else []
        sound = bool(words) and rng.random() < 0.1
        for _ in range(0 if sound else rng.choice([1, 1, 2, 3])):
            flag = rng.choice(self.flags)
            flag = typo(rng, flag) if rng.random() < 0.15 else flag
            value = rng.choice(_VALUES)
            words += rng.choice([[flag, value], [flag, value], [f"{flag}={value}"], [flag], [value]])
        (folder / "argv.txt").write_text(ascii(words))
        asked_for_help = any(word in ("-h", "--help") for word in words)
        return Case(
            [ascii(shlex.join(words))[:300]], lambda: read_flags(words), lambda asked: _wrong_flags(asked, words),
            must_read=sound, exits=(0,) if asked_for_help else (),
        )  # fmt: skip


def _wrong_flags(asked: Request, words: list[str]) -> str | None:
    given = _given(words)
    if isinstance(asked, ClosedFormRequest | CheckpointRequest):
        if isinstance(asked, CheckpointRequest) != ("--evaluate" in given):
            return "another mode than the words ask for"
        if not all(start > 0 and start % 2 for start in asked.starts) or len(set(asked.starts)) != len(asked.starts):
            return f"starts {asked.starts}"
        starts = given.get("--orbits")
        expected = TEST_STARTS if starts is None else tuple(int(word) for word in starts.split(","))
        if asked.starts != expected:
            return f"starts {asked.starts}, the words say {starts}"
        lookahead = given.get("--lookahead", 10 if isinstance(asked, ClosedFormRequest) else None)
        return None if asked.lookahead == (None if lookahead is None else int(lookahead)) else "another lookahead"
    assert isinstance(asked, TrainingRequest)
    wrong = wrong_types(asked.config)
    if wrong:
        return wrong
    settings = collatz_of(asked.config)
    fields: dict[str, Any] = {
        "--epochs": asked.config.epochs, "--seed": asked.config.seed, "--lookahead": settings.lookahead,
        "--ramp-len": settings.ramp_len, "--mine-count": settings.mine_count,
    }  # fmt: skip
    for flag, found in fields.items():
        if flag in given and int(given[flag]) != found:
            return f"{flag} is {found}, the words say {given[flag]}"
    if "--layers" in given and settings.layers != [int(width) for width in given["--layers"].split(",")]:
        return f"--layers is {settings.layers}, the words say {given['--layers']}"
    return None


def _given(words: list[str]) -> dict[str, Any]:
    """The last value of each flag, in either form."""
    given: dict[str, Any] = {}
    for place, word in enumerate(words):
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            given[flag] = value if equals else words[place + 1] if place + 1 < len(words) else ""
    return given
