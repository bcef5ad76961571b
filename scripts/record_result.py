"""Append one row to PROVENANCE.md from the records of run folders (--runs) or from reports (--reports).

A row ties a number to what produced it. Rows are never edited: a correction is a new row whose id replaces
the old one (`--status superseded-by:NEW_ID` on a new row about the old result, or simply the new result with
a note).
"""

import argparse
import fcntl
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from errors import UserError, exit_on_user_error, printable, require_packages

require_packages()

from dataset.plain_data import JsonError, read_json_object
from scripts.record_reports import read_report, report_cells
from scripts.report_entries import (
    NOT_RECORDED,
    NOT_RUN,
    Report,
    command_of,
    commit_of,
    dataset_hashes,
    distinct,
    rate,
    short,
)
from training.records.metrics_log import read_metrics
from training.storage.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
STATUSES = ("reproduced", "differs", "failed", "not-run", "exploratory")
COLUMNS = (
    "id",
    "claim",
    "expected & source",
    "command",
    "config hash",
    "commit",
    "dataset hash",
    "seeds, n",
    "result (peak; final; 95 % Wilson interval)",
    "hardware, time, updates",
    "status",
)
HEADER = f"""# Provenance of recorded results

One row per result, written by `scripts/record_result.py` from the run folder's own `provenance.json`,
`summary.json` and `metrics.jsonl`. Rows are only ever added: a correction is a new row, and the old id is
named in it as superseded.

- *peak* is the best evaluation of the run, *final* the one at its end, *initial* that of the weights it started from
  ("not run" where they could not be made again). The set that chose the peak (validation) is not the set that is
  reported (test), where a test result exists. Every rate is printed as numerator/denominator with its 95 % Wilson
  interval; that interval speaks of the evaluated items, not of other seeds.
- *commit* `+dirty` means that the code differed from the commit; the difference is in the run's `provenance.json`.
- *status*: reproduced · differs · failed · superseded-by ID · not-run · exploratory (one seed, or looked at first).

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
"""
# What is printed of the records, by name; whatever is absent or null is printed as not known.
_KINDS: dict[str, type] = {
    "argv": list,
    "sessions": list,
    "config_hash": str,
    "gpu": str,
    "cpu": str,
    "device": str,
    "metric": str,
    "num_threads": int,
    "world_size": int,
    "steps": int,
    "step": int,
    "num_params": int,
    "train_seconds": float,
    "value": float,
    "numerator": float,  # counts, which a log may hold as 7.0
    "denominator": float,
}
_KIND_NAMES = {list: "a list", str: "a text", int: "a whole number", float: "a number"}
_LARGEST = 1 << 53
# Entries of `test` in summary.json and what they are called in a row.
_TESTED = {"initial": "initial", "best": "peak", "final": "final"}


@dataclass(frozen=True)
class Run:
    """What a run folder says about itself; a missing file is an empty mapping."""

    folder: Path
    provenance: Mapping[str, Any]
    summary: Mapping[str, Any]


def read_run(folder: Path, metric: str) -> Run:
    """Read a run folder. A run without `summary.json` (stopped or going on) gives what its log holds.

    Errors: `UserError` when the folder or its `provenance.json` is missing or a file is unreadable.
    """
    names = RunFolder(folder)
    if not os.path.isdir(folder):
        raise UserError(f"--runs {folder}: there is no such folder; name the checkpoint_path of a run")
    if not names.provenance.is_file():
        raise UserError(f"{folder} has no provenance.json; name the checkpoint_path of a run")
    provenance = _object(names.provenance)
    _check_kinds(names.provenance, provenance)
    summary = _object(names.summary) if names.summary.is_file() else _summary_from_log(names.metrics, metric)
    test = _mapping(summary.get("test"))
    parts = [summary.get("best"), summary.get("final"), *(test.get(which) for which in _TESTED)]
    for part in (summary, *map(_mapping, parts)):
        _check_kinds(names.summary if names.summary.is_file() else names.metrics, part)
    baselines = _mapping(summary.get("baselines"))
    if any(_is_huge(value) for value in baselines.values()):
        raise UserError(f"{names.summary}: a number among 'baselines' is too large to be one")
    return Run(folder, provenance, summary)


def row_of(
    runs: Sequence[Run],
    *,
    identity: str,
    claim: str,
    expected: str,
    source: str,
    status: str,
    note: str,
    metric: str,
    reports: Sequence[Report] = (),
) -> str:
    """The Markdown table row, newline included, from runs or else from reports.

    Without either every measured cell says "not run".
    """
    cells = [identity, claim, f"{expected or 'none stated'} ({source or 'no source'})"]
    if runs:
        cells += [
            distinct(f"`{_command(run)}`" for run in runs),
            distinct(short(run.provenance.get("config_hash")) for run in runs),
            distinct(_commit(run) for run in runs),
            distinct(dataset_hashes(run.provenance.get("datasets")) for run in runs),
            _seeds(runs),
            " // ".join(_result(run, metric) for run in runs),
            " // ".join(_hardware(run) for run in runs),
        ]
    else:
        cells += report_cells(reports) if reports else [NOT_RUN] * 7
    cells.append(f"{status}: {note}" if note else status)
    return "| " + " | ".join(map(_cell, cells)) + " |\n"


def append_row(path: Path, identity: str, row: str) -> None:
    """Add a row at the end of the table, creating the file. Errors: `UserError` for an id already there."""
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two recorders at once: the second sees the first one's row
        file.seek(0)
        text = file.read()
        if identity in existing_ids(text):
            raise UserError(
                f"{path} already has a row {identity}: rows are never edited; choose another --id and name "
                f"{identity} in --note"
            )
        missing_newline = "\n" if text and not text.endswith("\n") else ""
        file.write((HEADER if not text.strip() else missing_newline) + row)


def existing_ids(text: str) -> set[str]:
    """First cells of the table rows in `text`."""
    return {match[1].strip() for match in re.finditer(r"^\| *([^|\n]*?) *\|", text, re.MULTILINE)}


def _check_kinds(path: Path, record: Mapping[str, Any]) -> None:
    """Refuse an entry of another kind than a run writes, before it is printed or computed with."""
    for name, kind in _KINDS.items():
        value = record.get(name)
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if value is not None and (not fits or _is_huge(value)):
            found = str(value)[:60] if not _is_huge(value) else "a huge number"
            raise UserError(f"{path}: {name!r} is {found!r}, expected {_KIND_NAMES[kind]}; record another run")


def _is_huge(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) > _LARGEST


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except JsonError as error:
        raise UserError(f"{path}: {error}; it is written by a run, record another one") from error


def _summary_from_log(path: Path, metric: str) -> dict[str, Any]:
    """Peak and final of the metric from the log; an `exact_accuracy` with the counts beside it."""
    if not path.is_file():
        return {}
    found = []
    steps = 0
    prefix = metric[: metric.rfind("/") + 1]
    counted = metric.endswith("exact_accuracy")  # the counts logged beside it are this metric's only
    for record in read_metrics(path):
        steps = max(steps, record["step"])
        if isinstance(record.get(metric), int | float):
            numerator, denominator = record.get(f"{prefix}exact_count"), record.get(f"{prefix}count")
            found.append(
                {
                    "value": record[metric],
                    "numerator": numerator if counted else None,
                    "denominator": denominator if counted else None,
                    "step": record["step"],
                }
            )
    if not found:
        return {"steps": steps}
    return {"steps": steps, "best": max(found, key=lambda part: part["value"]), "final": found[-1]}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _result(run: Run, metric: str) -> str:
    best = _mapping(run.summary.get("best"))
    test = _mapping(run.summary.get("test"))
    named = best.get("metric", metric)
    parts = [f"{named}: peak {rate(best)}; final {rate(_mapping(run.summary.get('final')))}"]
    tested = {word: rate(_mapping(test.get(which))) for which, word in _TESTED.items()}
    if set(tested.values()) == {NOT_RUN}:
        parts.append("test: not run")
    else:
        parts.append("test: " + "; ".join(f"{word} {value}" for word, value in tested.items()))
    parts += _beside_baselines(run, _mapping(test.get("final")))
    return "; ".join(parts)


def _beside_baselines(run: Run, final: Mapping[str, Any]) -> list[str]:
    """Token accuracy and loss of the final test evaluation beside the best trivial predictor's."""
    baselines = _mapping(run.summary.get("baselines"))
    simple = {name: value for name, value in baselines.items() if isinstance(value, int | float)}
    parts = []
    if simple:
        parts.append("baselines: " + ", ".join(f"{name} {value:.4g}" for name, value in simple.items()))
    for key, word, best in (("accuracy", "token accuracy", max), ("lm_loss", "token loss", min)):
        known = {
            name: values[key] for name, values in baselines.items() if isinstance(_mapping(values).get(key), float)
        }
        if known and isinstance(final.get(key), float):
            name = best(known, key=lambda each: known[each])
            parts.append(f"final test {word} {final[key]:.4f} (best trivial predictor: {name} {known[name]:.4f})")
    return parts


def _hardware(run: Run) -> str:
    record = run.provenance
    unit = record.get("gpu") or record.get("cpu") or record.get("device") or "unknown hardware"
    threads, world_size = record.get("num_threads"), record.get("world_size") or 1
    seconds = run.summary.get("train_seconds")
    time = f"{float(seconds):.0f} s" if isinstance(seconds, int | float) else "time not recorded"
    steps = run.summary.get("steps")
    updates = f"{steps} updates" if steps is not None else "updates not recorded"
    parameters = run.summary.get("num_params")
    size = [f"{parameters:,} parameters"] if isinstance(parameters, int) else []
    sessions = len(record.get("sessions") or [])
    resumed = [f"{sessions} sessions"] if sessions > 1 else []
    return ", ".join([f"{world_size}× {unit} ({threads} threads)", time, updates, *size, *resumed])


def _command(run: Run) -> str:
    return command_of(run.provenance.get("argv"), run.provenance.get("world_size"))


def _commit(run: Run) -> str:
    git = _mapping(run.provenance.get("git"))
    return commit_of(git.get("commit"), git.get("dirty"))


def _seeds(runs: Sequence[Run]) -> str:
    seeds = []
    for run in runs:
        recorded = _mapping(run.provenance.get("seeds"))
        config = _mapping(run.provenance.get("config"))
        seeds.append(str(recorded.get("seed", config.get("seed", NOT_RECORDED))))
    return f"{', '.join(seeds)}; n={len(runs)}"


def _cell(text: str) -> str:
    """One line, with the bars that would end a cell escaped (also inside code spans, as GitHub wants it)."""
    return printable(" ".join(text.split()).replace("|", "\\|"))


def _status(text: str) -> str:
    if text in STATUSES or re.fullmatch(r"superseded-by[ :]\S+", text):
        return text.replace("superseded-by:", "superseded-by ")
    raise argparse.ArgumentTypeError(f"expected {', '.join(STATUSES)} or superseded-by:ID, found {text!r}")


def _identity(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) and text != "id":
        return text
    raise argparse.ArgumentTypeError(f"expected letters, digits, '.', '_' or '-', found {text!r}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--id", required=True, type=_identity, help="new, unique name of the row, e.g. sudoku6-trm-1")
    parser.add_argument("--claim", required=True, help="what the result is meant to show")
    parser.add_argument("--expected", default="", help="the expected number, as the source states it")
    parser.add_argument("--source", default="", help="where the expectation comes from")
    parser.add_argument("--status", required=True, type=_status, help=f"{', '.join(STATUSES)} or superseded-by:ID")
    parser.add_argument("--runs", nargs="*", type=Path, default=[], metavar="DIR", help="run folders, one per seed")
    parser.add_argument(
        "--reports", nargs="*", type=Path, default=[], metavar="FILE",
        help="JSON of evaluate.py, benchmark.py --json or time_to_accuracy.py instead; several are repetitions",
    )  # fmt: skip
    parser.add_argument(
        "--metric", default="eval/exact_accuracy", help="read from metrics.jsonl without a summary.json"
    )
    parser.add_argument("--note", default="", help="appended to the status")
    parser.add_argument("--file", type=Path, default=ROOT / "PROVENANCE.md", help="the table (default: %(default)s)")
    return parser.parse_args(arguments)


@exit_on_user_error
def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.runs and options.reports:
        raise UserError("--runs and --reports are both given: record them in a row each")
    if not (options.runs or options.reports) and options.status != "not-run":
        raise UserError(
            f"--status {options.status} needs --runs DIR... or --reports FILE...; a row without either has "
            "--status not-run"
        )
    runs = [read_run(folder, options.metric) for folder in options.runs]
    row = row_of(
        runs,
        identity=options.id,
        claim=options.claim,
        expected=options.expected,
        source=options.source,
        status=options.status,
        note=options.note,
        metric=options.metric,
        reports=[read_report(path) for path in options.reports],
    )
    append_row(options.file, options.id, row)
    print(f"{options.file}: row {options.id} added")


if __name__ == "__main__":
    main()
