"""Names of architectures to classes: a file of this folder that defines a `RecursiveModel` is one, named as the file.

No data file or config can name something to import: what is asked for is looked up in this table.
"""

import importlib
import re
from pathlib import Path
from typing import Any

import torch

from files import bounded_text
from models.config import ModelConfig
from models.recursive_model import RecursiveModel

_MODEL = re.compile(r"^class (\w+)\(RecursiveModel\):", re.MULTILINE)


def _models() -> dict[str, type[RecursiveModel]]:
    """Every file's one model, in alphabetical order."""
    classes = {path.stem: _MODEL.findall(bounded_text(path)) for path in sorted(Path(__file__).parent.glob("*.py"))}
    return {
        name: getattr(importlib.import_module(f"models.{name}"), found[0]) for name, found in classes.items() if found
    }


MODELS = _models()


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
