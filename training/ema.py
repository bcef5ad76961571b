"""Exponential moving average of the parameters, as a second model that shares the buffers."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Model = TypeVar("Model", bound=nn.Module)


class EMA(Generic[Model]):
    """shadow <- decay * shadow + (1 - decay) * parameter after every update, starting at the initial weights.

    `model` is a full copy for evaluation whose parameters are the shadow and whose buffers (puzzle table,
    initial states) are the trained model's own: the table can be gigabytes and is not averaged, as officially.
    """

    def __init__(self, model: Model, decay: float) -> None:
        shared = {id(buffer): buffer for buffer in model.buffers()}
        self.model = copy.deepcopy(model, memo=shared)
        self.model.requires_grad_(False)
        self.model.eval()
        self._source = model
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        self._average(list(self.model.parameters()), list(self._source.parameters()), None)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The shadow parameters by name."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        parameters = dict(self.model.named_parameters())
        if parameters.keys() != state.keys():
            raise ValueError(f"EMA of other parameters: {sorted(parameters.keys() ^ state.keys())[:4]}")
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
