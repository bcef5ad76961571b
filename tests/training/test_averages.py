"""The average of the parameters: closed form, shared buffers, evaluation, state."""

import pytest
import torch

from models.act import act_step, initial_carry
from models.recursive_model import RecursiveModel
from tests.models.small import ARCHITECTURES, small_batch, small_model
from training.averages import EMA
from training.inference.fixed import OfficialInference


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> RecursiveModel:
    return small_model(request.param)


def move(model: RecursiveModel, step: int) -> None:
    """Another set of parameters at every step."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def test_closed_form_over_twenty_updates(model: RecursiveModel) -> None:
    """shadow_T = d^T p_0 + (1-d) sum_t d^(T-t) p_t: starting at the initial weights, no bias correction."""
    decay, updates = 0.9, 20
    ema = EMA(model, decay)
    expected = {name: decay**updates * p.detach().clone() for name, p in model.named_parameters()}
    for t in range(1, updates + 1):
        move(model, t)
        ema.update()
        for name, parameter in model.named_parameters():
            expected[name] += (1 - decay) * decay ** (updates - t) * parameter.detach()
    assert expected.keys() == ema.state_dict().keys()
    for name, shadow in ema.state_dict().items():
        torch.testing.assert_close(shadow, expected[name], rtol=1e-12, atol=1e-12)


def test_starts_as_the_model_itself(model: RecursiveModel) -> None:
    ema = EMA(model, 0.9)
    for name, shadow in ema.state_dict().items():
        parameter = dict(model.named_parameters())[name]
        assert torch.equal(shadow, parameter) and shadow.data_ptr() != parameter.data_ptr()


def test_buffers_are_the_models_own(model: RecursiveModel) -> None:
    """The puzzle table is trained in place and can be gigabytes: no copy, no average."""
    ema = EMA(model, 0.9)
    mine, theirs = dict(model.named_buffers()), dict(ema.model.named_buffers())
    assert mine.keys() == theirs.keys() == {"H_init", "L_init", "puzzle_emb.weights"}
    for name, buffer in mine.items():
        assert buffer.data_ptr() == theirs[name].data_ptr()
    assert model.puzzle_emb is not None
    model.puzzle_emb.weights.add_(1)
    assert torch.equal(theirs["puzzle_emb.weights"], model.puzzle_emb.weights)


def test_the_average_has_no_gradients_and_stays_in_evaluation(model: RecursiveModel) -> None:
    model.train()
    ema = EMA(model, 0.9)
    assert not ema.model.training and model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    batch = small_batch()
    ema.model.train()  # even then nothing is recorded while evaluating
    OfficialInference().predict(ema.model, batch)
    assert ema.model.puzzle_emb is not None and ema.model.puzzle_emb.take_gathers() == []


def test_evaluation_of_equal_weights_is_bit_identical(model: RecursiveModel) -> None:
    ema = EMA(model, 0.9)
    batch = small_batch()
    mine = OfficialInference().predict(model.eval(), batch)
    theirs = OfficialInference().predict(ema.model, batch)
    assert torch.equal(mine.logits, theirs.logits) and torch.equal(mine.q_halt, theirs.q_halt)


def test_evaluation_equals_a_model_loaded_with_the_average(model: RecursiveModel) -> None:
    ema = EMA(model, 0.5)
    move(model, 1)
    ema.update()
    loaded = small_model_like(model)
    loaded.load_state_dict(ema.model.state_dict())
    batch = small_batch()
    carry, outputs = act_step(loaded.eval(), initial_carry(loaded, batch), batch, training=False)
    _, averaged = act_step(ema.model, initial_carry(ema.model, batch), batch, training=False)
    assert torch.equal(outputs["logits"], averaged["logits"])
    _, raw = act_step(model.eval(), initial_carry(model, batch), batch, training=False)
    assert not torch.equal(outputs["logits"], raw["logits"])


def small_model_like(model: RecursiveModel) -> RecursiveModel:
    return type(model)(model.config, torch.Generator().manual_seed(99))


def test_state_round_trip_is_bitwise(model: RecursiveModel) -> None:
    ema = EMA(model, 0.9)
    move(model, 1)
    ema.update()
    saved = {name: value.clone() for name, value in ema.state_dict().items()}
    other = EMA(model, 0.9)
    other.load_state_dict(saved)
    for average in (ema, other):
        assert average.state_dict().keys() == saved.keys()
    move(model, 2)
    ema.update()
    other.update()
    for name, value in ema.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]) and not torch.equal(value, saved[name])


def test_the_state_of_another_model_is_refused() -> None:
    ema = EMA(small_model("trm-att"), 0.9)
    with pytest.raises(ValueError, match="average of other parameters"):
        ema.load_state_dict(EMA(small_model("hrm"), 0.9).state_dict())


def test_a_compiled_copy_still_shares_buffers() -> None:
    model = small_model("trm-att")
    ema = EMA(model, 0.9)
    ema.model.compile_stacks(backend="eager")
    assert ema.model.H_init.data_ptr() == model.H_init.data_ptr()
    assert ema.state_dict().keys() == dict(model.named_parameters()).keys()
