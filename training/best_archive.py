"""Archives of the best checkpoint, with all that explains them.

`best/step_N/` holds, as hard links where the same bytes lie in the run folder: `weights.pt` (what evaluation
used), `state.pt` (everything else, raw weights included), `all_config.yaml`, `weights.json`, `training_puzzles.npy`,
`status.json`; and the last log lines (`metrics.jsonl`), the uncommitted changes of the code (`git_diff.patch`) and
`archive.json` with step, metrics, config hash and commit. An archive that gives way goes with these files alone: what
else lies there, such as reports of `evaluate.py`, stays in `best/beside_step_N/`, and this is said.
"""

import errno
import os
import re
import shutil
import sys
from collections import deque
from pathlib import Path
from typing import Any

from dataset.plain_data import JsonError, json_bytes, read_json_object
from errors import say
from files import MAX_TEXT_BYTES, bounded_bytes
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
from training.storage.run_folder import TRAINING_PUZZLES, RunFolder
from training.storage.weights_record import may_be_ours

LOG_LINES = 200
_ARCHIVE = re.compile(r"step_(\d+)")
_OWN = {
    "weights.pt", "state.pt", "all_config.yaml", "weights.json", TRAINING_PUZZLES, "status.json", "metrics.jsonl",
    "git_diff.patch", "archive.json",
}  # fmt: skip
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
            remove_archive(path)
    return target


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
        _keep_others(target)
        os.replace(target, old)
    os.replace(building, target)
    fsync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_archive(archive: Path) -> None:
    _keep_others(archive)
    shutil.rmtree(archive, ignore_errors=True)


def _keep_others(archive: Path) -> None:
    """Move what is in an archive and not of its own files to a folder beside it, and say so. Errors: `OSError`."""
    weights = archive / "weights.pt"
    others = sorted(path for path in archive.iterdir() if path.name not in _OWN)
    others += [weights] if weights.is_file() and not may_be_ours(weights) else []
    if not others:
        return
    aside = archive.with_name(f"beside_{archive.name}")
    if aside.is_file():
        raise FileExistsError(errno.EEXIST, "move it away: what lies in an archive goes into a folder", str(aside))
    aside.mkdir(exist_ok=True)
    for path in others:
        number, place = 1, aside / path.name
        while os.path.lexists(place):
            number += 1
            place = aside / f"{path.stem}_{number}{path.suffix}"
        os.replace(path, place)
    names = ", ".join(path.name for path in others)
    say(f"warning: {archive} gives way to what this run holds; {names} beside its weights: now in {aside}",
        file=sys.stderr)  # fmt: skip


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


def sweep(folder: RunFolder) -> None:
    """Remove what killed processes left; the caller holds the folder's lock."""
    if folder.best_archive.is_dir():
        for path in folder.best_archive.iterdir():
            if _UNFINISHED.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
