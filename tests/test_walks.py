"""The walks of docs/architecture.md are true: small runs call what they name, in their order."""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import step9_trajectory_perturb_train as step9
from dataset.build_sudoku_dataset import main as build_sudoku
from tests.helpers import ROOT, tiny_overrides, train_here
from training.settings.cli import hydra_entry
from training.start import train
from training.trained_model import open_checkpoint

Station = tuple[str, str]  # file from the root, name of a function or class in it


def read_walks() -> dict[str, list[Station]]:
    """By the first word of its subject, what a walk passes; a file without a name has an empty one."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = {}
    for section in text.split("\n## ")[1:]:
        steps = re.findall(r"^\d+\. (.*)", section, re.M)
        stations = [re.match(r"`([\w./]+)`(?:, `(\w+)`)?: \S", step) for step in steps]
        assert all(stations), steps
        subject = section.partition(":")[0].split()[-1].lower()
        walks[subject] = [(found[1], found[2] or "") for found in stations if found]
    return walks


WALKS = read_walks()


@pytest.fixture
def calls() -> Iterator[Callable[[set[Station]], list[Station]]]:
    """Notes every call of the given stations in this thread from then on."""
    before = sys.getprofile()

    def note(stations: set[Station]) -> list[Station]:
        noted: list[Station] = []
        known: dict[Any, Station | None] = {}

        def profile(frame: FrameType, event: str, arg: Any) -> None:
            if event != "call":
                return
            code = frame.f_code
            if code not in known:
                path = Path(code.co_filename)
                place = (path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else "", code.co_name)
                known[code] = place if place in stations else None
            if (called := known[code]) is not None:
                noted.append(called)

        sys.setprofile(profile)
        return noted

    yield note
    sys.setprofile(before)


def defined(file: str, kind: type[ast.AST]) -> set[str]:
    """The names of all functions, or of all classes, of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, kind)}  # type: ignore[attr-defined]


def run_batch(data: Path, folder: Path) -> None:
    build_sudoku(["--generate", "4x4", "--num-train", "16", "--test-size", "8", "--output-dir", str(folder / "data")])
    train_here("trm_att", folder / "data", folder / "run", ["max_steps=1", "validation_size=2", "max_test_rows=2"])


def run_carry(data: Path, folder: Path) -> None:
    for updates in (2, 3):
        train_here("trm_att", data, folder, [f"max_steps={updates}"])


def run_sigma(data: Path, folder: Path) -> None:
    train_here("trm_att", data, folder / "run", ["max_steps=1"])
    flags = ["--ckpt-root", str(folder / "run"), "--ckpt-name", "final.pt", "--output-dir", str(folder / "perturbed")]
    step9.main(
        [*flags, "--objective", "single_perturbed_ce", "--sigma", "1e-3", "--train-steps", "1", "--batch-size", "4"]
    )


def run_config(data: Path, folder: Path) -> None:
    words = sys.argv
    sys.argv = ["pretrain.py", *tiny_overrides("trm_att", data, folder), "max_steps=1"]
    try:
        hydra_entry("cfg_pretrain", train)
    finally:
        sys.argv = words
    open_checkpoint(folder / "final.pt")


RUNS = {"batch": run_batch, "carry": run_carry, "sigma": run_sigma, "config": run_config}


def test_there_are_four_walks() -> None:
    assert WALKS.keys() == RUNS.keys() and all(len(walk) >= 9 for walk in WALKS.values())
    for file, name in (station for walk in WALKS.values() for station in walk):
        assert (ROOT / file).is_file(), file
        assert not name or name in defined(file, ast.FunctionDef) | defined(file, ast.ClassDef), (file, name)


@pytest.mark.usefixtures("hydra_leaves_nothing")
@pytest.mark.parametrize("subject", RUNS)
def test_a_walk_is_walked(
    subject: str, calls: Callable[[set[Station]], list[Station]], sudoku4_folder: Path, tmp_path: Path
) -> None:
    walk = [(file, name) for file, name in WALKS[subject] if name and name in defined(file, ast.FunctionDef)]
    assert len(walk) >= 6
    noted = calls(set(walk))
    RUNS[subject](sudoku4_folder, tmp_path)
    sys.setprofile(None)
    after = iter(noted)
    missed = next((station for station in walk if station not in after), None)
    assert missed is None, f"{missed} is not called in its turn"
