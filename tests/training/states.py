"""States and files that are none, for the tests of checkpoints and weights."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from training.storage.checkpoint import load_state, save_state, save_weights

ROOT = Path(__file__).resolve().parents[2]


def make_state(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "model": {"w": torch.randn(20, 30, generator=generator), "b": torch.ones(3, dtype=torch.bfloat16)},
        "optimizer": {
            "state": {0: {"exp_avg": torch.randn(7, generator=generator).double()}},
            "lr": [1e-3, (0.9, 0.95)],
        },
        "carry": {"halted": torch.tensor([True, False]), "steps": torch.arange(4, dtype=torch.int32)},
        "names": ["a", None, True, 2**70, -0.0, "ü", b"\x00"],
    }


def as_of_older_code(run: Path) -> None:
    """The newest states of a run folder as code wrote them that noted no SHA-256 of the best weights."""
    for path in (run / "latest_state.pt", run / "previous_state.pt"):
        state = load_state(path)
        del state["best_sha256"]
        save_state(path, state)


def foreign_files(folder: Path) -> dict[str, Path]:
    made = {}

    def add(name: str, content: bytes) -> None:
        made[name] = folder / f"foreign_{name}"
        made[name].write_bytes(content)

    add("text", b"hello, this is a text file\n")
    add("pickle", pickle.dumps({"model": [1, 2, 3]}))
    add("evil", b"cos\nsystem\n(S'touch " + str(folder / "owned").encode() + b"'\ntR.")
    add("zeros", bytes(5000))
    made["zip"] = folder / "foreign_zip"
    with zipfile.ZipFile(made["zip"], "w") as file:
        file.writestr("data.pkl", "nothing")
    made["bomb"] = folder / "foreign_bomb"
    with zipfile.ZipFile(made["bomb"], "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10_000_000))
    made["torch"] = folder / "foreign_torch"
    torch.save({"w": torch.ones(3)}, made["torch"])
    made["legacy"] = folder / "foreign_legacy"
    torch.save({"w": torch.ones(3)}, made["legacy"], _use_new_zipfile_serialization=False)
    made["weights"] = folder / "foreign_weights"
    save_weights(made["weights"], {"w": torch.ones(3)})
    made["folder"] = folder / "foreign_folder"
    made["folder"].mkdir()
    made["absent"] = folder / "foreign_absent"
    return made


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
