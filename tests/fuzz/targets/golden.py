"""Golden files: `read_golden`, `golden_model` and the whole replay."""

import io
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from models.registry import build_model, config_from_official
from scripts.check_parity import check_file, golden_model, read_golden
from tests.fuzz.archive_edits import edit_members, members_of, zip_of
from tests.fuzz.array_edits import edit_array, npy_bytes
from tests.fuzz.byte_edits import BINARY, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace
from tests.fuzz.tree_edits import edit_tree, json_bytes

CONFIG: dict[str, Any] = {
    "kind": "trm",
    "loss": "stablemax_cross_entropy",
    "seq_len": 4,
    "vocab_size": 5,
    "num_puzzle_identifiers": 3,
    "batch_size": 2,
    "puzzle_emb_ndim": 8,
    "puzzle_emb_len": 1,
    "hidden_size": 8,
    "num_heads": 2,
    "expansion": 1.0,
    "swiglu_multiple": 1,
    "H_cycles": 1,
    "L_cycles": 1,
    "L_layers": 1,
    "halt_max_steps": 2,
    "halt_exploration_prob": 0.0,
    "pos_encodings": "rope",
    "forward_dtype": "float64",
}


class Golden:
    """A small model, its weights, a batch, and what our own code computed from it."""

    name = "golden"
    share = 3.0

    def prepare(self) -> None:
        if hasattr(self, "bytes"):
            return
        model = build_model(config_from_official(CONFIG, dtype=torch.float64), 5)
        arrays: dict[str, np.ndarray] = {
            f"sd/_orig_mod.model.inner.{name}": value.float().numpy() for name, value in model.state_dict().items()
        }
        rng = np.random.default_rng(1)
        arrays["batch/inputs"] = rng.integers(0, 5, (2, 4)).astype(np.int32)
        arrays["batch/labels"] = rng.integers(0, 5, (2, 4)).astype(np.int32)
        arrays["batch/puzzle_identifiers"] = np.array([1, 2], np.int32)
        arrays["eval/0/steps"] = np.array([1, 1], np.int32)
        arrays["train/0/loss"] = np.array(1.0)
        out = io.BytesIO()
        np.savez_compressed(out, config=np.array(json.dumps(CONFIG)), **arrays)  # type: ignore[arg-type]
        self.arrays, self.bytes = arrays, out.getvalue()

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        path = folder / "model.npz"
        sound = rng.random() < 0.02
        data = self.bytes if sound else self._damaged(rng, folder, changes)
        path.write_bytes(data)
        if not sound and rng.random() < 0.03:
            misplace(rng, path, changes)

        def read() -> tuple[dict[str, np.ndarray], Any, dict[str, float]]:
            options, arrays = read_golden(path)
            model = golden_model(options, arrays, path)
            return arrays, model, check_file(path)

        return Case(changes, read, lambda found: self._wrong(found, path), must_read=sound)

    def _damaged(self, rng: Random, folder: Path, changes: list[str]) -> bytes:
        kind = rng.randrange(10)
        if kind < 3:
            return damage(rng, self.bytes, BINARY, changes)
        if kind < 5:
            return edit_members(rng, self.bytes, folder, changes)
        members = members_of(self.bytes)
        if kind < 8:
            text = json_bytes(rng, edit_tree(rng, CONFIG, changes), changes)
            try:
                members["config.npy"] = npy_bytes(np.array(text.decode()))
            except UnicodeDecodeError:
                members["config.npy"] = npy_bytes(np.array(text))
            return zip_of(members, packed=rng.random() < 0.5)
        name = rng.choice(sorted(members))
        changes.append(name)
        members[name] = edit_array(rng, members[name], folder, changes)
        return zip_of(members, packed=rng.random() < 0.5)

    def _wrong(self, found: tuple[dict[str, np.ndarray], Any, dict[str, float]], path: Path) -> str | None:
        arrays, model, largest = found
        if any(array.dtype.hasobject for array in arrays.values()):
            return "an array of objects was read"
        for name, value in model.state_dict().items():
            stored = [array for key, array in arrays.items() if key.startswith("sd/") and key.endswith(name)]
            if not any(np.array_equal(value.numpy(), array.astype(np.float64), equal_nan=True) for array in stored):
                return f"{name} was read as other numbers"
        if not all(isinstance(value, float) for value in largest.values()):
            return f"differences are {largest}"
        return None
