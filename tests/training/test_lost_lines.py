"""A run whose log or sessions lost their beginning says so when it goes on, and says nothing otherwise."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import train_here

OPTIONS = ["log_interval=4", "force_full_eval_every=1"]  # validated at 8, 16, ...


@pytest.fixture(scope="module")
def stopped(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at update 20."""
    run = tmp_path_factory.mktemp("runs") / "run"
    train_here("trm_mlp", sudoku6_folder, run, [*OPTIONS, "max_steps=20"])
    return run


def without(*names: str) -> Callable[[Path], None]:
    def remove(run: Path) -> None:
        for name in names:
            (run / name).unlink()

    return remove


def cut(first: int, last: int | None = None) -> Callable[[Path], None]:
    def keep(run: Path) -> None:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(lines[first:last]))

    return keep


def of_another_run(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    changed = text.replace('"eval/validation/exact_accuracy": 0.0', '"eval/validation/exact_accuracy": 0.125')
    assert changed != text
    (run / "metrics.jsonl").write_text(changed)


LOG, SESSIONS = "metrics.jsonl lacks what was logged at updates ", "provenance.json lacks the sessions up to update 20"
LOST: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "nothing": (cut(0), None),
    "the log": (without("metrics.jsonl"), LOG + "8, 16, 20"),
    "its beginning": (cut(3), LOG + "8"),
    "its end": (cut(0, 5), LOG + "16, 20"),
    "another run's log": (of_another_run, LOG + "8, 16"),
    "sessions": (without("provenance.json"), SESSIONS),
    "both": (without("metrics.jsonl", "provenance.json"), f"{LOG}8, 16, 20 and {SESSIONS}"),
}


@pytest.mark.parametrize(("lose", "told"), LOST.values(), ids=LOST.keys())
def test_what_is_lost_is_told_where_the_run_goes_on(
    lose: Callable[[Path], None],
    told: str | None,
    stopped: Path,
    sudoku6_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    lose(run)
    capsys.readouterr()
    assert train_here("trm_mlp", sudoku6_folder, run, [*OPTIONS, "max_steps=24"]) == "done"
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    expected = [] if told is None else [f"warning: {run}: {told}: not all of this run is told there"]
    assert [line for line in warnings if "lacks" in line] == expected


def test_a_log_that_begins_in_another_folder_is_whole(
    stopped: Path, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where that run goes on: it began there at update 20."""
    run, resume = tmp_path / "branch", f"resume={stopped / 'final_state.pt'}"
    train_here("trm_mlp", sudoku6_folder, run, [*OPTIONS, "max_steps=24", resume])
    train_here("trm_mlp", sudoku6_folder, run, [*OPTIONS, "max_steps=28"])
    assert "lacks" not in capsys.readouterr().err
    without("metrics.jsonl")(run)
    train_here("trm_mlp", sudoku6_folder, run, [*OPTIONS, "max_steps=32"])
    assert f"warning: {run}: {LOG}24, 28: " in capsys.readouterr().err
