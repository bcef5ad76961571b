"""A network or a batch that cannot fit is refused before it is built; what can fit never is."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import training.memory_need as memory_need
from errors import UserError
from models.config import ModelConfig
from models.registry import MODELS, build_model, count_parameters
from options import MOST_CHANNELS, MOST_LAYERS, MOST_REPEATS, MOST_ROWS
from tests.helpers import tiny_config, train_here
from training.memory_need import memory_of, require_memory
from training.settings.identity import config_to_dict
from training.settings.resolving import load_config_file

CPU = torch.device("cpu")


def shape_of(kind: str, **changes: Any) -> ModelConfig:
    config = MODELS[kind].Config
    layers = {"H_layers": 2} if kind == "hrm" else {}
    data = {"seq_len": 20, "vocab_size": 11, "num_puzzle_identifiers": 3}
    return config(**({"kind": kind, "hidden_size": 64, "num_heads": 4, "L_layers": 2} | data | layers | changes))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"expansion": 0.1, "swiglu_multiple": 1}, {"swiglu_multiple": 1024}, {"seq_len": 300}, {"L_layers": 9},
     {"num_puzzle_identifiers": 5000}, {"vocab_size": 3000}],
)  # fmt: skip
def test_the_rough_count_is_never_below_the_network(kind: str, changes: dict[str, Any]) -> None:
    shape = shape_of(kind, **changes)
    model = build_model(shape)
    held = count_parameters(model) + sum(buffer.numel() for buffer in model.buffers())
    assert memory_need._at_most(shape) >= held


@pytest.mark.parametrize("kind", MODELS)
def test_the_exact_count_is_that_of_the_built_network(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_need, "_SURELY_FITS", 0)
    shape = shape_of(kind)
    model = build_model(shape)
    weights = 4 * count_parameters(model)
    beside = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    before = torch.get_rng_state()
    batch = 7 * (2 * shape.total_len * 64 * 4 + 20 * 11 * 4)
    monkeypatch.setattr(memory_need, "memory_of", lambda device: 3 * weights + beside + batch)
    require_memory(shape, CPU, copies=3, rows=7)
    monkeypatch.setattr(memory_need, "memory_of", lambda device: 3 * weights + beside + batch - 1)
    with pytest.raises(UserError, match="GiB for the network in 3 copies.*for a batch of 7 rows.*cpu has"):
        require_memory(shape, CPU, copies=3, rows=7)
    assert torch.equal(torch.get_rng_state(), before), "counting draws no number"


def test_a_tiny_network_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_need, "build_model", None)
    require_memory(shape_of("trm"), CPU, copies=5, rows=100)


def test_the_memory_there_is_that_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = memory_of(CPU)
    assert there is not None and there >= 1 << 28
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory_need, "_CGROUP_LIMITS", (tmp_path / "none", limit))
    for text, expected in (("max\n", None), ("1000000\n", 1_000_000)):
        limit.write_text(text)
        found = memory_of(CPU)
        assert found == expected if expected else found is not None and found > 1 << 28


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (f"arch.hidden_size={MOST_CHANNELS}", "GiB for the network"),
        (f"arch.L_layers={MOST_LAYERS + 1}", "L_layers"),
        ("arch.L_layers=1000000000", "L_layers"),
        ("arch.H_cycles=999999999999", "H_cycles"),
        (f"arch.halt_max_steps={MOST_REPEATS + 1}", "halt_max_steps"),
        (f"global_batch_size={MOST_ROWS + 1}", "global_batch_size"),
        ("eval.vote.views=999999999999", "eval.vote.views"),
        ("threads=100000", "threads"),
    ],
)
def test_a_run_of_that_size_is_one_line(sudoku6_folder: Path, tmp_path: Path, option: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        train_here("trm_att", sudoku6_folder, tmp_path / "run", [option, "arch.swiglu_multiple=256"])
    assert not (tmp_path / "run").exists()


def test_a_size_in_a_file_is_refused_as_on_a_command_line(sudoku6_folder: Path, tmp_path: Path) -> None:
    plain = config_to_dict(tiny_config("trm_att", sudoku6_folder, tmp_path))
    path = tmp_path / "all_config.yaml"
    for layers, fits in ((2, True), (1_000_000_000, False)):
        plain["arch"]["L_layers"] = layers
        path.write_text(yaml.safe_dump(plain))
        if fits:
            assert load_config_file(path).arch.L_layers == 2
        else:
            with pytest.raises(UserError, match="L_layers.*1000000000.*1024"):
                load_config_file(path)
