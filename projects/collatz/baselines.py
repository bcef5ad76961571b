"""`collatz.py --closed-forms`: the closed forms and the lower bound, on an evaluation file and along orbits, untrained.

The report has one entry for each function, by name, with the rates of `collatz_evaluation.rates` (null without an
evaluation file) and `orbits`; beside them `lookahead`, `bounds`, `eval_csv`, `orbits_total` and what made it.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from errors import UserError
from projects.collatz.bounds import Bounds, bounds_at
from projects.collatz.closed_forms import CLOSED_FORMS
from projects.collatz.eval_file import read_eval_file
from projects.collatz.evaluation import OrbitCount, judge_orbits, judge_rows, rates
from projects.collatz.windows import BLOCK, Windows
from training.records.provenance import collect_provenance
from training.storage.atomic_file import write_json_atomically

SCHEMA_VERSION = 1
_RATES = tuple(rates(*np.zeros((4, 0), bool)))


@dataclass(frozen=True)
class ClosedFormRun:
    """What `collatz.py --closed-forms` is asked for. `starts` are odd numbers above 0, each once."""

    lookahead: int
    starts: tuple[int, ...]
    eval_csv: Path | None
    json: Path | None


def run_closed_forms(run: ClosedFormRun) -> None:
    """Judge, print the table, write the report. Errors: `UserError` for files that cannot be read or written."""
    check_report_path(run.json, run.eval_csv)
    report = closed_form_report(run)
    print(format_table(report))
    save_report(run.json, report)


def save_report(path: Path | None, report: dict[str, Any]) -> None:
    """Write what `--json` asked for, if it did. Errors: `UserError` when the disk refuses."""
    if path is None:
        return
    try:
        write_json_atomically(path, report)
    except (OSError, ValueError) as error:
        raise UserError(f"--json {path} cannot be written: {error}") from error
    print(f"written: {path}")


def closed_form_report(run: ClosedFormRun) -> dict[str, Any]:
    """The report, ready for JSON. Errors: `UserError` for an evaluation file that cannot be used."""
    judged: dict[str, dict[str, Any]] = {form.name: dict.fromkeys(_RATES) for form in CLOSED_FORMS}
    file = None
    if run.eval_csv is not None:
        rows = read_eval_file(run.eval_csv)
        file = {"file": run.eval_csv.name, "sha256": rows.sha256}

        def shown(blocks: Iterable[Windows]) -> Iterable[Windows]:
            total = math.ceil(len(rows) / BLOCK)
            return tqdm(blocks, total=total, desc="evaluation rows", unit=" blocks", disable=None, leave=False)

        judged = judge_rows(CLOSED_FORMS, rows, run.lookahead, shown)
    orbits = judge_orbits(CLOSED_FORMS, run.starts, run.lookahead)
    return {
        "schema_version": SCHEMA_VERSION,
        "lookahead": run.lookahead,
        "bounds": bounds_at(run.lookahead).as_dict(),
        "eval_csv": file,
        "orbits_total": {
            "steps": sum(orbit.steps for orbit in orbits[CLOSED_FORMS[0].name].values()),
            "violations": {name: _total(counts) for name, counts in orbits.items()},
        },
        "environment": environment(),
        **{
            form.name: judged[form.name]
            | {"orbits": {str(start): asdict(count) for start, count in orbits[form.name].items()}}
            for form in CLOSED_FORMS
        },
    }


def environment() -> dict[str, Any]:
    """What made a report: command, versions, machine, commit."""
    session = collect_provenance({})
    names = ("started_utc", "argv", "versions", "platform", "cpu", "num_threads")
    return {name: session[name] for name in names} | {
        "commit": session["git"]["commit"], "dirty": session["git"]["dirty"]
    }  # fmt: skip


def format_table(report: dict[str, Any]) -> str:
    """One line for each function: shares passed in percent, violations along all orbits and along each of them."""
    names = [form.name for form in CLOSED_FORMS]
    starts = list(report[names[0]]["orbits"])
    steps = report["orbits_total"]["steps"]
    rows = [["V", "pass %", "weighted", "growth", "gr.wtd", "n%3!=0", "violations", f"orbits /{steps}", "each"]]
    for name in names:
        entry = report[name]
        shares = ("pass", "weighted_pass", "growth_pass", "growth_weighted_pass", "free_pass")
        count = "-" if entry["rows"] is None else f"{entry['violations']}/{entry['rows']}"
        each = "/".join(str(orbit["violations"]) for orbit in entry["orbits"].values())
        total = str(report["orbits_total"]["violations"][name])
        rows.append([name, *(_percent(entry[share]) for share in shares), count, total, each])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, 8) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    bounds = Bounds(**report["bounds"])
    return "\n".join([
        f"closed forms at lookahead {report['lookahead']}: steps on which V decreases; the rest are violations",
        *lines,
        f"orbits of {_starts(starts)}",
        f"in theory: V_avg {_rate(bounds.rate_V_avg)}, V_min and V_max {_rate(bounds.rate_V_min)} violations on "
        f"uniform residues; no function of ln n and the window below {_rate(bounds.lower_bound)}",
    ])  # fmt: skip


def check_report_path(path: Path | None, eval_csv: Path | None) -> None:
    """Refuse a report that could not be written or would replace the evaluation file. Errors: `UserError`."""
    if path is None:
        return
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"--json {path}: expected a file in a folder that exists")
    if eval_csv is not None and path.exists() and eval_csv.exists() and path.samefile(eval_csv):
        raise UserError(f"--json {path} is the file of --eval-csv and would be overwritten; name another")


def _total(counts: dict[int, OrbitCount]) -> int:
    return sum(count.violations for count in counts.values())


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _rate(probability: float) -> str:
    return f"{100 * probability:.4g} %"


def _starts(starts: list[str]) -> str:
    return ", ".join(
        start if len(start) <= 24 else f"{start[:8]}...{start[-4:]} ({len(start)} digits)" for start in starts
    )
