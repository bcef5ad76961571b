"""Compiled stacks: on by default where they pay, few graphs, no gradient lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from errors import UserError
from models.recursive_model import RecursiveModel
from tests.helpers import ARCHITECTURES, ROOT, tiny_config, tiny_overrides
from training.compiling import REPAID_AFTER_FLOPS, planned_flops, settle_compiling
from training.distributed import World
from training.hooks.base import Hook, TrainState
from training.run import Run, full_state, restore
from training.settings.resolving import resolve
from training.settings.schema import TrainConfig
from training.start import act_objective, build_run
from training.storage.checkpoint import load_state
from training.update import settle, train_on_batch

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@dataclass
class Parts:
    """What the decision reads of a run. planned: its operations, in those that repay compiling."""

    config: TrainConfig
    device: torch.device
    planned: float
    compute_dtype: torch.dtype = torch.float32
    model: "Parts" = field(init=False)
    averages: dict[str, Any] = field(default_factory=dict)
    world: World = field(default_factory=World)
    planned_updates: int = 1
    compiled: int = 0

    def __post_init__(self) -> None:
        self.model = self

    def trained_flops(self) -> float:
        return self.planned * REPAID_AFTER_FLOPS / self.config.global_batch_size

    def compile_stacks(self, mode: str) -> None:
        self.compiled += mode == self.config.compile_mode


def decided(chosen: Any, device: torch.device, planned: float, kept: bool | None = None, **others: Any) -> int:
    parts = Parts(resolve({"compile": chosen}, require_data=False), device, planned, **others)
    settle_compiling(parts, kept, "STATE")  # type: ignore[arg-type]
    return parts.compiled


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Whether a C++ compiler works, as the decision finds it."""
    monkeypatch.delenv("DISABLE_COMPILE", raising=False)

    def works(fault: str | None) -> None:
        monkeypatch.setattr("training.compiling.compiler_fault", lambda: fault)

    works(None)
    return works


@pytest.mark.parametrize(
    ("chosen", "disabled", "on_cuda", "long_on_cpu", "short_on_cpu"),
    [(None, "", 1, 1, 0), ("auto", "", 1, 1, 0), (None, "1", 0, 0, 0), (True, "", 1, 1, 1), (True, "1", 0, 0, 0),
     (False, "", 0, 0, 0)],
)  # fmt: skip
def test_what_a_start_decides(
    chosen: Any, disabled: str, on_cuda: int, long_on_cpu: int, short_on_cpu: int, compiler: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("DISABLE_COMPILE", disabled)
    found = decided(chosen, CUDA, 0.1), decided(chosen, CPU, 1.1), decided(chosen, CPU, 0.9)
    assert found == (on_cuda, long_on_cpu, short_on_cpu)


def test_what_is_planned_is_counted_by_process(compiler: Any, sudoku6_folder: Path, tmp_path: Path) -> None:
    """The planned work: operations of a trained step of all rows, times the updates that are asked for."""
    run, _ = run_of("trm_mlp", sudoku6_folder, tmp_path, "max_steps=3")
    assert planned_flops(run) == 3 * run.config.global_batch_size * run.model.trained_flops()


def test_not_in_bfloat16_and_not_on_mps(compiler: Any) -> None:
    assert decided(None, CPU, 9.0, compute_dtype=torch.bfloat16) == 0
    assert decided(None, torch.device("mps"), 9.0) == 0


def test_a_run_goes_on_as_it_began(compiler: Any) -> None:
    """Whatever the plan says now; only a setting that is given decides otherwise."""
    assert decided(None, CPU, 0.1, kept=True) == 1
    assert decided(None, CPU, 9.0, kept=False) == 0
    assert decided(None, CUDA, 9.0, kept=False) == 0
    assert (decided(True, CPU, 0.1, kept=False), decided(False, CPU, 9.0, kept=True)) == (1, 0)


def test_without_a_compiler(compiler: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A start says so and goes on without; what went on compiled is refused, as other roundings would follow."""
    compiler("no g++ here")
    assert decided(None, CPU, 9.0) == 0
    assert "compile: not done, as nothing compiles here (no g++ here)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"STATE.*compiled stacks.*no g\+\+ here.*compile=False"):
        decided(None, CPU, 9.0, kept=True)


def test_a_compiler_that_fails_is_found(tmp_path: Path) -> None:
    """In a process of its own: torch remembers what it found of a compiler."""
    environment = os.environ | {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    code = "from training.compiling import compiler_fault; print(compiler_fault())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    (line,) = done.stdout.splitlines()
    assert "No working C++ compiler" in line


def test_what_was_decided_is_in_the_state(
    compiler: Any,
    sudoku6_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = RecursiveModel.compile_stacks
    monkeypatch.setattr(RecursiveModel, "compile_stacks", lambda model, mode: plain(model, backend="eager"))
    run, _ = run_of("trm_mlp", sudoku6_folder, tmp_path / "first", "compile=True")
    state = full_state(run)
    assert state["compiled"] is True
    again, _ = run_of("trm_mlp", sudoku6_folder, tmp_path / "second", "compile=auto", settle=False)
    assert not again.model.is_compiled
    restore(again, state, "STATE")
    assert again.model.is_compiled and again.averages["ema"].model.is_compiled
    older, _ = run_of("trm_mlp", sudoku6_folder, tmp_path / "third", "compile=auto", settle=False)
    del state["compiled"]
    restore(older, state, "STATE")
    assert not older.model.is_compiled
    refused, _ = run_of("trm_mlp", sudoku6_folder, tmp_path / "fourth", "compile=False", settle=False)
    restore(refused, state | {"compiled": True}, "STATE")
    assert not refused.model.is_compiled and "compiled True -> False" in capsys.readouterr().err


class KeepGradients(Hook):
    """Copies of all gradients before each update."""

    name = "keep_gradients"

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def before_update(self, state: TrainState) -> dict[str, Tensor]:
        self.kept.append({name: p.grad.clone() for name, p in state.parameters.items() if p.grad is not None})
        return {}


def run_of(arch: str, data: Path, folder: Path, *options: str, settle: bool = True) -> tuple[Run, KeepGradients]:
    config = tiny_config(arch, data, folder, ["dtype=float64", *options])
    run, hook = build_run(config, World(), act_objective(config)), KeepGradients()
    if settle:
        settle_compiling(run)
    run.hooks = [hook]
    return run, hook


def advance(run: Run, times: int) -> None:
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
    monkeypatch.setattr(RecursiveModel, "compile_stacks", lambda model, mode: plain(model, backend=counter))
    eager, expected = run_of(arch, sudoku6_folder, tmp_path / "eager")
    compiled, found = run_of(arch, sudoku6_folder, tmp_path / "compiled", "compile=True")
    advance(eager, 20)
    advance(compiled, 2)  # rows that restart are there from the second update on
    graphs = counter.frame_count
    # Per stack: without gradients, with them first, and with them on states that carry gradients already.
    assert 0 < graphs <= 4 * len(compiled.model.stacks())
    with torch._dynamo.config.patch(error_on_recompile=True):
        advance(compiled, 18)
    assert counter.frame_count == graphs
    names = dict(compiled.model.named_parameters()).keys()
    assert len(found.kept) == 20
    for made, wanted in zip(found.kept, expected.kept, strict=True):
        assert made.keys() == wanted.keys() == names
        for name in names:
            assert made[name].abs().sum() > 0, name
            torch.testing.assert_close(made[name], wanted[name], rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.slow
def test_a_compiled_run_goes_on_bit_for_bit(sudoku6_folder: Path, tmp_path: Path) -> None:
    """By the real compiler: three updates and three after a restart, in a process of its own, are six at once."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    environment = {key: value for key, value in os.environ.items() if key != "DISABLE_COMPILE"}

    def train(folder: str, *options: str) -> str:
        words = [
            *tiny_overrides("trm_mlp", sudoku6_folder, tmp_path / folder),
            "dtype=float32",
            "evaluators=[]",
            *options,
        ]
        done = subprocess.run(
            [sys.executable, "pretrain.py", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    train("whole", "compile=True", "max_steps=6")
    train("parts", "compile=True", "max_steps=3")
    assert "bit for bit" not in train("parts", "compile=auto", "max_steps=6")
    whole, parts = (load_state(tmp_path / name / "latest_state.pt") for name in ("whole", "parts"))
    assert (whole["compiled"], parts["compiled"], parts["step"]) == (True, True, 6)
    for kind in ("model", "ema"):
        assert all(torch.equal(whole[kind][name], parts[kind][name]) for name in whole[kind])
