"""A run folder that is taken away stops the run; an end that cannot be written is no end."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import training.best_files
import training.loop
from errors import UserError
from tests.helpers import assert_same_state, read_state, train_here
from tests.training.test_disk_full_run import at_update
from training.records.status import StatusWriter
from training.run_log import RunLog
from training.storage.checkpoint import CheckpointWriteError
from training.storage.run_folder import FolderGone

OPTIONS = ["checkpoint_interval=2", "log_interval=1", "max_steps=10"]


@pytest.fixture(scope="module")
def whole(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train_here("trm_mlp", sudoku6_folder, folder, OPTIONS)
    return folder


def removed(run: Path) -> None:
    shutil.rmtree(run)


def moved(run: Path) -> None:
    run.rename(run.with_name("elsewhere"))


def replaced(run: Path) -> None:
    moved(run)
    run.mkdir()


@pytest.mark.parametrize("take_away", [removed, moved, replaced])
def test_the_first_save_that_finds_its_folder_gone_ends_the_run(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take_away: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    made: list[int] = []
    at_update(monkeypatch, {3: lambda: take_away(run)} | {n: lambda n=n: made.append(n) for n in range(4, 10)})
    with pytest.raises(FolderGone, match=r"another folder is in its place|it is no longer there"):
        train_here("trm_mlp", sudoku6_folder, run, OPTIONS)
    assert made == [], "update 4 was made, its save found no folder, and no update followed"
    assert list(run.iterdir()) == [] if take_away is replaced else not run.exists(), "nothing was made in its place"
    if take_away is not removed:
        assert read_state(tmp_path / "elsewhere")["step"] == 2


def test_a_run_whose_folder_is_put_back_goes_on(
    whole: Path, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_update(patch, {5: lambda: moved(run)})
        with pytest.raises(FolderGone):
            train_here("trm_mlp", sudoku6_folder, run, OPTIONS)
    (tmp_path / "elsewhere").rename(run)
    assert train_here("trm_mlp", sudoku6_folder, run, OPTIONS) == "done"
    assert_same_state(run, whole)


def refuse(patch: pytest.MonkeyPatch, name: str) -> None:
    """Let the disk refuse every file of this name."""
    save, summary = training.loop.save_weights, RunLog.summary

    def save_weights(path: Path, weights: Any) -> str:
        if path.name == name:
            raise CheckpointWriteError(f"could not write {path}: No space left on device")
        return save(path, weights)

    def write_summary(self: RunLog, run: Any, results: Any) -> None:
        if name == "summary.json":
            raise OSError(28, "No space left on device", str(run.folder.summary))
        summary(self, run, results)

    for module in (training.loop, training.best_files):
        patch.setattr(module, "save_weights", save_weights)
    patch.setattr(RunLog, "summary", write_summary)


@pytest.mark.parametrize("name", ["final.pt", "best.pt", "summary.json"])
def test_an_end_without_one_of_its_files_is_an_error(
    whole: Path, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:
        refuse(patch, name)
        with pytest.raises(UserError, match=rf"state at its end, update 10, but not everything else.*{name}"):
            train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"
    assert json.loads((tmp_path / "provenance.json").read_text())["sessions"][-1]["outcome"] == "failed"
    assert not (tmp_path / "summary.json").exists(), "else the same command would call it finished"
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS) == "done"
    if name != "best.pt":  # that of update 8 was refused too, and the state tells of it
        assert_same_state(tmp_path, whole)
    for file in ("final.pt", "best.pt", "summary.json"):
        assert (tmp_path / file).is_file()


def test_a_stale_final_is_not_taken_for_the_end(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS[:2], "max_steps=4"])
    before = (tmp_path / "final.pt").read_bytes()
    with monkeypatch.context() as patch:
        refuse(patch, "final.pt")
        with pytest.raises(UserError, match="final.pt"):
            train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS)
    assert (tmp_path / "final.pt").read_bytes() == before
    train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS)
    assert (tmp_path / "final.pt").read_bytes() != before


def test_a_device_in_place_of_final_weights_is_an_error(sudoku6_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "final.pt").symlink_to("/dev/null")
    with pytest.raises(UserError, match="a device is there"):
        train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS)
    assert os.readlink(tmp_path / "final.pt") == "/dev/null"


def test_a_pipe_in_place_of_the_newest_state_is_not_waited_for(
    whole: Path,
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    latest = tmp_path / "latest_state.pt"

    def to_pipe() -> None:
        latest.unlink()
        os.mkfifo(latest)

    at_update(monkeypatch, {3: to_pipe, 5: latest.unlink})
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS) == "done"
    assert f"could not write {latest}: a pipe is there" in capsys.readouterr().err
    assert_same_state(tmp_path, whole)


def test_the_last_word_of_a_run_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second file has no room, the first one's own bytes do."""
    path = tmp_path / "status.json"

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError), StatusWriter(path, interval_seconds=0) as status:
        assert json.loads(path.read_text())["state"] == "running"
        monkeypatch.setattr("training.records.status.write_json_atomically", full)
        assert status.update(global_step=3) is False
        assert json.loads(path.read_text())["global_step"] is None, "while it runs, a file is old or new"
        raise UserError("the disk is full")
    last = json.loads(path.read_text())
    assert last["state"] == "failed" and last["error"] == "UserError: the disk is full" and last["global_step"] == 3
    # A file that an archive shares is left alone: it tells of the archive's moment.
    os.link(path, tmp_path / "archived")
    before = path.read_bytes()
    assert status.event(state="done") is False and path.read_bytes() == before
