"""The training curve shows the numbers of the log, for runs at every stage."""

import csv
import json
from pathlib import Path

import pytest

from analysis.arms import training_curve
from training.records.result_numbers import wilson_interval


def line(step: int, **values: float) -> str:
    return json.dumps({"step": step} | {key.replace("__", "/"): value for key, value in values.items()}) + "\n"


def evaluation(step: int, exact: int, count: int, kind: str = "validation") -> str:
    values = {f"eval/{kind}/exact_count": exact, f"eval/{kind}/count": count, f"eval/{kind}/accuracy": 0.5}
    return line(step, **values)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    text = line(10, train__lm_loss=2.0, train__accuracy=0.1) + evaluation(10, 1, 50, "fast") + evaluation(20, 40, 200)
    (folder / "metrics.jsonl").write_text(text + line(20, train__lm_loss=1.0) + line(20, event=1))
    return folder


def finish(run: Path) -> None:
    summary = {
        "best": {"value": 0.2, "step": 20, "numerator": 40, "denominator": 200},
        "baselines": {"copy_input": {"accuracy": 0.3}, "copy_givens": {"accuracy": 0.4}},
        "test": {"best": {"value": 0.25, "numerator": 100, "denominator": 400, "step": 20}},
        "num_params": 123,
    }
    (run / "summary.json").write_text(json.dumps(summary))
    provenance = {"git": {"commit": "c0ffee" * 7, "dirty": True}, "seeds": {"seed": 7}, "argv": ["pretrain.py", "a=1"]}
    (run / "provenance.json").write_text(json.dumps(provenance))


def test_numbers_and_files(run: Path, tmp_path: Path) -> None:
    finish(run)
    training_curve.main([str(run), "--output-dir", str(tmp_path / "out")])
    files = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert files == {f"training_curve.{kind}" for kind in ("png", "pdf", "svg", "csv", "json", "txt")}
    rows = list(csv.DictReader((tmp_path / "out" / "training_curve.csv").open()))
    drawn = [(row["curve"], int(row["step"]), row["exact_accuracy"] or row["lm_loss"]) for row in rows]
    assert drawn[:2] == [("validation", 10, "0.02"), ("validation", 20, "0.2")]
    assert drawn[2:] == [("training", 10, "2.0"), ("training", 20, "1.0")]
    assert (float(rows[1]["low"]), float(rows[1]["high"])) == wilson_interval(40, 200)
    caption = (tmp_path / "out" / "training_curve.txt").read_text()
    for words in (
        "n = 50 or 200 validation puzzles",
        "seed 7",
        "100 of 400 solved = 25.0%",
        "c0ffeec0ffee+dirty",
        "123 parameters",
        "python pretrain.py a=1",
        f"python analysis/arms/training_curve.py {run}",
    ):
        assert words in caption


def test_the_picture_holds_the_curves(run: Path) -> None:
    finish(run)
    figure = training_curve.draw(training_curve.read_curves(run))
    upper, lower = figure.axes
    assert [list(map(float, curve.get_ydata())) for curve in upper.lines[:2]] == [[0.02, 0.2], [0.5, 0.5]]
    assert list(lower.lines[0].get_xdata()) == [10, 20]
    legend = figure.legends[0]
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert "cells right, givens copied, rest guessed" in labels and "best: 20.0% at update 20" in labels


def test_twice_the_same_bytes(run: Path, tmp_path: Path) -> None:
    finish(run)
    for name in ("a", "b"):
        training_curve.main([str(run), "--output-dir", str(tmp_path / name)])
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_run_that_has_just_begun(run: Path) -> None:
    (run / "metrics.jsonl").write_text(line(1, train__lm_loss=2.0))
    training_curve.main([str(run)])
    assert "unknown" in (run / "figures" / "training_curve.txt").read_text()


@pytest.mark.parametrize("text", [None, "", line(3, train__lr=0.1), "no json\n"])
def test_nothing_to_draw(run: Path, capsys: pytest.CaptureFixture[str], text: str | None) -> None:
    (run / "metrics.jsonl").unlink()
    if text is not None:
        (run / "metrics.jsonl").write_text(text)
    with pytest.raises(SystemExit) as caught:
        training_curve.main([str(run)])
    captured = capsys.readouterr()
    assert caught.value.code == 2 and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not (run / "figures").exists()
