"""Weights: our archives, the official code's zip and legacy pickle, safetensors; read and put into a model."""

import io
import json
import pickle
import struct
import tempfile
import warnings
from pathlib import Path
from random import Random

import torch

from models.config import ModelConfig
from models.registry import build_model
from tests.fuzz import canary
from tests.fuzz.archive_edits import edit_members
from tests.fuzz.byte_edits import BINARY, damage
from tests.fuzz.engine import Case
from tests.fuzz.file_edits import misplace
from tests.fuzz.targets.states import sealed
from tests.fuzz.tree_edits import edit_tree, json_bytes
from training.setup import load_initial_weights
from training.storage.checkpoint import save_weights
from training.storage.weights import load_weights

Tensors = dict[str, torch.Tensor]
PREFIX = "_orig_mod.model.inner."

SMALL = ModelConfig(
    kind="trm",
    seq_len=4,
    vocab_size=5,
    num_puzzle_identifiers=3,
    puzzle_emb_ndim=8,
    puzzle_emb_len=1,
    hidden_size=8,
    num_heads=2,
    expansion=1.0,
    swiglu_multiple=1,
    H_cycles=1,
    L_cycles=1,
    L_layers=1,
)


def tensors(seed: int) -> Tensors:
    """The weights of the small model."""
    state = build_model(SMALL, seed).state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in state.items()}


def torch_bytes(value: object, zipped: bool) -> bytes:
    """What `torch.save` writes; in the legacy form its storages have numbers, as addresses differ by process."""
    out = io.BytesIO()
    if zipped:
        torch.save(value, out)
        return out.getvalue()
    sizes = {"short": 2, "int": 4, "long": 4}
    for part in (*LEGACY_START, {"protocol_version": LEGACY_START[1], "little_endian": True, "type_sizes": sizes}):
        pickle.dump(part, out, 2)
    pickler = _LegacyPickler(out)
    pickler.dump(value)
    pickle.dump(list(map(_legacy_name, range(len(pickler.storages)))), out, 2)
    for storage in pickler.storages:
        storage._untyped_storage._write_file(out, False, True, storage._element_size())
    return out.getvalue()


LEGACY_START = (0x1950A86A20F9469CFC6C, 1001)  # magic number, version


def _legacy_name(number: int) -> str:
    return f"{number:015}"  # as long as an address


class _LegacyPickler(pickle.Pickler):
    """Pickles tensors without their numbers, and keeps the storages that hold these."""

    def __init__(self, out: io.BytesIO) -> None:
        super().__init__(out, 2)
        self.storages: list[torch.TypedStorage] = []

    def persistent_id(self, value: object) -> tuple[object, ...] | None:
        if not isinstance(value, torch.TypedStorage):
            return None
        addresses = [storage._cdata for storage in self.storages]
        if value._cdata not in addresses:
            addresses.append(value._cdata)
            self.storages.append(value)
        name = _legacy_name(addresses.index(value._cdata))
        return ("storage", getattr(torch, value._pickle_storage_type()), name, "cpu", value._size(), None)


class Weights:
    """`load_weights`, then `load_initial_weights` into a model of the right shape."""

    name = "weights"
    share = 7.0

    def prepare(self) -> None:
        if hasattr(self, "files"):
            return
        self.tensors, other = tensors(1), tensors(2)
        official = {PREFIX + name: value for name, value in self.tensors.items()}
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            save_weights(folder / "best.pt", self.tensors)
            save_weights(folder / "best.safetensors", self.tensors)
            save_weights(folder / "other.pt", other)
            self.files = {
                "best.pt": (folder / "best.pt").read_bytes(),
                "best.safetensors": (folder / "best.safetensors").read_bytes(),
                "step_10": torch_bytes(official, zipped=True),
                "legacy.pt": torch_bytes(official, zipped=False),
            }
            self.donor = (folder / "other.pt").read_bytes()
        self.model = build_model(SMALL, 0)

    def case(self, rng: Random, folder: Path) -> Case:
        changes: list[str] = []
        name = rng.choice(sorted(self.files))
        path = folder / name
        sound = rng.random() < 0.02
        data = self.files[name] if sound else self._damaged(rng, name, folder, changes)
        path.write_bytes(data)
        if not sound and rng.random() < 0.03:
            misplace(rng, path, changes)
        changes.insert(0, name)

        def read() -> tuple[Tensors, Tensors]:
            weights = load_weights(path)
            load_initial_weights(self.model, str(path))
            return weights, {key: value.clone() for key, value in self.model.state_dict().items()}

        return Case(changes, read, lambda found: self._wrong(found, name, data), must_read=sound)

    def _damaged(self, rng: Random, name: str, folder: Path, changes: list[str]) -> bytes:
        data = self.files[name]
        if rng.random() < 0.35:
            if name.endswith(".safetensors"):
                return _edit_safetensors(rng, data, changes)
            if name == "legacy.pt":
                called, payload = canary.pickle_bytes(rng, folder)
                changes.append(called)
                # The legacy form is a row of pickles: magic, version, system, value, keys.
                parts = [
                    *(pickle.dumps(part, 2) for part in LEGACY_START),
                    pickle.dumps({}, 2),
                    payload,
                ]
                return b"".join(parts) if rng.random() < 0.5 else payload
            data = edit_members(rng, data, folder, changes)
            if name == "best.pt" and rng.random() < 0.7:
                changes.append("sealed")
                data = sealed(data)
            return data
        if rng.random() < 0.2:
            return self._other_tensors(rng, name, changes)
        return damage(rng, data, BINARY, changes, self.donor if name.endswith(".pt") else None)

    def _other_tensors(self, rng: Random, name: str, changes: list[str]) -> bytes:
        """A sound file of other things: dtypes, shapes, names, numbers that are none."""
        value: dict[object, object] = {name: tensor for name, tensor in self.tensors.items()}
        key = rng.choice(sorted(self.tensors))
        old = self.tensors[key]
        kind = rng.choice(
            [
                "nan",
                "inf",
                "integers",
                "complex",
                "half",
                "shape",
                "scalar",
                "empty",
                "missing",
                "extra",
                "twice",
            ]
            + [
                "list",
                "number key",
                "no dict",
                "sparse",
                "meta",
                "quantized",
                "expanded",
                "table",
                "bool",
                "nested",
            ]
        )
        changes.append(f"{kind} in {key}")
        replacements = {
            "nan": torch.full_like(old, float("nan")),
            "inf": old / 0,
            "integers": old.long(),
            "bool": old > 0,
            "complex": old + 1j,
            "half": old.half(),
            "shape": old.reshape(-1)[:-1],
            "scalar": torch.tensor(1.0),
            "empty": torch.zeros(0),
            "expanded": torch.zeros(1).expand(2**40),
            "sparse": old.to_sparse(),
            "meta": old.to("meta"),
            "quantized": _quantized(old),
            "list": old.tolist(),
            "nested": {"weight": old},
        }
        if kind in replacements:
            value[key] = replacements[kind]
        elif kind == "missing":
            del value[key]
        elif kind == "extra":
            value[rng.choice(["x", "\x1b[31m", "a\nb", "y" * 9000, ""])] = old
        elif kind == "twice":
            value["model." + key] = old
        elif kind == "number key":
            value[7] = old
        elif kind == "table":
            value["puzzle_emb.weights"] = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
        whole = list(self.tensors.values()) if kind == "no dict" else value
        if name.endswith(".safetensors") and kind in (
            "nan",
            "inf",
            "integers",
            "bool",
            "half",
            "shape",
            "scalar",
        ):
            from safetensors.torch import save

            return save({str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)})
        data = torch_bytes(whole, zipped=name != "legacy.pt" or kind in ("sparse", "meta", "quantized"))
        return sealed(data) if name == "best.pt" and data.startswith(b"PK") else data

    def _wrong(self, found: tuple[Tensors, Tensors], name: str, data: bytes) -> str | None:
        weights, loaded = found
        expected = {key: tuple(value.shape) for key, value in self.tensors.items()}
        if set(weights) != set(expected):
            return f"names {sorted(set(weights) ^ set(expected))[:3]} differ"
        for key, value in loaded.items():
            if tuple(value.shape) != expected[key]:
                return f"{key} has shape {tuple(value.shape)}"
            if not value.isfinite().all():
                return f"{key} holds a number that is none"
            if not weights[key].is_floating_point():
                return f"{key} holds {weights[key].dtype}"
        if data == self.files[name] or (name in ("best.pt", "step_10") and _same_members(data, self.files[name])):
            for key, value in self.tensors.items():
                if not torch.equal(weights[key], value) or not torch.equal(loaded[key], value):
                    return f"{key} was read as other numbers"
        elif name == "best.pt" and data == self.donor:
            return None
        elif name == "step_10" and not _crc_fits(data):
            return "a zip whose CRC does not fit was accepted"
        return None


def _quantized(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still in old files
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def _same_members(data: bytes, original: bytes) -> bool:
    from tests.fuzz.archive_edits import members_of

    try:
        return members_of(data) == members_of(original)
    except Exception:  # whatever zipfile thinks of it
        return False


def _crc_fits(data: bytes) -> bool:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.testzip() is None


def _edit_safetensors(rng: Random, data: bytes, changes: list[str]) -> bytes:
    (length,) = struct.unpack_from("<Q", data)
    header, payload = data[8 : 8 + length], data[8 + length :]
    text = json_bytes(rng, edit_tree(rng, json.loads(header), changes), changes)
    size = rng.choice([len(text)] * 8 + [0, len(text) + 1, 2**63, 2**64 - 1])
    return struct.pack("<Q", size) + text + payload
