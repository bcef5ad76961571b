"""Pages made of the records: PROVENANCE.md, docs/results.md, and the table of results in README.md."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from dataset.plain_data import read_yaml
from errors import UserError, printable, writing
from files import bounded_text
from scripts.record_file import RESULTS, ROOT, Record, read_records, superseded_by
from training.records.result_numbers import Number
from training.storage.atomic_file import write_bytes_atomically

ROW_CHARACTERS = 300
_NAME_CHARACTERS = 90  # of a headline's name in a row
_BEGIN, _END = "<!-- results:begin -->", "<!-- results:end -->"
_GROUPS = {
    "sudoku": "Training on Sudokus",
    "maze": "Training on mazes",
    "mini-arc": "Training on mini-ARC",
    "step9": "Training on perturbed trajectories",
    "dynamics": "Inference as a dynamical system",
    "flossing": "Gradient flossing",
    "collatz": "A Lyapunov function of Collatz orbits",
    "speed": "Speed",
}
_HOW = """Rates are printed as percent = numerator/denominator with their 95 % Wilson interval, which speaks of the
evaluated items, not of other seeds; means over seeds with their 95 % t interval and n, the number of seeds. *final*
is the end of a run, *peak* its best evaluation on validation puzzles, which are not the test puzzles that are reported;
*initial* are the weights it started from. A commit `+dirty` means that the code differed from it. Status: reproduced,
differs (from what was expected), failed, not-run, exploratory (one seed, or looked at first)."""
_PROVENANCE = f"""# Provenance of recorded results

A row for each result that holds, made from `results/<id>.yaml` by `python scripts/record_result.py --render`; do not
edit it. Everything measured, with commits, hashes and what was corrected later: [docs/results.md](docs/results.md). The
commands are in the record; to measure one again: `python scripts/record_result.py --rerun ID --to DIR`, at the
record's commit where it trained on generated puzzles before their training stream was parted from the test stream
([docs/data.md](docs/data.md)): only the builder of that time makes those training sets. Test sets are the same.

{_HOW}

| id | claim | headline | hardware, time | status |
|---|---|---|---|---|
"""
_RESULTS = f"""# All results

Made from `results/<id>.yaml` by `python scripts/record_result.py --render`; do not edit it. Results that fell short
stand beside those that did not, and corrected ones beside their corrections.

{_HOW}
"""


def pages(root: Path = ROOT) -> dict[Path, str]:
    """The text of every page made of the records. Errors: `UserError` for a record that cannot be used."""
    records = read_records(root / RESULTS.name)
    made = {root / "PROVENANCE.md": provenance_page(records), root / "docs" / "results.md": results_page(records)}
    readme = root / "README.md"
    text = bounded_text(readme) if readme.is_file() else ""
    if _BEGIN in text and _END in text:
        before, rest = text.split(_BEGIN, 1)
        shown = read_yaml(root / RESULTS.name / "_readme.yaml", "expected a mapping of ids to words")
        made[readme] = f"{before}{_BEGIN}\n{readme_table(records, shown)}{_END}{rest.split(_END, 1)[1]}"
    return made


def stale_pages(root: Path = ROOT) -> dict[Path, str]:
    """The pages that do not say what the records say, and what they ought to say."""
    return {path: text for path, text in pages(root).items() if not path.is_file() or bounded_text(path) != text}


def render(root: Path = ROOT) -> list[Path]:
    """Write the pages that are stale; returns them."""
    stale = stale_pages(root)
    for path, text in stale.items():
        with writing(path, "free some space and give the same command again"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(path, text.encode())
    return list(stale)


def number_text(number: Number) -> str:
    """`95.88 % = 767/800 [94.26, 97.05]`, `13.6 of 429 [10.4, 16.8], n=5`."""
    unit = f" {number.unit}" if number.unit else ""
    counted = "" if number.of is None else f" of {number.of:,}" if number.numerator is None else (
        f" = {number.numerator}/{number.of}")  # fmt: skip
    bounds = "" if number.low is None and number.high is None else f" [{_digits(number.low)}, {_digits(number.high)}]"
    seeds = "" if number.n is None else f", n={number.n}"
    sign = "+" if number.unit == "points" and number.value > 0 else ""
    return f"{sign}{_digits(number.value)}{unit}{counted}{bounds}{seeds}"


def _digits(value: float | None) -> str:
    """Four digits that count; counts whole."""
    if value is None:
        return "?"
    if isinstance(value, int) or 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.4g}"
    return f"{value:.4g}"


def provenance_page(records: Sequence[Record]) -> str:
    old = superseded_by(records)
    return _PROVENANCE + "".join(_row(record) for record in records if record.id not in old)


def _row(record: Record) -> str:
    """One row; a claim is cut where the row would be longer than `ROW_CHARACTERS`."""
    headline = "not run" if record.headline is None else _headline(record.headline)
    rest = [headline, f"{'; '.join(record.hardware)}{_time(record)}", record.status]
    room = ROW_CHARACTERS - len(f"| {record.id} |  | {' | '.join(map(_cell, rest))} |")
    return "| " + " | ".join([record.id, _cut(_cell(record.claim), room), *map(_cell, rest)]) + " |\n"


def _headline(number: Number) -> str:
    moment = f", {number.moment}" if number.moment else ""
    name = number.name
    if len(name) > _NAME_CHARACTERS:  # both ends say more than the middle: what was measured stands last
        name = f"{name[: _NAME_CHARACTERS // 2]}…{name[-_NAME_CHARACTERS // 2 :]}"
    return f"{name}{moment}: {number_text(number)}"


def _time(record: Record) -> str:
    return "" if record.seconds is None else f", {_digits(round(record.seconds))} s"


def _cell(text: str) -> str:
    return printable(" ".join(text.split()).replace("|", "\\|"))


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(0, room - 1)].rstrip() + "…"


def results_page(records: Sequence[Record]) -> str:
    corrected, parts = superseded_by(records), [_RESULTS]
    known = sorted({group_of(record.id) for record in records}, key=list(_GROUPS.values()).index)
    for group in known:
        parts.append(f"## {group}\n")
        parts += [_section(record, corrected.get(record.id)) for record in records if group_of(record.id) == group]
    return "\n".join(parts)


def group_of(record_id: str) -> str:
    """The part of docs/results.md that tells a record. Errors: `UserError` for an id that says none."""
    prefix = next((name for name in _GROUPS if record_id.startswith(name)), None)
    if prefix is None:
        raise UserError(f"{record_id} belongs to no group of docs/results.md, expected an id that begins with one of "
                        f"{', '.join(_GROUPS)}")  # fmt: skip
    return _GROUPS[prefix]


def _section(record: Record, correction: str | None) -> str:
    status = record.status if correction is None else f"{record.status}, superseded by {correction}"
    lines = [f"### {record.id}: {status}", "", *_wrapped(record.claim), ""]
    facts = {
        "Expected": f"{record.expected} ({record.source})" if record.source else record.expected,
        "Note": record.note,
        "Stopped": "" if record.finished in (None, True) else (
            "at least one run was stopped on the steep part of its curve: another machine ends elsewhere"),
        "Corrects": ", ".join(record.supersedes),
        "Seeds": ", ".join(map(str, record.seeds)),
        "Hardware": f"{'; '.join(record.hardware)}{_time(record)}",
        "Commits": ", ".join(record.commits),
        "Settings": ", ".join(record.config_hashes),
        "Data": ", ".join(record.dataset_hashes),
    }  # fmt: skip
    lines += [line for name, text in facts.items() if text for line in _wrapped(f"- {name}: {text}", "  ")]
    lines += [line for text in record.findings for line in _wrapped(f"- {text}", "  ")]
    if record.headline is not None:
        lines += ["", *_wrapped(f"**{_headline(record.headline)}**")]
    if len(record.numbers) > 1:
        summary = f"<details><summary>{len(record.numbers)} numbers</summary>"
        lines += ["", summary, "", "| number | value |", "|---|---|"]
        for number in record.numbers:
            moment = f", {number.moment}" if number.moment else ""
            lines.append(f"| {_cell(number.name)}{moment} | {_cell(number_text(number))} |")
        lines += ["", "</details>"]
    return "\n".join([*lines, ""])


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(_cell(text).replace("\\|", "|"), 118, subsequent_indent=indent, break_long_words=False) or [""]


def readme_table(records: Sequence[Record], shown: object) -> str:
    """`| what | result | record |`, of the ids and words in results/_readme.yaml, or of what corrects them."""
    by_id = {record.id: record for record in records}
    if not (isinstance(shown, dict) and set(shown) <= set(by_id) and all(isinstance(x, str) for x in shown.values())):
        raise UserError("results/_readme.yaml: expected a mapping of ids of records to words")
    rows = ["| what | result | expected | record |", "|---|---|---|---|"]
    corrected = superseded_by(records)
    for identity, words in shown.items():
        while identity in corrected:  # a correction takes the row over
            identity = corrected[identity]
        record = by_id[identity]
        result = "not run" if record.headline is None else number_text(record.headline)
        rows.append(
            f"| {_cell(words)} | {result} | {_cell(_cut(record.expected, 80))} | {identity} ({record.status}) |"
        )
    return "\n".join(rows) + "\n"
