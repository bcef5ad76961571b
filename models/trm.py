"""Tiny Recursive Model: one stack serves both updates. Source: Jolicoeur-Martineau 2025, arXiv:2510.04871."""

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.layers import Stack
from models.recursion import SupervisionStep
from models.recursive_model import RecursiveModel


class TinyRecursiveModel(RecursiveModel):
    """TRM with attention or, with `mlp_t`, token mixing. z_L sees z_H + input; z_H sees z_L only.

    Gradients pass through the last H cycle. `H_layers` is ignored, as officially.
    """

    official_names = ("recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",)

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.L_level = Stack(config.L_layers, config, generator)

    def stacks(self) -> list[nn.Module]:
        return [self.L_level]

    @classmethod
    def passes_of_a_step(cls, config: ModelConfig) -> tuple[int, int]:
        """Gradients pass through the last H cycle."""
        updates = config.H_cycles * (config.L_cycles + 1)
        return config.L_layers * updates, config.L_layers * (config.L_cycles + 1)

    def supervision_step(self, embeddings: Tensor) -> SupervisionStep:
        config, updates = self.config, self.cycles(self.L_level, self.L_level, embeddings)
        return SupervisionStep(updates, grad_start=(config.H_cycles - 1) * (config.L_cycles + 1))
