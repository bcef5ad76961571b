"""A run that goes on, or has ended, is told where it would now be judged by other rows or in another way."""

import json
from pathlib import Path

import pytest

from tests.dataset.folders import make_folder
from tests.helpers import train_here

OTHERWISE = {
    "eval.max_steps=5": "eval.max_steps None -> 5",
    "evaluate_weights=raw": "evaluate_weights None -> raw",
    "eval.perturbed_starts.sigma=[0.1]": "eval.perturbed_starts.sigma",
    "eval.vote.views=3": "eval.vote.views 1 -> 3",
    "eval_save_outputs=[preds]": "eval_save_outputs [] -> ['preds']",
    "validation_size=9": "validation_size 8 -> 9",
    "fast_eval_interval=2": "fast_eval_interval None -> 2",
}


@pytest.fixture(scope="module")
def ended(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ended") / "run"
    train_here("trm_mlp", sudoku6_folder, folder, ["max_steps=4"])
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("option", OTHERWISE)
def test_options_without_effect_on_a_run_that_ended_are_named(
    option: str, ended: Path, sudoku6_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(ended)
    assert train_here("trm_mlp", sudoku6_folder, ended, ["max_steps=4", option]) == "done"
    said = capsys.readouterr()
    assert "finished at update 4" in said.out
    assert f"warning: {OTHERWISE[option]}" in said.err and "not done, as the run has ended" in said.err
    assert f"python evaluate.py checkpoint={ended}/final.pt judges" in said.err
    assert contents(ended) == before


def test_nothing_is_said_of_what_judges_as_before(
    ended: Path, sudoku6_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["max_steps=3", "evaluators=[]", "epochs=100", "log_interval=7", "eval.max_steps=null"]
    assert train_here("trm_mlp", sudoku6_folder, ended, options) == "done"
    assert "not done" not in capsys.readouterr().err


def warning(said: str) -> str:
    return next((line for line in said.splitlines() if "was chosen by the earlier evaluation" in line), "")


def test_a_best_that_other_rows_chose_is_told(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other, often = tmp_path / "run", tmp_path / "other", ["fast_eval_interval=1", "force_full_eval_every=1"]
    make_folder(other, puzzles_per_group=[1] * 30, examples_per_puzzle=[1] * 30, split="test", box=(2, 3))
    train_here("trm_mlp", sudoku6_folder, run, ["max_steps=4", "validation_size=4", *often])
    for steps, options, expected in (
        (5, ["validation_size=4"], ""),
        (6, ["validation_size=4", "fast_validation_size=3"], ""),
        (7, ["validation_size=8"], "validation rows 4 -> 8, 4 of them the same"),
        (8, ["validation_size=8", f"data_paths_test=[{other}]"], "validation rows 8 -> 6, 0 of them the same"),
        (9, ["validation_size=8", f"data_paths_test=[{other}]"], ""),
    ):
        capsys.readouterr()
        train_here("trm_mlp", sudoku6_folder, run, [f"max_steps={steps}", *often, *options])
        said = warning(capsys.readouterr().err)
        assert expected in said and bool(said) == bool(expected), (steps, said)
    assert json.loads((run / "summary.json").read_text())["steps"] == 9
