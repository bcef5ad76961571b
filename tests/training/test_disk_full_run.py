"""A full disk costs a warning and what could not be written, never what was there, and never the run."""

import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import training.loop
import training.scoring
import training.storage.atomic_file
from errors import UserError
from tests.helpers import (
    PretrainServer,
    assert_same_state,
    logged_training,
    merged,
    read_state,
    temporaries,
    tiny_overrides,
    train_here,
    wait_until,
)
from training.records.metrics_log import MetricsLog
from training.storage.archive import FAILURE_HOOK
from training.storage.checkpoint import load_state
from training.storage.weights import load_weights

OPTIONS = ["checkpoint_interval=2", "log_interval=1", "max_steps=10"]


def at_update(monkeypatch: pytest.MonkeyPatch, actions: dict[int, Any]) -> None:
    """Call `actions[n]()` just before update n+1 is made."""
    original = training.loop.train_on_batch

    def acting(run: Any, batch: Any, *, stop_requested: bool) -> Any:
        if run.step in actions:
            actions[run.step]()
        return original(run, batch, stop_requested=stop_requested)

    monkeypatch.setattr(training.loop, "train_on_batch", acting)


@pytest.fixture(scope="module")
def whole(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train_here("trm_mlp", sudoku6_folder, folder, OPTIONS)
    return folder


def test_states_and_weights(
    whole: Path,
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Full while updates 4 to 6 would be saved: 2 stays, 8 is saved again."""
    seen: dict[str, Any] = {}

    def look() -> None:
        seen["step"] = read_state(tmp_path)["step"]
        seen["left"] = temporaries(tmp_path)
        monkeypatch.delenv(FAILURE_HOOK)

    at_update(monkeypatch, {3: lambda: monkeypatch.setenv(FAILURE_HOOK, "enospc"), 7: look})
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS) == "done"
    assert seen == {"step": 2, "left": []}
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    latest = tmp_path / "latest_state.pt"
    assert len(warnings) == 2 and all(f"could not write {latest}" in line for line in warnings)
    assert all("No space left on device" in line and "training goes on" in line for line in warnings)
    assert_same_state(tmp_path, whole)
    assert load_state(tmp_path / "previous_state.pt")["step"] == 8
    assert logged_training(tmp_path) == logged_training(whole)


def test_every_report_at_once(
    whole: Path,
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """status.json, metrics.jsonl, states, weights: nothing can be written for a while; then all of it is."""
    write, append = training.storage.atomic_file.write_atomically, MetricsLog._write_held
    full = False

    def refused() -> OSError:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_or_refuse(path: Path, fill: Any, *, durable: bool = True) -> None:
        if full:
            raise refused()
        write(path, fill, durable=durable)

    class FullFile:
        def seek(self, *position: int) -> int:
            return 0

        def write(self, data: bytes) -> int:
            raise refused()

        def truncate(self, size: int) -> None:
            raise refused()

        def close(self) -> None:
            pass

    def append_or_refuse(log: MetricsLog) -> None:
        if full:
            kept, log._file = log._file, FullFile()  # type: ignore[assignment]
            append(log)
            log._file = kept
        else:
            append(log)

    def fill_up() -> None:
        nonlocal full
        full = True
        monkeypatch.setenv(FAILURE_HOOK, "enospc")

    def free() -> None:
        nonlocal full
        full = False
        monkeypatch.delenv(FAILURE_HOOK)
        status = json.loads((tmp_path / "status.json").read_text())
        assert status["global_step"] <= 3, "the old file is whole"

    monkeypatch.setattr(training.storage.atomic_file, "write_atomically", write_or_refuse)
    monkeypatch.setattr(MetricsLog, "_write_held", append_or_refuse)
    at_update(monkeypatch, {3: fill_up, 9: free})  # the evaluation at update 8 lies inside
    options = [*OPTIONS, "status_interval_seconds=0"]
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, options) == "done"
    warnings = capsys.readouterr().err
    for name in ("latest_state.pt", "step_8", "best.pt", "status.json", "metrics.jsonl"):
        assert f"{tmp_path / name}" in warnings
    assert warnings.count("status.json") == 1, "said once, not at each update"
    assert [line["step"] for line in logged_training(tmp_path)] == list(range(1, 11)), "held and written later"
    assert logged_training(tmp_path) == logged_training(whole)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "done"
    # The best of update 8 could not be written, so that of the end is the best that there is.
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best"]["step"] == 10 == summary["test"]["best"]["step"]
    assert load_state(tmp_path / "best_state.pt")["step"] == 10


def test_a_best_that_could_not_be_written_is_no_best(
    sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """best.pt, best_state.pt and the record agree, whatever the disk refused."""
    values = iter([0.1, 0.3, 0.2])
    original = training.scoring.Scoring._score

    def score(self: Any, rows_of: Any, model: Any, name: str, *more: Any) -> dict[str, float]:
        result = original(self, rows_of, model, name, *more)
        return result | {"exact_accuracy": next(values)} if name != "test" else result

    monkeypatch.setattr(training.scoring.Scoring, "_score", score)
    at_update(
        monkeypatch,
        {
            15: lambda: monkeypatch.setenv(FAILURE_HOOK, "enospc"),
            17: lambda: monkeypatch.delenv(FAILURE_HOOK),
        },
    )
    options = ["epochs=3", "fast_validation_size=8"]  # evaluations at 8, 16 (refused), 24
    train_here("trm_mlp", sudoku6_folder, tmp_path, options)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best"]["step"] == 24 and summary["best"]["value"] == 0.2
    assert load_state(tmp_path / "best_state.pt")["step"] == 24
    assert not (tmp_path / "step_16").exists()


def test_an_end_that_cannot_be_saved_is_an_error(
    whole: Path, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stale is called final, the status says failed, and the same command makes it good."""
    with monkeypatch.context() as patch:
        at_update(patch, {9: lambda: patch.setenv(FAILURE_HOOK, "enospc")})
        with pytest.raises(UserError, match="update 10 could not be saved.*goes on from update 8"):
            train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS)
    assert read_state(tmp_path)["step"] == 8
    assert not (tmp_path / "final_state.pt").exists() and not (tmp_path / "final.pt").exists()
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"
    assert train_here("trm_mlp", sudoku6_folder, tmp_path, OPTIONS) == "done"
    assert_same_state(tmp_path, whole)
    assert (tmp_path / "final_state.pt").samefile(tmp_path / "latest_state.pt")


@pytest.mark.skipif(sys.platform != "linux", reason="a file-size limit stands for the full disk")
def test_a_disk_that_really_refuses(
    whole: Path, sudoku6_folder: Path, pretrain_server: PretrainServer, tmp_path: Path
) -> None:
    """The operating system itself refuses states beyond 24 kB; small files still pass."""
    run = tmp_path / "run"
    arguments = merged(tiny_overrides("trm_mlp", sudoku6_folder, run), OPTIONS)
    first = pretrain_server.run([*merged(arguments, ["max_steps=4"])], tmp_path / "first")
    assert first.returncode == 0, first.stderr
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    second = pretrain_server.start(arguments, tmp_path / "second", {"RRS_TEST_START_STOPPED": "1"})
    wait_until(lambda: Path(f"/proc/{second.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    resource.prlimit(second.pid, resource.RLIMIT_FSIZE, (24_000, limits[1]))
    second.kill(signal.SIGCONT)
    assert second.wait() == 2
    assert f"could not write {run / 'latest_state.pt'}: File too large" in second.stderr
    assert second.stderr.splitlines()[-1].startswith(f"error: {run}: the state at update 10 could not be saved")
    assert read_state(run)["step"] == 4 and temporaries(run) == []
    third = pretrain_server.run(arguments, tmp_path / "third")
    assert third.returncode == 0, third.stderr
    assert_same_state(run, whole)
    load_weights(run / "final.pt")
