"""What training on K trajectories costs beside a clean fixed unroll of the same puzzles: time, passes, memory.

    python scripts/benchmark/trajectories.py --preset trm_att_sudoku_6x6_cpu
    python scripts/benchmark/trajectories.py --preset trm_sudoku_mlp --device cuda --batch-size 96 --json FILE

All kinds of updates are made in one process, in turns, on the same synthetic puzzles and from the same weights. A kind
without an early halt makes `halt_max_steps` steps of every trajectory; so that the ACT rollouts are compared at equal
steps, they run with a halting bias that lets no trajectory halt (`--halting` leaves it out; then look at the passes).
Peak memory is measured in a process of its own for each kind. What each number means: docs/speed.md.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np
import torch

from analysis.command_line import benchmark_entry, check_at_least, check_json_target, save_json_target
from analysis.timing import Timing, seconds_of
from long_work import progress_bar
from scripts.benchmark.measures import WARM_UP_STEPS, Record, training_step, updates_per_sample
from scripts.benchmark.setup import DataShape, compose_preset, data_shape, synthetic_run
from scripts.benchmark.updates import add_setup_options, read_overrides, start_of_record
from training.evaluation.summary_table import aligned
from training.objectives.choose import build_objective
from training.records.provenance import peak_memory
from training.records.result_numbers import Number, quartiles
from training.run import Run
from training.settings.schema import ObjectiveConfig, TrainConfig

BASELINE = "baseline_ce"
_NEVER_HALT = -50.0


def kinds(count: int) -> dict[str, ObjectiveConfig]:
    """The kinds of updates by name; the first is what the others are compared with."""
    noise: dict[str, Any] = {"noise_sampling": "loguniform", "sigma_min": 3e-5, "sigma_max": 3e-3}
    multi: dict[str, Any] = {"name": "multi_perturbed_ce", "num_trajectories": count, **noise}
    return {
        BASELINE: ObjectiveConfig(name="baseline_ce"),
        "single_perturbed_ce": ObjectiveConfig(name="single_perturbed_ce", **noise),
        "parallel_fixed": ObjectiveConfig(**multi),
        "act_mask": ObjectiveConfig(**multi, rollout="act_mask", mask_normalize="valid_steps"),
        "serial_act": ObjectiveConfig(**multi, rollout="serial_act", mask_normalize="valid_steps"),
    }


def counted(run: Run) -> dict[str, int]:
    """Supervision steps of rows so far: with a gradient, and beside them without one."""
    return {"trained": run.progress.samples_seen, "extra": run.progress.extra_passes}


def let_none_halt(run: Run) -> None:
    """No trajectory of this run's next updates halts before the maximum, whatever the architecture's rule."""
    with torch.no_grad():
        bias = run.model.q_head.bias
        assert bias is not None
        bias[0] = _NEVER_HALT


def measure_times(
    config: TrainConfig, shape: DataShape, count: int, repeats: int, *, halting: bool
) -> dict[str, Record]:
    """Seconds of an update, and those over the baseline's of the same turn, and passes per update, by kind."""
    with ExitStack() as stack:
        runs, steps = {}, {}
        for name, settings in kinds(count).items():
            chosen = replace(config, objective=settings)
            run = stack.enter_context(synthetic_run(chosen, shape, build_objective(chosen)))
            if not halting:
                let_none_halt(run)
            runs[name], steps[name] = run, training_step(run, warm_up=WARM_UP_STEPS)
        updates = updates_per_sample(run.device)
        before = {name: counted(run) for name, run in runs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}

        for _ in progress_bar(range(repeats), leave=False):
            for name, step in steps.items():
                seconds[name].append(seconds_of(step, run.device, updates))
        num_updates = repeats * updates
        return {
            name: {
                "seconds": asdict(Timing.of(times)),
                "over_baseline": asdict(Timing.of(list(np.divide(times, seconds[BASELINE])))),
                "passes": {
                    key: (value - before[name][key]) / num_updates for key, value in counted(runs[name]).items()
                },
            }
            for name, times in seconds.items()
        }


def measure_memory(config: TrainConfig, shape: DataShape, count: int, kind: str) -> Record:
    """Growth of the largest resident size, on CUDA of the largest allocation, from before the run is built until a few
    updates are made. To be called in a process that has done nothing else.
    """
    before = peak_memory()["rss_bytes"]
    chosen = replace(config, objective=kinds(count)[kind])
    with synthetic_run(chosen, shape, build_objective(chosen)) as run:
        let_none_halt(run)
        training_step(run, warm_up=WARM_UP_STEPS + 1)
        if run.device.type == "cuda":
            return {"kind": "cuda_allocated", "bytes": torch.cuda.max_memory_allocated(run.device)}
        return {"kind": "resident_growth", "bytes": peak_memory()["rss_bytes"] - before}


def memory_in_a_process_of_its_own(argv: Sequence[str], kind: str) -> Record:
    """`measure_memory` of one kind. Errors: `UserError` with the last line of a process that failed."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *argv, "--memory-of", kind], capture_output=True, text=True
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode or not lines:
        raise UserError(f"peak memory of {kind} could not be measured: {lines[-1] if lines else 'nothing was said'}")
    record: Record = json.loads(lines[-1])
    return record


def numbers(report: Mapping[str, Any]) -> list[Number]:
    """For the records of results: what each kind costs over the clean unroll, then in itself."""
    what = f"{report['preset']} ({report['batch_size']} puzzles, K={report['num_trajectories']})"
    results, smallest = report["results"], report["results"][BASELINE]["peak_memory"]["bytes"]
    measured = [
        quartiles(f"{what}, {name}: time over the clean unroll's", results[name]["over_baseline"], 1, "times")
        for name in sorted(results, key=lambda name: (name != "parallel_fixed", name == BASELINE))
    ]
    for name, kind in results.items():
        peak = kind["peak_memory"]["bytes"]
        measured += [
            quartiles(f"{what}, {name}: update", kind["seconds"], 1e3, "ms"),
            Number(f"{what}, {name}: passes", kind["passes"]["trained"]),
            Number(f"{what}, {name}: peak memory", peak / 2**20, unit="MiB"),
        ]
        if smallest:
            measured.append(
                Number(f"{what}, {name}: peak memory over the clean unroll's", peak / smallest, unit="times")
            )
    return measured


def format_table(results: Mapping[str, Record]) -> str:
    """Aligned columns, one line a kind."""
    rows = [["update", "ms", "quartiles", "/ baseline", "quartiles", "passes", "+ untrained", "peak MiB", "/ baseline"]]
    smallest = results[BASELINE]["peak_memory"]["bytes"]
    for name, record in results.items():
        times, ratio, passes = record["seconds"], record["over_baseline"], record["passes"]
        peak = record["peak_memory"]["bytes"]
        rows.append([
            name, f"{1e3 * times['median']:.2f}", f"{1e3 * times['q1']:.2f}-{1e3 * times['q3']:.2f}",
            f"{ratio['median']:.3f}", f"{ratio['q1']:.3f}-{ratio['q3']:.3f}", f"{passes['trained']:g}",
            f"{passes['extra']:g}", f"{peak / 2**20:.0f}", f"{peak / smallest:.2f}" if smallest else "-",
        ])  # fmt: skip
    return "\n".join(aligned(rows, left=0))


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = FlagParser(description=__doc__)
    parser.add_argument("--preset", required=True, metavar="ID", help="file name of config/experiment")
    parser.add_argument("--num-trajectories", type=int, default=4, metavar="K", help="per puzzle; default 4")
    add_setup_options(parser, "updates of each kind")
    parser.add_argument("--halting", action="store_true", help="let trajectories of the ACT rollouts halt by q")
    parser.add_argument("--memory-of", choices=list(kinds(2)), help="only the memory of one kind, as a line of JSON")
    options = parser.parse_args(words)
    check_at_least(options, num_trajectories=2, repeats=1)
    check_json_target(options.json)
    overrides = read_overrides(options)
    # Training on perturbed trajectories keeps its states in float32: bfloat16 loses small noise.
    config = compose_preset(options.preset, {"state_dtype": "float32", **overrides})
    shape = data_shape(config, options.preset, options.shape)
    count = options.num_trajectories
    if options.memory_of is not None:
        say(json.dumps(measure_memory(config, shape, count, options.memory_of)))
        return
    memory = {name: memory_in_a_process_of_its_own(words, name) for name in kinds(count)}
    times = measure_times(config, shape, count, options.repeats, halting=options.halting)
    results = {name: record | {"peak_memory": memory[name]} for name, record in times.items()}
    say(*format_table(results).split("\n"))
    record = start_of_record(config, overrides, options) | {
        "num_trajectories": count,
        "halting": options.halting,
        "results": results,
    }
    save_json_target(options.json, record | benchmark_entry(numbers(record), record["environment"]))


if __name__ == "__main__":
    main()
