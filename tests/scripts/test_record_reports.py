"""Rows from reports: texts of known numbers, the files that the scripts write, refusals that name the entry."""

import copy
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evaluate
from analysis.arms import time_to_accuracy
from dataset.puzzle_folder import fingerprint
from errors import UserError
from scripts.benchmark import updates as benchmark
from scripts.record_reports import read_report, report_cells
from scripts.report_entries import Report
from tests.fuzz.targets.records import BENCHMARK, EVALUATION, REPORTS, TIME_TO_ACCURACY, crossing, crossings
from tests.helpers import train_here


@pytest.fixture
def read(tmp_path: Path) -> Callable[[dict[str, Any]], Report]:
    def write_and_read(record: dict[str, Any]) -> Report:
        (tmp_path / "report.json").write_text(json.dumps(record))
        return read_report(tmp_path / "report.json")

    return write_and_read


def changed(record: Any, path: str, value: Any) -> Any:
    """A copy with the entry at a dotted path replaced."""
    record = copy.deepcopy(record)
    *parents, last = path.split(".")
    parent = record
    for name in parents:
        parent = parent[int(name) if isinstance(parent, list) else name]
    parent[int(last) if isinstance(parent, list) else last] = value
    return record


def paths(record: Any, prefix: str = "") -> list[str]:
    """Dotted paths of all entries of objects, those in lists included."""
    items = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    found = [f"{prefix}{key}" for key, _ in items] if isinstance(record, dict) else []
    return found + [path for key, item in items for path in paths(item, f"{prefix}{key}.")]


def test_an_evaluation(read: Callable[..., Report]) -> None:
    assert report_cells([read(EVALUATION)]) == [
        "`python evaluate.py checkpoint=runs/r/best.pt`", "121212121212", "abcdef012345+dirty",
        "343434343434 (test split)", "3; n=1",
        "test rows: 95.62 % = 765/800 [93.98, 96.84]; 16 steps, adaptive; mean steps 1.66, 1,328 forward passes, "
        "4.05e+10 FLOPs, 180.2 rows/s",
        "1× A CPU (2 threads), float32, 4.44 s, 44,672 parameters",
    ]  # fmt: skip


def test_an_evaluation_in_another_mode_of_several_selections(read: Callable[..., Report]) -> None:
    """Selections of the same kind are told apart by their data; a set without labels has no rate."""
    (result,) = EVALUATION["results"]
    vote = changed(changed(result, "mode.vote", 8), "mode.adaptive_halt", False)
    empty = changed(result, "exact_accuracy", {"value": None, "numerator": 0, "denominator": 0}) | {"data": "other"}
    chosen = result | {"rows": "validation"}
    stochastic = changed(changed(result, "mode.rollouts", 100), "mode.adaptive_halt", False)
    text = read(EVALUATION | {"results": [stochastic]}).result
    assert "; 16 steps, highest q of 100 stochastic rollouts; mean" in text
    text = read(EVALUATION | {"results": [vote, chosen, empty]}).result
    assert text.startswith("test rows of data/six (all): 95.62 % = 765/800 [93.98, 96.84]; 16 steps, vote of 8; mean")
    assert "; validation rows: 95.62 %" in text
    assert "; test rows of other (all): no row with a label; 16 steps, adaptive" in text
    assert "13.3 s" in read(EVALUATION | {"results": [vote, chosen, empty]}).hardware[0]


def test_an_evaluation_by_an_earlier_version(read: Callable[..., Report]) -> None:
    """It knew neither data nor processor."""
    late = ("datasets", "cpu", "gpu", "num_threads")
    report = read({key: value for key, value in EVALUATION.items() if key not in late})
    assert report.datasets == ["not recorded"]
    assert report.hardware[0].startswith("1× cpu (threads not recorded), float32")


def test_a_benchmark(read: Callable[..., Report]) -> None:
    assert report_cells([read(BENCHMARK)]) == [
        "`python scripts/benchmark/updates.py --preset trm_sudoku_att --set 'a=[b, c]'`", "not recorded",
        "abcdef012345",
        "synthetic", "0; n=1",
        "trm_sudoku_att (8 rows, bfloat16): update 708 ms [quartiles 704-709, n=9], floor 507 ms, ratio 0.716, "
        "538 GFLOP/s; evaluation step 12.3 ms [quartiles 704-709, n=4], floor 507 ms, ratio 0.716, 538 GFLOP/s; "
        "loader 0.01 %; peak 580 MiB",
        "1× A CPU (1 thread)",
    ]  # fmt: skip


def test_presets_and_repeated_measurements_stand_one_by_one(read: Callable[..., Report]) -> None:
    (first,) = BENCHMARK["results"]
    second = first | {"preset": "quickstart", "compiled": True, "gpu": "A GPU", "peak_memory": {"bytes": None}}
    both = read(BENCHMARK | {"results": [first, second]})
    assert "; peak 580 MiB; quickstart (8 rows, bfloat16, compiled): update" in both.result
    assert both.result.endswith("loader 0.01 %") and both.hardware == ["1× A CPU (1 thread)", "1× A GPU (1 thread)"]
    again = read(changed(BENCHMARK, "results.0.training.seconds.median", 0.75))
    cells = report_cells([read(BENCHMARK), again])
    assert cells[4] == "0, 0; n=2"
    assert re.findall(r"update (\d+) ms", cells[5]) == ["708", "750"] and cells[5].count(" // ") == 1
    assert cells[6] == "1× A CPU (1 thread)"


def test_time_to_accuracy(read: Callable[..., Report]) -> None:
    cells = report_cells([read(TIME_TO_ACCURACY)])
    commands = " // ".join(f"`python pretrain.py seed={seed}`" for seed in range(4))
    assert cells == [
        f"`python analysis/arms/time_to_accuracy.py runs/r0` // {commands}",
        "000000000000 // 111111111111 // 222222222222 // 333333333333",
        "abcdef012345", "565656565656", "0, 1, 2, 3; n=4",
        "eval/fast/exact_accuracy: 75 % on 200 rows first at 320-400 updates (median 360; n=4 of 4 seeds), 40-50 s "
        "(median 45)",
        "1× A CPU (2 threads), 75 s, 600 updates",
    ]  # fmt: skip


def test_two_reports_on_the_same_runs_do_not_count_them_twice(read: Callable[..., Report]) -> None:
    """Other units of the same crossings."""
    reports = [read(TIME_TO_ACCURACY), read(TIME_TO_ACCURACY | {"x": "updates"})]
    cells = report_cells(reports)
    assert cells[4] == "0, 1, 2, 3; n=4"
    assert reports[1].result.endswith("first at 320-400 updates (median 360; n=4 of 4 seeds)")
    assert read(TIME_TO_ACCURACY | {"x": "flops"}).result.endswith(", 40-50 FLOPs (median 45)")
    assert reports[1].hardware[0] == "1× A CPU (2 threads), 600 updates"


@pytest.mark.parametrize("missing", [0, 1, 2, 3, 4])
def test_runs_that_never_get_there_are_later_than_all_others(missing: int, read: Callable[..., Report]) -> None:
    steps = [200, 400, 300, 500][missing:]
    runs = [crossing(seed, step) for seed, step in enumerate([*steps, *[None] * missing])]
    median = statistics.median([*steps, *[10**9] * missing])
    text = read(crossings(runs)).result
    if missing == 4:
        assert text.endswith("75 % on 200 rows not reached in 600 updates (n=0 of 4 seeds)")
    else:
        last = f"-{max(steps)}" if not missing else " to not reached"
        middle = f"{median:g}" if median < 10**6 else "not reached"
        assert f"first at {min(steps)}{last} updates (median {middle}; n={4 - missing} of 4 seeds)" in text


def test_groups_of_runs_are_apart(read: Callable[..., Report]) -> None:
    """The same seed twice is two runs, not two seeds."""
    runs = [crossing(0, 320), crossing(0, None, group="lr=0.1", last=300), crossing(1, 320)]
    report = read(crossings([*runs, crossing(0, None, group="lr=0.1")]))
    assert report.result == (
        "eval/fast/exact_accuracy: trm: 75 % on 200 rows first at 320 updates (median 320; n=2 of 2 seeds), 40 s "
        "(median 40); lr=0.1: 75 % on 200 rows not reached in 300-600 updates (n=0 of 2 runs)"
    )


def test_runs_that_know_little_of_themselves(read: Callable[..., Report]) -> None:
    run = crossing(0, 320) | {"seed": None, "last_rows": None}
    run["provenance"] = dict.fromkeys(run["provenance"]) | {"git": {"commit": None, "dirty": None}}
    cells = report_cells([read(crossings([run]))])
    assert cells[0].endswith(" // `not recorded`")
    assert cells[1:5] == ["none", "none", "not recorded", "not recorded; n=1"]
    assert "75 % on an unknown number of rows first at 320 updates (median 320; n=1 of 1 seed)" in cells[5]
    assert cells[6] == "1× unknown hardware (threads not recorded), 75 s, 600 updates"


# What may be absent: what earlier versions did not write, and what is not printed.
SPARE = {
    "evaluation": {
        "checkpoint", "device", "datasets", "world_size", "cpu", "gpu", "num_threads", "git.commit", "git.dirty",
        "results.0.data", "results.0.set", "results.0.exact_accuracy.value", "results.0.exact_accuracy.interval95",
        "results.0.compute.rows",
    },
    "benchmark": {
        "schema_version", "environment.commit", "environment.dirty", "environment.cpu", "environment.gpu",
        "environment.num_threads", "results.0.device", "results.0.gpu", "results.0.threads",
        "results.0.peak_memory.kind", "results.0.peak_memory.bytes", "results.0.training.seconds.min",
        "results.0.training.seconds.max", "results.0.evaluation.seconds.min", "results.0.evaluation.seconds.max",
    },
    "time to accuracy": {"groups"} | {
        f"runs.{index}.{name}"
        for index in range(4)
        for name in (
            "run", "seed", "group", "first_step", "last_rows", "provenance.argv", "provenance.config_hash",
            "provenance.datasets", "provenance.datasets.data", "provenance.cpu", "provenance.gpu",
            "provenance.num_threads", "provenance.world_size", "provenance.git.commit", "provenance.git.dirty",
        )
    },  # a single group prints no label
}  # fmt: skip


@pytest.mark.parametrize("kind", REPORTS)
def test_every_entry_that_is_printed_is_asked_for(kind: str, read: Callable[..., Report]) -> None:
    """Each entry is taken out in turn: either the report is refused by the entry's name, or nothing needs it."""
    spared = set()
    for path in paths(REPORTS[kind]):
        record = changed(REPORTS[kind], path, None)
        try:
            read(record)
        except UserError as error:
            assert f"'{path}' is 'None', expected " in str(error)
            assert str(error).endswith("; make the report again")
        else:
            spared.add(path)
    assert spared == SPARE[kind]


WRONG = [
    ("evaluation", "results.0.exact_accuracy.numerator", 801, "is 801, expected at most the denominator 800"),
    ("evaluation", "results.0.exact_accuracy.numerator", 765.0, "is '765.0', expected a whole number"),
    ("evaluation", "results.0.compute.flops", 10**400, "expected a number of at least 0"),
    ("evaluation", "results.0.compute.seconds", -1, "is '-1', expected a number"),
    ("evaluation", "results.0.mode.adaptive_halt", 1, "is '1', expected true or false"),
    ("evaluation", "results.0.mode.vote", True, "is 'True', expected a whole number"),
    ("evaluation", "results", [], "is '[]', expected a list of objects"),
    ("evaluation", "git.commit", 7, "is '7', expected a text"),
    ("evaluation", "num_threads", "2", "is '2', expected a whole number"),
    ("benchmark", "environment", 3, "is '3', expected an object"),
    ("benchmark", "environment.argv", ["x", 1], "expected a list of texts"),
    ("benchmark", "results.0.training.seconds.median", "1", "is '1', expected a number"),
    ("benchmark", "results.0.peak_memory.bytes", -5, "is '-5', expected a number"),
    ("time to accuracy", "x", "hours", "is 'hours', expected seconds, updates, flops, samples"),
    ("time to accuracy", "runs.1.first_x", None, "is 'None', expected a number"),
    ("time to accuracy", "runs.1", 5, "expected a list of objects"),
    ("time to accuracy", "runs.2.provenance.git", "x", "is 'x', expected an object"),
]


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"), WRONG, ids=[f"{row[1]}={row[2]!r}"[:50] for row in WRONG]
)
def test_entries_of_a_wrong_kind(kind: str, path: str, value: Any, message: str, read: Callable[..., Report]) -> None:
    with pytest.raises(UserError) as caught:
        read(changed(REPORTS[kind], path, value))
    assert message in str(caught.value) and "report.json: '" in str(caught.value)


def test_an_entry_that_is_not_there(read: Callable[..., Report]) -> None:
    """As in a time_to_accuracy.json of an earlier version."""
    runs = [{key: value for key, value in run.items() if key != "provenance"} for run in TIME_TO_ACCURACY["runs"]]
    with pytest.raises(UserError, match=r"'runs\.0\.provenance' is missing, expected an object; make the report again"):
        read(crossings(runs))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "found nothing in it; a run's folder is named with --runs"),
        ('{"steps": 3, "best": {}}', "found steps, best; a run's"),
        ("[]", "expected an object, found a list"),
        ('{"target": NaN}', "it is no JSON"),
        ('{"target": 1, "target": 2}', "it is no JSON"),
    ],
)
def test_other_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_report(tmp_path / "x.json")
    assert message in str(caught.value) and str(caught.value).startswith(f"--reports {tmp_path}/x.json: ")
    with pytest.raises(UserError, match="cannot be read"):
        read_report(tmp_path / "absent.json")


def test_the_files_that_the_scripts_write(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run, its evaluation, its curve and a benchmark: each row has the command, the commit and the numbers."""
    run = tmp_path / "run"
    train_here("trm_mlp", sudoku6_folder, run, ["max_steps=8", "seed=5"])
    provenance = json.loads((run / "provenance.json").read_text())

    monkeypatch.setattr("sys.argv", ["evaluate.py", f"checkpoint={run}/best.pt", "device=cpu"])
    evaluate.main()
    evaluation = read_report(run / "evaluation_best.json")
    written = json.loads((run / "evaluation_best.json").read_text())
    for kind, result in zip(("test", "validation"), written["results"], strict=True):
        exact = result["exact_accuracy"]
        assert f"{kind} rows: " in evaluation.result
        assert f" = {exact['numerator']}/{exact['denominator']} [" in evaluation.result
    assert evaluation.commands == [f"python evaluate.py checkpoint={run}/best.pt device=cpu"]
    assert evaluation.seeds == ["5"] and evaluation.config_hashes == [written["config_hash"][:12]]
    assert evaluation.datasets == [f"{fingerprint(sudoku6_folder, 'test')[:12]} (test split)"]
    assert evaluation.hardware[0].startswith(f"1× {provenance['cpu']} (1 thread), float32, ")

    time_to_accuracy.main([str(run), "--metric=eval/accuracy", "--target=0.01", "--output-dir", str(tmp_path)])
    curve = read_report(tmp_path / "time_to_accuracy.json")
    assert curve.result.startswith("eval/accuracy: 1 % on 8 rows first at 8 updates (median 8; n=1 of 1 seed), ")
    assert curve.config_hashes == [provenance["config_hash"][:12]] and curve.seeds == ["5"]
    assert curve.datasets == [fingerprint(sudoku6_folder, "train")[:12]]
    assert curve.commands[0] in (tmp_path / "time_to_accuracy.txt").read_text() and len(curve.commands) == 2

    tiny = ["--repeats", "1", "--device", "cpu", "--batch-size", "2", "--set", "arch.hidden_size=8", "threads=1"]
    benchmark.main(["--preset", "smoke", *tiny, "--json", str(tmp_path / "speed.json")])
    speed = read_report(tmp_path / "speed.json")
    (result,) = json.loads((tmp_path / "speed.json").read_text())["results"]
    assert speed.result.startswith("smoke (2 rows, float32): update ")
    assert f"n=1], floor {1e3 * result['training']['floor_seconds']:.3g} ms" in speed.result
    assert speed.hardware == [f"1× {provenance['cpu']} (1 thread)"]

    commit = (provenance["git"]["commit"] or "none")[:12]
    for report in (evaluation, curve, speed):
        assert {text.removesuffix("+dirty") for text in report.commits} == {commit}
