"""Golden files made by the reference implementation, in the form of the shipped ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.models import reference_model as reference

OPTIONS: dict[str, Any] = {
    "kind": "trm",
    "loss": "stablemax_cross_entropy",
    "batch_size": 4,
    "seq_len": 6,
    "vocab_size": 5,
    "num_puzzle_identifiers": 3,
    "puzzle_emb_ndim": 16,
    "H_cycles": 2,
    "L_cycles": 2,
    "H_layers": 1,
    "L_layers": 1,
    "hidden_size": 16,
    "expansion": 4,
    "num_heads": 2,
    "pos_encodings": "rope",
    "halt_max_steps": 4,
    "halt_exploration_prob": 0.0,
    "forward_dtype": "float64",
}


def random_batch(options: dict[str, Any], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Rows with ignored labels, one row that has none scored, repeated puzzle ids."""
    size, length, vocab = options["batch_size"], options["seq_len"], options["vocab_size"]
    labels = torch.randint(0, vocab, (size, length), generator=generator, dtype=torch.int32)
    labels[torch.rand(labels.shape, generator=generator) < 0.25] = -100
    labels[-1] = -100
    ids = torch.randint(0, options["num_puzzle_identifiers"], (size,), generator=generator, dtype=torch.int32)
    inputs = torch.randint(0, vocab, (size, length), generator=generator, dtype=torch.int32)
    return {"inputs": inputs, "labels": labels, "puzzle_identifiers": ids}


def golden_arrays(options: dict[str, Any], seed: int, train_steps: int = 3) -> dict[str, np.ndarray]:
    """All arrays of a golden file: weights, batch, an evaluation to its end, some training calls."""
    generator = torch.Generator().manual_seed(seed)
    o = reference.complete(options)
    weights = reference.random_weights(options, generator)
    batch = random_batch(options, generator)
    arrays: dict[str, Any] = {"config": np.array(json.dumps(options))}
    for name, weight in weights.items():
        arrays[f"sd/_orig_mod.model.inner.{name}"] = weight.detach().float().numpy()
    arrays |= {f"batch/{key}": value.numpy() for key, value in batch.items()}
    carry = reference.fresh_carry(o, batch)
    for t in range(o["halt_max_steps"]):
        with torch.no_grad():
            carry, out, _ = reference.act_step(weights, o, carry, batch, training=False)
            loss, metrics = reference.loss_and_metrics(out, carry, options["loss"])
        recorded = {"z_H": carry["z_H"], "z_L": carry["z_L"], "loss": loss} | out
        recorded |= {f"metric/{name}": value for name, value in metrics.items()}
        arrays |= {f"eval/{t}/{name}": value.numpy() for name, value in recorded.items()}
    carry = reference.fresh_carry(o, batch)
    for t in range(train_steps):
        carry, out, rows = reference.act_step(weights, o, carry, batch, training=True)
        loss, metrics = reference.loss_and_metrics(out, carry, options["loss"])
        trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
        leaves = [*trained.values(), *([] if rows is None else [rows])]
        gradients = torch.autograd.grad(loss / len(batch["inputs"]), leaves, allow_unused=True)
        names = [f"model.inner.{name}" for name in trained] + ["puzzle_emb_rows"]
        recorded = {"loss": loss.detach(), "halted": carry["halted"], "steps": carry["steps"].int()}
        recorded |= {f"metric/{name}": value for name, value in metrics.items()}
        recorded |= {
            f"grad/{name}": gradient for name, gradient in zip(names, gradients, strict=False) if gradient is not None
        }
        arrays |= {f"train/{t}/{name}": value.numpy() for name, value in recorded.items()}
    return arrays


def write_golden(path: Path, options: dict[str, Any], seed: int = 0, train_steps: int = 3) -> Path:
    np.savez(path, **golden_arrays(options, seed, train_steps))
    return path
