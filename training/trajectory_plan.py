"""What a run on perturbed trajectories is going to do and to cost, before anything is written."""

from dataclasses import replace

import torch

from dataset.puzzle_metadata import PuzzleFolders
from errors import UserError
from models.flops import step_flops
from models.registry import count_parameters
from training.devices import resolve_dtype
from training.inference import perturbed_starts
from training.noise import SITES
from training.settings.schema import TrainConfig
from training.setup import build_network, device_of, load_initial_weights, open_evaluation_rows, open_training_data
from training.storage.checkpoint import load_state
from training.storage.run_folder import RunFolder, decide_start


def plan_lines(config: TrainConfig) -> list[str]:
    """The resolved plan, as lines to print.

    Reads settings, data and weights as the run would, and writes nothing. Errors: `UserError`, as the run would raise.
    """
    folders = PuzzleFolders()
    source = open_training_data(config, folders=folders)
    device = device_of(config)
    model = build_network(config, source.metadata, torch.device("cpu"))
    decision = decide_start(RunFolder(config.checkpoint_path or "."), config.resume, config.init_from)
    updates_made = 0
    if decision.kind == "init_from":
        load_initial_weights(model, str(decision.path))
    elif decision.path is not None:
        updates_made = load_state(decision.path)["step"]
    shape, objective = model.config, config.objective
    count, steps = objective.num_trajectories, shape.halt_max_steps
    if config.max_steps is None:
        raise UserError("a plan needs max_steps: without it the end is set by the data")
    updates = max(0, config.max_steps - updates_made)
    most = "" if objective.rollout == "parallel_fixed" else "at most "

    trained = count * config.global_batch_size * steps
    extra = 0 if shape.no_ACT_continue else count * config.global_batch_size
    if objective.rollout != "parallel_fixed" and objective.mask_normalize == "trajectory":
        extra += trained + extra
    flops = trained * step_flops(replace(shape, no_ACT_continue=True), training=True)
    flops += extra * step_flops(shape, training=False)

    of_sets = open_evaluation_rows(config, folders)
    validation, fast, test = (
        sum(len(getattr(rows, name)) for rows in of_sets) for name in ("validation", "fast", "test")
    )
    evaluations = updates // config.fast_eval_interval if config.fast_eval_interval else 0
    scales, starts = len(config.eval.during.sigma_grid), perturbed_starts.Settings.of(config.eval).starts
    answered = validation + fast * (1 + scales * starts)
    passes = (evaluations * answered + 3 * test + validation + fast) * steps

    lines = [
        f"start        {decision.message}",
        f"run folder   {config.checkpoint_path}",
        f"model        {config.arch.name}, {count_parameters(model):,} parameters, {steps} supervision steps; layers "
        f"{_name(resolve_dtype(config.dtype, device))}, states {_state_dtype(config, device)}, on {device.type}",
        f"data         {', '.join(config.data_paths)}: {source.total_groups:,} groups",
        f"objective    {objective.name}, {objective.rollout}"
        + ("" if objective.rollout == "parallel_fixed" else f", normalised by {objective.mask_normalize}"),
        f"trajectories {config.global_batch_size} puzzles x {count} = {config.global_batch_size * count} per update",
        f"noise        {_noise(config)}",
        f"updates      {updates:,} (of {config.max_steps:,}); lr {config.lr:g}, warm-up {config.lr_warmup_steps}, "
        f"{config.optimizer}, weight decay {config.weight_decay:g}, ema {config.ema}, seed {config.seed}",
        f"evaluation   every {config.fast_eval_interval} updates on {validation} rows"
        + (f", from perturbed starts on {fast} rows at {scales} noise scales x {starts} rollouts" if scales else "")
        + f"; at the end initial, best and final on {test:,} test rows",
        f"cost         training {most}{updates * (trained + extra):,} forward passes, of which {most}"
        f"{updates * trained:,} trained, {most}{updates * flops:.3g} FLOPs",
        f"             evaluation about {passes:,} forward passes, "
        f"{passes * step_flops(shape, training=False):.3g} FLOPs",
        "             a forward pass is one supervision step of one row",
    ]  # fmt: skip
    return lines


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _state_dtype(config: TrainConfig, device: torch.device) -> str:
    return _name(resolve_dtype(config.dtype if config.state_dtype == "auto" else config.state_dtype, device))


def _noise(config: TrainConfig) -> str:
    objective = config.objective
    if objective.name == "baseline_ce":
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
