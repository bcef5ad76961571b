"""From words in the config to torch devices and dtypes, what a CPU needs to be quick, and numbers read off a device."""

import ctypes
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from errors import UserError
from models.config import DTYPES


def has_float64(device: torch.device) -> bool:
    """Whether tensors there can be float64."""
    return device.type != "mps"


def wide(values: Tensor) -> Tensor:
    """In float64; in float32 on a device that has nothing wider."""
    return values.double() if has_float64(values.device) else values.float()


def resolve_device(name: str, local_rank: int = 0, *, float64: str | None = None) -> torch.device:
    """`auto` is CUDA where there is one, else MPS, else the CPU; under torchrun each process takes its own GPU.

    float64: what is computed in it, as `the loss is computed`. Then `auto` passes MPS over, and `mps` is refused.
    """
    if name == "auto":
        metal = float64 is None and torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if metal else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device=cuda, but torch sees no CUDA device; use device=cpu or device=auto")
        return torch.device("cuda", local_rank)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name} is no device; expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps, but torch sees no Metal device; use device=cpu or device=auto")
    if float64 is not None and not has_float64(device):
        raise UserError(f"device={name} has no float64, in which {float64}; use device=cpu or device=auto")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA, as officially, and float32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` of torch.float32."""
    return str(dtype).removeprefix("torch.")


# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory(device: torch.device) -> bool:
    """On a CPU with glibc, let the process keep what it frees; True when that was set.

    Every update allocates the same activations again. Given back to the system in between, each of their pages is
    zeroed and mapped anew: some ten thousand page faults per update of the published TRM at eight rows. The
    process's resident size stays at its peak in return.
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(_M_MMAP_THRESHOLD, 2**30))


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`. To a GPU from pinned memory, so that the host does not wait for the copy."""
    if device.type != "cuda":
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


def on_device(value: float | Tensor, device: torch.device) -> Tensor:
    """A 0-d tensor on `device`, float64 (float32 on MPS, which has no other), by a kernel and not by a copy."""
    dtype = torch.float64 if has_float64(device) else torch.float32
    if isinstance(value, Tensor):
        return value.detach().to(dtype)
    return torch.full((), value, dtype=dtype, device=device)


class DeviceNumbers:
    """Named numbers, read later.

    On CUDA the copy into pinned memory joins the queue of kernels and an event marks its end: reading the numbers of
    one update after the next one has been queued waits for nothing.
    """

    def __init__(self, names: Sequence[str], values: Tensor) -> None:
        """values: (len(names),), float64."""
        self.names = list(names)
        self._event: torch.cuda.Event | None = None
        self._host = values
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> Mapping[str, float]:
        """Name -> number; waits until the device has computed them."""
        if self._event is not None:
            self._event.synchronize()
        return dict(zip(self.names, self._host.tolist(), strict=True))
