"""Tasks by themselves: how they are found, and that views, augmentation and text do what they say."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset import dihedral
from dataset.build_sudoku_dataset import main as build_sudoku
from dataset.find_task import find_task, official_shapes, recognised_task, task_names
from dataset.maze_generator import TEST_STREAM, Request, generate
from dataset.puzzle_folder import open_puzzle_set, recognised_tasks, write_puzzle_folder
from dataset.puzzle_metadata import PuzzleMetadata, read_metadata
from dataset.sudoku import BLANKS, BOXES, is_solution
from dataset.tasks import maze, plain, sudoku
from dataset.tasks.base import PuzzleTask, TaskError, Views
from errors import UserError
from tests.dataset.folders import edit_metadata, make_folder, sudoku_task
from tests.dataset.sudoku_reference import shuffled_board
from tests.dataset.tasks import opposites
from tests.helpers import train_here

OPPOSITES = opposites.Task(6, 4)
MAZE = maze.Task(36, 6, augmentation={"kind": "maze"})
TASKS = [*(sudoku_task(box) for box in BOXES.values()), OPPOSITES, MAZE]


def draws(seed: int, count: int) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, row]) for row in range(count)]


# -- symmetries


@pytest.mark.parametrize("task", TASKS, ids=str)
@given(seed=st.integers(0, 2**32), view=st.integers(1, 23))
def test_inverse_views_undo_views(task: PuzzleTask, seed: int, view: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, task.vocab_size, (5, task.seq_len)).astype(np.int32)
    views = task.views(view % (task.num_views or view + 1), draws(seed, 5))
    images = views.apply(tokens)
    assert np.array_equal(views.inverse().apply(images), tokens) and images.dtype == tokens.dtype
    assert np.array_equal(views.apply(views.inverse().apply(tokens)), tokens)
    assert np.array_equal(images == 0, np.take_along_axis(tokens == 0, views.cells, axis=1)), "padding stays padding"
    # What an image is made of, cell by cell.
    for image, row, cells, shown in zip(images, tokens, views.cells, views.tokens, strict=True):
        assert image.tolist() == [shown[row[cell]] for cell in cells]


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_views_of_no_rows(task: PuzzleTask) -> None:
    views = task.views(1, [])
    assert views.apply(np.zeros((0, task.seq_len), np.uint8)).shape == (0, task.seq_len)


@pytest.mark.parametrize(("task", "count"), [(OPPOSITES, 24), (MAZE, 8)], ids=str)
def test_every_view_of_a_finite_group_is_another_one(task: PuzzleTask, count: int) -> None:
    assert task.num_views == count
    row = np.array([[2, 3, 2, 1, 0, 3] * (task.seq_len // 6)])
    row[0, : task.seq_len // 9] = 4 % task.vocab_size
    images = {task.views(view, draws(0, 1)).apply(row).tobytes() for view in range(count)}
    assert len(images) == count and row.tobytes() in images


def solved_by_its_rules(task: PuzzleTask, labels: np.ndarray) -> np.ndarray:
    if isinstance(task, sudoku.Task):
        return is_solution(labels - 1, task.box)
    return task.violations(labels) == 0


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_label_drawn_solves_the_input_drawn_with_it(task: PuzzleTask) -> None:
    inputs, labels = opposites.all_puzzles()
    if isinstance(task, maze.Task):
        mazes = generate(Request(task.side, 0, 5, 0.3, unique=False), TEST_STREAM, 0)
        inputs, labels = mazes.inputs, mazes.labels
    if isinstance(task, sudoku.Task):
        labels = np.stack([shuffled_board(task.box, np.random.default_rng(row)) for row in range(64)]) + 1
        inputs = np.where(np.random.default_rng(0).random(labels.shape) < 0.4, labels, 1)
    drawn, solutions = task.augment(inputs, labels, np.random.default_rng(3))
    assert (drawn.shape, drawn.dtype, solutions.dtype) == (inputs.shape, inputs.dtype, labels.dtype)
    assert solved_by_its_rules(task, solutions).all() and (task.violations(solutions) == 0).all()
    given_cells = task.filled(drawn)
    assert np.array_equal(drawn[given_cells], solutions[given_cells])
    assert (given_cells.sum(axis=1) == task.filled(inputs).sum(axis=1)).all() and (drawn != inputs).any()
    # With a label of another puzzle the same check fails.
    assert (drawn[given_cells] != np.roll(solutions, 1, axis=0)[given_cells]).any()


def test_a_plain_task_has_nothing() -> None:
    task = plain.Task(10, 7)
    tokens = np.arange(10)[None] % 7
    assert (task.blank, task.num_views, task.judges(), task.rules) == (None, 1, (), None)
    assert task.baselines(tokens, 3) == {} and task.difficulty(tokens) is None
    assert task.filled(tokens)[0].tolist() == [token != 0 for token in tokens[0]]
    with pytest.raises(ValueError, match="plain has no view 1"):
        task.views(1, draws(0, 1))


# -- rules and text


@pytest.mark.parametrize("box", sorted(BOXES.values()), ids=str)
def test_sudoku_faults_and_violations_agree(box: tuple[int, int]) -> None:
    task = sudoku_task(box)
    answer = shuffled_board(box, np.random.default_rng(1)) + 1
    puzzle = np.where(np.random.default_rng(2).random(len(answer)) < 0.6, answer, 1)
    assert task.faults(puzzle, answer) == [] and task.violations(answer[None]).tolist() == [0]
    for cell in range(0, len(answer), 5):
        wrong = answer.copy()
        wrong[cell] = 2 + (wrong[cell] - 1) % (task.vocab_size - 2)
        assert task.violations(wrong[None])[0] > 0
        assert ("1 givens changed" in task.faults(puzzle, wrong)) == (puzzle[cell] != 1)
        assert any("stands twice in" in fault for fault in task.faults(puzzle, wrong))
    assert task.faults(puzzle, np.where(puzzle == 1, 0, answer)) == [f"{(puzzle == 1).sum()} cells without a digit"]
    baseline = task.baselines(puzzle[None], 4)["copy_givens"]
    assert np.array_equal(baseline.answers[0], np.where(puzzle == 1, 4, puzzle))
    assert baseline.guessed is not None and np.array_equal(baseline.guessed[0], puzzle == 1)
    assert task.difficulty(puzzle[None]).tolist() == [(puzzle == 1).sum()]


def test_a_sudoku_is_drawn_with_its_boxes() -> None:
    task = sudoku_task((2, 3))
    lines = task.draw(task.parse("1234....5..........................6"))
    assert lines[:4] == ["1 2 3 | 4 . .", ". . 5 | . . .", "------+------", ". . . | . . ."]
    assert len(lines) == 8


@pytest.mark.parametrize("task", [*TASKS, plain.Task(9, 12), plain.Task(7, 5)], ids=str)
def test_what_is_drawn_is_read_back(task: PuzzleTask) -> None:
    tokens = np.random.default_rng(0).integers(1, task.vocab_size, task.seq_len)
    if isinstance(task, sudoku.Task):
        tokens = np.where(np.arange(task.seq_len) % 3 == 0, shuffled_board(task.box, np.random.default_rng(1)) + 1, 1)
    if isinstance(task, maze.Task):
        tokens = generate(Request(task.side, 0, 5, 0.3, unique=False), TEST_STREAM, 0).inputs[0]
    for text in ("\n".join(task.draw(tokens)), "".join(task.symbols(tokens))):
        assert task.parse(text).tolist() == tokens.tolist()
    dressed = task.draw(tokens, lambda cell, symbol: f"<{symbol}>")
    assert [re.sub("[<>]", "", line) for line in dressed] == task.draw(tokens)
    assert "".join(dressed).count("<") == task.seq_len
    with pytest.raises(ValueError, match=f"characters, expected {task.seq_len}"):
        task.parse("1")


@pytest.mark.parametrize("blank", BLANKS)
def test_a_sudoku_is_read_with_any_blank(blank: str) -> None:
    """Also drawn, where a dash may be a rule: it is a blank only in a text that is no puzzle without it."""
    task = sudoku_task((2, 3))
    tokens = task.parse("1234....5..........................6")
    text = "".join(task.symbols(tokens)).replace(".", blank)
    assert np.array_equal(task.parse(text), tokens)
    assert np.array_equal(task.parse(" ".join(text[:18]) + "\n" + text[18:]), tokens)
    if blank != "-":
        assert np.array_equal(task.parse("\n".join(task.draw(tokens)).replace(".", blank)), tokens)


def test_a_large_vocabulary_has_no_text_of_one_character() -> None:
    task = plain.Task(4, 100)
    assert task.draw(np.array([1, 99, 5, 70])) == [" 1 99", " 5 70"]
    with pytest.raises(ValueError, match="100 tokens of plain have no characters"):
        task.parse("1234")


# -- which task a folder holds


def without_keys(folder: Path) -> Path:
    """The folder as an official builder would have left it."""
    for split in ("train", "test"):
        if (folder / split).exists():
            edit_metadata(folder / split, task=..., augmentation=..., sha256=..., build=..., rating=...)
    return folder


@pytest.mark.parametrize("size", sorted(BOXES))
def test_official_sudokus_are_recognised(size: str, tmp_path: Path) -> None:
    make_folder(tmp_path, puzzles_per_group=[1] * 5, examples_per_puzzle=[1] * 5, box=BOXES[size])
    metadata = read_metadata(without_keys(tmp_path), "train")
    assert isinstance(metadata.task, sudoku.Task) and metadata.task.box == BOXES[size]
    assert metadata.task.augmentation is None and metadata.task.judges() == ("sudoku",)
    (line,) = recognised_tasks([open_puzzle_set(tmp_path, "train")] * 2)
    n = int(size[0])
    assert line == (
        f"{tmp_path} names no task: {n * n} cells of {n + 2} tokens are taken for sudoku with boxes of "
        f"{BOXES[size][0]}x{BOXES[size][1]}"
    )


def write_other(root: Path, **extra: object) -> Path:
    """Five rows of ten cells and six tokens: no known shape."""
    metadata = PuzzleMetadata(seq_len=10, vocab_size=6, total_groups=5, total_puzzles=5, extra=dict(extra))
    tokens = np.arange(50).reshape(5, 10) % 5 + 1
    arrays = {"inputs": tokens, "labels": tokens, "puzzle_identifiers": np.zeros(5)}
    arrays |= {"puzzle_indices": np.arange(6), "group_indices": np.arange(6)}
    write_puzzle_folder(root, "train", metadata=metadata, arrays=arrays)
    return root


def test_any_other_folder_is_plain(tmp_path: Path) -> None:
    opened = open_puzzle_set(write_other(tmp_path), "train")
    assert type(opened.metadata.task) is plain.Task and recognised_tasks([opened]) == []
    assert find_task({"task": "plain"}, 36, 8).name == "plain", "a folder may deny its shape"


def test_a_shape_of_two_tasks_says_nothing(other_task: Callable[[str], None]) -> None:
    assert recognised_task(36, 8) == "sudoku" and official_shapes(8) == [("sudoku", 36)]
    source = "from dataset.tasks.base import PuzzleTask\nclass Task(PuzzleTask):\n    official_shapes = ((36, 8),)\n"
    other_task(source)
    assert {"other", "plain", "sudoku"} < {*task_names()} and recognised_task(36, 8) == "plain"
    assert find_task({"task": "other"}, 36, 8).name == "other"


@pytest.mark.parametrize("name", ["sodoku", "", "base", "../plain", "os", 3, ["sudoku"], True, {}])
def test_an_unknown_task_is_refused(name: object, tmp_path: Path) -> None:
    edit_metadata(write_other(tmp_path) / "train", task=name)
    expected = f"expected one of {', '.join(task_names())}; build one with"
    with pytest.raises(UserError, match=f"'task' is .*, {expected}") as caught:
        open_puzzle_set(tmp_path, "train")
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)


def test_a_task_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'task' is 'sudoku', expected one that fits seq_len 10 and vocab_size 6"):
        write_other(tmp_path, task="sudoku")
    with pytest.raises(ValueError, match="'augmentation' is .*, expected null, since the task plain draws nothing"):
        write_other(tmp_path, task="plain", augmentation={"kind": "plain"})
    with pytest.raises(TaskError, match='null or {"kind": "opposites"}'):
        opposites.Task(6, 4, augmentation={"kind": "sudoku"})


@pytest.mark.parametrize(("seq_len", "vocab_size"), [(24, 6), (1, 6), (25, 7), (900, 12)])
def test_a_maze_is_a_square_of_its_tokens(seq_len: int, vocab_size: int) -> None:
    with pytest.raises(TaskError, match=f"'task': expected one that fits seq_len {seq_len} and vocab_size"):
        maze.Task(seq_len, vocab_size)


def test_mazes_alike_have_one_key() -> None:
    """Turned and mirrored they do, other ones do not."""
    mazes = generate(Request(6, 0, 5, 0.3, unique=False), TEST_STREAM, 0).inputs[:100]
    keys = MAZE.equivalence_keys(mazes)
    assert len({*keys.tolist()}) == len({row.tobytes() for row in dihedral.smallest_images(mazes, 6)}) > 90
    for view in range(8):
        assert np.array_equal(MAZE.equivalence_keys(MAZE.views(view, draws(0, 100)).apply(mazes)), keys)


def test_what_is_said_of_a_maze() -> None:
    task = maze.Task(25, 6)
    puzzle = task.parse("S #..\n     \n ## #\n   # \n##  G\n")
    assert task.draw(puzzle) == ["S #  ", "     ", " ## #", "   # ", "##  G"]
    known = task.known(puzzle)
    assert known.about == "maze: the shortest path has 8 steps, and there is one" and known.solution is not None
    right = known.solution
    assert task.symbols(right) == list("S #  o    o## #ooo# ##ooG") and task.faults(puzzle, right) == []
    assert task.faults(puzzle, puzzle) == ["no path from S to G is drawn"]
    round_about, through = right.copy(), right.copy()
    round_about[[1, 6]] = 5
    assert task.faults(puzzle, round_about) == ["a path is drawn, with 2 cells more than a shortest one has"]
    through[21] = 5
    assert task.faults(puzzle, through) == ["1 cells of the maze changed"]
    assert task.difficulty(puzzle[None]).tolist() == [8]
    marked = task.baselines(puzzle[None], 1)["mark_all_free"].answers[0]
    assert ((marked == 5) == (puzzle == 2)).all() and np.array_equal(marked[puzzle != 2], puzzle[puzzle != 2])
    small = maze.Task(9, 6)
    many = small.known(small.parse("S       G"))
    assert many.about == "maze: the shortest path has 4 steps, and there are 6 of them" and many.solution is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("        G", "the maze has no S, expected one S and one G"),
        ("S       S", "the maze has 2 S"),
        ("S###    G", "no path leads from S to G"),
        ("S  o    G", "the maze has a path drawn in (o)"),
        ("S  x    G", "character 'x' at position 4, expected # for a wall"),
        ("S       ", "8 characters, expected 9"),
    ],
)
def test_texts_that_are_no_maze(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        maze.Task(9, 6).parse(text)
    assert says in str(caught.value)


def test_an_augmentation_names_the_task_too() -> None:
    task = find_task({"augmentation": {"kind": "sudoku", "box": [1, 5]}}, 25, 7)
    assert isinstance(task, sudoku.Task) and task.box == (1, 5) and task.augmentation_identity == [1, 5]


def test_an_official_folder_keeps_the_yardstick_of_its_guards(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accuracy is compared with the best trivial predictor: with copied givens, task key or not."""
    found = {}
    for name in ("named", "official"):
        data = shutil.copytree(sudoku6_folder, tmp_path / name)
        edit_metadata(data / "train", augmentation=None)
        if name == "official":
            without_keys(data)
        train_here("trm_att", data, tmp_path / f"run-{name}", ["max_steps=2", "eval_interval=1", "epochs=1"])
        lines = capsys.readouterr().out.splitlines()
        assert sum("names no task" in line for line in lines) == (name == "official")
        summary = json.loads((tmp_path / f"run-{name}" / "summary.json").read_text())
        metrics = [json.loads(line) for line in (tmp_path / f"run-{name}" / "metrics.jsonl").read_text().splitlines()]
        margins = [line["guard/margin_over_baselines"] for line in metrics if "guard/margin_over_baselines" in line]
        found[name] = (summary["baselines"], margins)
    assert found["named"] == found["official"]
    baselines, margins = found["official"]
    assert max(baselines, key=lambda name: baselines[name]["accuracy"]) == "copy_givens" and margins


def test_folders_with_ratings_say_what_they_count(tmp_path: Path) -> None:
    build_sudoku(["--generate", "4x4", "--num-train", "6", "--test-size", "5", "--output-dir", str(tmp_path / "data")])
    assert read_metadata(tmp_path / "data", "train").task.rating_meaning == "guesses a search needs"
    assert sudoku.Task(16, 6, rating="published").rating_meaning == "as published"
    assert sudoku.Task(16, 6).rating_meaning is None


def test_views_are_read_as_they_are_said() -> None:
    views = Views(np.array([[2, 0, 1]]), np.array([[0, 3, 1, 2]]))
    assert views.apply(np.array([[1, 2, 0]], np.uint8)).tolist() == [[0, 3, 1]]
