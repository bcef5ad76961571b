"""Pages made of the records: fresh, short rows, every number on them."""

import dataclasses
import re
from pathlib import Path

import pytest

from errors import UserError
from scripts.record_file import ROOT, read_records, superseded_by, write_record
from scripts.record_render import ROW_CHARACTERS, number_text, pages, provenance_page, render, results_page, stale_pages
from tests.scripts.test_record_file import made
from training.records.result_numbers import Number, rate


def test_the_pages_of_the_repository_are_fresh() -> None:
    assert not list(stale_pages()), "python scripts/record_result.py --render"


def test_rows_are_short_and_lines_can_be_read() -> None:
    records = read_records()
    rows = [line for line in provenance_page(records).splitlines() if line.startswith("| ")][1:]
    shown = [row.split("|")[1].strip() for row in rows]
    assert shown == [record.id for record in records if record.id not in superseded_by(records)]
    assert max(map(len, rows)) <= ROW_CHARACTERS
    page = results_page(records)
    assert max(map(len, page.splitlines())) <= 400
    assert re.findall(r"^### (\S+): ", page, re.MULTILINE) and all(f"### {record.id}: " in page for record in records)


def test_a_row_has_the_headline_the_hardware_the_time_and_the_status() -> None:
    record = made(hardware=["1× A CPU | fast (2 threads)"], seconds=12.4, claim="long" * 100)
    (row,) = [line for line in provenance_page([record]).splitlines() if line.startswith("| sudoku-1")]
    assert len(row) == ROW_CHARACTERS and "… | test exact" in row
    assert "| test exact_accuracy, final: 95.88 % = 767/800 [94.26, 97.05] |" in row
    assert row.endswith("| 1× A CPU \\| fast (2 threads), 12 s | reproduced |")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (rate("a", 767, 800), "95.88 % = 767/800 [94.26, 97.05]"),
        (Number("a", 13.6, 10.4, 16.8, n=5, of=429), "13.6 of 429 [10.4, 16.8], n=5"),
        (Number("a", 2.5, 0.8, 4.0, n=3, unit="points"), "+2.5 points [0.8, 4], n=3"),
        (Number("a", -2.5, unit="points", n=1), "-2.5 points, n=1"),
        (Number("a", 44672), "44,672"),
        (Number("a", 8.19e10, unit="FLOPs"), "8.19e+10 FLOPs"),
        (Number("a", 320, 300, None, n=3, unit="updates"), "320 updates [300, ?], n=3"),
    ],
)
def test_texts_of_numbers(number: Number, text: str) -> None:
    assert number_text(number) == text


def test_every_number_of_a_record_is_on_the_page_and_corrections_are_said(tmp_path: Path) -> None:
    old, new = made(), made("sudoku-2", supersedes=["sudoku-1"], finished=False, findings=["b"], status="differs")
    page = results_page([old, new])
    for number in new.numbers:
        assert page.count(number_text(number)) >= 2
    assert "### sudoku-1: reproduced, superseded by sudoku-2" in page and "- Corrects: sudoku-1" in page
    assert "- b" in page and "stopped on the steep part" in page and page.count("<details>") == 2
    assert "sudoku-1 " not in provenance_page([old, new]).split("|---|")[1]


def test_ids_of_no_group_are_refused() -> None:
    with pytest.raises(UserError, match="mystery-1 belongs to no group"):
        results_page([made("mystery-1")])


def test_pages_are_written_where_they_are_stale(tmp_path: Path) -> None:
    write_record(made(), tmp_path / "results")
    (tmp_path / "README.md").write_text("above\n<!-- results:begin -->\nold\n<!-- results:end -->\nbelow\n")
    (tmp_path / "results" / "_readme.yaml").write_text("sudoku-1: small Sudokus\n")
    written = {path.relative_to(tmp_path).as_posix() for path in render(tmp_path)}
    assert written == {"PROVENANCE.md", "docs/results.md", "README.md"} and not render(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("above\n<!-- results:begin -->\n| what |") and text.endswith("<!-- results:end -->\nbelow\n")
    assert "| small Sudokus | 95.88 % = 767/800 [94.26, 97.05] | 75 % | sudoku-1 (reproduced) |" in text
    write_record(made("sudoku-2"), tmp_path / "results")
    assert len(stale_pages(tmp_path)) == 2, "README.md names its rows"
    write_record(dataclasses.replace(made("sudoku-3"), supersedes=["sudoku-1"], status="failed"), tmp_path / "results")
    render(tmp_path)
    assert "| 75 % | sudoku-3 (failed) |" in (tmp_path / "README.md").read_text(), "the correction takes the row over"
    (tmp_path / "results" / "_readme.yaml").write_text("sudoku-9: x\n")
    with pytest.raises(UserError, match="expected a mapping of ids of records to words"):
        pages(tmp_path)


def test_the_table_of_the_readme_names_records_that_hold() -> None:
    records = read_records()
    old = superseded_by(records)
    shown = (ROOT / "results" / "_readme.yaml").read_text()
    named = re.findall(r"^([a-z0-9.-]+):", shown, re.MULTILINE)
    assert named and not set(named) & set(old)
