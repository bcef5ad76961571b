"""`collatz.py --closed-forms`: the closed forms and the lower bound, on an evaluation file and along orbits, untrained.

The report has one entry for each function, by name, with the rates of `collatz_evaluation.rates` (null without an
evaluation file) and `orbits`; beside them `lookahead`, `bounds`, `eval_csv`, `orbits_total` and what made it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.command_line import check_json_target, environment, save_json_target
from dataset.plain_data import read_json_object
from errors import UserError, say
from files import file_sha256
from projects.collatz.bounds import Bounds, bounds_at
from projects.collatz.closed_forms import CLOSED_FORMS
from projects.collatz.eval_file import read_eval_file
from projects.collatz.evaluation import NO_RATES, judge_orbits, judge_rows, total_along
from training.evaluation.summary_table import fitted, wrapped
from training.records.result_numbers import Number, rate, record_entry

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ClosedFormRequest:
    """What `collatz.py --closed-forms` is asked for. `starts` are odd numbers above 0, each once."""

    lookahead: int
    starts: tuple[int, ...]
    eval_csv: Path | None
    json: Path | None


def run_closed_forms(run: ClosedFormRequest) -> None:
    """Judge, print the table, write the report. Errors: `UserError` for files that cannot be read or written."""
    check_report_path(run.json, run.eval_csv)
    report = closed_form_report(run)
    say(*format_table(report).split("\n"))
    save_report(run.json, report)


def save_report(path: Path | None, report: dict[str, Any]) -> None:
    """Write what `--json` asked for, if it did, and say so. Errors: `UserError` when the disk refuses."""
    save_json_target(path, report | report_entry(report))
    if path is not None:
        say(f"written: {path}")


def report_entry(report: Mapping[str, Any]) -> dict[str, Any]:
    """For the records of results: each function judged, then what theory says."""
    checkpoint, file = report.get("checkpoint"), report["eval_csv"]
    judged = {name: entry for name, entry in report.items() if isinstance(entry, dict) and "orbits" in entry}
    network = None if checkpoint is None else checkpoint["function"]
    measured = []
    # The network, then the closed forms from the best on.
    for name in sorted(judged, key=lambda name: (name != network, _violated(judged[name]))):
        measured += function_numbers(f"L={report['lookahead']} {name}", judged[name])
    for name in ("rate_V_avg", "rate_V_min", "lower_bound"):
        measured.append(Number(f"L={report['lookahead']} theory: {name}", 100 * report["bounds"][name], unit="%"))
    if checkpoint is not None:
        measured.append(Number("parameters", checkpoint["num_params"]))
    return record_entry(
        measured,
        origin=report["environment"],
        config_hashes=[] if checkpoint is None else [checkpoint["sha256"]],
        datasets=[] if file is None else [file["sha256"]],
        seeds=[] if checkpoint is None else [checkpoint["seed"]],
    )


def function_numbers(name: str, entry: Mapping[str, Any]) -> list[Number]:
    """Steps that one function violates, of whatever it was judged on; and the shares of rows that it passes."""
    counted = {"rows of the file": (entry["violations"], entry["rows"])} if entry.get("rows") else {}
    if "on_orbit" in entry:
        counted["on-orbit steps"] = entry["on_orbit"]["violations"], entry["on_orbit"]["steps"]
    for key, words in (("orbits", "steps along orbits"), ("fresh", "steps along fresh orbits")):
        along = entry.get(key, {}).values()
        if along:
            counted[words] = sum(orbit["violations"] for orbit in along), sum(orbit["steps"] for orbit in along)
    passed = {"weighted_pass": "weighted", "growth_pass": "growth", "growth_weighted_pass": "growth weighted"}
    return [
        *(rate(f"{name}: violated {words}", violations, of) for words, (violations, of) in counted.items() if of),
        *(Number(f"{name}: passed rows, {words}", 100 * entry[key], unit="%") for key, words in passed.items()
          if entry.get(key) is not None),
    ]  # fmt: skip


def _violated(entry: Mapping[str, Any]) -> int:
    """Among rows where there are any, else along the orbits."""
    along = sum(orbit["violations"] for orbit in entry["orbits"].values())
    return along if entry["violations"] is None else entry["violations"]


def closed_form_report(run: ClosedFormRequest) -> dict[str, Any]:
    """The report, ready for JSON. Errors: `UserError` for an evaluation file that cannot be used."""
    judged: dict[str, dict[str, Any]] = {form.name: dict.fromkeys(NO_RATES) for form in CLOSED_FORMS}
    file = None
    if run.eval_csv is not None:
        rows = read_eval_file(run.eval_csv)
        file = {"file": run.eval_csv.name, "sha256": rows.sha256}
        judged = judge_rows(CLOSED_FORMS, rows, run.lookahead)
    orbits = judge_orbits(CLOSED_FORMS, run.starts, run.lookahead)
    return {
        "schema_version": SCHEMA_VERSION,
        "lookahead": run.lookahead,
        "bounds": asdict(bounds_at(run.lookahead)),
        "eval_csv": file,
        "orbits_total": total_along(orbits),
        "environment": environment(),
        **{
            form.name: judged[form.name]
            | {"orbits": {str(start): asdict(count) for start, count in orbits[form.name].items()}}
            for form in CLOSED_FORMS
        },
    }


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
        by_orbit = "/".join(str(orbit["violations"]) for orbit in entry["orbits"].values())
        total = str(report["orbits_total"]["violations"][name])
        rows.append([name, *(_percent(entry[share]) for share in shares), count, total, by_orbit])
    bounds = Bounds(**report["bounds"])
    return "\n".join(
        [
            f"closed forms at lookahead {report['lookahead']}: steps on which V decreases; the rest are violations",
            *fitted(rows),
            *wrapped([f"orbits of {_starts(starts)}", f"in theory: {bounds.in_words()}"]),
        ]
    )


def check_report_path(path: Path | None, eval_csv: Path | None, checkpoint: Path | None = None) -> None:
    """Refuse a report that could not be written, or would replace the evaluation file or another one's report.

    Errors: `UserError`.
    """
    if path is not None and eval_csv is not None and path.exists() and eval_csv.exists() and path.samefile(eval_csv):
        raise UserError(f"--json {path} is the file of --eval-csv and would be overwritten; name another")
    check_json_target(path)
    if path is None or not path.exists():
        return
    earlier = read_json_object(path)
    for name, file, words in (("checkpoint", checkpoint, "weights"), ("eval_csv", eval_csv, "evaluation file")):
        entry = earlier.get(name)
        before = entry.get("sha256") if isinstance(entry, Mapping) else None
        if before != (None if file is None or not file.is_file() else file_sha256(file)):
            raise UserError(f"--json {path} is there and reports on another {words}; name another, or remove it")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _starts(starts: list[str]) -> str:
    return ", ".join(
        start if len(start) <= 24 else f"{start[:8]}...{start[-4:]} ({len(start)} digits)" for start in starts
    )
