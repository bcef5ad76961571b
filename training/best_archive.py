"""The files of the best checkpoint: kept true to the run's state, and archived with all that explains them.

`best/step_N/` holds, as hard links where the same bytes lie in the run folder: `weights.pt` (what evaluation
used), `state.pt` (everything else, raw weights included), `all_config.yaml`, `weights.json`, `training_puzzles.npy`,
`status.json`; and the last log lines (`metrics.jsonl`), the uncommitted changes of the code (`git_diff.patch`) and
`archive.json` with step, metrics, config hash and commit.

A state holds the SHA-256 of the `best.pt` that it calls the best. Between a new best and the next state none knows of
it: after a kill there, after the evaluation at a run's end (its state was saved before, see `training/loop.py`), and
where a damaged state gives way to the one before. When the run goes on, `best.pt` becomes what its state names.
"""

import os
import re
import shutil
import sys
from collections import deque
from pathlib import Path
from typing import Any

import torch

from dataset.plain_data import JsonError, json_bytes, read_json_object
from errors import UserError, say
from files import MAX_TEXT_BYTES, bounded_bytes, file_sha256
from training.records.metrics_log import read_metrics
from training.run import Run
from training.settings.identity import config_hash
from training.storage.atomic_file import (
    fsync_folder,
    link_or_copy,
    write_atomically,
    write_bytes_atomically,
    write_json_atomically,
)
from training.storage.checkpoint import load_state, save_weights
from training.storage.run_folder import TRAINING_PUZZLES, RunFolder
from training.storage.weights import load_weights
from training.storage.weights_record import note_weights, read_record

LOG_LINES = 200
_ARCHIVE = re.compile(r"step_(\d+)")
_UNFINISHED = re.compile(r"\.step_\d+\.\d+\.(?:tmp|old)")


def archives(folder: RunFolder) -> dict[int, Path]:
    """Finished archives of a run by step, oldest first."""
    if not folder.best_archive.is_dir():
        return {}
    matches = ((_ARCHIVE.fullmatch(path.name), path) for path in folder.best_archive.iterdir())
    by_step = {int(match[1]): path for match, path in matches if match and path.is_dir()}
    return dict(sorted(by_step.items()))


def archive_best(run: Run, keep: int, protected_step: int | None = None) -> Path | None:
    """Archive the best checkpoint and remove all but the `keep` newest archives and that of `protected_step`.

    Call it on rank 0 once `best.pt` and `best_state.pt` are written. An archive appears whole or not at all.
    Returns its folder, None without a best. Errors: `OSError` when the disk refuses; earlier archives are
    intact.
    """
    best, folder = run.validation.best, run.folder
    if best is None or not folder.best.exists():
        return None
    target = folder.best_archive / f"step_{best.step}"
    building = folder.best_archive / f".step_{best.step}.{os.getpid()}.tmp"
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
        _fill(run, building)
        _install(building, target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    kept = sorted(archives(folder))[-keep:]
    for step, path in archives(folder).items():
        if step not in kept and step != protected_step:
            shutil.rmtree(path, ignore_errors=True)
    return target


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
    _sweep(folder)
    if run.state_file is None:
        return drop_spares(folder)
    for step, path in archives(folder).items():
        if best is None or step > best.step:
            shutil.rmtree(path)
    if best is None:
        folder.best.unlink(missing_ok=True)
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
        if folder.best.is_file() and not _may_be_ours(folder.best):
            say(
                f"warning: {folder.best} held weights that this run never saved, kept as {_set_aside(folder)}; those "
                f"of its best, of update {best.step}, are put back",
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
        kept = f"; those in their place, of another update, are kept as {_set_aside(folder)}"
    folder.best_state.unlink(missing_ok=True)
    run.validation.best = run.best_sha256 = None
    say(
        f"warning: the weights of the best so far, of update {step}, are not there, and the next full evaluation "
        f"chooses anew{kept}",
        file=sys.stderr,
    )


def _set_aside(folder: RunFolder) -> str:
    """Rename `best.pt` after what it holds; returns the new name."""
    aside = folder.path / f"best_{file_sha256(folder.best)[:12]}.pt"
    os.replace(folder.best, aside)
    return aside.name


def _may_be_ours(weights: Path) -> bool:
    """Whether the run may have saved what the file holds, as far as the `weights.json` beside it knows."""
    record = read_record(weights.parent)
    return record is None or not record.weights or file_sha256(weights) in record.weights


def _of_an_older_state(run: Run, step: int) -> str | None:
    """SHA-256 of the best weights where the state is of code that did not note it; None where nothing tells them."""
    known = _origin(run)
    paths = [_spares(known)[0], known.best_archive / f"step_{step}" / "weights.pt"]
    paths += [] if _is_of_another(known.best_state, step) else [known.best]
    if step == run.step:  # its weights are here, trained and averaged
        paths = [known.best] if known.best.is_file() and _holds_weights_of(run, known.best) else []
    files = [path for path in [*paths, known.step(step)] if path.is_file()]
    return next((file_sha256(path) for path in files if _may_be_ours(path)), None)


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


def _fill(run: Run, building: Path) -> None:
    folder, best = run.folder, run.validation.best
    assert best is not None
    link_or_copy(folder.best, building / "weights.pt")
    plain = (folder.all_config, folder.weights_record, folder.path / TRAINING_PUZZLES)
    for source, name in ((folder.best_state, "state.pt"), *((path, None) for path in plain)):
        if source.exists():
            link_or_copy(source, building / (name or source.name))
    if folder.status.exists():  # a copy: on a full disk a run writes its last word into the file's own blocks
        write_bytes_atomically(building / folder.status.name, bounded_bytes(folder.status, MAX_TEXT_BYTES))
    tail, metrics = _log_tail(folder.metrics, best.step)
    write_atomically(building / folder.metrics.name, lambda file: file.writelines(tail))
    git = _git(folder.provenance)
    if git.get("diff"):
        text = str(git["diff"])
        write_bytes_atomically(building / "git_diff.patch", text.encode())
    description = {
        "step": best.step,
        "metric": run.headline,
        "value": best.value,
        "numerator": best.numerator,
        "denominator": best.denominator,
        "metrics": metrics,
        "config_hash": config_hash(run.config),
        "commit": git.get("commit"),
        "diff_sha256": git.get("diff_sha256"),
    }
    write_json_atomically(building / "archive.json", description)


def _install(building: Path, target: Path) -> None:
    """Rename the finished folder into place; an archive of the same step gives way."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(building, target)
    fsync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _log_tail(path: Path, step: int) -> tuple[list[bytes], dict[str, Any]]:
    """The last log lines up to `step`, and the evaluation among them that was made at `step`."""
    if not path.exists():
        return [], {}
    records = deque((record for record in read_metrics(path) if record["step"] <= step), maxlen=LOG_LINES)
    metrics = {
        key: value
        for record in records
        if record["step"] == step
        for key, value in record.items()
        if key.startswith(("eval/", "guard/"))
    }
    return [json_bytes(record, indent=None) for record in records], metrics


def _git(provenance: Path) -> dict[str, Any]:
    """Commit and diff of the present session, from the file that the session's start has written.

    A session repeats the diff only where it changed: it is looked up in the newest one that has it.
    """
    try:
        record = read_json_object(provenance)
    except (JsonError, OSError):
        return {}
    of_sessions = [session.get("git") or {} for session in record.get("sessions", [])] or [{}]
    present = dict(of_sessions[-1])
    for git in [*reversed(of_sessions), record.get("git") or {}]:
        if "diff" in git and git.get("diff_sha256") == present.get("diff_sha256"):
            return present | {"diff": git["diff"]}
    return present


def _sweep(folder: RunFolder) -> None:
    """Remove what killed processes left; the caller holds the folder's lock."""
    if folder.best_archive.is_dir():
        for path in folder.best_archive.iterdir():
            if _UNFINISHED.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
