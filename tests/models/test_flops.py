"""The closed form against torch's own counter (which on a CPU sees matrix products but not fused attention)."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.config import ModelConfig
from models.flops import step_flops
from models.recursion import RecurrentState
from models.registry import build_model
from scripts.benchmark import MODELS

SMALL = {"hidden_size": 32, "num_heads": 4, "puzzle_emb_ndim": 32, "puzzle_emb_len": 2, "swiglu_multiple": 16}


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig("trm", 9, 7, 1, mlp_t=True, pos_encodings="none", H_cycles=2, L_cycles=3, **SMALL),
        ModelConfig("trm", 9, 7, 1, H_cycles=3, L_cycles=2, **SMALL),
        ModelConfig("hrm", 9, 7, 1, H_cycles=2, L_cycles=2, H_layers=3, L_layers=2, **SMALL),
    ],
    ids=["trm_mlp", "trm_att", "hrm"],
)
def test_matrix_products_of_a_step_match_the_closed_form(config: ModelConfig) -> None:
    model = build_model(config)
    batch_size = 3
    embeddings = model.embed(
        torch.ones(batch_size, 9, dtype=torch.int32), torch.zeros(batch_size, dtype=torch.int32)
    )
    state = model.initial_state(batch_size)
    step = model.supervision_step(embeddings)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        step(RecurrentState(*state))
    expected = batch_size * step_flops(config, training=False)
    if not config.mlp_t:
        blocks = (
            config.L_layers * config.H_cycles * config.L_cycles + config.H_layers * config.H_cycles
            if config.kind == "hrm"
            else config.L_layers * config.H_cycles * (config.L_cycles + 1)
        )
        attention = 4 * config.total_len * config.hidden_size * config.total_len
        expected -= batch_size * blocks * attention
    assert counter.get_total_flops() == expected


def test_training_costs_of_the_published_models() -> None:
    """TRM-att: n(H+2)(L+1) block passes; HRM with L=H=2: 64 (forward 24, backward 16, target 24)."""
    forward = step_flops(MODELS["trm_att"], training=False) / (2 * 3 * 7)
    assert step_flops(MODELS["trm_att"], training=True) / forward == pytest.approx(2 * (3 + 2) * (6 + 1))
    forward = step_flops(MODELS["hrm"], training=False) / 24
    assert step_flops(MODELS["hrm"], training=True) / forward == pytest.approx(64)
