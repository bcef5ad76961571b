"""Records as files: read as written, checked, never written twice."""

import threading
from pathlib import Path
from typing import Any

import pytest

from errors import UserError
from scripts.record_file import (
    ROOT,
    Record,
    check_id,
    read_record,
    read_records,
    recording,
    superseded_by,
    write_record,
)
from training.records.result_numbers import Number, rate

NUMBERS = [rate("test exact_accuracy", 767, 800, "final"), Number("time", 12.5, 12.0, 13.0, n=5, unit="ms")]


def made(identity: str = "sudoku-1", **changes: Any) -> Record:
    values: dict[str, Any] = {"claim": "it is solved: 1 | 2", "expected": "75 %", "source": "set before"}
    values |= {"status": "reproduced", "numbers": [Number(**number.plain()) for number in NUMBERS]}
    return Record(identity, **(values | changes))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = made(note="a: b\nc", seeds=[0, 1], commands=["python x.py 'a b'"], seconds=1.5, finished=False)
    path = write_record(record, tmp_path)
    assert read_record("sudoku-1", tmp_path) == record and list(tmp_path.iterdir()) == [path]
    lines = path.read_text().splitlines()
    assert lines[-2].startswith("- {name: test exact_accuracy, value: 95.875, low: 94.") and "finished: false" in lines
    assert not any(line.startswith("findings") for line in lines), "what is empty is left out"


def test_a_record_is_never_written_again(tmp_path: Path) -> None:
    path = write_record(made(), tmp_path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="records are never changed: choose another --id, with --supersedes sudoku-1"):
        write_record(made(claim="something else"), tmp_path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_of_two_at_once_the_second_waits(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with recording(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with recording(tmp_path):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("status: reproduced", "status: fine", "'status' is wrong or missing, expected one of reproduced"),
        ("id: sudoku-1", "id: sudoku-2", "'id' is wrong or missing, expected the name of its file"),
        ("claim: '", "claims: '", "unknown entry 'claims'"),
        ("value: 95.875", "value: .nan", "'numbers.0.value' is 'nan'"),
        ("value: 95.875", "value: 120.0", "120 % of 800, which is impossible"),
        ("value: 95.875, ", "", "expected an entry with name, value"),
        ("numbers:", "numbers: [", "is not safe yaml"),
        ("source: set before", "seeds: [a]", "'seeds' is wrong or missing"),
        ("source: set before", "seconds: soon", "'seconds' is wrong or missing"),
        ("source: set before", "finished: 3", "'finished' is wrong or missing"),
        ("source: set before", "commands: x", "'commands' is wrong or missing"),
    ],
)
def test_damage_is_named_in_one_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = write_record(made(), tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError) as caught:
        read_record("sudoku-1", tmp_path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_record_without_numbers_is_one_that_was_not_run(tmp_path: Path) -> None:
    write_record(made(status="not-run", numbers=[]), tmp_path)
    assert read_record("sudoku-1", tmp_path).headline is None
    with pytest.raises(UserError, match="'numbers' is wrong or missing, expected at least one number"):
        write_record(made("sudoku-2", numbers=[]), tmp_path)


def test_corrections(tmp_path: Path) -> None:
    write_record(made(), tmp_path)
    write_record(made("sudoku-2", supersedes=["sudoku-1"]), tmp_path)
    assert superseded_by(read_records(tmp_path)) == {"sudoku-1": "sudoku-2"}
    write_record(made("sudoku-3", supersedes=["sudoku-9"]), tmp_path)
    with pytest.raises(UserError, match="supersedes sudoku-9, of which there is no record"):
        read_records(tmp_path)


def test_unknown_ids_name_what_is_near(tmp_path: Path) -> None:
    write_record(made(), tmp_path)
    with pytest.raises(UserError, match="there is no record sudoku-7; .* has sudoku-1"):
        read_record("sudoku-7", tmp_path)
    with pytest.raises(UserError, match="--id '../x'"):
        check_id("../x")


def test_the_records_of_the_repository_can_all_be_used() -> None:
    records = read_records(ROOT / "results")
    assert len(records) >= 43
    for record in records:
        assert record.headline is not None and record.commands and record.outputs, record.id
