"""Does the Q head prefer stable rollouts, and which way to choose among rollouts solves most for its passes?

    python analysis/rollouts/q_head_vs_stability.py --checkpoint RUN/best.pt --out out/ptrm
        [--rollouts 100] [--sigma 0.3] [--site z_L] [--max-steps 64] [--num-puzzles 1000]
    python analysis/rollouts/q_head_vs_stability.py --read RUN/evaluation_best_steps64_rollouts.npz --out out/ptrm

Rolls the first test puzzles out with noise at every supervision step (Probabilistic TRM, arXiv:2605.19943), or reads
the rollouts of evaluate.py, and compares Q with the growth of small perturbations among the rollouts of one puzzle.
Stopped at any time, the same command goes on after the last whole batch of puzzles.

Writes to --out: rollouts.npz (training/evaluation/rollout_table.py says what it holds), summary.json, and the figure
Fig4_optional_PTRM_Q_head_vs_stability as .png and .svg, what it shows as .csv, the caption as .txt.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from errors import UserError, exit_on_user_error, require_packages, say, writing

require_packages()

from analysis.command_line import check_at_least, outside_runs
from analysis.figures.figure_files import make_folder, plt, save_caption, save_figure
from analysis.figures.made_of import results_folder
from analysis.rollouts.q_head_figure import (
    NAME,
    caption,
    draw,
    figure_data,
    read_figure,
    rollout_entry,
    save_figure_data,
    summarise,
)
from analysis.samples.measured_rows import remove_parts
from arguments import FlagParser
from dataset.eval_batches import EvalBatches
from dataset.puzzle_folder import fingerprint
from long_work import progress_bar
from models.flops import step_flops
from models.recursive_model import RecursiveModel
from training.devices import resolve_device, resolve_dtype
from training.distributed import World
from training.evaluation.answering import evaluate
from training.evaluation.evaluation_report import Selection, select_rows
from training.evaluation.rollout_table import RolloutRecorder, RolloutTable, joined, npz_bytes, read_rollouts
from training.inference.choose import build_inference, check_inference
from training.inference.stability import ProbeSettings
from training.inference.stochastic_rollouts import Settings as Rollouts
from training.inference.stochastic_rollouts import StochasticRollouts, judged_steps
from training.initial_weights import weights_digest
from training.records.provenance import result_origin
from training.settings.checks import check_ranges
from training.settings.schema import EvaluateConfig
from training.storage.atomic_file import write_bytes_atomically
from training.trained_model import only_set, open_puzzle_checkpoint, refuse_other_data, restore_model

ROLLOUTS, PARTS = "rollouts.npz", "parts"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = FlagParser(
        "q_head_vs_stability.py", help_command="python analysis/rollouts/q_head_vs_stability.py", description=__doc__
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights in a run folder, such as RUN/best.pt")
    source.add_argument(
        "--read", type=Path, metavar="FILE", help="evaluation_NAME_rollouts.npz of evaluate.py, or a rollouts.npz"
    )
    parser.add_argument("--out", type=outside_runs, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--bootstrap", type=int, default=10_000, metavar="N", help="draws (default: %(default)s)")
    add = parser.add_argument_group("how rollouts are made, with --checkpoint").add_argument
    add("--rollouts", type=int, default=100, metavar="R", help="of each puzzle (default: %(default)s)")
    add("--sigma", type=float, default=0.3, help="noise of each value (default: %(default)s)")
    add("--site", default="z_L", help="z_H | z_L | both: what has noise (default: %(default)s)")
    add("--max-steps", type=int, default=64, metavar="T", help="supervision steps (default: %(default)s)")
    add("--judged-steps", type=int, nargs="+", default=[], metavar="T", help="default: T/4, T/2 and T")
    add("--num-puzzles", type=int, default=1000, metavar="N", help="first test puzzles (%(default)s)")
    add("--batch-size", type=int, default=64, metavar="B", help="puzzles at a time (%(default)s)")
    add("--noise-seed", type=int, default=0, metavar="S", help="(default: %(default)s)")
    add("--clean-first", action="store_true", help="the first rollout has no noise")
    add(
        "--stability-sizes",
        type=float,
        nargs="+",
        default=[1e-3, 1e-4, 1e-2],
        metavar="D0",
        help="probes, parts of the state's norm; the first is drawn and selects (1e-3 1e-4 1e-2)",
    )
    add("--stability-steps", type=int, default=4, metavar="M", help="of a probe (default: %(default)s)")
    add("--stability-directions", type=int, default=2, metavar="K", help="(default: %(default)s)")
    add("--data-path", metavar="DIR", help="dataset folder (default: the run's)")
    add("--device", default="auto", help="auto | cpu | cuda | cuda:N; MPS has no float64 (default: %(default)s)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    check_at_least(options, num_puzzles=1, batch_size=1, bootstrap=1)
    return options


def evaluation_settings(options: argparse.Namespace) -> EvaluateConfig:
    """The options of evaluate.py that these flags stand for. Errors: `UserError`."""
    rollouts = Rollouts(
        sigma=options.sigma, site=options.site, rollouts=options.rollouts, noise_seed=options.noise_seed,
        clean_first=options.clean_first, judged_steps=options.judged_steps,
        probes=ProbeSettings(options.stability_sizes, options.stability_steps, options.stability_directions),
    )  # fmt: skip
    asked: dict[str, Any] = {"max_steps": options.max_steps, "stochastic_rollouts": rollouts}
    settings = EvaluateConfig(**asked)
    check_ranges(settings, "eval.")
    check_inference(settings)
    return settings


def rolled_out(options: argparse.Namespace) -> tuple[RolloutTable, dict[str, Any]]:
    """The rollouts of a checkpoint: those of an earlier call as far as they go, else made. Errors: `UserError`."""
    settings = evaluation_settings(options)
    checkpoint = open_puzzle_checkpoint(options.checkpoint, device=options.device, dtype=options.dtype)
    config = checkpoint.config
    if options.data_path:
        config.data_paths_test = [options.data_path]
    selections = select_rows(config, "test", options.num_puzzles)
    sets = [selected.puzzle_set for selected in selections]
    if not options.data_path:
        refuse_other_data(checkpoint, sets, f"--data-path {sets[0].root}")
    only_set(sets)
    (selection,) = selections
    device = resolve_device(config.device, float64="distances are measured")
    model = restore_model(checkpoint, selection.puzzle_set.metadata, device)
    rollouts = Rollouts.of(settings)
    recipe = rollouts.recipe() | {
        "checkpoint": str(options.checkpoint), "weights_sha256": weights_digest(model),
        "dataset": fingerprint(selection.puzzle_set.folder, selection.puzzle_set.split),
        "steps": judged_steps(rollouts.judged_steps, options.max_steps), "puzzles": len(selection.rows),
        "batch_size": options.batch_size, "device": device.type,
        "dtype": str(resolve_dtype(config.dtype, device)).removeprefix("torch."),
        "step_flops": step_flops(model.config, training=False),
    }  # fmt: skip
    target = options.out / ROLLOUTS
    if target.exists():
        table = _same(target, recipe)
    else:
        table = _roll_out(model, selection, settings, recipe, options)
        _write(target, npz_bytes(table.arrays(recipe)))
    remove_parts(options.out / PARTS, "[0-9]*.npz")
    return table, recipe


def _roll_out(
    model: RecursiveModel, selection: Selection, settings: EvaluateConfig, recipe: dict[str, Any],
    options: argparse.Namespace,
) -> RolloutTable:  # fmt: skip
    """Batch by batch, each in a file of its own before the next begins."""
    claim(options)
    folder = make_folder(options.out / PARTS)
    inference = build_inference(settings, [selection.puzzle_set], 0)
    assert isinstance(inference, StochasticRollouts)
    starts = range(0, len(selection.rows), options.batch_size)
    paths = [folder / f"{number:05d}.npz" for number in range(len(starts))]
    tables = {path: _same(path, recipe) for path in paths if path.exists()}
    # Without a terminal there is no bar, and nobody who waits for it.
    with progress_bar(total=len(paths) * inference.rollouts, initial=len(tables) * inference.rollouts, unit="rollout",
              desc=f"{len(selection.rows)} puzzles") as progress:  # fmt: skip
        inference.on_rollout = progress.update
        for path, start in zip(paths, starts, strict=True):
            if path in tables:
                continue
            # The last batch is filled up: a puzzle's bits may depend on the size of its batch.
            size = min(options.batch_size, len(selection.rows))
            batches = EvalBatches(selection.puzzle_set, selection.rows[start : start + options.batch_size], size)
            recorder = RolloutRecorder(inference.rollouts, recipe["steps"], Rollouts.of(settings).probes.sizes)
            evaluate(model, batches, inference, [recorder], World())
            tables[path] = recorder.table()
            _write(path, npz_bytes(tables[path].arrays(recipe)))
    return joined([tables[path] for path in paths])


def _same(path: Path, recipe: dict[str, Any]) -> RolloutTable:
    """The table of a file that was made in the way that is asked for now. Errors: `UserError`."""
    table, earlier = read_rollouts(path, mend=f"remove {path} to make it again")
    changed = [
        f"{name} {earlier.get(name)!r}, now {value!r}" for name, value in recipe.items() if earlier.get(name) != value
    ]
    if changed:
        raise UserError(f"{path} was made with other settings ({'; '.join(changed)}): name another --out, or remove it")
    return table


def claim(options: argparse.Namespace) -> None:
    """Errors: `UserError` where the results of other rollouts are in the folder."""
    source = options.read or options.checkpoint
    # What an earlier call left there may be drawn again.
    inputs = None if source == options.out / ROLLOUTS else [source]
    results_folder(options.out, ["summary", NAME], inputs, {"--bootstrap": options.bootstrap}, script=__file__)


def read_table(path: Path) -> tuple[RolloutTable, dict[str, Any]]:
    """The test rows of evaluate.py's rollouts, or the table of a rollouts.npz. Errors: `UserError`."""
    mend = "make it with: python evaluate.py checkpoint=RUN/best.pt eval.stochastic_rollouts.sigma=0.3"
    return read_rollouts(path, "test/", "", mend=mend)


def _write(path: Path, data: bytes) -> None:
    with writing(path, "free some space, or name another --out; the same command then goes on"):
        write_bytes_atomically(path, data)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else list(argv)
    options = parse_arguments(words)
    table, settings = read_table(options.read) if options.read else rolled_out(options)
    claim(options)
    summary = result_origin() | summarise(table, settings, options.bootstrap)
    summary |= rollout_entry(summary)
    save_figure_data(figure_data(table, summary), options.out)
    # Drawn from the files, as whoever draws it again will.
    data = read_figure(options.out)
    figure = draw(data)
    paths = save_figure(figure, options.out / NAME, formats=("png", "svg"))
    plt.close(figure)
    # Without the folder, which says nothing about the figure.
    folder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    folder.add_argument("--out")
    command = f"python analysis/rollouts/q_head_vs_stability.py {shlex.join(folder.parse_known_args(words)[1])}"
    save_caption(caption(data, command), options.out / f"{NAME}.txt")
    say(f"written: {paths[0]} (also .svg .csv .txt, and {'' if options.read else f'{ROLLOUTS} '}summary.json)")


if __name__ == "__main__":
    main()
