"""Which weights a run started from: noted at its first update, made again at its end, known by their digest.

So nothing has to be kept for the comparison with the start, and weights that cannot be made again (a file that is
gone or holds others by now) are not mistaken for them.
"""

import hashlib
import os
from dataclasses import dataclass

import torch

from dataset.puzzle_metadata import PuzzleMetadata
from errors import UserError
from models.recursive_model import RecursiveModel
from training.settings.schema import TrainConfig
from training.setup import build_network, read_initial_weights
from training.storage.weights import adopt_weights


@dataclass(frozen=True)
class InitialWeights:
    """The start of a run."""

    init_from: str | None  # the weights file; None = drawn from the seed
    sha256: str  # of all weights


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 (hex) of names, dtypes, shapes and bytes of all saved tensors of a model, in order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def remake(
    initial: InitialWeights, config: TrainConfig, metadata: PuzzleMetadata, device: torch.device
) -> RecursiveModel:
    """The network as it was before the first update, with one puzzle table in memory. No collective.

    Errors: `UserError` when its weights file is gone or unusable, or when what comes out is not what was there.
    """
    model = build_network(config, metadata, device)
    if initial.init_from is not None:
        path = os.path.expanduser(initial.init_from)
        model.to("meta")
        adopt_weights(model, read_initial_weights(model, path, str(device)), source=path)
    if weights_digest(model) != initial.sha256:
        source = f"init_from={initial.init_from}" if initial.init_from else f"seed={config.seed}"
        raise UserError(f"{source} no longer gives the weights that the run started from")
    return model
