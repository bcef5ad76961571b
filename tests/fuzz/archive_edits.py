"""Damage to zip archives that knows their members: names, sizes, packing, pickles, checksums."""

import io
import zipfile
from pathlib import Path
from random import Random

from tests.fuzz import canary
from tests.fuzz.byte_edits import BINARY, damage

Members = dict[str, bytes]


def members_of(data: bytes) -> Members:
    """Names and contents of a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zip_of(members: Members, packed: bool = False, double: str | None = None) -> bytes:
    """A zip of these members, one of them twice if `double` names it."""
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
        if double is not None:
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the doubled name, which is the point
                archive.writestr(zipfile.ZipInfo(double), members[double][::-1], compress_type=method)
    return out.getvalue()


def edit_members(rng: Random, data: bytes, folder: Path, changes: list[str]) -> bytes:
    """A well-formed zip with other members: CRCs fit, so that only what is in them can be refused."""
    members = members_of(data)
    name = rng.choice(sorted(members))
    kind = rng.choice(
        [
            "content",
            "content",
            "content",
            "payload",
            "payload",
            "remove",
            "rename",
            "exchange",
            "packed",
            "bomb",
            "double",
            "foreign",
            "climb",
            "longer",
        ]
    )
    changes.append(f"zip {kind} {name}")
    packed, double = False, None
    if kind == "content":
        members[name] = damage(rng, members[name], BINARY, changes)
    elif kind == "payload":
        pickles = [each for each in members if each.endswith((".pkl", ".npy"))] or [name]
        called, members[rng.choice(pickles)] = canary.pickle_bytes(rng, folder)
        changes.append(called)
    elif kind == "remove":
        del members[name]
    elif kind == "rename":
        members = {(each + "x" if each == name else each): value for each, value in members.items()}
    elif kind == "exchange":
        other = rng.choice(sorted(members))
        members[name], members[other] = members[other], members[name]
    elif kind == "packed":
        packed = True
    elif kind == "bomb":
        packed = True
        members[name] = members[name][:64] + bytes(rng.choice([10, 100]) << 20)
    elif kind == "double":
        double = name
    elif kind == "foreign":
        members = {"word/document.xml": b"<x/>", "[Content_Types].xml": b"<x/>"}
    elif kind == "climb":
        members["../" * 5 + "tmp/climbed"] = b"x"
    else:
        members[name] = members[name] + rng.randbytes(rng.choice([1, 8, 64]))
    return zip_of(members, packed, double)
