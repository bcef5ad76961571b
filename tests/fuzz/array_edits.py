"""Damage to `.npy` files that knows their header."""

import io
import pickle
import struct
from pathlib import Path
from random import Random

import numpy as np

from tests.fuzz import canary

_DESCRIPTIONS = [
    "|u1",
    "|i1",
    "<i2",
    "<i4",
    ">i4",
    "<i8",
    ">i8",
    "<u8",
    "<f4",
    "<f8",
    "<c16",
    "|b1",
    "|O",
    "<U4",
    "|S9",
    "|V8",
    "<m8[s]",
    [("a", "<i4")],
    [("", "|V2147483647")],
    ("<i4", (2, 2)),
    "<i999999999",
    "x",
    "",
    None,
]


def npy_bytes(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    """The `.npy` form of an array."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=allow_pickle)
    return out.getvalue()


def with_header(text: str, payload: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """A `.npy` file with a header of one's own words."""
    head = text.encode("latin-1", "replace") + b"\n"
    code = "<H" if version == (1, 0) else "<I"
    length = len(head) & 0xFFFF if code == "<H" else len(head)
    return b"\x93NUMPY" + bytes(version) + struct.pack(code, length) + head + payload


def edit_array(rng: Random, data: bytes, folder: Path, changes: list[str]) -> bytes:
    """Another header, another dtype or shape of the same content, other values, or a pickle."""
    array = np.load(io.BytesIO(data))
    payload = array.tobytes()
    shape, description = array.shape, np.lib.format.dtype_to_descr(array.dtype)
    kind = rng.choice(["shape", "descr", "values"] * 2 + ["fortran", "words", "cast", "rows", "object", "version"])
    changes.append(f"npy {kind}")
    if kind == "shape":
        size = array.size
        shapes: list[object] = [
            (),
            (size,),
            (1, size),
            shape[::-1],
            (*shape, 1),
            (0,),
            (-1,),
            (2**40, 2**40),
            (2**62,),
            (2**63 - 1,),
            (2**64,),
            (True, size),
            (size / 2,),
            ("a",),
            [size],
            size,
            None,
            tuple(length + 1 for length in shape),
            (1,) * 70,
            (10**30,),
        ]
        return _header(rng.choice(shapes), description, False, payload)
    if kind == "descr":
        return _header(shape, rng.choice(_DESCRIPTIONS), False, payload)
    if kind == "fortran":
        return _header(shape, description, rng.choice([True, 1, None, "x"]), payload)
    if kind == "words":
        texts = [
            "{",
            "",
            "[]",
            "None",
            "{'descr': '|u1'}",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), 'extra': 1}",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "(" * 300 + ")" * 300 + ")}",
            "__import__('os').system('true')",
            "{'descr': __import__('os'), 'fortran_order': False, 'shape': (4,)}",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (4L,)}",
            "{" + " " * 70_000 + "}",
            "\x00" * 100,
            "{'descr': '|u1', 'fortran_order': False, 'shape': (1e400,)}",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}",
            "{'descr': '|u1', 'fortran_order': False, 'shape': ({},)}",
            "-" * 5000 + "1",
        ]
        return with_header(rng.choice(texts), payload)
    if kind == "version":
        text = repr({"descr": description, "fortran_order": False, "shape": shape})
        return with_header(text, payload, rng.choice([(2, 0), (3, 0), (0, 0), (9, 9), (1, 1), (255, 255)]))
    if kind == "object":
        name, call = canary.pickled_call(rng, folder)
        changes.append(name)
        if rng.random() < 0.5:
            objects = np.empty(1, dtype=object)
            objects[0] = call
            return npy_bytes(objects, allow_pickle=True)
        return pickle.dumps(call)
    return npy_bytes(_other_values(rng, array, kind))


def _header(shape: object, description: object, fortran: object, payload: bytes) -> bytes:
    return with_header(repr({"descr": description, "fortran_order": fortran, "shape": shape}), payload)


def _other_values(rng: Random, array: np.ndarray, kind: str) -> np.ndarray:
    if kind == "cast":
        name = rng.choice(["u1", "i1", "i2", "i4", "i8", "u8", ">i4", ">i8", "f4", "f8", "bool", "U3"])
        return array.astype(np.dtype(name)) if array.dtype.kind != "U" else array.astype(object).astype("S")
    if kind == "rows":
        array = np.atleast_1d(array)
        return rng.choice(
            [
                array[:-1],
                array[1:],
                array[::-1],
                np.concatenate([array, array]),
                array[:0],
                array[:1],
                array.T,
            ]
        ).copy()
    changed = array.copy()
    flat = changed.reshape(-1)
    if flat.size and flat.dtype.kind in "iu":
        limits = np.iinfo(flat.dtype)
        for _ in range(rng.choice([1, 1, 3])):
            place = rng.randrange(flat.size)
            old = int(flat[place])
            value = rng.choice([0, 1, old + 1, old - 1, int(limits.max), int(limits.min), rng.randrange(100)])
            flat[place] = min(max(value, int(limits.min)), int(limits.max))
    return changed
