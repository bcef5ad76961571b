"""Networks V(n) that see n and the valuations of its next L steps: the source's, and one of the window's heights.

Both take windows: `logs` (..., J) float64, S_0..S_L of which the first is read by both and all L + 1 by the second,
`residues` (...,) integers, n modulo 81, and `valuations` (..., L) integers, k_1..k_L. They give V (...,) in float64.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network import Network

DRIFT_INIT = 0.35  # beta at the start, and of the fixed target
_FLOOR = 1e-6
LARGEST_VALUATION = 10


class CollatzValue(Network):
    """Base: a stack of linear layers with leaky ReLUs between them.

    Args:
        lookahead: L. layers: hidden widths. seed: of the initial weights.
    Attributes: needs_window_logs, whether all of `logs` is read.
    """

    needs_window_logs: bool

    def __init__(
        self, lookahead: int, layers: Sequence[int], inputs: int, outputs: int, slope: float, seed: int
    ) -> None:
        super().__init__()
        self.puzzle_emb = None
        self.lookahead, self.slope = lookahead, slope
        widths = [inputs, *layers, outputs]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList([nn.Linear(*pair) for pair in pairwise(widths)])

    @property
    def compute_dtype(self) -> torch.dtype:
        dtype = self.layers[0].weight.dtype
        assert isinstance(dtype, torch.dtype)
        return dtype

    def extra_flops(self) -> float:
        """Of one number: two for each weight."""
        return float(sum(2 * parameter.numel() for parameter in self.layers.parameters() if parameter.ndim == 2))

    def trained_flops(self) -> float:
        return 3 * self.extra_flops()

    def _stack(self, features: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            features = F.leaky_relu(layer(features), self.slope, inplace=True)
        result = last(features)
        assert isinstance(result, Tensor)
        return result

    def forward(self, logs: Tensor, residues: Tensor, valuations: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it computes")


class LookaheadValue(CollatzValue):
    """The source's network: V = softplus(MLP(features)) + 1e-6, and a drift coefficient that anchors it may learn.

    Source: network of the learned-Lyapunov experiment; 4,405,250 parameters with its layers at lookahead 10.
    """

    needs_window_logs = False

    def __init__(self, lookahead: int, layers: Sequence[int], seed: int) -> None:
        super().__init__(lookahead, layers, 6 + lookahead, 1, 0.1, seed)
        self.drift_coefficient = nn.Parameter(torch.tensor(DRIFT_INIT))

    def forward(self, logs: Tensor, residues: Tensor, valuations: Tensor) -> Tensor:
        features = lookahead_features(logs[..., 0], residues, valuations, self.compute_dtype)
        return (F.softplus(self._stack(features)[..., 0]) + _FLOOR).double()


def drift(valuations: Tensor) -> Tensor:
    """L log2 3 - k_1 - ... - k_L, (...,) float64: ln 2 times it is about what n gains over its window."""
    return valuations.shape[-1] * math.log2(3) - valuations.sum(dim=-1).double()


def lookahead_features(log_n: Tensor, residues: Tensor, valuations: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., 6 + L): log10(n)/40, n mod 3, 9, 27, 81 each by its largest, drift/10, and min(k_i, 10)/10."""
    columns = [log_n / (40 * math.log(10))]
    columns += [(residues % modulus).double() / (modulus - 1) for modulus in (3, 9, 27, 81)]
    columns.append(drift(valuations) / 10)
    clipped = valuations.clamp(max=LARGEST_VALUATION).to(dtype) / LARGEST_VALUATION
    return torch.cat([torch.stack(columns, dim=-1).to(dtype), clipped], dim=-1)


class WindowValue(CollatzValue):
    """V = mean of S_0..S_L + MLP(window): it starts as V_avg, since the MLP's last layer starts at zero.

    The MLP sees the heights S_j - S_0, the valuations, what V_min, V_max, V_tmin and V_tmax would say of the window and
    which state the last two choose, and a number that tells small n from large ones. n modulo 3^a is not seen.
    """

    needs_window_logs = True
    SCALE = 4.0  # of heights, in nats
    LARGEST_SIZE = 10.0

    def __init__(self, lookahead: int, layers: Sequence[int], seed: int) -> None:
        super().__init__(lookahead, layers, 2 * lookahead + 7, 1, 0.1, seed)
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.zero_()
        self.register_buffer("places", torch.arange(lookahead + 1.0), persistent=False)

    def forward(self, logs: Tensor, residues: Tensor, valuations: Tensor) -> Tensor:
        heights = (logs - logs[..., :1]).to(self.compute_dtype)
        correction = self._stack(self.features(logs[..., 0], heights, valuations))[..., 0]
        # ln n in float64: in float32 two large ones differ by more than many margins.
        return logs[..., 0] + (heights.mean(dim=-1) + correction).double()

    def features(self, log_n: Tensor, heights: Tensor, valuations: Tensor) -> Tensor:
        """(..., 2 L + 7): heights and valuations, four closed forms, two places, the size of n."""
        places = self.get_buffer("places").to(heights.dtype)
        rise = (heights[..., -1:] / self.lookahead).clamp(min=0) * places
        lowest = (heights - 1.2 * rise).argmin(dim=-1, keepdim=True)
        highest = (heights - rise).argmax(dim=-1, keepdim=True)
        forms = [
            heights.amin(dim=-1, keepdim=True), heights.amax(dim=-1, keepdim=True),
            heights.gather(-1, lowest), heights.gather(-1, highest),
        ]  # fmt: skip
        size = self.LARGEST_SIZE * torch.exp(-log_n.to(heights.dtype) / self.SCALE)
        return torch.cat(
            [
                torch.cat([heights[..., 1:], *forms], dim=-1) / self.SCALE,
                valuations.clamp(max=LARGEST_VALUATION).to(heights.dtype) / self.SCALE,
                torch.cat([lowest, highest], dim=-1).to(heights.dtype) / self.lookahead,
                size[..., None],
            ],
            dim=-1,
        )


NETWORKS: dict[str, Callable[[int, Sequence[int], int], CollatzValue]] = {
    "faithful": LookaheadValue,
    "orbit": WindowValue,
}
