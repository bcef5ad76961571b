"""Full training states and weights on disk: written atomically, verified when read, never silently wrong.

`latest_state.pt` is the newest full state, `previous_state.pt` the one before. At every instant, also between
any two system calls of a save, at least one of them is complete. A state holds tensors and plain Python
containers only.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from errors import UserError, say
from files import UnusableFile, check_target, file_sha256, reason_of, regular_size, temporary_for
from training.storage.archive import (
    ArchiveError,
    ChecksumMissing,
    read_archive,
    verify_archive,
    write_archive,
)
from training.storage.atomic_file import install, link_or_copy, pause_for_tests
from training.storage.run_folder import BEST_STATE, FINAL_STATE, LATEST_STATE, PREVIOUS_STATE, STEP_FILE, WEIGHTS_RECORD
from training.storage.weights import write_weights
from training.storage.weights_record import may_be_ours, note_weights, set_aside

FORMAT = "rrs-state"
VERSION = 1

_PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_CONTAINERS = (list, tuple, set)
_SPARE_BYTES = 1 << 20  # zip headers and the pickle of the containers

# (device, inode, size, mtime) of the latest state this process wrote or verified: it may become the previous
# one as it stands. Anything else is verified first, lest a damaged file push out a good one.
_known_good: set[tuple[int, int, int, int]] = set()


class CheckpointWriteError(Exception):
    """A file could not be written (disk full, quota, permission); the old ones are intact."""


class DamagedState(UserError):
    """A state file is missing, damaged, or no state of this suite. The message names file and reason."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a full state atomically: temporary file beside it → fsync → rename → fsync of the folder.

    Errors: `TypeError` naming the entry when `state` holds anything but tensors and plain containers (it
    could not be read back with `weights_only=True`); `CheckpointWriteError` when the disk refuses, with the
    old file intact.
    """
    _install(_write_temporary(path, _marked(state)), path)


def save_latest(folder: Path, state: dict[str, Any]) -> Path:
    """Make `state` the folder's `latest_state.pt` and keep the one before as `previous_state.pt`; the path.

    Order: new state complete in a temporary file; the present latest also linked as previous; new over
    latest. A kill anywhere leaves a good file. A damaged latest is not kept: the good previous stays. Errors:
    as `save_state`.
    """
    latest, previous = folder / LATEST_STATE, folder / PREVIOUS_STATE
    temporary = _write_temporary(latest, _marked(state))
    try:
        if latest.exists() and _is_good(latest):
            pause_for_tests()
            link_or_copy(latest, previous)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _write_error(previous, error) from error
    _install(temporary, latest)
    _known_good.clear()
    _known_good.add(_identity(latest))
    return latest


def load_state(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a full state after verifying its checksum. Errors: `DamagedState` naming file and reason."""
    path = Path(path)
    try:
        regular_size(path)
    except UnusableFile as error:
        raise DamagedState(
            f"cannot use the state {path}: {error}; name a file such as RUN_FOLDER/{LATEST_STATE}"
        ) from None
    weights_hint = "if it holds weights only, start from it with init_from=FILE"
    try:
        verify_archive(path)
        value = read_archive(path, map_location)
    except ChecksumMissing as error:
        raise DamagedState(f"{path} is no state of this suite: {error}; {weights_hint}") from error
    except ArchiveError as error:
        raise DamagedState(f"{path} is damaged or no state of this suite: {error}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise DamagedState(f"{path} is a sound file but no full state; {weights_hint}")
    if value.get("version") != VERSION:
        version = value.get("version")
        raise DamagedState(f"{path} is a state of version {version}; this code reads version {VERSION} only")
    _known_good.add(_identity(path))
    return {key: item for key, item in value.items() if key not in ("format", "version")}


def load_newest(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest sound state of a run folder and its path; None when the folder holds neither of the two.

    A damaged `latest_state.pt` is named on stderr and `previous_state.pt` used. Errors: `UserError` when none
    is sound.
    """
    latest, previous = folder / LATEST_STATE, folder / PREVIOUS_STATE
    present = [path for path in (latest, previous) if path.exists()]
    if not present:
        return None
    failures = []
    for path in present:
        try:
            state = load_state(path)
        except DamagedState as error:
            failures.append(str(error))
            continue
        if path == previous:
            reason = failures[0] if failures else f"{latest} is missing"
            say(f"warning: {reason}; going on from {previous}", file=sys.stderr)
        return state, path
    others = [str(folder / name) for name in (BEST_STATE, FINAL_STATE) if (folder / name).exists()]
    file = others[0] if others else "FILE"
    raise UserError(
        f"no usable state in {folder}: {'; '.join(failures)}. Go on from another state with resume={file} "
        "checkpoint_path=NEW_FOLDER, or start over with resume=never checkpoint_path=NEW_FOLDER"
    )


def save_weights(path: Path, state_dict: dict[str, torch.Tensor]) -> str:
    """Write a plain state dict atomically, as torch archive or, by suffix, `.safetensors`; keys as given.

    In a run's folder `weights.json` comes to know the file (`training.storage.weights_record`).
    Returns: the file's SHA-256. Errors: `CheckpointWriteError` when the disk refuses; the old file is intact.
    """
    path = Path(path)
    write = partial(write_weights, safetensors=path.suffix == ".safetensors")
    temporary = _write_temporary(path, state_dict, write)
    try:
        sha256 = file_sha256(temporary)
        note_weights(path, sha256)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _write_error(path.with_name(WEIGHTS_RECORD), error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _install(temporary, path)
    return sha256


def keep_last(folder: Path, k: int) -> list[Path]:
    """Remove all but the k newest `step_N` files, N compared as a number; returns what was removed.

    `k <= 0` keeps everything. Weights that the run never saved are set aside under another name. Files of other names
    (`best.pt`, `final.pt`, states) are never touched.
    """
    steps: dict[int, list[Path]] = {}
    for path in folder.iterdir():
        match = STEP_FILE.fullmatch(path.name)
        if match and path.is_file():
            steps.setdefault(int(match[1]), []).append(path)
    removed = [path for step in sorted(steps)[:-k] for path in steps[step]] if k > 0 else []
    for path in removed:
        if may_be_ours(path):
            path.unlink(missing_ok=True)
        else:
            say(f"warning: {path} holds weights that this run never saved, kept as {set_aside(path)}", file=sys.stderr)
    return removed


def _marked(state: dict[str, Any]) -> dict[str, Any]:
    if state.get("format", FORMAT) != FORMAT or state.get("version", VERSION) != VERSION:
        raise ValueError("a state's keys 'format' and 'version' are reserved")
    _require_plain(state, "state")
    return {**state, "format": FORMAT, "version": VERSION}


def _require_plain(value: Any, name: str) -> None:
    """A NumPy scalar among the metrics would be written without complaint and could never be loaded again."""
    if isinstance(value, torch.Tensor) or type(value) in _PLAIN_TYPES:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            _require_plain(key, f"{name} (a key)")
            _require_plain(item, f"{name}[{key!r}]")
    elif type(value) in _CONTAINERS:
        for index, item in enumerate(value):
            _require_plain(item, f"{name}[{index}]")
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{name} is a {kind}: a state holds tensors and plain values only")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, _CONTAINERS):
        for item in value:
            yield from _tensors(item)


def _require_space(folder: Path, value: Any) -> None:
    storages = {}
    for tensor in _tensors(value):
        storage = tensor.untyped_storage()
        storages[storage.device, storage.data_ptr()] = storage.nbytes()
    needed = sum(storages.values()) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")


def _write_temporary(path: Path, value: Any, write: Callable[[Path, Any], None] = write_archive) -> Path:
    temporary = temporary_for(path)
    try:
        check_target(path)
        _require_space(path.parent, value)
        write(temporary, value)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _write_error(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _install(temporary: Path, path: Path) -> None:
    try:
        install(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> CheckpointWriteError:
    return CheckpointWriteError(
        f"could not write {path}: {reason_of(error)}. The earlier files are intact; free some space (or mend "
        "the folder's permissions) and the next save will succeed"
    )


def _identity(path: Path) -> tuple[int, int, int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _is_good(path: Path) -> bool:
    if _identity(path) in _known_good:
        return True
    try:
        verify_archive(path)
    except ArchiveError as error:
        say(f"warning: {path} is damaged ({error}) and is not kept as {PREVIOUS_STATE}", file=sys.stderr)
        return False
    return True
