"""What a run says whose end is past: by patience, or by fewer updates than were made."""

from pathlib import Path

import pytest

from tests.helpers import train_here


def test_patience_is_named_where_it_ended_the_run(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # At a rate of 0 no evaluation after the first brings a gain.
    options = ["lr=0", "puzzle_emb_lr=0", "ema=False", "fast_eval_interval=1", "force_full_eval_every=1"]
    options += ["early_stop_patience=1", "eval_interval=null"]
    train_here("trm_att", sudoku6_folder, tmp_path, [*options, "max_steps=5"])
    capsys.readouterr()
    train_here("trm_att", sudoku6_folder, tmp_path, [*options, "max_steps=6"])
    said = capsys.readouterr().out
    assert "finished at update 2; results are in" in said and "larger max_steps" not in said
    assert "(early_stop_patience=1 ended it; with null it goes on)" in said
    train_here(
        "trm_att",
        sudoku6_folder,
        tmp_path,
        [*options[:-2], "eval_interval=null", "early_stop_patience=null", "max_steps=3"],
    )
    train_here(
        "trm_att",
        sudoku6_folder,
        tmp_path,
        [*options[:-2], "eval_interval=null", "early_stop_patience=null", "max_steps=3"],
    )
    assert "finished at update 3; results are in" in capsys.readouterr().out


def test_an_end_before_the_state_is_said(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=4"])
    assert "is past" not in capsys.readouterr().err
    (tmp_path / "summary.json").unlink()  # as of a run that was killed
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=3"])
    assert "warning: max_steps=3 is past: the run is at update 4 and ends there\n" in capsys.readouterr().err
