"""Processes: start-up under torchrun, and the few collectives the loop needs. One process needs none."""

import datetime
import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


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

    def broadcast_model(self, model: nn.Module) -> None:
        if self.size > 1:
            with torch.no_grad():
                for tensor in (*model.parameters(), *model.buffers()):
                    dist.broadcast(tensor.data, src=0)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors of one dtype over ranks, in place, by one all-reduce of a flat buffer."""
        if self.size > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def sum_numbers(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Sum plain numbers over ranks in float64."""
        if self.size == 1:
            return list(values)
        # MPS has no float64; several processes run on CPU or CUDA only.
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """Concatenate equal slices (b, ...) of all ranks along axis 0, in rank order, on every rank."""
        if self.size == 1:
            return tensor
        as_bytes = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
        parts = [torch.empty_like(as_bytes, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, as_bytes.contiguous())
        return torch.cat(parts).to(tensor.dtype)

    def broadcast_text(self, text: str | None) -> str | None:
        """Rank 0's text on every rank (plain strings; nothing is unpickled)."""
        if self.size == 1:
            return text
        device = torch.device("cuda", self.local_rank) if dist.get_backend() == "nccl" else torch.device("cpu")
        raw = list((text or "").encode())
        length = torch.tensor([len(raw) if text is not None else -1], device=device)
        dist.broadcast(length, src=0)
        if int(length) < 0:
            return None
        data = torch.zeros(int(length), dtype=torch.uint8, device=device)
        if self.is_main:
            data.copy_(torch.tensor(raw, dtype=torch.uint8))
        dist.broadcast(data, src=0)
        return bytes(data.tolist()).decode()

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def start_world(device_type: str, timeout_seconds: float) -> World:
    """Join the process group that `torchrun` describes in the environment; without one, a world of one.

    A collective that waits longer than `timeout_seconds` fails instead of hanging.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        return World()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device_type == "cuda":
        torch.cuda.set_device(local_rank)
    backend = "nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_seconds))
    return World(dist.get_rank(), dist.get_world_size(), local_rank)
