"""A term that owns a module: trained, averaged, saved and resumed with the network, and left out of weight files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import training.objectives.choose
from errors import UserError
from models.config import ModelConfig
from tests.helpers import assert_same_state, differences, logged_training, read_state, train_here
from training.storage.checkpoint import load_state, save_state
from training.storage.weights import load_weights
from training.terms.base import Term, TermSettings, View


class Probe(Term):
    """Reads the number of scored cells off the first token, by a head of its own."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        self.module = nn.Linear(width, 1)
        with torch.no_grad():
            self.module.weight.copy_(torch.randn(1, width, generator=generator))
            self.module.bias.zero_()

    def __call__(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        target = (view.labels != -100).sum(dim=-1) / view.labels.shape[1]
        return view.sum((self.module(view.z_H[:, 0].float())[:, 0] - target).square()), {}


@dataclass
class Settings(TermSettings):
    """A probe."""

    def build(self, config: ModelConfig, generator: torch.Generator) -> Term:
        return Probe(config.hidden_size, generator)


@pytest.fixture(params=["adam_atan2", "muon"])
def options(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run with the probe, whatever its settings say."""

    class Room:
        @staticmethod
        def in_use(ideas: Any) -> Iterator[tuple[str, Settings]]:
            yield "probe", Settings(weight=0.5)

    monkeypatch.setattr(training.objectives.choose, "TERMS", Room)
    return [f"optimizer={request.param}", "lr_warmup_steps=0"]


def test_it_is_trained_averaged_saved_and_resumed(options: list[str], sudoku6_folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, step in ((whole, 10), (parts, 4), (parts, 10)):
        train_here("trm_att", sudoku6_folder, folder, [*options, f"max_steps={step}"])
    assert_same_state(whole, parts)
    assert logged_training(whole) == logged_training(parts)
    early, late = (tmp_path / name for name in ("early", "late"))
    for folder, step in ((early, 1), (late, 2)):
        train_here("trm_att", sudoku6_folder, folder, [*options, f"max_steps={step}"])
    states = [read_state(folder) for folder in (early, late)]
    before, after = (state["terms"]["probe"]["weight"] for state in states)
    assert not torch.equal(before, after), "trained"
    averaged = [state["ema"]["probe/weight"] for state in states]
    torch.testing.assert_close(averaged[1], 0.9 * averaged[0] + 0.1 * after, rtol=1e-6, atol=1e-7)
    assert not [name for name in load_weights(whole / "final.pt") if "probe" in name]
    losses = [line["train/probe_loss"] for line in logged_training(whole)]
    assert losses[-1] < losses[0]


def test_its_gradient_reaches_the_network(options: list[str], sudoku6_folder: Path, tmp_path: Path) -> None:
    """Another run of the same seed without it has other weights, and another name for none of its tensors."""
    train_here("trm_att", sudoku6_folder, tmp_path / "with", [*options, "max_steps=2"])
    with_it = read_state(tmp_path / "with")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training.objectives.choose, "TERMS", type("Room", (), {"in_use": staticmethod(lambda _: iter(()))})
        )
        train_here("trm_att", sudoku6_folder, tmp_path / "without", [*options, "max_steps=2"])
    without = read_state(tmp_path / "without")
    assert "terms" not in without and with_it["model"].keys() == without["model"].keys()
    assert differences(with_it["model"], without["model"]) != []


def test_a_state_without_it_is_refused(options: list[str], sudoku6_folder: Path, tmp_path: Path) -> None:
    train_here("trm_att", sudoku6_folder, tmp_path, [*options, "max_steps=2"])
    path = tmp_path / "latest_state.pt"
    state = load_state(path)
    save_state(path, state | {"terms": {"probe": {"weight": torch.zeros(2, 2)}}})
    with pytest.raises(UserError, match=r"its entry 'terms\.probe' is not what a run saves"):
        train_here("trm_att", sudoku6_folder, tmp_path, [*options, "max_steps=3"])
