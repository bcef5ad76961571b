"""Networks V(n) that see n and the valuations of its next L steps: the source's, and one that chooses among the states.

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


class SelectionValue(CollatzValue):
    """V = sum_j w_j (S_j + j/1000), w a softmax over the window's states: it chooses, softly, one state to look at.

    All closed forms of the table but the anchors are such choices. The scores are those of V_tmin at c = 1.2,
    sharpened, plus what an MLP sees in the window; its last layer starts at zero, so that the network starts as that
    closed form. n modulo 3^a is not seen. V cannot be rescaled, which a saturating loss would otherwise pay for.
    """

    needs_window_logs = True
    TILT = 1.2
    LIFT = 1e-3

    def __init__(self, lookahead: int, layers: Sequence[int], seed: int) -> None:
        super().__init__(lookahead, layers, 2 * lookahead, lookahead + 1, 0.1, seed)
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.zero_()
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(20.0)))
        self.register_buffer("places", torch.arange(lookahead + 1.0), persistent=False)

    def forward(self, logs: Tensor, residues: Tensor, valuations: Tensor) -> Tensor:
        dtype, places = self.compute_dtype, self.get_buffer("places")
        relative = (logs - logs[..., :1]).to(dtype)
        clipped = valuations.clamp(max=LARGEST_VALUATION).to(dtype) / 4
        slope = (relative[..., -1:] / self.lookahead).clamp(min=0)
        tilted = relative - self.TILT * slope * places
        scores = self._stack(torch.cat([relative[..., 1:] / 4, clipped], dim=-1))
        weights = torch.softmax(scores - self.log_sharpness.exp() * tilted, dim=-1)
        # ln n in float64: in float32 two large ones differ by more than many margins.
        return logs[..., 0] + (weights * (relative + self.LIFT * places)).sum(dim=-1).double()


NETWORKS: dict[str, Callable[[int, Sequence[int], int], CollatzValue]] = {
    "faithful": LookaheadValue,
    "orbit": SelectionValue,
}
