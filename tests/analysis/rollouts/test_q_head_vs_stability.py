"""Q head against stability: on tables made by hand, and on a real (tiny) run: stopped, gone on, read, refused."""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import evaluate
from analysis.rollouts import q_head_vs_stability
from analysis.rollouts.q_head_figure import (
    LOOKS,
    NAME,
    caption,
    draw,
    figure_data,
    read_figure,
    rollout_entry,
    save_figure_data,
    summarise,
)
from errors import UserError
from tests.helpers import changed_flags, refused_line, train_here
from training.evaluation.rollout_table import RolloutTable, npz_bytes, read_rollouts

KINDS = ("png", "svg", "csv", "txt")
FILES = ("rollouts.npz", "summary.json", *(f"{NAME}.{kind}" for kind in KINDS))
SETTINGS = {
    "sigma": 0.3, "site": "z_L", "stability": {"sizes": [1e-3, 1e-2], "steps": 4, "directions": 2}, "step_flops": 7.0,
}  # fmt: skip


def made_by_hand(puzzles: int = 40, rollouts: int = 8) -> RolloutTable:
    """Within a puzzle Q falls with growth and right rollouts have the higher Q; hard puzzles have more of both."""
    rng = np.random.default_rng(0)
    hard, of_rollout = rng.normal(size=(puzzles, 1, 1)), rng.normal(size=(puzzles, rollouts, 2))
    q = (10 * hard - of_rollout).astype(np.float32)
    growth = np.stack([10 * hard + of_rollout, rng.normal(size=of_rollout.shape)], axis=3).astype(np.float32)
    exact = of_rollout < hard
    return RolloutTable(
        row=np.arange(puzzles), steps=np.array([4, 8]), q=q, exact=exact,
        noiseless=hard[:, :, 0] > [0, -0.5], answer=exact.astype(np.int64),
        margin=rng.random(q.shape).astype(np.float32), growth=growth, sizes=np.array([1e-3, 1e-2]),
    )  # fmt: skip


def test_summary_of_a_table_made_by_hand() -> None:
    table = made_by_hand()
    summary = summarise(table, SETTINGS, 300)
    first, second = summary["correlation_of_q_and_growth"]
    assert first["within"]["value"] < -0.999 and first["pooled"]["value"] > 0.9
    assert abs(second["within"]["value"]) < 0.3 and [first["size"], second["size"]] == [1e-3, 1e-2]
    counts = [summary[f"solved_{name}"] for name in ("always", "partly", "never")]
    assert sum(counts) == 40 and counts[1] == first["within"]["puzzles"] > 10
    assert summary["auroc_within_mixed"]["q"]["value"] == summary["auroc_within_mixed"]["stability"]["value"] == 1.0
    at_end = {e["selector"]: e["exact_accuracy"]["numerator"] for e in summary["accuracy"]
              if (e["steps"], e["rollouts"]) == (8, 8)}  # fmt: skip
    assert at_end["q"] == at_end["stability"] == at_end["oracle"] == 40 - counts[2]
    (stable,) = [e for e in summary["accuracy"] if (e["selector"], e["steps"], e["rollouts"]) == ("stability", 4, 2)]
    assert stable["forward_passes"] == 2 * (4 + 4 * (1 + 2)) and stable["flops"] == 7.0 * stable["forward_passes"]
    alone = {e["steps"]: e for e in summary["accuracy"] if e["selector"] == "noiseless"}
    solved = {4: int((table.noiseless[:, 0]).sum()), 8: int((table.noiseless[:, 1]).sum())}
    assert {steps: e["exact_accuracy"]["numerator"] for steps, e in alone.items()} == solved and solved[4] < solved[8]
    assert {steps: e["forward_passes"] for steps, e in alone.items()} == {4: 4, 8: 8}
    numbers = rollout_entry(summary)["record"]["numbers"]
    (number,) = [each for each in numbers if each["name"].startswith("one trajectory of 8 steps")]
    assert (number["value"], number["of"]) == (100 * solved[8] / 40, 40)
    json.dumps(summary, allow_nan=False)


def test_scores_that_are_no_numbers_are_the_last_choice() -> None:
    table = made_by_hand()
    table.growth[0], table.q[1], table.growth[2, 3] = np.nan, np.nan, np.nan
    summary = summarise(table, SETTINGS, 50)
    data = figure_data(table, summary)
    assert np.isfinite(data.points).all() and len(data.bins) == 10
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(("puzzles", "tenths"), [(40, 10), (4, 0)])
def test_tenths_of_fewer_than_fifty_rollouts_are_not_drawn(puzzles: int, tenths: int, tmp_path: Path) -> None:
    table = made_by_hand(puzzles)
    data = figure_data(table, summarise(table, SETTINGS, 50))
    assert (len(data.points) >= 50) == bool(tenths) and len(data.points) and len(data.bins) == tenths
    save_figure_data(data, tmp_path)
    for drawn in (data, read_figure(tmp_path)):
        labels = [text.get_text() for text in draw(drawn).legends[0].get_texts()]
        assert ("mean of each tenth" in labels) == ("means of tenths" in caption(drawn, "x")) == bool(tenths)
    plt.close("all")


def test_the_files_give_the_figure_back(tmp_path: Path) -> None:
    table = made_by_hand()
    data = figure_data(table, summarise(table, SETTINGS, 50))
    save_figure_data(data, tmp_path)
    again = read_figure(tmp_path)
    assert np.array_equal(again.points, data.points) and np.array_equal(again.bins, data.bins)
    assert again.curves == data.curves and again.summary == json.loads(json.dumps(data.summary))
    assert caption(again, "x") == caption(data, "x")


def test_what_is_drawn() -> None:
    table = made_by_hand()
    data = figure_data(table, summarise(table, SETTINGS, 50))
    figure = draw(data)
    left, right = figure.axes
    assert left.get_title(loc="left").startswith("rank correlation within puzzles: -1.00")
    assert "less stable" in left.get_xlabel() and right.get_xscale() == "log"
    drawn = [text.get_text() for text in figure.legends[1].get_texts()]
    assert drawn == [words for words, *_ in LOOKS.values()]
    lines = {line.get_label(): line for line in right.get_lines()}
    chosen = [curve for curve in data.curves if curve["selector"] == "oracle" and curve["steps"] == 8]
    assert lines["oracle (any is right)"].get_xdata().tolist() == [8 * r for r in (1, 2, 4, 8)]
    assert lines["oracle (any is right)"].get_ydata().tolist() == [curve["value"] for curve in chosen]
    assert [text.get_text() for text in right.texts] == ["4"], "the thin line of fewer steps is named"
    plt.close("all")


def test_no_mixed_puzzle_is_said(tmp_path: Path) -> None:
    table = made_by_hand()
    table.exact[:] = True
    data = figure_data(table, summarise(table, SETTINGS, 50))
    save_figure_data(data, tmp_path)
    (left, _) = draw(read_figure(tmp_path)).axes
    assert "no puzzle is solved by some rollouts" in left.texts[0].get_text() and len(data.points) == 0
    assert "within puzzles not defined" in caption(data, "x")
    plt.close("all")


# -- on a run

SOLVES = ["lr=2e-2", "weight_decay=0", "arch.hidden_size=64", "arch.halt_max_steps=2", "epochs=80", "eval_interval=80"]
FLAGS = "--rollouts 5 --sigma 3 --site both --max-steps 4 --num-puzzles 8 --batch-size 3 --bootstrap 50".split()


@pytest.fixture(scope="module")
def run(sudoku4_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that solves some puzzles."""
    folder = tmp_path_factory.mktemp("runs") / "solves"
    assert train_here("trm_mlp", sudoku4_folder, folder, [*SOLVES, "validation_size=2"]) == "done"
    return folder


def analysed(run: Path, out: Path, *more: str) -> None:
    words = ["--checkpoint", str(run / "best.pt"), "--out", str(out), "--device", "cpu", *FLAGS, *more]
    q_head_vs_stability.main(words)


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "whole"
    analysed(run, out)
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def test_files(whole: Path) -> None:
    assert set(bytes_of(whole)) == set(FILES), "and no parts are left"
    table, settings = read_rollouts(whole / "rollouts.npz", mend="")
    assert table.q.shape == (8, 5, 3) and table.steps.tolist() == [1, 2, 4]
    assert table.sizes.tolist() == [1e-3, 1e-4, 1e-2]
    assert settings["sigma"] == 3 and settings["site"] == "both" and settings["batch_size"] == 3
    assert len(np.unique(table.answer[..., -1])) > 8 and 0 < table.exact.sum() < table.exact.size
    with (whole / f"{NAME}.csv").open() as file:
        panels = {row["panel"] for row in csv.DictReader(file)}
    assert panels >= {"accuracy"} and (whole / f"{NAME}.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["puzzles"] == 8 and {entry["steps"] for entry in summary["accuracy"]} == {1, 2, 4}


def test_stopped_and_gone_on_it_is_the_same_to_the_byte(
    run: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second batch, then a part is lost as if the power had gone; only what is missing is made."""
    original, calls = q_head_vs_stability.evaluate, {"number": 0}

    def stopping(*words: Any, **more: Any) -> Any:
        calls["number"] += 1
        if calls["number"] == 2:
            raise KeyboardInterrupt
        return original(*words, **more)

    out = tmp_path / "out"
    monkeypatch.setattr(q_head_vs_stability, "evaluate", stopping)
    with pytest.raises(SystemExit, match="130"):
        analysed(run, out)
    assert [path.name for path in (out / "parts").iterdir()] == ["00000.npz"] and not (out / "rollouts.npz").exists()
    analysed(run, out)
    assert calls["number"] == 4, "three batches, of which the second was begun twice"
    assert bytes_of(out) == bytes_of(whole)
    analysed(run, out)
    assert calls["number"] == 4 and bytes_of(out) == bytes_of(whole), "what is there is not made again"


def test_the_files_alone_draw_the_same_picture(whole: Path, tmp_path: Path) -> None:
    q_head_vs_stability.main(["--read", str(whole / "rollouts.npz"), "--out", str(tmp_path), "--bootstrap", "50"])
    for name in ("summary.json", *(f"{NAME}.{kind}" for kind in ("png", "svg", "csv"))):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_evaluate_makes_the_same_rollouts(run: Path, whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    rollouts = [
        f"eval.stochastic_rollouts.{word}" for word in ("sigma=3", "rollouts=5", "probes.sizes=[1e-3,1e-4,1e-2]")
    ]
    words = ["eval.max_steps=4", "max_test_rows=8", "batch_size=3", *rollouts]
    evaluate.main([f"checkpoint={copy}/best.pt", "device=cpu", *words])
    path = copy / "evaluation_best_first8_steps4_rollouts3-rollouts5-probes.sizes0.001+0.0001+0.01.npz"
    first, _ = q_head_vs_stability.read_table(path)
    second, _ = read_rollouts(whole / "rollouts.npz", mend="")
    for name, array in vars(first).items():
        assert array.tobytes() == getattr(second, name).tobytes(), name
    q_head_vs_stability.main(["--read", str(path), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / f"{NAME}.svg").exists()


def refused(words: Sequence[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused_line(capsys, q_head_vs_stability.main, words)
    assert says in line


BAD = {
    "--sigma -1": "option 'eval.stochastic_rollouts.sigma': found -1.0",
    "--site z": "option 'eval.stochastic_rollouts.site': found 'z'",
    "--rollouts 0": "option 'eval.stochastic_rollouts.rollouts': found 0",
    "--max-steps 0": "option 'eval.max_steps': found 0",
    "--judged-steps 9": "'eval.stochastic_rollouts.judged_steps': found 9, expected steps from 1 to 4",
    "--num-puzzles 0": "--num-puzzles 0: expected at least 1",
    "--stability-sizes 2": "option 'eval.stochastic_rollouts.probes.sizes': found [2.0]",
    "--data-path nowhere": "nowhere",
    "--read x.npz": "not allowed with argument",
    "--rolouts 3": "unknown flag '--rolouts', the nearest is --rollouts",
}


@pytest.mark.parametrize(("words", "says"), BAD.items())
def test_bad_flags(run: Path, words: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--checkpoint", str(run / "best.pt"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    refused([*given, *changed_flags(FLAGS, words.split())], says, capsys)
    assert not (tmp_path / "out").exists()


def test_other_settings_overwrite_nothing(
    run: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    given = ["--checkpoint", str(run / "best.pt"), "--out", str(out), "--device", "cpu"]
    words = [*given, *changed_flags(FLAGS, ["--sigma", "2"])]
    refused(words, "made with other settings (sigma 3.0, now 2.0): name another --out", capsys)
    assert bytes_of(out) == bytes_of(whole)
    (out / "rollouts.npz").write_bytes(b"PK nothing")
    refused([*given, *FLAGS], "rollouts.npz is no table of rollouts", capsys)


def test_rollouts_without_probes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = made_by_hand()
    bare = RolloutTable(**(vars(table) | {"growth": table.growth[..., :0], "sizes": table.sizes[:0]}))
    (tmp_path / "a.npz").write_bytes(npz_bytes(bare.arrays(SETTINGS)))
    refused(["--read", str(tmp_path / "a.npz"), "--out", str(tmp_path / "out")], "made without probes", capsys)
    (tmp_path / "b.npz").write_bytes(npz_bytes(table.arrays({})))
    refused(["--read", str(tmp_path / "b.npz"), "--out", str(tmp_path / "out")], "made without probes", capsys)
    refused(["--read", str(tmp_path / "c.npz"), "--out", str(tmp_path / "out")], "no such file", capsys)


def test_damaged_figure_files(whole: Path, tmp_path: Path) -> None:
    for name, text, says in (
        ("summary.json", "{", "it is no JSON"),
        ("summary.json", "{}", "correlation_of_q_and_growth"),
        (f"{NAME}.csv", "a,b\n1,2\n", "panel"),
        (f"{NAME}.csv", "panel\n", "holds no accuracy"),
        (f"{NAME}.csv", f'{(whole / f"{NAME}.csv").read_text()}"', "a quote"),
    ):
        out = shutil.copytree(whole, tmp_path / f"{len(list(tmp_path.iterdir()))}")
        (out / name).write_text(text)
        with pytest.raises(UserError, match=says):
            read_figure(out)
