"""What runs write about themselves: provenance, summary and metrics, as the recorder and a resume read them.

Reports of evaluations, benchmarks and times to accuracy too, as the recorder reads them.
"""

import json
import math
import re
from pathlib import Path
from random import Random
from typing import Any

from analysis.command_line import benchmark_entry
from evaluate import evaluation_entry
from scripts.benchmark.updates import numbers as benchmark_numbers
from scripts.record_file import Record, read_record, write_record
from scripts.record_render import provenance_page
from scripts.record_sources import gathered
from tests.fuzz.byte_edits import TEXT, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace
from tests.fuzz.tree_edits import edit_tree, json_bytes
from training.records.metrics_log import MetricsLog, read_metrics
from training.records.provenance import ProvenanceFile
from training.records.result_numbers import record_entry
from training.run_log import summary_numbers

METRIC = "eval/exact_accuracy"
SESSION: dict[str, Any] = {
    "start_step": 0,
    "started_utc": "2026-01-01T00:00:00+00:00",
    "argv": ["pretrain.py", "arch=trm"],
    "config": {"seed": 3},
    "config_hash": "ab" * 32,
    "git": {"commit": "cd" * 20, "dirty": False, "diff": "", "diff_sha256": "ef" * 32, "untracked": []},
    "datasets": [{"path": "d", "sha256": "12" * 32}],
    "seeds": {"seed": 3},
    "versions": {"python": "3.11", "torch": "2.13"},
    "cpu": "a CPU",
    "gpu": None,
    "device": "cpu",
    "num_threads": 2,
    "world_size": 1,
}
PROVENANCE: dict[str, Any] = {"schema_version": 1, **SESSION, "sessions": [SESSION]}
SUMMARY: dict[str, Any] = {
    "steps": 500,
    "best": {"metric": METRIC, "value": 0.8, "numerator": 8, "denominator": 10, "step": 400},
    "final": {"value": 0.7, "numerator": 7, "denominator": 10, "step": 500},
    "test": {
        "best": {"value": 0.74, "numerator": 74, "denominator": 100, "step": 400},
        "final": {"value": 0.73, "numerator": 73, "denominator": 100, "step": 500},
    },
    "train_seconds": 12.5,
    "num_params": 1000,
    "baselines": {"most_frequent": 0.125, "copy_input": 0},
}
LINES: list[dict[str, Any]] = [
    {
        "step": step,
        "train/loss": 2.0 / (step + 1),
        METRIC: step / 100,
        "eval/exact_count": step,
        "eval/count": 100,
    }
    for step in range(0, 60, 10)
]
COMMIT = "abcdef0123456789" * 2
EVALUATION: dict[str, Any] = {
    "checkpoint": "best.pt", "command": "python evaluate.py checkpoint=runs/r/best.pt",
    "git": {"commit": COMMIT, "dirty": True}, "config_hash": "12" * 32, "datasets": ["34" * 32], "seed": 3,
    "num_params": 44672, "device": "cpu", "dtype": "float32", "world_size": 1, "cpu": "A CPU", "gpu": None,
    "num_threads": 2,
    "results": [
        {
            "rows": "test", "data": "data/six", "set": "all",
            "mode": {"max_steps": 16, "adaptive_halt": True, "vote": 1},
            "exact_accuracy": {"value": 0.95625, "numerator": 765, "denominator": 800, "interval95": [0.9, 1.0]},
            "compute": {
                "mean_steps": 1.66, "rows": 800, "forward_passes": 1328, "flops": 4.05e10, "seconds": 4.44,
                "rows_per_second": 180.18,
            },
        },
    ],
}  # fmt: skip
PART: dict[str, Any] = {
    "seconds": {"median": 0.708, "min": 0.7, "max": 0.72, "q1": 0.7041, "q3": 0.7092, "count": 9},
    "flops_per_second": 538.18e9, "ratio": 0.7162, "floor_seconds": 0.50705,
}  # fmt: skip
BENCHMARK: dict[str, Any] = {
    "schema_version": 1,
    "environment": {
        "argv": ["scripts/benchmark/updates.py", "--preset", "trm_sudoku_att", "--set", "a=[b, c]"], "commit": COMMIT,
        "dirty": False, "seed": 0, "cpu": "A CPU", "gpu": None, "num_threads": 2,
    },
    "results": [
        {
            "preset": "trm_sudoku_att", "device": "cpu", "gpu": None, "dtype": "bfloat16", "compiled": False,
            "threads": 1, "batch_size": 8, "training": PART,
            "evaluation": PART | {"seconds": PART["seconds"] | {"median": 0.0123456, "count": 4}},
            "loader": {"share": 5.6e-5}, "peak_memory": {"kind": "resident_growth", "bytes": 580 << 20},
        },
    ],
}  # fmt: skip


SUMMARY |= record_entry(summary_numbers(SUMMARY))
EVALUATION |= evaluation_entry(EVALUATION)
BENCHMARK |= benchmark_entry(benchmark_numbers(BENCHMARK["results"]), BENCHMARK["environment"])
REPORTS = {"evaluation": EVALUATION, "benchmark": BENCHMARK}


class Records:
    """`record_result` of runs and reports, the resume of `provenance.json`, and `metrics.jsonl` cut back."""

    name = "records"
    share = 5.0

    def prepare(self) -> None:
        """The sound records are constants."""

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        if rng.random() < 0.25:
            return _report_case(rng, folder / "report.json", changes)
        run = folder / "run"
        run.mkdir()
        sound = rng.random() < 0.03
        with_summary = sound or rng.random() < 0.6
        log = b"".join(json.dumps(line).encode() + b"\n" for line in LINES)
        files = {"provenance.json": json.dumps(PROVENANCE).encode(), "metrics.jsonl": log}
        if with_summary:
            files["summary.json"] = json.dumps(SUMMARY).encode()
        hit = [] if sound else rng.sample(sorted(files), rng.choice([1, 1, 2]))
        for name in hit:
            changes.append(name)
            files[name] = _damaged(rng, name, files[name], changes)
        for name, data in files.items():
            (run / name).write_bytes(data)
        for name in hit:
            if rng.random() < 0.04:
                misplace(rng, run / name, changes)
        kind = rng.choice(["row", "row", "metrics", "resume"])
        changes.append(f"read for a {kind}")
        if kind == "row":
            return Case(changes, lambda: _row(run), _wrong_row, must_read=sound)
        if kind == "metrics":
            step = rng.choice([-1, 0, 25, 50, 10**6])
            return Case(changes, lambda: _cut(run, step), lambda found: _wrong_cut(found, run, step), must_read=sound)
        return Case(changes, lambda: _resume(run), lambda found: _wrong_resume(found, run), must_read=sound)


def _damaged(rng: Random, name: str, data: bytes, changes: list[str]) -> bytes:
    if rng.random() < 0.3:
        return damage(rng, data, TEXT, changes)
    if name != "metrics.jsonl":
        return json_bytes(rng, edit_tree(rng, json.loads(data), changes), changes)
    lines = data.splitlines()
    for row in rng.sample(range(len(lines)), rng.choice([1, 1, 2])):
        lines[row] = json_bytes(rng, edit_tree(rng, json.loads(lines[row]), changes), changes)
    return b"\n".join(lines) + b"\n"


def _report_case(rng: Random, path: Path, changes: list[str]) -> Case:
    sound = rng.random() < 0.03
    changes.append(kind := rng.choice(sorted(REPORTS)))
    data = json.dumps(REPORTS[kind]).encode()
    path.write_bytes(data if sound else _damaged(rng, path.name, data, changes))
    return Case(changes, lambda: _row(path), _wrong_row, must_read=sound)


def _row(path: Path) -> str:
    """Of a report, or of a run's folder: written as a record, read again and rendered."""
    folder = path.with_name("results")
    made = Record("x1", claim="c", expected="", source="", status="exploratory", **gathered([path]))
    write_record(made, folder)
    return provenance_page([read_record("x1", folder)]).splitlines()[-1]


def _wrong_row(row: str) -> str | None:
    if not row.isprintable():
        return f"the row is no printable line: {row[:300]!r}"
    cells = re.split(r"(?<!\\)\|", row)[1:-1]
    if len(cells) != 5:
        return f"the row has {len(cells)} cells, expected 5"
    # From the beginning of a number only: a long text of such characters would be searched from each of them.
    for found in re.finditer(r"(?<![-\d.einfa])([-\d.einfa]+) % = (-?\d+)/(-?\d+)", row):
        percent, part, whole = float(found[1]), int(found[2]), int(found[3])
        if not 0 <= part <= whole:
            return f"an impossible rate: {found[0]} ({percent})"
    if re.search(r"\b(nan|inf)\b", row):
        return f"a number that is none: {row[:300]!r}"
    return None


def _cut(run: Path, step: int) -> tuple[list[dict[str, Any]], int, list[dict[str, Any]]]:
    path = run / "metrics.jsonl"
    before = list(read_metrics(path))
    dropped = MetricsLog(path).truncate_to_step(step)
    return before, dropped, list(read_metrics(path))


def _wrong_cut(found: tuple[list[dict[str, Any]], int, list[dict[str, Any]]], run: Path, step: int) -> str | None:
    before, _, after = found
    if any(type(line["step"]) is not int or line["step"] > step for line in after):
        return f"a line after step {step} was kept"
    expected = [line for line in before if line["step"] <= step]
    if json.dumps(after) != json.dumps(expected):
        return "a line was lost or changed"
    for line in before:
        if any(isinstance(value, float) and not math.isfinite(value) for value in line.values()):
            return f"a number that is none was read: {line}"
    for text in (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]:
        json.loads(text)
    return None


def _resume(run: Path) -> list[str]:
    file = ProvenanceFile(run / "provenance.json")
    differences = file.start({**SESSION, "start_step": 7})
    file.finish(end_step=9)
    return differences


def _wrong_resume(differences: list[str], run: Path) -> str | None:
    record = json.loads((run / "provenance.json").read_text("utf-8"))
    last = record["sessions"][-1]
    if last["start_step"] != 7 or last["end_step"] != 9:
        return "the session was not recorded"
    if not all(isinstance(line, str) for line in differences):
        return f"differences are {differences!r}"
    return None
