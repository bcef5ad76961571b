"""What a run says whose end is past: by patience, or by fewer updates than were made."""

from pathlib import Path

import pytest

from errors import UserError
from tests.helpers import read_state, train_here


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


PLANNED = "it is planned for epochs=1, and a longer run is another one: init_from="
WAYS: dict[str, tuple[list[str], str, list[str]]] = {
    "stopped early": (["epochs=2", "max_steps=3"], "a larger max_steps goes on", ["epochs=2", "max_steps=5"]),
    "through": (["epochs=1"], "a larger epochs goes on", ["epochs=2"]),
    "both": (["epochs=1", "max_steps=8"], "a larger epochs and max_steps go on", ["epochs=2", "max_steps=9"]),
    "a cosine": (["epochs=1", "lr_min_ratio=0.1"], PLANNED, ["epochs=2", "lr_min_ratio=0.1"]),
    "one iteration": (["epochs=1", "eval_interval=null"], PLANNED, ["epochs=2", "eval_interval=null"]),
}


@pytest.mark.parametrize(("options", "way", "longer"), WAYS.values(), ids=WAYS.keys())
def test_how_a_finished_run_goes_on_is_said_and_true(
    options: list[str],
    way: str,
    longer: list[str],
    sudoku6_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    train_here("trm_mlp", sudoku6_folder, run, options)
    capsys.readouterr()
    train_here("trm_mlp", sudoku6_folder, run, options)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("finished at update ")]
    ended = read_state(run)["step"]
    assert f"finished at update {ended}; results are in {run / 'summary.json'} ({way}" in line
    if way != PLANNED:
        train_here("trm_mlp", sudoku6_folder, run, longer)
        assert read_state(run)["step"] > ended
        return
    with pytest.raises(UserError, match="is the state of another run"):
        train_here("trm_mlp", sudoku6_folder, run, longer)
    assert line.endswith(f"init_from={run / 'final.pt'} with another checkpoint_path begins one)")
    train_here("trm_mlp", sudoku6_folder, tmp_path / "next", [*longer, f"init_from={run / 'final.pt'}"])
    assert read_state(tmp_path / "next")["step"] > ended


def test_an_end_before_the_state_is_said(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=4"])
    assert "is past" not in capsys.readouterr().err
    (tmp_path / "summary.json").unlink()  # as of a run that was killed
    train_here("trm_att", sudoku6_folder, tmp_path, ["max_steps=3"])
    assert "warning: max_steps=3 is past: the run is at update 4 and ends there\n" in capsys.readouterr().err
