"""Compiled stacks: on by default where they pay, few graphs, no gradient lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from models.recursive_model import RecursiveModel
from tests.helpers import ARCHITECTURES, tiny_config
from training.distributed import World
from training.hooks.base import Hook, TrainState
from training.run import Run
from training.settings.resolving import resolve
from training.start import _compiles, act_objective, build_run
from training.update import settle, train_on_batch

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("chosen", "disabled", "on_cuda", "on_cpu"),
    [(None, "", True, False), (None, "1", False, False), (True, "", True, True), (True, "1", False, False),
     (False, "", False, False)],
)  # fmt: skip
def test_on_by_default_on_cuda_only(
    chosen: bool | None, disabled: str, on_cuda: bool, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_COMPILE", disabled)
    config = resolve({"compile": chosen}, require_data=False)
    assert (_compiles(config, CUDA), _compiles(config, CPU)) == (on_cuda, on_cpu)


class KeepGradients(Hook):
    """Copies of all gradients before each update."""

    name = "keep_gradients"

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def before_update(self, state: TrainState) -> dict[str, Tensor]:
        self.kept.append({name: p.grad.clone() for name, p in state.parameters.items() if p.grad is not None})
        return {}


def run_of(arch: str, data: Path, folder: Path, *options: str) -> tuple[Run, KeepGradients]:
    config = tiny_config(arch, data, folder, ["dtype=float64", *options])
    run, hook = build_run(config, World(), act_objective(config)), KeepGradients()
    run.hooks = [hook]
    return run, hook


def update(run: Run, times: int) -> None:
    for _ in range(times):
        batch, run.progress.position = run.source.next(run.progress.position)
        for report in train_on_batch(run, batch, stop_requested=False):
            settle(run, report)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_twenty_updates_compile_once_and_lose_no_gradient(
    arch: str, sudoku6_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    counter: Any = CompileCounterWithBackend("aot_eager")
    plain = RecursiveModel.compile_stacks
    monkeypatch.setattr(RecursiveModel, "compile_stacks", lambda model: plain(model, backend=counter))
    eager, expected = run_of(arch, sudoku6_folder, tmp_path / "eager")
    compiled, found = run_of(arch, sudoku6_folder, tmp_path / "compiled", "compile=True")
    update(eager, 20)
    update(compiled, 2)  # rows that restart are there from the second update on
    graphs = counter.frame_count
    # Per stack: without gradients, with them first, and with them on states that carry gradients already.
    assert 0 < graphs <= 4 * len(compiled.model.stacks())
    with torch._dynamo.config.patch(error_on_recompile=True):
        update(compiled, 18)
    assert counter.frame_count == graphs
    names = dict(compiled.model.named_parameters()).keys()
    assert len(found.kept) == 20
    for made, wanted in zip(found.kept, expected.kept, strict=True):
        assert made.keys() == wanted.keys() == names
        for name in names:
            assert made[name].abs().sum() > 0, name
            torch.testing.assert_close(made[name], wanted[name], rtol=1e-6, atol=1e-9, msg=name)
