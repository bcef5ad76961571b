"""predict.py on mazes: files it reads, what it prints of a drawing, what it refuses."""

import re
import shutil
from pathlib import Path

import pytest
import torch

import predict
from dataset.build_maze_dataset import main as build
from dataset.puzzle_folder import open_puzzle_set
from dataset.tasks.maze import Task
from errors import UserError
from tests.dataset.folders import edit_metadata
from tests.helpers import train_here

ROWS = ["S #  ", "     ", " ## #", "   # ", "##  G"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mazes") / "data"
    build(["--generate", "5", "--num-train", "64", "--test-size", "40", "--output-dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "maze"
    assert train_here("trm_att", data, folder, ["max_steps=2"]) == "done"
    return folder


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    predict.main([*options, "device=cpu"])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        predict.main(list(options))
    captured = capsys.readouterr()
    *warnings, error = captured.err.splitlines()
    assert caught.value.code == 2 and captured.out == "" and error.startswith("error: ")
    assert all(line.startswith("warning: ") for line in warnings)
    return error


def test_a_maze_is_read_in_either_form(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"rows": "\n".join(ROWS) + "\n", "line": "".join(ROWS) + "\n", "dots": "\n".join(ROWS).replace(" ", ".")}
    found = {}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        found[name] = printed(capsys, f"checkpoint={run}/best.pt", f"maze={tmp_path}/{name}")
    assert len({*found.values()}) == 1
    text = found["rows"]
    lines = text.splitlines()
    assert [line[:5] for line in lines[2:7]] == ROWS
    assert re.findall(r"step (\d)", text) == ["1", "2", "3", "4"] and text.count("halt 0.") == 4
    assert "\nmaze: the shortest path has 8 steps, and there is one\nanswer: " in text
    assert printed(capsys, f"checkpoint={run}/best.pt", f"puzzle_file={tmp_path}/rows") == text
    assert printed(capsys, f"checkpoint={run}/best.pt", f"puzzle={''.join(ROWS)}") == text


def test_a_row_of_the_test_set(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maze = open_puzzle_set(data, "test").inputs[3]
    text = printed(capsys, f"checkpoint={run}/best.pt", "row=3")
    assert Task(25, 6).draw(maze)[0].rstrip() == text.split("puzzle")[1].splitlines()[2][:5].rstrip()


def test_several_mazes_in_a_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two").write_text("\n".join(ROWS) + "\n\n" + "S" + " " * 23 + "G" + "\n")
    text = printed(capsys, f"checkpoint={run}/best.pt", f"puzzle_file={tmp_path}/two")
    assert "== puzzle 2 of 2" in text and "and there are 70 of them" in text
    assert "more than 1 puzzle; give fewer" in refused(capsys, f"checkpoint={run}/best.pt", f"maze={tmp_path}/two")


def test_verdicts_of_drawings() -> None:
    task = Task(25, 6)
    maze, open_square = task.parse("".join(ROWS)), task.parse("S" + " " * 23 + "G")
    known = task.known(maze)
    assert known.solution is not None
    assert predict.verdict(task, maze, known.solution, known).endswith(
        "and there is one\nanswer: SOLVED, the marked cells are those of a shortest path from S to G"
    )
    nothing = predict.verdict(task, maze, maze, known)
    assert "NOT solved; 7 of 16 blanks wrong (r2c1, r3c1, r4c1" in nothing and "no path from S to G is drawn" in nothing
    # Any of many shortest paths is one.
    answer = open_square.copy()
    answer[[1, 2, 3, 4, 9, 14, 19]] = 5
    assert "SOLVED" in predict.verdict(task, open_square, answer, task.known(open_square))
    answer[5] = 5
    assert predict.verdict(task, open_square, answer, task.known(open_square)).endswith(
        "NOT solved; a path is drawn, with 1 cells more than a shortest one has"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n".join(ROWS[:4]), ":1: begins a puzzle of 4 rows of 5 cells, expected 5 of 5"),
        ("\n".join([*ROWS[:4], "## G"]), ":5: has 4 cells where the row before has 5: rows end in their last cell"),
        ("\n".join(ROWS).replace("S", " "), ":1: the maze has no S"),
        ("\n".join(ROWS).replace("G", "S"), ":1: the maze has 2 S"),
        ("\n".join(ROWS).replace("   #", "####"), ":1: no path leads from S to G"),
        ("S   \n    \n    \n   G\n", ":1: begins a puzzle of 4 rows of 4 cells, expected 5 of 5"),
        ("\n".join(ROWS).replace("#", "X"), ":1: has 'X' at position 3, expected # for a wall"),
        ("", ": holds no puzzle"),
    ],
)
def test_files_that_are_no_maze(
    text: str, says: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "maze.txt").write_text(text)
    assert f"maze.txt{says}" in refused(capsys, f"checkpoint={run}/best.pt", f"maze={tmp_path}/maze.txt")


def test_checkpoints_of_other_puzzles(
    run: Path, data: Path, sudoku4_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another task, of mazes of another side, of another vocabulary: one line each."""
    (tmp_path / "maze.txt").write_text("\n".join(ROWS))
    assert train_here("trm_att", sudoku4_folder, tmp_path / "sudoku", ["max_steps=1"]) == "done"
    said = refused(capsys, f"checkpoint={tmp_path}/sudoku/best.pt", f"maze={tmp_path}/maze.txt")
    assert "answers sudoku with boxes of 2x2; name a network of mazes" in said
    build(["--generate", "4", "--num-train", "9", "--test-size", "9", "--output-dir", str(tmp_path / "four")])
    said = refused(capsys, f"checkpoint={run}/best.pt", "row=0", f"data_path={tmp_path}/four")
    assert "holds other puzzles than the model's: 16 cells of 6 tokens (maze of 4x4), expected 25 of 6" in said
    # Sixteen cells and six tokens are those of a 4x4 Sudoku too: the task tells them apart.
    assert "maze of 5x5" in said
    weights = torch.load(run / "best.pt", weights_only=True)
    weights["embed_tokens.embedding_weight"] = torch.zeros(9, 16)
    torch.save(weights, tmp_path / "other.pt")
    shutil.copy(run / "all_config.yaml", tmp_path)
    said = refused(capsys, f"checkpoint={tmp_path}/other.pt", f"maze={tmp_path}/maze.txt")
    assert "knows 9 tokens, but the puzzles of its data have 6" in said


def test_a_half_built_folder_names_its_builder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = shutil.copytree(data, tmp_path / "data")
    (broken / "train" / "all__labels.npy").unlink()
    with pytest.raises(UserError, match="python dataset/build_maze_dataset.py --generate 5"):
        train_here("trm_att", broken, tmp_path / "run", ["max_steps=1"])
    shutil.rmtree(broken / "train")
    with pytest.raises(UserError, match="not a finished data set; build it again with: python dataset/build_maze"):
        train_here("trm_att", broken, tmp_path / "run", ["max_steps=1"])
    other = shutil.copytree(data, tmp_path / "other")
    for split in ("train", "test"):
        edit_metadata(other / split, task="sudoku", augmentation=None)
    with pytest.raises(UserError, match="'task' is 'sudoku', expected one that fits seq_len 25 and vocab_size 6"):
        train_here("trm_att", other, tmp_path / "run", ["max_steps=1"])
