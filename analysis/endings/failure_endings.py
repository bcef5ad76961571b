"""Where the trajectories of failed puzzles end: on fixed points, round cycles, moving on, or in the answer after all.

    python analysis/endings/failure_endings.py --checkpoint RUN/final.pt --out out/endings
    python analysis/endings/failure_endings.py --checkpoint RUN*/final.pt --extended-steps 1024 --out out/endings

All test puzzles are answered first (those that chose no checkpoint; --pool the first so many of them), after
--num-steps supervision steps; then a sample of failed and as many solved ones of equal difficulty goes on to
--extended-steps, and is answered again from --starts other starts for each of --sigma. No tangents are needed.

Written to --out, of several checkpoints to a folder each with all of them together above: answered.npz, endings.npz
(documented in analysis/endings/ending_measurement.py), summary.json, and the figures endings, survival and restarts.
Runs of one network, width, data and number of updates are one group: means over them have Student's t intervals.
Stopped, the same command goes on.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from analysis.command_line import check_at_least, outside_runs
from analysis.endings.ending_figures import (
    draw_endings,
    draw_restarts,
    draw_survival,
    ending_rows,
    restart_rows,
    survival_rows,
)
from analysis.endings.ending_measurement import EndingSettings, ending_store, measure_endings
from analysis.endings.ending_statistics import KINDS, EndingTable, run_statistics, statistics_over_runs
from analysis.figures.figure_files import make_folder, save_json, save_picture
from analysis.figures.made_of import results_folder
from analysis.samples.case_control import sample_of
from analysis.samples.networks import Job, jobs_of, open_network
from training.records.provenance import result_origin
from training.records.result_numbers import Number, estimate, rate, record_entry

FIGURES = ("endings", "survival", "restarts")
WRITTEN = ("summary", *FIGURES)  # names of all that is written, without endings


def measure(job: Job, settings: EndingSettings, options: argparse.Namespace) -> EndingTable:
    """Measure what is missing of a job and read all of it."""
    network = open_network(job.checkpoint, options.data_path)
    pool = network.rows(options.pool)
    sample, answers = sample_of(
        network, pool, num_steps=settings.num_steps, count=options.num_puzzles, seed=settings.seed, folder=job.folder,
        label=job.label,
    )  # fmt: skip
    described = {
        **network.described(),
        "data": network.puzzle_set.root.name,
        "width": job.checkpoint.config.arch.hidden_size,
        "updates": network.updates,
        **asdict(settings),
    }
    arrays = network.measured(
        ending_store(job.folder, described), sample.rows,
        lambda batch: measure_endings(network.model, batch, settings),
        batch_size=options.batch_size, desc=f"endings of {job.label}", weight=sample.weight,
    )  # fmt: skip
    return EndingTable(job.label, arrays, answers, sample, described, settings.num_steps)


def write_summary(out: Path, tables: Sequence[EndingTable], origin: Mapping[str, Any]) -> None:
    """summary.json and the figures with their numbers and captions."""
    folder = make_folder(out)
    runs = [run_statistics(table) for table in tables]
    summary: dict[str, Any] = {**origin, "runs": runs, "groups": statistics_over_runs(runs)}
    save_json(summary | _entry(summary), folder / "summary.json")
    drawn = [(ending_rows(summary), draw_endings), (survival_rows(tables), draw_survival)]
    if any(table.settings["sigma"] for table in tables):
        drawn.append((restart_rows(summary), draw_restarts))
    for name, (rows, picture) in zip(FIGURES, drawn, strict=False):
        save_picture(picture(rows), folder / name, caption=_caption(name, tables, summary), rows=rows)


def _entry(summary: Mapping[str, Any]) -> dict[str, Any]:
    """For the records of results: every group over its runs."""
    measured: list[Number] = []
    settings = [run["settings"] for run in summary["runs"]]
    steps = settings[0]["num_steps"]
    for group, joint in summary["groups"].items():
        shares = {"solved": joint["accuracy"]} | {f"failures, {kind}": joint["kinds"][kind] for kind in KINDS}
        shares[f"failures settled in the last of {steps} steps"] = joint["settled_failures"]
        shares |= {f"failures still wrong, {kind}": mean for kind, mean in joint["of_still_wrong"].items()}
        shares |= {f"failures not settled at step {step}": mean for step, mean in joint["unsettled_failures"].items()}
        shares["solved puzzles that keep moving"] = joint["solved_that_move"]
        for restart in joint["restarts"]:
            start = f"from sigma {restart['sigma']:g}"
            shares |= {
                f"starts of failures solved {start}": restart["failed_starts_solved"],
                f"failures solved from some start {start}": restart["failed_solved_from_some_start"],
                f"starts of solved puzzles solved {start}": restart["solved_starts_kept"],
            }
        for name, mean in shares.items():
            measured += estimate(f"{group}: {name}, mean over runs", mean, 100, "%")
        for name, mean in joint["free_scores"].items():
            measured += estimate(f"{group}: AUROC of {name}, mean over runs", mean)
        for kind, counted in joint["kinds_counted"].items():
            if counted["denominator"]:
                measured.append(rate(f"{group}: failures, {kind}", counted["numerator"], counted["denominator"]))
        if joint["escape_rate_per_step"] is not None:
            name = f"{group}: failures that settle in a step of the second half, of those left, mean over runs"
            measured += estimate(name, joint["escape_rate_per_step"], 100, "%")
        measured.append(Number(f"{group}: runs", len(joint["runs"])))
    for run in summary["runs"]:
        shown = {"solved": run["accuracy"]}
        shown |= {f"failures, {kind}": run["failed"]["kinds"][kind] for kind in KINDS}
        measured += [
            rate(f"{run['label']}: {name}", counted["numerator"], counted["denominator"])
            for name, counted in shown.items()
            if counted["denominator"]
        ]
    return record_entry(
        measured,
        origin=summary,
        config_hashes=[one["weights_sha256"] for one in settings],
        datasets=[one["data_sha256"] for one in settings],
        seeds=[one["train_seed"] for one in settings],
        findings=[
            f"failed after {settings[0]['num_steps']} steps, followed to step {settings[0]['extended_steps']}, "
            f"{settings[0]['dtype']}; returns within {summary['runs'][0]['tolerance']:g} after at most 16 steps"
        ],
    )


def _caption(name: str, tables: Sequence[EndingTable], summary: Mapping[str, Any]) -> str:
    settings = tables[0].settings
    first = {
        "endings": f"What becomes of puzzles that are failed after {settings['num_steps']} supervision steps, at step "
        f"{settings['extended_steps']}: on a wrong fixed point (the state returns within "
        f"{summary['runs'][0]['tolerance']:g} of its norm after one step), round a wrong cycle (after 2 to 16 steps), "
        "still moving, or solved after all. Shares are means over runs; above each bar the share of all test puzzles "
        "that is solved and the number of failures followed.",
        "survival": "Share of trajectories that still move, by a relative change of at least "
        f"{summary['runs'][0]['settled_drift']:g} at this step or later; failed and solved after "
        f"{settings['num_steps']} steps, all runs of a group together.",
        "restarts": f"Answers after {settings['num_steps']} steps from z0 + sigma times normal noise on both states, "
        f"{settings['starts']} starts each: share of starts that solve the puzzle, mean over runs and 95 % t interval.",
    }[name]
    lines = [first]
    for run in summary["runs"]:
        accuracy = run["accuracy"]
        lines.append(
            f"{run['label']} ({run['group']}): {accuracy['numerator']:,} of {accuracy['denominator']:,} solved; "
            f"{run['failed']['n']:,} failed and {run['solved']['n']:,} solved ones were followed."
        )
    return "\n".join([*lines, f"Figure: {summary['command']}"])


def _scales(text: str) -> tuple[float, ...]:
    """`1e-3,0.1`; `none` for no restarts."""
    if text == "none":
        return ()
    try:
        scales = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers such as 1e-3,0.1,1, or none") from error
    if len(set(scales)) < len(scales) or not all(0 < scale < float("inf") for scale in scales):
        raise argparse.ArgumentTypeError(f"{text!r}: expected each noise scale once, finite and above 0")
    return scales


def parser() -> argparse.ArgumentParser:
    options, default = FlagParser(description=__doc__), EndingSettings()
    add = options.add_argument
    add("--checkpoint", type=Path, nargs="+", required=True, metavar="FILE", help="weights such as RUN/final.pt")
    add("--out", type=outside_runs, required=True, metavar="DIR", help="folder for the results")
    add("--pool", type=int, metavar="N", help="test puzzles that are answered (default all)")
    add("--num-puzzles", type=int, default=1000, metavar="N", help="failed and solved ones followed (default 1000)")
    add("--num-steps", type=int, default=default.num_steps, metavar="T", help="supervision steps (default 16)")
    add("--extended-steps", type=int, default=default.extended_steps, metavar="N", help="the last step (default 256)")
    add("--sigma", type=_scales, default=default.sigma, metavar="S,S,...",
        help="noise scales of other starts, or none (default 1e-3,1e-2,0.1,0.3,1)")  # fmt: skip
    add("--starts", type=int, default=default.starts, metavar="R", help="starts for each scale (default 4)")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--seed", type=int, default=0, help="of the sample")
    add("--batch-size", type=int, default=100, metavar="B", help="puzzles at a time (default 100)")
    add("--data-path", metavar="DIR", help="dataset folder; default: the run's")
    add("--device", default="auto", help="auto | cpu | cuda | cuda:N")
    return options


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    options = parser().parse_args(argv)
    check_at_least(options, num_puzzles=2, num_steps=1, starts=1, batch_size=1)
    if options.pool is not None:
        check_at_least(options, pool=2)
    if options.extended_steps < options.num_steps:
        raise UserError(f"--extended-steps {options.extended_steps}: expected at least --num-steps {options.num_steps}")
    settings = EndingSettings(**{field.name: getattr(options, field.name) for field in fields(EndingSettings)})
    start = time.perf_counter()
    try:
        jobs = jobs_of(options.checkpoint, options.out, device=options.device, dtype=options.dtype)
        names = ("pool", "num_puzzles", "num_steps", "extended_steps", "sigma", "starts", "dtype", "seed", "data_path")
        asked = {f"--{name.replace('_', '-')}": getattr(options, name) for name in names}
        results_folder(options.out, WRITTEN, options.checkpoint, asked, script=__file__)
        tables = [measure(job, settings, options) for job in jobs]
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("stopped: what is measured is kept, the same command goes on") from stop
    origin = result_origin(options.device if options.device.startswith("cuda") else "cpu")
    write_summary(options.out, tables, origin | {"checkpoints": [str(path) for path in options.checkpoint]})
    say(f"{time.perf_counter() - start:.0f} s; written: {options.out}/summary.json (also figures)")


if __name__ == "__main__":
    main()
