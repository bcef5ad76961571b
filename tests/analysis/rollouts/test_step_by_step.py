"""Three puzzles step by step: which are chosen, what is drawn, on a real (tiny) run."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba_array

from analysis.figures.figure_files import GREEN, RED
from analysis.rollouts import step_by_step
from analysis.rollouts.step_by_step import Trace, choose, draw, shown_steps
from dataset.eval_batches import test_rows
from dataset.puzzle_folder import open_puzzle_set
from dataset.tasks import maze
from tests.dataset.folders import sudoku_task
from tests.helpers import train_here

TASK = sudoku_task((2, 3))
SOLUTION = TASK.parse("123456456123214365365214531642642531")


def trace(row: int, rating: int, wrong_per_step: list[int]) -> Trace:
    """An answer whose first cells are wrong (one digit too high), so many after each step."""
    answers = np.stack([SOLUTION] * len(wrong_per_step))
    for answer, wrong in zip(answers, wrong_per_step, strict=True):
        answer[:wrong] = (answer[:wrong] - 1) % 6 + 2
    puzzle = SOLUTION.copy()
    puzzle[:12] = 1
    return Trace(row, rating, 12, puzzle, SOLUTION, answers, np.full(len(answers), 0.25))


def test_choice() -> None:
    at_once, easy, hard = trace(0, 0, [0, 0]), trace(1, 0, [3, 0]), trace(2, 9, [5, 0])
    near, middle, far = trace(3, 1, [9, 1]), trace(4, 0, [9, 4]), trace(5, 2, [9, 9])
    assert (at_once.settled, easy.settled, hard.solved, far.solved) == (1, 2, True, False)
    pick = [item.row for item in choose([at_once, easy, hard, near, middle, far])]
    assert pick == [1, 2, 4]
    assert [item.row for item in choose([at_once])] == [0]
    assert {item.row for item in choose([near, middle, far])} == {3, 4, 5}
    assert {item.row for item in choose([at_once, easy, hard])} == {0, 1, 2}


def test_mazes_are_drawn_in_colours() -> None:
    """Every cell has that of its token, and one that is not as recorded is crossed out."""
    task = maze.Task(25, 6)
    puzzle = task.parse("S #" + " " * 21 + "G")
    known = puzzle.copy()
    known[[5, 10, 15, 20, 21, 22, 23]] = 5
    answers = np.stack([puzzle, known])
    answers[0, 3] = 0
    figure = draw([Trace(4, 8, 8, puzzle, known, answers, np.full(2, 0.5))], task)
    shown, first, second = figure.axes
    assert first.get_title().startswith("step 1: 8 wrong") and second.get_title().startswith("step 2: all right")
    for axes, tokens in zip((shown, first, second), (puzzle, *answers), strict=True):
        (image,) = axes.images
        assert np.allclose(image.get_array(), to_rgba_array(task.colours)[tokens].reshape(5, 5, 4))
    assert (len(shown.lines), len(first.lines), len(second.lines)) == (0, 8, 0)
    crossed = {(int(line.get_ydata().min()), int(line.get_xdata().min())) for line in first.lines}
    assert crossed == {divmod(cell, 5) for cell in [3, 5, 10, 15, 20, 21, 22, 23]}


@pytest.mark.parametrize("count", [1, 4, 8, 16, 64])
def test_columns(count: int) -> None:
    steps = shown_steps(count)
    assert steps[0] == 1 and steps[-1] == count and len(steps) == min(count, len(set(steps))) <= 8


def test_cells_have_the_colours_of_their_truth() -> None:
    figure = draw([trace(7, 3, [5, 2])], TASK)
    puzzle, first, second = figure.axes
    assert puzzle.get_title() == "test row 7\nrating 3, not solved"
    assert second.get_title() == "step 2: 2 wrong\nhalt 25%"
    colours = [to_hex(text.get_color()).upper() for text in second.texts]
    assert colours == [RED.upper()] * 2 + [GREEN.upper()] * 10 + ["#000000"] * 24
    assert [text.get_text() for text in second.texts] == [str(digit) for digit in [2, 3, *(SOLUTION[2:] - 1)]]
    assert [text.get_text() for text in puzzle.texts][:13] == [""] * 12 + ["2"]
    assert len(first.texts) == 36


def test_on_a_run(sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train_here("trm_mlp", sudoku6_folder, run, ["max_steps=2"])
    step_by_step.main([str(run / "best.pt"), "--device", "cpu"])
    record = json.loads((run / "figures" / "step_by_step.json").read_text())
    rows = test_rows(open_puzzle_set(sudoku6_folder, "test"), 8)
    assert len(record["traces"]) == 3 and all(item["row"] in rows for item in record["traces"])
    assert all(len(item["answers"]) == 4 and len(item["solution"]) == 36 for item in record["traces"])
    assert (run / "figures" / "step_by_step.png").read_bytes().startswith(b"\x89PNG")
    assert "of the 32 looked at, 0 are solved" in " ".join((run / "figures" / "step_by_step.txt").read_text().split())
    step_by_step.main([str(run), "--rows", "5", "--output-dir", str(tmp_path / "one")])
    (only,) = json.loads((tmp_path / "one" / "step_by_step.json").read_text())["traces"]
    assert only["row"] == 5
    for options, says in (
        (["--rows", "5"], "was made with --rows (not given), now 5: name another --output-dir"),
        (["--data-path", str(sudoku6_folder)], "was made of ../best.pt, now ../best.pt, "),
        (["--rows", "40"], "has test rows 0 to 39"),
        (["--max-rows", "0"], "expected at least 1"),
        (["--data-path", str(tmp_path / "nothing")], "nothing"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            step_by_step.main([str(run), *options])
        error = capsys.readouterr().err
        assert caught.value.code == 2 and says in error and error.count("\n") == 1
