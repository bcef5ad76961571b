"""Time to accuracy: crossings against a brute-force reading, groups of seeds, what was not reached, files."""

import csv
import json
import random
import shutil
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from analysis.arms import time_to_accuracy
from analysis.arms.run_curves import CurvePoint, finished_by_end, lost_stretch, read_run, shared_settings
from analysis.arms.time_to_accuracy import crossing_of, draw, grouped, spread, table
from errors import UserError
from tests.helpers import refused_line, train_here
from training.settings.schema import ArchConfig, TrainConfig

FAST = "eval/fast/exact_accuracy"


def make_run(
    folder: Path, values: list[float | None], *, seed: int = 0, seconds: float = 2.0, every: int = 10, **config: Any
) -> Path:
    """A run evaluated every 10 updates on 256 rows, at 2 seconds, 64 rows and 1000 operations an update."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for index, value in enumerate(values, start=1):
        step = every * index
        spent = {"train/seconds": seconds * step, "train/samples": 64 * step, "train/flops": 1000.0 * step}
        lines.append({"step": step, "train/lm_loss": 1.0, **spent})
        counts = {"eval/fast/count": 256.0, "eval/fast/exact_count": None if value is None else 256 * value}
        lines.append({"step": step, **spent, FAST: value, **counts})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"seed": seed, "lr": 0.1, "arch": {"name": "trm", "L_layers": 2}, "checkpoint_path": str(folder)}
    provenance = {
        "config": settings | config, "seeds": {"seed": seed}, "git": {"commit": "c0ffee" * 7, "dirty": True},
        "cpu": "A CPU", "gpu": None, "num_threads": 2, "world_size": 1,
    }  # fmt: skip
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


def at(step: int, value: float) -> CurvePoint:
    return CurvePoint(step, 2.0 * step, value, 256)


def test_crossings_against_brute_force() -> None:
    """Every cut of every sequence is looked at, as the definition says."""
    rng = random.Random(0)
    seen = set()
    for _ in range(300):
        points = [at(step, rng.choice([0.25, 0.5, 0.75])) for step in range(1, rng.randint(2, 7))]
        crossing = crossing_of(points, 0.5)
        first = [point for point in points if point.value >= 0.5]
        stays = [points[i] for i in range(len(points)) if all(point.value >= 0.5 for point in points[i:])]
        assert crossing.first == (first[0] if first else None)
        assert crossing.stays == (stays[0] if stays else None)
        seen.add((crossing.first is None, crossing.stays is None, crossing.first == crossing.stays))
    assert seen == {(True, True, True), (False, True, False), (False, False, True), (False, False, False)}


@pytest.mark.parametrize(("axis", "scale"), [("seconds", 2.0), ("updates", 1.0), ("flops", 1000.0), ("samples", 64.0)])
def test_each_axis(axis: str, scale: float, tmp_path: Path) -> None:
    """A value that is not finite (null in the log) is no evaluation; the target itself is enough."""
    run = read_run(make_run(tmp_path / "run", [0.25, None, 0.5, 0.25, 0.75, 0.5]), FAST, axis)
    assert [point.step for point in run.points] == [10, 30, 40, 50, 60]
    crossing = crossing_of(run.points, 0.5)
    assert crossing.first == CurvePoint(30, scale * 30, 0.5, 256)
    assert crossing.stays == CurvePoint(50, scale * 50, 0.75, 256)


def test_an_update_logged_twice_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0.25, 0.5])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, "train/seconds": 41.0, FAST: 0.75, "eval/fast/count": 256}) + "\n")
    assert read_run(run, FAST, "seconds").points == [at(10, 0.25), CurvePoint(20, 41.0, 0.75, 256)]


def test_seeds_are_one_group_and_settings_another(tmp_path: Path) -> None:
    """Run control (folders, lengths, threads) makes no group of its own; nested settings do."""
    folders = [
        make_run(tmp_path / "a0", [0.5, 1.0]),
        make_run(tmp_path / "b0", [1.0], arch={"name": "trm", "L_layers": 3}),
        make_run(tmp_path / "a1", [1.0, 1.0], seed=1, max_steps=20, threads=2),
        make_run(tmp_path / "c0", [0.5], init_from="x.pt"),
        make_run(tmp_path / "a2", [0.5, 0.5, 1.0], seed=2),
        make_run(tmp_path / "c1", [0.5], seed=1, init_from="y.pt"),
    ]
    groups = grouped([read_run(folder, FAST, "updates") for folder in folders], 0.75)
    assert [[run.folder.name for run in group.runs] for group in groups] == [["a0", "a1", "a2"], ["b0"], ["c0", "c1"]]
    assert [group.label for group in groups] == [
        "TRM act_streaming",
        "TRM act_streaming (arch.L_layers=3)",
        "TRM act_streaming (init_from=given)",
    ]
    assert len({group.settings_sha256 for group in groups}) == 3
    assert [(group.median, group.low, group.high) for group in groups] == [(20, 10, 30), (10, 10, 10), (None,) * 3]
    assert [spread(group, "updates") for group in groups] == [
        "median 20 updates (10 updates to 30 updates), 3 of 3 seeds",
        "10 updates, 1 of 1 seed",
        "not reached, 0 of 2 seeds",
    ]


def test_a_seed_run_twice_is_one_seed(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, [1.0]) for name in ("a", "b")]
    (group,) = grouped([read_run(folder, FAST, "samples") for folder in folders], 0.75)
    assert spread(group, "samples") == "median 640 rows (640 rows to 640 rows), 2 of 2 runs of 1 seed"


def test_groups_of_runs_on_other_data_are_refused(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"a{seed}", [1.0], seed=seed) for seed in (0, 1)]
    for folder, digest in zip(folders, ("0a" * 32, "0b" * 32), strict=True):
        record = json.loads((folder / "provenance.json").read_text()) | {"datasets": {"judged_on": [digest]}}
        (folder / "provenance.json").write_text(json.dumps(record))
    runs = [read_run(folder, FAST, "samples") for folder in folders]
    assert len(grouped(runs[:1], 0.75)) == 1
    with pytest.raises(UserError, match="a0 and .*a1 were trained or judged on different data"):
        grouped(runs, 0.75)


@pytest.mark.parametrize(
    ("steps", "intervals", "lost"),
    [
        ([10, 20, 30], [10], None),
        ([5, 10, 20, 25], [10], None),
        ([20, 30], [10], (1, 19)),
        ([19, 20, 30], [10], (1, 18)),
        ([7, 10, 20, 31], [10], (21, 30)),
        ([10, 20, 30, 100], [10, 100], None),
        ([10, 20, 30, 200], [10, 100], (31, 199)),
        ([100], [None], None),
        ([100], [10, "10"], None),
    ],
)
def test_a_whole_log_has_a_line_at_every_interval(
    steps: list[int], intervals: list[Any], lost: tuple[int, int] | None
) -> None:
    sessions = [{"config": {"log_interval": interval}} for interval in intervals]
    assert lost_stretch(steps, {"sessions": sessions}) == lost
    assert lost_stretch(steps, {"sessions": []}) is None
    with_all = [*steps, *range(10, 200, 10)]
    assert lost_stretch(with_all, {"sessions": sessions}) is None


def test_a_log_without_its_beginning_is_refused(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its first evaluation at the target is not the run's."""
    run = tmp_path / "run"
    train_here("trm_mlp", sudoku6_folder, run, ["max_steps=16", "log_interval=4"])
    words = [str(run), "--metric=eval/accuracy", "--target=0.01"]
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    for kept, lost in ((lines[3:], "1 to 11"), (lines[:3] + lines[4:], "9 to 15")):
        log.write_text("".join(kept))
        line = refused_line(capsys, time_to_accuracy.main, words)
        assert line.startswith(
            f"error: {log} has no line of updates {lost}, so that when the run got where is not known: "
        )
    log.write_text("".join(lines))
    time_to_accuracy.main(words)


def test_a_run_that_began_in_another_folder_is_refused(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However early: its own log has a line at the first interval. Without its first sessions a whole log is whole."""
    parent, branch = tmp_path / "parent", tmp_path / "branch"
    train_here("trm_mlp", sudoku6_folder, parent, ["max_steps=3", "log_interval=10"])
    options = ["max_steps=16", "log_interval=10"]
    train_here("trm_mlp", sudoku6_folder, branch, [*options, f"resume={parent / 'final_state.pt'}"])
    line = refused_line(capsys, time_to_accuracy.main, [branch, "--metric=eval/accuracy", "--target=0.01"])
    assert line.startswith(f"error: {branch / 'metrics.jsonl'} has no line of updates 1 to 3, ")
    whole = tmp_path / "whole"
    train_here("trm_mlp", sudoku6_folder, whole, ["max_steps=12", "log_interval=10"])
    (whole / "provenance.json").unlink()
    train_here("trm_mlp", sudoku6_folder, whole, options)
    assert read_run(whole, "eval/accuracy", "updates").lost is None


def test_settings_that_count() -> None:
    """What a run's record lacks is at its default; what decides nothing, or differs from seed to seed, is left out."""
    config = {"seed": 3, "checkpoint_path": "x", "lr": 0.1, "arch": {"loss": {"name": "a"}}, "init_from": "w"}
    settings = shared_settings(config)
    assert (settings["lr"], settings["arch.loss.name"], settings["init_from"]) == (0.1, "a", "given")
    assert settings["arch.L_cycles"] == ArchConfig().L_cycles and "epochs" in settings
    left_out = {"seed", "checkpoint_path", "max_steps", "threads", "wandb.mode"}
    assert not left_out & settings.keys()
    whole = asdict(TrainConfig(lr=0.1, init_from="v"))
    whole["arch"]["loss"]["name"] = "a"
    assert shared_settings(whole) == settings
    flat = {"max_steps": None, "adaptive_halt": False, "vote": 1, "sigma": [], "sigma_grid": [0.1], "site": "both"}
    today = {"during": {"sigma_grid": [0.1]}, "perturbed_starts": {"starts": 2}}
    older = {"eval": flat | {"rollouts": 2}}
    assert shared_settings(older) == shared_settings({"eval": today}) != settings, "a run of before eval had sections"
    assert older == {"eval": flat | {"rollouts": 2}}


@pytest.mark.parametrize("missing", [0, 1, 2, 3, 4])
def test_runs_that_never_get_there_are_later_than_all_others(missing: int, tmp_path: Path) -> None:
    """The median is that of the crossings with a huge number for each run that has none."""
    steps = [10, 30, 20, 40][missing:]
    values = [[0.0] * (step // 10 - 1) + [1.0] for step in steps] + [[0.0, 0.5]] * missing
    folders = [make_run(tmp_path / f"r{seed}", accuracies, seed=seed) for seed, accuracies in enumerate(values)]
    (group,) = grouped([read_run(folder, FAST, "updates") for folder in folders], 0.75)
    expected = statistics.median([*map(float, steps), *[1e9] * missing])
    assert group.median == (expected if expected < 1e6 else None)
    assert group.low == (min(steps) if steps else None)
    assert group.high == (max(steps) if not missing else None)
    assert group.reached == 4 - missing
    lines = table([group], 0.75, "updates")
    assert sum("not reached in 20 updates" in line for line in lines) == missing
    if missing == 1:
        assert lines[-1] == "TRM act_streaming: median 35 updates (20 updates to not reached), 3 of 4 seeds"
    figure = draw([group], 0.75, FAST, "updates")
    (axes,) = figure.axes
    assert sum(line.get_linestyle() == "None" for line in axes.lines) == 4 - missing, "a dot per crossing"


def test_the_picture_holds_the_curves(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "a", [0.25, 0.8]), make_run(tmp_path / "b", [0.5, 0.6], lr=0.2)]
    figure = draw(grouped([read_run(folder, FAST, "seconds") for folder in folders], 0.75), 0.75, FAST, "seconds")
    (axes,) = figure.axes
    first, dot, _, second = axes.lines[:4]
    assert list(first.get_xdata()) == [20, 40] and list(first.get_ydata()) == [0.25, 0.8]
    assert list(dot.get_xdata()) == [40] and list(dot.get_ydata()) == [0.8]
    assert list(second.get_ydata()) == [0.5, 0.6] and second.get_color() != first.get_color()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    name = "TRM act_streaming"
    assert texts == [
        f"{name} (lr=0.1): 40.0 s, 1 of 1 seed", f"{name} (lr=0.2): not reached, 0 of 1 seed", "target 0.75",
    ]  # fmt: skip


def test_files_and_what_they_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        str(make_run(tmp_path / "a", [0.25, 0.8, 0.5, 0.9])),
        str(make_run(tmp_path / "b", [0.5, 0.6], seed=1)),
        str(make_run(tmp_path / "c", [0.9, 0.7], seed=2)),
    ]
    for name in ("out", "again"):
        time_to_accuracy.main([*runs, "--output-dir", str(tmp_path / name)])
    files = sorted((tmp_path / "out").glob("[!.]*"))
    kinds = ("csv", "json", "pdf", "png", "svg", "txt")
    assert [path.name for path in files] == [f"time_to_accuracy.{kind}" for kind in kinds]
    assert all(path.read_bytes() == (tmp_path / "again" / path.name).read_bytes() for path in files)
    rows = list(csv.DictReader((tmp_path / "out" / "time_to_accuracy.csv").open()))
    names = ("run", "seed", "first_step", "first_x", "stays_step", "stays_x", "last_x", "best_value", "first_rows")
    assert [[row[name] for name in names] for row in rows] == [
        ["a", "0", "20", "40.0", "40", "80.0", "80.0", "0.9", "256"],
        ["b", "1", "", "", "", "", "40.0", "0.6", ""],
        ["c", "2", "10", "20.0", "", "", "40.0", "0.9", "256"],
    ]
    record = json.loads((tmp_path / "out" / "time_to_accuracy.json").read_text())
    assert (record["target"], record["metric"], record["x"]) == (0.75, FAST, "seconds")
    (group,) = record["groups"]
    assert (group["median"], group["low"], group["high"], group["reached"], group["runs"]) == (40, 20, None, 2, 3)
    assert [point["value"] for point in record["runs"][0]["points"]] == [0.25, 0.8, 0.5, 0.9]
    caption = (tmp_path / "out" / "time_to_accuracy.txt").read_text()
    for words in (
        "n = 256 rows per evaluation; 3 runs in 1 group.", "seeds 0, 1, 2", "median 40.0 s (20.0 s to not reached)",
        "2 of 3 seeds", "b: not reached in 40.0 s (best 0.6000).", "c: below the target again", "c0ffeec0ffee+dirty",
        "1× A CPU (2 threads)", f"python analysis/arms/time_to_accuracy.py {runs[0]}", "--x=seconds",
    ):  # fmt: skip
        assert words in caption, words
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["run", "group", "seed", "first", "at", "0.75", "stays", "from", "best", "rows"]
    assert printed[1].split() == ["a", "TRM", "act_streaming", "0", "40.0", "s", "80.0", "s", "0.9000", "256"]
    assert printed[2].endswith("not reached in 40.0 s           -  0.6000   256")
    assert "lost again" in printed[3]


def test_a_real_log(sudoku6_folder: Path, tmp_path: Path) -> None:
    """Keys and files as runs write them; the figures go to the first run's folder, those of one axis."""
    runs = [tmp_path / "0", tmp_path / "1"]
    for seed, run in enumerate(runs):
        train_here("trm_mlp", sudoku6_folder, run, ["max_steps=16", f"seed={seed}"])
    for axis in time_to_accuracy.AXES:
        words = [*map(str, runs), "--metric=eval/accuracy", "--target=0.01", f"--x={axis}"]
        if (folder := runs[0] / "figures").exists():
            with pytest.raises(SystemExit):
                time_to_accuracy.main(words)
            words += ["--output-dir", str(folder := tmp_path / axis)]
        time_to_accuracy.main(words)
        record = json.loads((folder / "time_to_accuracy.json").read_text())
        assert len(record["groups"]) == 1 and record["groups"][0]["reached"] == 2
        assert [row["first_step"] for row in record["runs"]] == [8, 8] and record["runs"][0]["first_rows"] == 8


BAD = {
    "no folder": (["{tmp}/absent"], "has no metrics.jsonl"),
    "twice": (["{tmp}/run", "{tmp}/other/../run"], "is named twice"),
    "a copy": (["{tmp}/run", "{tmp}/copy"], "copy holds the same as "),
    "another metric": (["{tmp}/run", "--metric=eval/accuracy"], f"holds no eval/accuracy; it holds {FAST}"),
    "a loss": (["{tmp}/run", "--metric=eval/lm_loss"], "expected an accuracy"),
    "per cent": (["{tmp}/run", "--target=75"], "such as 0.75, found '75'"),
    "no number": (["{tmp}/run", "--target=nan"], "such as 0.75, found 'nan'"),
    "an early log": (["{tmp}/old"], "without train/seconds (by an earlier version); use --x updates"),
    "no provenance": (["{tmp}/bare"], "has no provenance.json"),
    "another provenance": (["{tmp}/other"], "holds no config and seeds"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("run", "old", "bare", "other"):
        make_run(tmp_path / name, [0.5])
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    (tmp_path / "old" / "metrics.jsonl").write_text(json.dumps({"step": 1, FAST: 0.5}) + "\n")
    (tmp_path / "bare" / "provenance.json").unlink()
    (tmp_path / "other" / "provenance.json").write_text('{"config": 3}')
    with pytest.raises(SystemExit) as caught:
        time_to_accuracy.main([argument.format(tmp=tmp_path) for argument in arguments])
    assert caught.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.glob("*/figures"))


@pytest.mark.parametrize(
    ("values", "ended"),
    [([0.4, 0.75], False), ([0.97, 0.9725], True), ([0.9, 0.8], True), ([0.5], None), ([0.0, 0.0], None)],
)
def test_whether_a_curve_had_become_flat(values: list[float], ended: bool | None) -> None:
    """Of 200 rows: the interval of 0.4 ends at 0.47, that of 0.97 at 0.99."""
    assert finished_by_end([CurvePoint(step, float(step), value, 200) for step, value in enumerate(values)]) is ended


def test_evaluations_over_an_unknown_number_of_rows_say_nothing() -> None:
    assert finished_by_end([CurvePoint(0, 0.0, 0.1, None), CurvePoint(1, 1.0, 0.9, None)]) is None
    assert finished_by_end([CurvePoint(0, 0.0, 0.1, -5), CurvePoint(1, 1.0, 0.9, -5)]) is None
