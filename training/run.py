"""A run: all its parts in one place, and how they become one full state and come back from it."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dataset.content_sums import refuse_other_content
from errors import UserError, say
from models import act
from training.averages import Average, named_parameters
from training.compiling import settle_compiling
from training.distributed import World
from training.hooks.base import Hook, TrainState
from training.inference.base import Inference
from training.inference.fixed import OfficialInference
from training.initial_weights import InitialWeights
from training.objectives.base import Objective
from training.optim import SparseSignSGD
from training.progress import Progress
from training.settings.identity import run_identity, with_defaults
from training.settings.schema import TrainConfig
from training.setup import EvalRows
from training.storage.rng_state import capture_rng, restore_rng
from training.storage.run_folder import RunFolder, refuse_if_different
from training.storage.state_form import check_state_form
from training.terms.base import owned_modules
from training.validation import ValidationRecord


class Scores(Protocol):
    """Evaluates a run. What it keeps between evaluations belongs into the run's `validation`.

    Errors: `StopRequested` where a process of the run was asked to stop meanwhile, on all of them.
    """

    def validate(self, *, last: bool) -> bool:
        """What is due at this step; in full when it is the run's last. True when the step is the new best."""
        ...

    def final_results(self) -> dict[str, Any]:
        """Numbers of the end, for `summary.json`."""
        ...

    def print_summary(self, results: dict[str, Any]) -> None: ...


@dataclass
class Run:
    """Everything the loop works with."""

    config: TrainConfig
    world: World
    device: torch.device
    folder: RunFolder
    model: Any  # models.network.Network; with a richer interface for those who know which
    averages: dict[str, Average[Any]]  # `ema`, where it is on, and those that hooks keep
    dense: torch.optim.Optimizer | None
    sparse: SparseSignSGD | None
    objective: Objective
    source: Any  # dataset.source.Source, likewise
    planned_updates: int
    # Of the run, its `RunLog` (None except on rank 0) and whether to stop, asked of all processes together.
    scoring: Callable[["Run", Any, Callable[[], bool]], Scores]
    inference: Inference = field(default_factory=OfficialInference)  # of runs on puzzles, as are the next
    evaluation_rows: list[EvalRows] = field(default_factory=list)
    headline: str = "eval/validation/exact_accuracy"  # what chooses the best checkpoint
    judged_on: dict[str, Any] = field(default_factory=dict)  # fingerprint of evaluation data beside the source's
    data_sums: dict[str, tuple[Path, str]] = field(default_factory=dict)  # dataset.content_sums, on rank 0
    hooks: list[Hook] = field(default_factory=list)
    validation: ValidationRecord = field(default_factory=ValidationRecord)
    progress: Progress = field(default_factory=Progress)
    initial: InitialWeights | None = None  # None: not begun, or begun by code that did not note it
    state_file: Path | None = None  # the full state it went on from
    best_sha256: str | None = None  # of best.pt, as rank 0 knows; None: there is none, or the state is of older code

    @property
    def step(self) -> int:
        """Updates made."""
        return self.progress.step

    @property
    def ema(self) -> Average[Any] | None:
        return self.averages.get("ema")

    @property
    def evaluated_weights(self) -> str:
        """Which weights evaluation uses and weight files hold: those asked for, else the EMA's where there is one.

        An average of nothing yet is not asked: the EMA or the trained weights (`raw`) stand in for it.
        """
        asked = self.config.evaluate_weights
        wanted = () if asked == "raw" else (asked or "ema", "ema")
        return next((name for name in wanted if name in self.averages and self.averages[name].ready), "raw")

    @property
    def evaluated_model(self) -> Any:
        """The network of `evaluated_weights`."""
        name = self.evaluated_weights
        return self.model if name == "raw" else self.averages[name].model

    @property
    def owned(self) -> dict[str, nn.Module]:
        """Modules that terms own, trained with the network."""
        return owned_modules(self.objective.terms)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All dense parameters that are trained, by name; those of an owned module with its name in front."""
        named = named_parameters(self.model, self.owned)
        return {name: parameter for name, parameter in named.items() if parameter.requires_grad}

    def train_state(self, step: int) -> TrainState:
        """What hooks see at update `step`."""
        optimizers = {"dense": self.dense, "sparse": self.sparse}
        return TrainState(
            model=self.model,
            parameters=self.parameters,
            optimizers={name: optimizer for name, optimizer in optimizers.items() if optimizer is not None},
            averages=self.averages,
            step=step,
            planned_updates=self.planned_updates,
            seed=self.config.seed,
        )

    @property
    def compute_spent(self) -> dict[str, float]:
        """What training has cost so far, under the names of `metrics.jsonl`.

        `train/seconds`: of this process, over all sessions, without evaluation and saving. `train/samples`: supervision
        steps trained, of rows. `train/flops`: the closed form of the network for them and for what was computed
        beside them.
        """
        progress, network = self.progress, self.model
        trained, extra = network.trained_flops(), network.extra_flops()
        return {
            "train/seconds": progress.train_seconds,
            "train/samples": progress.samples_seen,
            # Integers are exact.
            "train/flops": float(progress.samples_seen * int(trained) + progress.extra_passes * int(extra)),
        }

    @property
    def passes_over_data(self) -> float:
        """How often the training rows have been through, counted in rows."""
        rows = self.step * self.config.global_batch_size
        return rows / max(1.0, self.source.total_groups * self.source.mean_examples)

    @property
    def is_complete(self) -> bool:
        """All iterations are through (each drops its last partial batch, as officially), `max_steps` or the end
        of the patience is reached.
        """
        if self.config.max_steps is not None and self.step >= self.config.max_steps:
            return True
        return self.validation.exhausted or self.is_through

    @property
    def is_through(self) -> bool:
        """All iterations of `epochs` are through."""
        return self.progress.position["iteration"] * self.source.epochs_per_iteration >= self.config.epochs

    def identity(self) -> dict[str, Any]:
        """What a saved state must agree with to go on: model, objective, optimizer, batch and data."""
        settings = run_identity(self.config)
        settings.pop("data_paths", None)  # the fingerprint knows the data, wherever the folder lies
        return {
            "settings": settings,
            "computes_in": str(self.model.compute_dtype).removeprefix("torch."),
            "objective": self.objective.name,
            "hooks": [hook.name for hook in self.hooks],
            "data": self.source.fingerprint(),
        }


def full_state(run: Run) -> dict[str, Any]:
    """Everything needed to go on, as plain containers of tensors. Collective: every rank must call it.

    The carry is gathered in global slot order, so that a state does not know how many processes wrote it.
    """
    carry = run.objective.carry
    if carry is not None:
        carry = {key: run.world.gather_rows(leaf) for key, leaf in sorted(carry.items())}
    return {
        **run.progress.state_dict(),
        "initial": None if run.initial is None else asdict(run.initial),
        "model": run.model.state_dict(),
        "ema": run.ema.state_dict() if run.ema is not None else None,
        **{kind: entry for kind, entry in _beside(run).items() if entry},
        "optimizer": run.dense.state_dict() if run.dense is not None else None,
        "carry": carry,
        "objective": run.objective.state_dict(),
        "hooks": {hook.name: hook.state_dict() for hook in run.hooks},
        "source": run.source.state_dict(),
        "validation": run.validation.state_dict(),
        "best_sha256": run.best_sha256,
        "rng": capture_rng(),
        "identity": run.identity(),
        "data_sha256": {name: sha256 for name, (_, sha256) in run.data_sums.items()},
        **_arithmetic(run),
    }


def _beside(run: Run) -> dict[str, dict[str, Any]]:
    """Tensors that only some runs have: further averages, and modules that terms own."""
    averages = {name: average.state_dict() for name, average in run.averages.items() if name != "ema"}
    return {"averages": averages, "terms": {name: module.state_dict() for name, module in run.owned.items()}}


def _arithmetic(run: Run) -> dict[str, Any]:
    """What changes the last bits of a run without making it another one."""
    return {
        "threads": torch.get_num_threads(),
        "world_size": run.world.size,
        "accumulation_slices": run.config.accumulation_slices,
        "torch": torch.__version__.split("+")[0],
        "compiled": run.model.is_compiled,
    }


def restore(run: Run, state: dict[str, Any], source: str) -> None:
    """Put a run where `full_state` left it; on another number of processes too.

    Errors: `UserError` naming the differences when the state belongs to another run.
    """
    missing = [key for key in ("identity", "model", "step", "position", "optimizer") if key not in state]
    if missing:
        raise UserError(f"{source} is no complete state (it lacks {', '.join(missing)}); use another")
    if "extra_passes" not in state:
        # A state without this entry is of ACT streaming, whose only extra passes are the targets of Q-learning.
        state = state | {"extra_passes": 0 if run.config.arch.no_ACT_continue else state.get("samples_seen")}
    saved, current = state["identity"], run.identity()
    if isinstance(saved, Mapping) and isinstance(saved.get("settings"), Mapping):
        before, now = saved["settings"], current["settings"]
        # The settings stand beside the rest, under the names that a user types.
        saved = with_defaults(before, now) | {key: value for key, value in saved.items() if key != "settings"}
        current = with_defaults(now, before) | {key: value for key, value in current.items() if key != "settings"}
    if isinstance(saved, Mapping):
        refuse_if_different(saved, current, source)
    carry_names, carry_leaves = run.objective.carry_names(run.model), {}
    if carry_names:
        carry_leaves = act.carry_leaves(run.model)
        if run.source.wants_losses:
            carry_names = (*carry_names, act.EXAMPLE)
            carry_leaves |= {act.EXAMPLE: act.Leaf(torch.int64, (), 0, run.source.num_examples)}
    check_state_form(
        state,
        source,
        model=run.model.state_dict(),
        ema=run.ema.state_dict() if run.ema is not None else None,
        beside=_beside(run),
        optimizer=run.dense,
        validation=ValidationRecord().state_dict(),
        num_slots=run.config.global_batch_size,
        carry_names=carry_names,
        carry_leaves=carry_leaves,
    )
    anew = "start a new run with another checkpoint_path (init_from=FILE takes over weights only)"
    refuse_other_content(state.get("data_sha256", {}), run.data_sums, source, anew)  # earlier code did not note them
    try:
        _take_over(run, state)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{source} is no state that this run can go on from ({reason}); use another") from error
    # A state of before this was kept is of a run that compiled on CUDA only.
    state = {"compiled": run.device.type == "cuda", **state}
    settle_compiling(run, state["compiled"], source)
    if run.world.is_main:
        warn_about_arithmetic(run, state)


def _take_over(run: Run, state: dict[str, Any]) -> None:
    run.model.load_state_dict(state["model"])
    if run.ema is not None:
        run.ema.load_state_dict({key: value.to(run.device) for key, value in state["ema"].items()})
    for name, module in run.owned.items():
        module.load_state_dict(state["terms"][name])
    for name, average in run.averages.items():
        if name != "ema":
            average.load_state_dict({key: value.to(run.device) for key, value in state["averages"][name].items()})
    if run.dense is not None:
        initial = [group["initial_lr"] for group in run.dense.param_groups]
        run.dense.load_state_dict(state["optimizer"])
        for group, lr in zip(run.dense.param_groups, initial, strict=True):
            group["initial_lr"] = lr  # states of before groups had rates of their own lack it
    carry = state["carry"]
    if carry is not None:
        slots = run.world.slots(run.config.global_batch_size)
        carry = {key: leaf[slots].to(run.device) for key, leaf in carry.items()}
    run.objective.carry = carry
    run.objective.load_state_dict(state["objective"])
    if state["hooks"].keys() != {hook.name for hook in run.hooks}:
        raise ValueError(f"it holds hooks {sorted(map(str, state['hooks']))}")
    for hook in run.hooks:
        hook.load_state_dict(state["hooks"][hook.name])
    run.source.load_state_dict(state["source"])
    run.validation.load_state_dict(state["validation"])
    run.progress = Progress.from_state(state)
    run.initial = _initial_weights(state.get("initial"))
    run.best_sha256 = state.get("best_sha256")
    restore_rng(state["rng"])


def _initial_weights(noted: Any) -> InitialWeights | None:
    if noted is None:
        return None
    initial = InitialWeights(**noted)
    if not isinstance(initial.init_from, str | None) or not isinstance(initial.sha256, str):
        raise ValueError("its initial weights are no file name and digest")
    return initial


def warn_about_arithmetic(run: Run, state: dict[str, Any]) -> None:
    """Say what makes a continued run differ in the last bits from an undisturbed one."""
    now = _arithmetic(run)
    changed = [f"{key} {state.get(key)} -> {value}" for key, value in now.items() if str(state.get(key)) != str(value)]
    if changed:
        say(
            f"warning: {', '.join(changed)} since the state was saved: the run goes on, but not bit for bit as "
            "it would have",
            file=sys.stderr,
        )
