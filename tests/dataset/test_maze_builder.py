"""The maze builder: the official bytes, the generator, what it refuses."""

import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dataset.build_maze_dataset as builder
from dataset import dihedral, maze_collect
from dataset.maze import FREE, WALL, judged, solved
from dataset.maze_generator import TEST_STREAM, Request, generate
from dataset.puzzle_folder import ARRAYS, PuzzleSet, open_puzzle_set
from dataset.puzzle_metadata import RebuildHint
from dataset.tasks.maze import Task
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "golden" / "maze"


def build(*words: object) -> None:
    builder.main([str(word) for word in words])


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """The one line with which a build ends, and nothing left behind."""

    def run(*words: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as end:
            build(*words, "--output-dir", tmp_path / "data")
        said = capsys.readouterr()
        assert end.value.code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return said.err

    return run


def both(folder: Path) -> list[PuzzleSet]:
    return [open_puzzle_set(folder, split) for split in ("train", "test")]


# -- as published


@pytest.mark.parametrize("how", ["no-aug", "aug"])
def test_the_official_bytes(how: str, tmp_path: Path) -> None:
    build("--input-dir", GOLDEN, f"--{how}", "--output-dir", tmp_path / "data")
    for split in ("train", "test"):
        official, here = GOLDEN / f"trm_{how}" / split, tmp_path / "data" / split
        for name in ARRAYS:
            assert (here / f"all__{name}.npy").read_bytes() == (official / f"all__{name}.npy").read_bytes()
        described, expected = (json.loads((folder / "dataset.json").read_text()) for folder in (here, official))
        assert {key: described[key] for key in expected} == expected
    names = tmp_path / "data" / "identifiers.json", GOLDEN / f"trm_{how}" / "identifiers.json"
    assert names[0].read_bytes() == names[1].read_bytes()


def test_lengths_and_numbers_of_shortest_paths_are_stored(tmp_path: Path) -> None:
    """Those that the makers of the golden mazes counted; an image has those of its maze."""
    build("--input-dir", GOLDEN, "--aug", "--output-dir", tmp_path / "data")
    train, test = both(tmp_path / "data")
    assert train.ratings is not None and train.answer_counts is not None and test.answer_counts is not None
    assert train.ratings[::8].tolist() == [149, 112, 115, 136, 110, 110, 113, 117]
    assert train.answer_counts[::8].tolist() == [1, 71508096, 88646400, 1, 6048, 41472, 1, 2612736]
    assert test.answer_counts.tolist() == [147456, 1, 854841600, 111767040]
    assert np.array_equal(train.answer_counts, np.repeat(train.answer_counts[::8], 8))
    assert train.metadata.task.rating_meaning == "steps of a shortest path"
    described = json.loads((tmp_path / "data" / "train" / "dataset.json").read_text())
    command = "python dataset/build_maze_dataset.py --aug --input-file train.csv test.csv --seed 0"
    assert described["build"]["command"] == command


def test_an_official_folder_is_known_by_its_shape() -> None:
    opened = open_puzzle_set(GOLDEN / "trm_aug", "train")
    assert isinstance(opened.metadata.task, Task) and opened.metadata.task.judges() == ("maze",)
    assert opened.answer_counts is None


def test_a_subsample_is_chosen_by_the_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build("--input-dir", GOLDEN, "--subsample-size", 3, "--seed", seed, "--output-dir", tmp_path / name)
    a, b, c = (open_puzzle_set(tmp_path / name, "train") for name in "abc")
    official = {row.tobytes() for row in open_puzzle_set(GOLDEN / "trm_no-aug", "train").inputs}
    assert len(a.inputs) == 3 and {row.tobytes() for row in a.inputs} < official
    assert np.array_equal(a.inputs, b.inputs) and not np.array_equal(a.inputs, c.inputs)


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = [f"made,{question},{answer},7" for question, answer in rows]
    path.write_text("\n".join(["source,question,answer,rating", *lines]) + "\n")
    return path


def golden_rows(split: str) -> list[tuple[str, str]]:
    lines = (GOLDEN / f"{split}.csv").read_text().splitlines()[1:]
    return [(line.split(",")[1], line.split(",")[2]) for line in lines]


def test_images_of_test_mazes_are_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = golden_rows("train"), golden_rows("test")
    turned = ["".join(np.array(list(text))[dihedral.sources(30)[3]]) for text in test[1]]
    files = [
        write_csv(tmp_path / "train.csv", [*train[:3], (turned[0], turned[1]), train[0], train[3]]),
        write_csv(tmp_path / "test.csv", test),
    ]
    build("--input-file", *files, "--output-dir", tmp_path / "data")
    assert "note: 2 mazes were dropped from train (repeated, or an image of one in test)" in capsys.readouterr().out
    opened = both(tmp_path / "data")
    assert [len(each.inputs) for each in opened] == [4, 4]
    forms = [{row.tobytes() for row in dihedral.smallest_images(np.asarray(each.inputs), 30)} for each in opened]
    assert not forms[0] & forms[1]


def test_one_file_is_cut_with_images_on_one_side(tmp_path: Path) -> None:
    rows = golden_rows("train")
    images = [
        ("".join(np.array(list(question))[source]), "".join(np.array(list(answer))[source]))
        for question, answer in rows[:4]
        for source in dihedral.sources(30)[[0, 5]]
    ]
    file = write_csv(tmp_path / "mine.csv", [*images, *rows[4:]])
    build("--input-file", file, "--test-size", 4, "--output-dir", tmp_path / "data")
    train, test = both(tmp_path / "data")
    assert (len(train.inputs), len(test.inputs)) == (8, 4)
    forms = [{row.tobytes() for row in dihedral.smallest_images(np.asarray(each.inputs), 30)} for each in (train, test)]
    assert not forms[0] & forms[1]


# -- mazes as text


def test_mazes_as_text_are_solved_and_drawn_into(tmp_path: Path) -> None:
    """Three mazes of 3x3: on three lines, on one, and with dots; packed too."""
    text = "S# \n   \n# G\n\nS       G\n\nG.#\n..#\n#.S\n"
    with gzip.open(tmp_path / "mine.txt.gz", "wt") as file:
        file.write(text)
    build("--input-file", tmp_path / "mine.txt.gz", "--test-size", 1, "--output-dir", tmp_path / "data")
    found = both(tmp_path / "data")
    inputs, labels = (np.concatenate([getattr(each, name) for each in found]) for name in ("inputs", "labels"))
    assert judged(inputs, labels).shortest.all() and len(inputs) == 3
    counts = np.concatenate([each.answer_counts for each in found if each.answer_counts is not None])
    assert sorted(counts.tolist()) == [2, 2, 6]
    assert all(each.metadata.task.augmentation == {"kind": "maze"} for each in found), "drawn on the fly"


def test_as_many_whole_mazes_as_a_larger_one_has_rows(tmp_path: Path) -> None:
    """Nine lines of nine cells: nine mazes of 3x3 where each has its ends, one of 9x9 where they are rows."""
    goals = [0, 1, 2, 3, 5, 6, 7, 8, 0]
    lines = ["".join({4: "S", goal: "G"}.get(cell, " ") for cell in range(9)) for goal in goals]
    (tmp_path / "nine.txt").write_text("\n".join(lines))
    build("--input-file", tmp_path / "nine.txt", "--output-dir", tmp_path / "data")
    assert open_puzzle_set(tmp_path / "data", "train").metadata.seq_len == 9
    row = " " * 9 + "\n"
    (tmp_path / "rows.txt").write_text("S       G\n" + 8 * row + "\nS        \n" + 7 * row + "        G\n")
    build("--input-file", tmp_path / "rows.txt", "--output-dir", tmp_path / "rows")
    assert open_puzzle_set(tmp_path / "rows", "train").metadata.seq_len == 81


# -- generated


@pytest.mark.parametrize("unique", [False, True])
def test_generated_mazes_are_what_was_asked_for(unique: bool) -> None:
    mazes = generate(Request(side=9, seed=3, min_path=12, wall_density=0.3, unique=unique), TEST_STREAM, 0)
    assert len(mazes.inputs) > 50 and (mazes.steps >= 12).all()
    assert judged(mazes.inputs, mazes.labels).shortest.all()
    assert np.array_equal(solved(mazes.inputs)[0], mazes.steps)
    assert (mazes.paths == 1).all() if unique else (mazes.paths > 1).mean() > 0.5
    walls, free = (mazes.inputs == WALL).mean(), (mazes.inputs == FREE).mean()
    assert 0.2 < walls < 0.45 and free > 0.4


def test_long_paths_of_the_published_kind() -> None:
    request = Request(side=30, seed=0, min_path=110, wall_density=0.36, unique=False)
    found = generate(request, TEST_STREAM, 0)
    assert len(found.steps) > 0 and (found.steps >= 110).all() and np.median(found.paths) > 1000


@pytest.mark.parametrize("workers", [1, 2])
def test_same_options_same_bytes(workers: int, tmp_path: Path) -> None:
    words = ["--generate", 6, "--num-train", 40, "--test-size", 20, "--min-path", 9, "--unique", "--seed", 5]
    build(*words, "--output-dir", tmp_path / "one")
    build(*words, "--num-workers", workers, "--output-dir", tmp_path / "other")
    build(*words[:-1], 6, "--output-dir", tmp_path / "seed")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 17
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes() for file in files)
    assert not np.array_equal(*(open_puzzle_set(tmp_path / name, "train").inputs for name in ("one", "seed")))


def test_no_generated_maze_is_an_image_of_another(tmp_path: Path) -> None:
    """So small that images meet by chance: of 3x3 with a path of four steps there are few."""
    words = ["--generate", "3x3", "--min-path", 4, "--num-train", 30, "--test-size", 10]
    build(*words, "--output-dir", tmp_path / "data")
    mazes = np.concatenate([np.asarray(each.inputs) for each in both(tmp_path / "data")])
    assert len({row.tobytes() for row in dihedral.smallest_images(mazes, 3)}) == len(mazes) == 40
    raw = generate(Request(3, 0, 4, 0.36, False), TEST_STREAM, 0).inputs
    assert len({row.tobytes() for row in dihedral.smallest_images(raw, 3)}) < len(raw), "they do meet"


def test_what_is_out_of_reach_is_said(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maze_collect, "_PATIENCE", 2)
    said = refused("--generate", 3, "--min-path", 9)
    assert "only 0 of 1,000 mazes of 3x3 with a path of at least 9 steps" in said and "--min-path" in said


# -- what is refused


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--aug", "true"], "'--aug true' is written --aug here, without a value"),
        (["--aug=True"], "'--aug=True' is written --aug here"),
        (["--aug", "false"], "'--aug false' is written --no-aug here"),
        (["--generate", "30", "--input-dir", "x"], "--generate and --input-dir name two sources"),
        (["--min-path", "9"], "--min-path is for generated mazes; add --generate 30"),
        (["--unique"], "--unique is for generated mazes"),
        (["--generate", "10x12"], "'10x12' is not the side of a square"),
        (["--generate", "1"], "expected a side from 2 to 200"),
        (["--generate", "9", "--wall-density", "1"], "'1' is not a share from 0 to below 1"),
        (["--generate", "9", "--aug", "--augmentation", "on-the-fly"], "--aug asks for them; give one of them"),
        (["--subsample-size", "0"], "is not a whole number from 1"),
        (["--input-file", "nowhere.csv"], "nowhere.csv: there is no such file"),
        (["--agu"], "unknown flag '--agu', the nearest is --aug"),
    ],
)
def test_mistakes(words: list[str], says: str, refused: Callable[..., str]) -> None:
    assert says in refused(*words)


@pytest.mark.parametrize(
    ("question", "answer", "says"),
    [
        (" # #    G", "o# #ooooG", "the maze has no S, expected one S and one G"),
        ("S# #     ", "S# #     ", "the maze has no G"),
        ("S# #   SG", "S# #   SG", "the maze has 2 S"),
        ("SG #    G", "SG #    G", "the maze has 2 G"),
        ("S#####  G", "S#####  G", "no path leads from S to G"),
        ("S# #o   G", "S# #ooooG", "the maze has a path drawn in (o)"),
        ("S#  #   G", "S#  #   G", "has an answer that draws no path from S to G"),
        ("S#     G ", "So   o Go", "has an answer that changes the maze"),
        ("S#      G", "S# o ooG", "has a answer of 8 characters, expected 9"),
        ("S#     G", "S#     G", "has a question of 8 characters, expected n*n"),
        ("S#  x   G", "S#  x   G", "has 'x' in its answer, expected"),
    ],
)
def test_rows_that_are_no_mazes(
    question: str, answer: str, says: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    good = [("S        "[:8] + "G", "S  o  oo"[:8] + "G")]
    rows = [(question, answer)] if "n*n" in says else [*good, (question, answer)]
    assert says in refused("--input-file", write_csv(tmp_path / "mine.csv", rows))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("S  \n   \n  \n", "mine.txt:3: has 2 cells where the row before has 3: rows end in their last cell"),
        ("S  \n   \n  G\n\nS   \n    \n    \n   G\n", "5: begins a puzzle of 4 rows of 4 cells, expected 3 of 3"),
        ("S  \n   \n  G\n\nS  \n  G\n", "5: begins a puzzle of 2 rows of 3 cells, expected 3 of 3"),
        ("S  \n   \n   \n", "mine.txt:1: the maze has no G"),
        ("S  \n S \n  G\n", "mine.txt:1: the maze has 2 S"),
        ("S  \n###\n  G\n", "mine.txt:1: no path leads from S to G"),
        ("S  \n x \n  G\n", "mine.txt:2: has 'x' at position 2, expected # for a wall"),
        ("\n\n", "holds no puzzle"),
        ("S   G\n", "a puzzle of 5 cells is no square"),
        ("S  \n   \n  G\n", "the input holds 1 different puzzle, expected at least 2"),
    ],
)
def test_texts_that_are_no_mazes(text: str, says: str, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(text)
    assert says in refused("--input-file", tmp_path / "mine.txt")


def test_files_of_other_sides_are_not_mixed(refused: Callable[..., str], tmp_path: Path) -> None:
    small = write_csv(tmp_path / "train.csv", [("S      G ", "SooooooG ")])
    test = shutil.copy(GOLDEN / "test.csv", tmp_path)
    assert "train.csv:2: has a answer of 9 characters, expected 900" in refused("--input-file", small, test)


def test_without_a_network_it_is_said_what_to_do(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(repo: str, *args: object, **kwargs: object) -> str:
        assert repo == "sapientinc/maze-30x30-hard-1k"
        raise ConnectionError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    said = refused()
    assert "by hand into a folder and pass --input-dir FOLDER, or make mazes of that kind with --generate 30" in said


def test_a_killed_build_leaves_nothing_of_its_name(tmp_path: Path) -> None:
    """The folder appears complete or not at all; the next build sweeps what the killed one left."""
    code = (
        "import os, dataset.build_maze_dataset as b\n"
        "real = b._write_split\n"
        "def half(folder, split, *rest):\n"
        "    real(folder, split, *rest)\n"
        "    os.kill(os.getpid(), 9)\n"
        "b._write_split = half\n"
        f"b.main(['--generate', '5', '--num-train', '4', '--test-size', '2', '--output-dir', {str(tmp_path / 'd')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True)
    assert done.returncode == -9 and not (tmp_path / "d").exists() and len(list(tmp_path.iterdir())) == 1
    build("--generate", 5, "--num-train", 4, "--test-size", 2, "--output-dir", tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["d"] and len(both(tmp_path / "d")) == 2


def test_what_it_was_built_with_builds_it_again(tmp_path: Path) -> None:
    build("--generate", 5, "--num-train", 4, "--test-size", 2, "--unique", "--output-dir", tmp_path / "data")
    before = open_puzzle_set(tmp_path / "data", "train").inputs[:].tobytes()
    (tmp_path / "data" / "train" / "all__inputs.npy").unlink()
    command = str(RebuildHint(tmp_path / "data")).partition("with: ")[2]
    words = shlex.split(command)
    assert words[:2] == ["python", "dataset/build_maze_dataset.py"]
    build(*words[2:])
    assert open_puzzle_set(tmp_path / "data", "train").inputs[:].tobytes() == before
    assert "python dataset/build_maze_dataset.py --output-dir" in str(RebuildHint(tmp_path / "maze-none"))
