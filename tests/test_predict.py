"""predict.py: what it reads, what it prints, and that the solver's verdict is the right one."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import evaluate
import predict
from dataset.puzzle_folder import open_puzzle_set
from dataset.sudoku import board_text, boards_from_tokens, parse_board, tokens_from_boards
from dataset.tasks.sudoku import conflict_text
from tests.dataset.folders import edit_metadata, sudoku_task
from tests.helpers import train_here
from training.inference.stepwise import StepwisePredictions

BOX = (2, 3)
TASK = sudoku_task(BOX)
SOLUTION = "123456456123214365365214531642642531"
PUZZLE = ".2345645612321436536521453164264253."


@pytest.fixture(scope="module")
def run(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "att"
    assert train_here("trm_att", sudoku6_folder, folder, ["max_steps=6"]) == "done"
    return folder


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    predict.main([*options, "device=cpu"])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as caught:
        predict.main(list(options))
    captured = capsys.readouterr()
    assert caught.value.code == 2 and captured.out == ""
    *warnings, error = captured.err.splitlines()
    assert error.startswith("error: ")
    assert all(line.startswith("warning: ") for line in warnings)
    return error


def judged(puzzle: str, answer: str) -> str:
    tokens = tokens_from_boards(parse_board(puzzle, BOX))  # not the task's own reading, which refuses conflicts
    return predict.verdict(TASK, tokens, tokens_from_boards(parse_board(answer, BOX)), TASK.known(tokens))


def test_verdicts() -> None:
    right = judged(PUZZLE, SOLUTION)
    assert right.startswith("puzzle: one solution, rating 0") and "answer: SOLVED" in right
    wrong = judged(PUZZLE, "3" + SOLUTION[1:])
    assert "NOT solved; 1 of 2 blanks wrong (r1c1); 3 stands twice in row 1" in wrong
    assert "1 givens changed" in judged(PUZZLE, SOLUTION[0] + "3" + SOLUTION[2:])
    assert "1 cells without a digit" in judged(PUZZLE, "." + SOLUTION[1:])
    empty = "." * 36
    assert "more than one solution" in judged(empty, SOLUTION) and "answer: SOLVED" in judged(empty, SOLUTION)
    # Row 1 leaves 6 for its last cell, and column 6 has one already.
    impossible = "12345." + "." * 24 + ".....6"
    assert judged(impossible, SOLUTION).startswith("puzzle: it has no solution")


def test_conflicts_are_named() -> None:
    assert conflict_text(parse_board(SOLUTION, BOX), BOX) == ""
    assert conflict_text(parse_board("11" + "." * 34, BOX), BOX) == "1 stands twice in row 1"
    assert conflict_text(parse_board("1....." * 2 + "." * 24, BOX), BOX) == "1 stands twice in column 1"
    assert conflict_text(parse_board("1......1" + "." * 28, BOX), BOX) == "1 stands twice in box 1"


def test_grid_is_the_ruled_board_and_colours_change_no_cell() -> None:
    tokens = TASK.parse(PUZZLE)
    plain = TASK.draw(tokens)
    right = np.arange(36) % 2 == 0
    styled = predict.grid_lines(TASK, tokens, givens=TASK.filled(tokens), right=right, changed=right)
    assert [re.sub(r"\033\[\d+m", "", line) for line in styled] == plain
    assert predict.RED in styled[0] and predict.GREEN in styled[0] and predict.UNDERLINE in styled[0]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_panels_fit_the_line(width: int) -> None:
    panels = [(f"step {i}", "halt 0.5", ["." * 13] * 3) for i in range(7)]
    lines = predict.side_by_side(panels, 13, width)
    assert max(map(len, lines)) <= width
    assert "".join(lines).count("." * 13) == 21


def test_puzzles_in_files(tmp_path: Path) -> None:
    tokens = TASK.parse(PUZZLE)
    drawn = "\n".join(TASK.draw(tokens))
    file = tmp_path / "puzzles.txt"
    for text in (PUZZLE, f"# a grid\n\n{drawn}\n", PUZZLE.replace(".", "0") + " # one", f"\ufeff{PUZZLE}\r"):
        file.write_text(text)
        assert np.array_equal(predict.read_puzzle_file(file, TASK, 10).tokens, tokens[None])
    file.write_text(f"{PUZZLE}\n\n{SOLUTION} # solved already\n")
    read = predict.read_puzzle_file(file, TASK, 10).tokens
    assert ["".join(TASK.symbols(found)) for found in read] == [PUZZLE, SOLUTION]


def test_what_is_passed_over_in_a_file_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "puzzles.txt"
    file.write_text(f"name=a {PUZZLE} ED=1.2\n")
    note, *others = printed(capsys, f"checkpoint={run}/best.pt", f"puzzle_file={file}").splitlines()
    assert note == "note: puzzles.txt: what 1 lines say beside their puzzle (names, ratings) was passed over"
    assert "\n".join(others) == printed(capsys, f"checkpoint={run}/best.pt", f"puzzle={PUZZLE}").strip("\n")


def test_output_has_a_grid_per_step_and_a_verdict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, f"checkpoint={run}/best.pt", f"puzzle={PUZZLE}")
    assert "\033" not in text
    assert re.findall(r"step (\d)", text) == ["1", "2", "3", "4"]
    assert len(re.findall(r"halt 0\.\d{3}", text)) == 4
    assert "puzzle: one solution" in text and "\nanswer: " in text
    assert re.findall(r"step (\d)", printed(capsys, f"checkpoint={run}", f"puzzle={PUZZLE}", "steps=6"))[-1] == "6"
    assert "\033[" in printed(capsys, f"checkpoint={run}", f"puzzle={PUZZLE}", "color=always")


def test_row_is_the_row_that_evaluate_reports(
    run: Path,
    sudoku6_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # all panels side by side
    evaluate.main([f"checkpoint={run}/best.pt", "split=test", "save_outputs=[step_preds]", f"output={tmp_path}/e.json"])
    arrays = np.load(run / "predictions_e.npz")
    capsys.readouterr()
    rows, row = arrays["row"], int(arrays["row"][20])
    assert row != 20, "rows are numbered as in the test set, of which some chose the checkpoint"
    puzzle = boards_from_tokens(open_puzzle_set(sudoku6_folder, "test").inputs[row])
    by_row = printed(capsys, f"checkpoint={run}", f"row={row}")
    assert by_row == printed(capsys, f"checkpoint={run}", f"puzzle={board_text(puzzle)}")
    shown = [line.split("   ") for line in by_row.splitlines() if "|" in line]
    for step, tokens in enumerate(arrays["step_preds"][20], 1):
        lines = [line for line in TASK.draw(tokens) if "|" in line]
        assert [panels[step].strip() for panels in shown] == lines
    chosen = next(row for row in range(40) if row not in rows)
    assert f"row {chosen} is a validation row" in printed(capsys, f"checkpoint={run}", f"row={chosen}")


def test_no_data_is_needed_for_a_puzzle(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in ("best.pt", "weights.json"):
        shutil.copy(run / file, alone)
    settings = yaml.safe_load((run / "all_config.yaml").read_text())
    settings["data_paths"] = ["somewhere/else"]
    (alone / "all_config.yaml").write_text(yaml.safe_dump(settings))
    expected = printed(capsys, f"checkpoint={run}/best.pt", f"puzzle={PUZZLE}")
    assert printed(capsys, f"checkpoint={alone}/best.pt", f"puzzle={PUZZLE}") == expected
    assert "somewhere/else" in refused(capsys, f"checkpoint={alone}/best.pt", "row=0")


def test_the_task_is_kept_with_the_run(
    sudoku4_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of a plain task with six tokens, as a 4x4 Sudoku and a maze have, whose data are gone."""
    data = shutil.copytree(sudoku4_folder, tmp_path / "data")
    for split in ("train", "test"):
        edit_metadata(data / split, task="plain", augmentation=None)
    options = ["max_steps=1", "validation_size=2", "fast_validation_size=2"]
    train_here("trm_att", data, tmp_path / "run", options)
    shutil.rmtree(data)
    words = [f"checkpoint={tmp_path}/run/best.pt", "puzzle=0123450123450123"]
    assert "puzzle: its solution is not known here" in printed(capsys, *words)
    (tmp_path / "run" / "weights.json").unlink()
    assert "knows 6 tokens, as do: maze of 900 cells, sudoku of 16 cells; its data is not here" in refused(
        capsys, *words
    )


def test_other_tasks_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = torch.load(run / "best.pt", weights_only=True)
    weights["embed_tokens.embedding_weight"] = torch.zeros(12, 16)
    torch.save(weights, tmp_path / "arc.pt")
    shutil.copy(run / "all_config.yaml", tmp_path)
    assert "knows 12 tokens" in refused(capsys, f"checkpoint={tmp_path}/arc.pt", f"puzzle={PUZZLE}")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("puzzle=123", "3 characters, expected 36"),
        ("puzzle=" + "7" + "." * 35, "character '7' at position 1, expected digits 1-6"),
        ("puzzle=11" + "." * 34, "1 stands twice in row 1"),
        ("puzzle_file=nowhere.txt", "nowhere.txt: there is no such file"),
        ("row=1000", "has test rows 0 to 39"),
        ("row=-1", "option 'row': found -1, expected 0 or more"),
        ("row=one", "option 'row': found 'one'"),
        ("dtype=int8", "option 'dtype': found 'int8', expected one of: auto"),
        ("data_path=nowhere", "found data_path=nowhere, the folder of row=N, and no row; add row=0, or leave"),
        ("color=blue", "option 'color': found 'blue', expected one of: auto"),
    ],
)
def test_bad_input(run: Path, capsys: pytest.CaptureFixture[str], option: str, says: str) -> None:
    assert says in refused(capsys, f"checkpoint={run}/best.pt", option)


def test_two_puzzles_at_once_are_refused(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    checkpoint = f"checkpoint={run}/best.pt"
    assert "found puzzle and row" in refused(capsys, checkpoint, "row=1", f"puzzle={PUZZLE}")
    assert "option 'steps': found 0" in refused(capsys, checkpoint, "row=1", "steps=0")
    file = tmp_path / "bad.txt"
    file.write_text(f"{PUZZLE}\n12\n")
    assert "bad.txt:2: 2 characters, expected 36" in refused(capsys, checkpoint, f"puzzle_file={file}")
    file.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in refused(capsys, checkpoint, f"puzzle_file={file}")
    file.write_text("# nothing\n")
    assert "holds no puzzle" in refused(capsys, checkpoint, f"puzzle_file={file}")


def test_answers_do_not_depend_on_company(run: Path) -> None:
    """One puzzle among others is answered as it is alone."""
    checkpoint = predict.open_puzzle_checkpoint(run, device="cpu")
    metadata = predict.puzzle_metadata(checkpoint, None)
    model = predict.restore_model(checkpoint, metadata, torch.device("cpu"))
    puzzles = np.stack([TASK.parse(text) for text in (PUZZLE, SOLUTION, "." * 36)])
    together = predict.answer_puzzles(model, puzzles, metadata)
    alone = predict.answer_puzzles(model, puzzles[:1], metadata)
    assert isinstance(together, StepwisePredictions)
    assert torch.allclose(together.step_q_halt[:1], alone.step_q_halt, atol=1e-5)
    assert json.dumps(together.step_answers[0].tolist()) == json.dumps(alone.step_answers[0].tolist())


def test_by_itself_it_shows_the_shipped_network(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder, without data: an embedded puzzle is solved, yours is answered; all is tied to the weights."""
    monkeypatch.chdir(tmp_path)
    predict.main([])
    shown = capsys.readouterr()
    assert "answer: SOLVED" in shown.out and "step 4" in shown.out and shown.err == ""
    predict.main(["puzzle=..1...5..4..1...6......2..4..52....6"])
    assert "puzzle: one solution" in capsys.readouterr().out
    folder = predict.SHIPPED.parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4 << 20
    assert {file.name for file in folder.iterdir()} == {
        "README.md", "all_config.yaml", "best.pt", "training_puzzles.npy", "weights.json"
    }  # fmt: skip


def test_the_shipped_network_has_never_seen_the_example() -> None:
    task = sudoku_task((2, 3))
    known = np.load(predict.SHIPPED.with_name("training_puzzles.npy"))
    assert len(known) == 2560
    assert not np.isin(task.equivalence_keys(task.parse(predict.EXAMPLE)[None]), known)


def test_long_work_says_its_cost_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And goes through its steps under a bar; short work says neither."""
    bars: list[dict[str, Any]] = []

    def bar(items: Iterable[Any], **options: Any) -> Iterable[Any]:
        bars.append(options)
        return items

    monkeypatch.setattr(predict, "progress_bar", bar)
    monkeypatch.setattr(predict, "LONG_PASSES", 9)
    for steps, long in ((8, False), (9, True)):
        predict.main([f"steps={steps}", "device=cpu"])
        said = capsys.readouterr().err
        assert said.startswith(f"1 rows x {steps} supervision steps each: {steps} passes, ") == long
        assert (said == "") != long
        assert (bars[-1]["total"], bars[-1]["shown"]) == (steps, long)
