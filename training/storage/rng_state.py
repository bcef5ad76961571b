"""The global random generators as tensors and numbers, which `torch.load(weights_only=True)` accepts."""

import random
from typing import Any

import numpy as np
import torch


def capture_rng() -> dict[str, Any]:
    """States of Python's `random`, NumPy's global generator, torch's CPU and current CUDA device."""
    version, internal, gauss = random.getstate()
    # NPY002: not drawn from here, but libraries do, so an exact resume has to carry it.
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    captured: dict[str, Any] = {
        "python": {"version": version, "internal": torch.tensor(internal, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached_gaussian": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        # The current device only: asking the others would open a context, hundreds of MB, on each of them.
        captured["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        captured["mps"] = torch.mps.get_rng_state()
    return captured


def restore_rng(captured: dict[str, Any]) -> None:
    """Put back what `capture_rng` took. Generators of a device that is absent now are skipped.

    Errors: `KeyError`, `TypeError`, `ValueError` or `RuntimeError` when the dictionary is not one of
    `capture_rng`.
    """
    python, numpy = captured["python"], captured["numpy"]
    random.setstate((python["version"], tuple(python["internal"].tolist()), python["gauss"]))
    keys = numpy["keys"].cpu().numpy().astype(np.uint32)
    state = (numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached_gaussian"])
    np.random.set_state(state)  # noqa: NPY002
    torch.set_rng_state(captured["torch"].cpu())  # it wants a CPU tensor, wherever the state was loaded
    if "cuda" in captured and torch.cuda.is_available():
        torch.cuda.set_rng_state(captured["cuda"].cpu())
    if "mps" in captured and torch.backends.mps.is_available():
        torch.mps.set_rng_state(captured["mps"].cpu())
