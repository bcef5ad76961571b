"""The picture of accuracy against supervision steps shows the numbers of the reports."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.rollouts import accuracy_vs_steps
from training.records.result_numbers import wilson_interval

KINDS = ("png", "pdf", "svg", "csv", "json", "txt")


def result(num_steps: int, rows: str = "test", count: int = 200, **more: Any) -> dict[str, Any]:
    halted = np.full(num_steps, count // num_steps)
    halted[-1] += count - halted.sum()
    per_step = [
        {
            "step": t, "exact_count": min(count - 10, 5 * t), "count": count,
            "exact_accuracy": min(count - 10, 5 * t) / count, "accuracy": 0.5 + 0.4 * t / num_steps,
            "halted_count": int(halted[t - 1]),
        }
        for t in range(1, num_steps + 1)
    ]  # fmt: skip
    shared = {"rows": rows, "data": "data/sudoku6", "set": "all", "supervision_steps": num_steps}
    return shared | {"per_step": per_step} | more


def write(folder: Path, *results: dict[str, Any], name: str = "evaluation_best.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({"checkpoint": "best.pt", "results": list(results)}))
    return path


@pytest.fixture
def report(tmp_path: Path) -> Path:
    mode = {"max_steps": 24, "adaptive_halt": False, "vote": 1}
    return write(tmp_path / "run", result(24, trained_steps=16, mode=mode), result(24, "validation", count=50))


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "accuracy_vs_steps.csv").open()))


def test_numbers_and_files(report: Path) -> None:
    accuracy_vs_steps.main([str(report)])
    folder = report.parent / "figures"
    assert {path.name for path in folder.glob("[!.]*")} == {f"accuracy_vs_steps.{kind}" for kind in KINDS}
    rows = table(folder)
    entries = json.loads(report.read_text())["results"][0]["per_step"]
    assert len(rows) == 24 and {(row["curve"], row["rows"]) for row in rows} == {("run/best", "test")}
    for row, entry in zip(rows, entries, strict=True):
        assert {name: type(value)(row[name]) for name, value in entry.items()} == entry
        assert (float(row["low"]), float(row["high"])) == wilson_interval(entry["exact_count"], 200)
    saved = json.loads((folder / "accuracy_vs_steps.json").read_text())["curves"]
    assert [point["exact_count"] for point in saved[0]["points"]] == [entry["exact_count"] for entry in entries]
    words = (folder / "accuracy_vs_steps.txt").read_text()
    for phrase in (
        "n = 200 test rows of data/sudoku6, 24 steps evaluated, 16 trained with (dotted line)",
        "mode max_steps 24, adaptive_halt False, vote 1",
        "95 % Wilson interval",
        "step 1: 5 of 200 = 2.5%",
        "best step 24: 120 of 200 = 60.0% (95 % 53.1% to 66.5%)",
        f"Figure: python analysis/rollouts/accuracy_vs_steps.py {report}",
    ):
        assert phrase in words


def test_the_picture_holds_the_curves(report: Path) -> None:
    curves = accuracy_vs_steps.read_curves([report])
    upper, lower = accuracy_vs_steps.draw(curves).axes
    exact, tokens, trained = upper.lines
    assert list(exact.get_xdata()) == list(range(1, 25)) and list(trained.get_xdata()) == [16, 16]
    assert list(exact.get_ydata()) == [t / 40 for t in range(1, 25)]
    assert list(tokens.get_ydata()) == [point.accuracy for point in curves[0].points]
    values, edges, _ = lower.patches[-1].get_data()
    assert sum(values) == pytest.approx(1) and list(edges)[1:-1] == [t + 0.5 for t in range(1, 24)]
    assert (lower.get_xscale(), upper.get_xlim()[0] <= 1) == ("log", True)
    assert [label.get_text() for label in lower.get_xticklabels() if label.get_text() in ("1", "2", "8", "16")] != []


@pytest.mark.parametrize(
    ("num_steps", "trained", "scale"), [(16, 16, "linear"), (17, 16, "log"), (4, 32, "log"), (1, None, "linear")]
)
def test_the_axis_is_logarithmic_beyond_16_steps(
    tmp_path: Path, num_steps: int, trained: int | None, scale: str
) -> None:
    path = write(tmp_path, result(num_steps, trained_steps=trained))
    axes = accuracy_vs_steps.draw(accuracy_vs_steps.read_curves([path])).axes[1]
    assert axes.get_xscale() == scale
    low, high = axes.get_xlim()
    assert low < 1 and high > max(num_steps, trained or 0)
    ticks = [float(tick) for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks and all(tick == int(tick) for tick in ticks)
    if scale == "log":
        assert ticks == [2**power for power in range(6) if 2**power <= high]


def test_twice_the_same_bytes(report: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        accuracy_vs_steps.main([str(report), "--output-dir", str(tmp_path / name)])
    for kind in KINDS:
        first, second = ((tmp_path / name / f"accuracy_vs_steps.{kind}").read_bytes() for name in ("a", "b"))
        assert first == second, kind


def test_several_reports_and_sets(report: Path, tmp_path: Path) -> None:
    """Names with characters that mean something to matplotlib, and a report of validation rows only."""
    odd = write(tmp_path / "_run$1", result(8, "validation", trained_steps=None))
    two_sets = write(tmp_path / "arc", result(4), result(4, count=30, data="data/other"))
    accuracy_vs_steps.main([*map(str, (report, odd, two_sets)), "--output-dir", str(tmp_path / "out")])
    lengths: dict[tuple[str, str], int] = {}
    for row in table(tmp_path / "out"):
        lengths[row["curve"], row["rows"]] = lengths.get((row["curve"], row["rows"]), 0) + 1
    assert lengths == {
        ("run/best", "test"): 24,
        ("_run$1/best", "validation"): 8,
        ("arc/best, sudoku6", "test"): 4,
        ("arc/best, other", "test"): 4,
    }
    figure = accuracy_vs_steps.draw(accuracy_vs_steps.read_curves([report, odd, two_sets]))
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown[:4] == ["run/best", "_run$1/best", "arc/best, sudoku6", "arc/best, other"]
    assert "steps trained with: 16" in shown


def test_reports_of_equal_names_are_told_apart(tmp_path: Path) -> None:
    paths = [write(tmp_path / name / "run", result(2)) for name in ("a", "b")]
    names = accuracy_vs_steps.report_names(paths)
    assert len(set(names)) == 2 and all(len(name) <= accuracy_vs_steps.MAX_NAME for name in names)


def spoiled(**changes: Any) -> dict[str, Any]:
    damaged = result(3)
    damaged["per_step"][1] |= changes
    return {"results": [damaged]}


WRONG = {
    "no JSON": ("{", "it is no JSON"),
    "no report": ('{"step": 1}', "it has no list of results"),
    "no results": ('{"results": []}', "holds no accuracy after each step"),
    "no per_step": (json.dumps({"results": [result(3, per_step=None)]}), "holds no accuracy after each step"),
    "odd per_step": (json.dumps({"results": [result(3, per_step=7)]}), "is damaged"),
    "odd entry": (json.dumps({"results": [result(3, per_step=[[1]])]}), "found list in place of an entry"),
    "missing": (json.dumps({"results": [result(3, per_step=[{"step": 1}])]}), "'count' is missing"),
    "no rows": (json.dumps(spoiled(count=0)), "count 0, expected at least 1"),
    "more than all": (json.dumps(spoiled(exact_count=201)), "exact_count 201, expected 0 to 200"),
    "true": (json.dumps(spoiled(halted_count=True)), "halted_count True"),
    "percent": (json.dumps(spoiled(accuracy=80)), "accuracy 80, expected a share"),
    "words": (json.dumps(spoiled(accuracy="0.8")), "accuracy '0.8', expected a share"),
    "order": (json.dumps(spoiled(step=1)), "do not ascend"),
    "trained": (json.dumps({"results": [result(3, trained_steps=0)]}), "trained_steps 0, expected at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    text, reason = WRONG[case]
    path = tmp_path / "evaluation_best.json"
    path.write_text(text)
    refuse([str(path)], reason, capsys)
    assert list(tmp_path.iterdir()) == [path]


def refuse(argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        accuracy_vs_steps.main(argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert reason in error and argv[0] in error or "curves" in error


def test_missing_file_and_too_many_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse([str(tmp_path / "none.json")], "there is no such file", capsys)
    copy = tmp_path / "copied" / "evaluation_best.json"
    copy.parent.mkdir()
    copy.write_bytes(write(tmp_path / "once", result(2)).read_bytes())
    refuse([str(tmp_path / "once" / copy.name), str(copy)], f"{copy} holds the same as ", capsys)
    paths = [write(tmp_path / f"run{i}", result(2)) for i in range(7)]
    refuse([str(path) for path in paths], "7 curves in the reports, expected at most 6", capsys)
