"""What the training loop needs to know of any network, whatever it computes."""

import torch
from torch import nn

from models.puzzle_embedding import SparsePuzzleEmbedding


class Network(nn.Module):
    """Base of all networks that the one loop trains. A subclass sets `puzzle_emb`, to None without such a table."""

    puzzle_emb: SparsePuzzleEmbedding | None

    @property
    def compute_dtype(self) -> torch.dtype:
        """What activations are computed in."""
        raise TypeError(f"{type(self).__name__} does not say what it computes in")

    def trained_flops(self) -> float:
        """Operations, in closed form, of what an objective counts as one trained step: forward and backward."""
        raise TypeError(f"{type(self).__name__} does not say what a trained step costs")

    def extra_flops(self) -> float:
        """Likewise of one pass beside them that has no gradient."""
        raise TypeError(f"{type(self).__name__} does not say what a pass costs")
