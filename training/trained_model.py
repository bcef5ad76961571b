"""A trained model from its run folder: settings beside the checkpoint, data they name, weights checked."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dataset.content_sums import content_sums, refuse_other_content
from dataset.puzzle_folder import PuzzleSet, fingerprint, open_puzzle_sets
from dataset.puzzle_metadata import PuzzleMetadata, data_folder, read_metadata
from dataset.tasks.base import TaskError
from errors import UserError, say
from files import file_sha256
from models.config import DTYPES
from models.recursive_model import RecursiveModel
from training.projects import refuse_project
from training.settings.resolving import load_config_file
from training.settings.schema import TrainConfig
from training.setup import build_network
from training.storage.run_folder import WEIGHTS_RECORD, RunFolder
from training.storage.weights import check_weights, load_weights
from training.storage.weights_record import WeightsRecord, read_record


@dataclass(frozen=True)
class Checkpoint:
    """Weights as read (prefixes stripped) and the settings of the run they come from.

    record: what the folder knows of its weights; None in a foreign or an old one. sha256: of the file.
    """

    path: Path
    config: TrainConfig
    weights: dict[str, torch.Tensor]
    record: WeightsRecord | None = None
    sha256: str = ""

    @property
    def name(self) -> str:
        """`best` of best.pt, `step_500` of step_500: what files about this checkpoint are named after."""
        return self.path.stem if self.path.suffix in (".pt", ".safetensors") else self.path.name

    @property
    def vocab_size(self) -> int:
        """Tokens the weights know."""
        return self._rows("embed_tokens.embedding_weight")

    @property
    def num_puzzle_identifiers(self) -> int:
        """Rows of the puzzle table; 1 without a table."""
        return self._rows("puzzle_emb.weights") if "puzzle_emb.weights" in self.weights else 1

    def _rows(self, key: str) -> int:
        tensor = self.weights.get(key)
        if tensor is None or tensor.ndim != 2:
            what = "no" if tensor is None else f"a {tensor.ndim}-dimensional"
            raise UserError(f"{self.path} holds {what} {key}: these are no weights of a TRM, HRM or SRM")
        return int(tensor.shape[0])


def open_checkpoint(path: str | Path, *, device: str = "auto", dtype: str | None = None) -> Checkpoint:
    """Read weights and the `all_config.yaml` beside them, ours or the official code's.

    `device` replaces the run's (which may have had another machine); `dtype` too unless None. A run folder
    means its `best.pt`. A line warns where nothing ties the settings to the weights. Errors: `UserError` naming the
    file, also where the settings are no longer those that the weights were made with.
    """
    path = Path(path)
    if os.path.isdir(path) and os.path.isfile(RunFolder(path).best):
        path = RunFolder(path).best
    weights = load_weights(path)
    config_path = RunFolder(path.parent).all_config
    if not os.path.isfile(config_path):
        raise UserError(
            f"{path} has no {config_path.name} beside it, which says how the model is built: copy the one of its run "
            f"to {config_path}"
        )
    config, record, sha256 = load_config_file(config_path), read_record(path.parent), file_sha256(path)
    if record is None or not record.knows(sha256):
        why = f"no {WEIGHTS_RECORD} beside it" if record is None else f"{WEIGHTS_RECORD} does not know its bytes"
        say(f"warning: {path}: {why}, which would say that it was made with this {config_path.name}", file=sys.stderr)
    config.device = device
    if dtype is not None:
        if dtype not in ("auto", *DTYPES):
            raise UserError(f"dtype={dtype} is none of auto, {', '.join(DTYPES)}")
        config.dtype = dtype
        config.state_dtype = "auto"
    return Checkpoint(path, config, weights, record, sha256)


def open_puzzle_checkpoint(path: str | Path, *, device: str = "auto", dtype: str | None = None) -> Checkpoint:
    """As `open_checkpoint`, of a run on puzzles. Errors: `UserError`, also for one of a project."""
    checkpoint = open_checkpoint(path, device=device, dtype=dtype)
    refuse_project(checkpoint.config, checkpoint.path)
    return checkpoint


def test_metadata(config: TrainConfig) -> PuzzleMetadata:
    """Shape of the data a run was made for. Errors: `UserError` when its folders are not there."""
    paths = config.data_paths_test or config.data_paths
    if not paths:
        raise UserError("the run's settings name no data: give data_paths_test=[data/NAME]")
    return read_metadata(data_folder(paths[0]), "test")


def data_is_here(config: TrainConfig) -> bool:
    """Whether there is anything where the settings of a run say that its test data lie."""
    paths = config.data_paths_test or config.data_paths
    return bool(paths) and os.path.exists(data_folder(paths[0]))


def recorded_metadata(checkpoint: Checkpoint) -> PuzzleMetadata | None:
    """Shape and task of the run's puzzles as its folder knows them, None where it does not.

    Errors: `UserError` where what stands there is no task.
    """
    if checkpoint.record is None or checkpoint.record.puzzles is None:
        return None
    try:
        return shaped(**checkpoint.record.puzzles)
    except (TypeError, ValueError, TaskError) as error:
        path = checkpoint.path.with_name(WEIGHTS_RECORD)
        raise UserError(f"{path} knows no puzzles of this suite ({error}); remove it, or use newer code") from error


def shaped(*, task: str, seq_len: int, vocab_size: int, pad_id: int = 0, augmentation: Any = None) -> PuzzleMetadata:
    """A description of puzzles without a data set. Errors: `TaskError`, `ValueError` for what are none."""
    if not all(type(size) is int and 0 <= size <= 1 << 20 for size in (seq_len, vocab_size, pad_id)):
        raise ValueError(f"{seq_len} cells of {vocab_size} tokens")
    metadata = PuzzleMetadata(
        seq_len=seq_len, vocab_size=vocab_size, pad_id=pad_id, total_groups=1, total_puzzles=1,
        extra={"task": task, "augmentation": augmentation},
    )  # fmt: skip
    _ = metadata.task
    return metadata


def open_test_set(checkpoint: Checkpoint, data_path: str | None, *, option: str = "--data-path ") -> PuzzleSet:
    """The test rows of `data_path`, else those of the run, which must be what the run was judged on.

    option: what names `data_path` to a user. Errors: `UserError`, also where there are several sets.
    """
    paths = [data_path] if data_path else checkpoint.config.data_paths_test or checkpoint.config.data_paths
    if not paths:
        raise UserError(f"the run's settings name no data: give {option}data/NAME")
    sets = open_puzzle_sets([data_folder(path) for path in paths], "test")
    if not data_path:
        refuse_other_data(checkpoint, sets, f"{option}{sets[0].root}")
    return only_set(sets, option)


def only_set(sets: Sequence[PuzzleSet], option: str = "--data-path ") -> PuzzleSet:
    """The set where there is one alone. Errors: `UserError` naming them: the first does not stand for the others."""
    if len(sets) > 1:
        names = ", ".join(f"{puzzle_set.root} ({puzzle_set.set_name})" for puzzle_set in sets)
        raise UserError(f"found several test sets, {names}, expected one: name a folder of one set with {option}DIR")
    return sets[0]


def refuse_other_data(checkpoint: Checkpoint, sets: Iterable[PuzzleSet], way_out: str) -> None:
    """Errors: `UserError` where the run was not judged on these data, which its settings name: built anew, or edited.

    way_out: the option that asks for them as for data of one's own.
    """
    if checkpoint.record is None or checkpoint.record.rows is None:
        return
    rows, sets = checkpoint.record.rows, list(sets)
    for puzzle_set in sets:
        if fingerprint(puzzle_set.folder, puzzle_set.split) not in rows.get("data", ()):
            raise UserError(
                f"{puzzle_set.root} is not what the run of {checkpoint.path} was judged on: its test rows were built "
                f"anew, or the settings were changed; restore them, or ask for these data with {way_out}"
            )
    written = checkpoint.path.with_name(WEIGHTS_RECORD)
    refuse_other_content(rows.get("data_sha256", {}), content_sums(sets), written, f"ask for them with {way_out}")


def restore_model(checkpoint: Checkpoint, metadata: PuzzleMetadata, device: torch.device) -> RecursiveModel:
    """The network for data of this shape, with the checkpoint's weights, in evaluation mode.

    Errors: `UserError` when these data are of another shape than those of its run, or listing every missing, unexpected
    and misshapen key when the weights do not fit.
    """
    _refuse_other_shape(checkpoint, metadata)
    model = build_network(checkpoint.config, metadata, device)
    check_weights(model.state_dict(), checkpoint.weights, source=checkpoint.path)
    model.load_state_dict(checkpoint.weights)
    return model.eval()


def _refuse_other_shape(checkpoint: Checkpoint, metadata: PuzzleMetadata) -> None:
    """The length of rows shows in the weights of some networks only, else in what the run's folder knows of it."""
    recorded, table = recorded_metadata(checkpoint), "puzzle_emb.weights" in checkpoint.weights
    shapes = [
        ("cells", metadata.seq_len, metadata.seq_len if recorded is None else recorded.seq_len),
        ("tokens", metadata.vocab_size, checkpoint.vocab_size),
        ("puzzle identifiers", *(m.num_puzzle_identifiers if table else 1 for m in (metadata, checkpoint))),
    ]
    if any(found != expected for _, found, expected in shapes):
        here = ", ".join(f"{found} {name}" for name, found, _ in shapes)
        there = ", ".join(f"{expected} {name}" for name, _, expected in shapes)
        raise UserError(
            f"{checkpoint.path} reads puzzles of {there}, but these data ({metadata.task}) have {here}: give data that "
            "were built as those of its run"
        )


def with_supervision_steps(config: TrainConfig, steps: int | None) -> TrainConfig:
    """The same run answering after another number of supervision steps; None leaves it."""
    if steps is None:
        return config
    if steps < 1:
        raise UserError(f"steps={steps}: at least one supervision step is needed")
    return replace(config, arch=replace(config.arch, halt_max_steps=steps))


# pytest collects what is called test_*; this is not one.
test_metadata.__test__ = False  # type: ignore[attr-defined]
