"""Every trained parameter gets a gradient, eager and compiled alike; no optimizer forgets one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.act import act_step, initial_carry
from models.losses import act_loss
from models.recursive_model import RecursiveModel
from models.registry import build_model
from tests.models.small import ARCHITECTURES, small_batch, small_config, small_model
from training.averages import EMA
from training.optim import assert_ownership, dense_optimizer, merge_gathers


def gradients(model: RecursiveModel, num_steps: int = 1) -> dict[str, Tensor]:
    """Gradients after `num_steps` training steps; `puzzle_emb_rows` are those of the gathered rows."""
    model.train()
    batch = small_batch(8, vocab_size=model.config.vocab_size)
    carry = initial_carry(model, batch)
    for _ in range(num_steps):
        carry, outputs = act_step(model, carry, batch, training=True)
        loss, _ = act_loss(outputs, carry["labels"], carry["halted"], carry["steps"], "stablemax_cross_entropy")
        loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if model.puzzle_emb is not None:
        merged = merge_gathers(model.puzzle_emb.take_gathers())
        assert merged is not None
        found["puzzle_emb_rows"] = merged[1]
    return found


POSITIONS: list[dict[str, Any]] = [{}, {"pos_encodings": "learned"}, {"puzzle_emb_ndim": 0}]


@pytest.mark.parametrize("change", POSITIONS, ids=["default", "learned", "no-table"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_has_a_gradient_after_one_step(name: str, change: dict[str, Any]) -> None:
    model = small_model(name, **change)
    found = gradients(model)
    parameters = dict(model.named_parameters())
    assert parameters.keys() <= found.keys()
    for key, gradient in found.items():
        assert gradient.isfinite().all() and gradient.norm() > 1e-8, key
        if key == "q_head.weight" or key == "q_head.bias":
            # Without Q-learning nothing reads the continue value: its row is the one thing without gradient.
            assert (gradient[1] == 0).all() == model.config.no_ACT_continue
            assert (gradient[0] != 0).any()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_at_initialisation_too(name: str) -> None:
    """The halting head and the puzzle table start at zero; both are reached all the same."""
    model = build_model(small_config(name))
    found = gradients(model)
    for key in ("q_head.weight", "puzzle_emb_rows", "lm_head.weight", "embed_tokens.embedding_weight"):
        assert found[key].norm() > 1e-10, key


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_compiled_gradients_are_the_eager_ones(name: str) -> None:
    """Over two steps, gradient-free and differentiated calls of one compiled stack."""
    eager = gradients(small_model(name), num_steps=2)
    compiled_model = small_model(name)
    compiled_model.compile_stacks(backend="aot_eager")
    compiled = gradients(compiled_model, num_steps=2)
    assert compiled.keys() == eager.keys()
    for key in eager:
        torch.testing.assert_close(compiled[key], eager[key], rtol=1e-9, atol=1e-11, msg=key)
    names = set(small_model(name).state_dict())
    assert set(compiled_model.state_dict()) == names


@pytest.mark.parametrize("optimizer", ["adam_atan2", "adamw"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_owner_per_parameter_and_all_are_averaged(name: str, optimizer: str) -> None:
    model = small_model(name)
    dense = dense_optimizer(optimizer, model, 1e-3, (0.9, 0.95), 0.1)
    assert_ownership(model, [dense])
    owned = [id(p) for group in dense.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    assert EMA(model, 0.9).state_dict().keys() == dict(model.named_parameters()).keys()


def _drop(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    optimizer.param_groups[0]["params"].pop(3)
    return [optimizer]


def _double(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    return [optimizer, torch.optim.SGD([next(model.parameters())], lr=0.1)]


def _repeat(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    optimizer.param_groups[0]["params"].append(optimizer.param_groups[0]["params"][0])
    return [optimizer]


def _foreign(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    return [optimizer]


def _replaced(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """What `.to()` of a new parameter after building the optimizer does: the model trains a stale copy."""
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())  # type: ignore[union-attr]
    return [optimizer]


def _frozen(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    next(model.parameters()).requires_grad_(False)
    return [optimizer]


FAULTS = [_drop, _double, _repeat, _foreign, _replaced, _frozen]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_of_ownership_are_found(
    fault: Callable[[nn.Module, torch.optim.Optimizer], list[torch.optim.Optimizer]],
) -> None:
    model = small_model("trm-att")
    optimizer = dense_optimizer("adam_atan2", model, 1e-3, (0.9, 0.95), 0.1)
    assert_ownership(model, [optimizer])
    with pytest.raises(AssertionError, match="ownership"):
        assert_ownership(model, fault(model, optimizer))
