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

    def stacks(self) -> list[nn.Module]:
        """The parts in which nearly all time is spent: what `compile` compiles. None here."""
        return []

    def compile_stacks(self, **options: object) -> None:
        """Compile each stack in place (state-dict keys stay as they are).

        The stack is the region, never the whole step: one graph serves all sub-updates, and gradient and
        gradient-free calls get graphs of their own.
        """
        for stack in self.stacks():
            stack.compile(dynamic=False, **options)

    @property
    def is_compiled(self) -> bool:
        return any(stack._compiled_call_impl is not None for stack in self.stacks())

    def trained_flops(self) -> float:
        """Operations, in closed form, of what an objective counts as one trained step: forward and backward."""
        raise TypeError(f"{type(self).__name__} does not say what a trained step costs")

    def extra_flops(self) -> float:
        """Likewise of one pass beside them that has no gradient."""
        raise TypeError(f"{type(self).__name__} does not say what a pass costs")
