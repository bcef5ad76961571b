"""Numbers on their way from the device to the host, without making either wait for the other."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def on_device(value: float | Tensor, device: torch.device) -> Tensor:
    """A 0-d tensor on `device`, float64 (float32 on MPS, which has no other), by a kernel and not by a copy."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
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
