"""Names of the files that evaluations write: equal only where the results are."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dataset.plain_data import json_object_or_refuse
from dataset.puzzle_metadata import PuzzleMetadata
from errors import UserError
from training.devices import dtype_name, resolve_dtype
from training.setup import model_config
from training.storage.result_target import EVALUATION, check_result_target
from training.trained_model import Checkpoint

KEPT = "kept"  # entry of a report: the files beside it, by name
# Entries of a report that say what it is of, and what a report is said to be of where one differs.
_OTHER = {
    "checkpoint_sha256": "other weights of that name",
    "run_settings": "other settings beside the weights",
    "datasets": "other data of that name",
    "asked": "what other options ask",
}
_AGAIN = "remove it to make it again"
_WAYS_OUT = "move it away, or name another report with output=FILE.json"


def dtype_parts(checkpoint: Checkpoint, asked: str | None, metadata: PuzzleMetadata, device: torch.device) -> list[str]:
    """What the names of results say of dtypes: nothing where layers and states are computed in the run's own.

    asked: in place of the run's, for both. An old folder does not say what `auto` was: it counts as what it is here.
    """
    config = checkpoint.config

    def computed(dtype: str, state_dtype: str) -> dict[str, str]:
        layers = resolve_dtype(dtype, device)
        states = None if state_dtype == "auto" else resolve_dtype(state_dtype, device)
        network = model_config(config.arch, metadata, layers, states)
        return {"layers": dtype_name(network.dtype), "states": dtype_name(network.carry_dtype)}

    now = computed(config.dtype, config.state_dtype) if asked is None else computed(asked, "auto")
    before = computed(config.dtype, config.state_dtype) if checkpoint.record is None else checkpoint.record.computes_in
    if now == dict(before):
        return []
    return [now["layers"] if now["states"] == now["layers"] else f"{now['layers']}-states-{now['states']}"]


def report_path(own: Path, output: str | None, of: Mapping[str, Any]) -> Path:
    """Where a report goes: `output`, else its own place.

    Errors: `UserError` where `output` is how another evaluation of these weights is called, is no place for a file or
    that of a file which is no report, and where a report is there that is of anything else than this one.
    of: entries of a report that are equal where it reports on the same.
    """
    path = own if output is None else Path(output)
    if output is not None:
        check_result_target("output=", path, EVALUATION)
    if path.name.startswith("evaluation_") and path.resolve().parent == own.resolve().parent and path.name != own.name:
        raise UserError(f"output={output}: so is another evaluation called; this one is {own.name}")
    if path.exists():
        earlier = json_object_or_refuse(path, _AGAIN)
        # A report of earlier code that lacks an entry is of who knows what.
        other = [words for name, words in _OTHER.items() if earlier.get(name) != of[name]]
        if other:
            raise UserError(f"{path} reports on {' and '.join(other)}: {_WAYS_OUT}")
    return path


def predictions_file(name: str, kind: str, split: str, rank: int, processes: int) -> str:
    """What the file of the answers to rows of a kind is called; of several processes each has one, of its share."""
    apart = "_validation" if kind == "validation" and split == "all" else ""
    return f"predictions_{name}{apart}{f'.{rank}' if processes > 1 else ''}.npz"


def kept_beside(folder: Path, report: Path, planned: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What will stand beside a report when `planned` is written: with what an earlier one of it has left there.

    Args:
        planned: the files in `folder`, by name: `arrays` that one keeps, `processes` that share its rows.
    Errors: `UserError` where a file is there that is of another evaluation, or keeps what the new one would not.
    """
    earlier: Any = json_object_or_refuse(report, _AGAIN).get(KEPT) if report.exists() else None
    entries = earlier.items() if isinstance(earlier, dict) else ()
    known = {name: entry for name, entry in entries if isinstance(entry, dict) and os.path.lexists(folder / name)}
    processes = {_of_all_ranks(name, now): now["processes"] for name, now in planned.items()}
    for name, entry in known.items():
        count, count_now = entry.get("processes"), processes.get(_of_all_ranks(name, entry))
        if count_now not in (None, count):
            raise UserError(
                f"{folder / name} keeps the rows of one among {count} processes, now there are {count_now}: {_WAYS_OUT}"
            )
    for name in (name for name in planned if os.path.lexists(folder / name)):
        if name not in known:
            raise UserError(f"{folder / name} is there, and {report} does not say of what: {_WAYS_OUT}")
        before, now = known[name], planned[name]
        arrays = list(map(str, before.get("arrays") or ()))
        lost = [array for array in arrays if array not in now["arrays"]]
        if lost:
            both = ",".join(dict.fromkeys([*arrays, *now["arrays"]]))
            raise UserError(f"{folder / name} also keeps {', '.join(lost)}: give save_outputs=[{both}], or {_WAYS_OUT}")
    return {**known, **planned}


def _of_all_ranks(name: str, entry: Mapping[str, Any]) -> str:
    """What a file of a rank's share is called in an evaluation by one process."""
    return name if entry.get("processes") == 1 else re.sub(r"\.\d+(?=\.npz$)", "", name)
