"""Where a run starts from: its own newest state, a state or weights that are named, or nothing.

The same command goes on by itself from the folder's newest state; anything that could mix two runs or lose one is
refused in one line with the ways out.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataset.plain_data import JsonError, read_json_object
from errors import UserError
from files import UnusableFile, regular_size
from training.storage.archive import stored_digest
from training.storage.run_folder import LATEST_STATE, RunFolder

_SHOWN = 4  # names of what a folder holds

StartKind = Literal["own_state", "resume_file", "init_from", "scratch"]


@dataclass(frozen=True)
class StartDecision:
    """Where a run starts. `path` is the file to read (None from scratch); `message` is to be printed."""

    kind: StartKind
    path: Path | None
    message: str


def decide_start(folder: RunFolder | Path | str, resume: str = "auto", init_from: str | None = None) -> StartDecision:
    """Choose the start: the run's own newest state > `resume=FILE` > `init_from` > scratch.

    `resume` is `auto`, `never`, `must` or a state file. Nothing is read or changed; the own state is then
    loaded with `checkpoint.load_newest`. Errors: `UserError` with the ways out when the wish cannot be met
    without losing something.
    """
    run = folder if isinstance(folder, RunFolder) else RunFolder(folder)
    own_state = run.newest_state
    if not run.states:
        _refuse_results(run)
    if resume == "never":
        if run.states:
            raise UserError(
                f"resume=never, but {run.path} holds {run.states[0].name}: go on with it (resume=auto), "
                "name another checkpoint_path, or move the folder away"
            )
        return _fresh(init_from)
    file = None if resume in ("auto", "must") else Path(os.path.expanduser(resume))
    if own_state is not None:
        if file is not None:
            _refuse_older(run, own_state, file)
        unused = [f"resume={file}"] if file is not None and not _same(file, own_state) else []
        unused += [f"init_from={init_from}"] if init_from else []
        note = f" ({' and '.join(unused)} not used: the run's own state comes first)" if unused else ""
        return StartDecision("own_state", own_state, f"going on from {own_state}{note}")
    if file is not None:
        _check_file(
            file, f"resume={resume}", f"expected auto, never, must or a state file such as RUN_FOLDER/{LATEST_STATE}"
        )
        note = f" (init_from={init_from} not used: resume=FILE comes first)" if init_from else ""
        return StartDecision("resume_file", file, f"going on in {run.path} from the state {file}{note}")
    if run.states:
        raise UserError(
            f"{run.path} holds {run.states[0].name} but no {LATEST_STATE}: go on from it with "
            f"resume={run.states[0]}, or name another checkpoint_path"
        )
    if resume == "must":
        raise UserError(
            f"resume=must, but {run.path} holds no state: check checkpoint_path, or start it with resume=auto"
        )
    return _fresh(init_from)


def _fresh(init_from: str | None) -> StartDecision:
    if not init_from:
        return StartDecision("scratch", None, "starting from scratch")
    path = Path(os.path.expanduser(init_from))
    _check_file(path, f"init_from={init_from}", "name a weights file such as RUN_FOLDER/best.pt")
    return StartDecision("init_from", path, f"starting with the weights of {path}")


def _check_file(path: Path, option: str, mend: str) -> None:
    try:
        regular_size(path)
    except UnusableFile as error:
        raise UserError(f"{option}: {error}; {mend}") from None


def _refuse_results(run: RunFolder) -> None:
    """Errors: `UserError` where a run's states are gone but what it made is there, which a new run would replace."""
    found = run.results
    if not found or _ended_before_its_first_state(run):
        return
    names = ", ".join(path.name for path in found[:_SHOWN]) + ("" if len(found) <= _SHOWN else ", ...")
    raise UserError(
        f"{run.path} holds a run ({names}) but none of its states, so a run here would begin anew and replace it: "
        f"name another checkpoint_path, move the folder away, or put its {LATEST_STATE} back to go on"
    )


def _ended_before_its_first_state(run: RunFolder) -> bool:
    """Whether a run was killed or failed when it had logged, and perhaps evaluated, but saved no state yet."""
    try:
        status = read_json_object(run.status)
    except JsonError:
        return False
    return status.get("state") != "done" and status.get("last_ckpt") is None


def _same(file: Path, other: Path) -> bool:
    """The same file, a hard link of it, or (where links are refused) a copy with the same checksum."""
    if not os.path.isfile(file) or not os.path.isfile(other):
        return False
    if file.samefile(other):
        return True
    digest = stored_digest(file)
    return digest is not None and digest == stored_digest(other)


def _refuse_older(run: RunFolder, own_state: Path, file: Path) -> None:
    """An older state of this very folder: going on from it would silently drop the updates since."""
    inside = os.path.isfile(file) and file.resolve().parent == run.path.resolve()
    if inside and not _same(file, own_state):
        raise UserError(
            f"resume={file} is an older state of this run than {own_state.name}, which comes first: to branch off "
            f"from it, add checkpoint_path=NEW_FOLDER (it is read from here, {run.path} stays as it is)"
        )
