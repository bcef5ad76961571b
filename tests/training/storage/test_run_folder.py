"""Names, lock, and the precedence of where a run starts."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from errors import UserError
from training.storage.atomic_file import link_or_copy
from training.storage.checkpoint import save_latest, save_state, save_weights
from training.storage.run_folder import RunFolder, compare_run_identity, refuse_if_different
from training.storage.start_decision import decide_start

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with three saved states: best at 1, previous 2, latest 3."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    save_latest(folder.path, {"step": 1})
    link_or_copy(folder.latest_state, folder.best_state)
    save_latest(folder.path, {"step": 2})
    save_latest(folder.path, {"step": 3})
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    save_state(tmp_path / "other.pt", {"step": 9})
    return tmp_path / "other.pt"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_weights(tmp_path / "best.pt", {})
    return tmp_path / "best.pt"


def test_names() -> None:
    run = RunFolder("runs/a")
    assert run.step(120) == Path("runs/a/step_120")
    names = [
        run.all_config,
        run.best,
        run.final,
        run.latest_state,
        run.previous_state,
        run.best_state,
        run.final_state,
    ]
    names += [run.metrics, run.status, run.provenance, run.summary]
    assert [path.name for path in names] == [
        *("all_config.yaml", "best.pt", "final.pt", "latest_state.pt", "previous_state.pt", "best_state.pt"),
        *("final_state.pt", "metrics.jsonl", "status.json", "provenance.json", "summary.json"),
    ]


# --- precedence ---


def test_scratch_in_an_empty_or_absent_folder(tmp_path: Path) -> None:
    for resume in ("auto", "never"):
        decision = decide_start(tmp_path / "absent", resume)
        assert (decision.kind, decision.path) == ("scratch", None)
        assert "scratch" in decision.message


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_init_from(tmp_path: Path, weights: Path, resume: str) -> None:
    decision = decide_start(tmp_path / "new", resume, str(weights))
    assert (decision.kind, decision.path) == ("init_from", weights)
    assert str(weights) in decision.message


def test_resume_file_comes_before_init_from(tmp_path: Path, other: Path, weights: Path) -> None:
    decision = decide_start(tmp_path / "new", str(other), str(weights))
    assert (decision.kind, decision.path) == ("resume_file", other)
    assert str(other) in decision.message and f"init_from={weights} not used" in decision.message


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_own_state_comes_before_init_from(run: RunFolder, weights: Path, resume: str) -> None:
    decision = decide_start(run, resume, str(weights))
    assert (decision.kind, decision.path) == ("own_state", run.latest_state)
    assert f"init_from={weights} not used" in decision.message


def test_own_state_comes_before_a_file_from_elsewhere(run: RunFolder, other: Path) -> None:
    """The same command, given again after an interruption, goes on instead of starting over from FILE."""
    decision = decide_start(run.path, str(other), None)
    assert (decision.kind, decision.path) == ("own_state", run.latest_state)
    assert f"resume={other} not used" in decision.message
    other.unlink()  # and still does when the file it began with is gone
    assert decide_start(run.path, str(other)).kind == "own_state"


def test_previous_counts_as_own(run: RunFolder) -> None:
    run.latest_state.unlink()
    for resume in ("auto", "must"):
        assert decide_start(run, resume).path == run.previous_state


# --- refusals ---


@pytest.mark.parametrize("left", ["latest_state", "previous_state", "best_state", "final_state"])
def test_never_refuses_a_folder_with_any_state(run: RunFolder, left: str) -> None:
    link_or_copy(run.latest_state, run.final_state)
    for path in run.states:
        if path != getattr(run, left):
            path.unlink()
    with pytest.raises(UserError, match=rf"resume=never.*{left}\.pt.*resume=auto.*checkpoint_path"):
        decide_start(run, "never")


def test_must_refuses_without_a_state(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(UserError, match="resume=must.*holds no state.*resume=auto"):
        decide_start(tmp_path / "new", "must", str(weights))


@pytest.mark.parametrize("name", ["previous_state", "best_state"])
def test_an_older_state_of_the_same_folder_is_refused(run: RunFolder, name: str) -> None:
    for spelling in (getattr(run, name), run.path / ".." / "run" / f"{name}.pt"):
        with pytest.raises(UserError, match=rf"{name}.pt is an older state.*checkpoint_path=NEW_FOLDER"):
            decide_start(run, str(spelling))


def test_the_way_out_works(run: RunFolder, tmp_path: Path) -> None:
    decision = decide_start(tmp_path / "branch", str(run.best_state))
    assert (decision.kind, decision.path) == ("resume_file", run.best_state)


def test_naming_the_newest_state_itself_is_no_refusal(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    link_or_copy(run.latest_state, run.final_state)
    for path in (run.latest_state, run.final_state):
        assert decide_start(run, str(path)).kind == "own_state"

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links")

    run.final_state.unlink()
    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(run.latest_state, run.final_state)  # a copy: recognised by its checksum
    assert decide_start(run, str(run.final_state)).kind == "own_state"


def test_a_folder_with_only_a_best_state_asks_to_name_it(run: RunFolder) -> None:
    run.latest_state.unlink()
    run.previous_state.unlink()
    for resume in ("auto", "must"):
        with pytest.raises(UserError, match=f"resume={run.best_state}"):
            decide_start(run, resume)
    assert decide_start(run, str(run.best_state)).kind == "resume_file"


def test_missing_files(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(UserError, match="resume=nevr: there is no such file.*auto, never, must"):
        decide_start(tmp_path / "new", "nevr")
    with pytest.raises(UserError, match="not a regular file but a folder; expected .*latest_state.pt"):
        decide_start(tmp_path / "new", str(run.path))
    with pytest.raises(UserError, match="init_from=gone.pt: there is no such file"):
        decide_start(tmp_path / "new", "auto", "gone.pt")
    with pytest.raises(UserError, match="init_from=.*but a folder"):
        decide_start(tmp_path / "new", "auto", str(tmp_path))


# --- identity ---


def test_differences_are_named() -> None:
    saved = {
        "arch": {"hidden_size": 96, "puzzle": {"len": 1}},
        "lr": 1e-3,
        "data": ["a"],
        "gone": 1,
        "ema": True,
    }
    current = {
        "arch": {"hidden_size": 128, "puzzle": {"len": 1}},
        "lr": 1e-3,
        "data": ("a",),
        "new": None,
        "ema": 1,
    }
    assert compare_run_identity(saved, current) == [
        "arch.hidden_size: saved 96, now 128",
        "gone: saved 1, now absent",
        "ema: saved True, now 1",
        "new: saved without, now None",
    ]


@pytest.mark.parametrize("same", [{}, {"a": {}}, {"a": float("nan")}, {"a": [1, [2.0]]}, {"a": {"b": None}}])
def test_equal_descriptions(same: dict[str, Any]) -> None:
    assert compare_run_identity(same, dict(same)) == []
    refuse_if_different(same, same, "s.pt")


def test_numbers_and_sequences_compare_by_value() -> None:
    assert compare_run_identity({"a": 1, "b": [1, 2]}, {"a": 1.0, "b": (1, 2)}) == []
    assert compare_run_identity({"b": [1, 2]}, {"b": [1, 2, 3]}) == ["b: saved [1, 2], now [1, 2, 3]"]
    assert compare_run_identity({"b": "12"}, {"b": ["1", "2"]}) != []
    assert compare_run_identity({"b": {}}, {"b": {"c": 1}}) != []


def test_refusal_is_one_line_with_the_ways_out() -> None:
    with pytest.raises(UserError) as caught:
        refuse_if_different({f"k{n}": 0 for n in range(12)}, {f"k{n}": 1 for n in range(12)}, "run/latest_state.pt")
    text = str(caught.value)
    assert "\n" not in text and "run/latest_state.pt" in text and "k7: saved 0, now 1; and 4 more" in text
    assert "checkpoint_path" in text and "init_from" in text


# --- folder and lock ---


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="a file is in the way"):
            RunFolder(path).create()


HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from training.storage.run_folder import RunFolder
with RunFolder({folder!r}).lock():
    print("held", flush=True)
    time.sleep(100)
"""


def test_two_processes_cannot_share_a_folder(run: RunFolder) -> None:
    script = HOLDER.format(root=str(ROOT), folder=str(run.path))
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"in use by another run \(process {holder.pid}\)"):
            with run.lock(wait_seconds=0.1):
                pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run.lock():  # released by the kernel at death
        assert run.lock_file.read_text() == f"{os.getpid()}\n"
        with pytest.raises(UserError, match="in use"):
            with run.lock(wait_seconds=0):
                pass
    with run.lock(wait_seconds=0):
        pass


def test_a_file_system_without_locks_costs_a_warning(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with run.lock():
        pass
    assert "cannot be locked" in capsys.readouterr().err
