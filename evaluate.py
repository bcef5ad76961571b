"""Evaluate a checkpoint on the puzzles that did not choose it.

    python evaluate.py checkpoint=RUN/best.pt
    python evaluate.py checkpoint=RUN/best.pt data_paths_test=[data/OTHER] max_test_rows=10000 device=cuda
    python evaluate.py checkpoint=RUN/best.pt eval.max_steps=128 eval.adaptive_halt=true eval.vote.views=8
    python evaluate.py checkpoint=RUN/best.pt eval.perturbed_starts.sigma=[1e-4,1e-3,1e-2]
    python evaluate.py checkpoint=RUN/best.pt eval.stochastic_rollouts.sigma=0.3 eval.stochastic_rollouts.rollouts=100
    torchrun --nproc-per-node 8 evaluate.py checkpoint=RUN/step_10000 save_outputs=[inputs,labels,preds,logits]

The settings are read from all_config.yaml beside the checkpoint, ours or one of the official code; eval.* is not
among them, so that without it an evaluation is the official one. Printed and written to evaluation_NAME.json beside
the checkpoint: exact accuracy on the test rows and, apart from them, on the validation rows, and what it cost;
accuracy after each supervision step, by difficulty, from perturbed starts, and of trivial predictors; and how many of
the rows are puzzles that the network was trained on. NAME is that of the weights, and says everything in which an
evaluation is not the full default one: evaluation_best_first200_bfloat16_steps64_vote8.json.

eval.perturbed_starts.sigma asks for accuracy from perturbed starts, beside everything else.
eval.stochastic_rollouts.sigma asks for rollouts with noise at every supervision step (Probabilistic TRM): q_halt
chooses one of them, whose answer is judged. evaluation_NAME.json then says what other choices would solve, against
forward passes, and evaluation_NAME.npz holds every rollout (training/evaluation/rollout_table.py). Choosing by
stability is among them where probes are asked for, which cost passes of their own:
eval.stochastic_rollouts.probes.sizes=[1e-3].
"""

import contextlib
import copy
import io
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from errors import UserError, exit_on_user_error, require_packages, say, writing

require_packages()

import torch

from dataset.puzzle_folder import fingerprint, recognised_tasks
from dataset.puzzle_metadata import PuzzleFolders
from models.registry import count_parameters
from options import MOST_ROWS, REQUIRED, anything, at_least, one_of, option, section, text
from training.devices import dtype_name, resolve_device, resolve_dtype
from training.distributed import World, start_world
from training.evaluation.answering import Evaluator
from training.evaluation.evaluation_report import measure, select_rows, training_label_counts
from training.evaluation.evaluators import OUTPUTS, OutputRecorder, check_outputs
from training.evaluation.result_files import KEPT, dtype_parts, kept_beside, predictions_file, report_path
from training.evaluation.rollout_report import RolloutEvaluator
from training.inference.choose import check_inference, cost_line, keeps_steps, mode_parts, planned_passes
from training.inference.stability import ProbeSettings
from training.inference.stochastic_rollouts import Settings as Rollouts
from training.judges.judging import Judging
from training.known_rows import known_of
from training.records.provenance import collect_provenance, without_home
from training.records.result_numbers import Number, dataset_hashes, judged_rates, machine_of, rate, record_entry
from training.settings.evaluator_list import listed, name_parts, refuse_awaited
from training.settings.identity import config_hash
from training.settings.key_values import parse_key_values
from training.settings.schema import DTYPES, Device, EvaluateConfig, TrainConfig, paths
from training.setup import device_of
from training.storage.atomic_file import write_json_atomically
from training.trained_model import Checkpoint, open_puzzle_checkpoint, refuse_other_data, restore_model


@dataclass
class Options:
    """Options of evaluate.py."""

    checkpoint: str = option(REQUIRED, "weights file in a run folder, such as RUN/best.pt", text)
    data_paths_test: list[str] = option([], "dataset folders; default: those of the run", paths)
    split: str = option("all", "which rows; all = both, reported apart", one_of("test", "validation", "all"))
    max_test_rows: int | None = option(None, "only the first N test rows", at_least(1))
    validation_size: int | None = option(
        None, "rows held out as validation; default: the run's; 0 reports all rows", at_least(0)
    )
    batch_size: int | None = option(None, "default: the run's", at_least(1, MOST_ROWS))
    evaluators: list[Any] | None = option(
        None,
        "what is judged beside accuracy, as in a run: names, or {name: NAME} with options; null = what the task of "
        "the rows names, [] = nothing",
        anything,
    )
    save_outputs: list[str] = option(
        [],
        f"arrays for predictions_NAME.npz (test rows) and predictions_NAME_validation.npz: {', '.join(OUTPUTS)}",
        anything,
    )
    eval: EvaluateConfig = section(EvaluateConfig, "how rows are answered")
    output: str | None = option(None, "the JSON file, instead of evaluation_NAME.json", text)
    device: str = option("auto", "where the network is; auto = a GPU where there is one", Device())
    dtype: str | None = option(None, "of the layers; default: the run's", one_of(*DTYPES))


def check_options(options: Options) -> None:
    """Combinations and names. Errors: `UserError`."""
    check_inference(options.eval)
    check_outputs(options.save_outputs, "save_outputs", stepwise=keeps_steps(options.eval))
    options.evaluators = listed(options.evaluators)
    refuse_awaited(options.evaluators)


def asked_of(options: Options, checkpoint: Checkpoint, dtype: Sequence[str]) -> dict[str, list[str]]:
    """Every way in which an evaluation is not the full default one, in words, by what they are about.

    dtype: what is said of that, nothing for the run's.
    """
    rows = [] if options.split == "all" else [f"{options.split}_rows"]
    rows += [] if options.max_test_rows is None else [f"first{options.max_test_rows}"]
    if options.validation_size not in (None, checkpoint.config.validation_size):
        rows.append(f"validation{options.validation_size}")
    return {
        "data": [Path(path).resolve().name for path in options.data_paths_test],
        "rows": rows,
        "dtype": list(dtype),
        "inference": mode_parts(options.eval),
        "evaluators": name_parts(options.evaluators),
    }


def result_name(asked: Mapping[str, Sequence[str]], checkpoint: Checkpoint) -> str:
    """What the files of an evaluation are called: the weights, and all that is asked for."""
    return "_".join([checkpoint.name, *(word for words in asked.values() for word in words)])


def planned_files(options: Options, result: str, kinds: Sequence[str], processes: int) -> dict[str, dict[str, Any]]:
    """What may be written beside the report, as `kept_beside` takes it. kinds: of rows."""
    planned: dict[str, dict[str, Any]] = {f"evaluation_{result}": {"processes": processes}}  # the judges' folder
    if Rollouts.of(options.eval).in_use:
        planned[f"evaluation_{result}.npz"] = {"processes": 1}
    if options.save_outputs:
        share = {"arrays": list(dict.fromkeys(options.save_outputs)), "processes": processes}
        for kind in kinds:
            for rank in range(processes):
                planned[predictions_file(result, kind, options.split, rank, processes)] = share
    return planned


def evaluate_checkpoint(options: Options, world: World) -> dict[str, Any]:
    """Measure, print and write; returns the record. Every process must call it; the first one reports."""
    with contextlib.nullcontext() if world.is_main else contextlib.redirect_stderr(io.StringIO()):  # one warns for all
        checkpoint = open_puzzle_checkpoint(options.checkpoint, device=options.device)
    config = copy.deepcopy(checkpoint.config)
    if options.dtype is not None:
        config.dtype, config.state_dtype = options.dtype, "auto"
    folders = PuzzleFolders()
    train_counts = training_label_counts(config, folders)
    config.data_paths_test = options.data_paths_test or config.data_paths_test
    if options.validation_size is not None:
        config.validation_size = options.validation_size
    selections = select_rows(config, options.split, options.max_test_rows, folders)
    sets = [selection.puzzle_set for selection in selections]
    if not options.data_paths_test:
        refuse_other_data(checkpoint, sets, f"data_paths_test=[{sets[0].root}]")
    if world.is_main:
        for line in recognised_tasks(sets):
            say(line)
    device = device_of(config, world.local_rank)
    metadata = sets[0].metadata
    for other_set in sets:
        other = other_set.metadata
        if (other.seq_len, other.vocab_size) != (metadata.seq_len, metadata.vocab_size):
            raise UserError(
                f"{other_set.root} has seq_len {other.seq_len} and vocab_size {other.vocab_size}, "
                f"{sets[0].root} has {metadata.seq_len} and {metadata.vocab_size}: one model "
                "reads one shape, evaluate them one at a time"
            )
    asked = asked_of(options, checkpoint, dtype_parts(checkpoint, options.dtype, metadata, device))
    result = result_name(asked, checkpoint)
    folder = checkpoint.path.parent
    tested = dict.fromkeys((puzzle_set.folder, puzzle_set.split) for puzzle_set in sets)
    identity: dict[str, Any] = {
        "checkpoint_sha256": checkpoint.sha256,
        "run_settings": config_hash(
            replace(checkpoint.config, data_paths=[], data_paths_test=[])
        ),  # not where data lie
        "datasets": [fingerprint(data, split) for data, split in tested],
        "asked": asked,
    }
    path = report_path(folder / f"evaluation_{result}.json", options.output, identity)
    if options.output is not None:  # what is kept beside a report is called as the report is
        result = path.stem.removeprefix("evaluation_")
    kinds = [selection.kind for selection in selections]
    kept = kept_beside(folder, path, planned_files(options, result, kinds, world.size))
    noisy = Rollouts.of(options.eval)
    if noisy.in_use:
        prepare_rollouts(noisy, config, device)
    model = restore_model(replace(checkpoint, config=config), metadata, device)
    if world.is_main:
        num_rows = sum(len(selection.rows) for selection in selections)
        most = "at most " if options.eval.adaptive_halt else ""
        passes = planned_passes(options.eval, model.config.halt_max_steps)
        say(cost_line(num_rows, passes, model.config, most=most), flush=True)
    session = collect_provenance({}, device=device)
    record: dict[str, Any] = {
        "checkpoint": checkpoint.path.name,
        **identity,
        "command": without_home("python " + shlex.join(sys.argv)),
        "git": {key: value for key, value in session["git"].items() if key in ("commit", "dirty")},
        "config_hash": config_hash(config),
        "seed": config.seed,
        "num_params": count_parameters(model),
        "device": device.type,
        "dtype": dtype_name(resolve_dtype(config.dtype, device)),
        "world_size": world.size,
        **{name: session[name] for name in ("cpu", "gpu", "num_threads")},
        KEPT: kept,
        "results": [],
    }
    judging = Judging(options.evaluators)
    keepers: dict[str, Evaluator] = {}  # of outputs and rollouts, by file
    distinct = list(dict.fromkeys((puzzle_set.root, puzzle_set.set_name) for puzzle_set in sets))
    for number, selection in enumerate(selections):
        prefix = f"{selection.kind}/" if len(distinct) == 1 else f"{number}_{selection.kind}/"
        outputs = rollouts = None
        if options.save_outputs:
            file = predictions_file(result, selection.kind, options.split, world.rank, world.size)
            set_number = distinct.index((selection.puzzle_set.root, selection.puzzle_set.set_name))
            outputs = OutputRecorder(options.save_outputs, file, set_number if len(distinct) > 1 else None)
        if noisy.in_use:
            steps = options.eval.max_steps or model.config.halt_max_steps
            rollouts = RolloutEvaluator(noisy, steps, model.config, f"evaluation_{result}.npz", prefix)
        judges = judging.build(selection.puzzle_set, selection.rows)
        found, lines = measure(
            model,
            selection,
            world,
            settings=options.eval,
            seed=config.seed,
            loss_type=config.arch.loss.loss_type,
            batch_size=options.batch_size or config.eval_batch_size or config.global_batch_size,
            train_counts=train_counts,
            known=known_of(folder, selection.puzzle_set, selection.rows),
            judges={label: judge.evaluator for label, judge in judges.items()},
            outputs=outputs,
            rollouts=rollouts,
        )
        record["results"].append(found)
        judging.add(judges)
        for keeper in (outputs, rollouts):
            if keeper is not None and keeper.file in keepers:
                keepers[keeper.file].add(keeper)
            elif keeper is not None:
                keepers[keeper.file] = keeper
        if world.is_main:
            say(*lines, flush=True)
    with world.together():  # the report first: what stands beside it is never of nobody knows what
        if world.is_main:
            write_record(path, record | evaluation_entry(record, judging.judges))
    with writing(folder, "free some space"):
        writing_here = [keeper for keeper in keepers.values() if world.is_main or keeper.keeps_shares]
        written = [file for keeper in writing_here for file in keeper.files(folder)]
        written += judging.files(lambda label: folder / f"evaluation_{result}" / label, world)
    for file_written in written:
        say(f"written: {file_written}")
    return record


# Parts of `mode` that have words of their own; another inference's are told as they are.
_WORDED = ("max_steps", "adaptive_halt", "vote", "rollouts")


def evaluation_entry(report: Mapping[str, Any], judges: Iterable[str] = ()) -> dict[str, Any]:
    """For the records of results: accuracy and cost of each selection of rows, and the rates of judges (labels)."""
    measured, kinds = [], [result["rows"] for result in report["results"]]
    for result in report["results"]:
        mode, compute, exact = result["mode"], result["compute"], result["exact_accuracy"]
        several = kinds.count(result["rows"]) > 1
        what = f"{result['rows']} rows" + (f" of {result['data']} ({result['set']})" if several else "")
        what += f", {mode['max_steps']} steps" + (", adaptive" if mode["adaptive_halt"] else "")
        what += f", vote of {mode['vote']}" if mode["vote"] > 1 else ""
        what += f", highest q of {mode['rollouts']} stochastic rollouts" if "rollouts" in mode else ""
        what += "".join(f", {name} {value}" for name, value in mode.items() if name not in _WORDED)
        if exact["denominator"]:
            measured.append(rate(f"{what}: exact_accuracy", exact["numerator"], exact["denominator"]))
        measured += judged_rates({label: result[label] for label in judges if label in result}, before=f"{what}: ")
        measured += [
            Number(f"{what}: mean steps", compute["mean_steps"]),
            Number(f"{what}: forward passes", compute["forward_passes"]),
            Number(f"{what}: operations", compute["flops"], unit="FLOPs"),
            Number(f"{what}: speed", compute["rows_per_second"], unit="rows/s"),
            Number(f"{what}: time", compute["seconds"], unit="seconds"),
        ]
    return record_entry(
        [*measured, Number("parameters", report["num_params"])],
        origin=report,
        config_hashes=[report["config_hash"]],
        datasets=dataset_hashes(report["datasets"]),
        seeds=[report["seed"]],
        hardware=[f"{machine_of(report)}, {report['dtype']}"],
        seconds=sum(result["compute"]["seconds"] for result in report["results"]),
    )


def prepare_rollouts(settings: Rollouts, config: TrainConfig, device: torch.device) -> None:
    """States in float32 at least; no probes of stability where they would be lost, or cannot be measured."""
    dtype = resolve_dtype(config.dtype, device)
    if dtype != torch.float64 and config.state_dtype == "auto":
        config.state_dtype = "float32"
    if settings.probes.in_use and (dtype == torch.bfloat16 or device.type == "mps"):
        settings.probes = ProbeSettings()
        reason = "bfloat16 layers round the probes away; give dtype=float32 for it"
        if device.type == "mps":
            reason = "distances are measured in float64, which mps lacks; give device=cpu for it"
        say(f"warning: no stability of rollouts: {reason}", file=sys.stderr)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """The record as strict JSON. Errors: `UserError` naming the way out when the folder refuses."""
    with writing(path, "name another with output=FILE.json"):
        write_json_atomically(path, record)
    say(f"written: {path}")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else list(argv)
    options = parse_key_values(words, Options, description=__doc__ or "")
    check_options(options)
    world = start_world(resolve_device(options.device).type, 600.0)
    try:
        evaluate_checkpoint(options, world)
    finally:
        world.close()


if __name__ == "__main__":
    main()
