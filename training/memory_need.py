"""Whether a network and its batch can fit into memory, before anything of them is built."""

import os
from pathlib import Path

import torch

from errors import UserError
from files import UnusableFile, bounded_text
from models.config import ModelConfig
from models.registry import build_model, count_parameters

# Below, a network is built without being counted first: nothing that trains has less.
_SURELY_FITS = 256 << 20
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
TRAINED_COPIES = 3  # weights, gradients and one moment, of which Adam has two; an average is one more


def require_memory(shape: ModelConfig, device: torch.device, *, copies: int = 1, rows: int = 0) -> None:
    """Errors: `UserError` with the bytes needed and there, where it is certain that they do not suffice.

    Activations are not counted, of a batch only the latent states and the logits, which are there at the very least.

    Args:
        copies: tensors of the size of each weight. rows: of the batch.
    """
    network = _bytes_of_network(shape, copies)
    size = shape.param_dtype.itemsize
    state = (shape.state_dtype or shape.dtype).itemsize
    batch = rows * (2 * shape.total_len * shape.hidden_size * state + shape.seq_len * shape.vocab_size * size)
    there = memory_of(device)
    if there is not None and network + batch > there:
        parts = f"{_in_words(network)} for the network" + (f" in {copies} copies" if copies > 1 else "")
        parts += f" and {_in_words(batch)} for a batch of {rows:,} rows" if rows else ""
        mend = "smaller arch options" + (" or a smaller global_batch_size" if rows else "")
        raise UserError(f"{parts} are needed at the least, and {device} has {_in_words(there)}: use {mend}")


def memory_of(device: torch.device) -> int | None:
    """Bytes of memory that a device has in all; None where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = [limit for path in _CGROUP_LIMITS if (limit := _limit(path)) is not None]
    try:
        return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])
    except (OSError, ValueError, AttributeError):  # a system that does not tell
        return min(limits, default=None)


def _limit(path: Path) -> int | None:
    try:
        text = bounded_text(path, 100).strip()
    except UnusableFile:
        return None
    return int(text) if text.isdigit() else None


def _bytes_of_network(shape: ModelConfig, copies: int) -> int:
    size = shape.param_dtype.itemsize
    if _at_most(shape) * size * copies < _SURELY_FITS:
        return 0
    with torch.device("meta"):  # shapes without memory, and no random number drawn
        model = build_model(shape)
    beside = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    return count_parameters(model) * size * copies + beside


def _at_most(shape: ModelConfig) -> int:
    """No fewer scalars than any architecture has of this shape."""
    width, length = shape.hidden_size, shape.total_len
    mixing = 4.0 * width**2 + shape.num_heads * length**2
    mixing += 3 * length * (shape.expansion * length + shape.swiglu_multiple)
    channels = 3 * width * (2 * shape.expansion * width + shape.swiglu_multiple)
    tables = 3 * (shape.vocab_size + length) * width + shape.num_puzzle_identifiers * shape.puzzle_emb_ndim
    return int((shape.L_layers + shape.H_layers) * (mixing + channels) + tables)


def _in_words(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
