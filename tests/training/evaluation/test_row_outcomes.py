"""Rows of a test, one by one: which are kept, by whom, and what is read back."""

from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from dataset.eval_batches import row_hashes
from dataset.puzzle_folder import open_puzzle_set
from errors import UserError
from tests.helpers import train_here
from tests.training import rank_jobs
from tests.training.ranks import run_ranks
from training.distributed import World
from training.evaluation.row_outcomes import RowOutcomes, read_test_rows, save_test_rows
from training.inference.base import Predictions


def answers(tokens: list[list[int]]) -> Predictions:
    given = torch.tensor(tokens)
    zeros = torch.zeros(len(given))
    return Predictions(given, zeros, zeros.int(), torch.zeros(*given.shape, 4), 0)


def test_scored_rows_by_number() -> None:
    """Padding and rows without a scored token are left out; groups may come in any order."""
    kept = RowOutcomes()
    kept.begin()
    labels = torch.tensor([[1, 2], [-100, 3], [-100, -100], [-100, -100]])
    kept.update({"labels": labels, "row": torch.tensor([7, 3, 5, -1])}, answers([[1, 2], [1, 3], [0, 0], [0, 0]]))
    kept.update({"labels": torch.tensor([[1, 2]]), "row": torch.tensor([0])}, answers([[1, 3]]))
    kept.gather(World())
    rows, exact = kept.outcomes()
    assert rows.tolist() == [0, 3, 7] and exact.tolist() == [False, True, True]
    kept.begin()
    assert [array.tolist() for array in kept.outcomes()] == [[], []]


@pytest.mark.parametrize("count", [1, 13])
def test_every_process_has_all_rows(count: int) -> None:
    alone = rank_jobs.row_outcomes(World(), count)
    assert alone["row"].tolist() == list(range(count)) and alone["exact"].tolist() == [i % 2 == 0 for i in range(count)]
    for rank in run_ranks("row_outcomes", count=count):
        assert torch.equal(rank["row"], alone["row"]) and torch.equal(rank["exact"], alone["exact"])


def test_what_a_run_saves_is_what_its_weights_answer(sudoku4_folder: Path, tmp_path: Path) -> None:
    """Against the answers that evaluate.py saves, of weights that solve some puzzles."""
    run = tmp_path / "run"
    options = ["lr=2e-2", "weight_decay=0", "arch.hidden_size=64", "arch.halt_max_steps=2", "max_test_rows=9"]
    train_here("trm_mlp", sudoku4_folder, run, [*options, "epochs=80", "eval_interval=20"])
    saved = read_test_rows(run / "test_rows.json")
    for which in ("best", "final"):
        words = [f"checkpoint={run}/{which}.pt", "split=test", "max_test_rows=9", "save_outputs=[preds,labels]"]
        evaluate.main([*words, "device=cpu"])
        with np.load(run / f"predictions_{which}_test_rows_first9.npz") as file:
            exact = (file["preds"] == file["labels"]).all(axis=1)
        assert np.array_equal(saved.exact[which], exact)
    assert 0 < exact.sum() < 9 and not saved.exact["initial"].any()


def test_two_sets_one_after_the_other(sudoku4_folder: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    sets = [open_puzzle_set(folder, "test") for folder in (sudoku6_folder, sudoku4_folder)]
    parts = []
    for numbers, right in (([4, 1], [True, False]), ([2], [True])):
        part = RowOutcomes()
        part.update(
            {"labels": torch.tensor([[1]] * len(numbers)), "row": torch.tensor(numbers)},
            answers([[1 if good else 2] for good in right]),
        )
        parts.append(part)
    save_test_rows(tmp_path / "rows.json", sets, {"final": parts})
    found = read_test_rows(tmp_path / "rows.json")
    assert found.exact["final"].tolist() == [False, True, True]
    hashes = [row_hashes(sets[0])[1], row_hashes(sets[0])[4], row_hashes(sets[1])[2]]
    assert [int(puzzle, 16) for puzzle in found.puzzle] == hashes


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("[]", "expected an object"),
        ("{}", "holds no list of puzzles"),
        ('{"puzzle": [3], "final": "1"}', "holds no list of puzzles"),
        ('{"puzzle": ["a", "b"], "final": "1"}', "final is not one 0 or 1 for each of 2 puzzles"),
        ('{"puzzle": ["a"], "final": "2"}', "final is not one 0 or 1 for each of 1 puzzles"),
        ('{"puzzle": ["a"], "final": [true]}', "final is not one 0 or 1"),
    ],
)
def test_another_file_is_refused(record: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(record)
    with pytest.raises(UserError, match=says):
        read_test_rows(tmp_path / "rows.json")
    with pytest.raises(UserError, match="there is no such file"):
        read_test_rows(tmp_path / "nothing.json")
