"""What the tests let ranks do; each job also runs in the test's own process with a world of one."""

import contextlib
import io
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scipy.stats  # noqa: F401 - imported late by a run; here once for all ranks
import torch
import torch._dynamo  # noqa: F401 - likewise, by the first optimizer step
from torch import Tensor

from errors import UserError
from evaluate import Options, evaluate_checkpoint
from tests.helpers import compose_tiny_configs, tiny_config
from tests.models.small import small_batch, small_model
from tests.training.judges.toys import ROOM
from training import distributed
from training.distributed import World
from training.evaluation.answering import AccuracyEvaluator, evaluate
from training.evaluation.evaluators import OutputRecorder, StepCountEvaluator
from training.evaluation.robustness import measure_robustness
from training.evaluation.rollout_table import RolloutRecorder
from training.evaluation.row_outcomes import RowOutcomes
from training.hooks.base import Hook, TrainState
from training.inference import perturbed_starts
from training.inference.adaptive import AdaptiveInference
from training.inference.fixed import FixedInference
from training.inference.stability import StabilityProbe
from training.inference.stochastic_rollouts import StochasticRollouts
from training.loop import Loop, run_training
from training.objectives.act_streaming import ACTStreaming
from training.objectives.choose import build_objective
from training.optim import SparseSignSGD, sum_rows
from training.run import Run, full_state, restore
from training.settings import evaluator_list
from training.settings.schema import EvalConfig, TrainConfig
from training.start import act_objective, build_run, held_folder, place, share_weights, train_in
from training.storage.checkpoint import load_state, save_state
from training.update import NonFiniteError

Record = dict[str, Any]

# Before ranks are forked: composing the settings of a tiny run takes longer than an update of it.
compose_tiny_configs()

# 40 slots: 2 ranks, 5 slices, and both. The q head is made lively below, so that slots halt by it.
UPDATE_OPTIONS = (
    "dtype=float64",
    "global_batch_size=40",
    "lr_warmup_steps=0",
    "epochs=40",
    "eval_interval=20",
    "arch.halt_exploration_prob=0.5",
)


def update_config(arch: str, data: str, folder: str, options: Sequence[str] = ()) -> TrainConfig:
    """The run whose single updates are compared."""
    return tiny_config(arch, data, folder, [*UPDATE_OPTIONS, *options])


class RecordUpdate(Hook):
    """Keeps what the dense optimizer gets, just before it steps."""

    name = "record_update"

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def before_update(self, state: TrainState) -> dict[str, Tensor]:
        self.gradients = {name: p.grad.clone() for name, p in state.parameters.items() if p.grad is not None}
        return {}


class RecordingSignSGD(SparseSignSGD):
    """Keeps what the sparse optimizer gets."""

    received: tuple[Tensor, Tensor] | None = None

    def step(self, ids: Tensor, grads: Tensor) -> None:
        self.received = (ids.clone(), grads.clone())
        super().step(ids, grads)


def recorded_run(world: World, config: TrainConfig, slices: int = 1) -> Run:
    """A fresh run whose updates are recorded and whose slots halt for every reason there is."""
    run = build_run(config, world, act_objective(config))
    assert isinstance(run.objective, ACTStreaming) and run.sparse is not None
    # Not through the config: a state remembers its slices, and only the arithmetic is to differ.
    run.objective.accumulation_slices = slices
    run.sparse = RecordingSignSGD(run.sparse.weights, run.sparse.lr, run.sparse.weight_decay)
    run.hooks = [RecordUpdate()]
    with torch.no_grad():
        weight = run.model.q_head.weight
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype))
        run.model.q_head.bias.fill_(-0.5)
    return run


def one_update(run: Run) -> Record:
    """Make the next update; everything that went into it and came out of it. Collective."""
    hook, sparse = run.hooks[0], run.sparse
    assert isinstance(hook, RecordUpdate) and isinstance(sparse, RecordingSignSGD)
    run.progress.metric_sums = {}
    reports = Loop(run, None)._train_batch(False)
    state = full_state(run)
    assert sparse.received is not None and len(reports) == 1
    return {
        "gradients": hook.gradients,
        "ids": sparse.received[0],
        "rows": sparse.received[1],
        "weights": {name: p.detach().clone() for name, p in run.model.named_parameters()},
        "table": run.model.puzzle_emb.weights.clone(),
        "ema": {name: p.clone() for name, p in state["ema"].items()},
        "carry": {name: leaf.clone() for name, leaf in state["carry"].items()},
        "metrics": dict(state["metric_sums"]),
        "grad_norm": reports[0].grad_norm,
        "step": run.step,
        "position": dict(run.progress.position),
    }


def successive_updates(world: World, config: TrainConfig, states: str, count: int) -> list[Record]:
    """`count` updates of one run; the state before each is saved as `states`/N.pt."""
    run = recorded_run(world, config)
    records = []
    for index in range(count):
        save_state(Path(states) / f"{index}.pt", full_state(run))
        records.append(one_update(run))
    return records


def updates_from(
    world: World, arch: str, data: str, folder: str, states: str, indices: Sequence[int], slices: int = 1
) -> list[Record]:
    """One update from each of some saved states."""
    run = recorded_run(world, update_config(arch, data, folder), slices)
    records = []
    for index in indices:
        path = Path(states) / f"{index}.pt"
        restore(run, load_state(path), str(path))
        records.append(one_update(run))
    return records


def perturbed_updates(
    world: World, arch: str, data: str, folder: str, options: Sequence[str], updates: Sequence[int]
) -> list[Record]:
    """For each number of updates made before: one update, from fresh weights whose trajectories halt as they like."""
    records = []
    for number in updates:
        config = update_config(arch, data, folder, options)
        run = build_run(config, world, build_objective(config))
        assert run.sparse is not None and run.model.puzzle_emb is not None
        sparse = RecordingSignSGD(run.sparse.weights, run.sparse.lr, run.sparse.weight_decay)
        hook = RecordUpdate()
        run.sparse, run.hooks, run.progress.step = sparse, [hook], number
        with torch.no_grad():
            weight = run.model.q_head.weight
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype))
            run.model.q_head.bias.fill_(0.0)
        run.progress.metric_sums = {}
        (report,) = Loop(run, None)._train_batch(False)
        assert sparse.received is not None and report.step == number + 1 and run.ema is not None
        ids, rows = sum_rows(*sparse.received)
        gradient = torch.zeros_like(run.model.puzzle_emb.weights)
        gradient[ids] = rows
        records.append({
            "gradients": hook.gradients,
            "table_gradient": gradient,
            "table": run.model.puzzle_emb.weights.clone(),
            "weights": {name: p.detach().clone() for name, p in run.model.named_parameters()},
            "ema": {name: p.clone() for name, p in run.ema.state_dict().items()},
            "metrics": dict(run.progress.metric_sums),
        })  # fmt: skip
    return records


def idea_updates(
    world: World, data: str, folder: str, combinations: Sequence[Sequence[str]], step: int
) -> list[Record]:
    """For each list of options: one update after `step` others, from fresh weights whose trajectories halt as they
    like. `exact`: what does not depend on the order of sums."""
    records = []
    for options in combinations:
        config = update_config("trm_att", data, folder, options)
        run = build_run(config, world)
        hook = RecordUpdate()
        run.hooks, run.progress.step = [*run.hooks, hook], step
        with torch.no_grad():
            weight = run.model.q_head.weight
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype))
            run.model.q_head.bias.fill_(0.0)
        (report,) = Loop(run, None)._train_batch(False)
        following, _ = run.source.next(run.progress.position)
        sums = run.progress.metric_sums
        records.append({
            "gradients": hook.gradients,
            "weights": {name: p.detach().clone() for name, p in run.model.named_parameters()},
            "average": {name: p.clone() for name, p in full_state(run).get("averages", {}).get("swa", {}).items()},
            "exact": {
                "source": {name: {**state, "losses": len(state["losses"])} for name, state in
                           run.source.state_dict().items()},
                "hooks": full_state(run)["hooks"],
                "next": following["inputs"],
                "counts": {name: value for name, value in sums.items() if name.endswith(("count", "rows", "samples"))},
            },
        })  # fmt: skip
    return records


def train_tiny(world: World, arch: str, data: str, folder: str, options: Sequence[str] = ()) -> str:
    """A whole run, as pretrain.py makes it."""
    return train_in(world, update_config(arch, data, folder, options))


def resume_and_update(world: World, arch: str, data: str, folder: str) -> Record:
    """Start in a run folder as pretrain.py does, make one update; also what was printed."""
    config = update_config(arch, data, folder)
    run = recorded_run(world, config)
    run.hooks = []
    printed = io.StringIO()
    with held_folder(run.folder, world), contextlib.redirect_stderr(printed):
        place(run)
        share_weights(run)
        start = {"step": run.step, "position": dict(run.progress.position), "carry": full_state(run)["carry"]}
        run.hooks = [RecordUpdate()]
        return one_update(run) | {"printed": printed.getvalue(), "start": start}


class OnRank(Hook):
    """Does something on one rank before the batch of one update."""

    name = "on_rank"

    def __init__(self, run: Run, rank: int, step: int, what: str) -> None:
        self.run, self.what = run, what
        self.step = step if run.world.rank == rank else None

    def before_batch(self, state: TrainState, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        model = self.run.model
        if state.step != self.step:
            return batch
        if self.what == "nan carry":
            assert self.run.objective.carry is not None
            self.run.objective.carry["z_H"].fill_(torch.nan)
            self.run.objective.carry["halted"].fill_(False)
        elif self.what == "nan gradient":
            model.lm_head.weight.register_hook(lambda gradient: gradient * torch.nan)
        elif self.what == "infinite puzzle row":
            assert model.puzzle_emb is not None
            model.puzzle_emb.register_forward_hook(lambda _, __, rows: _poisoned(rows))
        elif self.what == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.what == "sleep":
            time.sleep(3600)
        elif self.what == "error":
            raise ArithmeticError("on one rank only")
        return batch


def _poisoned(rows: Tensor) -> None:
    if rows.requires_grad:
        rows.register_hook(lambda gradient: gradient + torch.inf)


def train_with_fault(world: World, arch: str, data: str, folder: str, what: str, rank: int, step: int) -> Record:
    """Train while one rank does something odd before update `step + 1`."""
    config = update_config(arch, data, folder, ["checkpoint_interval=1", "max_steps=20"])
    run = build_run(config, world, act_objective(config))
    run.hooks = [OnRank(run, rank, step, what)]
    with held_folder(run.folder, world):
        place(run)
        share_weights(run)
        try:
            outcome = run_training(run)
        except NonFiniteError as error:
            outcome = f"NonFiniteError: {error}"
    weights = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    return {"outcome": outcome, "step": run.step, "weights": weights, "table": run.model.puzzle_emb.weights}


def collectives(world: World) -> Record:
    """Every collective of `World` on values that differ by rank."""
    rank = world.rank
    sums = [torch.full((2, 3), float(rank + 1)), torch.arange(4.0) * (rank + 1)]
    world.sum_(sums)
    gathered = {}
    for name, dtype in {"bool": torch.bool, "bfloat16": torch.bfloat16, "int32": torch.int32}.items():
        # Not contiguous, and empty rows.
        local = (torch.arange(12).reshape(3, 4).T + rank).to(dtype)
        gathered[name] = world.gather_rows(local)
    gathered["empty"] = world.gather_rows(torch.zeros(0, 3))
    torch.manual_seed(rank)
    model = torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        model.weight.normal_()
        model.running_mean.normal_()
    world.broadcast_model(model)
    slots = world.slots(10)
    return {
        "sums": sums,
        "numbers": world.sum_numbers([0.1 * (rank + 1), 1.0, 2.0**60], torch.device("cpu")),
        "gathered": gathered,
        "weight": model.weight.detach(),
        "mean": model.running_mean,
        "slots": [slots.start, slots.stop],
    }


def ragged(world: World) -> Record:
    """`gather_ragged` of rows whose number differs by rank, 0 on some."""
    rank = world.rank
    lengths = {"more on the second": [1, 3], "none on the first": [0, 2], "none on the second": [4, 0], "none": [0, 0]}
    gathered = {}
    for name, by_rank in lengths.items():
        length = by_rank[rank] if world.size > 1 else sum(by_rank)
        values = torch.arange(2 * length).reshape(length, 2) + 100 * rank
        gathered[f"{name}, int64"] = world.gather_ragged(values)
        gathered[f"{name}, no column"] = world.gather_ragged(values[:, :0].float())
        gathered[f"{name}, float64"] = world.gather_ragged(values[:, 0].double() / 3)
        gathered[f"{name}, bool"] = world.gather_ragged(values[:, 1] % 3 == 0)
    return gathered


def evaluated_here(world: World, arch: str, count: int, adaptive: bool) -> Record:
    """Evaluate a small model on `count` rows; also the numbers of the rows that this rank answered."""
    model = small_model(arch)
    batch = small_batch(count) | {"row": torch.arange(count)}
    batches = [{key: leaf[i : i + 5] for key, leaf in batch.items()} for i in range(0, count, 5)]
    inference = AdaptiveInference() if adaptive else FixedInference(3)
    recorder, counts = OutputRecorder(["preds", "steps"], "unused.npz"), StepCountEvaluator(4)
    accuracy = AccuracyEvaluator("stablemax_cross_entropy")
    result = evaluate(model, batches, inference, [accuracy, recorder, counts], world)
    seconds, result = result.pop("seconds"), result | accuracy.report()
    arrays = {name: torch.from_numpy(array) for name, array in recorder.arrays().items()}
    return {"result": result, "seconds": seconds, "arrays": arrays, "counts": counts.report()}


def robustness(world: World, count: int, size: int = 5) -> list[Record]:
    """How robustly a float64 model gives the answers of its clean starts, for two noise scales."""
    model, batch = small_model("trm-att"), small_batch(count) | {"row": torch.arange(count)}
    batch["labels"] = FixedInference(3).predict(model.eval(), batch).answers.int()
    batches = [{key: leaf[i : i + size] for key, leaf in batch.items()} for i in range(0, count, size)]
    settings = EvalConfig(max_steps=3, perturbed_starts=perturbed_starts.Settings(starts=3))
    measured = measure_robustness(model, [batches], [0.0, 0.5], settings, world)
    return [{key: value for key, value in record.items() if key != "seconds"} for record in measured]


def rollouts(world: World, count: int) -> Record:
    """The table of stochastic rollouts of a float64 model; every second row's labels are its answer without noise."""
    model, batch = small_model("trm-att"), small_batch(count) | {"row": torch.arange(count)}
    labels = FixedInference(3).predict(model.eval(), batch).answers.int()
    labels[1::2, 0] = (labels[1::2, 0] + 1) % 5
    batch["labels"] = labels
    batches = [{key: leaf[i : i + 5] for key, leaf in batch.items()} for i in range(0, count, 5)]
    probe = StabilityProbe((1e-3, 1e-2), num_steps=2)
    inference = StochasticRollouts(0.3, "z_L", 3, 4, judged_steps=[2], probe=probe)
    kept = RolloutRecorder(3, [2, 4], probe.sizes)
    spent = evaluate(model, batches, inference, [kept], world)["forward_passes"]
    table = kept.table()
    names = ("row", "q", "exact", "answer", "margin", "growth")
    return {name: torch.from_numpy(getattr(table, name)) for name in names} | {"forward_passes": spent}


def row_outcomes(world: World, count: int) -> Record:
    """Which of `count` rows are exact, of labels that every second answer equals."""
    model, batch = small_model("trm-att"), small_batch(count) | {"row": torch.arange(count)}
    labels = FixedInference(3).predict(model.eval(), batch).answers.int()
    labels[1::2, 0] = (labels[1::2, 0] + 1) % 5
    batch["labels"] = labels
    batches = [{key: leaf[i : i + 5] for key, leaf in batch.items()} for i in range(0, count, 5)]
    kept = RowOutcomes()
    evaluate(model, batches, FixedInference(3), [kept], world)
    rows, exact = (torch.from_numpy(array) for array in kept.outcomes())
    return {"row": rows, "exact": exact}


def evaluation(world: World, run: str, options: dict[str, Any], toys: bool = False) -> Record:
    """The record of `evaluate.py checkpoint=RUN/best.pt` with some options, but for what its results cost in time."""
    if toys:
        evaluator_list.JUDGES = ROOM
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        record = evaluate_checkpoint(Options(checkpoint=f"{run}/best.pt", device="cpu", **options), world)
    for result in record["results"]:
        timed = [result["compute"], *(result["robustness"] or [])]
        for cost in timed:
            cost.pop("seconds")
            cost.pop("rows_per_second", None)
    return {"results": record["results"], "printed": printed.getvalue()}


def together(world: World, failing: Sequence[int], user_error: bool) -> str:
    """Fail inside `World.together` on some ranks."""
    distributed._LAST_WORDS_SECONDS = 0.1
    with world.together():
        if world.rank in failing:
            raise UserError(f"rank {world.rank}") if user_error else ValueError(f"rank {world.rank}")
    return "went on"
