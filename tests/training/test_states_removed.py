"""A folder whose states were removed, to save space, still holds a run: no other begins there."""

import json
import shutil
from pathlib import Path

import pytest

import training.loop
from errors import UserError
from tests.helpers import assert_same_state, differences, logged_training, train_here
from training.storage.run_folder import RunFolder
from training.storage.start_decision import decide_start
from training.storage.weights import load_weights

OPTIONS = ["max_steps=4", "fast_eval_interval=2", "checkpoint_every_fast_eval=True"]


@pytest.fixture(scope="module")
def trained(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_here("trm_mlp", sudoku6_folder, folder, OPTIONS)
    return folder


@pytest.fixture
def without_states(trained: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for path in RunFolder(folder).states:
        path.unlink()
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "options",
    [[], ["lr=2e-2"], ["max_steps=9"], ["resume=never"], ["resume=must"], ["init_from={run}/best.pt"],
     ["resume={trained}/final_state.pt"]],
    ids=str,
)  # fmt: skip
def test_no_run_begins_there(options: list[str], without_states: Path, trained: Path, sudoku6_folder: Path) -> None:
    before = contents(without_states)
    words = [option.format(run=without_states, trained=trained) for option in options]
    with pytest.raises(UserError, match=r"holds a run \(final.pt, best.pt.*name another checkpoint_path, move the"):
        train_here("trm_mlp", sudoku6_folder, without_states, [*OPTIONS, *words])
    assert contents(without_states) == before


def test_it_goes_on_once_a_state_is_back(without_states: Path, trained: Path, sudoku6_folder: Path) -> None:
    shutil.copy(trained / "latest_state.pt", without_states)
    train_here("trm_mlp", sudoku6_folder, without_states, [*OPTIONS, "max_steps=5"])
    assert json.loads((without_states / "summary.json").read_text())["steps"] == 5


@pytest.mark.parametrize(
    "kept", ["final.pt", "best.pt", "best", "summary.json", "test_rows.json", "step_2", "metrics.jsonl"]
)
def test_any_one_of_its_results_is_enough(kept: str, trained: Path, tmp_path: Path) -> None:
    """With the status of the run beside it, or without."""
    (tmp_path / "run").mkdir()
    source = trained / kept
    (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / "run" / kept)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"holds a run \({kept}\) but none of its states"):
            decide_start(tmp_path / "run")
        shutil.copy(trained / "status.json", tmp_path / "run")


def test_settings_alone_are_no_results(trained: Path, tmp_path: Path) -> None:
    for name in ("all_config.yaml", "status.json", "provenance.json", "weights.json"):
        shutil.copy(trained / name, tmp_path)
    assert decide_start(tmp_path).kind == "scratch"


class Killed(BaseException):
    pass


def test_a_run_killed_between_its_first_evaluation_and_its_first_state_begins_anew(
    trained: Path, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training.loop, "save_latest", killed)
        train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS)
    assert (tmp_path / "best.pt").exists() and not RunFolder(tmp_path).states
    train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS)
    assert_same_state(tmp_path, trained)
    assert differences(load_weights(tmp_path / "final.pt"), load_weights(trained / "final.pt")) == []
    assert logged_training(tmp_path) == logged_training(trained)


def test_the_status_of_a_run_that_went_on_names_its_state(
    trained: Path, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that, killed before it saved anything anew, it is not taken for one that never saved."""
    shutil.copytree(trained, tmp_path / "run")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training.loop, "save_latest", killed)
        train_here("trm_mlp", sudoku6_folder, tmp_path / "run", [*OPTIONS, "max_steps=6"])
    for path in RunFolder(tmp_path / "run").states:
        path.unlink()
    with pytest.raises(UserError, match="none of its states"):
        decide_start(tmp_path / "run")
