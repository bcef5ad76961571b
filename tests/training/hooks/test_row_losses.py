"""A hook that asks for them is told the losses of the rows that are done with an update, by the examples' numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.source import RowLosses
from models.losses import TOKEN_LOSSES
from tests.helpers import tiny_config
from training.distributed import World
from training.hooks.base import Hook, TrainState
from training.hooks.swa import Settings, WeightAveraging
from training.loop import Loop
from training.start import build_run

SWA = ["hook.swa.enabled=True", "max_steps=3"]


class Listening(WeightAveraging):
    """In place of another hook, so that the run builds it."""

    wants_losses = True

    def __init__(self) -> None:
        super().__init__(Settings(enabled=True))
        self.told: list[RowLosses | None] = []

    def after_update(self, state: TrainState) -> dict[str, torch.Tensor]:
        self.told.append(state.answered)
        return {}


@pytest.mark.parametrize("objective", [[], ["objective.name=baseline_ce"]])
def test_they_are_those_of_the_rows_that_are_done(
    objective: list[str], sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = Listening()
    monkeypatch.setattr(Settings, "build", lambda self: hook)
    options = [*SWA, *objective, "arch.halt_max_steps=1", "lr=0", "puzzle_emb_lr=0", "weight_decay=0"]
    run = build_run(tiny_config("trm_att", sudoku6_folder, tmp_path, options), World())
    batch, _ = run.source.next(run.progress.position)
    Loop(run, None)._train_batch(False)
    (told,) = hook.told
    assert told is not None and np.array_equal(told.examples, batch["example"].numpy()), "every row is done at once"
    with torch.no_grad():
        state = run.model.supervision_step(run.model.embed(batch))(run.model.initial_state(len(batch["inputs"])))
        logits, _, _ = run.model.readout(state)
    losses = TOKEN_LOSSES["stablemax_cross_entropy"](logits, batch["labels"]).mean(dim=-1)
    np.testing.assert_allclose(told.losses, losses.numpy(), rtol=1e-6)


def test_nobody_asks_and_nothing_is_told(sudoku6_folder: Path, tmp_path: Path) -> None:
    run = build_run(tiny_config("trm_att", sudoku6_folder, tmp_path, SWA), World())
    assert not run.source.wants_losses and "example" not in run.source.next(run.progress.position)[0]
    told = []
    run.hooks = [type("Deaf", (Hook,), {"after_update": lambda self, state: told.append(state.answered) or {}})()]
    Loop(run, None)._train_batch(False)
    assert told == [None]
