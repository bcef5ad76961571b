"""A sound file whose entries no run saves: refused in one line that names the entry, before anything is taken over."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from errors import UserError
from tests.helpers import differences, read_state, tiny_config, train_here
from training.distributed import World
from training.run import Run, full_state, restore
from training.start import build_run

OPTIONS = [
    "source.steps=[replay]", "step.replay.capacity=20", "step.replay.quantile=0", "hook.swa.enabled=True",
    "hook.swa.start_update=0", "hook.swa.period=1", "hook.grad_noise.enabled=True", "lr_warmup_steps=0", "max_steps=6",
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run")
    train_here("trm_att", sudoku6_folder, folder, OPTIONS)
    return read_state(folder)


@pytest.fixture(scope="module")
def run(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build_run(tiny_config("trm_att", sudoku6_folder, tmp_path_factory.mktemp("run"), OPTIONS), World())


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets an entry, or what a function makes of it."""

    def edit(state: dict[str, Any]) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value(state[path[-1]]) if callable(value) else value

    return edit


REPLAY, CARRY, SWA = ("source", "replay"), "carry", ("hooks", "swa")
EDITS = {
    "an example beyond the data": (put(*REPLAY, "queue", value=torch.tensor([64])), "a queue of other data"),
    "an example twice": (put(*REPLAY, "queue", value=torch.tensor([3, 3])), "a queue of other data"),
    "more than the capacity": (put(*REPLAY, "queue", value=torch.arange(21)), "a queue of other data"),
    "a queue of another dtype": (put(*REPLAY, "queue", value=lambda queue: queue.int()), "its queue are no"),
    "a queue of another shape": (put(*REPLAY, "queue", value=torch.tensor(3)), "its queue are no"),
    "losses that are no numbers": (put(*REPLAY, "losses", value=lambda losses: losses * torch.nan), "losses that are"),
    "losses below 0": (put(*REPLAY, "losses", value=lambda losses: -losses), "losses that are none"),
    "losses of another dtype": (put(*REPLAY, "losses", value=lambda losses: losses.float()), "its losses are no"),
    "more replayed than drawn": (put(*REPLAY, "replayed", value=10**6), "counts that are none"),
    "no step's state": (lambda state: state["source"].clear(), r"it holds source state \[\], expected \['replay'\]"),
    "a negative count of samples": (put(*SWA, "samples", value=-1), "not those it saves"),
    "state of a hook without": (put("hooks", "grad_noise", value={"x": 1}), "hook grad_noise keeps no state but found"),
    "an average that is no number": (put("averages", "swa", "lm_head.weight", value=lambda t: t * torch.nan), "finite"),
    "an average without the table": (
        lambda state: state["averages"]["swa"].pop("puzzle_emb.weights"), "'averages.swa' is not",
    ),
    "a term's module that is none": (put("terms", value={"halt_entropy": {}}), "'terms' is not what a run saves"),
    "a weight that is no number": (put("model", "lm_head.weight", value=lambda t: t * torch.inf), "finite numbers"),
    "slots without examples": (lambda state: state["carry"].pop("example"), "'carry' is not what a run saves"),
    "a slot's example beyond the data": (put(CARRY, "example", value=lambda t: t + 64), "numbers from 0 to 63"),
    "a slot's state of another shape": (put(CARRY, "z_H", value=lambda t: t[:, :1]), r"shape \(8, 38, 16\)"),
    "a slot's state of another dtype": (put(CARRY, "z_L", value=lambda t: t.double()), "'carry.z_L' is not"),
    "a slot's token beyond the vocabulary": (put(CARRY, "inputs", value=lambda t: t + 8), "numbers from 0 to 7"),
    "a slot's puzzle beyond the table": (put(CARRY, "puzzle_identifiers", value=lambda t: t + 1), "from 0 to 0"),
    "halted as numbers": (put(CARRY, "halted", value=lambda t: t.int()), "torch.bool of shape"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "words"), EDITS.values(), ids=EDITS.keys())
def test_it_is_refused(edit: Callable[[dict[str, Any]], None], words: str, saved: dict[str, Any], run: Run) -> None:
    state = copy.deepcopy(saved)
    edit(state)
    with pytest.raises(UserError, match=f"^FILE.*{words}"):
        restore(run, state, "FILE")


def test_what_is_not_changed_is_taken_over(saved: dict[str, Any], run: Run) -> None:
    restore(run, copy.deepcopy(saved), "FILE")
    assert len(saved["source"]["replay"]["queue"]) and differences(full_state(run), saved) == []
