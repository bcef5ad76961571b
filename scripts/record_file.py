"""One result as a file: `results/<id>.yaml`, checked as it is read, and never written twice."""

import fcntl
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from dataset.plain_data import read_yaml
from errors import UserError
from files import MAX_TEXT_BYTES, bounded_bytes, open_folder, open_new, temporary_for
from training.records.result_numbers import Number

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
STATUSES = ("reproduced", "differs", "failed", "not-run", "exploratory")
_LARGEST = 1e30
_EXPECTED = "expected a record as scripts/record_result.py writes it"


@dataclass(frozen=True)
class Record:
    """What is known of one result; empty where nothing is.

    expected, source: the number or sign expected before, and by whom. supersedes: ids of records that this one
    corrects. data_commands, needs, commands: what makes the data, the earlier runs, the result itself, in this order
    and from the root of a clone. outputs: the run folders or reports that `commands` leave, which hold the numbers.
    seconds: of training or measuring, all runs together. finished: whether every run ended where its curve had become
    flat; one that was stopped on the steep part ends elsewhere on a machine that rounds differently. numbers: the
    headline first. findings: what the reports conclude in words.
    """

    id: str
    claim: str
    expected: str
    source: str
    status: str
    note: str = ""
    supersedes: list[str] = field(default_factory=list)
    data_commands: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    config_hashes: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    dataset_hashes: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    hardware: list[str] = field(default_factory=list)
    seconds: float | None = None
    finished: bool | None = None
    numbers: list[Number] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def headline(self) -> Number | None:
        return self.numbers[0] if self.numbers else None


_FIELDS = get_type_hints(Record) | {"numbers": list}  # which are mappings until they are read
_IN_WORDS: dict[Any, str] = {
    str: "a text", list[str]: "a list of texts", list[int]: "a list of whole numbers", list: "a list",
    float | None: "a number", bool | None: "true or false",
}  # fmt: skip


def check_id(text: str) -> str:
    """Errors: `UserError` for what cannot be the name of a record."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        return text
    raise UserError(f"--id {text!r}: expected letters, digits, '.', '_' or '-'")


def read_record(identity: str, folder: Path = RESULTS) -> Record:
    """Errors: `UserError` for an id that is not there, and for a file that is no record."""
    path = folder / f"{check_id(identity)}.yaml"
    if not path.is_file():
        close = [name.stem for name in sorted(folder.glob("*.yaml")) if identity.split("-")[0] in name.stem]
        raise UserError(f"{path}: there is no record {identity}; {folder} has {', '.join(close[:8]) or 'none like it'}")
    return _checked(path, read_yaml(path, _EXPECTED))


def read_records(folder: Path = RESULTS) -> list[Record]:
    """All records by id. Errors: `UserError`, also where a record supersedes one that is not there."""
    names = sorted(path.stem for path in folder.glob("*.yaml") if not path.name.startswith("_"))
    records = [read_record(name, folder) for name in names]
    for record in records:
        for other in record.supersedes:
            if other not in names or other == record.id:
                raise UserError(f"{folder / record.id}.yaml supersedes {other}, of which there is no record")
    return records


def superseded_by(records: Sequence[Record]) -> dict[str, str]:
    """By id of a record that was corrected: the id of its correction."""
    return {other: record.id for record in records for other in record.supersedes}


def write_record(record: Record, folder: Path = RESULTS) -> Path:
    """Write a new record, whole or not at all; one that says the same already is left as it is.

    So a command goes on where the pages could not be written. Errors: `UserError` where another one has the id.
    """
    path = folder / f"{check_id(record.id)}.yaml"
    temporary = temporary_for(path)
    text = _as_yaml(record)
    _checked(path, yaml.safe_load(text))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_new(temporary) as file:
            file.write(text.encode())
        os.link(temporary, path)  # unlike a rename it fails where the name is taken
    except FileExistsError:
        if bounded_bytes(path, MAX_TEXT_BYTES) == text.encode():
            return path
        raise UserError(
            f"{path} is already there and records are never changed: choose another --id, with "
            f"--supersedes {record.id} where it is a correction"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def recording(folder: Path = RESULTS) -> Iterator[None]:
    """Hold the folder of records: of two recorders the second waits, and renders the first one's record too."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = open_folder(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _as_yaml(record: Record) -> str:
    """A line for each number, everything else as yaml writes it; what is empty is left out."""
    values = asdict(record)
    del values["numbers"]
    known = {name: value for name, value in values.items() if value not in ("", [], None)}
    head = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=110)
    lines = [
        yaml.safe_dump(number.plain(), sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**6)
        for number in record.numbers
    ]
    return head + ("numbers:\n" + "".join(f"- {line}" for line in lines) if lines else "")


def _checked(path: Path, value: Any) -> Record:
    if not isinstance(value, Mapping):
        raise UserError(f"{path} holds no mapping, {_EXPECTED}")
    unknown = [name for name in value if name not in _FIELDS]
    if unknown:
        raise UserError(f"{path}: unknown entry {str(unknown[0])[:60]!r}, {_EXPECTED}")
    values = checked_fields(path, value)
    if not values["claim"]:
        _refuse(path, "claim", "a text")
    if values["id"] != path.stem:
        _refuse(path, "id", f"the name of its file, {path.stem}")
    if values["status"] not in STATUSES:
        _refuse(path, "status", f"one of {', '.join(STATUSES)}")
    if not values["numbers"] and values["status"] != "not-run":
        _refuse(path, "numbers", "at least one number")
    return Record(**values)


def checked_fields(path: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a record, or of the entry `record` of a report, with every field there and of its kind."""
    values = asdict(Record("", "", "", "", "")) | dict(value)
    for name, kind in _FIELDS.items():
        if not _fits(values[name], kind):
            _refuse(path, name, _IN_WORDS[kind])
    values["numbers"] = read_numbers(path, values["numbers"])
    return values


def read_numbers(path: Path, entries: Sequence[Any]) -> list[Number]:
    """Numbers as `Number.plain` writes them. Errors: `UserError` naming the file and the entry."""
    names, numbers = {entry.name for entry in fields(Number)}, []
    for place, entry in enumerate(entries):
        where = f"numbers.{place}"
        if not isinstance(entry, Mapping) or not set(entry) <= names or not {"name", "value"} <= set(entry):
            raise UserError(f"{path}: {where!r} is {str(entry)[:60]!r}, expected an entry with name, value and no "
                            f"others than {', '.join(sorted(names))}")  # fmt: skip
        for name, value in entry.items():
            kind = str if name in ("name", "unit", "moment") else int if name in ("n", "of") else float
            if not _fits(value, kind):
                raise UserError(f"{path}: '{where}.{name}' is {str(value)[:60]!r}, expected a {kind.__name__}")
        number = Number(**entry)
        if number.numerator is not None and not 0 <= number.value <= 100:
            raise UserError(f"{path}: {where!r} is {number.value:g} % of {number.of}, which is impossible")
        numbers.append(number)
    keys = [number.key for number in numbers]
    doubled = next((key for key in keys if keys.count(key) > 1), None)
    if doubled is not None:
        raise UserError(f"{path}: two numbers are called {doubled[0][:200]!r} ({doubled[1]}), expected each once")
    return numbers


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the type that a field declares; numbers are finite and no truth values."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, *get_args(kind)) for item in value)
    if isinstance(kind, UnionType):
        return any(_fits(value, alternative) for alternative in get_args(kind))
    if kind not in (int, float):
        return isinstance(value, kind)
    fits = isinstance(value, int) or (kind is float and isinstance(value, float) and math.isfinite(value))
    return fits and not isinstance(value, bool) and abs(value) <= (_LARGEST if kind is float else 1 << 53)


def _refuse(path: Path, name: str, expected: str) -> None:
    raise UserError(f"{path}: {name!r} is wrong or missing, expected {expected}")
