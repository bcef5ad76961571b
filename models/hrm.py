"""Hierarchical Reasoning Model: separate H and L stacks. Source: Wang et al. 2025, arXiv:2506.21734."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.config import ModelConfig, Problem
from models.layers import Stack
from models.recursion import SupervisionStep
from models.recursive_model import RecursiveModel
from options import with_default


@dataclass(kw_only=True)
class HRMConfig(ModelConfig):
    """HRM's own defaults, as officially. A prefix as long as the table's rows; the continue value is always trained."""

    H_cycles: int = with_default(ModelConfig, "H_cycles", 2)
    L_cycles: int = with_default(ModelConfig, "L_cycles", 2)
    H_layers: int = with_default(ModelConfig, "H_layers", 4)
    L_layers: int = with_default(ModelConfig, "L_layers", 4)
    puzzle_emb_len: int = with_default(ModelConfig, "puzzle_emb_len", 0)
    no_ACT_continue: bool = with_default(ModelConfig, "no_ACT_continue", False)

    @classmethod
    def problems(cls, shape: Any) -> Iterator[Problem]:
        yield from super().problems(shape)
        if shape.H_layers < 1:
            yield "H_layers", shape.H_layers, "at least 1 for hrm, whose z_H has a stack of its own"
        if shape.pos_encodings == "none" and not shape.mlp_t:
            yield "pos_encodings", "none", "rope or learned for hrm, whose attention needs positions"


class HierarchicalReasoningModel(RecursiveModel):
    """HRM. The one-step gradient passes through the last update of z_L and the last of z_H only."""

    Config = HRMConfig
    official_names = (
        "hrm_v1",
        "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1",
        "recursive_reasoning.hrm@HierarchicalReasoningModel_ACTV1",
    )

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
        updates = self.cycles(self.H_level, self.L_level, embeddings)
        return SupervisionStep(updates, grad_start=len(updates) - 2)
