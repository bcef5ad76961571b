"""Models against the second implementation: states, logits, gradients, losses, halting over several steps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.act import act_step, initial_carry
from models.registry import build_model, config_from_official
from scripts.check_parity import check_file, golden_model
from tests.models import reference_model as reference
from tests.models.golden_files import OPTIONS, golden_arrays, random_batch, write_golden

SOFTMAX = {"loss": "softmax_cross_entropy"}
LEARNED = {"pos_encodings": "learned"}
TOKENS = {"mlp_t": True, "pos_encodings": "none"}
Q_LEARNING = {"no_ACT_continue": False}

GRID: dict[str, dict[str, Any]] = {
    "trm": {},
    "trm-sixteen-slots": {"puzzle_emb_len": 16},
    "trm-one-slot": {"puzzle_emb_len": 1},
    "trm-learned": LEARNED | {"puzzle_emb_len": 2},
    "trm-no-positions": {"pos_encodings": "none", "puzzle_emb_len": 3},
    "trm-softmax": SOFTMAX | {"puzzle_emb_len": 2},
    "trm-q-learning": Q_LEARNING | {"puzzle_emb_len": 1},
    "trm-q-learning-softmax-learned": Q_LEARNING | SOFTMAX | LEARNED | {"puzzle_emb_len": 1},
    "trm-tokens": TOKENS | {"puzzle_emb_len": 2},
    "trm-tokens-rope-named": {"mlp_t": True, "pos_encodings": "rope", "puzzle_emb_len": 2},
    "trm-tokens-learned": TOKENS | LEARNED | {"puzzle_emb_len": 1},
    "trm-tokens-heads-do-not-divide": TOKENS | {"num_heads": 3, "puzzle_emb_len": 1},
    "trm-no-table": {"puzzle_emb_ndim": 0, "puzzle_emb_len": 0},
    "trm-narrow-row": {"puzzle_emb_ndim": 5, "puzzle_emb_len": 2},
    "trm-wide-row": {"puzzle_emb_ndim": 40, "puzzle_emb_len": 0},
    "trm-wide-row-exact": {"puzzle_emb_ndim": 48, "puzzle_emb_len": 3},
    "trm-cycles-1-1": {"H_cycles": 1, "L_cycles": 1},
    "trm-cycles-3-6": {"H_cycles": 3, "L_cycles": 6, "puzzle_emb_len": 1},
    "trm-three-layers": {"L_layers": 3, "H_layers": 0, "puzzle_emb_len": 1},
    "trm-one-step": {"halt_max_steps": 1, "puzzle_emb_len": 1},
    "trm-q-learning-one-step": Q_LEARNING | {"halt_max_steps": 1, "puzzle_emb_len": 1},
    "trm-sixteen-steps": {"halt_max_steps": 16, "puzzle_emb_len": 1, "H_cycles": 1},
    "trm-other-constants": {"rope_theta": 50.0, "rms_norm_eps": 1e-3, "expansion": 2, "num_heads": 8},
    "hrm": {"kind": "hrm"},
    "hrm-learned": LEARNED | {"kind": "hrm"},
    "hrm-softmax-eight-cycles": SOFTMAX | LEARNED | {"kind": "hrm", "L_cycles": 8, "halt_max_steps": 8},
    "hrm-tokens": TOKENS | {"kind": "hrm"},
    "hrm-cycles-1-1": {"kind": "hrm", "H_cycles": 1, "L_cycles": 1},
    "hrm-unequal-stacks": {"kind": "hrm", "H_layers": 3, "L_layers": 1, "H_cycles": 1},
    "hrm-no-table": {"kind": "hrm", "puzzle_emb_ndim": 0},
    "hrm-wide-row": {"kind": "hrm", "puzzle_emb_ndim": 40},
    "hrm-halting-only": {"kind": "hrm", "no_ACT_continue": True, "puzzle_emb_len": 2},
    "hrm-one-row": {"kind": "hrm", "batch_size": 1},
}

# Two routes in float64 through a chaotic recursion; q is float32 by definition, and so is the softmax loss.
TIGHT = {"z_H": 1e-8, "z_L": 1e-8, "logits": 1e-8, "grad": 1e-9, "halted": 0.0, "steps": 0.0}
FLOAT32 = 2e-6


def assert_agrees(path: Path) -> None:
    largest = check_file(path)
    assert TIGHT.keys() <= largest.keys()
    for name, difference in largest.items():
        assert difference <= TIGHT.get(name, FLOAT32), f"{name} differs by {difference:g}"


@pytest.mark.parametrize("change", GRID.values(), ids=GRID.keys())
def test_agrees_with_the_reference(change: dict[str, Any], tmp_path: Path) -> None:
    assert_agrees(write_golden(tmp_path / "golden.npz", OPTIONS | change, seed=1, train_steps=6))


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2, 4]))
    size = heads * draw(st.sampled_from([2, 4, 6]))
    slots = draw(st.integers(0, 3))
    fits = (slots or 2) * size
    change: dict[str, Any] = {
        "kind": draw(st.sampled_from(["trm", "hrm"])),
        "loss": draw(st.sampled_from(["stablemax_cross_entropy", "softmax_cross_entropy"])),
        "hidden_size": size,
        "num_heads": heads,
        "seq_len": draw(st.integers(1, 5)),
        "vocab_size": draw(st.integers(2, 6)),
        "batch_size": draw(st.integers(1, 3)),
        "pos_encodings": draw(st.sampled_from(["rope", "learned", "none"])),
        "mlp_t": draw(st.booleans()),
        "no_ACT_continue": draw(st.booleans()),
        "H_cycles": draw(st.integers(1, 3)),
        "L_cycles": draw(st.integers(1, 3)),
        "H_layers": draw(st.integers(1, 2)),
        "L_layers": draw(st.integers(1, 2)),
        "expansion": draw(st.sampled_from([1, 2.5, 4])),
        "halt_max_steps": draw(st.integers(1, 5)),
    }
    ndim = draw(st.one_of(st.just(0), st.integers(1, fits)))
    return change | {"puzzle_emb_ndim": ndim, "puzzle_emb_len": slots if ndim else 0}


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(change=architectures(), seed=st.integers(0, 2**20))
def test_agrees_with_the_reference_on_drawn_architectures(
    change: dict[str, Any], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("drawn") / "golden.npz"
    assert_agrees(write_golden(path, OPTIONS | change, seed=seed, train_steps=3))


@pytest.mark.parametrize("kind", ["trm", "hrm"])
def test_exploration_and_new_rows_agree_over_a_stream(kind: str) -> None:
    """A stream of batches with minimum steps: slots restart at different times with the new batch's rows."""
    options = OPTIONS | {"kind": kind, "batch_size": 6, "halt_max_steps": 5}
    model = golden_model(options, golden_arrays(options, seed=2, train_steps=0), Path("stream"))
    model.train()
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    complete = reference.complete(options)
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(options, generator)
    mine, theirs = initial_carry(model, batch), reference.fresh_carry(complete, batch)
    restarts = []
    for _ in range(12):
        batch = random_batch(options, generator)
        minimum = torch.randint(0, 6, (6,), generator=generator, dtype=torch.int32)
        mine, _ = act_step(model, mine, batch, training=True, min_halt_steps=minimum)
        theirs, _, _ = reference.act_step(weights, complete, theirs, batch, True, minimum)
        for key in ("steps", "halted", "inputs", "labels", "puzzle_identifiers"):
            assert torch.equal(mine[key].long(), theirs[key].long()), key
        torch.testing.assert_close(mine["z_H"], theirs["z_H"], rtol=0, atol=1e-7)
        restarts.append(mine["halted"].sum().item())
    assert 0 < sum(restarts) < 72 and len(set(restarts)) > 1


@pytest.mark.parametrize("change", GRID.values(), ids=GRID.keys())
def test_state_dict_keys_and_shapes(change: dict[str, Any]) -> None:
    options = OPTIONS | change
    state = build_model(config_from_official(options)).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == reference.weight_shapes(options)
