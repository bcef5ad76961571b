"""`best.pt` is what the state calls the best: after a kill between the two, after going back to an older state."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from files import file_sha256
from tests.helpers import differences, train_here
from tests.training.states import as_of_older_code
from training.best_archive import remove_archive
from training.best_files import align_best, drop_spares, write_best
from training.storage.atomic_file import link_or_copy
from training.storage.checkpoint import keep_last, load_state, save_latest, save_weights
from training.storage.run_folder import RunFolder
from training.storage.weights import load_weights
from training.storage.weights_record import read_record

OFTEN = ["fast_eval_interval=2", "force_full_eval_every=1", "checkpoint_interval=1"]


@pytest.fixture
def train(sudoku6_folder: Path, tmp_path: Path) -> Callable[[int], Path]:
    def to(steps: int) -> Path:
        train_here("trm_mlp", sudoku6_folder, tmp_path / "run", [*OFTEN, f"max_steps={steps}"])
        return tmp_path / "run"

    return to


def replaced_by_a_later_best(run: Path) -> dict[str, torch.Tensor]:
    """Other weights in place of best.pt, not of the file that the archive shares; returns what they were."""
    before = load_weights(run / "best.pt")
    (run / "best.pt").unlink()
    save_weights(run / "best.pt", {name: value + 1 for name, value in before.items()})
    return before


@pytest.mark.parametrize("older_code", [False, True])
@pytest.mark.parametrize("best_at_the_state", [True, False])
def test_other_weights_in_place_of_the_best_are_put_right(
    train: Callable[[int], Path], best_at_the_state: bool, older_code: bool
) -> None:
    run = train(2 if best_at_the_state else 3)
    if older_code:
        as_of_older_code(run)
    before = replaced_by_a_later_best(run)
    train(4)
    assert json.loads((run / "summary.json").read_text())["best"]["step"] == 2, "ties keep the earlier one"
    for path in (run / "best.pt", run / "best" / "step_2" / "weights.pt"):
        assert differences(load_weights(path), before) == []


@pytest.mark.parametrize("older_code", [False, True])
@pytest.mark.parametrize("in_place", [True, False])
def test_weights_of_another_run_never_count_as_the_best(
    train: Callable[[int], Path], in_place: bool, older_code: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written over best.pt, and so over the archive that shares the file; where only weights.json knows them too."""
    run = train(3)
    if older_code:
        as_of_older_code(run)
    before, best, archived = load_weights(run / "best.pt"), run / "best.pt", run / "best" / "step_2" / "weights.pt"
    save_weights(run.parent / "foreign.pt", {name: value + 1 for name, value in before.items()})
    foreign = (run.parent / "foreign.pt").read_bytes()
    if in_place:
        shutil.copy(best, run / "step_2")  # as a run with checkpoint_every_eval has it
    else:
        best.unlink()
    best.write_bytes(foreign)
    assert archived.samefile(best) == in_place
    capsys.readouterr()
    train(4)
    kept = run / f"best_{file_sha256(run.parent / 'foreign.pt')[:12]}.pt"
    assert f"{best} held weights that this run never saved, kept as {kept.name}; those of" in capsys.readouterr().err
    assert kept.read_bytes() == foreign
    assert [differences(load_weights(path), before) for path in (best, archived)] == [[], []]


@pytest.mark.parametrize("older_code", [False, True])
def test_a_best_that_is_gone_is_said_and_chosen_anew(
    train: Callable[[int], Path], older_code: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(3)
    if older_code:
        as_of_older_code(run)
    replaced_by_a_later_best(run)
    shutil.rmtree(run / "best" / "step_2")
    (run / "best_state.pt").unlink()
    shutil.copy(run / "latest_state.pt", run / "best_state.pt")
    later = (run / "best.pt").read_bytes()
    capsys.readouterr()
    train(4)
    said = capsys.readouterr().err
    assert "warning: the weights of the best so far, of update 2, are not there" in said
    (kept,) = (path for path in run.glob("best_*.pt") if path.name != "best_state.pt")
    assert kept.name in said and kept.read_bytes() == later
    assert json.loads((run / "summary.json").read_text())["best"]["step"] == 4
    assert differences(load_weights(run / "best.pt"), load_weights(run / "final.pt")) == []


@pytest.mark.parametrize("older_code", [False, True])
@pytest.mark.parametrize("without", [[], ["best"], ["best", "best.pt"]], ids=["archive", "best_file", "nothing"])
def test_a_run_that_branches_off_takes_the_best_with_it(
    without: list[str],
    older_code: bool,
    train: Callable[[int], Path],
    sudoku6_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, branch = train(3), tmp_path / "branch"
    best = load_weights(run / "best.pt")
    if older_code:
        as_of_older_code(run)
    for name in without:
        (shutil.rmtree if (run / name).is_dir() else os.remove)(run / name)
    capsys.readouterr()
    train_here("trm_mlp", sudoku6_folder, branch, [*OFTEN, "max_steps=3", f"resume={run / 'latest_state.pt'}"])
    tested = json.loads((branch / "summary.json").read_text())["test"]
    lost = "best.pt" in without
    assert ("of update 2, are not there" in capsys.readouterr().err) == lost
    assert tested["best"]["step"] == (3 if lost else 2)
    assert differences(load_weights(branch / "best.pt"), load_weights(branch / "final.pt") if lost else best) == []
    record = read_record(branch)
    assert record is not None and record.knows(file_sha256(branch / "best.pt"))


class Killed(BaseException):
    """In place of a SIGKILL."""


def test_what_others_laid_into_an_archive_outlives_it(
    train: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Reports of `evaluate.py` on its weights and a person's notes."""
    run = train(2)
    archive = run / "best" / "step_2"
    (archive / "evaluation_weights.json").write_text("{}")
    (archive / "notes").mkdir()
    (archive / "notes" / "a.txt").write_text("mine")
    state = SimpleNamespace(
        folder=RunFolder(run), state_file=run / "latest_state.pt", validation=SimpleNamespace(best=None)
    )
    align_best(state)  # type: ignore[arg-type]  # no best is known of: all archives go
    beside = run / "best" / "beside_step_2"
    assert not archive.exists() and (beside / "notes" / "a.txt").read_text() == "mine"
    assert (beside / "evaluation_weights.json").read_text() == "{}" and len(list(beside.iterdir())) == 2
    assert f"evaluation_weights.json, notes beside its weights: now in {beside}" in capsys.readouterr().err
    # A second time: neither replaces the other. Nor do weights go that the run never saved.
    archive.mkdir()
    (archive / "evaluation_weights.json").write_text("[]")
    shutil.copy(run / "weights.json", archive)
    torch.save({"a": torch.ones(2)}, archive / "weights.pt")
    remove_archive(archive)
    assert load_weights(beside / "weights.pt")["a"].tolist() == [1, 1]
    assert (beside / "evaluation_weights_2.json").read_text() == "[]"
    assert (beside / "evaluation_weights.json").read_text() == "{}"


def test_keep_last_keeps_weights_of_a_person(train: Callable[[int], Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = train(2)
    for step in (1, 3):
        save_weights(run / f"step_{step}", load_weights(run / "best.pt"))
    torch.save({"a": torch.ones(2)}, run / "step_2")
    digest = file_sha256(run / "step_2")
    keep_last(run, 1)
    assert sorted(path.name for path in run.glob("step_*")) == [f"step_2_{digest[:12]}.pt", "step_3"]
    assert "step_2 holds weights that this run never saved, kept as step_2_" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["best.pt", "final.pt", "step_4"])
def test_weights_of_a_person_are_kept_where_the_run_writes(
    name: str, sudoku6_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the state names no best: it ended by `max_steps`, and was evaluated after its state was saved."""
    options = ["fast_eval_interval=4", "force_full_eval_every=1", "checkpoint_every_fast_eval=True"]
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*options, "max_steps=2"])
    assert load_state(tmp_path / "latest_state.pt")["validation"]["best"] is None
    path = tmp_path / name
    path.unlink(missing_ok=True)
    torch.save({"a": torch.ones(2)}, path)
    digest = file_sha256(path)
    capsys.readouterr()
    train_here("trm_mlp", sudoku6_folder, tmp_path, [*options, "max_steps=4"])
    kept = tmp_path / f"{path.stem}_{digest[:12]}.pt"
    assert file_sha256(kept) == digest and path.is_file() and file_sha256(path) != digest
    said = capsys.readouterr().err
    assert f"{path} holds weights that this run never saved, kept as {kept.name}" in said


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> bool:
    """Run `action` up to its `number`-th change of a name in a folder; False where it came through."""
    left = number

    def counted(call: Callable[..., None]) -> Callable[..., None]:
        def counting(*arguments: Any, **options: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            call(*arguments, **options)

        return counting

    with monkeypatch.context() as patch:
        for name in ("replace", "link", "unlink"):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            action()
        except Killed:
            return True
    return False


def a_run(folder: Path, step: int, state: dict[str, Any] | None = None) -> Any:
    """What the best files need of a run whose weights at each update are the update's number."""
    model = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.constant_(model.weight, step)
    best = None if state is None else SimpleNamespace(step=state["best"])
    return SimpleNamespace(
        folder=RunFolder(folder),
        step=step,
        model=model,
        averages={},
        evaluated_model=model,
        validation=SimpleNamespace(best=best),
        config=SimpleNamespace(archive_best=False),
        state_file=None if state is None else folder / "latest_state.pt",
        best_sha256=None if state is None else state.get("best_sha256"),
    )


def best_and_state(folder: Path, step: int, best: int) -> None:
    """A boundary as the loop passes it: a new best where it is this step, the state, what belongs to both."""
    before = load_state(folder / "latest_state.pt") if step > 1 else {"best_sha256": None}
    run = a_run(folder, step)
    run.best_sha256 = before["best_sha256"]
    if best == step:
        write_best(run)
    save_latest(folder, {"step": step, "best": best, "best_sha256": run.best_sha256})
    drop_spares(run.folder)
    if best == step:
        link_or_copy(run.folder.latest_state, run.folder.best_state)


def best_of_an_end(folder: Path) -> None:
    """An end whose evaluation comes after its state has been saved."""
    best_and_state(folder, 3, best=1)
    write_best(a_run(folder, 3))
    link_or_copy(folder / "latest_state.pt", folder / "best_state.pt")


@pytest.mark.parametrize("older_code", [False, True])
@pytest.mark.parametrize("kind", ["new_best", "end"])
def test_a_kill_between_any_two_writes_leaves_the_best_of_the_state(
    kind: str, older_code: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each write of a boundary with a new best, or of a best that no state will know; and again at each write
    of the start after it."""
    kills = 0
    for first in range(1, 60):
        for second in range(1, 60):
            folder = tmp_path / f"{first}-{second}"
            folder.mkdir()
            best_and_state(folder, 1, best=1)
            best_and_state(folder, 2, best=1)
            killed = killed_at(
                first,
                monkeypatch,
                lambda: best_and_state(folder, 3, best=3) if kind == "new_best" else best_of_an_end(folder),  # noqa: B023
            )
            if older_code:
                as_of_older_code(folder)
            state = load_state(folder / "latest_state.pt")
            run = a_run(folder, state["step"], state)
            again = killed_at(second, monkeypatch, lambda: align_best(run))  # noqa: B023
            align_best(run := a_run(folder, state["step"], state))
            assert run.validation.best is not None and run.best_sha256 == file_sha256(folder / "best.pt")
            assert float(load_weights(folder / "best.pt")["weight"][0, 0]) == state["best"], (first, second)
            assert load_state(folder / "best_state.pt")["step"] == state["best"], (first, second)
            assert not list(folder.glob(".earlier*"))
            kills += killed and again
            if not again:
                break
        if not killed:
            break
    assert kills > 5
