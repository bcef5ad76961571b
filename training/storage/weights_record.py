"""`weights.json`: what the weights of a run folder were made with, so that a change beside them does not pass unseen.

    {"sha256": of all the rest, "weights": {SHA-256 of files: {"files": their names, "settings": hash of "settings"}},
     "settings": {...}, ...}                    see `WeightsRecord`

An entry is written before its file is put in place, and earlier entries of the name stay for a while: at every instant,
also after a kill, the file that is there has its entry.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataset.plain_data import JsonError, read_json_object
from errors import UserError
from files import file_sha256
from training.storage.atomic_file import write_json_atomically
from training.storage.run_folder import WEIGHTS_RECORD

ENTRIES_KEPT = 4  # of one file name: the present one, one that was set aside, and what a kill may have left


@dataclass(frozen=True)
class WeightsRecord:
    """What is known of the weights in a folder.

    Attributes:
        schema: hash of the names of all settings that there were. settings: those that shape answers, by dotted key.
        computes_in: dtypes of layers and states. puzzles: task and shape; rows: what judges; training: the file of the
        training puzzles' keys, complete where those of the weights that the run began with are among them; all three
        None for a project that has none. weights: see the module.
    """

    schema: str
    settings: Mapping[str, Any]
    computes_in: Mapping[str, str]
    puzzles: Mapping[str, Any] | None = None
    rows: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    weights: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def knows(self, sha256: str) -> bool:
        """Whether weights of these bytes were made with the settings that stand here."""
        return self.weights.get(sha256, {}).get("settings") == canonical_sha256(self.settings)


Fits = Callable[[Any], bool]


def _entries(lately: Mapping[str, Fits] | None = None, **forms: Fits) -> Fits:
    """A mapping of exactly these entries. lately: those that older records lack."""
    known = {**forms, **(lately or {})}
    return lambda value: (
        isinstance(value, dict)
        and forms.keys() <= value.keys() <= known.keys()
        and all(known[name](each) for name, each in value.items())
    )


def _all(fits: Fits, kind: type) -> Fits:
    """A list, or a mapping by texts, whose values are of this form each."""

    def every_one(value: Any) -> bool:
        values = value.values() if isinstance(value, dict) else value
        return isinstance(value, kind) and all(fits(each) for each in values)

    return every_one


def _or_none(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


_text: Fits = lambda value: isinstance(value, str)  # noqa: E731
_count: Fits = lambda value: type(value) is int and value >= 0  # noqa: E731
_hashes = _all(lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None, list)
_anything: Fits = lambda value: True  # noqa: E731
_flag: Fits = lambda value: isinstance(value, bool)  # noqa: E731
_sums = _all(_text, dict)
_FORM: dict[str, Fits] = {
    "schema": _text,
    "settings": lambda value: isinstance(value, dict),
    "computes_in": _entries(layers=_text, states=_text),
    "puzzles": _or_none(_entries(task=_text, seq_len=_count, vocab_size=_count, pad_id=_count, augmentation=_anything)),
    "rows": _or_none(
        _entries(
            {"data_sha256": _sums}, validation_size=_count, data=_all(_text, list), validation=_hashes, earlier=_hashes
        )
    ),
    "training": _or_none(_entries({"complete": _flag}, sha256=_text, puzzles=_count, task=_text, up_to_symmetry=_flag)),
    "weights": _all(_entries(files=_all(_text, list), settings=_text), dict),
}


def canonical_sha256(value: Any) -> str:
    """SHA-256 (hex) of plain data, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def read_record(folder: Path) -> WeightsRecord | None:
    """The record of a folder, None where it has none. Errors: `UserError` for a damaged one."""
    path = folder / WEIGHTS_RECORD
    if not path.exists():
        return None
    try:
        content = read_json_object(path)
        if content.pop("sha256", None) != canonical_sha256(content):
            raise JsonError("it is not as it was written: its checksum differs")
        if content.keys() != _FORM.keys():
            raise JsonError("it has other entries than this code writes")
        wrong = next((name for name, fits in _FORM.items() if not fits(content[name])), None)
        if wrong is not None:
            raise JsonError(f"its entry {wrong!r} is not of the form that this code writes")
    except JsonError as error:
        raise UserError(
            f"{path}: {error}; remove it to use the folder without it, when nothing ties settings to weights"
        ) from error
    return WeightsRecord(**content)


def write_record(folder: Path, record: WeightsRecord) -> None:
    """Write the record of a folder atomically. Errors: `OSError`."""
    content = {key: dict(value) if isinstance(value, Mapping) else value for key, value in vars(record).items()}
    content = json.loads(json.dumps(content))
    write_json_atomically(folder / WEIGHTS_RECORD, {"sha256": canonical_sha256(content), **content})


def may_be_ours(weights: Path) -> bool:
    """Whether a run may have saved what the file holds, as far as the `weights.json` beside it knows."""
    record = read_record(weights.parent)
    return record is None or not record.weights or file_sha256(weights) in record.weights


def set_aside(weights: Path) -> str:
    """Rename weights after what they hold; returns the new name."""
    aside = weights.with_name(f"{weights.stem}_{file_sha256(weights)[:12]}.pt")
    os.replace(weights, aside)
    return aside.name


def note_weights(path: Path, sha256: str) -> None:
    """Say that the file about to be `path`, of this SHA-256, was made with the settings of its folder's record.

    Nothing in a folder that has none. Errors: `OSError`, `UserError` for a damaged record.
    """
    record = read_record(path.parent)
    if record is None:
        return
    kept: dict[str, Mapping[str, Any]] = {}
    names = Counter[str]()
    for key, value in reversed(list(record.weights.items())):
        named = [str(name) for name in value.get("files", ())]
        names.update(named)
        recent = [name for name in named if names[name] < ENTRIES_KEPT and (path.parent / name).exists()]
        if key != sha256 and recent:
            kept[key] = value
    files = {path.name, *record.weights.get(sha256, {}).get("files", ())}
    entry = {"files": sorted(files), "settings": canonical_sha256(record.settings)}
    write_record(path.parent, replace(record, weights={**dict(reversed(list(kept.items()))), sha256: entry}))
