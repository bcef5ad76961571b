"""A device without float64: `auto` finds it where it will do, it is refused where not, and no float64 reaches it."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from errors import UserError
from models.network import Network
from projects.collatz import judge as collatz_judge
from projects.collatz import setup as collatz_setup
from projects.collatz.flags import read_flags
from projects.collatz.judge import NetworkJudge
from projects.collatz.setup import build_objective, build_source, build_value
from projects.collatz.syracuse import orbit
from projects.collatz.windows import orbit_windows
from training import devices
from training.devices import resolve_device
from training.evaluation.answering import AccuracyEvaluator
from training.inference.base import Predictions
from training.objectives.base import UpdateContext
from training.settings.cli import compose_config
from training.settings.schema import TrainConfig
from training.setup import device_of


class NoFloat64(TorchDispatchMode):
    """Refuses operations that take or give float64 tensors, as MPS does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                raise TypeError(f"{func}: the device has no float64")
        return result


@pytest.fixture
def on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU, taken for a device without it."""
    for module in (devices, collatz_setup, collatz_judge):
        monkeypatch.setattr(module, "has_float64", lambda device: False)


def puzzles(*overrides: str) -> TrainConfig:
    return compose_config(["data_paths=[x]", *overrides], require_data=False)


def collatz(preset: str, *words: str) -> TrainConfig:
    request: Any = read_flags(
        ["--preset", preset, "--layers", "8,8", "--lookahead", "4", "--batch-size", "8", "--test-starts", "2", *words]
    )
    config: TrainConfig = request.config
    return config


OFFICIAL = "stablemax_cross_entropy"
NARROW = "arch.loss.loss_type=stablemax_cross_entropy_float32"


@pytest.mark.parametrize(
    ("config", "found", "refusal"),
    [
        (lambda: puzzles(NARROW), "mps", None),
        (lambda: puzzles(), "cpu", f"arch.loss.loss_type={OFFICIAL} computes ({OFFICIAL}_float32 does not)"),
        (lambda: puzzles(NARROW, "dtype=float64"), "cpu", "dtype=float64 computes"),
        (lambda: collatz("faithful"), "mps", None),
        (lambda: collatz("faithful", "--dtype", "float64"), "cpu", "dtype=float64 computes"),
        (lambda: collatz("orbit"), "cpu", "preset orbit adds ln n to V"),
    ],
)
def test_auto_finds_a_device_on_which_it_runs(config: Any, found: str, refusal: str | None, on_a_mac: None) -> None:
    settings = config()
    settings.device = "auto"
    assert device_of(settings).type == found
    settings.device = "mps"
    if refusal is None:
        assert device_of(settings).type == "mps"
        return
    with pytest.raises(UserError) as caught:
        device_of(settings)
    assert str(caught.value) == f"device=mps has no float64, in which {refusal}; use device=cpu or device=auto"


def test_answers_without_losses_need_none(on_a_mac: None) -> None:
    assert device_of(puzzles("device=mps"), losses=False).type == "mps"
    assert resolve_device("auto").type == "mps" and resolve_device("auto", float64="it is summed").type == "cpu"


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_source_experiment_trains_and_is_judged_without_float64(adaptive: bool, no_float64: None) -> None:
    config = collatz("faithful", "--use-t4", *(["--target-type", "adaptive"] if adaptive else []))
    network: Any = build_value(config, torch.device("cpu"))
    source, objective = build_source(config, network), build_objective(config)
    batch, _ = source.next({"iteration": 0, "batch": 0, "cursor": 0})
    with NoFloat64():
        (output,) = objective.outputs(network, batch, UpdateContext(0, config.seed, slice(0, 8), 8))
        output.loss_sum.backward()
    assert all(parameter.grad is not None for parameter in network.layers.parameters())
    # Judged in training in the network's float32, whose forward pass alone is on the device; at the end in float64.
    judge, windows = NetworkJudge("V", guarded(network)), orbit_windows(orbit(27), 4)
    assert judge.margins(windows) == pytest.approx(NetworkJudge.float64("V", network).margins(windows), abs=1e-5)


def guarded(network: Any) -> Any:
    class Guarded(Network):
        lookahead = network.lookahead

        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            with NoFloat64():
                return self.inner(*inputs)  # type: ignore[no-any-return]

    return Guarded()


def test_the_guard_does_see_float64() -> None:
    config = collatz("faithful")
    network: Any = build_value(config, torch.device("cpu"))
    batch, _ = build_source(config, network).next({"iteration": 0, "batch": 0, "cursor": 0})
    with pytest.raises(TypeError, match="no float64"), NoFloat64():
        list(build_objective(config).outputs(network, batch, UpdateContext(0, config.seed, slice(0, 8), 8)))


def test_accuracies_are_summed_without_float64(no_float64: None) -> None:
    labels, logits = torch.tensor([[1, 2], [0, 1]]), torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    predictions = Predictions(logits.argmax(-1), torch.tensor([1.0, -1.0]), torch.tensor([2, 2]), logits, 4)
    sums = AccuracyEvaluator("softmax_cross_entropy")
    sums.begin()
    with NoFloat64():
        sums.update({"labels": labels}, predictions)
    assert sums.report()["count"] == 2
