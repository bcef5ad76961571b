"""`restore`: a run takes over a sound state file that need not be one this code wrote."""

import copy
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from dataset.source import START
from models.act import initial_carry
from tests.dataset.folders import edit_metadata, make_folder
from tests.fuzz.engine import Case
from tests.fuzz.targets.states import same
from tests.fuzz.tree_edits import edit_tree
from training.distributed import World
from training.run import Run, full_state, restore
from training.settings.resolving import resolve
from training.start import act_objective, build_run
from training.storage.checkpoint import load_state, save_state
from training.storage.rng_state import capture_rng, restore_rng

SESSION = (
    "threads",
    "world_size",
    "accumulation_slices",
    "torch",
    "compiled",
    "data_sha256",
)  # noted, compared and warned about, not taken over
ARCH = {
    "name": "trm",
    "H_cycles": 1,
    "L_cycles": 1,
    "L_layers": 1,
    "hidden_size": 8,
    "num_heads": 2,
    "expansion": 1.0,
    "swiglu_multiple": 1,
    "puzzle_emb_len": 1,
    "puzzle_emb_ndim": 8,
}


def one_run(data: Path) -> Run:
    """A tiny run in the middle: moments in the optimizer, a carry, a position."""
    for split in ("train", "test"):
        make_folder(data, split=split, puzzles_per_group=[1] * 12, examples_per_puzzle=[1] * 12)
        edit_metadata(data / split, sha256=...)
    options = {
        "arch": ARCH,
        "data_paths": [str(data)],
        "global_batch_size": 4,
        "epochs": 4,
        "eval_interval": 4,
    }
    config = resolve(
        {**options, "compile": False, "optimizer": "adamw", "ema": True, "device": "cpu", "dtype": "float32"}
    )
    run = build_run(config, World(), act_objective(config))
    batch, run.progress.position = run.source.next(dict(START))
    run.objective.carry = initial_carry(run.model, batch)
    assert run.dense is not None
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    run.dense.step()
    run.progress.step, run.progress.samples_seen, run.progress.train_seconds = 1, 4, 0.5
    run.progress.metric_sums = {"lm_loss": 2.0}
    return run


class Restored:
    """`load_state`, then `restore` into a run of the same identity."""

    name = "restore"
    share = 2.0

    def prepare(self) -> None:
        if hasattr(self, "run"):
            return
        before = capture_rng()
        self.place = tempfile.TemporaryDirectory()
        self.run = one_run(Path(self.place.name) / "data")
        self.state = copy.deepcopy(full_state(self.run))
        restore_rng(before)

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        sound = rng.random() < 0.03
        state = self.state if sound else self._damaged(rng, changes)
        path = folder / "latest_state.pt"
        try:
            save_state(path, state)
        except (TypeError, ValueError, RecursionError):
            changes.append("no state at all could be written")
            save_state(path, {})

        def read() -> tuple[dict[str, Any], dict[str, Any]]:
            before = capture_rng()
            try:
                found = load_state(path)
                restore(self.run, found, str(path))
                return found, full_state(self.run)
            finally:
                restore_rng(before)

        return Case(changes, read, self._wrong, must_read=sound)

    def _damaged(self, rng: Random, changes: list[str]) -> dict[str, Any]:
        if rng.random() < 0.6:
            changed = edit_tree(rng, self.state, changes)
            return changed if isinstance(changed, dict) else {"state": changed}
        changed = copy.deepcopy(self.state)
        tensors = _tensors(changed)
        for _ in range(rng.choice([1, 1, 3])):
            parent, key, name = rng.choice(tensors)
            old = parent[key]
            kind = rng.choice(["shape", "dtype", "scalar", "empty", "rows", "meta", "value"])
            changes.append(f"{kind} of {name}")
            parent[key] = {
                "shape": old.reshape(-1),
                "dtype": old.to(rng.choice([torch.float64, torch.int64, torch.bool, torch.bfloat16])),
                "scalar": torch.tensor(1.0),
                "empty": old[:0] if old.ndim else torch.zeros(0),
                "rows": torch.cat([old, old]) if old.ndim else old[None],
                "meta": old.to("meta"),
                "value": torch.zeros_like(old),
            }[kind]
        return changed

    def _wrong(self, result: tuple[dict[str, Any], dict[str, Any]]) -> str | None:
        found, now = result
        for name in now:
            if name in (*SESSION, "rng", "identity"):
                continue
            if name == "extra_passes" and name not in found:
                # A state from before these were counted is one of pretraining, whose targets are one pass a row.
                learns_continue = not self.run.model.config.no_ACT_continue
                found = found | {name: now["samples_seen"] if learns_continue else 0}
            if not same(_plain(now[name]), _plain(found.get(name))):
                return f"{name} was taken over as something else"
            if name in ("model", "ema", "carry") and not _alike(now[name], self.state[name]):
                return f"{name} is of another form than the run's"
        sums = found.get("data_sha256", {})
        if any(sums.get(name, sha256) != sha256 for name, sha256 in now["data_sha256"].items()):
            return "it goes on with data of other bytes"
        if type(now["step"]) is not int or now["step"] < 0:
            return f"step is {now['step']!r}"
        return None


def _plain(value: Any) -> Any:
    """Ordered dictionaries as plain ones, keys in order; a learning rate is the schedule's."""
    if isinstance(value, dict):
        keys = sorted((key for key in value if key not in ("lr", "initial_lr")), key=repr)
        return {key: _plain(value[key]) for key in keys}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _alike(value: Any, expected: Any) -> bool:
    if value is None:
        return True
    return all(
        isinstance(value.get(key), torch.Tensor) and value[key].shape[:1] == tensor.shape[:1]
        for key, tensor in expected.items()
    )


def _tensors(tree: Any, name: str = "") -> list[tuple[Any, Any, str]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found: list[tuple[Any, Any, str]] = []
    for key, item in items:
        if isinstance(item, torch.Tensor):
            found.append((tree, key, f"{name}/{key}"))
        else:
            found.extend(_tensors(item, f"{name}/{key}"))
    return found
