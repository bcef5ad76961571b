"""Lyapunov spectra of a trained model, puzzle by puzzle, and what they say about success and failure.

    python analysis/spectra/lyapunov_spectrum.py --checkpoint RUN/best.pt --num-exponents 8 --num-puzzles 512 --out out
    python analysis/spectra/lyapunov_spectrum.py --checkpoint RUN0/best.pt RUN1/best.pt --out out   # runs together

Every puzzle takes the same number of supervision steps: ACT is recorded, not applied. The first test puzzles are taken,
those that chose no checkpoint; --sample case-control takes those that fail, where they are rare, and as many solved
ones of equal difficulty. Success is read from the very trajectory that the tangents follow. Exponents are in nats
per supervision step; divided by the sub-updates of a step they are per sub-update. The first --burn-in steps align the
tangents and are left out of the headline numbers (all are kept in the files).

Written to --out, of several checkpoints to a folder each, with the joint statistics above them: spectrum.npz
(documented in analysis/spectra/spectrum_files.py), spectrum.csv, summary.json, and the figures lambda1_success_failure
and spectrum_shift. Stopped, the same command goes on; with more --num-puzzles it adds the missing ones.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()


from analysis.command_line import check_at_least, outside_runs
from analysis.estimates.failure_statistics import settled_table
from analysis.figures.made_of import results_folder
from analysis.samples.case_control import sample_of
from analysis.samples.networks import Job, jobs_of, one_batch, open_network
from analysis.spectra.long_trajectories import SETTLED_DRIFT
from analysis.spectra.spectrum_files import spectrum_store
from analysis.spectra.spectrum_measurement import SpectrumSettings, measure_batch
from analysis.spectra.spectrum_summary import WRITTEN, write_summary
from analysis.spectra.spectrum_table import SpectrumTable
from models.recursion_maps import RecursionMaps
from models.srm import StableRecursionModel
from training.records.provenance import result_origin


def measure(job: Job, settings: SpectrumSettings, options: argparse.Namespace) -> SpectrumTable:
    """Measure what is missing of a job and read all of it."""
    network = open_network(job.checkpoint, options.data_path)
    model = network.model
    if options.sample == "case-control":
        sample, answers = sample_of(
            network, network.rows(), num_steps=settings.num_steps, count=options.num_puzzles, seed=settings.seed,
            folder=job.folder, label=job.label,
        )  # fmt: skip
        # Rates are of the pool: of a sample that is half failed, settled puzzles would seem to be half wrong.
        settled = settled_table(answers["drift"].mean(axis=1), answers["failed"], SETTLED_DRIFT)
        rows, weight = sample.rows, sample.weight
        of_sample = {"sample": sample.described() | {"settled_by_correct": asdict(settled)}}
    else:
        rows, weight, of_sample = network.rows(options.num_puzzles), None, {}
    sub_updates = len(RecursionMaps(model, one_batch(network.puzzle_set, rows[:1], network.device)).sub_updates)
    if sub_updates % settings.qr_interval:
        raise UserError(f"--qr-interval {settings.qr_interval} does not divide the {sub_updates} sub-updates of a step")
    # What no exponent can exceed in a model's own norm.
    bound = model.contraction_bound().lambda_per_step if isinstance(model, StableRecursionModel) else None
    described = {
        **network.described(),
        "sub_updates_per_step": sub_updates,
        **({} if bound is None else {"lambda_bound_per_step": bound}),
        **asdict(settings),
    }
    store = spectrum_store(job.folder, described)
    arrays = network.measured(
        store, rows, lambda batch: measure_batch(model, batch, settings, network.violations),
        batch_size=options.batch_size, desc=f"spectra of {job.label}", weight=weight,
    )  # fmt: skip
    return SpectrumTable(job.label, arrays, described | of_sample)


def check_options(options: argparse.Namespace) -> None:
    """Errors: `UserError` for numbers out of range."""
    check_at_least(options, num_exponents=1, num_puzzles=1, num_steps=1, qr_interval=1, batch_size=1, draws=100)
    if options.sample == "case-control" and options.num_puzzles < 2:
        raise UserError("--num-puzzles 1: case-control takes failed and solved ones, expected at least 2")
    if options.burn_in is None:
        options.burn_in = options.num_steps // 4
    if not 0 <= options.burn_in < options.num_steps:
        raise UserError(f"--burn-in {options.burn_in}: expected 0 to {options.num_steps - 1}, fewer than --num-steps")
    if options.extended_steps and options.extended_steps <= options.num_steps:
        raise UserError(
            f"--extended-steps {options.extended_steps}: expected 0 or more than --num-steps {options.num_steps}"
        )


def parser() -> argparse.ArgumentParser:
    options = FlagParser(description=__doc__)
    add = options.add_argument
    add("--checkpoint", type=Path, nargs="+", required=True, metavar="FILE", help="weights such as RUN/best.pt")
    add("--out", type=outside_runs, required=True, metavar="DIR", help="folder for the results")
    add("--num-exponents", type=int, default=8, metavar="K", help="leading exponents (default 8)")
    add("--num-puzzles", type=int, default=512, metavar="N", help="test puzzles (default 512, or all there are)")
    add("--sample", choices=("first", "case-control"), default="first",
        help="case-control: answer all test puzzles, measure failed and as many solved ones, equally hard")  # fmt: skip
    add("--num-steps", type=int, default=16, metavar="T", help="supervision steps (default 16)")
    add("--burn-in", type=int, metavar="B", help="first steps left out of the exponents (default a quarter of T)")
    add("--extended-steps", type=int, default=0, metavar="N",
        help="go on to step N with the leading tangent: transient or attractor (default 0: do not)")  # fmt: skip
    add("--qr-interval", type=int, default=1, metavar="M", help="sub-updates between two QRs (default 1)")
    add("--norm", choices=("euclidean", "model"), default="euclidean", help="model: the one in which an SRM contracts")
    add("--replicate", action="store_true", help="measure twice, with other tangents: the estimator's variance")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--seed", type=int, default=0, help="of tangents and bootstrap")
    add("--draws", type=int, default=10000, help="of bootstrap and permutations (default 10000)")
    add("--batch-size", type=int, default=32, metavar="B", help="puzzles at a time (default 32)")
    add("--data-path", metavar="DIR", help="dataset folder; default: the run's")
    add("--device", default="auto", help="auto | cpu | cuda | cuda:N; MPS has no float64")
    return options


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    options = parser().parse_args(argv)
    check_options(options)
    settings = SpectrumSettings(**{field.name: getattr(options, field.name) for field in fields(SpectrumSettings)})
    start = time.perf_counter()
    try:
        jobs = jobs_of(options.checkpoint, options.out, device=options.device, dtype=options.dtype)
        # Other measurements are refused by what is measured; the figure of a longer one would stay beside a shorter.
        names = ("num_puzzles", "burn_in", "draws", "sample", "extended_steps")
        asked = {f"--{name.replace('_', '-')}": getattr(options, name) for name in names}
        results_folder(options.out, WRITTEN, options.checkpoint, asked, grow=["--num-puzzles"], script=__file__)
        tables = [measure(job, settings, options) for job in jobs]
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("stopped: what is measured is kept, the same command goes on") from stop
    except ValueError as error:  # of the engine: k > D, tangents lost, ...
        raise UserError(str(error)) from error
    origin = result_origin(options.device if options.device.startswith("cuda") else "cpu")
    origin["checkpoints"] = [str(path) for path in options.checkpoint]
    write_summary(options.out, tables, burn_in=options.burn_in, draws=options.draws, seed=options.seed, origin=origin)
    say(f"{time.perf_counter() - start:.0f} s; written: {options.out}/summary.json (also spectrum.csv, figures)")


if __name__ == "__main__":
    main()
