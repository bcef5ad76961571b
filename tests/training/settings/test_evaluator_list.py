"""The list `evaluators`: one meaning for all spellings, mistakes in one line, no trace where it says nothing new."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset.find_task import task_class, task_names
from dataset.puzzle_folder import open_puzzle_set
from errors import UserError
from tests.dataset.folders import edit_metadata, make_folder
from tests.helpers import ROOT, assert_same_state, logged_training, train_here
from tests.training.judges.toys import ROOM
from training.judges.judging import build_judges
from training.judges.sudoku import SudokuEvaluator
from training.rooms import JUDGES
from training.settings import evaluator_list
from training.settings.cli import compose_config
from training.settings.evaluator_list import listed, name_parts
from training.settings.identity import config_hash, config_to_dict, run_identity
from training.settings.resolving import load_config_file, resolve

DATA = {"data_paths": ["data/x"]}
ARC = {"name": "arc@ARC"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, None),
        ([], []),
        (["arc"], [ARC]),
        (["arc@ARC"], [ARC]),
        ([{"name": "arc"}], [ARC]),
        ([ARC], [ARC]),
        (["sudoku"], [{"name": "sudoku"}]),
        ([{"name": "sudoku", "interval": 1, "prefix": ""}], [{"name": "sudoku"}]),
        (
            [{"interval": 2, "name": "sudoku"}, {"name": "sudoku", "prefix": "x/"}],
            [{"name": "sudoku", "interval": 2}, {"name": "sudoku", "prefix": "x/"}],
        ),
    ],
)
def test_spellings_are_the_same(given: Any, meant: Any) -> None:
    config = resolve({**DATA, "evaluators": given})
    assert config.evaluators == meant == listed(config.evaluators)
    assert resolve(config_to_dict(config)) == config


@pytest.mark.parametrize("words", ["evaluators=[sudoku]", "evaluators=[{name: sudoku}]"])
def test_command_lines(words: str) -> None:
    composed = compose_config([words, "data_paths=[data/x]"])
    assert composed.evaluators == [{"name": "sudoku"}]
    assert compose_config(["evaluators=null", "data_paths=[data/x]"]).evaluators is None
    assert compose_config(["data_paths=[data/x]"]).evaluators is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["nope"], "option 'evaluators': found 'nope', expected a list of names, or of {name: NAME} with options; "
                   "names: arc, "),
        ([{"name": "sudoku@Sudoku"}], "names: arc, "),
        ([3], "found 3, expected a list of names"),
        ([{"interval": 2}], "expected a list of names"),
        ([{"name": "sudoku", "intervall": 2}], "evaluators, sudoku: unknown option 'intervall': the nearest valid "),
        ([{"name": "sudoku", "interval": 0}], "evaluators, sudoku: option 'interval': found 0, expected at least 1"),
        ([{"name": "sudoku", "prefix": "../x"}], "option 'prefix': found '../x', expected letters, digits"),
        (["sudoku", {"name": "sudoku", "interval": 2}], "found sudoku twice, expected each once"),
    ],
)  # fmt: skip
def test_mistakes(given: Any, says: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve({**DATA, "evaluators": given})
    assert says in str(refused.value)


def test_arc_is_known_and_not_there_yet(sudoku4_folder: Path, tmp_path: Path) -> None:
    """Settings that name it can be read, of an official run for one; a run cannot have it."""
    for spelling in ("[arc]", "[arc@ARC]", "[{name: arc@ARC}]"):
        with pytest.raises(UserError) as refused:
            train_here("trm_mlp", sudoku4_folder, tmp_path / "run", [f"evaluators={spelling}"])
        message = "evaluators=[{'name': 'arc@ARC'}]: ARC scoring is not part of this suite yet; use evaluators=[]"
        assert message in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_null_and_nothing_leave_no_trace(sudoku4_folder: Path, tmp_path: Path) -> None:
    """[] was the default: hash, name and identity of a run do not tell them apart, nor do its weights."""
    null, none = resolve(DATA), resolve({**DATA, "evaluators": []})
    assert null.evaluators is None and none.evaluators == []
    assert config_hash(null) == config_hash(none) and null.run_name == none.run_name
    judged = resolve({**DATA, "evaluators": ["sudoku"]})
    assert config_hash(judged) != config_hash(null)
    assert run_identity(null) == run_identity(none) == run_identity(judged), "it shapes no weight"
    old = load_config_file(ROOT / "tests" / "golden" / "run_of_8370a56" / "all_config.yaml")
    assert old.evaluators == [] and old.run_name == "trm-f5efbaf2"
    options = ["max_steps=4", "fast_eval_interval=2"]
    for name, words in (("null", []), ("none", ["evaluators=[]"]), ("sudoku", ["evaluators=[sudoku]"])):
        train_here("trm_mlp", sudoku4_folder, tmp_path / name, [*options, *words])
    for name in ("none", "sudoku"):
        assert_same_state(tmp_path / "null", tmp_path / name)
        assert logged_training(tmp_path / "null") == logged_training(tmp_path / name) != []


def test_null_is_what_the_task_names(tmp_path: Path) -> None:
    make_folder(tmp_path, split="test", puzzles_per_group=[1] * 5, examples_per_puzzle=[1] * 5)
    puzzle_set = open_puzzle_set(tmp_path, "test")
    rows = np.arange(5)
    assert list(build_judges(None, puzzle_set, rows)) == ["sudoku"] == list(puzzle_set.metadata.task.judges())
    assert build_judges([], puzzle_set, rows) == {}
    twice = build_judges([{"name": "sudoku"}, {"name": "sudoku", "prefix": "x-"}], puzzle_set, rows)
    assert list(twice) == ["sudoku", "x-sudoku"]
    assert isinstance(twice["x-sudoku"].evaluator, SudokuEvaluator)
    edit_metadata(tmp_path / "test", task="plain", augmentation=None)
    plain = open_puzzle_set(tmp_path, "test")
    assert build_judges(None, plain, rows) == {}
    with pytest.raises(UserError, match="sudoku judges no puzzles of the task plain"):
        build_judges(["sudoku"], plain, rows)


def test_what_cannot_be_judged_is_said_before_training(sudoku4_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(sudoku4_folder, tmp_path / "data")
    for split in ("train", "test"):
        edit_metadata(data / split, task="plain", augmentation=None)
    with pytest.raises(UserError, match="sudoku judges no puzzles of the task plain"):
        train_here("trm_mlp", data, tmp_path / "run", ["evaluators=[sudoku]", "augment=none", "max_steps=2"])
    assert not (tmp_path / "run").exists()


def test_metrics_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, split="test", puzzles_per_group=[1], examples_per_puzzle=[1])
    puzzle_set = open_puzzle_set(tmp_path, "test")
    monkeypatch.setattr(evaluator_list, "JUDGES", ROOM)
    kind = ROOM.settings_class("distinct_tokens")
    monkeypatch.setattr(kind, "metrics", {"accuracy": "means something else here"})
    with pytest.raises(
        UserError, match="accuracy and distinct_tokens both write accuracy; give distinct_tokens another"
    ):
        build_judges(["distinct_tokens"], puzzle_set, np.arange(1))
    assert list(build_judges([{"name": "distinct_tokens", "prefix": "x-"}], puzzle_set, np.arange(1)))


def test_names_of_results() -> None:
    assert name_parts(None) == [] and name_parts([]) == ["accuracy"]
    assert name_parts(["sudoku", {"name": "sudoku", "prefix": "a/"}]) == ["sudoku", "a.sudoku"]


@pytest.mark.parametrize("name", JUDGES.names())
def test_every_evaluator_is_documented(name: str) -> None:
    """In docs/evaluation.md; each metric that it declares is in docs/metrics.md, in its words."""
    assert f"| `{name}` | " in (ROOT / "docs" / "evaluation.md").read_text()
    metrics = JUDGES.settings_class(name).metrics
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert metrics and all(f"| `{key}` | {meaning} |" in page for key, meaning in metrics.items())


def test_every_judge_of_a_task_exists() -> None:
    tasks = [kind(*shape) for kind in map(task_class, task_names()) for shape in kind.official_shapes]
    judges = {judge for task in tasks for judge in task.judges()}
    assert "sudoku" in judges and judges <= {*JUDGES.names(), *evaluator_list.AWAITED}
