"""The per-puzzle table: a buffer, not a parameter, because only the gathered rows ever have a gradient."""

import torch
from torch import Tensor, nn

from models.config import ModelConfig

Gather = tuple[Tensor, Tensor]


class SparsePuzzleEmbedding(nn.Module):
    """Table `weights` (num_puzzle_identifiers, puzzle_emb_ndim), zero at the start.

    While training with gradients each call makes a leaf (B, ndim) of the gathered rows and records it in
    `gathers`; the sparse optimizer reads the leaves' gradients, and `take_gathers` clears the record. Several
    calls between two updates (unrolls, accumulation) add several records.
    Differs from upstream, which copies rows into one fixed (batch, ndim) buffer and so allows one call only.
    """

    weights: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        shape = (config.num_puzzle_identifiers, config.puzzle_emb_ndim)
        self.register_buffer("weights", torch.zeros(shape, dtype=config.param_dtype), persistent=True)
        self.trainable = True
        self.gathers: list[Gather] = []

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of `ids` (B,), in the table's dtype (B, puzzle_emb_ndim)."""
        rows = self.weights[ids.long()].detach()
        if self.training and self.trainable and torch.is_grad_enabled():
            rows.requires_grad_(True)
            self.gathers.append((ids.detach(), rows))
        return rows

    def take_gathers(self) -> list[Gather]:
        """The records (ids, leaf) since the last call, oldest first; the record is cleared."""
        gathers, self.gathers = self.gathers, []
        return gathers
