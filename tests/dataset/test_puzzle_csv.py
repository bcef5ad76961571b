"""CSV files of puzzles with answers: which headers and rows are read, and one line by number for what is not."""

import gzip
from pathlib import Path

import numpy as np
import pytest

import dataset.puzzle_csv as puzzle_csv
from dataset.puzzle_csv import PuzzleTable, is_csv, read_puzzle_csv, read_puzzle_file
from dataset.sudoku import board_text, boards_from_tokens, parse_board
from dataset.sudoku_solver import solve
from dataset.sudoku_sources import TASK
from errors import UserError
from tests.dataset.sudoku_reference import RAW_LIST

HEADER = "source,question,answer,rating\n"


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    texts = gzip.open(RAW_LIST, "rt").read().split()[:20]
    solved = solve(np.array([parse_board(text) for text in texts]), (3, 3))
    return [(text, board_text(answer)) for text, answer in zip(texts, solved.solutions, strict=True)]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_puzzle_csv(path, TASK)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def questions(table: PuzzleTable) -> list[str]:
    return [board_text(board, "0") for board in boards_from_tokens(table.tokens)]


def test_published_rows_are_read(tmp_path: Path, rows: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puzzle_csv, "_BLOCK", 7)
    path = tmp_path / "train.csv"
    text = HEADER + "".join(f'"a, b",{q.replace("0", ".")},{a},{i}\r\n' for i, (q, a) in enumerate(rows))
    path.write_text(text)
    found = read_puzzle_csv(path, TASK)
    assert questions(found) == [q for q, _ in rows]
    assert [board_text(board) for board in boards_from_tokens(found.answers)] == [a for _, a in rows]
    assert found.ratings is not None
    assert found.ratings.tolist() == list(range(20)) and found.lines.tolist() == list(range(2, 22))
    assert found.at_least(5).lines.tolist() == list(range(7, 22)) and found.at_least(None) is found
    swapped = tmp_path / "swapped.csv.gz"
    lines = "".join(f"{i},{a},x,{q}\n" for i, (q, a) in enumerate(rows))
    swapped.write_bytes(gzip.compress(("rating,answer,source,question\n" + lines).encode()))
    assert np.array_equal(read_puzzle_csv(swapped, TASK).tokens, found.tokens)
    assert is_csv(path) and is_csv(swapped) and not is_csv(tmp_path / "list.txt.gz")


@pytest.mark.parametrize(
    "header", ["quizzes,solutions", "puzzle,solution", '"Puzzle";"Solution"', "quizzes\tsolutions"]
)
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_kaggle_columns_and_their_kin_are_read(
    tmp_path: Path, rows: list[tuple[str, str]], header: str, end: str
) -> None:
    path = tmp_path / "sudoku.csv"
    delimiter = next(each for each in ",;\t" if each in header)
    lines = [header, *(delimiter.join(row) for row in rows), ""]
    path.write_bytes(("\ufeff" + end.join(lines)).encode())
    found = read_puzzle_csv(path, TASK)
    assert questions(found) == [q for q, _ in rows] and found.ratings is None
    with pytest.raises(UserError, match="no column 'rating'"):
        found.at_least(3)
    more = ["id,puzzle,solution,clues,difficulty", *(f"{i},{q},{a},17,2.2" for i, (q, a) in enumerate(rows))]
    path.write_text("\n".join(more))
    assert np.array_equal(read_puzzle_csv(path, TASK).tokens, found.tokens)
    assert np.array_equal(read_puzzle_file(path, TASK, 20).tokens, found.tokens)
    with pytest.raises(UserError, match="20 puzzles, at most 19"):
        read_puzzle_file(path, TASK, 19)


def test_rows_are_validated(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "train.csv"
    (q, a), (_, other) = rows[0], rows[1]
    good = f"s,{q},{a},1\n"
    given = int(np.flatnonzero(parse_board(q))[0])
    swapped = a.translate(str.maketrans(a[given] + a[(given + 1) % 81], a[(given + 1) % 81] + a[given]))
    cases = {
        f"s,{q[:-1]},{a},1": "question of 80 characters",
        f"s,{q},{a}9,1": "answer of 82 characters",
        f"s,{q},.{a[1:]},1": "'.' in its answer",
        f"s,{q},0{a[1:]},1": "'0' in its answer",
        f"s,é{q[1:]},{a},1": "in its question",
        f"s,{q},{a[1]}{a[1:]},1": "breaks the rule",
        f"s,{q},{swapped},1": "changes a given",
        f"s,{q},{a},hard": "rating",
        f"s,{q},{a},-1": "rating",
        f"s,{q},{a}": "3 fields",
        f's,"{q},{a},1': "stray quote",
        f's,"{q}"x,{a},1': "stray quote",
        f'"s,{q},{a},1': "stray quote",
    }
    assert other != a
    for line, expected in cases.items():
        path.write_text(HEADER + good + good + line + "\n" + good, encoding="utf-8")
        message = refusal(path)
        assert f"{path}:4:" in message and expected in message, message
    for text in (good, "", "source,question,answer,ratting\n", "question,question,answer\n", "question,rating\n"):
        path.write_text(text)
        assert "header" in refusal(path) and "quizzes,solutions" in refusal(path)
    path.write_text(HEADER)
    assert "no puzzle" in refusal(path)
    path.write_text(HEADER + '"' + "x,\n" * 80_000)
    assert f"{path}:2: has a stray quote" in refusal(path) and "10,000 or more bad lines in all" in refusal(path)


def test_a_stray_quote_swallows_no_row(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    """Two quotes with rows between them: refused by both lines, where a reader of whole files would lose the rows."""
    path = tmp_path / "train.csv"
    lines = [f"s,{q},{a},{i}" for i, (q, a) in enumerate(rows)]
    lines[3], lines[6] = f'"{lines[3]}', f'"{lines[6]}'
    path.write_text(HEADER + "\n".join(lines))
    message = refusal(path)
    assert f"{path}:5: has a stray quote" in message and "2 bad lines in all, next 8" in message


def test_faults_of_every_kind_are_told_in_the_order_of_lines(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "train.csv"
    (q, a), *_ = rows
    lines = [f"s,{q},{a[::-1]},1", *(["s"] * 7), f"s,{q[1:]},{a},1"]
    path.write_text(HEADER + "\n".join(lines))
    assert f"{path}:2: has an answer" in refusal(path) and "9 bad lines in all, next 3, 4, 5, 6, ..." in refusal(path)
