"""Parameter counts, widths and names of the published architectures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.config import ModelConfig
from models.hrm import HRMConfig
from models.registry import build_model, config_from_official, count_parameters
from training.storage.weights import strip_prefixes

TRM = ModelConfig(kind="trm", seq_len=81, vocab_size=11, num_puzzle_identifiers=1)
TRM_MLP = replace(TRM, mlp_t=True, pos_encodings="none")
HRM = HRMConfig(
    "hrm", 81, 11, 1, puzzle_emb_len=0, H_layers=4, L_layers=4, H_cycles=2, L_cycles=2, no_ACT_continue=False
)
TASKS = {"sudoku": (81, 11), "maze": (900, 6), "arc": (900, 12)}
PUBLISHED = {
    "trm-att": (TRM, {"sudoku": 6_828_034, "maze": 6_822_914, "arc": 6_829_058}),
    "trm-mlp": (TRM_MLP, {"sudoku": 5_028_866, "maze": 18_795_522, "arc": 18_801_666}),
    "hrm": (HRM, {"sudoku": 27_275_266, "maze": 27_270_146, "arc": 27_276_290}),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str, task: str) -> None:
    base, counts = PUBLISHED[name]
    seq_len, vocab_size = TASKS[task]
    with torch.device("meta"):
        model = build_model(replace(base, seq_len=seq_len, vocab_size=vocab_size))
    assert count_parameters(model) == counts[task]


def test_the_puzzle_table_is_not_counted() -> None:
    with torch.device("meta"):
        few, many = (build_model(replace(TRM, num_puzzle_identifiers=n)) for n in (1, 1000))
    assert count_parameters(few) == count_parameters(many)
    assert many.state_dict()["puzzle_emb.weights"].shape == (1000, 512)


def test_the_small_preset_has_its_documented_count() -> None:
    small = ModelConfig(
        kind="trm", seq_len=36, vocab_size=8, num_puzzle_identifiers=1, hidden_size=96, num_heads=4,
        expansion=2, swiglu_multiple=1, puzzle_emb_ndim=96, puzzle_emb_len=1,
    )  # fmt: skip
    assert count_parameters(build_model(small)) == 149_186


@pytest.mark.parametrize(
    ("size", "expansion", "multiple", "width"),
    [(512, 4, 256, 1536), (97, 4, 256, 512), (916, 4, 256, 2560), (96, 2, 1, 128), (96, 2, 256, 256)],
)
def test_swiglu_widths(size: int, expansion: float, multiple: int, width: int) -> None:
    assert replace(TRM, expansion=expansion, swiglu_multiple=multiple).swiglu_width(size) == width


@pytest.mark.parametrize(
    ("config", "prefix", "total"),
    [
        (TRM, 16, 97),
        (HRM, 1, 82),
        (replace(TRM, puzzle_emb_ndim=0), 0, 81),
        (replace(TRM, puzzle_emb_ndim=513, puzzle_emb_len=0), 2, 83),
    ],
)
def test_prefix_lengths(config: ModelConfig, prefix: int, total: int) -> None:
    assert (config.prefix_len, config.total_len) == (prefix, total)


@pytest.mark.parametrize("name", ["trm_att", "trm_mlp_t", "hrm"])
def test_state_dict_is_the_official_one(name: str) -> None:
    with np.load(Path(__file__).parents[1] / "golden" / f"{name}.npz", allow_pickle=False) as file:
        options = json.loads(str(file["config"]))
        official = {strip_prefixes(key[3:]): file[key].shape for key in file.files if key.startswith("sd/")}
    model = build_model(config_from_official(options))
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == official
    assert {name for name, _ in model.named_buffers()} == {"H_init", "L_init", "puzzle_emb.weights"}


def test_learned_positions_carry_the_official_name() -> None:
    model = build_model(replace(TRM, hidden_size=16, num_heads=2, puzzle_emb_ndim=16, pos_encodings="learned"))
    assert dict(model.named_parameters())["embed_pos.embedding_weight"].shape == (97, 16)


OFFICIAL: dict[str, Any] = {
    "batch_size": 768, "seq_len": 81, "puzzle_emb_ndim": 512, "num_puzzle_identifiers": 1, "vocab_size": 11,
    "H_cycles": 3, "L_cycles": 6, "H_layers": 0, "L_layers": 2, "hidden_size": 512, "expansion": 4,
    "num_heads": 8, "pos_encodings": "rope", "halt_max_steps": 16, "halt_exploration_prob": 0.1,
}  # fmt: skip


def test_official_options_are_understood() -> None:
    options = OFFICIAL | {"kind": "trm", "puzzle_emb_len": 16, "mlp_t": False, "no_ACT_continue": True}
    assert config_from_official(options) == TRM
    assert config_from_official(OFFICIAL | {"kind": "trm"}) == TRM


def test_hrm_options_lack_what_only_trm_has() -> None:
    options = OFFICIAL | {"kind": "hrm", "H_layers": 4, "L_layers": 4, "H_cycles": 2, "L_cycles": 2}
    assert config_from_official(options) == HRM


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16"])
def test_forward_dtype_names_the_dtype(name: str) -> None:
    config = config_from_official(OFFICIAL | {"kind": "trm", "forward_dtype": name})
    assert config.dtype == getattr(torch, name)
    assert config.param_dtype == (torch.float64 if name == "float64" else torch.float32)
    assert config_from_official(OFFICIAL | {"kind": "trm", "forward_dtype": name}, dtype=torch.float64).dtype == (
        torch.float64
    )


def test_names_of_classes_and_losses_are_passed_over() -> None:
    extra = {"kind": "trm", "name": "recursive_reasoning.trm@X", "loss": {"name": "losses@ACTLossHead"}}
    assert config_from_official(OFFICIAL | extra) == TRM


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "mlp"},
        {"num_heads": 5},
        {"num_heads": 512},
        {"puzzle_emb_ndim": 513, "puzzle_emb_len": 1},
        {"forward_dtype": "int8"},
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        config_from_official(OFFICIAL | {"kind": "trm"} | change)


def test_same_seed_same_weights() -> None:
    config = replace(TRM, hidden_size=16, num_heads=2, puzzle_emb_ndim=16)
    first, again, other = (build_model(config, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_initial_weights_have_the_documented_spread() -> None:
    model = build_model(replace(TRM, vocab_size=1000, L_layers=1))
    state = model.state_dict()
    for name, fan_in in (("L_level.layers.0.mlp.down_proj.weight", 1536), ("lm_head.weight", 512)):
        assert state[name].std().item() == pytest.approx(fan_in**-0.5, rel=0.01)
        # Truncation at two raw sigma; the raw sigma is the target over 0.8796.
        assert state[name].abs().max().item() == pytest.approx(2 / 0.8796 * fan_in**-0.5, rel=0.01)
    tokens, ids = torch.arange(1000)[:81][None], torch.zeros(1, dtype=torch.int32)
    embeddings = model.embed({"inputs": tokens, "puzzle_identifiers": ids})
    assert embeddings[:, 16:].std().item() == pytest.approx(1, rel=0.02)
    assert embeddings[:, :16].abs().max().item() == 0
    assert state["q_head.weight"].abs().max() == 0 and (state["q_head.bias"] == -5).all()
    assert 0.9 < state["H_init"].std() < 1.1 and state["puzzle_emb.weights"].abs().max() == 0
