"""A trained model from its run folder: settings beside the checkpoint, data they name, weights checked."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dataset.puzzle_metadata import PuzzleMetadata, data_folder, read_metadata
from errors import UserError
from models.config import DTYPES
from models.recursive_model import RecursiveModel
from training.settings.resolving import load_config_file
from training.settings.schema import TrainConfig
from training.setup import build_network
from training.storage.run_folder import RunFolder
from training.storage.weights import check_weights, load_weights


@dataclass(frozen=True)
class Checkpoint:
    """Weights as read (prefixes stripped) and the settings of the run they come from."""

    path: Path
    config: TrainConfig
    weights: dict[str, torch.Tensor]

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
    means its `best.pt`. Errors: `UserError` naming the file.
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
    config = load_config_file(config_path)
    config.device = device
    if dtype is not None:
        if dtype not in ("auto", *DTYPES):
            raise UserError(f"dtype={dtype} is none of auto, {', '.join(DTYPES)}")
        config.dtype = dtype
        config.state_dtype = "auto"
    return Checkpoint(path, config, weights)


def test_metadata(config: TrainConfig) -> PuzzleMetadata:
    """Shape of the data a run was made for. Errors: `UserError` when its folders are not there."""
    paths = config.data_paths_test or config.data_paths
    if not paths:
        raise UserError("the run's settings name no data: give data_paths_test=[data/NAME]")
    return read_metadata(data_folder(paths[0]), "test")


def restore_model(checkpoint: Checkpoint, metadata: PuzzleMetadata, device: torch.device) -> RecursiveModel:
    """The network for data of this shape, with the checkpoint's weights, in evaluation mode.

    Errors: `UserError` listing every missing, unexpected and misshapen key when the weights do not fit.
    """
    model = build_network(checkpoint.config, metadata, device)
    check_weights(model.state_dict(), checkpoint.weights, source=checkpoint.path)
    model.load_state_dict(checkpoint.weights)
    return model.eval()


def with_supervision_steps(config: TrainConfig, steps: int | None) -> TrainConfig:
    """The same run answering after another number of supervision steps; None leaves it."""
    if steps is None:
        return config
    if steps < 1:
        raise UserError(f"steps={steps}: at least one supervision step is needed")
    return replace(config, arch=replace(config.arch, halt_max_steps=steps))


# pytest collects what is called test_*; this is not one.
test_metadata.__test__ = False  # type: ignore[attr-defined]
