"""What HRM, TRM and SRM share: embeddings in, readout out, and a supervision step in between."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig
from models.layers import CastedEmbedding, CastedLinear, CosSin, rotary_table, truncated_normal_
from models.network import Network
from models.products import Product, block_forward_flops, block_products
from models.puzzle_embedding import SparsePuzzleEmbedding
from models.recursion import RecurrentState, SubUpdate, SupervisionStep, cycle_order

# The literal of the official code; a more exact 1/sqrt(2) would miss its values at 1e-8.
LEARNED_POSITION_SCALE = 0.707106781


class RecursiveModel(Network):
    """Base of all recursive reasoning models; a subclass owns the stacks and says in which order they act.

    Parameters and buffers carry the official names without prefix (`embed_tokens.embedding_weight`,
    `lm_head.weight`, `q_head.{weight,bias}`, `H_init`, `L_init`, `puzzle_emb.weights`, `L_level…`,
    `H_level…`).

    Args:
        config: shape and arithmetic.
        generator: source of the initial weights.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    # What the official programs call it: names of classes in their configs, and of groups.
    official_names: ClassVar[tuple[str, ...]] = ()
    # What of a batch lives in the carry, slot by slot, and what `begin` adds to it; all names differ.
    row_keys: tuple[str, ...] = ("inputs", "labels", "puzzle_identifiers")
    begin_keys: tuple[str, ...] = ()

    H_init: Tensor
    L_init: Tensor

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embed_tokens = CastedEmbedding(config.vocab_size, config, generator)
        self.lm_head = CastedLinear(size, config.vocab_size, False, config, generator)
        self.q_head = CastedLinear(size, 2, True, config, generator)
        if config.pos_encodings == "learned":
            self.embed_pos = CastedEmbedding(config.total_len, config, generator)
        self.puzzle_emb = SparsePuzzleEmbedding(config) if config.puzzle_emb_ndim else None
        for name in ("H_init", "L_init"):
            start = truncated_normal_(torch.empty(size, dtype=config.param_dtype), 1.0, generator)
            self.register_buffer(name, start, persistent=True)
        assert self.q_head.bias is not None
        with torch.no_grad():
            # Halting values start near "do not halt", from where bootstrapped Q-learning is easier.
            self.q_head.weight.zero_()
            self.q_head.bias.fill_(-5.0)
        self._rotary: dict[tuple[torch.dtype, torch.device], CosSin] = {}

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.config.dtype

    def trained_flops(self) -> float:
        """Of a supervision step of one row, without a second pass for a target."""
        return self.step_flops(replace(self.config, no_ACT_continue=True), training=True)

    def extra_flops(self) -> float:
        return self.step_flops(self.config, training=False)

    @classmethod
    def passes_of_a_step(cls, config: ModelConfig) -> tuple[int, int]:
        """How often a supervision step passes through a block, and how many of these passes carry gradients."""
        raise TypeError(f"{cls.__name__} does not say how often it passes through a block")

    @classmethod
    def passes(cls, config: ModelConfig, *, training: bool) -> tuple[int, int]:
        """Passes through a block: forward (twice for the target of Q-learning), and backward (0 in evaluation)."""
        forward, backward = cls.passes_of_a_step(config)
        if not training:
            return forward, 0
        return forward if config.no_ACT_continue else 2 * forward, backward

    @classmethod
    def step_flops(cls, config: ModelConfig, *, training: bool) -> float:
        """As `models.flops.step_flops`; here and below of blocks of attention or token mixing, and SwiGLU."""
        forward, backward = cls.passes(config, training=training)
        return float(forward + 2 * backward) * block_forward_flops(config) * config.total_len

    @classmethod
    def step_products(cls, config: ModelConfig, batch_size: int, *, training: bool) -> list[Product]:
        """Every matrix product of one supervision step of `batch_size` rows; their `flops` add up to `step_flops`.

        Embeddings are lookups and have no products; those of the heads are in `models.products.head_products`.
        """
        return block_products(config, batch_size, *cls.passes(config, training=training))

    @classmethod
    def preparation_products(cls, config: ModelConfig, *, training: bool) -> list[Product]:
        """The products that prepare the weights for one supervision step, whatever its number of rows; most have none.

        In no floor and in no count of a row's operations; a counter sees them.
        """
        return []

    def cos_sin(self) -> CosSin | None:
        """The rotary table for the current device, made once per device and dtype; None without rope."""
        if self.config.pos_encodings != "rope" or self.config.mlp_t:
            return None
        key = (self.config.dtype, self.H_init.device)
        if key not in self._rotary:
            config = self.config
            head_dim = config.hidden_size // config.num_heads
            self._rotary[key] = rotary_table(config.total_len, head_dim, config.rope_theta, *key)
        return self._rotary[key]

    def puzzle_rows(self, puzzle_identifiers: Tensor) -> Tensor | None:
        """The rows of the puzzle table for ids (B,), in the table's dtype (B, puzzle_emb_ndim); None without one.

        In training a leaf that collects the gradients of all embeddings made with it until the next update.
        """
        return None if self.puzzle_emb is None else self.puzzle_emb(puzzle_identifiers)

    def begin(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is computed once of rows that enter a slot and kept with them while they are in it.

        Leaves (n, ...) under the names `begin_keys`, of the n rows of a batch, all its keys: in training `embed` finds
        them with a graph at the first step of these rows, and without one at later steps. A model that is to learn at
        every step computes such things in `embed`, from `row_keys`.
        """
        return {}

    def begun(self, rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The rows with what `begin` makes of them: what `embed` takes outside a carry.

        Errors: ValueError when that has other names than `begin_keys`, or one that the rows have.
        """
        leaves = self.begin(rows)
        if leaves.keys() != set(self.begin_keys) or not rows.keys().isdisjoint(leaves):
            names = f"{sorted(leaves)} of rows with {sorted(rows)}"
            raise ValueError(f"{type(self).__name__}.begin makes {names}, but begin_keys are {self.begin_keys}")
        return {**rows, **leaves}

    def embed(self, rows: Mapping[str, Tensor], puzzle_rows: Tensor | None = None) -> Tensor:
        """Input embeddings of a carry, or of `begun` rows: (B, P+S, D), unit variance at the start.

        Here of `inputs` (B, S) tokens and `puzzle_identifiers` (B,). `puzzle_rows`, from the method of that name, is
        gathered anew where not given.
        """
        config = self.config
        embedding = self.embed_tokens(rows["inputs"].int())
        if puzzle_rows is None:
            puzzle_rows = self.puzzle_rows(rows["puzzle_identifiers"])
        if puzzle_rows is not None:
            puzzle = puzzle_rows.to(config.dtype)
            missing = config.prefix_len * config.hidden_size - puzzle.shape[-1]
            prefix = F.pad(puzzle, (0, missing)).view(-1, config.prefix_len, config.hidden_size)
            embedding = torch.cat((prefix, embedding), dim=-2)
        if config.pos_encodings == "learned":
            positions = self.embed_pos.embedding_weight.to(config.dtype)
            embedding = LEARNED_POSITION_SCALE * (embedding + positions)
        return config.hidden_size**0.5 * embedding

    def initial_state(self, batch_size: int) -> RecurrentState:
        """H_init and L_init broadcast to (batch_size, P+S, D); views, do not write into them."""
        shape = (batch_size, self.config.total_len, self.config.hidden_size)
        dtype = self.config.carry_dtype
        return RecurrentState(self.H_init.to(dtype).expand(shape), self.L_init.to(dtype).expand(shape))

    def forget_casts(self) -> None:
        """Cast all weights anew: a step's casts are made once, in its first sub-updates, and serve it to its end."""
        for module in self.modules():
            if isinstance(module, CastedLinear):
                module.cast.forget()

    def supervision_step(self, embeddings: Tensor) -> SupervisionStep:
        """The pure map of one supervision step with the input (B, P+S, D) held fixed, and the weights as they are.

        After an update of the weights a new map must be made.
        """
        raise TypeError(f"{type(self).__name__} does not say in which order its stacks act")

    def cycles(self, H_level: nn.Module, L_level: nn.Module, embeddings: Tensor) -> list[SubUpdate]:
        """The sub-updates of a step in their order, by two stacks or one: z_L sees z_H + input, z_H sees z_L only."""
        self.forget_casts()
        cos_sin = self.cos_sin()

        def update_L(state: RecurrentState) -> RecurrentState:
            return state._replace(z_L=L_level(state.z_L, state.z_H + embeddings, cos_sin))

        def update_H(state: RecurrentState) -> RecurrentState:
            return state._replace(z_H=H_level(state.z_H, state.z_L, cos_sin))

        order = cycle_order(self.config.H_cycles, self.config.L_cycles)
        return [update_L if which == "L" else update_H for which in order]

    def readout(self, state: RecurrentState) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, S, V), and the halting values q_halt, q_continue (B,), float32, read at position 0."""
        answer = state.z_H.to(self.config.dtype)
        logits = self.lm_head(answer)[:, self.config.prefix_len :]
        q = self.q_head(answer[:, 0]).to(self.config.q_dtype)
        return logits, q[..., 0], q[..., 1]

    def stacks(self) -> list[nn.Module]:
        raise TypeError(f"{type(self).__name__} names no stacks")
