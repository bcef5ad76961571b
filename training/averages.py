"""Averages of the trained weights, each as a second network for evaluation."""

import copy
from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

PUZZLE_TABLE = "puzzle_emb.weights"
Model = TypeVar("Model", bound=nn.Module)


class Average(Generic[Model]):
    """Base: `model`, a copy of the network whose parameters are an average of its own, starting at the present ones.

    Args:
        model: the trained network. owned: modules trained beside it, by name, averaged alike.
        with_table: average the puzzle table too, in a copy of its own. Otherwise the copy has the network's own
            buffers: the table can be gigabytes and is not averaged officially.
    """

    def __init__(self, model: Model, owned: Mapping[str, nn.Module] | None = None, *, with_table: bool = False) -> None:
        own = {PUZZLE_TABLE} if with_table else set()
        shared = {id(buffer): buffer for name, buffer in model.named_buffers() if name not in own}
        self.model = copy.deepcopy(model, memo=shared)
        self.owned = {name: copy.deepcopy(module) for name, module in (owned or {}).items()}
        copies: list[nn.Module] = [self.model, *self.owned.values()]
        for module in copies:
            module.requires_grad_(False)
            module.eval()
        self._source = _named_weights(model, owned or {}, own)
        self._averaged = _named_weights(self.model, self.owned, own)

    @property
    def ready(self) -> bool:
        """Whether it is an average of anything yet."""
        return True

    def update(self) -> None:
        """An update has been made. Here: the average takes no notice."""

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights by name; of owned modules with the module's name in front."""
        return {name: weights.detach() for name, weights in self._averaged.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self._averaged.keys() != state.keys():
            raise ValueError(f"average of other parameters: {sorted(self._averaged.keys() ^ state.keys())[:4]}")
        for name, weights in self._averaged.items():
            weights.copy_(state[name])

    def restart(self) -> None:
        """Begin anew at the trained weights as they are."""
        self.load_state_dict(self._source)


class EMA(Average[Model]):
    """shadow <- decay * shadow + (1 - decay) * parameter after every update, starting at the initial weights."""

    def __init__(self, model: Model, decay: float, owned: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(model, owned)
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        self._average(list(self._averaged.values()), list(self._source.values()), None)


class MeanOfSamples(Average[Model]):
    """The arithmetic mean of the weights at the moments at which `sample` was called, puzzle table included."""

    def __init__(self, model: Model, owned: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(model, owned, with_table=True)
        self.samples = 0

    @property
    def ready(self) -> bool:
        return self.samples > 0

    @torch.no_grad()
    def sample(self) -> None:
        self.samples += 1
        for name, weights in self._averaged.items():
            weights.lerp_(self._source[name].detach(), 1 / self.samples)


def named_parameters(model: nn.Module, owned: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Those of a network and of modules trained beside it, whose own have the module's name in front."""
    named = dict(model.named_parameters())
    for name, module in owned.items():
        named |= {f"{name}/{key}": parameter for key, parameter in module.named_parameters()}
    return named


def _named_weights(model: nn.Module, owned: Mapping[str, nn.Module], buffers: Collection[str]) -> dict[str, Tensor]:
    averaged_buffers = {name: buffer for name, buffer in model.named_buffers() if name in buffers}
    return {**named_parameters(model, owned), **averaged_buffers}
