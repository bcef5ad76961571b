"""Stable Recursion Model: one joint map of (z_H, z_L) that contracts by construction, whatever its weights.

One application, with the embedded input x held fixed, is

    z' = (1 - alpha) z + alpha (A psi(z, x) + b(x)),        z = (z_H, z_L) = (h, l), 0 < alpha <= 1.

**The norm.** |z|_eta^2 = |h|^2 + eta |l|^2, summed over tokens and channels of one puzzle. With W = diag(1,
sqrt(eta)) it is the Euclidean norm of u = W z, and all that follows is in these coordinates.

**psi** is 1-Lipschitz in u for each x. It is a chain of maps on the 2 D channels of u, each 1-Lipschitz jointly over
tokens and channels (`models/lipschitz.py`): G almost-orthogonal matrices along the tokens, one per group of channels;
then the residual unit y - 2 P relu(P^T y + U x) with P almost orthogonal and U any matrix. There is no normalisation
in it. x shifts the thresholds of the relu, which changes no slope, and so has no bound to keep.

**A** is kappa times a 2 x 2 array of gains s_ij >= 0 with s_HH + s_HL = 1 = s_LH + s_LL (a softmax of each row), the
cross terms times orthogonal matrices Q_HL, Q_LH (Cayley). A bound on row sums is one on the maximum norm and says
nothing yet about |.|_eta. It does for one eta: put eta = s_HL / s_LH, so that the weights (1, eta) are stationary
under s, 1 * s_HL = eta * s_LH. Then, for any (a, c), by the triangle inequality and the convexity of the square (rows
sum to 1),

    |A (a, c)|_eta^2 <= kappa^2 [ (s_HH |a| + s_HL |c|)^2 + eta (s_LH |a| + s_LL |c|)^2 ]
                     <= kappa^2 [ s_HH |a|^2 + s_HL |c|^2 + eta s_LH |a|^2 + eta s_LL |c|^2 ]
                      = kappa^2 [ (s_HH + s_HL) |a|^2 + eta (s_LH + s_LL) |c|^2 ] = kappa^2 |(a, c)|_eta^2.

Hence A has norm at most kappa in the very norm in which psi is 1-Lipschitz. In u the cross gains are both g =
sqrt(s_HL s_LH): the array is symmetric, with largest eigenvalue exactly kappa.

**Together** an application is Lipschitz with (1 - alpha) + alpha kappa < 1 in |.|_eta: every puzzle has one fixed
point, reached from any start, and lambda_1 <= ln(1 - alpha + alpha kappa) nats per application on every trajectory,
for any weights. In the Euclidean norm an exponent of T applications may be higher by ln(cond) / (2 T), cond =
max(eta, 1 / eta). b(x) = V x enters by any matrix V. The fixed point solves z = A psi(z, x) + b(x): alpha is the
speed, not the place.

**The gains are kept inside.** s_ij >= GAIN_FLOOR, so eta lies in (floor / (1 - floor), (1 - floor) / floor): no
weights make the norm degenerate or cut one state off from the other.

Source: the specification of SRM in git.blackhao.com/rrm (design notes and log; no code seen): z' = (1 - alpha) z +
alpha A psi + b, almost-orthogonal mixers, Cayley cross terms, softmax row sums, kappa from 0.85 to 0.95. Differs: eta
follows from the gains, because for another eta row sums of kappa do not bound the norm by kappa; b is scaled by
alpha; the residual connection is a reflection by gates rather than a convex combination, because it is 1-Lipschitz
too and need not shrink anything.

Arithmetic: rescaled matrices, rotations and input terms are made once per supervision step, the matrices in at least
float32 (float64 in a float64 model), and serve all its applications. psi and A run in the layers' dtype, the rest in
the states', which are float32 at least: with bfloat16 layers the bound holds up to their rounding.

Weights: `joint_level.layers.{i}.token_mixing` (G, P+S, P+S), `joint_level.layers.{i}.channel_mixing` (2 D, W),
`joint_level.layers.{i}.input_proj.weight` (W, D), `joint_level.input_proj.weight` (2 D, D), `joint_level.rotations`
(2, D, D: HL, LH) and `joint_level.gain_logits` (2, 2), beside the embeddings and heads that all models have.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.config import ModelConfig, Problem
from models.layers import CastedLinear
from models.lipschitz import almost_orthogonal, cayley, mix_tokens, reflect_channels
from models.products import Product, linear_products
from models.recursion import RecurrentState, SupervisionStep
from models.recursive_model import RecursiveModel
from models.weighted_norm import MetricWeights
from options import Numbers, option, with_default

GAIN_FLOOR = 0.05


@dataclass(kw_only=True)
class SRMConfig(ModelConfig):
    """What SRM has beside the shape that all models share. `state_dtype` None means `dtype`, at least float32."""

    pos_encodings: str = with_default(ModelConfig, "pos_encodings", "none")
    alpha: float = option(
        0.5, "srm: weight of the new state in an application of its map", Numbers(0, 1, low_open=True)
    )
    kappa: float = option(
        0.9,
        "srm: bound of the joint gain; a map contracts by 1 - alpha + alpha * kappa. Less loses what is far away, more "
        "hardly contracts",
        Numbers(0.85, 0.95),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.state_dtype == torch.bfloat16:
            raise ValueError(
                "srm keeps its states wide, as bfloat16 rounds by more than they contract: use state_dtype float32 or "
                "float64"
            )

    @classmethod
    def unbuildable(cls, shape: Any) -> Iterator[Problem]:
        yield from super().unbuildable(shape)
        if shape.pos_encodings == "rope":
            yield "pos_encodings", "rope", "none or learned for srm, whose token matrices know positions"
        if shape.mlp_t:
            yield "mlp_t", True, "False for srm, which mixes tokens by matrices of its own"
        for name in ("alpha", "kappa"):
            expected = cls.__dataclass_fields__[name].metadata["range"].refusal(getattr(shape, name))
            if expected is not None:
                yield name, getattr(shape, name), expected

    @property
    def carry_dtype(self) -> torch.dtype:
        return self.state_dtype or torch.promote_types(self.dtype, torch.float32)


class PreparedLayer(NamedTuple):
    """A layer of psi for one batch, in the layers' dtype: token matrices (G, L, L), P (2 D, W), U x (B, L, W)."""

    tokens: Tensor
    channels: Tensor
    shift: Tensor


class PreparedMap(NamedTuple):
    """All that the applications of one supervision step share.

    layers: of psi. rotations: (2, D, D) in the layers' dtype, for row vectors: of z_L into z_H, of z_H into z_L.
    gains: (2, 2) in u-coordinates, kappa included. root_eta: sqrt(eta). drive: alpha b(x), (B, L, 2 D). The last two in
    the states' dtype.
    """

    layers: tuple[PreparedLayer, ...]
    rotations: Tensor
    gains: Tensor
    root_eta: Tensor
    drive: Tensor


@dataclass(frozen=True)
class ContractionBound:
    """Lipschitz constants in the model's weighted norm, for all weights and inputs.

    per_application: 1 - alpha + alpha kappa. per_step: of a supervision step of `num_applications`.
    """

    per_application: float
    num_applications: int

    @property
    def per_step(self) -> float:
        return self.per_application**self.num_applications

    @property
    def lambda_per_application(self) -> float:
        """Upper bound of all Lyapunov exponents, nats per application."""
        return math.log(self.per_application)

    @property
    def lambda_per_step(self) -> float:
        """The same in nats per supervision step."""
        return self.num_applications * self.lambda_per_application


class LipschitzLayer(nn.Module):
    """Tokens, then channels: the weights of one layer of psi, orthonormal at the start and so of norm 1."""

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        size, length = 2 * config.hidden_size, config.total_len
        width = config.swiglu_width(size)
        tokens = torch.empty(config.num_heads, length, length, dtype=config.param_dtype)
        channels = torch.empty(size, width, dtype=config.param_dtype)
        for matrix in (*tokens, channels):
            nn.init.orthogonal_(matrix, generator=generator)
        self.token_mixing = nn.Parameter(tokens)
        self.channel_mixing = nn.Parameter(channels)
        self.input_proj = CastedLinear(config.hidden_size, width, False, config, generator)

    def forward(self, embeddings: Tensor, dtype: torch.dtype) -> PreparedLayer:
        """Its matrices, which are then applied many times, and its input term for embeddings (B, L, D)."""
        tokens = almost_orthogonal(self.token_mixing).to(dtype)
        channels = almost_orthogonal(self.channel_mixing).to(dtype)
        return PreparedLayer(tokens, channels, self.input_proj(embeddings).to(dtype))


class JointMap(nn.Module):
    """One application: (z_H, z_L) -> (z_H, z_L), each (B, L, D). See the head of this file."""

    def __init__(self, config: SRMConfig, generator: torch.Generator) -> None:
        super().__init__()
        size, dtype = config.hidden_size, config.param_dtype
        self.alpha, self.kappa = config.alpha, config.kappa
        self.dtype, self.state_dtype = config.dtype, config.carry_dtype
        self.layers = nn.ModuleList(LipschitzLayer(config, generator) for _ in range(config.L_layers))
        self.input_proj = CastedLinear(size, 2 * size, False, config, generator)
        rotations = torch.empty(2, size, size, dtype=dtype).normal_(std=size**-0.5, generator=generator)
        self.rotations = nn.Parameter(rotations)
        self.gain_logits = nn.Parameter(torch.zeros(2, 2, dtype=dtype))

    def gains(self) -> Tensor:
        """s (2, 2): rows of receiving, columns of sending states (z_H, z_L); rows sum to 1, entries >= GAIN_FLOOR."""
        wide = self.gain_logits.to(torch.promote_types(self.gain_logits.dtype, torch.float32))
        return GAIN_FLOOR + (1 - 2 * GAIN_FLOOR) * wide.softmax(dim=-1)

    def prepare(self, embeddings: Tensor) -> PreparedMap:
        """What the weights as they are and the input (B, L, D) mean for the applications of a supervision step."""
        s = self.gains()
        cross = (s[0, 1] * s[1, 0]).sqrt()
        in_u = self.kappa * torch.stack((torch.stack((s[0, 0], cross)), torch.stack((cross, s[1, 1]))))
        # The product has the dtype of the embeddings: noise on them, which is float32, would be lost in bfloat16.
        drive = self.alpha * self.input_proj(embeddings).to(self.state_dtype)
        return PreparedMap(
            layers=tuple(layer(embeddings, self.dtype) for layer in self.layers),
            rotations=cayley(self.rotations).to(self.dtype),
            gains=in_u.to(self.dtype),
            root_eta=(s[0, 1] / s[1, 0]).sqrt().to(self.state_dtype),
            drive=drive,
        )

    def forward(self, z_H: Tensor, z_L: Tensor, prepared: PreparedMap) -> tuple[Tensor, Tensor]:
        y = torch.cat((z_H, prepared.root_eta * z_L), dim=-1).to(self.dtype)
        for layer in prepared.layers:
            y = reflect_channels(mix_tokens(y, layer.tokens), layer.channels, layer.shift)
        both = torch.stack(y.chunk(2, dim=-1))
        rotated = torch.bmm(both.flip(0).flatten(1, 2), prepared.rotations).view(both.shape)
        same, cross = prepared.gains.diagonal(), prepared.gains.flip(0).diagonal()
        mixed = same.view(2, 1, 1, 1) * both + cross.view(2, 1, 1, 1) * rotated
        to_H, to_L = (self.alpha * mixed.to(self.state_dtype)).unbind(0)
        drive_H, drive_L = prepared.drive.chunk(2, dim=-1)
        keep = 1 - self.alpha
        return keep * z_H + to_H + drive_H, keep * z_L + to_L / prepared.root_eta + drive_L


class StableRecursionModel(RecursiveModel):
    """SRM. A supervision step applies the joint map H_cycles (L_cycles + 1) times, as often as TRM calls its stack.

    Gradients pass through the last L_cycles + 1 applications, as in TRM. Both states are kept; the readout is z_H's.
    `H_layers` is ignored, `L_layers` is the depth of psi, `num_heads` the number of its channel groups, and the width
    of its residual units that of a SwiGLU over 2 D channels.
    """

    Config = SRMConfig
    config: SRMConfig

    def __init__(self, config: SRMConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.joint_level = JointMap(config, generator)

    def stacks(self) -> list[nn.Module]:
        return [self.joint_level]

    def supervision_step(self, embeddings: Tensor) -> SupervisionStep:
        self.forget_casts()
        prepared = self.joint_level.prepare(embeddings)

        def update(state: RecurrentState) -> RecurrentState:
            return RecurrentState(*self.joint_level(state.z_H, state.z_L, prepared))

        config = self.config
        number, _ = self.passes_of_a_step(config)
        return SupervisionStep([update] * number, grad_start=(config.H_cycles - 1) * (config.L_cycles + 1))

    @classmethod
    def passes_of_a_step(cls, config: ModelConfig) -> tuple[int, int]:
        """Applications of the map, whose last L_cycles + 1 carry gradients."""
        return config.H_cycles * (config.L_cycles + 1), config.L_cycles + 1

    @classmethod
    def step_flops(cls, config: ModelConfig, *, training: bool) -> float:
        """Operations of one supervision step of one row; a backward pass is twice a forward one.

        Per application: a token matrix for each channel group and both products of the residual unit in each layer, and
        two rotations.
        """
        forward, backward = cls.passes(config, training=training)
        size, length, width = config.hidden_size, config.total_len, config.swiglu_width(2 * config.hidden_size)
        layer = 2 * length * length * 2 * size + 2 * 2 * length * 2 * size * width
        application = config.L_layers * layer + 2 * 2 * length * size * size
        of_input = config.L_layers * 2 * length * size * width + 2 * length * size * 2 * size
        return float((forward + 2 * backward) * application + (3 if training else 1) * of_input)

    @classmethod
    def step_products(cls, config: ModelConfig, batch_size: int, *, training: bool) -> list[Product]:
        """Products of the applications and of the input in one supervision step of `batch_size` rows.

        All have both gradients, the first application too: its weighted states depend on the gains.
        """
        forward, backward = cls.passes(config, training=training)
        layers, groups = config.L_layers, config.num_heads
        size, length, width = config.hidden_size, config.total_len, config.swiglu_width(2 * config.hidden_size)
        tokens = batch_size * length
        per_group = batch_size * 2 * size // groups
        products = [Product("token_mixing", layers * forward, groups, length, length, per_group)]
        products.append(Product("channel_mixing in", layers * forward, 1, tokens, 2 * size, width))
        products.append(
            Product("channel_mixing out", layers * forward, 1, tokens, width, 2 * size, right_transposed=True)
        )
        products.append(Product("rotations", forward, 2, tokens, size, size))
        if backward:
            deep = layers * backward
            products += [
                Product("token_mixing input gradient", deep, groups, length, length, per_group, left_transposed=True),
                Product("token_mixing weight gradient", deep, groups, length, per_group, length, right_transposed=True),
                Product("channel_mixing in input gradient", deep, 1, tokens, width, 2 * size, right_transposed=True),
                Product("channel_mixing in weight gradient", deep, 1, 2 * size, tokens, width, left_transposed=True),
                Product("channel_mixing out input gradient", deep, 1, tokens, 2 * size, width),
                Product("channel_mixing out weight gradient", deep, 1, 2 * size, tokens, width, left_transposed=True),
                Product("rotations input gradient", backward, 2, tokens, size, size, right_transposed=True),
                Product("rotations weight gradient", backward, 2, size, tokens, size, left_transposed=True),
            ]
        once = 1 if training else 0
        products += linear_products("layer input_proj", tokens, size, width, layers, layers * once)
        return products + linear_products("input_proj", tokens, size, 2 * size, 1, once)

    @classmethod
    def preparation_products(cls, config: ModelConfig, *, training: bool) -> list[Product]:
        """Products in the preparation of the weights for one supervision step, whatever the number of rows.

        The Gram matrices of the almost-orthogonal weights, two gradients of each, and the two products in the gradient
        of the inverse behind the rotations. The inverse itself, of two D x D matrices, is no product.
        """
        layers, groups, length = config.L_layers, config.num_heads, config.total_len
        size, width = config.hidden_size, config.swiglu_width(2 * config.hidden_size)
        products = [
            *_gram("token_mixing", layers, groups, length, length, training=training),
            *_gram("channel_mixing", layers, 1, 2 * size, width, training=training),
        ]
        if training:
            products.append(Product("rotations inverse gradient", 2, 2, size, size, size))
        return products

    @torch.no_grad()
    def metric_weights(self) -> MetricWeights:
        """The weights (1, eta) of the norm in which the map contracts, for the weights of the model as they are."""
        s = self.joint_level.gains()
        return MetricWeights(1.0, float(s[0, 1] / s[1, 0]))

    def contraction_bound(self) -> ContractionBound:
        """What no weights, input or state can exceed, up to rounding."""
        config = self.config
        number, _ = self.passes_of_a_step(config)
        return ContractionBound(1 - config.alpha + config.alpha * config.kappa, number)


def _gram(name: str, count: int, batch: int, rows: int, columns: int, *, training: bool) -> list[Product]:
    """W.T @ W of W (rows, columns) or, when W is wider than tall, W @ W.T; and the gradients of both operands."""
    tall = rows >= columns
    narrow, wide = min(rows, columns), max(rows, columns)
    products = [Product(f"{name} gram", count, batch, narrow, wide, narrow, tall, not tall)]
    if training:
        shape = (wide, narrow, narrow) if tall else (narrow, narrow, wide)
        products.append(Product(f"{name} gram gradient", count, batch, *shape))
        products.append(Product(f"{name} gram other gradient", count, batch, *shape, not tall, tall))
    return products
