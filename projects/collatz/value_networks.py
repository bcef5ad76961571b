"""Networks V(n) that see n and the valuations of its next L steps: the source's, and one that chooses a state of them.

Both take windows: `logs` (..., J) float64, S_0..S_L of which the first is read by both and all L + 1 by the second,
`residues` (...,) integers, n modulo 81, and `valuations` (..., L) integers, k_1..k_L. They give V (...,) in float64.
On a device without float64 the first takes and gives float32.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network import Network
from training.devices import wide

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
        """Operations for one number: two for each weight."""
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
        return wide(F.softplus(self._stack(features)[..., 0]) + _FLOOR)


def drift(valuations: Tensor) -> Tensor:
    """L log2 3 - k_1 - ... - k_L, (...,) float64: ln 2 times it is about what n gains over its window."""
    return valuations.shape[-1] * math.log2(3) - wide(valuations.sum(dim=-1))


def lookahead_features(log_n: Tensor, residues: Tensor, valuations: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., 6 + L): log10(n)/40, n mod 3, 9, 27, 81 each by its largest, drift/10, and min(k_i, 10)/10."""
    columns = [log_n / (40 * math.log(10))]
    columns += [wide(residues % modulus) / (modulus - 1) for modulus in (3, 9, 27, 81)]
    columns.append(drift(valuations) / 10)
    clipped = valuations.clamp(max=LARGEST_VALUATION).to(dtype) / LARGEST_VALUATION
    return torch.cat([torch.stack(columns, dim=-1).to(dtype), clipped], dim=-1)


class SelectionValue(CollatzValue):
    """V = sum_j p_j (S_j + 0.02 j + d_j): a state of the window is chosen, softly, and V is its height.

    p = softmax(30 t + 5 s) over the places 0..L, where t is the height above the chord from S_0 to S_L (above S_0 when
    the window falls). An MLP that all places share gives s and d; its last layer starts at zero, so that V starts as a
    soft V_tmax. As long as the same state stays chosen V falls by the lift of a place, whatever the window does; a
    violation is a change of mind, and where to change it is what is learned. n modulo 3^a is not seen.
    """

    needs_window_logs = True
    FEATURES = 13
    SCALE = 4.0  # of heights, in nats
    LARGEST_SIZE = 10.0
    LIFT, SHARPNESS, GAIN = 0.02, 30.0, 5.0

    def __init__(self, lookahead: int, layers: Sequence[int], seed: int) -> None:
        super().__init__(lookahead, layers, self.FEATURES, 2, 0.1, seed)
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.zero_()
        self.register_buffer("places", torch.arange(lookahead + 1.0), persistent=False)

    def extra_flops(self) -> float:
        """Operations for one number: those of the MLP at each place."""
        return (self.lookahead + 1) * super().extra_flops()

    def forward(self, logs: Tensor, residues: Tensor, valuations: Tensor) -> Tensor:
        heights = (logs - logs[..., :1]).to(self.compute_dtype)
        score, shift = self._stack(self.features(logs[..., 0], heights, valuations)).unbind(dim=-1)
        chosen = (self.SHARPNESS * self._tilted(heights) + self.GAIN * score).softmax(dim=-1)
        height = (chosen * (heights + self.LIFT * self._places(heights) + shift)).sum(dim=-1)
        # ln n in float64: in float32 two large ones differ by more than many margins.
        return logs[..., 0] + height.double()

    def _places(self, heights: Tensor) -> Tensor:
        return self.get_buffer("places").to(heights.dtype)

    def _tilted(self, heights: Tensor) -> Tensor:
        return heights - (heights[..., -1:] / self.lookahead).clamp(min=0) * self._places(heights)

    def features(self, log_n: Tensor, heights: Tensor, valuations: Tensor) -> Tensor:
        """(..., L + 1, 13), of each place.

        Its height above n, above the last state, above the chord, and that less the largest; lowest and highest of the
        states from it on, and of those up to it, above it; slope of the window; the place; the valuations that lead to
        it and away from it, 0 where the window ends; the size of n, which tells small from large ones.
        """
        tilted = self._tilted(heights)
        relative = [
            heights, heights - heights[..., -1:], tilted, tilted - tilted.amax(dim=-1, keepdim=True),
            heights.flip(-1).cummin(dim=-1).values.flip(-1) - heights,
            heights.flip(-1).cummax(dim=-1).values.flip(-1) - heights,
            heights.cummin(dim=-1).values - heights, heights.cummax(dim=-1).values - heights,
        ]  # fmt: skip
        halvings = valuations.clamp(max=LARGEST_VALUATION).to(heights.dtype) / self.SCALE
        size = self.LARGEST_SIZE * torch.exp(-log_n.to(heights.dtype) / self.SCALE)
        columns = [
            *(column / self.SCALE for column in relative),
            (self.SCALE / self.lookahead * heights[..., -1:]).expand_as(heights),
            (self._places(heights) / self.lookahead).expand_as(heights),
            F.pad(halvings, (1, 0)),
            F.pad(halvings, (0, 1)),
            size[..., None].expand_as(heights),
        ]
        return torch.stack(columns, dim=-1)


NETWORKS: dict[str, Callable[[int, Sequence[int], int], CollatzValue]] = {
    "faithful": LookaheadValue,
    "orbit": SelectionValue,
}
