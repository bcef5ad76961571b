"""The advice after a damaged data set is the whole command that builds it again, and never one of a stranger."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from dataset.build_sudoku_dataset import main as build
from dataset.puzzle_folder import open_puzzle_set
from dataset.puzzle_metadata import RebuildHint
from errors import UserError
from tests.dataset.folders import edit_metadata


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a place") / "my data"
    build(["--output-dir", str(folder), *"--generate 4x4 --num-train 12 --test-size 6 --num-clues 7 --seed 3".split()])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["test/all__labels.npy", "test/all__puzzle_indices.npy", "test/dataset.json"])
def test_the_advice_mends_it(name: str, built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "my data")
    before, path = contents(folder), folder / name
    data = bytearray(path.read_bytes())
    data[0 if path.suffix == ".json" else -1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        open_puzzle_set(folder, "test")
    command = shlex.split(str(caught.value).partition("; build it again with: ")[2])
    assert command[:2] == ["python", "dataset/build_sudoku_dataset.py"] and command[-1] == "--overwrite"
    build(command[2:])
    assert contents(folder) == before


@pytest.mark.parametrize(
    "command",
    [
        "rm -r data", "python -c 'import os'", "python dataset/build_sudoku_dataset.py; rm -r data",
        "python dataset/build_nothing_dataset.py", "python ../dataset/build_sudoku_dataset.py",
        "python dataset/build_sudoku_dataset.py --output-dir /elsewhere",
        "python dataset/build_sudoku_dataset.py 'open",
        "python dataset/build_sudoku_dataset.py --generate 4x4" + " --seed 3" * 200, 7, None, ["python"],
    ],
)  # fmt: skip
def test_no_other_command_is_passed_on(command: object, built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "data")
    for split in ("train", "test"):
        edit_metadata(folder / split, build={"command": command})
    place = f"--output-dir {folder} --overwrite"
    assert str(RebuildHint(folder)) == f"build one with: python dataset/build_sudoku_dataset.py {place} ..."


def test_what_is_passed_on_is_quoted(built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "data")
    command = "python dataset/build_sudoku_dataset.py --generate '4x4;rm -r data' $(id)"
    edit_metadata(folder / "train", build={"command": command})
    assert "--generate '4x4;rm -r data' '$(id)' --output-dir" in str(RebuildHint(folder))


def test_a_shipped_list_is_named_by_its_place(built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "data")
    command = "python dataset/build_sudoku_dataset.py --input-file royle_17clue.txt.gz --seed 0"
    edit_metadata(folder / "train", build={"command": command})
    assert "--input-file dataset/raw/royle_17clue.txt.gz --seed 0 --output-dir" in str(RebuildHint(folder))


def test_nothing_there(tmp_path: Path) -> None:
    hint = str(RebuildHint(tmp_path / "none"))
    assert hint == f"build one with: python dataset/build_sudoku_dataset.py --output-dir {tmp_path}/none ..."
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "train").mkdir()
    (tmp_path / "none" / "train" / "dataset.json").write_text(json.dumps({"build": 3}))
    assert "--overwrite ..." in str(RebuildHint(tmp_path / "none"))
