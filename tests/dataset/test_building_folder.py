"""A data set appears whole or not at all, and never replaces another unasked."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dataset.building_folder import building_folder
from dataset.puzzle_folder import fingerprint, open_puzzle_set
from errors import UserError
from tests.dataset.folders import make_folder


def build(target: Path, seed: int = 0, overwrite: bool = False) -> None:
    with building_folder(target, overwrite=overwrite) as temporary:
        assert temporary.parent == target.parent and temporary.name == f".{target.name}.building-{os.getpid()}"
        make_folder(temporary, puzzles_per_group=[1, 1], examples_per_puzzle=[1, 1], seed=seed)


def test_build_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "data"
    build(target)
    assert open_puzzle_set(target, "train").num_examples == 2
    assert [path.name for path in target.parent.iterdir()] == ["data"]


def test_build_into_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    build(tmp_path / "data")
    assert open_puzzle_set(tmp_path / "data", "train").num_examples == 2


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failed_build_leaves_everything_as_it_was(tmp_path: Path, failure: type[BaseException]) -> None:
    build(tmp_path / "data")
    before = fingerprint(tmp_path / "data", "train")
    with pytest.raises(failure):
        with building_folder(tmp_path / "data", overwrite=True) as temporary:
            (temporary / "half").write_text("x")
            raise failure
    assert fingerprint(tmp_path / "data", "train") == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_finished_build_is_not_replaced_unasked(tmp_path: Path) -> None:
    build(tmp_path / "data")
    before = fingerprint(tmp_path / "data", "train")
    with pytest.raises(UserError, match="--overwrite"):
        build(tmp_path / "data", seed=1)
    assert fingerprint(tmp_path / "data", "train") == before
    build(tmp_path / "data", seed=1, overwrite=True)
    assert fingerprint(tmp_path / "data", "train") != before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_overwrite_spares_what_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not a data set"):
        build(tmp_path / "home", overwrite=True)
    build(tmp_path / "data")
    (tmp_path / "data" / "notes").mkdir()
    with pytest.raises(UserError, match="'notes'"):
        build(tmp_path / "data", overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        build(tmp_path / "file", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists() and (tmp_path / "data" / "notes").exists()


def test_leftovers_of_killed_builds_are_swept(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for name in (
        f".data.building-{child.pid}",
        f".data.building-{os.getppid()}",
        f".other.building-{child.pid}",
    ):
        (tmp_path / name).mkdir()
    build(tmp_path / "data")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"data", f".data.building-{os.getppid()}", f".other.building-{child.pid}"}


def test_a_build_killed_between_its_renames_gives_the_old_folder_back(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    build(tmp_path / "data")
    os.rename(tmp_path / "data", tmp_path / f".data.replaced-{child.pid}")
    with pytest.raises(UserError, match="--overwrite"):
        build(tmp_path / "data", seed=1)
    assert open_puzzle_set(tmp_path / "data", "train").num_examples == 2


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of the size of files stands for the full disk")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "dataset" / "build_sudoku_dataset.py"
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    options = ["--generate", "6x6", "--num-train", "40", "--test-size", "8", "--output-dir", str(tmp_path / "data")]
    built = subprocess.run([sys.executable, "-c", code, str(script), *options], capture_output=True, text=True)
    assert built.returncode == 2, built.stderr
    (line,) = [line for line in built.stderr.splitlines() if line.startswith("error: ")]
    assert f"{tmp_path / 'data'}: the build could not be written" in line and "free some space" in line
    assert "Traceback" not in built.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "notes.md", "own.csv", "my_selection.json", "train/my_notes.txt", "train/all__inputs.npy.bak", "train/own.json",
        "train/mine__inputs.npy", "test/handmade/labels.csv", "identifiers.json/mine", "train/all__ratings.npy/mine",
    ],
)  # fmt: skip
def test_a_persons_files_in_a_data_set_are_spared(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    build(data)
    (data / "test").mkdir()
    stranger = data / name
    if stranger.parent.is_file():
        stranger.parent.unlink()
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_text("mine")
    shown = next(path for path in (stranger, stranger.parent) if path.parent in (data, data / "train", data / "test"))
    before = fingerprint(data, "train")
    with pytest.raises(UserError, match=re.escape(f"holds '{shown.relative_to(data)}'")):
        build(data, seed=1, overwrite=True)
    assert stranger.read_text() == "mine" and fingerprint(data, "train") == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_file_laid_into_the_folder_while_it_is_built_is_spared(tmp_path: Path) -> None:
    build(tmp_path / "data")
    with (
        pytest.raises(UserError, match="holds 'train/mine.txt'"),
        building_folder(tmp_path / "data", True) as temporary,
    ):
        make_folder(temporary, puzzles_per_group=[1], examples_per_puzzle=[1])
        (tmp_path / "data" / "train" / "mine.txt").write_text("mine")
    assert (tmp_path / "data" / "train" / "mine.txt").read_text() == "mine"


def test_a_damaged_data_set_is_built_again(tmp_path: Path) -> None:
    build(tmp_path / "data")
    (tmp_path / "data" / "train" / "dataset.json").write_text("{")
    (tmp_path / "data" / "test_puzzles.json").write_text("{}")  # of the official ARC builder
    build(tmp_path / "data", overwrite=True)
    assert open_puzzle_set(tmp_path / "data", "train").num_examples == 2


def test_a_set_of_another_name_is_what_a_builder_wrote(tmp_path: Path) -> None:
    build(tmp_path / "data")
    train = tmp_path / "data" / "train"
    said = json.loads((train / "dataset.json").read_text())
    (train / "dataset.json").write_text(json.dumps(said | {"sets": ["other"], "sha256": {}}))
    for path in train.glob("all__*"):
        path.rename(path.with_name(path.name.replace("all__", "other__")))
    build(tmp_path / "data", overwrite=True)
    assert open_puzzle_set(tmp_path / "data", "train").set_name == "all"
