"""What a network knows of the rows that judge it: told by a second route, through every way to start a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import evaluate
from dataset.build_sudoku_dataset import main as build
from dataset.eval_batches import row_hashes, validation_rows
from dataset.puzzle_folder import open_puzzle_set
from errors import UserError
from tests.dataset.folders import edit_metadata
from tests.helpers import newest_report, train_here
from tests.training.test_changed_settings import settings_of_run, written
from training.known_rows import Known, known_of
from training.storage.weights_record import read_record

SMALL = ["max_steps=2", "validation_size=8", "fast_validation_size=4", "max_test_rows=8", "fast_eval_interval=1"]


@pytest.fixture(scope="module")
def trained(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train_here("trm_mlp", sudoku6_folder, folder, SMALL) == "done"
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def leaking(data: Path, target: Path, rows: list[int]) -> Path:
    """A copy of a data set whose test `rows` are images of its first training puzzles under random symmetries."""
    shutil.copytree(data, target)
    train, test = (open_puzzle_set(data, split) for split in ("train", "test"))
    images = train.metadata.task.augment(*train.read_rows(np.arange(len(rows))), np.random.default_rng(1))
    for name, tokens, image in zip(("inputs", "labels"), test.read_rows(np.arange(40)), images, strict=True):
        tokens[rows] = image
        np.save(target / "test" / f"all__{name}.npy", tokens)
    edit_metadata(target / "test", sha256=...)
    return target


def test_training_puzzles_among_the_test_rows_are_counted(
    run: Path, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of them too; a small training set is known as it was trained, not as the folder would have it."""
    data = leaking(sudoku6_folder, tmp_path / "leaking", [3, 5, 30])
    evaluate.main([f"checkpoint={run}/best.pt", f"data_paths_test=[{data}]", "validation_size=0", "device=cpu"])
    (result,) = newest_report(run, "best_leaking_validation0")["results"]
    assert result["known"] == {
        "rows": 40,
        "training": 3,
        "up_to_symmetry": True,
        "chose": 8 - result_overlap(data, run),
        "at_least": False,
    }
    assert "3 of 40 test rows are training puzzles of this network, up to symmetry" in capsys.readouterr().out
    evaluate.main([f"checkpoint={run}/best.pt", "device=cpu"])
    assert "none of 32 test rows is a training puzzle of this network, up to symmetry" in capsys.readouterr().out


def result_overlap(data: Path, run: Path) -> int:
    """Validation rows of the run that the copy has no longer."""
    record, kept = read_record(run), row_hashes(open_puzzle_set(data, "test"))
    assert record is not None and record.rows is not None
    return sum(int(text, 16) not in set(kept.tolist()) for text in record.rows["validation"])


def test_what_the_starting_weights_were_trained_on_is_known_too(
    run: Path, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(f"--output-dir {tmp_path}/other --generate 6x6 --num-train 16 --test-size 40 --seed 7".split())
    data = leaking(sudoku6_folder, tmp_path / "leaking", [3, 5])
    options = [f"init_from={run}/best.pt", "max_steps=1", "validation_size=0", "fast_validation_size=0"]
    train_here("trm_mlp", tmp_path / "other", tmp_path / "tuned", options)
    puzzle_set = open_puzzle_set(data, "test")
    assert known_of(tmp_path / "tuned", puzzle_set, np.arange(40)).training == 2
    record = read_record(tmp_path / "tuned")
    assert record is not None and record.training is not None and record.training["puzzles"] <= 64 + 16
    own = known_of(tmp_path / "tuned", open_puzzle_set(tmp_path / "other", "train"), np.arange(16))
    assert own.training == 16
    # Rows that chose the weights to start from, reported by the run that starts: said at once.
    capsys.readouterr()
    train_here("trm_mlp", sudoku6_folder, tmp_path / "again", options)
    assert "warning: 8 test rows were validation rows of" in capsys.readouterr().err
    # Test puzzles that trained them: the data were built anew, or are others.
    train_here("trm_mlp", data, tmp_path / "leaks", [*options, "max_steps=1"])
    said = capsys.readouterr().err
    assert f"2 of 40 test rows of {data} are training puzzles of {run}/best.pt, up to symmetry" in said


def test_what_is_not_kept_of_the_starting_weights_is_not_denied(
    run: Path, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights whose training puzzles are not beside them, and a file of keys that is made again without its origin."""
    build(f"--output-dir {tmp_path}/other --generate 6x6 --num-train 16 --test-size 40 --seed 7".split())
    leaks, rows = open_puzzle_set(leaking(sudoku6_folder, tmp_path / "leaking", [3, 5]), "test"), np.arange(40)
    capsys.readouterr()

    def tune(folder: str, *options: str) -> Known:
        train_here("trm_mlp", tmp_path / "other", tmp_path / folder, [*options, "validation_size=0"])
        return known_of(tmp_path / folder, leaks, rows)

    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("best.pt", "all_config.yaml", "weights.json"):
        shutil.copy(run / name, moved / name)
    known = tune("of_moved", f"init_from={moved}/best.pt", "max_steps=1")
    assert (known.training, known.at_least) == (0, True)
    assert "is not kept, so nothing can say which test rows they know" in capsys.readouterr().err
    (line,) = known.lines("test")
    assert "none of 40 test rows is a training puzzle of this run" in line and line.endswith("is not kept")
    known = tune("of_run", f"init_from={run}/best.pt", "max_steps=1")
    assert (known.training, known.at_least) == (2, False)
    (tmp_path / "of_run" / "training_puzzles.npy").unlink()
    known = tune("of_run", "max_steps=2")
    assert (known.training, known.at_least) == (2, False), "the state says where the run began"
    assert "is not kept" not in capsys.readouterr().err
    (tmp_path / "of_run" / "training_puzzles.npy").unlink()
    run.rename(tmp_path / "gone")
    known = tune("of_run", "max_steps=3")
    assert (known.training, known.at_least) == (0, True)
    known = known_of(tmp_path / "of_moved", leaks, rows)
    assert known.at_least, "what was not known stays so"


def test_nothing_is_claimed_where_nothing_is_kept(run: Path, sudoku6_folder: Path, sudoku4_folder: Path) -> None:
    rows, puzzle_set = np.arange(40), open_puzzle_set(sudoku6_folder, "test")
    assert known_of(run, puzzle_set, rows).training == 0
    assert known_of(run, open_puzzle_set(sudoku4_folder, "test"), np.arange(12)).training is None, "other puzzles"
    file = run / "training_puzzles.npy"
    keys = np.load(file)
    assert keys.dtype == np.uint64 and (np.diff(keys) > 0).all() and len(keys) <= 64
    np.save(file, keys + np.uint64(1))
    with pytest.raises(UserError, match="does not hold the keys that were written"):
        known_of(run, puzzle_set, rows)
    file.unlink()
    assert known_of(run, puzzle_set, rows).training is None
    (run / "weights.json").unlink()
    assert known_of(run, puzzle_set, rows).lines("test") == []


@pytest.mark.parametrize("record", [True, False])
def test_rows_that_chose_do_not_become_test_rows(run: Path, sudoku6_folder: Path, record: bool) -> None:
    """Going on with a smaller validation is refused, in an old folder by what its settings say."""
    if not record:
        (run / "weights.json").unlink()
    going_on = [*SMALL, "max_steps=3"]
    files = {path: path.read_bytes() for path in run.iterdir() if path.is_file() and path.name != ".lock"}
    with pytest.raises(UserError, match=r"would make test rows of 4 rows that have chosen the best checkpoint so far"):
        train_here("trm_mlp", sudoku6_folder, run, [*going_on, "validation_size=4"])
    assert {path: path.read_bytes() for path in files} == files
    assert train_here("trm_mlp", sudoku6_folder, run, [*going_on, "validation_size=8"]) == "done"
    known = read_record(run)
    assert known is not None and known.rows is not None and known.rows["earlier"] == []


def test_other_data_that_report_rows_that_chose_are_refused(run: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    """The same settings over a test set in which other rows validate: whatever the reason, the rows are compared."""
    data = shutil.copytree(sudoku6_folder, tmp_path / "data")
    chosen = validation_rows(open_puzzle_set(data, "test"), 8)
    for name in ("inputs", "labels"):  # those that chose stand there twice now, so that they validate no more
        tokens = np.load(data / "test" / f"all__{name}.npy")
        others = np.setdiff1d(np.arange(40), chosen)
        tokens[others[: 3 * len(chosen)]] = np.tile(tokens[chosen], (3, 1))
        np.save(data / "test" / f"all__{name}.npy", tokens)
    edit_metadata(data / "test", sha256=...)
    with pytest.raises(UserError, match="rows that have chosen the best checkpoint so far"):
        train_here("trm_mlp", data, run, [*SMALL, "max_steps=3"])


def test_settings_edited_to_other_validation_rows_are_refused(run: Path) -> None:
    plain = settings_of_run(run) | {"validation_size": 4}
    written(run, plain)
    with pytest.raises(SystemExit) as caught:
        evaluate.main([f"checkpoint={run}/best.pt", "device=cpu"])
    assert caught.value.code == 2 and not list(run.glob("evaluation_*"))


def test_a_killed_start_finds_its_keys_again(run: Path, sudoku6_folder: Path) -> None:
    """Without the file they are made anew, and are the same."""
    before = (run / "training_puzzles.npy").read_bytes()
    (run / "training_puzzles.npy").unlink()
    assert train_here("trm_mlp", sudoku6_folder, run, [*SMALL, "max_steps=3"]) == "done"
    assert (run / "training_puzzles.npy").read_bytes() == before
    assert json.loads((run / "weights.json").read_text())["training"]["up_to_symmetry"]


@pytest.mark.parametrize("more", [[], ["max_steps=4"]])
def test_a_summary_is_not_replaced_by_one_of_other_test_rows(
    more: list[str], sudoku6_folder: Path, tmp_path: Path
) -> None:
    """Whether the run has ended or goes on; the same rows go on, and a run without a summary may change them."""
    run = tmp_path / "run"
    train_here("trm_mlp", sudoku6_folder, run, SMALL)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(
        UserError, match="reports with max_test_rows=8, now 4, and would lose its numbers: give"
    ) as caught:
        train_here("trm_mlp", sudoku6_folder, run, [*SMALL, "max_test_rows=4", *more])
    assert f"evaluate.py checkpoint={run}/best.pt max_test_rows=4" in str(caught.value)
    assert {path: path.read_bytes() for path in before if path.name != ".lock"} == {
        path: data for path, data in before.items() if path.name != ".lock"
    }
    assert train_here("trm_mlp", sudoku6_folder, run, [*SMALL, *more]) == "done"
    (run / "summary.json").unlink()
    assert train_here("trm_mlp", sudoku6_folder, run, [*SMALL, "max_test_rows=4", *more]) == "done"
    assert json.loads((run / "summary.json").read_text())["test"]["final"]["denominator"] == 4


def test_weights_of_another_network_are_said(
    sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They fit, and answer otherwise: the record beside them tells, and where there is none that is said."""
    train_here("trm_mlp", sudoku6_folder, tmp_path / "first", SMALL)
    start = f"init_from={tmp_path}/first/best.pt"

    def said(name: str, *options: str) -> str:
        capsys.readouterr()
        train_here("trm_mlp", sudoku6_folder, tmp_path / name, [*SMALL, "max_steps=1", start, *options])
        lines = [line for line in capsys.readouterr().err.splitlines() if "first/best.pt" in line]
        return "\n".join(lines)

    assert said("same", "lr=0.01") == ""
    other = said("other", "arch.H_cycles=1", "lr=0.01")
    assert other.startswith("warning: ") and "was made with another network than this run's: arch.H_cycles: " in other
    assert "now 1" in other and "lr" not in other.partition("run's:")[2]
    (tmp_path / "first" / "weights.json").unlink()
    assert "no weights.json beside it, which would say what settings it was made with" in said("unknown")
