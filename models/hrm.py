"""Hierarchical Reasoning Model: separate H and L stacks. Source: Wang et al. 2025, arXiv:2506.21734."""

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.layers import Stack
from models.recursion import RecurrentState, SupervisionStep, cycle_order
from models.recursive_model import RecursiveModel


class HierarchicalReasoningModel(RecursiveModel):
    """HRM. The one-step gradient passes through the last update of z_L and the last of z_H only."""

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.H_level = Stack(config.H_layers, config, generator)
        self.L_level = Stack(config.L_layers, config, generator)

    def stacks(self) -> list[nn.Module]:
        return [self.H_level, self.L_level]

    @classmethod
    def passes_of_a_step(cls, config: ModelConfig) -> tuple[int, int]:
        """Gradients pass through the last update of each stack."""
        forward = config.L_layers * config.H_cycles * config.L_cycles + config.H_layers * config.H_cycles
        return forward, config.L_layers + config.H_layers

    def supervision_step(self, embeddings: Tensor) -> SupervisionStep:
        self.forget_casts()
        cos_sin = self.cos_sin()

        def update_L(state: RecurrentState) -> RecurrentState:
            return state._replace(z_L=self.L_level(state.z_L, state.z_H + embeddings, cos_sin))

        def update_H(state: RecurrentState) -> RecurrentState:
            return state._replace(z_H=self.H_level(state.z_H, state.z_L, cos_sin))

        order = cycle_order(self.config.H_cycles, self.config.L_cycles)
        updates = [update_L if which == "L" else update_H for which in order]
        return SupervisionStep(updates, grad_start=len(updates) - 2)
