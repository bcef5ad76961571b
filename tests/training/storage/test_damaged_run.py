"""A damaged newest state is named, the one before it used, and the end is that of an undisturbed run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from errors import UserError
from tests.helpers import (
    PretrainServer,
    assert_same_state,
    differences,
    logged_training,
    merged,
    read_state,
    temporaries,
    tiny_overrides,
    train_here,
)
from training.storage.checkpoint import load_state
from training.storage.weights import load_weights

OPTIONS = ["checkpoint_interval=3", "log_interval=2"]


def truncated(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) * 2 // 3])


def bit_flipped(path: Path, whole: bytes) -> None:
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])


def empty(path: Path, whole: bytes) -> None:
    path.write_bytes(b"")


def foreign_torch_file(path: Path, whole: bytes) -> None:
    torch.save({"model": {"weight": torch.zeros(3)}, "step": 7}, path)


def garbage(path: Path, whole: bytes) -> None:
    path.write_bytes(b"\x80\x04not a state" * 50)


def weights_only(path: Path, whole: bytes) -> None:
    path.write_bytes((path.parent / "final.pt").read_bytes())


def missing(path: Path, whole: bytes) -> None:
    path.unlink()


def a_folder(path: Path, whole: bytes) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [truncated, bit_flipped, empty, foreign_torch_file, garbage, weights_only, missing]
Damage = Callable[[Path, bytes], None]


@pytest.fixture(scope="module")
def whole(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train_here("trm_mlp", sudoku6_folder, folder, [*OPTIONS, "max_steps=12"])
    return folder


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_previous_state_takes_over(
    damage: Damage, whole: Path, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "max_steps=8"])
    latest, previous = tmp_path / "latest_state.pt", tmp_path / "previous_state.pt"
    kept = load_state(previous)
    assert kept["step"] == 6 and load_state(latest)["step"] == 8
    for link in ("final_state.pt", "best_state.pt"):  # another name of the very file that is damaged here
        (tmp_path / link).unlink(missing_ok=True)
    damage(latest, latest.read_bytes())
    (tmp_path / ".latest_state.pt.4711.tmp").write_bytes(b"half a state")
    capsys.readouterr()
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "max_steps=12"]) == "done"
    said = capsys.readouterr()
    warnings = [line for line in said.err.splitlines() if str(latest) in line]
    assert len(warnings) >= 1 and f"going on from {previous}" in warnings[0], said.err
    assert_same_state(tmp_path, whole)
    assert logged_training(tmp_path) == logged_training(whole)
    assert differences(load_weights(tmp_path / "final.pt"), load_weights(whole / "final.pt")) == []
    assert temporaries(tmp_path) == []


def test_a_damaged_state_never_becomes_the_previous_one(whole: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    """Killed again before its first save, the run still has the good state it went on from."""
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "max_steps=8"])
    latest = tmp_path / "latest_state.pt"
    bit_flipped(latest, latest.read_bytes())
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "max_steps=7"])
    assert read_state(tmp_path)["step"] == 7
    assert load_state(tmp_path / "previous_state.pt")["step"] == 6
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "max_steps=12"])
    assert_same_state(tmp_path, whole)


def test_both_damaged_is_refused_with_the_ways_out(sudoku6_folder: Path, tmp_path: Path) -> None:
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "max_steps=8"])
    (tmp_path / "final_state.pt").unlink()
    for name in ("latest_state.pt", "previous_state.pt"):
        truncated(tmp_path / name, (tmp_path / name).read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.name != ".lock"}
    with pytest.raises(UserError, match="latest_state.pt.*previous_state.pt.*resume=.*best_state.pt"):
        train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "max_steps=12"])
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_damaged_resume_file_is_one_line(
    sudoku6_folder: Path, pretrain_server: PretrainServer, tmp_path: Path
) -> None:
    """Exit code 2, and no new folder."""
    file = tmp_path / "state.pt"
    file.write_bytes(b"PK\x03\x04 and no more")
    arguments = merged(tiny_overrides("trm_mlp", sudoku6_folder, tmp_path / "run"), [f"resume={file}"])
    done = pretrain_server.run(arguments, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"error: {file}")
    assert not (tmp_path / "run").exists()


def test_stale_temporaries_are_swept_at_the_start(sudoku6_folder: Path, tmp_path: Path) -> None:
    """Those of killed writers only; a file that is not ours stays."""
    names = ("latest_state.pt", "step_8", "status.json", "metrics.jsonl", "best.pt", "step_8_all_preds.0.npz")
    stale = [tmp_path / f".{name}.99.tmp" for name in names]
    foreign = [tmp_path / ".notes.tmp", tmp_path / "latest_state.pt.99.tmp"]
    for path in (*stale, *foreign):
        path.write_bytes(b"x")
    unfinished = tmp_path / "best" / ".step_3.99.tmp"
    unfinished.mkdir(parents=True)
    (unfinished / ".weights.pt.99.tmp").write_bytes(b"x")
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "max_steps=2"])
    assert not any(path.exists() for path in (*stale, unfinished))
    assert all(path.exists() for path in foreign)


@pytest.mark.parametrize("name", ["provenance.json", "status.json", "summary.json", "metrics.jsonl"])
def test_a_damaged_report_never_stops_a_run(name: str, whole: Path, sudoku6_folder: Path, tmp_path: Path) -> None:
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "max_steps=8"])
    (tmp_path / name).write_bytes(b'{"sessions": [\xff\n{"step": 1')
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, [*OPTIONS, "max_steps=12"]) == "done"
    assert_same_state(tmp_path, whole)
    for report in ("provenance.json", "status.json", "summary.json"):
        json.loads((tmp_path / report).read_text())
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 12
