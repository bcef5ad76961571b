"""What a run on puzzles is going to do and to cost, before anything is written."""

from dataclasses import replace

import torch

from dataset.puzzle_metadata import PuzzleFolders
from dataset.puzzle_source import PuzzleSource
from models.flops import step_flops
from models.registry import count_parameters
from training.devices import resolve_dtype
from training.inference import perturbed_starts
from training.noise import SITES
from training.plan_costs import cost_lines
from training.settings.schema import TrainConfig
from training.setup import (
    build_network,
    device_of,
    load_initial_weights,
    open_evaluation_rows,
    open_training_data,
    planned_updates,
)
from training.storage.checkpoint import load_state
from training.storage.run_folder import RunFolder
from training.storage.start_decision import decide_start


def plan_lines(config: TrainConfig, *, read_weights: bool = True, test_rows: int | None = None) -> list[str]:
    """The resolved plan, as lines to print.

    Reads settings, data and weights as the run would, and writes nothing. On a CPU a supervision step is timed.
    Errors: `UserError`, as the run would raise.

    Args:
        read_weights: False where `init_from` names a file that only stands in for weights to come.
        test_rows: of test data to come, all different, in place of those that lie there.
    """
    folders = PuzzleFolders()
    source = open_training_data(config, folders=folders)
    device = device_of(config)
    model = build_network(config, source.metadata, torch.device("cpu"))
    decision = decide_start(RunFolder(config.checkpoint_path or "."), config.resume, config.init_from)
    updates_made = 0
    if decision.kind == "init_from":
        if read_weights:
            load_initial_weights(model, str(decision.path))
    elif decision.path is not None:
        updates_made = load_state(decision.path)["step"]
    shape, objective = model.config, config.objective
    # Pretraining makes one step of each slot in an update, all others whole rollouts.
    rollouts = objective.in_use
    count, steps = objective.num_trajectories if rollouts else 1, shape.halt_max_steps
    passes_of_data = config.epochs // source.epochs_per_iteration
    last = min(planned_updates(config, source), passes_of_data * source.num_batches_estimate)
    last = min(last, config.max_steps or last)
    updates = max(0, last - updates_made)
    fixed = not rollouts or objective.rollout == "parallel_fixed"
    most = "" if fixed else "at most "

    rows = count * config.global_batch_size
    trained = rows * (steps if rollouts else 1)
    extra = 0 if shape.no_ACT_continue else rows
    if not fixed and objective.mask_normalize == "trajectory":
        extra += trained + extra
    flops = trained * step_flops(replace(shape, no_ACT_continue=True), training=True)
    flops += extra * step_flops(shape, training=False)

    if test_rows is None:
        of_sets = open_evaluation_rows(config, folders)
        validation, fast, test = (
            sum(len(getattr(chosen, name)) for chosen in of_sets) for name in ("validation", "fast", "test")
        )
    else:  # as `validation_rows` chooses
        validation = min(config.validation_size, test_rows // 5)
        fast, test = min(config.fast_validation_size, validation), test_rows - validation
        test = min(test, config.max_test_rows or test)
    evaluations = _evaluations(config, source, updates_made, last)
    scales, starts = len(config.eval.during.sigma_grid), perturbed_starts.Settings.of(config.eval).starts
    answered = validation + fast * (scales * starts + (fast < validation))
    tested = 3 * test * (1 + starts * len(perturbed_starts.Settings.of(config.eval).sigma))
    passes = (evaluations * answered + tested) * steps
    of_evaluation = passes * step_flops(shape, training=False)

    lines = [
        f"start        {decision.message}",
        f"run folder   {config.checkpoint_path}",
        f"model        {config.arch.name}, {count_parameters(model):,} parameters, {steps} supervision steps; layers "
        f"{_name(resolve_dtype(config.dtype, device))}, states {_state_dtype(config, device)}, on {device.type}",
        f"data         {', '.join(config.data_paths)}: {source.total_groups:,} groups",
        f"objective    {objective.name}"
        + (f", {objective.rollout}" if rollouts else ": a step of each slot in an update, with halting")
        + ("" if fixed else f", normalised by {objective.mask_normalize}"),
        f"trajectories {config.global_batch_size} puzzles x {count} = {rows} per update",
        f"noise        {_noise(config)}",
        f"updates      {updates:,} (of {last:,}); lr {config.lr:g}, warm-up {config.lr_warmup_steps}, "
        f"{config.optimizer}, weight decay {config.weight_decay:g}, ema {config.ema}, seed {config.seed}",
        f"evaluation   {evaluations} times on {validation} rows"
        + (f", from perturbed starts on {fast} rows at {scales} noise scales x {starts} rollouts" if scales else "")
        + f"; at the end initial, best and final on {test:,} test rows",
        f"cost         training {most}{updates * (trained + extra):,} forward passes, of which {most}"
        f"{updates * trained:,} trained, {most}{updates * flops:.3g} FLOPs",
        f"             evaluation about {passes:,} forward passes, {of_evaluation:.3g} FLOPs",
        "             a forward pass is one supervision step of one row",
    ]  # fmt: skip
    return lines + cost_lines(config, model, source, device, rows, updates * flops + of_evaluation)


def _evaluations(config: TrainConfig, source: PuzzleSource, made: int, last: int) -> int:
    """How many of the updates `made` + 1 to `last` are evaluated.

    They are those at `fast_eval_interval`, where a pass of data ends, and the last one.
    """
    if last <= made:
        return 0
    interval, epochs = config.fast_eval_interval or last + 1, source.epochs_per_iteration
    per_pass = max(1, source.num_batches_estimate)
    passes = range(made // per_pass + 1, last // per_pass + 1)
    ends = {number * per_pass for number in passes if number * epochs >= (config.min_eval_interval or 0)}
    return len(ends | {last} | {number * interval for number in range(made // interval + 1, last // interval + 1)})


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _state_dtype(config: TrainConfig, device: torch.device) -> str:
    return _name(resolve_dtype(config.dtype if config.state_dtype == "auto" else config.state_dtype, device))


def _noise(config: TrainConfig) -> str:
    objective = config.objective
    if objective.name == "baseline_ce" or not objective.in_use:
        return "none"
    scale = {
        "fixed": f"sigma {objective.sigma:g}",
        "loguniform": f"sigma log-uniform in [{objective.sigma_min:g}, {objective.sigma_max:g}]",
        "mixture": f"sigma {objective.sigma:g}, none with probability {objective.p_clean:g}",
    }[objective.noise_sampling]
    first = objective.clean_warmup_steps
    full = first + objective.sigma_ramp_steps
    when = f"growing from 0 at update {first} to that at update {full}" if full else "from the first update on"
    return f"{scale} on {' and '.join(SITES.get(objective.perturb, (f'the {objective.perturb}',)))}, {when}"
