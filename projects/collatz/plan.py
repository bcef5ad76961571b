"""What a Collatz run is going to do and to cost, before anything is written."""

from pathlib import Path

import torch

from dataset.source import START
from projects.collatz.decrease import further_states
from projects.collatz.eval_file import read_eval_file
from projects.collatz.scoring import overlap_line
from projects.collatz.settings import collatz_of
from projects.collatz.setup import build_source, build_value
from training.settings.schema import TrainConfig
from training.setup import device_of
from training.storage.run_folder import RunFolder
from training.storage.start_decision import decide_start

# Batches that the overlap with test orbits is estimated from.
_SAMPLE = 16


def plan_lines(config: TrainConfig) -> list[str]:
    """The resolved plan, as lines to print. Reads what the run would read, writes nothing. Errors: `UserError`."""
    settings = collatz_of(config)
    rows = 0 if settings.eval_csv is None else len(read_eval_file(Path(settings.eval_csv)))
    network = build_value(config, torch.device("cpu"))
    decision = decide_start(RunFolder(config.checkpoint_path or "."), config.resume, config.init_from)
    source = build_source(config)
    position = dict(START)
    for _ in range(_SAMPLE):
        _, position = source.next(position)
    overlap = {"rows_on_test_orbits": source.overlap, "rows_prepared": source.drawn}
    states = 2 + len(further_states(settings))
    values = config.global_batch_size * (settings.segment_steps + 1 if settings.preset == "orbit" else states)
    updates = config.epochs if config.max_steps is None else min(config.epochs, config.max_steps)
    return [
        f"start        {decision.message}",
        f"run folder   {config.checkpoint_path}",
        f"network      {settings.preset}, lookahead {settings.lookahead}, layers {','.join(map(str, settings.layers))}"
        f": {sum(parameter.numel() for parameter in network.parameters()):,} parameters, {config.dtype}, on "
        f"{device_of(config).type}",
        f"data         {_data(config)}",
        f"split        first {_SAMPLE} batches: {overlap_line(overlap, settings.decontaminate)}",
        f"loss         margin {settings.margin:g}, growth weight {settings.growth_weight:g}"
        + "".join(f", T{ahead} with weight {weight:g}" for ahead, weight in further_states(settings))
        + (f", anchor {settings.target_type}" if settings.preset == "faithful" else
           f", tau {settings.tau_start:g} to {settings.tau_end:g}"),
        f"updates      {updates:,}; {config.optimizer}, lr {config.lr:g}, {_schedule(config)}, weight decay "
        f"{config.weight_decay:g}, ema {config.ema}, seed {config.seed}",
        f"evaluation   quick every {settings.quick_eval_interval:,}, full every {settings.eval_interval:,} updates; "
        f"{rows:,} rows of {settings.eval_csv or 'no file'}; on-orbit samples of {settings.validation_starts} and "
        f"{settings.test_starts} starts",
        f"cost         {values:,} values of V an update, {updates * values * network.trained_flops():.3g} FLOPs",
    ]  # fmt: skip


def _data(config: TrainConfig) -> str:
    settings = collatz_of(config)
    if settings.preset == "orbit":
        return (
            f"{config.global_batch_size} segments of {settings.segment_steps} steps, starts of {settings.fewest_bits} "
            f"to {settings.most_bits} bits"
        )
    curriculum = "all seeds at once"
    if settings.curriculum:
        curriculum = f"seeds from {settings.start_seeds} on over {settings.ramp_len:,} updates, empty pool: "
        curriculum += settings.empty_pool
    mining = "no mining"
    if settings.mine_negatives:
        mining = f"{settings.mine_count} mined every {settings.mine_interval:,} updates"
        mining += f" from {settings.mine_start_epoch:,} on" if settings.mine_start_epoch else ""
    hard = int(config.global_batch_size * settings.hard_ratio)
    return f"{config.global_batch_size} numbers, {hard} of them hard; {curriculum}; {mining}"


def _schedule(config: TrainConfig) -> str:
    if collatz_of(config).legacy_lr_plateau:
        return "halved when single losses set no record"
    return "constant" if config.lr_min_ratio == 1.0 else "half a cosine down to 0"
