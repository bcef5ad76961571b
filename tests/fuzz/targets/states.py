"""Full states: one file, and the folder with the newest and the one before."""

import hashlib
import struct
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.fuzz.archive_edits import edit_members
from tests.fuzz.byte_edits import BINARY, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace
from training.storage.archive import _COMMENT_BYTES, _PREFIX
from training.storage.checkpoint import load_newest, load_state, save_state
from training.storage.run_folder import LATEST_STATE, PREVIOUS_STATE

PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.Size,
    torch.Tensor,
)


def state(step: int) -> dict[str, Any]:
    """A small state with every kind of entry."""
    generator = torch.Generator().manual_seed(step)
    weights = torch.randn(7, 5, generator=generator)
    return {
        "step": step,
        "position": {"iteration": 0, "batch": step, "cursor": 8 * step},
        "model": {"a.weight": weights, "b.weight": weights.t(), "half": weights.bfloat16()},
        "optimizer": {
            "state": {0: {"step": torch.tensor(float(step)), "exp_avg": weights * 2}},
            "groups": [(0.9, 1)],
        },
        "carry": {"halted": weights[:, 0] > 0, "steps": torch.arange(7)},
        "ema": None,
        "rng": {"torch": torch.randint(0, 255, (80,), generator=generator, dtype=torch.uint8)},
        "best": float("nan") if step == 1 else 0.5,
        "names": ["x", "y"],
    }


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure and every bit that counts."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


def only_plain(value: Any) -> bool:
    """Tensors and plain containers, nothing else."""
    if isinstance(value, dict):
        return all(only_plain(key) and only_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(only_plain, value))
    return isinstance(value, PLAIN)


def sealed(data: bytes) -> bytes:
    """A zip with a checksum that fits: what somebody who knows the format could write."""
    body = data[:-2]
    ending = struct.pack("<H", _COMMENT_BYTES) + _PREFIX + hashlib.sha256(body).hexdigest().encode()
    return body + ending


class States:
    """`load_state` and `load_newest`."""

    name = "states"
    share = 6.0

    def prepare(self) -> None:
        if hasattr(self, "bytes"):
            return
        self.states = [state(step) for step in range(3)]
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "state.pt"
            self.bytes = []
            for each in self.states:
                save_state(path, each)
                self.bytes.append(path.read_bytes())

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        if rng.random() < 0.35:
            return self._folder_case(rng, folder, changes)
        path = folder / rng.choice([LATEST_STATE, "final_state.pt", "a state"])
        sound = rng.random() < 0.02
        data = self.bytes[0] if sound else self._damaged(rng, folder, changes)
        path.write_bytes(data)
        if not sound and rng.random() < 0.03:
            misplace(rng, path, changes)
        return Case(changes, lambda: load_state(path), lambda found: self._wrong(found, data), must_read=sound)

    def _folder_case(self, rng: Random, folder: Path, changes: list[str]) -> Case:
        """The newest damaged, the one before sound or damaged too."""
        contents: dict[str, bytes] = {}
        for name, sound_bytes, chance in ((LATEST_STATE, self.bytes[0], 0.9), (PREVIOUS_STATE, self.bytes[1], 0.3)):
            contents[name] = self._damaged(rng, folder, changes) if rng.random() < chance else sound_bytes
            (folder / name).write_bytes(contents[name])
            if rng.random() < 0.05:
                misplace(rng, folder / name, changes)
        previous = folder / PREVIOUS_STATE
        usable = previous.is_file() and previous.read_bytes() == self.bytes[1]

        def wrong(found: tuple[dict[str, Any], Path] | None) -> str | None:
            if found is None:
                return "nothing was found" if any((folder / name).exists() for name in contents) else None
            return self._wrong(found[0], contents[found[1].name])

        return Case(changes, lambda: load_newest(folder), wrong, must_read=usable)

    def _damaged(self, rng: Random, folder: Path, changes: list[str]) -> bytes:
        data, donor = self.bytes[0], self.bytes[2]
        if rng.random() < 0.25:
            data = edit_members(rng, data, folder, changes)
            if rng.random() < 0.8:
                changes.append("sealed")
                data = sealed(data)
            return data
        return damage(rng, data, BINARY, changes, donor)

    def _wrong(self, found: dict[str, Any], data: bytes) -> str | None:
        for known, original in zip(self.states, self.bytes, strict=True):
            if data == original:
                return None if same(found, known) else "a sound state was read as something else"
        body, ending = data[: -_COMMENT_BYTES - 2], data[-_COMMENT_BYTES:]
        if hashlib.sha256(body).hexdigest().encode() != ending[len(_PREFIX) :]:
            return "a damaged state was accepted"
        if not isinstance(found, dict) or not only_plain(found):
            return "a state holds something that is no plain value"
        return None
