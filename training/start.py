"""Composition: from a resolved config to a run that is ready to train."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dataset.content_sums import content_sums
from dataset.plain_data import JsonError, read_json_object
from dataset.puzzle_folder import fingerprint, recognised_tasks
from dataset.puzzle_metadata import PuzzleFolders
from errors import UserError, say
from training.averages import EMA, Average
from training.compiling import settle_compiling
from training.devices import keep_freed_memory
from training.distributed import LostProcessError, World, start_world
from training.evaluation.evaluators import check_outputs
from training.hooks.base import refuse_conflicts
from training.inference.choose import build_inference, deciding, keeps_steps
from training.judges.judging import build_judges
from training.known_rows import (
    other_validation,
    refuse_rows_that_chose,
    warn_of_another_network,
    warn_of_known_rows,
)
from training.loop import run_training
from training.memory_need import TRAINED_COPIES, require_memory
from training.objectives.act_streaming import ACTStreaming
from training.objectives.base import Objective
from training.objectives.choose import build_objective, give_terms
from training.projects import builder_of
from training.rooms import HOOKS
from training.run import Run, restore
from training.scoring import Scoring
from training.seeding import seed_everything
from training.settings.checks import check_read
from training.settings.evaluator_list import refuse_awaited
from training.settings.identity import config_hash, default_run_name, given_in_vain, judged_otherwise, run_identity
from training.settings.resolving import load_config_file
from training.settings.schema import TrainConfig
from training.setup import (
    build_network,
    build_optimizers,
    device_of,
    load_initial_weights,
    network_shape,
    open_evaluation_rows,
    open_training_data,
    planned_updates,
)
from training.storage.checkpoint import load_newest, load_state
from training.storage.run_folder import RunFolder, sweep_temporaries
from training.storage.start_decision import decide_start
from training.terms.base import owned_modules
from training.update import NonFiniteError
from training.validation import ValidationRecord

Builder = Callable[[TrainConfig, World], Run]


def act_objective(config: TrainConfig) -> Objective:
    """The objective of pretraining, whatever the settings name."""
    return ACTStreaming(config.arch.loss.loss_type, config.accumulation_slices)


def check_evaluation(config: TrainConfig) -> None:
    """What evaluation is asked for must exist: nothing is left out in silence."""
    check_outputs(config.eval_save_outputs, "eval_save_outputs", stepwise=keeps_steps(config.eval))
    refuse_awaited(config.evaluators)


def check_processes(config: TrainConfig, world: World) -> None:
    """Slots must divide evenly among processes and slices."""
    slices = world.size * config.accumulation_slices
    if config.global_batch_size % slices:
        raise UserError(
            f"global_batch_size={config.global_batch_size} does not divide into {world.size} processes x "
            f"{config.accumulation_slices} accumulation_slices; use a multiple of {slices}"
        )


def build_run(config: TrainConfig, world: World, objective: Objective | None = None) -> Run:
    """All parts of a run, freshly initialised. objective: in place of the one that the settings name."""
    device = device_of(config, world.local_rank)
    keep_freed_memory(device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    folders = PuzzleFolders()
    source = open_training_data(config, verify=world.is_main, folders=folders)
    evaluation_rows = open_evaluation_rows(config, folders, verify=world.is_main)
    for rows in evaluation_rows:
        build_judges(config.evaluators, rows.puzzle_set, rows.validation)  # what cannot be judged is said now
    data_sums = {}
    if world.is_main:
        sets = [*source.sets, *(rows.puzzle_set for rows in evaluation_rows)]
        for line in recognised_tasks(sets):
            say(line)
        data_sums = content_sums(sets)
    shape = network_shape(config, source.metadata, device)
    copies = (1 if config.freeze_weights else TRAINED_COPIES) + config.ema
    require_memory(shape, device, copies=copies, rows=config.global_batch_size // world.size)
    model = build_network(config, source.metadata, device)
    model.train()
    objective = objective or build_objective(config)
    give_terms(objective, config, model)
    owned = owned_modules(objective.terms)
    averages: dict[str, Average[Any]] = {"ema": EMA(model, config.ema_rate, owned)} if config.ema else {}
    hooks = [settings.build() for _, settings in HOOKS.in_use(config.hook)]
    refuse_conflicts(hooks)
    source.wants_losses |= any(hook.wants_losses for hook in hooks)
    for hook in hooks:
        averages |= hook.averages(model, owned)
    dense, sparse = build_optimizers(config, model, owned)
    return Run(
        config=config,
        world=world,
        device=device,
        folder=RunFolder(config.checkpoint_path or "."),
        model=model,
        averages=averages,
        dense=dense,
        sparse=sparse,
        objective=objective,
        inference=build_inference(config.eval, [rows.puzzle_set for rows in evaluation_rows], config.seed),
        source=source,
        evaluation_rows=evaluation_rows,
        judged_on={
            "judged_on": [fingerprint(rows.puzzle_set.folder, rows.puzzle_set.split) for rows in evaluation_rows]
        },
        data_sums=data_sums,
        scoring=Scoring,
        hooks=hooks,
        planned_updates=planned_updates(config, source, objective.updates_per_batch),
        validation=ValidationRecord(
            delta=config.fast_eval_delta,
            force_every=config.force_full_eval_every,
            patience=config.early_stop_patience,
        ),
    )


def choose_builder(config: TrainConfig) -> Builder:
    """What makes the parts of a run of this kind: that of its project, or the puzzles' with their objective."""
    return builder_of(config) or build_run


def place(run: Run) -> None:
    """Put the run at its start: own newest state > resume=FILE > init_from > scratch. Every rank reads.

    No collective; `share_weights` comes next.
    """
    config = run.config
    decision = decide_start(run.folder, config.resume, config.init_from)
    if run.world.is_main:
        say(decision.message)
    if decision.kind == "own_state":
        newest = load_newest(run.folder.path)
        if newest is None:
            raise UserError(f"{run.folder.path}: the state vanished while starting; start again")
        state, path = newest
        restore(run, state, str(path))
        run.state_file = path
    elif decision.kind == "resume_file":
        restore(run, load_state(decision.path), str(decision.path))  # type: ignore[arg-type]
        run.state_file = decision.path
    elif decision.kind == "init_from":
        load_initial_weights(run.model, str(decision.path))
        for average in run.averages.values():
            average.restart()
        warn_of_another_network(run, decision.path)  # type: ignore[arg-type]
        warn_of_known_rows(run, decision.path)  # type: ignore[arg-type]
    if decision.kind in ("init_from", "scratch"):
        settle_compiling(run)


def warn_about_evaluation(run: Run) -> None:
    """Say when the best checkpoint so far was chosen by another evaluation than the one that goes on."""
    if run.state_file is None or run.validation.best is None or not run.world.is_main:
        return
    changed = [*_other_answers(run), *filter(None, [other_validation(run)])]
    if changed:
        say(
            f"warning: {', '.join(changed)} since update {run.step}: the weights go on as they would have, but the "
            f"best so far (update {run.validation.best.step}) was chosen by the earlier evaluation",
            file=sys.stderr,
        )


def warn_of_a_past_end(run: Run) -> None:
    """Say where the end that is asked for lies before the state that goes on."""
    end = run.config.max_steps
    if end is not None and run.step > end and run.world.is_main:
        say(f"warning: max_steps={end} is past: the run is at update {run.step} and ends there", file=sys.stderr)


def _other_answers(run: Run) -> list[str]:
    """Settings that decide which answers are judged, where the run that goes on had others."""
    assert run.state_file is not None
    before = run.state_file.with_name(run.folder.all_config.name)
    if not before.is_file():
        return []
    try:
        earlier = load_config_file(before)
    except UserError as error:
        say(f"warning: how the best checkpoint was chosen is not known: {error}", file=sys.stderr)
        return []
    chosen_by, now = (
        {"evaluate_weights": config.evaluate_weights}
        | {f"eval.{name}": value for name, value in deciding(config.eval).items()}
        for config in (earlier, run.config)
    )
    return [f"{name} {chosen_by[name]} -> {value}" for name, value in now.items() if chosen_by[name] != value]


def refuse_other_test_rows(run: Run) -> None:
    """Errors: `UserError` where the summary that is there is of other test rows than the one that would replace it."""
    if not run.folder.summary.exists() or not run.folder.all_config.is_file():
        return
    before, now = load_config_file(run.folder.all_config).max_test_rows, run.config.max_test_rows
    if before != now:
        was, asked = ("null" if rows is None else str(rows) for rows in (before, now))
        raise UserError(
            f"{run.folder.summary} reports with max_test_rows={was}, now {asked}, and would lose its numbers: give "
            f"max_test_rows={was}, or report on other rows beside it with: python evaluate.py "
            f"checkpoint={shlex.quote(str(run.folder.best))}{'' if now is None else f' max_test_rows={now}'}"
        )


def share_weights(run: Run) -> None:
    """Rank 0's weights on every rank. Collective."""
    averaged = [module for average in run.averages.values() for module in (average.model, *average.owned.values())]
    for module in (run.model, *run.owned.values(), *averaged):
        run.world.broadcast_model(module)


def already_finished(run: Run) -> bool:
    """The same command on a finished run: say where its results are and touch nothing."""
    summary = run.folder.summary
    if not (run.is_complete and summary.exists() and run.folder.final.exists()):
        return False
    try:
        steps = read_json_object(summary).get("steps")
    except JsonError:
        return False
    if steps != run.step:
        return False
    if run.world.is_main:
        say(f"finished at update {run.step}; results are in {summary} ({_way_on(run)})")
        _say_what_is_not_done(run)
    return True


def _way_on(run: Run) -> str:
    """How a run that has ended goes on, in words."""
    config = run.config
    if run.validation.exhausted:
        return f"early_stop_patience={config.early_stop_patience} ended it; with null it goes on"
    if not run.is_through:
        return "a larger max_steps goes on"
    if "epochs" not in run_identity(config) and config.eval_interval is not None:
        also = " and max_steps go" if config.max_steps is not None and run.step >= config.max_steps else " goes"
        return f"a larger epochs{also} on"
    own = f"it is planned for epochs={config.epochs}, and a longer run is another one"
    if builder_of(config) is not None:
        return own
    return f"{own}: init_from={shlex.quote(str(run.folder.final))} with another checkpoint_path begins one"


def _say_what_is_not_done(run: Run) -> None:
    """Options of the command that would have judged the run otherwise, had it not ended."""
    try:
        changed = judged_otherwise(load_config_file(run.folder.all_config), run.config)
    except UserError as error:
        say(f"warning: how the run was judged is not known: {error}", file=sys.stderr)
        return
    if changed:
        listed = ", ".join(f"{key} {then} -> {now}" for key, (then, now) in changed.items())
        anew = f"; python evaluate.py checkpoint={run.folder.final} judges its weights anew"
        say(
            f"warning: {listed}: not done, as the run has ended and was judged as before"
            + (anew if builder_of(run.config) is None else ""),
            file=sys.stderr,
        )


def _say_what_is_not_read(config: TrainConfig) -> None:
    vain = given_in_vain(config)
    if vain:
        listed = ", ".join(f"{key}={value}" for key, value in vain.items())
        say(f"warning: {listed}: not read by this run, as the part that it is of is off", file=sys.stderr)


@contextlib.contextmanager
def held_folder(folder: RunFolder, world: World) -> Iterator[None]:
    """Rank 0 makes and locks the run folder and sweeps what a killed run left; the others wait for it.

    Collective. A folder that rank 0 cannot have ends all processes.
    """
    with contextlib.ExitStack() as held:
        with world.together():
            if world.is_main:
                folder.create()
                held.enter_context(folder.lock())
                sweep_temporaries(folder.path)
        yield


def train_in(world: World, config: TrainConfig) -> str:
    """Run training as configured among processes that have met; returns `done` or `stopped`.

    Errors: `UserError`, `NonFiniteError` (on every rank), `LostProcessError`.
    """
    with world.together():
        check_processes(config, world)
        check_evaluation(config)
        if not RunFolder(config.checkpoint_path or ".").states and config.resume in ("auto", "never"):
            check_read(config)
            if world.is_main:
                _say_what_is_not_read(config)
        run = choose_builder(config)(config, world)
        # A start that lies elsewhere is read before there is a folder: when it is refused, nothing is left behind.
        starts_elsewhere = not run.folder.states
        if starts_elsewhere:
            place(run)
    with held_folder(run.folder, world):
        with world.together():
            if not starts_elsewhere or run.folder.states:
                place(run)
            refuse_rows_that_chose(run)
            refuse_other_test_rows(run)
            warn_about_evaluation(run)
            warn_of_a_past_end(run)
        share_weights(run)
        return "done" if already_finished(run) else run_training(run)


def under_an_older_name(config: TrainConfig) -> TrainConfig:
    """The same run in the folder that an earlier rule of default names gave it, where there is one and no newer.

    A default name ends in a hash of the settings; what enters the hash has changed over time. A folder beside the one
    to be made counts when its `all_config.yaml` says the same settings and the same start.
    """
    folder, name = Path(config.checkpoint_path or "."), default_run_name(config)
    if config.run_name != name or folder.name != name or folder.exists():
        return config
    for older in sorted(folder.parent.glob(f"{name[:-8]}????????")):
        try:
            before = load_config_file(older / RunFolder(older).all_config.name)
        except UserError:  # not a run, or none that can go on
            continue
        if config_hash(before) == config_hash(config) and before.init_from == config.init_from:
            return replace(config, run_name=older.name, checkpoint_path=str(older))
    return config


def train(config: TrainConfig) -> str:
    """Run training as configured; returns `done` or `stopped`. Entry scripts call this."""
    config = under_an_older_name(config)
    device_type = device_of(config).type
    world = World()
    try:
        world = start_world(device_type, config.collective_timeout_seconds)
        return train_in(world, config)
    except NonFiniteError as error:
        # Every rank has the same error, so only one prints it.
        world.leave(1, f"error: {error}" if world.is_main else None)
    except LostProcessError as error:
        world.leave(1, f"error: {error}")
    finally:
        world.close(failed=sys.exc_info()[0] is not None)
