"""What the launcher's environment variables say: which process this is, of how many, and where they meet."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from errors import UserError

WAY_OUT = "start with torchrun --nproc-per-node N, which sets all of them, or unset it to run alone"


@dataclass(frozen=True)
class Place:
    """This process among `size`: `rank` of all, `local_rank` of those on this machine (the number of its GPU)."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def read_place(environ: Mapping[str, str] = os.environ) -> Place:
    """The place that RANK, WORLD_SIZE and LOCAL_RANK give; alone where neither of the first two is set.

    A world of one needs no RANK. Of several processes each needs RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as
    torchrun sets them. Errors: `UserError` naming the variable: half of them set, no whole number, out of range.

        >>> read_place({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "::1", "MASTER_PORT": "1"})
        Place(rank=1, size=2, local_rank=1)
    """
    if "WORLD_SIZE" not in environ and "RANK" not in environ:
        return Place()
    size = _whole(environ, "WORLD_SIZE", 1, 2**16, beside="RANK")
    if size == 1 and "RANK" not in environ:
        return Place()
    rank = _whole(environ, "RANK", 0, size - 1, beside="WORLD_SIZE")
    if size == 1:
        return Place()
    local_rank = _whole(environ, "LOCAL_RANK", 0, size - 1, beside="WORLD_SIZE")
    if not environ.get("MASTER_ADDR"):
        raise UserError(f"MASTER_ADDR is not set, but WORLD_SIZE is {size}: {WAY_OUT}")
    _whole(environ, "MASTER_PORT", 1, 2**16 - 1, beside="WORLD_SIZE")
    return Place(rank, size, local_rank)


def _whole(environ: Mapping[str, str], name: str, least: int, most: int, *, beside: str) -> int:
    text = environ.get(name)
    if text is None:
        raise UserError(f"{name} is not set, but {beside} is {environ[beside]!r}: {WAY_OUT}")
    # isdecimal also takes digits of other scripts, which int reads; more than ten of them are no process's number.
    if not (text.isdecimal() and len(text) <= 10 and least <= int(text) <= most):
        raise UserError(f"{name} is {text!r}, expected a whole number from {least} to {most}: {WAY_OUT}")
    return int(text)
