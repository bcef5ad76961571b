"""Small SRMs, also with weights of any size, states, inputs, and the largest stretching of a map at a state."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.recursion import RecurrentState
from models.srm import StableRecursionModel
from models.weighted_norm import in_metric
from tests.models.small import small_model


def srm(seed: int = 0, **changes: object) -> StableRecursionModel:
    model = small_model("srm", seed, **changes).eval()
    assert isinstance(model, StableRecursionModel)
    return model


def rescaled(model: StableRecursionModel, seed: int) -> StableRecursionModel:
    """Each parameter anew at random and times 1, 10 or 100."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            factor = 10.0 ** int(torch.randint(0, 3, (), generator=generator))
            parameter.copy_(factor * torch.randn(parameter.shape, generator=generator))
    return model


def states(model: StableRecursionModel, rows: int, seed: int, size: float = 1.0) -> RecurrentState:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, model.config.total_len, model.config.hidden_size)
    return RecurrentState(*(size * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)))


def inputs(model: StableRecursionModel, rows: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, model.config.total_len, model.config.hidden_size, generator=generator, dtype=torch.float64)


def one_application(model: StableRecursionModel, embeddings: Tensor) -> Callable[[RecurrentState], RecurrentState]:
    """In the coordinates in which the weighted norm is the Euclidean one."""
    return in_metric(model.supervision_step(embeddings).sub_updates[:1], model.metric_weights())[0]


def minus(a: RecurrentState, b: RecurrentState) -> RecurrentState:
    return RecurrentState(a.z_H - b.z_H, a.z_L - b.z_L)


def length(z: RecurrentState) -> Tensor:
    return (z.z_H.square().sum(dim=(1, 2)) + z.z_L.square().sum(dim=(1, 2))).sqrt()


def unit(z: RecurrentState) -> RecurrentState:
    size = length(z).clamp_min(1e-300)[:, None, None]
    return RecurrentState(z.z_H / size, z.z_L / size)


def largest_singular_value(
    advance: Callable[[RecurrentState], RecurrentState], at: RecurrentState, start: RecurrentState, rounds: int
) -> Tensor:
    """(B,): by power iteration on J^T J at each row, a lower bound that approaches the norm of the Jacobian."""
    direction = unit(start)
    for _ in range(rounds):
        _, pushed = torch.func.jvp(advance, (at,), (direction,))
        (pulled,) = torch.func.vjp(advance, at)[1](pushed)
        direction = unit(pulled)
    return length(torch.func.jvp(advance, (at,), (direction,))[1])
