"""Whether the stacks of a run are compiled: decided before its first update, kept in its state, kept at a resume.

On CUDA they are, as officially. On a CPU compiling takes about half a minute of g++ and makes a float32 update some
tenth to sixth shorter, so it is done for runs that are long enough. In bfloat16 it would pass by what
`models/cpu_bfloat16.py` does faster.
"""

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import torch

from errors import UserError, say

if TYPE_CHECKING:  # a run settles this while its state is restored
    from training.run import Run

# Planned operations from which compiling repays itself on a CPU: 36 CPU seconds once, at 50e9 operations a second of
# which it spares a tenth, and a margin of the same size. The quickstart's network does as many in 3,400 updates.
REPAID_AFTER_FLOPS = 2e13


def compiler_fault() -> str | None:
    """Why torch.compile makes no code for this CPU, in one line; None where it does. A tiny map is tried: seconds."""
    try:
        torch.compile(lambda x: x.sin() + 1, dynamic=False)(torch.zeros(8))
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        return " ".join(str(error).split())[:160] or type(error).__name__
    return None


def chosen(run: "Run") -> bool | None:
    """What the settings say, or the official variable; None where it is left to the run."""
    return False if os.environ.get("DISABLE_COMPILE") else run.config.compile


def planned_flops(run: "Run") -> float:
    """Operations of this process over the run, at least: one supervision step of every row an update."""
    config = run.config
    updates = run.planned_updates if config.max_steps is None else min(config.max_steps, run.planned_updates)
    return run.model.trained_flops() * updates * config.global_batch_size / run.world.size


def settle_compiling(run: "Run", kept: bool | None = None, source: str = "") -> None:
    """Compile the stacks of the network and of its averages, or leave them as they are.

    kept: whether those of the state that goes on were compiled; None where nothing goes on. source: its name.

    Errors: `UserError` where they were and this machine cannot compile.
    """
    compiles = chosen(run)
    if compiles is None:
        compiles = _repays(run) if kept is None else _as_before(run, kept, source)
    if compiles:
        for network in (run.model, *(average.model for average in run.averages.values())):
            network.compile_stacks(mode=run.config.compile_mode)


def _as_before(run: "Run", kept: bool, source: str) -> bool:
    """The way a run goes on: as it began. Errors: `UserError` where this machine cannot."""
    fault = compiler_fault() if kept and run.device.type == "cpu" else None
    if fault is not None:
        raise UserError(
            f"{source} is of a run with compiled stacks, and nothing compiles here ({fault}); install a C++ compiler, "
            "e.g. g++, or give compile=False to go on without, not bit for bit as it would have"
        )
    return kept


def _repays(run: "Run") -> bool:
    """Whether a run that starts compiles."""
    if run.device.type != "cpu":
        return run.device.type == "cuda"
    if run.model.compute_dtype is not torch.float32 or planned_flops(run) < REPAID_AFTER_FLOPS:
        return False
    fault = compiler_fault()
    if run.world.is_main and fault is None:
        say("compile: the stacks are compiled, half a minute that this run repays; compile=False trains without")
    elif run.world.is_main:
        say(f"compile: not done, as nothing compiles here ({fault}); install g++ for speed", file=sys.stderr)
    return fault is None
