"""Small models and batches that several tests share."""

from typing import Any

import torch

from models.config import ModelConfig
from models.recursive_model import RecursiveModel
from models.registry import MODELS, build_model

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "trm-att": {"kind": "trm", "puzzle_emb_len": 2},
    "trm-mlp": {"kind": "trm", "puzzle_emb_len": 2, "mlp_t": True, "pos_encodings": "none"},
    "hrm": {"kind": "hrm", "puzzle_emb_len": 0, "H_layers": 1, "no_ACT_continue": False},
    "srm": {"kind": "srm", "puzzle_emb_len": 2, "pos_encodings": "none"},
}

Batch = dict[str, torch.Tensor]


def small_config(name: str, **changes: Any) -> ModelConfig:
    base: dict[str, Any] = {
        "seq_len": 6, "vocab_size": 5, "num_puzzle_identifiers": 3, "puzzle_emb_ndim": 16, "hidden_size": 16,
        "num_heads": 2, "swiglu_multiple": 8, "H_cycles": 2, "L_cycles": 2, "L_layers": 1, "halt_max_steps": 4,
        "dtype": torch.float64,
    }  # fmt: skip
    options = base | ARCHITECTURES[name] | changes
    return MODELS[options["kind"]].Config(**options)


def small_model(name: str, seed: int = 0, **changes: Any) -> RecursiveModel:
    """A model whose halting head and puzzle table are not at their constant start."""
    model = build_model(small_config(name, **changes), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        model.q_head.weight.copy_(0.3 * torch.randn(model.q_head.weight.shape, generator=generator))
        model.q_head.bias.zero_()
        if model.puzzle_emb is not None:
            shape = model.puzzle_emb.weights.shape
            model.puzzle_emb.weights.copy_(torch.randn(shape, generator=generator))
    return model


def small_batch(size: int = 4, seed: int = 0, seq_len: int = 6, vocab_size: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (size, seq_len)
    return {
        "inputs": torch.randint(0, vocab_size, shape, generator=generator, dtype=torch.int32),
        "labels": torch.randint(0, vocab_size, shape, generator=generator, dtype=torch.int32),
        "puzzle_identifiers": torch.randint(0, 3, (size,), generator=generator, dtype=torch.int32),
    }
