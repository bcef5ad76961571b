"""The one test set that a script reads: of several the first does not stand for all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import predict
from analysis.endings import failure_endings
from analysis.rollouts import q_head_vs_stability, step_by_step
from analysis.spectra import lyapunov_spectrum
from dataset.build_sudoku_dataset import main as build_sudoku
from tests.helpers import refused_line, train_here
from training.trained_model import open_puzzle_checkpoint, open_test_set


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("several")
    made = [root / "first", root / "second"]
    for seed, folder in enumerate(made):
        sizes = ["--num-train", "16", "--test-size", "12", "--num-aug", "0"]
        build_sudoku(["--output-dir", str(folder), "--generate", "6x6", *sizes, "--seed", str(seed)])
    return made


@pytest.fixture(scope="module")
def run(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "two_folders"
    train_here("trm_mlp", folders[0], run, [f"data_paths=[{','.join(map(str, folders))}]", "max_steps=2"])
    return run


SCRIPTS: dict[str, tuple[Callable[[list[str]], Any], list[str], str]] = {
    "predict": (predict.main, ["checkpoint=RUN/best.pt", "row=1"], "data_path="),
    "step_by_step": (step_by_step.main, ["RUN/best.pt", "--output-dir", "OUT"], "--data-path "),
    "lyapunov_spectrum": (
        lyapunov_spectrum.main,
        ["--checkpoint", "RUN/best.pt", "--num-steps", "2", "--num-exponents", "1", "--draws", "100", "--out", "OUT"],
        "--data-path ",
    ),
    "failure_endings": (failure_endings.main, ["--checkpoint", "RUN/best.pt", "--out", "OUT"], "--data-path "),
    "q_head_vs_stability": (
        q_head_vs_stability.main,
        ["--checkpoint", "RUN/best.pt", "--sigma", "0.1", "--rollouts", "2", "--out", "OUT"],
        "--data-path ",
    ),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_several_sets_are_refused_by_name(
    script: str, run: Path, folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, words, option = SCRIPTS[script]
    words = [word.replace("RUN", str(run)).replace("OUT", str(tmp_path / "out")) for word in words]
    assert refused_line(capsys, main, words) == (
        f"error: found several test sets, {folders[0]} (all), {folders[1]} (all), expected one: "
        f"name a folder of one set with {option}DIR"
    )


def test_the_set_that_is_named_is_read(run: Path, folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = open_puzzle_checkpoint(run)
    for folder in folders:
        assert open_test_set(checkpoint, str(folder)).root == folder
    shown = []
    for folder in folders:
        predict.main([f"checkpoint={run}", "row=3", f"data_path={folder}"])
        shown.append(capsys.readouterr().out)
    assert shown[0] != shown[1]
