"""The mini-ARC builder: whole data sets of whole rules, the same bytes again, fresh pairs, and what it refuses."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dataset.build_mini_arc_dataset as builder
from dataset.arc_tokens import GridViews, grids_of, read_view_name
from dataset.mini_arc import TIERS, Rules
from dataset.mini_arc_pairs import class_keys
from dataset.puzzle_folder import PuzzleSet, open_puzzle_set
from dataset.puzzle_metadata import RebuildHint, read_identifiers
from dataset.puzzle_source import PuzzleSource
from dataset.source import START
from errors import UserError
from tests.dataset.folders import edit_metadata
from tests.helpers import ROOT

SMALL = "--train-pairs 3 --test-pairs 2".split()


def build(folder: Path, *words: str) -> Path:
    builder.main([*SMALL, *words, "--output-dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("data") / "mini-arc-g", *"--tier G --canvas 5 --num-aug 3 --seed 2".split())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def parts(folder: Path) -> dict[str, dict[str, PuzzleSet]]:
    folders = [folder, *sorted(path for path in folder.iterdir() if path.name.startswith("held_out_"))]
    return {path.name: {split: open_puzzle_set(path, split) for split in ("train", "test")} for path in folders}


def of_examples(one: PuzzleSet) -> tuple[np.ndarray, np.ndarray]:
    """Descriptors and identifiers of all examples."""
    assert one.descriptors is not None
    owners = one.puzzle_of(np.arange(one.num_examples))
    return one.descriptors[owners], one.puzzle_identifiers[owners]


def test_every_pair_obeys_the_descriptors_of_its_puzzle(built: Path) -> None:
    for sets in parts(built).values():
        for one in sets.values():
            rules = Rules(of_examples(one)[0])
            inputs, labels = (grids_of(np.asarray(tokens), 5) for tokens in (one.inputs, one.labels))
            assert np.array_equal(rules.apply(inputs).cells, labels.cells)
            assert np.array_equal(rules.apply(inputs).heights, labels.heights)
            assert json.loads((one.root / one.split / "dataset.json").read_text())["descriptors"]["op"][1] == "gravity"


def test_identifiers_name_rules_and_their_views(built: Path) -> None:
    """A group is a pair and its views; inverse views make the pair of all of them, and one identifier is one rule."""
    names = read_identifiers(built)
    assert len(names) == 1 + 4 * len(TIERS["G"].rules()) == len(set(names)) and names[0] == "<blank>"
    known: dict[int, bytes] = {}
    for name, sets in parts(built).items():
        assert read_identifiers(built / ("" if name == built.name else name)) == names
        for one in sets.values():
            descriptors, identifiers = of_examples(one)
            for identifier, row in zip(identifiers.tolist(), descriptors, strict=True):
                assert known.setdefault(identifier, row.tobytes()) == row.tobytes()
            views = [read_view_name(names[identifier]) for identifier in identifiers]
            back = GridViews(np.array([v[1] for v in views]), np.stack([v[2] for v in views])).inverse()
            for tokens in (one.inputs, one.labels):
                grids = back.apply(grids_of(np.asarray(tokens), 5))
                cells = grids.cells.reshape(-1, 4, 25)
                assert (cells == cells[:, :1]).all() and (grids.heights.reshape(-1, 4).T == grids.heights[::4]).all()
            assert [v[0] for v in views[::4]] == [v[0] for v in views[3::4]]
            assert np.array_equal(np.diff(one.group_indices), np.full(len(one.group_indices) - 1, 4))


def test_rules_stand_in_one_part_and_inputs_in_one_split(built: Path) -> None:
    sets = parts(built)
    rules = {name: {identifier for one in both.values() for identifier in of_examples(one)[1].tolist()}
             for name, both in sets.items()}  # fmt: skip
    assert [len(found) // 4 for found in rules.values()] == [63, 12, 21]
    assert len(set().union(*rules.values())) == sum(map(len, rules.values()))
    keys = {split: np.concatenate([class_keys(np.asarray(both[split].inputs), 5) for both in sets.values()])
            for split in ("train", "test")}  # fmt: skip
    assert not np.isin(keys["test"], keys["train"]).any()
    for both in sets.values():
        counts = {split: np.unique(of_examples(one)[1], return_counts=True)[1] for split, one in both.items()}
        assert set(counts["train"].tolist()) == {3} and set(counts["test"].tolist()) == {2}


def test_same_seed_same_bytes_and_a_command_that_says_so(built: Path, tmp_path: Path) -> None:
    hint = str(RebuildHint(built / "held_out_rules"))
    assert hint == str(RebuildHint(built)) and f"--output-dir {built} --overwrite" in hint
    words = shlex.split(hint.partition("; build it again with: ")[2] or hint.partition("with: ")[2])
    again = tmp_path / "again"
    builder.main(["--num-workers", "2", *words[2 : words.index("--output-dir")], "--output-dir", str(again)])
    assert contents(again) == contents(built)
    other = build(tmp_path / "other", *"--tier G --canvas 5 --num-aug 3 --seed 3".split())
    assert contents(other)["train/all__inputs.npy"] != contents(built)["train/all__inputs.npy"]


def test_a_folder_of_parts_is_replaced_as_a_whole_and_strangers_are_spared(tmp_path: Path) -> None:
    folder = build(tmp_path / "data", *"--tier P --hold-out cycle-types".split())
    build(folder, "--tier", "P", "--overwrite")
    assert sorted(path.name for path in folder.iterdir()) == ["held_out_rules", "identifiers.json", "test", "train"]
    (folder / "held_out_rules" / "notes.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(SystemExit):
        build(folder, "--tier", "P", "--overwrite")
    assert contents(folder) == before
    # Nor does a data set go that lies there like a part and was built by itself.
    (folder / "held_out_rules" / "notes.txt").unlink()
    shutil.copytree(folder / "held_out_rules", folder / "held_out_mine")
    for split in ("train", "test"):
        path = folder / "held_out_mine" / split / "dataset.json"
        path.write_text(path.read_text().replace("--tier P", "--tier M"))
    before = contents(folder)
    with pytest.raises(SystemExit):
        build(folder, "--tier", "P", "--overwrite")
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_killed_build_leaves_no_half_data_set(tmp_path: Path) -> None:
    """Killed when the second part begins, the folder is not there; the next build sweeps what is left."""
    program = (
        "import os, sys, dataset.build_mini_arc_dataset as b; write, calls = b.write_identifiers, []\n"
        "def dying(*given):\n    calls.append(1); write(*given)\n    if len(calls) == 2: os.kill(os.getpid(), 9)\n"
        "b.write_identifiers = dying; b.main(sys.argv[1:])"
    )
    words = [*SMALL, "--tier", "P", "--output-dir", str(tmp_path / "data")]
    ended = subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == -9 and not (tmp_path / "data").exists() and os.listdir(tmp_path)
    build(tmp_path / "data", "--tier", "P")
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--tier P --canvas 2", "--canvas 2: tier P has grids of at least 3 rows and columns, and a canvas has at most "
                                "30; give --canvas 3 to 30"),
        ("--tier M --canvas 3", "give --canvas 4 to 30"),
        ("--tier G --canvas 31", "give --canvas 4 to 30"),
        ("--tier M --min-side 3", "expected 4 <= min-side <= max-side <= 4, the canvas"),
        ("--tier P --canvas 6 --max-side 7", "expected 3 <= min-side <= max-side <= 6, the canvas"),
        ("--tier P --canvas 6 --min-side 5 --max-side 4", "--min-side 5 and --max-side 4"),
        ("--tier G --num-aug 48", "--num-aug 48, but a pair of tier G has 47 views; give fewer"),
        ("--tier X", "expected one of"),
        ("--canvas 0", "not a whole number from 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_built(words: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        build(tmp_path / "data", *words.split())
    said = capsys.readouterr().err
    assert end.value.code == 2 and not os.listdir(tmp_path)
    assert (says in said or "invalid choice" in said) and said.count("\n") <= 3


@pytest.mark.parametrize("augmentation", ["on-the-fly", "stored"])
def test_batches_of_fresh_pairs_and_of_stored_ones(augmentation: str, tmp_path: Path) -> None:
    """On the fly a batch is a function of (seed, position), its pairs obey their rules and are of no test class."""
    folder = build(tmp_path / "data", "--tier", "M", "--augmentation", augmentation)
    one, test = open_puzzle_set(folder, "train"), open_puzzle_set(folder, "test")
    assert test.metadata.task.augmentation is None
    assert one.descriptors is not None
    source = PuzzleSource([one], seed=0, global_batch_size=16, epochs_per_iteration=2)
    rule_of = dict(zip(one.puzzle_identifiers.tolist(), one.descriptors, strict=True))
    stored = {row.tobytes() for row in np.asarray(one.inputs)}
    position, seen = dict(START), []
    for _ in range(20):
        batch, after = source.next(position)
        other = PuzzleSource([one], seed=0, global_batch_size=16, epochs_per_iteration=2)
        assert all((batch[key] == leaf).all() for key, leaf in other.next(position)[0].items())
        rules = Rules(np.stack([rule_of[identifier] for identifier in batch["puzzle_identifiers"].tolist()]))
        inputs, labels = batch["inputs"].numpy(), batch["labels"].numpy().clip(0)
        assert np.array_equal(rules.apply(grids_of(inputs, 4)).cells, grids_of(labels, 4).cells)
        assert not np.isin(class_keys(inputs, 4), class_keys(np.asarray(test.inputs), 4)).any()
        seen += [row.tobytes() in stored for row in inputs.astype(np.uint8)]
        position = after
    assert all(seen) if augmentation == "stored" else np.mean(seen) < 0.1
    if augmentation == "on-the-fly":
        asis = PuzzleSource([one], seed=0, global_batch_size=16, epochs_per_iteration=2, augment="stored")
        assert all(row.tobytes() in stored for row in asis.next(dict(START))[0]["inputs"].numpy().astype(np.uint8))


@pytest.mark.parametrize("damage", ["missing", "shape", "columns", "values", "task", "augmentation"])
def test_folders_that_no_builder_wrote(damage: str, tmp_path: Path) -> None:
    folder = build(tmp_path / "data", "--tier", "P")
    path = folder / "train" / "all__descriptors.npy"
    found = np.load(path)
    changes = {
        "shape": found[:-1],
        "columns": found[:, :-1],
        "values": np.where(np.arange(found.shape[1]) == 0, 9, found).astype(np.int32),
    }
    if damage == "missing":
        path.unlink()
    elif damage in changes:
        np.save(path, changes[damage])
    elif damage == "task":
        edit_metadata(folder / "train", vocab_size=11)
    else:
        edit_metadata(folder / "train", augmentation={"kind": "mini_arc", "sides": [3, 5], "num_colours": 5})
    edit_metadata(folder / "train", sha256={})
    with pytest.raises(UserError, match="; build it again with: python dataset/build_mini_arc_dataset.py "):
        open_puzzle_set(folder, "train")


def test_the_advice_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"build one with: python dataset/build_mini_arc_dataset\.py --output-dir "):
        open_puzzle_set(tmp_path / "mini-arc-p", "train")
