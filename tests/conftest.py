"""Data sets and processes that many tests share, built once per session; and what no test may leave to the next."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dataset.build_maze_dataset import main as build_mazes
from dataset.build_sudoku_dataset import main as build_sudoku
from tests.helpers import PretrainServer
from tests.python_server import PythonServer

# Bitwise comparisons hold for equal thread counts, and one thread is the fastest for tensors of this size.
torch.set_num_threads(1)


def _build(folder: Path, *options: str) -> Path:
    build_sudoku(["--output-dir", str(folder), *options])
    return folder


@pytest.fixture(scope="session")
def sudoku4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4x4 Sudoku, 24 train and 12 test puzzles, symmetries drawn on the fly."""
    folder = tmp_path_factory.mktemp("data") / "sudoku-4x4"
    return _build(folder, "--generate", "4x4", "--num-train", "24", "--test-size", "12")


@pytest.fixture(scope="session")
def sudoku6_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6x6 Sudoku, 64 train and 40 test puzzles, symmetries drawn on the fly."""
    folder = tmp_path_factory.mktemp("data") / "sudoku-6x6"
    return _build(folder, "--generate", "6x6", "--num-train", "64", "--test-size", "40")


@pytest.fixture(scope="session")
def sudoku6_stored_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6x6 Sudoku, 64 train puzzles with 3 stored copies each, 40 test puzzles."""
    folder = tmp_path_factory.mktemp("data") / "sudoku-6x6-stored"
    options = ("--generate", "6x6", "--num-train", "64", "--test-size", "40", "--num-aug", "3")
    return _build(folder, *options)


@pytest.fixture(scope="session")
def maze6_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6x6 mazes, 64 to train and 40 to test on, most with several shortest paths; symmetries drawn on the fly."""
    folder = tmp_path_factory.mktemp("data") / "maze-6x6"
    build_mazes(["--generate", "6", "--num-train", "64", "--test-size", "40", "--output-dir", str(folder)])
    return folder


@pytest.fixture(scope="session")
def pretrain_server() -> Iterator[PretrainServer]:
    """Starts `pretrain.py` in processes of their own without paying for the imports each time."""
    server = PretrainServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def python_server() -> Iterator[PythonServer]:
    """Stands for the interpreter where a test starts many processes that import torch."""
    with PythonServer() as server:
        yield server


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    """A test may leave what it drew: matplotlib counts the open figures of a process and warns when they are many."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture
def hydra_leaves_nothing(hydra_restore_singletons: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For a test that runs Hydra in this process: it keeps its config, sets a variable, switches off every logger."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # so that it is noted, to be taken away afterwards
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    others = [other for other in root.manager.loggerDict.values() if isinstance(other, logging.Logger)]
    enabled = [other for other in others if not other.disabled]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    for other in enabled:
        other.disabled = False
