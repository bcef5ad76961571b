"""Data without sums of their own that change between a stop and a resume, where sizes and ends do not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import evaluate
from dataset import content_sums
from dataset.puzzle_folder import fingerprint
from errors import UserError
from tests.dataset.folders import edit_metadata, make_folder
from tests.helpers import assert_same_state, refused_line, train_here
from training.storage.checkpoint import load_state, save_state
from training.storage.weights_record import read_record, write_record


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the official builders leave one, of more than is read of its ends: 144 kB an array of tokens."""
    root = tmp_path_factory.mktemp("official") / "sudoku-6x6"
    for split in ("train", "test"):
        make_folder(root, split=split, puzzles_per_group=[1] * 4000, examples_per_puzzle=[1] * 4000, box=(2, 3))
        edit_metadata(root / split, sha256=..., task=..., augmentation=...)
    return root


def edit(array: Path) -> None:
    """Another token in the middle of the file."""
    tokens = np.load(array)
    row = tokens[len(tokens) // 2]
    row[-1] = 3 if row[-1] == 2 else 2
    np.save(array, tokens)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_an_evaluation_names_it_too(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here("trm_att", official, tmp_path, ["max_steps=2"])
    labels, words = official / "test" / "all__labels.npy", [f"checkpoint={tmp_path}/best.pt", "device=cpu"]
    before = labels.read_bytes()
    edit(labels)
    try:
        line = refused_line(capsys, evaluate.main, words)
        assert f"{labels} has other bytes than when {tmp_path}/weights.json was saved" in line
        assert not list(tmp_path.glob("evaluation_*"))
        evaluate.main([*words, "max_test_rows=8", line.rpartition("ask for them with ")[2]])
        record = read_record(tmp_path)
        assert record is not None and record.rows is not None
        rows = {name: value for name, value in record.rows.items() if name != "data_sha256"}
        write_record(tmp_path, replace(record, rows=rows))  # as earlier code wrote it
        evaluate.main([*words, "max_test_rows=4"])
    finally:
        labels.write_bytes(before)


@pytest.mark.parametrize("name", ["train/all__inputs.npy", "train/all__labels.npy", "test/all__labels.npy"])
def test_an_array_edited_in_its_middle_is_named(name: str, official: Path, tmp_path: Path) -> None:
    train_here("trm_att", official, tmp_path / "run", ["max_steps=2"])
    split, before = name.partition("/")[0], (official / name).read_bytes()
    known_as, files = fingerprint(official, split), contents(tmp_path / "run")
    edit(official / name)
    try:
        assert fingerprint(official, split) == known_as, "the identity does not see it"
        with pytest.raises(UserError, match=rf"{name} has other bytes than when .*latest_state.pt was saved"):
            train_here("trm_att", official, tmp_path / "run", ["max_steps=4"])
        assert contents(tmp_path / "run") == files
    finally:
        (official / name).write_bytes(before)
    train_here("trm_att", official, tmp_path / "run", ["max_steps=4"])
    train_here("trm_att", official, tmp_path / "whole", ["max_steps=4"])
    assert_same_state(tmp_path / "whole", tmp_path / "run")


def test_a_state_without_sums_goes_on(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here("trm_att", official, tmp_path, ["max_steps=2"])
    state = load_state(tmp_path / "latest_state.pt")
    assert len(state.pop("data_sha256")) == 10  # five arrays of each split
    save_state(tmp_path / "latest_state.pt", state)
    train_here("trm_att", official, tmp_path, ["max_steps=4"])
    assert "going on from" in capsys.readouterr().out
    assert len(load_state(tmp_path / "latest_state.pt")["data_sha256"]) == 10


def test_where_they_lie_does_not_count(official: Path, tmp_path: Path) -> None:
    """Folders may move; and one may stand beside another that differs in its middle only."""
    twin = tmp_path / "twin"
    for split in ("train", "test"):
        (twin / split).mkdir(parents=True)
        for path in (official / split).iterdir():
            (twin / split / path.name).write_bytes(path.read_bytes())
    edit(twin / "train" / "all__inputs.npy")
    both = f"data_paths=[{official},{twin}]"
    train_here("trm_att", official, tmp_path / "run", [both, "max_steps=2"])
    moved = twin.rename(tmp_path / "moved")
    train_here("trm_att", official, tmp_path / "run", [both.replace(str(twin), str(moved)), "max_steps=3"])
    edit(moved / "train" / "all__inputs.npy")
    with pytest.raises(UserError, match="moved/train/all__inputs.npy has other bytes"):
        train_here("trm_att", official, tmp_path / "run", [both.replace(str(twin), str(moved)), "max_steps=4"])


def test_folders_with_sums_are_not_read_twice(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_sums, "file_sha256", lambda path: pytest.fail(f"{path} is read again"))
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=1"])
    assert load_state(tmp_path / "latest_state.pt")["data_sha256"] == {}


def test_much_data_is_announced(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for limit, said in ((1 << 20, 0), (1 << 18, 1)):  # they are 0.6 MB
        monkeypatch.setattr(content_sums, "SAID_BYTES", limit)
        train_here("trm_att", official, tmp_path / str(limit), ["max_steps=1"])
        assert capsys.readouterr().out.count("reading 0.0 GB of data without sums") == said
