"""From a config to the parts of a run: data, model, optimizers, evaluation rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import nn

from dataset.eval_batches import EvalBatches, test_rows, validation_rows
from dataset.puzzle_folder import PuzzleSet, open_puzzle_sets
from dataset.puzzle_metadata import PuzzleFolders, PuzzleMetadata
from dataset.puzzle_source import PuzzleSource
from errors import UserError
from models.config import ModelConfig
from models.recursive_model import RecursiveModel
from models.registry import MODELS, build_model
from training.devices import resolve_device, resolve_dtype
from training.memory_need import require_memory
from training.optim import SparseSignSGD, assert_ownership, dense_optimizer
from training.projects import project_of
from training.seeding import derived_seed
from training.settings.schema import ArchConfig, TrainConfig
from training.storage.weights import check_weights, load_weights


@dataclass
class EvalRows:
    """Which rows of which set choose the checkpoint (validation, its first part fast) and which report (test)."""

    puzzle_set: PuzzleSet
    fast: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    batch_size: int

    def batches(self, rows: np.ndarray) -> EvalBatches:
        """Padded batches of some rows; small selections get no larger batch than they need."""
        return EvalBatches(self.puzzle_set, rows, min(self.batch_size, max(1, len(rows))))


def device_of(config: TrainConfig, local_rank: int = 0, *, losses: bool = True) -> torch.device:
    """Where a run trains, or its network answers: `auto` finds a device that has all the formats it needs.

    losses: whether token losses are computed. Errors: `UserError` for a device that is not there or lacks float64.
    """
    float64, project = None, project_of(config)
    if config.dtype == "float64":
        float64 = "dtype=float64 computes"
    elif project is not None:
        float64 = project[1].float64
    elif losses and config.arch.loss.loss_type == "stablemax_cross_entropy":
        float64 = "arch.loss.loss_type=stablemax_cross_entropy computes (stablemax_cross_entropy_float32 does not)"
    return resolve_device(config.device, local_rank, float64=float64)


def open_training_data(
    config: TrainConfig, *, verify: bool = True, folders: PuzzleFolders | None = None
) -> PuzzleSource:
    """The official sampler over the train splits of `data_paths`.

    verify: as `open_puzzle_set`.
    """
    if not config.data_paths:
        raise UserError(
            "no data: data_paths is empty; build a folder with `python dataset/build_sudoku_dataset.py "
            "--output-dir data/NAME ...` and pass data_paths=[data/NAME]"
        )
    folders = folders or PuzzleFolders()
    return PuzzleSource(
        open_puzzle_sets([folders[path] for path in config.data_paths], "train", verify=verify),
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        epochs_per_iteration=config.eval_interval or config.epochs,
        augment=config.augment,
        steps=[getattr(config.step, name).build() for name in config.source.steps],
    )


def open_evaluation_rows(
    config: TrainConfig, folders: PuzzleFolders | None = None, *, verify: bool = True
) -> list[EvalRows]:
    """Validation and test rows of every test folder; they never overlap. verify: as `open_puzzle_set`."""
    folders = folders or PuzzleFolders()
    opened = [folders[path] for path in config.data_paths_test or config.data_paths]
    result = []
    for puzzle_set in open_puzzle_sets(opened, "test", verify=verify):
        chosen = validation_rows(puzzle_set, config.validation_size)
        fast = validation_rows(puzzle_set, min(config.fast_validation_size, len(chosen)))
        if not np.isin(fast, chosen).all():
            raise AssertionError("the fast subset is not part of the validation rows")
        rest = test_rows(puzzle_set, config.validation_size)[: config.max_test_rows]
        result.append(EvalRows(puzzle_set, fast, chosen, rest, config.eval_batch_size or config.global_batch_size))
    return result


def model_config(
    arch: ArchConfig, metadata: PuzzleMetadata, dtype: torch.dtype, state_dtype: torch.dtype | None
) -> ModelConfig:
    """The network that `arch` describes, for data of this shape."""
    try:
        network = MODELS[arch.name].Config
        shared = {item.name: getattr(arch, item.name) for item in fields(network) if hasattr(arch, item.name)}
        return network(
            kind=arch.name,
            seq_len=metadata.seq_len,
            vocab_size=metadata.vocab_size,
            num_puzzle_identifiers=metadata.num_puzzle_identifiers,
            dtype=dtype,
            state_dtype=state_dtype,
            q_dtype=torch.float64 if dtype == torch.float64 else torch.float32,
            **shared,
        )
    except ValueError as error:
        raise UserError(f"arch: {error}") from None


def network_shape(config: TrainConfig, metadata: PuzzleMetadata, device: torch.device) -> ModelConfig:
    """What the network of a run is built from."""
    dtype = resolve_dtype(config.dtype, device)
    state_dtype = None if config.state_dtype == "auto" else resolve_dtype(config.state_dtype, device)
    return model_config(config.arch, metadata, dtype, state_dtype)


def build_network(config: TrainConfig, metadata: PuzzleMetadata, device: torch.device) -> RecursiveModel:
    """The freshly initialised network of a run, on its device. Errors: `UserError` where there is no room for it."""
    shape = network_shape(config, metadata, device)
    for place in {torch.device("cpu"), device}:  # it is made on the CPU, whatever the device
        require_memory(shape, place)
    try:
        return build_model(shape, derived_seed(config.seed, "weights")).to(device)
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:
        # Torch raises these for a size beyond memory or beyond its integers.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"arch: a network of this size cannot be built on {device} ({reason}); use smaller arch options"
        ) from error


def read_initial_weights(model: RecursiveModel, path: str, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Weights from another run or an official checkpoint, with as many rows of the puzzle table as the model has.

    A table of another number of rows is refilled with its row mean, as officially.
    """
    weights = load_weights(path, device)
    needed = model.state_dict()
    table = "puzzle_emb.weights"
    if table in weights and table in needed and weights[table].shape[1:] == needed[table].shape[1:]:
        if weights[table].shape != needed[table].shape:
            mean = weights[table].float().mean(dim=0, keepdim=True)
            weights[table] = mean.expand(needed[table].shape).contiguous()
    return weights


def load_initial_weights(model: RecursiveModel, path: str) -> None:
    """Put `read_initial_weights` into a model. Errors: `UserError` listing what does not fit."""
    weights = read_initial_weights(model, path)
    check_weights(model.state_dict(), weights, source=path)
    model.load_state_dict(weights)


def build_optimizers(
    config: TrainConfig, model: RecursiveModel, owned: Mapping[str, nn.Module]
) -> tuple[torch.optim.Optimizer | None, SparseSignSGD | None]:
    """The dense optimizer (None when all weights are frozen) and the sparse one (None without a table).

    owned: modules of terms, which are trained and frozen with the network.
    """
    trained = nn.ModuleDict({"network": model, **owned}) if owned else model
    if config.freeze_weights:
        trained.requires_grad_(False)
    dense = None
    if not config.freeze_weights:
        betas = (config.beta1, config.beta2)
        dense = dense_optimizer(config.optimizer, trained, config.lr, betas, config.weight_decay)
        assert_ownership(trained, [dense])
    sparse = None
    if model.puzzle_emb is not None:
        sparse = SparseSignSGD(model.puzzle_emb.weights, config.puzzle_emb_lr, config.puzzle_emb_weight_decay)
    return dense, sparse


def planned_updates(config: TrainConfig, source: PuzzleSource, updates_per_batch: int = 1) -> int:
    """Length of the learning-rate schedule: int(epochs * groups * mean examples / batch) batches, as officially."""
    rows = config.epochs * source.total_groups * source.mean_examples
    return max(1, math.floor(rows / config.global_batch_size + 1e-9)) * updates_per_batch
