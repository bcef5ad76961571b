"""Numbers are told by the session that they are of, and rest on all that trained or judged."""

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.arms.finished_runs import read_finished
from analysis.arms.run_curves import provenance_of
from analysis.arms.training_curve import caption, read_curves
from dataset.puzzle_folder import fingerprint
from errors import UserError
from scripts.record_sources import gathered
from tests.dataset.folders import make_folder
from tests.helpers import train_here
from training.records.run_sessions import numbers_of, sessions_of
from training.storage.run_folder import RunFolder

FEWER_STEPS = ["eval.max_steps=1", "evaluators=[]"]


def session(name: str, start: int, end: int | None, outcome: str | None, **more: Any) -> dict[str, Any]:
    return {"argv": [name], "start_step": start, "end_step": end, "outcome": outcome, **more}


def names(provenance: dict[str, Any], logged: int) -> list[str]:
    return [one["argv"][0] for one in sessions_of([numbers_of(provenance, logged)])]


def test_sessions_that_did_nothing_are_left_out() -> None:
    whole = [
        session("ended", 0, 4, "done"), session("stopped", 4, 7, "stopped"), session("killed", 7, None, None),
        session("killed at its start", 9, None, None), session("stopped at its start", 9, 9, "stopped"),
        session("judged", 9, 9, "done"), session("killed at last", 9, None, None),
    ]  # fmt: skip
    provenance = {"argv": ["ended"], "config": {"lr": 1}, "datasets": {"train": "a"}, "sessions": whole}
    assert names(provenance, 9) == ["ended", "stopped", "killed", "judged"]
    assert names(provenance, 10)[-1] == "killed at last", "its log says that it made an update"
    assert names(provenance | {"sessions": whole[3:4]}, 0) == ["killed at its start"], "the only one there is"
    assert names({"argv": ["bare"]}, 0) == ["bare"]


def test_what_a_session_does_not_repeat_is_that_of_the_first() -> None:
    first = session("a", 0, 4, "done")
    later = session("b", 4, 8, "done", config={"lr": 1, "eval": 3})
    record = {"argv": ["a"], "config": {"lr": 1}, "datasets": {"train": "x"}, "sessions": [first, later]}
    found = numbers_of(record, 8)
    assert (found["argv"], found["config"], found["datasets"]) == (["b"], {"lr": 1, "eval": 3}, {"train": "x"})
    assert [one["config"] for one in found["sessions"]] == [{"lr": 1}, {"lr": 1, "eval": 3}]


@pytest.fixture
def went_on(sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 4 updates that went on to 8 with other judging on other test data."""
    make_folder(tmp_path / "other", puzzles_per_group=[1] * 30, examples_per_puzzle=[1] * 30, split="test", box=(2, 3))
    other = [f"data_paths_test=[{tmp_path / 'other'}]", *FEWER_STEPS]
    for options in (["max_steps=4"], ["max_steps=8", *other]):
        monkeypatch.setattr("sys.argv", ["pretrain.py", *options])
        train_here("trm_mlp", sudoku6_folder, tmp_path / "run", options)
    return tmp_path / "run"


def test_a_run_that_went_on_is_told_by_its_last_session(went_on: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    other = f"data_paths_test=[{tmp_path / 'other'}]"
    train_here("trm_mlp", sudoku6_folder, twin, ["max_steps=8", other, *FEWER_STEPS, "seed=1"])
    assert read_finished(went_on).settings == read_finished(twin).settings
    found = gathered([went_on])
    assert found["config_hashes"] == [json.loads((went_on / "status.json").read_text())["config_hash"][:12]]
    assert [command.split()[2] for command in found["commands"]] == ["max_steps=4", "max_steps=8"]
    assert found["dataset_hashes"] == gathered([twin])["dataset_hashes"]
    assert fingerprint(tmp_path / "other", "test")[:12] in found["dataset_hashes"]
    assert fingerprint(sudoku6_folder, "test")[:12] not in found["dataset_hashes"]
    _, config, _ = provenance_of(RunFolder(went_on))
    assert config["eval"]["max_steps"] == 1 and config["data_paths_test"] == [str(tmp_path / "other")]
    said = caption(went_on, read_curves(went_on), "x")
    assert "Run: python pretrain.py max_steps=4, then python pretrain.py max_steps=8 '" in said


def test_a_commit_of_any_session_is_recorded(went_on: Path) -> None:
    path = went_on / "provenance.json"
    provenance = json.loads(path.read_text())
    provenance["sessions"][-1]["git"] |= {"commit": "b" * 40, "dirty": True}
    path.write_text(json.dumps(provenance))
    assert gathered([went_on])["commits"][-1] == "b" * 12 + "+dirty" and len(gathered([went_on])["commits"]) == 2


def test_a_run_that_has_gone_on_since_its_summary_is_no_record(went_on: Path) -> None:
    with (went_on / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"step": 9, "train/lr": 0.1}) + "\n")
    with pytest.raises(UserError, match="was summed up at update 8 and has gone on to 9"):
        gathered([went_on])
