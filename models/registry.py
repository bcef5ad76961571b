"""Names of architectures to classes. A table, so that no data file or config can name something to import."""

from typing import Any

import torch

from models.config import ModelConfig
from models.hrm import HierarchicalReasoningModel
from models.recursive_model import RecursiveModel
from models.srm import StableRecursionModel
from models.trm import TinyRecursiveModel

MODELS: dict[str, type[RecursiveModel]] = {
    "trm": TinyRecursiveModel,
    "hrm": HierarchicalReasoningModel,
    "srm": StableRecursionModel,
}


def config_from_official(options: dict[str, Any], **overrides: Any) -> ModelConfig:
    """The network that official architecture options describe, their `kind` one of `MODELS`. Errors: `ValueError`."""
    kind = options.get("kind")
    if not isinstance(kind, str) or kind not in MODELS:
        raise ValueError(f"model kind {kind!r} is none of {', '.join(MODELS)}")
    return MODELS[kind].Config.from_official(options, **overrides)


def build_model(config: ModelConfig, seed: int = 0) -> RecursiveModel:
    """A freshly initialised model on CPU; the same (config, seed) gives the same weights."""
    return MODELS[config.kind](config, torch.Generator().manual_seed(seed))


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trained scalars; the puzzle table is a buffer and not counted, as officially."""
    return sum(parameter.numel() for parameter in model.parameters())
