"""Layers and states in the dtypes they are asked for."""

import pytest
import torch

from models.act import act_step, initial_carry
from models.layers import rms_norm, rotary_table
from models.losses import act_loss
from tests.models.small import ARCHITECTURES, small_batch, small_model

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("state_dtype", [None, *DTYPES], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_training_step_runs(name: str, dtype: torch.dtype, state_dtype: torch.dtype | None) -> None:
    wide = torch.promote_types(dtype, torch.float32)
    if name == "srm" and state_dtype == torch.bfloat16:
        with pytest.raises(ValueError, match="state_dtype float32"):
            small_model(name, dtype=dtype, state_dtype=state_dtype)
        return
    model = small_model(name, dtype=dtype, state_dtype=state_dtype).train()
    batch = small_batch()
    carry, outputs = act_step(model, initial_carry(model, batch), batch, training=True)
    assert carry["z_H"].dtype == carry["z_L"].dtype == (state_dtype or (wide if name == "srm" else dtype))
    assert outputs["logits"].dtype == dtype and outputs["q_halt_logits"].dtype == torch.float32
    loss, _ = act_loss(outputs, carry["labels"], carry["halted"], carry["steps"], "stablemax_cross_entropy")
    loss.backward()
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    for parameter in model.parameters():
        assert parameter.dtype == expected
        assert parameter.grad is not None and parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_wide_states_keep_what_narrow_layers_would_lose(name: str) -> None:
    """A perturbation of 1e-5 of the state survives one sub-update in float32 states, bfloat16 layers."""
    model = small_model(name, dtype=torch.bfloat16, state_dtype=torch.float32).eval()
    batch = small_batch()
    embeddings = model.embed(batch)
    state = model.initial_state(4)
    update = model.supervision_step(embeddings).sub_updates[0]
    plain = update(state).z_L
    noise = 1e-5 * torch.randn(plain.shape, generator=torch.Generator().manual_seed(0))
    moved = update(state._replace(z_L=state.z_L + noise)).z_L
    assert plain.dtype == torch.float32
    assert ((moved - plain) != 0).float().mean() > 0.9
    assert 1e-7 < (moved - plain).abs().mean() < 1e-2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_narrower_layers_approximate_wider_ones(name: str) -> None:
    batch = small_batch()
    logits = {}
    for dtype in DTYPES:
        model = small_model(name, dtype=dtype, H_cycles=1, L_cycles=1).eval()
        logits[dtype] = act_step(model, initial_carry(model, batch), batch, training=False)[1]["logits"].double()
    # The draws of float64 and float32 weights differ, so only the two float32 models are comparable.
    difference = (logits[torch.float32] - logits[torch.bfloat16]).norm() / logits[torch.float32].norm()
    assert 1e-4 < difference < 0.05


def test_norm_statistics_are_at_least_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 64, generator=generator, dtype=torch.float64)
    exact = x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(rms_norm(x, 1e-5), exact, rtol=1e-14, atol=1e-14)
    narrow = x.bfloat16()
    wide = narrow.double() / (narrow.double().square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    assert torch.equal(rms_norm(narrow, 1e-5), wide.float().bfloat16())


def test_rotary_table_is_exact_in_float64() -> None:
    cos, sin = rotary_table(40, 8, 10000.0, torch.float64, torch.device("cpu"))
    assert cos.shape == sin.shape == (40, 8) and cos.dtype == torch.float64
    angle = 39 * 10000.0 ** (-2 / 8)
    assert cos[39, 1].item() == pytest.approx(torch.tensor(angle, dtype=torch.float64).cos().item(), abs=1e-14)
    assert torch.equal(cos[:, :4], cos[:, 4:])
    narrow, _ = rotary_table(40, 8, 10000.0, torch.bfloat16, torch.device("cpu"))
    assert narrow.dtype == torch.float32
