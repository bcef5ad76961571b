"""Processes: start-up under torchrun, and the few collectives the loop needs. One process needs none."""

import contextlib
import datetime
import importlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from errors import UserError, say
from training.launch_environment import read_place

# Gloo, its sockets and the rendezvous store say in these words that a process is gone or does not answer.
_LOST = re.compile(
    r"timed? ?out|closed by peer|reset by peer|broken pipe|connection (was )?(refused|closed)", re.IGNORECASE
)
# A launcher ends all processes as soon as one has ended, so a process without a message waits this long for the others.
_LAST_WORDS_SECONDS = 1.0
_FINE, _FAILED, _REFUSED = 0, 1, 2


class LostProcessError(RuntimeError):
    """A collective failed because another process is gone or did not answer in time."""


class World:
    """This process among `size`. Every method is the identity when there is one process.

    No DDP wrapper: it averages where the official code sums, would broadcast the puzzle table at every
    forward, and does not see gradients taken through the map. Parameters are broadcast once at the start;
    after that one flat SUM per update keeps ranks equal.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def slots(self, num_slots: int) -> slice:
        """This rank's contiguous share of the global slots."""
        share = num_slots // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    @contextlib.contextmanager
    def _meeting(self, what: str) -> Iterator[None]:
        """Around a collective: the library's long complaint about a lost process becomes one line."""
        try:
            yield
        except RuntimeError as error:
            if not _LOST.search(str(error)):
                raise
            reason = " ".join(str(error).split())[:300]
            raise LostProcessError(
                f"process {self.rank} of {self.size} lost another one while it waited to {what}: it ended, or "
                f"took longer than collective_timeout_seconds ({reason})"
            ) from error

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """All processes leave this block, or none: an error in one ends the others too, at once. Collective.

        Inside must be no collective. The failing process of lowest rank raises its own error; the others exit
        silently with the code that error leads to (2 for a `UserError`, else 1).
        """
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:  # raised again below, by the process that is to report it
            error = caught
        kind = _FINE if error is None else _REFUSED if isinstance(error, UserError) else _FAILED
        kinds = self.gather_rows(torch.tensor([kind], device=self._small_device())).tolist()
        failed = [rank for rank, other in enumerate(kinds) if other != _FINE]
        if not failed:
            return
        if error is not None and failed[0] == self.rank:
            raise error
        self.leave(2 if kinds[failed[0]] == _REFUSED else 1)

    def leave(self, code: int, message: str | None = None) -> NoReturn:
        """Exit; without a message a little later, so that a launcher lets the others speak first."""
        if message is not None:
            say(message, file=sys.stderr, flush=True)
        elif self.size > 1:
            time.sleep(_LAST_WORDS_SECONDS)
        sys.exit(code)

    def broadcast_model(self, model: nn.Module) -> None:
        if self.size > 1:
            with torch.no_grad(), self._meeting("share the weights"):
                for tensor in (*model.parameters(), *model.buffers()):
                    dist.broadcast(tensor.data, src=0)

    def sum_(self, tensors: Sequence[Tensor], what: str = "gradients") -> None:
        """Sum tensors of one dtype over ranks, in place, by one all-reduce of a flat buffer."""
        if self.size > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            with self._meeting(f"sum {what}"):
                dist.all_reduce(flat)
            for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def sum_numbers(self, values: Sequence[float], device: torch.device | None = None) -> list[float]:
        """Sum plain numbers over ranks in float64, on `device` (default: one that the backend takes)."""
        if self.size == 1:
            return list(values)
        # MPS has no float64; several processes run on CPU or CUDA only.
        total = torch.tensor(values, dtype=torch.float64, device=device or self._small_device())
        with self._meeting("sum numbers"):
            dist.all_reduce(total)
        return total.tolist()

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """Concatenate equal slices (b, ...) of all ranks along axis 0, in rank order, on every rank."""
        if self.size == 1:
            return tensor
        # Bytes are sent, because a backend does not know every dtype.
        as_bytes = tensor.detach().contiguous().view(-1).view(torch.uint8)
        shares = [torch.empty_like(as_bytes) for _ in range(self.size)]
        with self._meeting("gather rows"):
            dist.all_gather(shares, as_bytes)
        return torch.cat(shares).view(tensor.dtype).view(self.size * len(tensor), *tensor.shape[1:])

    def gather_ragged(self, tensor: Tensor) -> Tensor:
        """Concatenate slices (b, ...) of any b, 0 too, along axis 0, in rank order, on every rank. Collective.

        dtype and further axes must be the same on all ranks, also where there is no row.
        """
        if self.size == 1:
            return tensor
        local = tensor.detach().to(self._small_device())
        sizes = self.gather_rows(torch.tensor([len(local)], device=local.device)).tolist()
        most = max(sizes)
        if not most:
            return tensor
        padded = local.new_zeros(most, *local.shape[1:])
        padded[: len(local)] = local
        shares = self.gather_rows(padded).split(most)
        return torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)]).to(tensor.device)

    def _small_device(self) -> torch.device:
        """Where small tensors must live for the backend."""
        return torch.device("cuda", self.local_rank) if dist.get_backend() == "nccl" else torch.device("cpu")

    def close(self, *, failed: bool = False) -> None:
        """Leave the group. A failing process leaves NCCL alone: it would wait for collectives under way."""
        if self.size > 1 and dist.is_initialized() and not (failed and dist.get_backend() == "nccl"):
            dist.destroy_process_group()


def start_world(device_type: str, timeout_seconds: float) -> World:
    """Join the process group that `torchrun` describes in the environment; without one, a world of one.

    A collective that waits longer than `timeout_seconds` fails instead of hanging, and so does the meeting.
    Errors: `UserError` for an environment that is half set, or for more processes than this machine has GPUs.
    """
    place = read_place()
    if place.size == 1:
        return World()
    if device_type == "cuda":
        if place.local_rank >= (count := torch.cuda.device_count()):
            raise UserError(
                f"LOCAL_RANK is {place.local_rank}, but this machine has {count} GPUs: give torchrun "
                f"--nproc-per-node {count}, or the script device=cpu"
            )
        torch.cuda.set_device(place.local_rank)
    # The functions of this module take the group that exists at their import as a default argument. torch.compile would
    # import it later; then they keep the group and its threads alive beyond `close`, and a thread that frees a tensor
    # while the interpreter ends aborts the process, whose exit code is lost.
    importlib.import_module("torch.distributed.nn.functional")
    backend = "nccl" if device_type == "cuda" else "gloo"
    timeout = datetime.timedelta(seconds=timeout_seconds)
    world = World(place.rank, place.size, place.local_rank)
    with world._meeting("meet the others"), _deadline(world, timeout_seconds):
        store, _, _ = next(rendezvous("env://", timeout=timeout))
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
        # torchrun keeps one store over restarts: a restarted process could read there the address of one that was
        # killed, and use up another restart. (With several agents the count is not the same everywhere.)
        if restarts is not None and os.environ.get("LOCAL_WORLD_SIZE") == str(place.size):
            store = dist.PrefixStore(f"restart_{restarts}", store)
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=place.size, timeout=timeout)
    return world


@contextlib.contextmanager
def _deadline(world: World, seconds: float) -> Iterator[None]:
    """End this process when the block lasts longer.

    To meet takes several waits, each of which may last as long as the timeout; and where a killed launcher kept the
    store, the library tries to reach it again and again.
    """

    def give_up() -> None:
        line = (
            f"error: process {world.rank} of {world.size} lost another one while it waited to meet the others: it, or "
            f"the launcher, did not answer within collective_timeout_seconds ({seconds:g})\n"
        )
        os.write(2, line.encode())
        os._exit(_FAILED)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
