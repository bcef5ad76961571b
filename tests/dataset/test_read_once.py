"""How often the descriptions of a data folder are read: once by whoever opens it, and anew by the next."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

import evaluate
from dataset import plain_data
from dataset.puzzle_folder import fingerprint, open_puzzle_set, open_puzzle_sets, verify_checksums
from dataset.puzzle_metadata import PuzzleFolder, PuzzleFolders
from tests.dataset.folders import edit_metadata, make_folder
from tests.helpers import tiny_config, train_here
from training.distributed import World
from training.run import full_state
from training.start import act_objective, build_run

ONCE = {"train/dataset.json": 1, "test/dataset.json": 1, "identifiers.json": 1}


@pytest.fixture
def two_sets(tmp_path: Path) -> Path:
    """A folder whose splits have the sets `all` and `more`."""
    root = tmp_path / "data"
    for split in ("train", "test"):
        count = [1] * 20
        make_folder(root, split=split, puzzles_per_group=count, examples_per_puzzle=count, num_identifiers=5)
        for path in list((root / split).glob("all__*.npy")):
            shutil.copy(path, path.with_name(path.name.replace("all__", "more__")))
        sums = json.loads((root / split / "dataset.json").read_text())["sha256"]
        sums |= {name.replace("all__", "more__"): digest for name, digest in sums.items()}
        edit_metadata(root / split, sets=["all", "more"], total_groups=40, total_puzzles=40, sha256=sums)
    return root


@pytest.fixture
def reads(two_sets: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each JSON file of the data has been read."""
    counts: Counter[str] = Counter()
    read = plain_data.bounded_bytes

    def counted(path: Path, limit: int) -> bytes:
        if path.is_relative_to(two_sets):
            counts[path.relative_to(two_sets).as_posix()] += 1
        return read(path, limit)

    monkeypatch.setattr(plain_data, "bounded_bytes", counted)
    return counts


def test_a_run_reads_each_once(two_sets: Path, tmp_path: Path, reads: Counter[str]) -> None:
    """While it is built, and while its states are made, which know the data by their fingerprint."""
    config = tiny_config("trm_att", two_sets, tmp_path / "run")
    run = build_run(config, World(), act_objective(config))
    assert reads == ONCE
    assert [rows.puzzle_set.set_name for rows in run.evaluation_rows] == ["all", "more"]
    data = [full_state(run)["identity"]["data"]["data"] for _ in range(2)]
    assert reads == ONCE
    assert data == [[fingerprint(two_sets, "train")] * 2] * 2


def test_training_and_evaluation_read_each_once(two_sets: Path, tmp_path: Path, reads: Counter[str]) -> None:
    run = tmp_path / "run"
    train_here("trm_att", two_sets, run, ["max_steps=4", "checkpoint_interval=1", "fast_eval_interval=2"])
    assert reads == ONCE
    reads.clear()
    evaluate.main([f"checkpoint={run}/best.pt", "device=cpu"])
    assert reads == ONCE
    datasets = json.loads((run / "evaluation_best.json").read_text())["datasets"]
    assert datasets == [fingerprint(two_sets, "test")]


def test_all_that_is_asked_of_an_opened_folder(two_sets: Path, reads: Counter[str]) -> None:
    folder = PuzzleFolder(two_sets)
    opened = [
        *open_puzzle_sets([folder], "train"),
        *open_puzzle_sets([folder], "train"),
        open_puzzle_set(folder, "test", "more"),
    ]
    assert verify_checksums(folder, "train") == verify_checksums(folder, "test") == 10
    prints = {split: fingerprint(folder, split) for split in ("train", "test")}
    assert reads == ONCE
    assert {one.folder for one in opened} == {folder} and {one.root for one in opened} == {two_sets}
    assert prints == {split: fingerprint(str(two_sets), split) for split in prints}, "a path will do as well"
    folders = PuzzleFolders()
    assert folders[str(two_sets)] is folders[f"{two_sets}/"] is not folders[f"{two_sets}/train"]


def test_a_folder_that_was_built_anew_is_read_anew(two_sets: Path) -> None:
    """Also where size and time of a file are what they were."""
    path = two_sets / "train" / "dataset.json"
    before = open_puzzle_set(two_sets, "train")
    text, stat = path.read_text(), path.stat()
    path.write_text(text.replace('"mean_puzzle_examples": 1.0', '"mean_puzzle_examples": 0.5'))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    after = open_puzzle_set(two_sets, "train")
    assert (before.metadata.mean_puzzle_examples, after.metadata.mean_puzzle_examples) == (1.0, 0.5)
    assert fingerprint(before.folder, "train") != fingerprint(after.folder, "train") == fingerprint(two_sets, "train")
