"""The files of the best checkpoint: kept true to the run's state, and archived with all that explains them.

`best/step_N/` holds, as hard links where the same bytes lie in the run folder: `weights.pt` (what evaluation
used), `state.pt` (everything else, raw weights included), `all_config.yaml`, `weights.json`, `training_puzzles.npy`,
`status.json`; and the last log lines (`metrics.jsonl`), the uncommitted changes of the code (`git_diff.patch`) and
`archive.json` with step, metrics, config hash and commit.

The evaluation at the end of a run may lie where the same run, made longer, evaluates nothing; its state was
saved before (see `training/loop.py`). What such an end puts in place of the best files is undone when the run
goes on, so that `best.pt` always is what the state calls the best.
"""

import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Mapping
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


def set_aside(folder: RunFolder) -> None:
    """Keep the present best files under hidden names: a best is about to be written that no state knows of yet.

    Those that are kept already are what the newest state knows. Errors: `OSError` when the disk refuses.
    """
    for spare, present in _spares(folder):
        if present.exists() and not spare.exists():
            link_or_copy(present, spare)


def drop_spares(folder: RunFolder) -> None:
    """Forget the best files of before, once a state knows the present ones."""
    for spare, _ in _spares(folder):
        spare.unlink(missing_ok=True)


def align_best(run: Run) -> None:
    """Make the best files those that the run's state names; rank 0, before the first update.

    Undoes what an end of the run or a killed process wrote after that state, and does what a process killed
    right after saving it left undone. Where a later best has replaced those weights, and none of them are left, the
    best is forgotten, which is said. A run that branches off from another takes over its best. Errors: `OSError`,
    `CheckpointWriteError`, `UserError` for a damaged best file.
    """
    folder, best = run.folder, run.validation.best
    for spare, present in _spares(folder):
        if spare.exists():
            os.replace(spare, present)
    _sweep(folder)
    if run.state_file is None:
        return
    for step, path in archives(folder).items():
        if best is None or step > best.step:
            shutil.rmtree(path)
    if best is None:
        folder.best.unlink(missing_ok=True)
        folder.best_state.unlink(missing_ok=True)
    elif best.step == run.step:
        if not _holds_weights_of(run, folder.best):
            save_weights(folder.best, run.evaluated_model.state_dict())
        link_or_copy(run.state_file, folder.best_state)
        archived = archives(folder).get(best.step)
        if run.config.archive_best and (archived is None or not _same_bytes(archived / "weights.pt", folder.best)):
            archive_best(run, run.config.archive_keep)
    elif not _restored(folder, best.step):
        run.validation.best = None
        kept = folder.path / f"best_{file_sha256(folder.best)[:12]}.pt"
        os.replace(folder.best, kept)
        folder.best_state.unlink(missing_ok=True)
        say(
            f"warning: the weights of the best so far, of update {best.step}, have given way to a later best, which "
            f"this run does not know: that one is kept as {kept.name}, and the next full evaluation chooses anew",
            file=sys.stderr,
        )
    elif not folder.best.is_file() and not _taken_over(run, best.step):
        say(
            f"warning: the weights of the best so far, of update {best.step}, are not there: {folder.best} will be a "
            "later best, and until then no test rows are answered by a best",
            file=sys.stderr,
        )


def _taken_over(run: Run, step: int) -> bool:
    """Whether the best files of `step` stood beside the state that this run has branched off from, and are here now."""
    assert run.state_file is not None
    folder, origin = run.folder, RunFolder(run.state_file.parent)
    archived = archives(origin).get(step, origin.best_archive / "none")
    weights, state = archived / "weights.pt", archived / "state.pt"
    if not weights.is_file():
        weights, state = origin.best, origin.best_state
        if not weights.is_file() or not state.is_file() or load_state(state).get("step") != step:
            return False
    link_or_copy(weights, folder.best)
    if state.is_file():
        link_or_copy(state, folder.best_state)
    return True


def _holds_weights_of(run: Run, path: Path) -> bool:
    """Whether a file holds the run's present weights, trained or averaged."""
    if not path.is_file():
        return False
    stored = load_weights(path)
    models = [run.model, *(average.model for average in run.averages.values())]
    return any(_equal_weights(stored, model.state_dict()) for model in models)


def _equal_weights(stored: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]) -> bool:
    return stored.keys() == now.keys() and all(torch.equal(value, now[key].cpu()) for key, value in stored.items())


def _same_bytes(first: Path, second: Path) -> bool:
    return (
        first.is_file() and second.is_file() and (first.samefile(second) or file_sha256(first) == file_sha256(second))
    )


def _restored(folder: RunFolder, step: int) -> bool:
    """Whether the best files are, or now are again, those of `step`: by its archive, else by what best_state says."""
    archived = archives(folder).get(step)
    if archived is not None and (archived / "weights.pt").is_file():
        if not _same_bytes(archived / "weights.pt", folder.best):
            link_or_copy(archived / "weights.pt", folder.best)
            if (archived / "state.pt").is_file():
                link_or_copy(archived / "state.pt", folder.best_state)
        return True
    if not folder.best.is_file():
        return True  # as it was before: nothing there is of another update
    try:
        return not folder.best_state.is_file() or load_state(folder.best_state).get("step") == step
    except UserError:
        return True  # a damaged one says nothing of the weights


def _spares(folder: RunFolder) -> list[tuple[Path, Path]]:
    present = (folder.best, folder.best_state)
    return [(path.with_name(f".earlier_{path.name}"), path) for path in present]


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
