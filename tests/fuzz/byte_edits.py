"""Damage to bytes that knows nothing of their meaning, and some that knows they are text."""

import struct
from collections.abc import Callable
from random import Random

Edit = Callable[[Random, bytes], bytes]
MAX_BYTES = 4 << 20  # edits never make a file larger than this


def _place(rng: Random, data: bytes) -> int:
    """A position, as often near the ends (headers, directories) as anywhere."""
    if not data:
        return 0
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randrange(min(len(data), 128))
    if kind == 1:
        return len(data) - 1 - rng.randrange(min(len(data), 256))
    return rng.randrange(len(data))


def flip_bits(rng: Random, data: bytes) -> bytes:
    """One to eight bits."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 8]) if data else 0):
        changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(rng: Random, data: bytes) -> bytes:
    """A few bytes to values that often mean something."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4) if data else 0):
        changed[_place(rng, data)] = rng.choice([0, 1, 0x20, 0x2E, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(changed)


def set_number(rng: Random, data: bytes) -> bytes:
    """A binary number of 2, 4 or 8 bytes to an extreme or slightly other value."""
    size, code = rng.choice([(2, "H"), (4, "I"), (8, "Q")])
    if len(data) < size:
        return data + b"\xff"
    place = min(_place(rng, data), len(data) - size)
    order = rng.choice("<>")
    (old,) = struct.unpack_from(order + code, data, place)
    top = (1 << 8 * size) - 1
    new = rng.choice([0, 1, top, top >> 1, (top >> 1) + 1, (old + 1) & top, (old - 1) & top, old ^ top])
    return data[:place] + struct.pack(order + code, new) + data[place + size :]


def truncate(rng: Random, data: bytes) -> bytes:
    """Cut the end off."""
    if not data:
        return data
    return data[: rng.choice([0, 1, len(data) - 1, len(data) // 2, rng.randrange(len(data))])]


def cut_start(rng: Random, data: bytes) -> bytes:
    """Cut the start off."""
    return data[rng.randint(1, max(1, min(len(data), 64))) :]


def extend(rng: Random, data: bytes) -> bytes:
    """Put something behind the end."""
    return data + rng.choice([b"\0", b"\n", b" ", b"\0" * 512, rng.randbytes(rng.randint(1, 300)), data])


def prepend(rng: Random, data: bytes) -> bytes:
    """Put something before the start."""
    return rng.choice([b"\0", b"\n", b"\xef\xbb\xbf", b"#!/bin/sh\n", b"PK\x03\x04", data[:64]]) + data


def insert(rng: Random, data: bytes) -> bytes:
    """A few bytes in the middle."""
    place = _place(rng, data)
    return data[:place] + rng.randbytes(rng.choice([1, 1, 2, 8, 100])) + data[place:]


def delete(rng: Random, data: bytes) -> bytes:
    """A few bytes out of the middle."""
    place = _place(rng, data)
    return data[:place] + data[place + rng.choice([1, 1, 2, 8, 100]) :]


def zero_block(rng: Random, data: bytes) -> bytes:
    """A block that the disk forgot."""
    place = _place(rng, data)
    size = min(rng.choice([1, 16, 512, 4096]), len(data) - place)
    return data[:place] + bytes(size) + data[place + size :]


def swap_blocks(rng: Random, data: bytes) -> bytes:
    """Two blocks exchanged."""
    size = rng.choice([1, 8, 64, 512])
    if len(data) < 2 * size:
        return data[::-1]
    first = rng.randrange(len(data) - 2 * size + 1)
    second = rng.randrange(first + size, len(data) - size + 1)
    middle = data[first + size : second]
    return data[:first] + data[second : second + size] + middle + data[first : first + size] + data[second + size :]


def repeat_block(rng: Random, data: bytes) -> bytes:
    """A block written twice."""
    place = _place(rng, data)
    block = data[place : place + rng.choice([1, 16, 256])]
    return data[:place] + block * rng.choice([2, 2, 50]) + data[place + len(block) :]


def garbage(rng: Random, data: bytes) -> bytes:
    """Something else altogether."""
    return rng.choice(
        [
            b"",
            b"\0",
            b"\n",
            b"null",
            b"<html><body>404 Not Found</body></html>\n",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            bytes(4096),
            rng.randbytes(rng.randint(1, 2000)),
            b"\x1f\x8b" + rng.randbytes(40),
            b"PK\x05\x06" + bytes(18),
            "\u0661\u0662\u0663".encode(),
        ]
    )


def crlf(rng: Random, data: bytes) -> bytes:
    """Line ends of another system."""
    return data.replace(b"\r\n", b"\n").replace(b"\n", rng.choice([b"\r\n", b"\r", b"\n\n", b"\r\r\n"]))


def foreign_characters(rng: Random, data: bytes) -> bytes:
    """Characters that no ASCII reader expects, some of them invalid."""
    place = _place(rng, data)
    strange = rng.choice(
        [
            b"\xff",
            b"\xc3\x28",
            b"\xed\xa0\x80",
            b"\xf0\x9f\x92\xa9",
            "\u0665".encode(),
            "\uff11".encode(),
            "\u00b2".encode(),
            "\u202e".encode(),
            "\u2028".encode(),
            "\u00a0".encode(),
            b"\x1b[31m",
            b"\x07",
            b"\x00",
            b"\x0b",
            b"\x1c",
            b"\x85",
            b'"',
            b"'",
            b",",
            b"\\",
        ]
    )
    return data[:place] + strange + data[place + rng.choice([0, 1, len(strange)]) :]


def long_line(rng: Random, data: bytes) -> bytes:
    """One very long line."""
    place = _place(rng, data)
    filler = rng.choice([b"1", b"x", b" ", b"[", b'"', b",", b"0.", b"\t"])
    return data[:place] + filler * rng.choice([5000, 70_000, 1_100_000]) + data[place:]


def mix_lines(rng: Random, data: bytes) -> bytes:
    """A line doubled, dropped, moved, or two joined."""
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        lines.insert(second, lines[first])
    elif kind == 1:
        del lines[first]
    elif kind == 2:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        lines[first] += lines[second]
    return b"\n".join(lines)


BINARY: list[Edit] = [
    flip_bits,
    flip_bits,
    flip_bits,
    set_bytes,
    set_bytes,
    set_number,
    set_number,
    truncate,
    cut_start,
    extend,
    prepend,
    insert,
    delete,
    zero_block,
    swap_blocks,
    repeat_block,
    garbage,
]
TEXT: list[Edit] = [
    flip_bits,
    set_bytes,
    truncate,
    extend,
    prepend,
    insert,
    delete,
    repeat_block,
    swap_blocks,
    garbage,
    crlf,
    foreign_characters,
    foreign_characters,
    long_line,
    mix_lines,
    mix_lines,
]


def splice(rng: Random, data: bytes, donor: bytes) -> bytes:
    """The start of one sound file and the rest of another."""
    first, second = _place(rng, data), _place(rng, donor)
    return rng.choice(
        [
            data[:first] + donor[second:],
            data[:first] + donor[first:],
            data[:first] + donor[first : first + 64] + data[first + 64 :],
            donor + data,
            donor,
        ]
    )


def damage(rng: Random, data: bytes, edits: list[Edit], changes: list[str], donor: bytes | None = None) -> bytes:
    """One to three edits (or a splice with `donor`), named in `changes`."""
    if donor is not None and rng.random() < 0.08:
        changes.append("splice")
        return splice(rng, data, donor)[:MAX_BYTES]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        edit = rng.choice(edits)
        changes.append(edit.__name__)
        data = edit(rng, data)[:MAX_BYTES]
    return data
