"""From the settings `collatz` to the parts of a run: network, data, objective, and what watches the rate."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from errors import UserError
from projects.collatz.decrease import HingeDecrease, SaturatingDecrease, pair_margins
from projects.collatz.eval_file import read_eval_file
from projects.collatz.evaluation_report import test_states, validation_states
from projects.collatz.kept_out import KeptOut, kept_out
from projects.collatz.pairs import PairSource
from projects.collatz.scoring import CollatzScoring
from projects.collatz.segments import SegmentSource
from projects.collatz.settings import collatz_of
from projects.collatz.value_networks import NETWORKS, CollatzValue
from training.averages import EMA
from training.devices import has_float64, keep_freed_memory, resolve_dtype
from training.distributed import World
from training.hooks.base import Hook
from training.hooks.loss_plateau import LossPlateau
from training.objectives.base import Objective
from training.optim import assert_ownership, dense_optimizer
from training.run import Run
from training.seeding import derived_seed, seed_everything
from training.settings.schema import TrainConfig
from training.setup import device_of
from training.storage.run_folder import RunFolder
from training.validation import ValidationRecord


def build_value(config: TrainConfig, device: torch.device) -> CollatzValue:
    """The freshly initialised network of a run. Errors: `UserError` for a size that cannot be built."""
    settings = collatz_of(config)
    assert settings.preset is not None
    try:
        network = NETWORKS[settings.preset](settings.lookahead, settings.layers, derived_seed(config.seed, "weights"))
        return network.to(device, resolve_dtype(config.dtype, device))
    except (RuntimeError, MemoryError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"option 'collatz.layers': found {settings.layers}, which cannot be built on {device} ({reason}); expected "
            "smaller widths"
        ) from error


def states_kept_out(config: TrainConfig) -> KeptOut:
    """The test orbits, and the states of the samples that choose and report."""
    settings = collatz_of(config)
    return kept_out(test_states(settings.test_starts) + validation_states(settings.validation_starts))


def build_source(config: TrainConfig, network: CollatzValue | None = None) -> PairSource | SegmentSource:
    """The data of a run; mined numbers are chosen by `network`."""
    settings, states, size = collatz_of(config), states_kept_out(config), config.global_batch_size
    if settings.preset == "orbit":
        return SegmentSource(settings, size, config.seed, states)
    feedback: Callable[[Any], torch.Tensor] | None = None
    logs: type[np.floating[Any]] = np.float64
    if network is not None:
        device = next(network.parameters()).device
        logs = np.float64 if has_float64(device) else np.float32

        def feedback(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return pair_margins(network, {name: leaf.to(device) for name, leaf in batch.items()})

    return PairSource(settings, size, config.seed, states, feedback, logs)


def build_objective(config: TrainConfig) -> Objective:
    """The loss that the preset names."""
    if collatz_of(config).preset == "orbit":
        return SaturatingDecrease(collatz_of(config), config.epochs)
    return HingeDecrease(collatz_of(config))


def build_run(config: TrainConfig, world: World) -> Run:
    """All parts of a Collatz run, freshly initialised."""
    device = device_of(config, world.local_rank)
    keep_freed_memory(device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    # Read before there is a folder: a file that cannot be used leaves nothing behind.
    settings = collatz_of(config)
    rows = None if settings.eval_csv is None else read_eval_file(Path(settings.eval_csv))
    network = build_value(config, device)
    network.train()
    dense = dense_optimizer(config.optimizer, network, config.lr, (config.beta1, config.beta2), config.weight_decay)
    assert_ownership(network, [dense])
    hooks: list[Hook] = [LossPlateau(config.lr)] if settings.legacy_lr_plateau else []
    return Run(
        config=config,
        world=world,
        device=device,
        folder=RunFolder(config.checkpoint_path or "."),
        model=network,
        averages={"ema": EMA(network, config.ema_rate)} if config.ema else {},
        dense=dense,
        sparse=None,
        objective=build_objective(config),
        source=build_source(config, network),
        planned_updates=config.epochs,
        scoring=partial(CollatzScoring, rows=rows),
        headline=CollatzScoring.headline,
        judged_on={} if rows is None else {"eval_csv": {"sha256": rows.sha256, "rows": len(rows)}},
        hooks=hooks,
        validation=ValidationRecord(patience=config.early_stop_patience),
    )
