"""Lists of puzzles: every layout is read whole, and what would lose a puzzle is refused by file and line."""

import gzip
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dataset.puzzle_text as puzzle_text
from dataset.puzzle_csv import read_puzzle_csv, read_puzzle_file
from dataset.puzzle_lists import PuzzleList, read_puzzle_list
from dataset.sudoku import BLANKS, board_text, boards_from_tokens
from dataset.sudoku_solver import solve
from dataset.sudoku_sources import TASK, read_list
from errors import UserError
from tests.dataset.folders import sudoku_task
from tests.dataset.sudoku_reference import RAW_LIST
from tests.dataset.tasks import opposites

TEXTS = gzip.open(RAW_LIST, "rt").read().split()[:12]
PUZZLE, OTHER = TEXTS[:2]


def rows_of(text: str, size: int = 9) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def read(path: Path) -> list[str]:
    return [board_text(board, "0") for board in boards_from_tokens(read_list(path).tokens)]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_list(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_line_end_ends_a_line(tmp_path: Path, end: str, last: bool, mark: str, packed: bool) -> None:
    path = tmp_path / f"list.txt{'.gz' * packed}"
    data = (mark + end.join(TEXTS) + end * last).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read(path) == TEXTS
    assert read_list(path).lines.tolist() == list(range(1, 13))


def test_mixed_line_ends_and_files_put_together(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(f"{TEXTS[0]}\r{TEXTS[1]}\r\n\ufeff{TEXTS[2]}\n\r{TEXTS[3]}".encode())
    assert read(path) == TEXTS[:4] and read_list(path).lines.tolist() == [1, 2, 3, 5]


@pytest.mark.parametrize("end", list("\v\f\x1c\x1d\x1e\x85\u2028\u2029\x00"))
@pytest.mark.parametrize("comment", ["", "# "])
def test_what_only_some_take_for_a_line_end_is_refused(tmp_path: Path, end: str, comment: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{PUZZLE}\n{comment}{PUZZLE}{end}{OTHER}\n", encoding="utf-8")
    message = refusal(path)
    assert f"{path}:2: holds the character U+{ord(end):04X}" in message and "CR LF" in message


LAYOUTS = {
    "comments": lambda t: f"# head\n\n{t}  # easy\n",
    "spaced cells": lambda t: " ".join(t) + "\n",
    "rows on a line": lambda t: " ".join(rows_of(t)) + "\n",
    "hash puzzle rating": lambda t: f"0000183b305c {t}  1.2\n",
    "puzzle;rating": lambda t: f"{t};1234;ED=9.9/1.2/1.2\n",
    "puzzle,rating": lambda t: f"{t},12\n",
    "grids": lambda t: "Grid 01\n" + "\n".join(rows_of(t)) + "\n",
    "grids and empty lines": lambda t: "\n".join(rows_of(t)) + "\n\n",
    "grids of spaced cells": lambda t: "[Puzzle 3]\n" + "\n".join(map(" ".join, rows_of(t))) + "\n",
    "grids with rules": lambda t: (
        "\n------+-------+------\n".join(
            "\n".join(f"{' '.join(row[:3])} | {' '.join(row[3:6])} | {' '.join(row[6:])}" for row in rows_of(t)[band])
            for band in (slice(0, 3), slice(3, 6), slice(6, 9))
        )
        + "\n\n"
    ),
    "bands apart": lambda t: (
        "Grid\n" + "\n\n".join("\n".join(rows_of(t)[band : band + 3]) for band in (0, 3, 6)) + "\n\n"
    ),
    "rules of dashes": lambda t: (
        "puzzle\n" + "\n---------\n".join("\n".join(rows_of(t)[band : band + 3]) for band in (0, 3, 6)) + "\n"
    ),
}


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str, blank: str) -> None:
    path = tmp_path / "list.txt"
    text = "".join(LAYOUTS[layout](puzzle.replace("0", blank)) for puzzle in TEXTS)
    path.write_text(text)
    if layout == "rules of dashes" and blank == "-":  # rows of blanks and rules are one: refused, not guessed
        assert "rows" in refusal(path)
        return
    assert read(path) == TEXTS
    passed_over = "hash" in layout or "rating" in layout
    assert bool(read_list(path).notes) == passed_over
    assert not passed_over or "12 lines" in read_list(path).notes[0]


def test_a_solution_beside_a_puzzle_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    solution = board_text(solve(boards_from_tokens(TASK.parse(PUZZLE))[None], (3, 3)).solutions[0])
    path.write_text(f"{PUZZLE} {solution}\n{OTHER}\n")
    assert read(path) == [PUZZLE, OTHER]
    path.write_text(f"{OTHER}\n{PUZZLE} {solution[::-1]}\n")
    assert ":2: holds two puzzles" in refusal(path)


def test_a_wrong_solution_beside_a_puzzle_is_refused(tmp_path: Path) -> None:
    """It has the givens, and is none."""
    path = tmp_path / "list.txt"
    solution = board_text(solve(boards_from_tokens(TASK.parse(PUZZLE))[None], (3, 3)).solutions[0])
    blank = PUZZLE.index("0")
    wrong = f"{solution[:blank]}{int(solution[blank]) % 9 + 1}{solution[blank + 1 :]}"
    path.write_text(f"{PUZZLE} {solution}\n{OTHER}\n{PUZZLE};{wrong}\n{PUZZLE},{PUZZLE.replace('0', '9')}\n")
    said = refusal(path)
    assert "2 bad lines in all" in said and ":3: has a solution that breaks the rule: every row, column and box" in said


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (PUZZLE[:-1], "80 characters, expected 81"),
        (PUZZLE + "0", "82 characters"),
        (PUZZLE + OTHER, "more than one puzzle"),
        (f"{PUZZLE} {OTHER}", "two puzzles"),
        (f"{PUZZLE},{OTHER},{PUZZLE}", "more than one puzzle"),
        (f"{PUZZLE} next:{OTHER}", "more than one puzzle"),
        (f'{PUZZLE};"{OTHER}"', "two puzzles"),
        ("z" + PUZZLE[1:], "'z' at position 1"),
        ("no puzzle at all", "no puzzle of 81"),
        ("11" + PUZZLE[2:], "1 stands twice in row 1"),
        ("0" * 80 + "1", "fewer than 17"),
        (PUZZLE[:9], "begins a puzzle of 1 rows, expected 9"),
        ("quizzes,solutions", "name the file .csv"),
    ],
)
def test_malformed_lines_are_refused_by_number(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# head\n{PUZZLE}\n{line}\n{OTHER}\n")
    message = refusal(path)
    assert f"{path}:3:" in message and expected in message


@pytest.mark.parametrize("lost", range(9))
def test_a_grid_that_lost_a_row_is_refused(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "list.txt"
    grids = [rows_of(text) for text in TEXTS[:3]]
    del grids[1][lost]
    for between in ("\n", "\nGrid 7\n"):
        path.write_text(between.join("\n".join(rows) + "\n" for rows in grids))
        assert f"{path}:{10 + between.count(chr(10))}: begins a puzzle of 8 rows" in refusal(path)


def test_several_bad_lines_are_counted_and_the_first_named(tmp_path: Path) -> None:
    path = tmp_path / "my list.txt"
    path.write_text("\n".join([PUZZLE, *(f"row {number}:" + "1" * number for number in range(1, 11)), PUZZLE]))
    message = refusal(path)
    assert f"{path}:2: no puzzle of 81" in message and "10 bad lines in all, next 3, 4, 5, 6, ..." in message
    assert "tr -c '" in message and f"< '{path}' | grep -axE '.{{81}}' > puzzles.txt" in message
    path.write_text(f"11{PUZZLE[2:]}\n{PUZZLE}\n22{PUZZLE[2:]}\n")
    assert "(2 bad lines in all, next 3)" in refusal(path)


def test_the_command_of_the_error_takes_the_puzzles_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{TEXTS[n]} {TEXTS[n + 1].replace('0', '-')}\n" for n in range(0, 12, 2)))
    command = refusal(path).split("other text: ")[1]
    subprocess.run(["bash", "-c", command], check=True, timeout=60)
    assert read(tmp_path / "puzzles.txt") == TEXTS


@pytest.mark.parametrize("packed", [False, True])
def test_the_command_shifts_no_puzzle(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are glued to a puzzle make it longer: it is left out, not cut elsewhere."""
    monkeypatch.chdir(tmp_path)
    text = f"1.{TEXTS[0]}\nx:{TEXTS[1]};\n".encode()
    path = tmp_path / ("list.txt.gz" if packed else "list.txt")
    path.write_bytes(gzip.compress(text) if packed else text)
    subprocess.run(["bash", "-c", refusal(path).split("other text: ")[1]], check=True, timeout=60)
    assert read(tmp_path / "puzzles.txt") == [TEXTS[1]]


@pytest.mark.parametrize(
    "line",
    [
        f"easy {PUZZLE[:-1]}",
        f"Puzzle 5 {'.' * 80}",
        f"{'.' * 80} easy",
        f"{PUZZLE},{TEXTS[1][:-1]}",
        f"{PUZZLE} {' '.join(TEXTS[1])}",
        f"{PUZZLE} {' '.join(rows_of(TEXTS[1]))}",
        f"{PUZZLE}|{TEXTS[1][:80]}",
    ],
)
def test_a_puzzle_that_lost_a_cell_is_no_name_and_no_rating(line: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{TEXTS[2]}\n{line}\n{TEXTS[3]}\n")
    assert f"{path}:2: " in refusal(path)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(f"{PUZZLE}\n".encode() + b"\xff\xfe\x00" * 40)
    assert ":2: is not UTF-8" in refusal(path)
    path.write_text("# nothing\n\n")
    assert "no puzzle" in refusal(path)
    path.write_bytes(f"{PUZZLE}\n".encode("utf-16"))
    assert ":1: is not UTF-8" in refusal(path)
    packed = tmp_path / "list.txt.gz"
    packed.write_bytes(b"not gzip at all")
    assert "gzip" in refusal(packed)
    packed.write_bytes(gzip.compress(((PUZZLE + "\n") * 1000).encode())[:-12])
    assert "gzip" in refusal(packed)
    packed.write_bytes(b"")
    assert "no puzzle" in refusal(packed)
    assert "regular file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "absent.txt")


def test_lines_and_totals_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "bomb.txt.gz"
    packed.write_bytes(gzip.compress(b"0" * (1 << 24)))
    assert "longer than" in refusal(packed)
    packed.write_bytes(gzip.compress(b"\n" * 5000))
    monkeypatch.setattr(puzzle_text, "MAX_LINES", 1000)
    assert f"{packed}:1001:" in refusal(packed)
    monkeypatch.setattr(puzzle_text, "MAX_LINES", 10**9)
    monkeypatch.setattr(puzzle_text, "MAX_LENGTH", 4000)
    assert "limit" in refusal(packed)
    path = tmp_path / "list.txt"
    path.write_text("\n".join(TEXTS))
    with pytest.raises(UserError, match="more than 11 puzzles"):
        read_puzzle_list(path, TASK, 11)


def test_shipped_list_is_read() -> None:
    found = read_list(RAW_LIST)
    assert found.tokens.shape == (49_151, 81) and ((found.tokens > 1).sum(axis=1) == 17).all() and not found.notes


def test_other_sizes_and_tasks(tmp_path: Path) -> None:
    """A task says what its cells are and how they are drawn; what is drawn is read back, any number of times."""
    path = tmp_path / "list.txt"
    rng = np.random.default_rng(0)
    tasks = [sudoku_task((2, 2)), sudoku_task((2, 3)), opposites.Task(6, 4)]
    for task in tasks:
        tokens = np.full((3, task.seq_len), 1, np.uint8)
        tokens[np.arange(3), rng.integers(0, task.seq_len, 3)] = 2
        path.write_text("\n\n".join("\n".join(task.draw(row)) for row in tokens))
        assert np.array_equal(read_puzzle_list(path, task).tokens, tokens)
        path.write_text("\n".join("".join(task.symbols(row)) for row in tokens))
        assert np.array_equal(read_puzzle_list(path, task).tokens, tokens)


PIECES = st.lists(
    st.one_of(
        st.sampled_from(TEXTS),
        st.sampled_from([" ", ",", ";", "|", "\n", "\r", "\r\n", "\n\n", "# ", "Grid 1\n", "x", "12", '"', "\u2028"]),
    ),
    max_size=12,
)


@given(PIECES)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_puzzle_of_a_text_is_lost_in_silence(tmp_path: Path, pieces: list[str]) -> None:
    """Whatever is put between puzzles: all that no comment hides are read, or the file is refused."""
    path = tmp_path / "list.txt"
    text = "".join(pieces)
    path.write_bytes(text.encode())
    shown = [line.split("#")[0] for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    expected = [line[at : at + 81] for line in shown for at in range(len(line)) if line[at : at + 81] in TEXTS]
    try:
        found = read(path)
    except UserError:
        return
    assert found == expected


def as_list(path: Path) -> PuzzleList:
    return read_puzzle_file(path, TASK, 100)


def test_predict_and_builder_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\r".join(TEXTS))
    assert np.array_equal(as_list(path).tokens, read_list(path).tokens)
    solutions = solve(boards_from_tokens(read_list(path).tokens), (3, 3)).solutions
    table = tmp_path / "list.csv"
    rows = "".join(f"{text},{board_text(answer)}\r" for text, answer in zip(TEXTS, solutions, strict=True))
    table.write_bytes(f"\ufeffquizzes,solutions\r{rows}".encode())
    assert np.array_equal(as_list(table).tokens, read_puzzle_csv(table, TASK).tokens)
    assert np.array_equal(as_list(table).tokens, read_list(path).tokens)
