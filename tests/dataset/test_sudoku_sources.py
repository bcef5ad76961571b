"""Reading lists and CSV files: what is accepted, and one line by file and number for what is not."""

import gzip
from pathlib import Path

import numpy as np
import pytest

import dataset.sudoku_sources as sources
from dataset.sudoku import board_text
from dataset.sudoku_solver import solve
from errors import UserError
from tests.dataset.sudoku_reference import RAW_LIST

PUZZLE = "000000010400000000020000000000050407008000300001090000300400200050100000000806000"
HEADER = "source,question,answer,rating\n"


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    texts = gzip.open(RAW_LIST, "rt").read().split()[:20]
    solved = solve(np.array([sources.parse_board(text) for text in texts]), (3, 3))
    return [(text, board_text(answer)) for text, answer in zip(texts, solved.solutions, strict=True)]


def refusal(path: Path, reader: str = "read_raw_list") -> str:
    with pytest.raises(UserError) as error:
        getattr(sources, reader)(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def test_list_grammar(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    dotted = PUZZLE.replace("0", ".")
    path.write_text(
        f"\ufeff# a comment\n\n{PUZZLE}\n  {dotted}  # easy\n\n{PUZZLE}\ta comment 12\r\n{dotted}#x",
        encoding="utf-8",
    )
    found = sources.read_raw_list(path)
    assert found.lines.tolist() == [3, 4, 6, 7]
    assert (found.boards == found.boards[0]).all() and found.boards.shape == (4, 81)


def test_shipped_list_is_read() -> None:
    found = sources.read_raw_list(RAW_LIST)
    assert found.boards.shape == (49_151, 81) and ((found.boards != 0).sum(axis=1) == 17).all()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (PUZZLE[:-1], "80 characters"),
        (PUZZLE + "0", "82 characters"),
        ("x" + PUZZLE[1:], "'x' at position 1"),
        ("11" + PUZZLE[2:], "twice"),
        ("0" * 80 + "1", "fewer than 17"),
        (f"src,{PUZZLE},{PUZZLE},3", ".csv"),
    ],
)
def test_malformed_lines_are_refused_by_number(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# head\n{PUZZLE}\n{line}\n")
    message = refusal(path)
    assert f"{path}:3:" in message and expected in message


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xff\xfe\x00" * 40)
    assert "UTF-8" in refusal(path)
    path.write_text("# nothing\n\n")
    assert "no puzzle" in refusal(path)
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
    monkeypatch.setattr(sources, "MAX_LINES", 1000)
    assert f"{packed}:1001:" in refusal(packed)
    monkeypatch.setattr(sources, "MAX_LINES", 10**9)
    monkeypatch.setattr(sources, "MAX_BYTES", 4000)
    assert "limit" in refusal(packed)


def test_inputs_resolve_below_the_root_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources.resolve_input("dataset/raw/royle_17clue.txt.gz") == RAW_LIST
    (tmp_path / "mine.txt").write_text(PUZZLE)
    assert sources.resolve_input("mine.txt") == Path("mine.txt")
    with pytest.raises(UserError, match="no such file"):
        sources.resolve_input("absent.txt")


def test_csv_is_read(tmp_path: Path, rows: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_CSV_BLOCK", 7)
    path = tmp_path / "train.csv"
    text = HEADER + "".join(f'"a, b",{q.replace("0", ".")},{a},{i}\r\n' for i, (q, a) in enumerate(rows))
    path.write_text(text)
    found = sources.read_published_csv(path)
    assert [board_text(board, "0") for board in found.boards] == [q for q, _ in rows]
    assert [board_text(board) for board in found.solutions] == [a for _, a in rows]
    assert found.ratings.tolist() == list(range(20)) and found.lines.tolist() == list(range(2, 22))
    swapped = tmp_path / "swapped.csv.gz"
    lines = "".join(f"{i},{a},x,{q}\n" for i, (q, a) in enumerate(rows))
    swapped.write_bytes(gzip.compress(("rating,answer,source,question\n" + lines).encode()))
    assert np.array_equal(sources.read_published_csv(swapped).boards, found.boards)


def test_csv_rows_are_validated(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "train.csv"
    (q, a), (_, other) = rows[0], rows[1]
    good = f"s,{q},{a},1\n"
    given = int(np.flatnonzero(sources.parse_board(q))[0])
    swapped = a.translate(str.maketrans(a[given] + a[(given + 1) % 81], a[(given + 1) % 81] + a[given]))
    cases = {
        f"s,{q[:-1]},{a},1": "question of 80 characters",
        f"s,{q},{a}9,1": "answer of 82 characters",
        f"s,{q},.{a[1:]},1": "'.' in its answer",
        f"s,{q},0{a[1:]},1": "'0' in its answer",
        f"s,é{q[1:]},{a},1": "in its question",
        f"s,{q},{a[1]}{a[1:]},1": "no valid Sudoku",
        f"s,{q},{swapped},1": "changes a given",
        f"s,{q},{a},hard": "rating",
        f"s,{q},{a},-1": "rating",
        f"s,{q},{a}": "3 fields",
    }
    assert other != a
    for line, expected in cases.items():
        path.write_text(HEADER + good + good + line + "\n" + good, encoding="utf-8")
        message = refusal(path, "read_published_csv")
        assert f"{path}:4:" in message and expected in message, message
    path.write_text(good)
    assert "header" in refusal(path, "read_published_csv")
    path.write_text("")
    assert "header" in refusal(path, "read_published_csv")
    path.write_text(HEADER)
    assert "no puzzle" in refusal(path, "read_published_csv")
    path.write_text(HEADER + '"' + "x,\n" * 80_000)
    assert "CSV" in refusal(path, "read_published_csv")


def test_unreachable_repository_names_the_files_to_place(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match=r"train\.csv and test\.csv .* by hand .*--input-dir"):
        sources.fetch_published("someone/something")
