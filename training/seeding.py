"""Randomness as a function of (seed, stream, step): nothing to save, nothing that depends on the rank."""

import hashlib
import random

import numpy as np
import torch


def derived_seed(seed: int, stream: str, step: int = 0) -> int:
    """A 63-bit seed for one use of randomness; different streams and steps are independent."""
    digest = hashlib.sha256(f"{seed}/{stream}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A CPU generator for (seed, stream, step), equal on every rank."""
    return torch.Generator().manual_seed(derived_seed(seed, stream, step))


def seed_everything(seed: int) -> None:
    """Seed the global generators too, for code that is not ours; our own draws use `generator`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy global state is what other libraries read
    torch.manual_seed(seed)
