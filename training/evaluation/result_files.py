"""Names of the files that evaluations write: equal only where the results are."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from dataset.plain_data import JsonError, json_object_or_refuse, read_json_object
from dataset.puzzle_metadata import PuzzleMetadata
from errors import UserError, writing
from files import UnusableFile, check_target
from training.devices import dtype_name, resolve_dtype
from training.setup import model_config
from training.storage.run_folder import ALL_CONFIG, FIXED_NAMES
from training.trained_model import Checkpoint


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


def report_path(own: Path, output: str | None, datasets: Sequence[str]) -> Path:
    """Where a report goes: `output`, else its own place.

    Errors: `UserError` where `output` is how another evaluation of these weights is called, is no place for a file or
    that of a file which is no report, and where a report of this name is there and is of other data, whose folder is
    called alike. datasets: fingerprints.
    """
    path = own if output is None else Path(output)
    if output is not None:
        _check_output(path)
    if path.name.startswith("evaluation_") and path.resolve().parent == own.resolve().parent and path.name != own.name:
        raise UserError(f"output={output}: so is another evaluation called; this one is {own.name}")
    if own.exists():
        earlier = json_object_or_refuse(own, "remove it to make it again").get("datasets")
        if earlier != list(datasets):
            raise UserError(f"{own} reports on other data of that name: move it away, or rename the data's folder")
    return path


def _check_output(path: Path) -> None:
    """Before anything is measured. Errors: `UserError`."""
    with writing(path, "name another with output=FILE.json"):
        check_target(path)
        if not os.access(path.absolute().parent, os.W_OK):
            raise UnusableFile("its folder is not there, or is not writable", path)
    if path.name in FIXED_NAMES and (path.parent / ALL_CONFIG).exists():
        raise UserError(f"output={path}: so is a file of the run called; name another")
    if path.exists():
        try:
            report = read_json_object(path)
        except JsonError:
            report = {}
        if "results" not in report:
            raise UserError(f"output={path} is there and is no report of an evaluation; name another, or remove it")
