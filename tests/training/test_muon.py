"""Muon and AdamW as one optimizer: each part is torch's own, and the whole survives saving."""

import io

import pytest
import torch
from torch import Tensor

from models.recursive_model import RecursiveModel
from tests.models.small import ARCHITECTURES, small_model
from training.optim import MuonAdamW, assert_ownership, dense_optimizer, muon_adamw


def model_of(name: str) -> RecursiveModel:
    return small_model(name, dtype=torch.float32)


def optimizer_of(model: RecursiveModel, lr: float = 0.01) -> MuonAdamW:
    made = dense_optimizer("muon", model, lr, (0.8, 0.9), 0.3)
    assert isinstance(made, MuonAdamW)
    return made


def give_gradients(model: RecursiveModel, step: int) -> None:
    for index, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(1000 * index + step)
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def train(model: RecursiveModel, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        give_gradients(model, step)
        optimizer.step()


def values(model: RecursiveModel) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_part_is_the_library_s(name: str) -> None:
    ours, theirs = model_of(name), model_of(name)
    optimizer = optimizer_of(ours)
    matrices = [p for n, p in theirs.named_parameters() if "_level.layers." in n and p.ndim == 2]
    others = [p for n, p in theirs.named_parameters() if "_level.layers." not in n or p.ndim != 2]
    muon = torch.optim.Muon(matrices, 0.01, 0.3, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, 0.01, (0.8, 0.9), weight_decay=0.3)
    for step in range(4):
        rate = 0.01 / (step + 1)
        for group in [*optimizer.param_groups, *muon.param_groups, *adamw.param_groups]:
            group["lr"] = rate
        give_gradients(ours, step)
        give_gradients(theirs, step)
        for each in (optimizer, muon, adamw):
            each.step()
    for mine, other in zip(values(ours), values(theirs), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_has_one_owner_and_heads_go_to_adamw(name: str) -> None:
    model = model_of(name)
    optimizer = optimizer_of(model)
    assert_ownership(model, [optimizer])
    train(model, optimizer, range(1))
    by_kind = {n: set(optimizer.state[p]) for n, p in model.named_parameters()}
    assert by_kind["lm_head.weight"] == by_kind["embed_tokens.embedding_weight"] == {"step", "exp_avg", "exp_avg_sq"}
    # The token matrices of SRM are a stack of matrices, which Muon does not take.
    in_layers = {n: kept for n, kept in by_kind.items() if ".layers." in n and "token_mixing" not in n}
    assert in_layers and all(kept == {"momentum_buffer"} for kept in in_layers.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saved_and_loaded_it_goes_on_bit_for_bit(name: str) -> None:
    model = model_of(name)
    optimizer = optimizer_of(model)
    train(model, optimizer, range(3))
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    train(model, optimizer, range(3, 6))
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    again = model_of(name)
    again.load_state_dict(state["model"])
    resumed = optimizer_of(again, lr=0.5)
    resumed.load_state_dict(state["optimizer"])
    train(again, resumed, range(3, 6))
    for mine, other in zip(values(model), values(again), strict=True):
        assert torch.equal(mine, other)


def test_an_update_of_a_matrix_has_the_size_of_adamw_s() -> None:
    """0.2 x the root of the larger side, whatever the gradient's size."""
    model = model_of("trm-att")
    optimizer = muon_adamw(model, 1e-3, (0.9, 0.95), 0.0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    give_gradients(model, 0)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad *= 1e3
    optimizer.step()
    for name, parameter in model.named_parameters():
        if ".layers." in name:
            moved = (parameter.detach() - before[name]).square().mean().sqrt()
            assert 0.5 * 0.2e-3 < moved < 1.5 * 0.2e-3
