"""The files of the best checkpoint, kept true to the run's state.

A state holds the SHA-256 of the `best.pt` that it calls the best. Between a new best and the next state none knows of
it: after a kill there, after the evaluation at a run's end (its state was saved before, see `training/loop.py`), and
where a damaged state gives way to the one before. When the run goes on, `best.pt` becomes what its state names.
"""

import sys
from pathlib import Path

import torch

from errors import UserError, say
from files import file_sha256
from training.best_archive import archive_best, archives, remove_archive, sweep
from training.run import Run
from training.storage.atomic_file import link_or_copy
from training.storage.checkpoint import load_state, save_weights
from training.storage.run_folder import RunFolder
from training.storage.weights import load_weights
from training.storage.weights_record import may_be_ours, note_weights, set_aside


def write_best(run: Run) -> None:
    """Make the evaluated weights `best.pt`, which no state knows of yet; what the newest state knows is set aside.

    Errors: `OSError`, `CheckpointWriteError` when the disk refuses.
    """
    for present, spare in zip((run.folder.best, run.folder.best_state), _spares(run.folder), strict=True):
        if present.exists() and not spare.exists():
            link_or_copy(present, spare)
    run.best_sha256 = save_weights(run.folder.best, run.evaluated_model.state_dict())


def drop_spares(folder: RunFolder) -> None:
    """Forget the best files of before, once a state knows the present ones."""
    for spare in _spares(folder):
        spare.unlink(missing_ok=True)


def align_best(run: Run) -> None:
    """Make the best files those that the run's state names; rank 0, before the first update.

    Where `best.pt` has another SHA-256 than the state holds, a copy that has it takes its place, of this folder or of
    the one that the run branches off from. So what an end of the run or a killed process wrote after that state is
    undone, and what a process killed right after saving it left undone is done. Where no copy is left, the best is
    forgotten, which is said. Errors: `OSError`, `CheckpointWriteError`, `UserError` for a damaged best file.
    """
    folder, best = run.folder, run.validation.best
    sweep(folder)
    if run.state_file is None:
        return drop_spares(folder)
    _keep_strangers(run)
    for step, path in archives(folder).items():
        if best is None or step > best.step:
            remove_archive(path)
    if best is None:
        folder.best.unlink(missing_ok=True)  # of an end after the state
        folder.best_state.unlink(missing_ok=True)
        return drop_spares(folder)
    run.best_sha256 = run.best_sha256 or _of_an_older_state(run, best.step)
    copies = _copies(run, best.step)
    weights = next((path for path in copies if path.is_file() and file_sha256(path) == run.best_sha256), None)
    if weights is None and best.step == run.step:
        run.best_sha256 = save_weights(folder.best, run.evaluated_model.state_dict())
    elif weights is None:
        _forget(run, best.step)
    elif weights != folder.best:
        state = copies[weights]
        # First what does not decide: a kill between the two leaves all of it to be done again.
        if state is not None and state.is_file():
            link_or_copy(state, folder.best_state)
        elif _is_of_another(folder.best_state, best.step):
            folder.best_state.unlink()
        note_weights(folder.best, str(run.best_sha256))
        if folder.best.is_file() and not may_be_ours(folder.best):
            say(
                f"warning: {folder.best} held weights that this run never saved, kept as {set_aside(folder.best)}; "
                f"those of its best, of update {best.step}, are put back",
                file=sys.stderr,
            )
        link_or_copy(weights, folder.best)
        archived = folder.best_archive / f"step_{best.step}" / "weights.pt"
        if archived.is_file() and file_sha256(archived) != run.best_sha256:  # written over through their hard link
            link_or_copy(folder.best, archived)
    if best.step == run.step:
        link_or_copy(run.state_file, folder.best_state)
        archived = folder.best_archive / f"step_{best.step}" / "weights.pt"
        if run.config.archive_best and not (archived.is_file() and file_sha256(archived) == run.best_sha256):
            archive_best(run, run.config.archive_keep)
    drop_spares(folder)


def _copies(run: Run, step: int) -> dict[Path, Path | None]:
    """Where the best weights of update `step` may lie -> where the state of that update then does."""
    spare, spare_state = _spares(run.folder)
    copies: dict[Path, Path | None] = {run.folder.best: run.folder.best_state, spare: spare_state}
    for folder in (run.folder, _origin(run)):
        archived = folder.best_archive / f"step_{step}"
        copies |= {archived / "weights.pt": archived / "state.pt", folder.best: folder.best_state}
        copies |= {folder.step(step): None}
    return copies


def _origin(run: Run) -> RunFolder:
    """The folder of the state that a run goes on from: its own, or the one that it branches off from."""
    assert run.state_file is not None
    return RunFolder(run.state_file.parent)


def _forget(run: Run, step: int) -> None:
    """The best so far has no weights any more: the next full evaluation chooses anew, and a file in its place stays."""
    folder, kept = run.folder, ""
    if folder.best.is_file():
        kept = f"; those in their place, of another update, are kept as {set_aside(folder.best)}"
    folder.best_state.unlink(missing_ok=True)
    run.validation.best = run.best_sha256 = None
    say(
        f"warning: the weights of the best so far, of update {step}, are not there, and the next full evaluation "
        f"chooses anew{kept}",
        file=sys.stderr,
    )


def _keep_strangers(run: Run) -> None:
    """Set weights aside that the run never saved where it is going to write: a person's, in place of its own."""
    folder, best = run.folder, run.validation.best
    coming = [path for path in folder.path.glob("step_*") if _is_beyond(path.name, run.step)]
    for path in [folder.final, *sorted(coming), *([folder.best] if best is None else [])]:
        if path.is_file() and not may_be_ours(path):
            say(f"warning: {path} holds weights that this run never saved, kept as {set_aside(path)}", file=sys.stderr)


def _is_beyond(name: str, step: int) -> bool:
    number = name.removeprefix("step_")
    return number.isdecimal() and int(number) > step


def _of_an_older_state(run: Run, step: int) -> str | None:
    """SHA-256 of the best weights where the state is of code that did not note it; None where nothing tells them."""
    known = _origin(run)
    paths = [_spares(known)[0], known.best_archive / f"step_{step}" / "weights.pt"]
    paths += [] if _is_of_another(known.best_state, step) else [known.best]
    if step == run.step:  # its weights are here, trained and averaged
        paths = [known.best] if known.best.is_file() and _holds_weights_of(run, known.best) else []
    files = [path for path in [*paths, known.step(step)] if path.is_file()]
    return next((file_sha256(path) for path in files if may_be_ours(path)), None)


def _is_of_another(state: Path, step: int) -> bool:
    try:
        return state.is_file() and load_state(state).get("step") != step
    except UserError:
        return False  # a damaged one says nothing


def _holds_weights_of(run: Run, path: Path) -> bool:
    stored = load_weights(path)
    known = [model.state_dict() for model in (run.model, *(average.model for average in run.averages.values()))]
    return any(
        stored.keys() == now.keys() and all(torch.equal(value, now[key].cpu()) for key, value in stored.items())
        for now in known
    )


def _spares(folder: RunFolder) -> tuple[Path, Path]:
    """Hidden names of `best.pt` and `best_state.pt`."""
    first, second = (path.with_name(f".earlier_{path.name}") for path in (folder.best, folder.best_state))
    return first, second
