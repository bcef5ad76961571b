"""What every run leaves in its folder, and what watches over it: reports, baselines, guards, gates, archive."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.loop
from dataset.eval_batches import row_hashes
from errors import UserError
from tests.helpers import (
    assert_same_state,
    differences,
    logged,
    logged_training,
    read_state,
    tiny_config,
    train_here,
)
from tests.training.states import as_of_older_code
from training.records.metrics_log import read_metrics
from training.records.status import StatusWriter
from training.scoring import Scoring
from training.settings.identity import config_hash
from training.setup import open_evaluation_rows
from training.storage.checkpoint import load_state, save_latest, save_weights
from training.storage.weights import load_weights
from training.validation import ValidationRecord

SCORE = Callable[[int, str], float]


def score_as(monkeypatch: pytest.MonkeyPatch, value_of: SCORE) -> list[tuple[int, str]]:
    """Let `value_of(step, name)` decide every exact accuracy; returns the list of evaluations, as they come."""
    original, calls = Scoring._score, []

    def score(self: Scoring, rows_of: Any, model: Any, name: str, *more: Any) -> dict[str, float]:
        result = original(self, rows_of, model, name, *more)
        calls.append((self.run.step, name))
        value = value_of(self.run.step, name)
        return result | {"exact_accuracy": value, "exact_count": value * result["count"]}

    monkeypatch.setattr(Scoring, "_score", score)
    return calls


def read_json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


# -- status.json


def test_status_is_current_at_each_event_and_always_parseable(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, Any]] = []
    original = StatusWriter._write

    def write(self: StatusWriter) -> bool:
        result = original(self)
        written.append(read_json(self.path))
        return result

    monkeypatch.setattr(StatusWriter, "_write", write)
    options = ["max_steps=20", "fast_eval_interval=6", "status_interval_seconds=1000"]
    train_here("trm_att", sudoku6_folder, tmp_path, options)
    # The start, before and after each of 6, 8, 12, 16, 18 and their saves, the last save and evaluation, the end.
    assert len(written) < 25, "an update alone writes nothing before the interval has passed"
    assert [status["state"] for status in written[:4]] == ["running", "eval", "running", "running"]
    assert {status["global_step"] for status in written} >= {0, 6, 8, 12, 16, 18, 20}
    assert written[-1]["state"] == "done" and read_json(tmp_path / "status.json") == written[-1]
    names = """schema_version state pid timestamp_utc run_id epoch global_step update_step micro_step samples_seen
        lr grad_norm clip_events last_fast_eval_step last_full_eval_step last_ckpt best best_eval_acc best_eval_step
        git_sha config_hash error total_steps steps_per_sec samples_per_sec eta_sec eta_to_next_fast_eval_sec
        eta_to_next_full_eval_sec"""
    assert all(set(names.split()) <= status.keys() for status in written)
    middle = next(status for status in written if status["global_step"] == 12)
    assert middle["total_steps"] == 20 and middle["samples_seen"] == 96 and middle["epoch"] == 1.5
    assert middle["eta_sec"] > 0 and middle["steps_per_sec"] > 0 and middle["lr"] == 1e-3
    assert middle["best_eval_step"] == 6 and middle["best"]["metric"] == "eval/validation/exact_accuracy"
    assert middle["last_ckpt"] == "latest_state.pt"
    assert middle["config_hash"] == config_hash(tiny_config("trm_att", sudoku6_folder, tmp_path, options))


def test_status_follows_the_interval(sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interval 0: every update is written, parseable at each."""
    original = training.loop.train_on_batch
    seen: list[int] = []

    def look(run: Any, batch: Any, *, stop_requested: bool) -> Any:
        seen.append(read_json(tmp_path / "status.json")["global_step"])
        return original(run, batch, stop_requested=stop_requested)

    monkeypatch.setattr(training.loop, "train_on_batch", look)
    train_here("trm_mlp", sudoku6_folder, tmp_path, ["max_steps=6", "status_interval_seconds=0"])
    assert seen == [0, 1, 2, 3, 4, 5]


def test_a_crash_is_recorded(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception ends as `failed`, and the lines logged after the state are dropped, then made again."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = ["max_steps=10", "checkpoint_interval=4"]
    train_here("trm_mlp", sudoku6_folder, whole, options)
    original = training.loop.train_on_batch

    def crash(run: Any, batch: Any, *, stop_requested: bool) -> Any:
        if run.step == 7:
            raise RuntimeError("out of\nmemory")
        return original(run, batch, stop_requested=stop_requested)

    with monkeypatch.context() as patch:
        patch.setattr(training.loop, "train_on_batch", crash)
        with pytest.raises(RuntimeError):
            train_here("trm_mlp", sudoku6_folder, run, options)
    status = read_json(run / "status.json")
    assert status["state"] == "failed" and status["error"] == "RuntimeError: out of memory"
    assert [line["step"] for line in logged_training(run)] == list(range(1, 8))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "torn')
    capsys.readouterr()
    train_here("trm_mlp", sudoku6_folder, run, options)
    assert "metrics.jsonl: dropped 4 lines written after update 4" in capsys.readouterr().out
    assert logged(run) == logged(whole)
    sessions = read_json(run / "provenance.json")["sessions"]
    assert [session["outcome"] for session in sessions] == ["failed", "done"]
    assert [session["start_step"] for session in sessions] == [0, 4]


# -- metrics.jsonl, provenance.json, summary.json


def test_rates_norms_and_clips_are_logged(sudoku6_folder: Path, tmp_path: Path) -> None:
    options = ["max_steps=8", "grad_clip_norm=0.2", "lr_min_ratio=0.1", "log_interval=2"]
    train_here("trm_att", sudoku6_folder, tmp_path, options)
    lines = [line for line in logged_training(tmp_path) if "event" not in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert [line["train/lr"] for line in lines][0] == pytest.approx(5e-4), "warm-up over 4 updates"
    cosine = 1e-3 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (8 - 4) / (32 - 4))))
    assert lines[-1]["train/lr"] == pytest.approx(cosine)
    clips = [line for line in logged_training(tmp_path) if line.get("event") == "clip"]
    assert [line["step"] for line in clips] == list(range(1, 9))
    assert all(line["train/grad_norm"] > 0.2 for line in clips), "the norm is that before clipping"
    assert read_json(tmp_path / "status.json")["clip_events"] == 8


def test_provenance_of_two_sessions(sudoku6_folder: Path, tmp_path: Path) -> None:
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=3"])
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=5"])
    record = read_json(tmp_path / "provenance.json")
    first, second = record["sessions"]
    assert (first["start_step"], first["end_step"]) == (0, 3)
    assert (second["start_step"], second["end_step"]) == (3, 5)
    assert first["outcome"] == second["outcome"] == record["outcome"] == "done"
    assert record["argv"] and record["config"]["global_batch_size"] == 8
    config = tiny_config("trm_att", sudoku6_folder, tmp_path, ["max_steps=5"])
    assert record["config_hash"] == second["config_hash"] == config_hash(config)
    assert record["git"].keys() >= {"commit", "dirty", "diff", "diff_sha256"}
    assert record["datasets"]["data"] and record["datasets"]["seed"] == 0
    assert record["versions"]["torch"] == torch.__version__ and record["versions"]["numpy"] == np.__version__
    assert record["device"] == "cpu" and record["num_threads"] == 1 and record["world_size"] == 1
    assert record["seeds"] == {"seed": 0} and second["peak_memory"]["rss_bytes"] > 1e6


def test_summary_has_peak_and_final_with_denominators(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is best at update 16; test numbers of both weights come from rows that chose neither."""
    score_as(monkeypatch, lambda step, name: 0.5 if step == 16 else 0.25)
    train_here("trm_att", sudoku6_folder, tmp_path, ["fast_validation_size=8", "max_test_rows=20"])
    summary = read_json(tmp_path / "summary.json")
    best, final = summary["best"], summary["final"]
    assert (best["step"], best["value"], best["numerator"], best["denominator"]) == (16, 0.5, 4, 8)
    assert (final["step"], final["value"], final["numerator"], final["denominator"]) == (32, 0.25, 2, 8)
    for which, step in (("best", 16), ("final", 32)):
        test = summary["test"][which]
        assert test["step"] == step and test["denominator"] == 20 and test["numerator"] == 5
        assert test["metric"] == "test/exact_accuracy" and test["value"] == 0.25
        assert math.isfinite(test["lm_loss"]) and test["supervision_steps"] == 4
    assert summary["test"]["best"]["lm_loss"] != summary["test"]["final"]["lm_loss"]
    assert summary["steps"] == 32 == summary["planned_steps"] and summary["num_params"] > 1000
    assert summary["baselines"].keys() == {"copy_input", "most_frequent_token", "constant", "copy_givens"}
    assert differences(load_weights(tmp_path / "best.pt"), load_weights(tmp_path / "step_16")) == []
    assert load_state(tmp_path / "best_state.pt")["step"] == 16
    last = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "test/final/value" in line]
    assert len(last) == 1 and last[0]["test/best/denominator"] == 20


def test_no_secret_of_the_environment_is_written(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "b7c1-not-for-files-44e0"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("SOME_TOKEN", secret)
    train_here("trm_mlp", sudoku6_folder, tmp_path, ["max_steps=2"])
    assert tiny_config("trm_mlp", sudoku6_folder, tmp_path).wandb.mode == "disabled"
    assert "wandb" not in sys.modules, "imported only when asked for"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8 and not any(secret.encode() in path.read_bytes() for path in files)


# -- validation rows, baselines, guards


def test_rows_that_choose_never_report(sudoku6_folder: Path, tmp_path: Path) -> None:
    config = tiny_config("trm_att", sudoku6_folder, tmp_path, ["max_test_rows=null"])
    (rows,) = open_evaluation_rows(config)
    assert len(rows.validation) == 8 and len(rows.fast) == 4 and len(rows.test) == 32
    assert set(rows.fast) < set(rows.validation) and not set(rows.validation) & set(rows.test)
    assert len(np.unique(row_hashes(rows.puzzle_set))) == 40, "nor does the same puzzle under another index"


def test_baselines_stand_beside_the_first_evaluation_only(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=24"])
    lines = capsys.readouterr().out.splitlines()
    shown = [index for index, line in enumerate(lines) if line.startswith("trivial baselines")]
    assert len(shown) == 1 and lines[shown[0] + 1].startswith("update 8: validation exact_accuracy")
    assert "copy_input" in lines[shown[0]] and "most_frequent_token" in lines[shown[0]]
    assert "/8, 95%" in lines[shown[0] + 1]
    (rows,) = open_evaluation_rows(tiny_config("trm_att", sudoku6_folder, tmp_path))
    inputs, labels = rows.puzzle_set.read_rows(rows.validation)
    baselines = read_json(tmp_path / "summary.json")["baselines"]
    assert baselines["copy_input"]["accuracy"] == pytest.approx(float((inputs == labels).mean()))
    assert baselines["copy_input"]["exact_accuracy"] == 0.0


@pytest.fixture(scope="module")
def collapsed(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a model that gives the same answer to everything."""
    folder = tmp_path_factory.mktemp("collapsed")
    train_here("trm_mlp", sudoku6_folder, folder, ["max_steps=1"])
    weights = load_weights(folder / "final.pt")
    weights["lm_head.weight"] = torch.zeros_like(weights["lm_head.weight"])
    save_weights(folder / "constant.pt", weights)
    return folder / "constant.pt"


FROZEN = ["lr=0", "puzzle_emb_lr=0", "fast_eval_interval=4", "max_steps=16"]


def test_a_collapsed_model_is_told_once_armed(
    collapsed: Path, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*FROZEN, f"init_from={collapsed}", "guards.after_updates=10"]
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, options) == "done"
    lines = [line for line in capsys.readouterr().err.splitlines() if "collapsed" in line]
    steps = {int(line.removeprefix("warning: update ").split(":")[0]) for line in lines}
    assert steps == {12, 16}, "not at 4 and 8: not yet armed"
    for name in ("guard/input_sensitivity=0", "guard/unique_pred_tokens=1", "guard/margin_over_baselines=-"):
        assert name in lines[0]
    logged = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "guard/input_sensitivity" in line]
    assert [line["step"] for line in logged][:4] == [4, 8, 12, 16] and logged[0]["guard/input_sensitivity"] == 0


def test_a_collapsed_model_may_end_the_run(collapsed: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    options = [*FROZEN, f"init_from={collapsed}", "guards.after_updates=10", "guards.mode=abort"]
    with pytest.raises(UserError, match="update 12: the model may have collapsed.*guards.mode=warn"):
        train_here("trm_mlp", sudoku6_folder, tmp_path, options)
    assert read_json(tmp_path / "status.json")["state"] == "failed"
    assert read_state(tmp_path)["step"] == 8
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, [*options, "guards.mode=off"]) == "done"


def test_a_model_that_looks_trips_only_the_margin(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here("trm_mlp", sudoku6_folder, tmp_path, ["max_steps=8", "guards.after_updates=0"])
    lines = [line for line in capsys.readouterr().err.splitlines() if "collapsed" in line]
    assert len(lines) == 1 and "margin_over_baselines" in lines[0] and "input_sensitivity" not in lines[0]


# -- when to evaluate fully, when to stop

# fast values, settings -> at which of them a full evaluation follows
GATES = {
    "first and last only": ([0.5, 0.4, 0.3, 0.2], {"force_every": 9}, "1001"),
    "each gain": ([0.1, 0.2, 0.3, 0.4], {"force_every": 9}, "1111"),
    # After the bad value 0.1, the value 0.2 is a gain on the one before and none on the best.
    "a gain is one on the best": ([0.3, 0.1, 0.2, 0.3, 0.31, 0.0], {"force_every": 9}, "100011"),
    "a tie is no gain": ([0.0, 0.0, 0.0, 0.0], {"force_every": 9}, "1001"),
    "forced every third": ([0.5] * 8, {"force_every": 3}, "10010011"),
    "a gain restarts the count": ([0.5, 0.5, 0.6, 0.5, 0.5, 0.5, 0.5], {"force_every": 3}, "1010011"),
    "small gains": ([0.10, 0.11, 0.12, 0.16, 0.2], {"force_every": 9, "delta": 0.05}, "10011"),
    # Below delta a gain opens nothing, and the best fast value stays: gains add up.
    "gains add up": ([0.10, 0.13, 0.16, 0.1], {"force_every": 9, "delta": 0.05}, "1011"),
}


@pytest.mark.parametrize(("values", "settings", "expected"), GATES.values(), ids=GATES.keys())
def test_gate_of_full_validation(values: list[float], settings: dict[str, Any], expected: str) -> None:
    """The same sequence straight, and saved and loaded before every step."""
    straight = ValidationRecord(**settings)
    opened = {True: "", False: ""}
    state = ValidationRecord(**settings).state_dict()
    for index, value in enumerate(values):
        last = index == len(values) - 1
        reloaded = ValidationRecord(**settings)
        reloaded.load_state_dict(json.loads(json.dumps(state)))
        for record, key in ((straight, True), (reloaded, False)):
            full = record.wants_full(value, index, last=last)
            opened[key] += str(int(full))
            if full:
                record.note_full(value, int(100 * value), 100, index)
        state = reloaded.state_dict()
    assert opened == {True: expected, False: expected}


# full values, patience -> best index, index at which the run is stopped
PATIENCE = {
    "never without patience": ([0.5, 0.4, 0.3, 0.2], None, 0, None),
    "two without gain": ([0.1, 0.3, 0.2, 0.25, 0.5], 2, 1, 3),
    "a gain restarts": ([0.1, 0.05, 0.2, 0.1, 0.1], 2, 2, 4),
    "a tie is no gain": ([0.2, 0.2], 1, 0, 1),
}


@pytest.mark.parametrize(("values", "patience", "best", "end"), PATIENCE.values(), ids=PATIENCE.keys())
def test_patience(values: list[float], patience: int | None, best: int, end: int | None) -> None:
    record = ValidationRecord(patience=patience)
    stopped = None
    for index, value in enumerate(values):
        improved = record.note_full(value, 0, 1, index)
        assert record.best is not None and improved == (record.best.step == index)
        if record.exhausted:
            stopped = index
            break
    assert stopped == end and record.best is not None and record.best.step == best


def test_full_validation_in_a_run(sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {8: 0.5, 16: 0.25, 24: 0.75, 32: 0.25, 40: 0.25, 48: 0.25}
    calls = score_as(monkeypatch, lambda step, name: fast[step])
    train_here("trm_mlp", sudoku6_folder, tmp_path, ["epochs=6", "force_full_eval_every=2"])
    assert [step for step, name in calls if name == "fast validation"][:6] == [8, 16, 24, 32, 40, 48]
    assert [step for step, name in calls if name == "validation"] == [8, 24, 40, 48]


def test_early_stop_is_an_end(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted on full validations; the same command leaves it so, more patience goes on."""
    calls = score_as(monkeypatch, lambda step, name: 1.0 - step / 100)
    options = ["epochs=8", "early_stop_patience=2", "fast_validation_size=8"]
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, options) == "done"
    summary = read_json(tmp_path / "summary.json")
    assert summary["steps"] == 24 and summary["best"]["step"] == 8
    assert [step for step, name in calls if name != "test"] == [8, 16, 24]
    capsys.readouterr()
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, options) == "done"
    assert "finished at update 24" in capsys.readouterr().out
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, [*options, "early_stop_patience=3"]) == "done"
    assert read_json(tmp_path / "summary.json")["steps"] == 32


def test_keep_last(sudoku6_folder: Path, tmp_path: Path) -> None:
    train_here("trm_mlp", sudoku6_folder, tmp_path, ["epochs=8", "max_steps=60", "keep_last=2"])
    assert {path.name for path in tmp_path.glob("step_*")} == {"step_48", "step_56"}
    assert load_weights(tmp_path / "step_56").keys() == load_weights(tmp_path / "final.pt").keys()
    train_here("trm_mlp", sudoku6_folder, tmp_path / "none", ["max_steps=17", "checkpoint_every_eval=False"])
    assert not list((tmp_path / "none").glob("step_*")) and (tmp_path / "none" / "best.pt").exists()


# -- the archive of the best


def test_a_new_best_is_archived_whole(sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score_as(monkeypatch, lambda step, name: {8: 0.25, 16: 0.5, 20: 0.25, 24: 0.25, 32: 0.5}[step])
    diff = {"commit": "abc123", "dirty": True, "diff": "- old\n+ new\n", "diff_sha256": "d1", "untracked": []}
    monkeypatch.setattr("training.records.provenance.describe_git", lambda root: dict(diff))
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=20"])
    monkeypatch.setattr("training.best_archive.LOG_LINES", 5)
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=32"])
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step_16"]
    archive = tmp_path / "best" / "step_16"
    assert (archive / "weights.pt").samefile(tmp_path / "best.pt")
    assert (archive / "state.pt").samefile(tmp_path / "best_state.pt")
    assert differences(load_weights(archive / "weights.pt"), load_weights(tmp_path / "step_16")) == []
    assert load_state(archive / "state.pt")["step"] == 16
    described = read_json(archive / "archive.json")
    assert (described["step"], described["value"], described["denominator"]) == (16, 0.5, 8)
    assert described["metrics"]["eval/validation/exact_accuracy"] == 0.5
    assert "guard/input_sensitivity" in described["metrics"]
    config = tiny_config("trm_att", sudoku6_folder, tmp_path, ["max_steps=20"])
    assert described["config_hash"] == config_hash(config) and described["commit"] == "abc123"
    assert (archive / "git_diff.patch").read_text() == "- old\n+ new\n"
    status = read_json(archive / "status.json")
    assert status["global_step"] == 16 and status["best_eval_step"] == 16
    assert max(line["step"] for line in read_metrics(archive / "metrics.jsonl")) == 16
    assert "global_batch_size: 8" in (archive / "all_config.yaml").read_text()


def test_archives_kept_and_left_out(sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score_as(monkeypatch, lambda step, name: step / 100)
    monkeypatch.setattr("training.best_archive.LOG_LINES", 3)
    train_here("trm_mlp", sudoku6_folder, tmp_path / "two", ["archive_keep=2"])
    assert sorted(path.name for path in (tmp_path / "two" / "best").iterdir()) == ["step_24", "step_32"]
    assert len(list(read_metrics(tmp_path / "two" / "best" / "step_32" / "metrics.jsonl"))) == 3
    train_here("trm_mlp", sudoku6_folder, tmp_path / "none", ["archive_best=False"])
    assert not (tmp_path / "none" / "best").exists() and (tmp_path / "none" / "best.pt").exists()


@pytest.mark.parametrize(("archive_best", "older_code"), [(True, False), (False, False), (False, True)])
def test_an_end_between_evaluations_is_undone_when_the_run_goes_on(
    archive_best: bool, older_code: bool, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Update 11 is the best of a run that ends there; the run made longer never evaluates it."""
    score_as(monkeypatch, lambda step, name: {8: 0.25, 11: 0.75, 13: 0.125, 16: 0.5, 22: 0.125}[step])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [f"archive_best={archive_best}"]
    train_here("trm_mlp", sudoku6_folder, parts, [*options, "max_steps=11"])
    assert read_json(parts / "summary.json")["best"]["step"] == 11
    assert load_state(parts / "best_state.pt")["step"] == 11
    assert differences(load_weights(parts / "best.pt"), load_weights(parts / "final.pt")) == []
    if older_code:
        as_of_older_code(parts)
    train_here("trm_mlp", sudoku6_folder, parts, [*options, "max_steps=13"])
    summary = read_json(parts / "summary.json")
    assert summary["best"]["step"] == 8 == summary["test"]["best"]["step"]
    assert load_state(parts / "best_state.pt")["step"] == 8
    assert differences(load_weights(parts / "best.pt"), load_weights(parts / "step_8")) == []
    for folder in (whole, parts):
        train_here("trm_mlp", sudoku6_folder, folder, [*options, "max_steps=22"])
    assert_same_state(parts, whole)
    names = {path.relative_to(parts) for path in parts.rglob("*")}
    assert names == {path.relative_to(whole) for path in whole.rglob("*")}
    for folder in (whole, parts):
        assert read_json(folder / "summary.json")["best"]["step"] == 16
        assert differences(load_weights(folder / "best.pt"), load_weights(folder / "step_16")) == []


def test_a_best_state_branches_with_its_best(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder that goes on from a best state has that best, its weights included."""
    score_as(monkeypatch, lambda step, name: {8: 0.75, 16: 0.5, 12: 0.25}[step])
    train_here("trm_mlp", sudoku6_folder, tmp_path / "run", ["max_steps=16"])
    source = tmp_path / "run" / "best_state.pt"
    branch = tmp_path / "branch"
    train_here("trm_mlp", sudoku6_folder, branch, ["max_steps=12", f"resume={source}"])
    assert read_json(branch / "summary.json")["test"]["best"]["step"] == 8
    assert differences(load_weights(branch / "best.pt"), load_weights(tmp_path / "run" / "step_8")) == []
    assert (branch / "best" / "step_8" / "weights.pt").exists()


@pytest.mark.parametrize("kept", ["archive", "step_8", "nothing"])
def test_a_damaged_state_gives_way_to_one_of_another_best(
    kept: str, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of update 13 knows the best of update 8, and `best.pt` is that of update 16."""
    score_as(monkeypatch, lambda step, name: {8: 0.5, 16: 0.75}.get(step, 0.25))
    options = ["archive_keep=2", "checkpoint_interval=13"]
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*options, "max_steps=16"])
    first, later = load_weights(tmp_path / "step_8"), load_weights(tmp_path / "best.pt")
    (tmp_path / "latest_state.pt").write_bytes(b"damaged")
    if kept != "archive":
        shutil.rmtree(tmp_path / "best" / "step_8")
    if kept != "step_8":
        (tmp_path / "step_8").unlink()
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*options, "max_steps=13"])
    best = read_json(tmp_path / "summary.json")["best"]["step"]
    assert best == (13 if kept == "nothing" else 8)
    expected = load_weights(tmp_path / "final.pt") if kept == "nothing" else first
    assert differences(load_weights(tmp_path / "best.pt"), expected) == []
    aside = [load_weights(path) for path in tmp_path.glob("best_????????????.pt")]
    assert len(aside) == (kept == "nothing") and all(differences(one, later) == [] for one in aside)


@pytest.mark.parametrize("saved", [False, True])
def test_a_kill_around_the_save_of_a_new_best_leaves_the_best_of_the_state(
    saved: bool, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between `best.pt` and the state that knows it, and between that state and the end of the save."""
    score_as(monkeypatch, lambda step, name: {8: 0.5, 16: 0.75}.get(step, 0.25))
    options = ["archive_best=False", "checkpoint_every_eval=False", "checkpoint_interval=13"]

    def killed(*arguments: Any) -> None:
        step = load_state(tmp_path / "latest_state.pt")["step"] if saved else arguments[1]["step"]
        if step == 16:
            raise KeyboardInterrupt
        if not saved:
            save_latest(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("training.loop.drop_spares" if saved else "training.loop.save_latest", killed)
        train_here("trm_mlp", sudoku6_folder, tmp_path, [*options, "max_steps=20"])
    state = load_state(tmp_path / "latest_state.pt")
    assert (state["step"], state["validation"]["best"]["step"]) == ((16, 16) if saved else (13, 8))
    end = 16 if saved else 15
    for folder in (tmp_path, tmp_path / "whole"):
        train_here("trm_mlp", sudoku6_folder, folder, [*options, f"max_steps={end}"])
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "whole" / "best.pt").read_bytes()
    best = read_json(tmp_path / "summary.json")["test"]["best"]
    assert best == read_json(tmp_path / "whole" / "summary.json")["test"]["best"]
