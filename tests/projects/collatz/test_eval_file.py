"""The evaluation file: its bytes, its builder's manners, and a reader that tells file, row and line."""

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from errors import UserError
from projects.collatz.build_eval import main
from projects.collatz.eval_file import COLUMNS, draw_numbers, read_eval_file
from tests.projects.collatz.numbers_drawn import full_map
from training.storage import atomic_file

SCRIPT = Path(__file__).resolve().parents[3] / "projects" / "collatz" / "build_eval.py"
HEADER = ",".join(COLUMNS)


def build(path: Path, *options: str) -> Path:
    main(["--output-csv", str(path), *options])
    return path


def refused(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        build(path, *options)
    assert leaving.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("collatz") / "eval.csv", "--rows", "300", "--seed", "7")


# -- the builder


def test_the_published_file_byte_for_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build(tmp_path / "eval.csv", "--rows", "50000", "--seed", "42")
    digest = "fa1df3eaab6b73523788c1289ff78bb6"
    assert hashlib.md5(path.read_bytes()).hexdigest() == digest
    assert f"50,000 rows of seed 42, md5 {digest}: written to {path}" in capsys.readouterr().out
    rows = read_eval_file(path)
    assert len(rows) == 50_000 and rows.is_growth.sum() == 24_930
    assert sum(number % 3 == 0 for number in rows.numbers) == 16_729
    assert sum(number.bit_length() > 125 for number in rows.numbers) == 1_216


def test_every_column_by_the_full_map(small: Path) -> None:
    data = small.read_bytes()
    lines = data.decode().split("\r\n")
    assert lines[0] == HEADER and lines[-1] == "" and data.count(b"\n") == len(lines) - 1 == 301
    for line in lines[1:-1]:
        n, t1, growth, steps, full_max = map(int, line.split(",")[:-1])
        visited = full_map(n)
        odd = [value for value in visited[1:] if value % 2]
        assert (t1, growth, steps, full_max) == (odd[0], int(odd[0] > n), len(visited) - 1, max(visited))
        assert line.split(",")[-1] == f"{math.log10(max(visited) / n) + 1:.4f}"


def test_seeds_and_prefixes() -> None:
    numbers = draw_numbers(500, 3)
    assert len(set(numbers)) == 500 and all(n % 2 and 3 <= n < 2**128 for n in numbers)
    assert draw_numbers(200, 3) == numbers[:200], "more rows only add"
    assert not set(draw_numbers(500, 4)) & {n for n in numbers if n > 2**40}


def test_the_same_bytes_again_are_no_error_and_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build(tmp_path / "eval.csv", "--rows", "20", "--seed", "1")
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    build(path, "--rows", "20", "--seed", "1")
    assert "the same bytes were already in" in capsys.readouterr().out
    assert "another file is there and is not overwritten" in refused(path, capsys, "--rows", "20", "--seed", "2")
    assert path.read_bytes() == before and path.stat().st_mtime_ns == stamp
    assert [entry.name for entry in tmp_path.iterdir()] == ["eval.csv"]


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_file.os, "fsync", full)
    assert "cannot be written: No space left on device" in refused(tmp_path / "eval.csv", capsys, "--rows", "5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--rows", "0"], "'0' is not a whole number from 1 to 5000000"),
        (["--rows", "1e3"], "'1e3' is not a whole number"),
        (["--rows", "99999999999999999999"], "is not a whole number"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "x"], "'x' is not a whole number from 0"),
        (["--seeds", "1"], "unknown flag '--seeds', the nearest is --seed"),
    ],
)
def test_bad_options(options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in refused(tmp_path / "eval.csv", capsys, *options)
    assert list(tmp_path.iterdir()) == []


def test_bad_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"mkdir -p {tmp_path / 'no'}" in refused(tmp_path / "no" / "eval.csv", capsys)
    assert "is there, expected a file or a free name" in refused(tmp_path, capsys)
    os.mkfifo(tmp_path / "pipe")
    assert "is there, expected a file or a free name" in refused(tmp_path / "pipe", capsys)


def test_runs_from_elsewhere(tmp_path: Path) -> None:
    words = ["--rows", "5", "--seed", "42", "--output-csv", "eval.csv"]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(read_eval_file(tmp_path / "eval.csv")) == 5


# -- the reader


def test_what_is_read(small: Path, tmp_path: Path) -> None:
    rows = read_eval_file(small)
    lines = [line.split(",") for line in small.read_text().splitlines()[1:]]
    assert rows.numbers == [int(line[0]) for line in lines] == draw_numbers(300, 7)
    assert rows.is_growth.tolist() == [line[2] == "1" for line in lines]
    assert rows.weights.tolist() == [float(line[5]) for line in lines]
    other = tmp_path / "lf.csv"
    other.write_bytes(small.read_bytes().replace(b"\r\n", b"\n"))
    assert read_eval_file(other).numbers == rows.numbers
    other.write_bytes(small.read_bytes().removesuffix(b"\r\n"))
    assert np.array_equal(read_eval_file(other).weights, rows.weights)


GOOD = "27,41,1,111,9232,3.5339"
ROWS = {
    "even": ("28,7,0,18,52,1.2688", "n = 28, expected an odd number above 1"),
    "one": ("1,1,0,0,1,1.0000", "n = 1, expected an odd number above 1"),
    "zero": ("0,1,0,1,1,1.0000", "n = 0, expected an odd number above 1"),
    "negative": ("-3,1,0,1,1,1.0000", "n = '-3', expected a whole number"),
    "no number": ("abc,1,0,1,1,1.0000", "n = 'abc', expected a whole number"),
    "blank": (" 27,41,1,111,9232,3.5339", "n = ' 27', expected a whole number"),
    "float": ("27.0,41,1,111,9232,3.5339", "n = '27.0', expected a whole number"),
    "underscore": ("2_7,41,1,111,9232,3.5339", "n = '2_7', expected a whole number"),
    "huge": ("9" * 5000 + ",41,1,111,9232,3.5339", "and 4976 more, expected a whole number of at most 4300 digits"),
    "another step": ("27,43,1,111,9232,3.5339", "t1 = 43, expected T(27) = 41"),
    "no growth": ("27,41,0,111,9232,3.5339", "is_growth = 0, expected 1"),
    "growth 2": ("27,41,2,111,9232,3.5339", "is_growth = 2, expected 1"),
    "no steps": ("27,41,1,0,9232,3.5339", "sigma_n = 0, expected at least 1"),
    "small maximum": ("27,41,1,111,26,1.0000", "max_n = 26, expected at least n = 27"),
    "another weight": ("27,41,1,111,9232,3.5341", "w_expansion = '3.5341', expected 3.5339"),
    "nan": ("27,41,1,111,9232,nan", "w_expansion = 'nan', expected 3.5339"),
    "few fields": ("27,41,1,111,9232", "found 5 fields, expected 6"),
    "many fields": ("27,41,1,111,9232,3.5339,", "found 7 fields, expected 6"),
    "quotes": ('"27","41","1","111","9232","3.5339"', "n = '\"27\"', expected a whole number"),
    "empty": ("", "found 1 fields, expected 6"),
    "twice": ("3,5,1,7,16,1.7270", "n = 3 is also in row 1, expected every n once"),
}


@pytest.mark.parametrize(("row", "expected"), ROWS.values(), ids=ROWS.keys())
def test_a_bad_row_is_named(row: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "eval.csv"
    path.write_text("\r\n".join([HEADER, "3,5,1,7,16,1.7270", GOOD, ""]))
    assert read_eval_file(path).numbers == [3, 27]
    path.write_text("\r\n".join([HEADER, "3,5,1,7,16,1.7270", row, "5,1,0,5,16,1.5051", ""]))
    with pytest.raises(UserError) as refusal:
        read_eval_file(path)
    text = str(refusal.value)
    assert text.startswith(f"{path}, row 2 (line 3): ") and expected in text
    assert "python projects/collatz/build_eval.py" in text and "\n" not in text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "has the header ''"),
        (b"n,t1\r\n27,41\r\n", "has the header 'n,t1', expected 'n,t1,is_growth"),
        (HEADER.encode() + b"\r\n", "holds no row"),
        (b"\xff\xfe\x00\x01", "is no CSV of numbers (byte 0 is not ASCII)"),
        ("\ufeff".encode() + HEADER.encode(), "is no CSV of numbers"),
        (b"PK\x03\x04" + bytes(50), "has the header"),
    ],
)
def test_foreign_files(data: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "eval.csv"
    path.write_bytes(data)
    with pytest.raises(UserError) as refusal:
        read_eval_file(path)
    assert str(refusal.value).startswith(str(path)) and expected in str(refusal.value)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match="make one with: python projects/collatz/build_eval.py"):
            read_eval_file(path)
