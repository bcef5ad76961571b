"""The records hold every number of the table of prose that they replaced, which the repository's history keeps."""

import re
import subprocess
from collections.abc import Iterator
from decimal import Decimal

import pytest

from scripts.record_file import ROOT, Record, read_records

OLD = "8370a56:PROVENANCE.md"
RESULT = 8  # the column of what was measured
_HASH = re.compile(r"(?<![0-9a-z])(?=[0-9a-f]*[0-9])[0-9a-f]{12}(?![0-9a-z])")
_NUMBER = re.compile(r"(?<![\d.,])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def old_rows() -> dict[str, str]:
    """The old rows by id. The test is of clones that have the history."""
    shown = subprocess.run(["git", "-C", str(ROOT), "show", OLD], capture_output=True, text=True)
    if shown.returncode:
        pytest.skip(f"this clone has no {OLD}")
    rows = [line for line in shown.stdout.splitlines() if line.startswith("| ") and not line.startswith("| id ")]
    return {row.split("|")[1].strip(): row for row in rows}


def numbers_of(text: str) -> list[str]:
    """Every number as it stands in a text, without commas, and every hash."""
    hashes = _HASH.findall(text)
    return hashes + [found.rstrip(",").replace(",", "") for found in _NUMBER.findall(_HASH.sub(" ", text))]


def cells(row: str) -> list[str]:
    """Cells of a row; a bar within one is escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def held(record: Record, *, measured: bool) -> tuple[set[str], list[Decimal]]:
    """Numbers and hashes in the texts of a record, without commands where only what was `measured` counts; values."""
    texts = [*record.findings, *(number.name for number in record.numbers)]
    if not measured:
        texts += [record.id, record.claim, record.expected, record.source, record.note, *record.supersedes,
                  *record.commands, *record.needs, *record.config_hashes, *record.commits, *record.dataset_hashes,
                  *record.hardware, *map(str, record.seeds)]  # fmt: skip
    values = [
        value
        for number in record.numbers
        for value in (number.value, number.low, number.high, number.n, number.of, number.numerator)
        if value is not None
    ]
    counts = (
        [] if measured else [len(record.outputs), len(record.seeds), len(record.config_hashes), record.seconds or 0]
    )
    return set(numbers_of(" ".join(texts))), [Decimal(str(value)) for value in [*values, *counts]]


def missing(row: str, record: Record) -> Iterator[str]:
    for place, cell in enumerate(cells(row)):
        words, values = held(record, measured=place == RESULT)
        for text in numbers_of(cell):
            if text in words or text.lstrip("+-") in words:
                continue
            if _HASH.fullmatch(text):
                yield text
                continue
            number = Decimal(text)
            step = Decimal(1).scaleb(int(number.as_tuple().exponent))
            if not any(abs(value - number) <= step / 2 for value in values):
                yield text


def test_every_number_of_the_old_table_is_in_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    rows, records = old_rows(), {record.id: record for record in read_records()}
    assert rows.keys() <= records.keys() and len(rows) == 43
    lost = {name: found for name, row in rows.items() if (found := list(missing(row, records[name])))}
    assert not lost
    total = sum(len(numbers_of(row)) for row in rows.values())
    with capsys.disabled():
        print(f"\n{total} numbers and hashes of {len(rows)} old rows, none missing")


def test_a_changed_number_is_missed() -> None:
    row, record = next((row, record) for record in read_records() if (row := old_rows().get(record.id)))
    *kept, hardware, status = cells(row)
    changed = ["", *kept[:RESULT], f"{kept[RESULT]}; 98765.4", hardware, f"{status} 0123456789ab", ""]
    assert list(missing(" | ".join(changed), record)) == ["98765.4", "0123456789ab"]
