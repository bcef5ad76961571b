"""What training on perturbed trajectories costs beside a clean fixed unroll: time, passes, steps and memory, in turns.

    python scripts/benchmark_trajectories.py --preset quickstart --batch-size 8
    python scripts/benchmark_trajectories.py --preset trm_sudoku_att --device cuda --repeats 20 --json rollouts.json
    python scripts/benchmark_trajectories.py --preset quickstart --own-halting --init-from runs/quickstart/final.pt

Measured in one process, in turns, each with an optimizer and an average of its own: baseline_ce with B puzzles,
single_perturbed_ce, and multi_perturbed_ce with K trajectories of each of the B puzzles, rolled out parallel_fixed,
serial_act and act_mask. All take the same number of steps unless --own-halting lets trajectories halt where q_halt
says so. What each number means: docs/speed.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from errors import UserError, exit_on_user_error
from scripts.benchmark import (
    add_preset_options,
    check_measurement,
    describe_environment,
    read_overrides,
    write_record,
)
from scripts.benchmark_measures import Record
from scripts.benchmark_setup import data_shape
from scripts.trajectory_measures import is_equally_long, measure_variants, variants

SCHEMA_VERSION = 1
COLUMNS = ("update", "K", "ms", "quartiles", "x clean", "quartiles", "passes", "extra", "steps", "peak MiB", "x clean")
_OWN = ("objective", "objective.name", "objective.rollout", "objective.num_trajectories")


def table_row(rollout: Record) -> list[str]:
    """One line of the table, in the order of `COLUMNS`."""
    seconds, relative, peak, steps = (rollout[name] for name in ("seconds", "over_clean", "peak_bytes", "mean_steps"))
    return [
        rollout["name"],
        str(rollout["num_trajectories"]),
        f"{1e3 * seconds['median']:.2f}",
        f"{1e3 * seconds['q1']:.2f}-{1e3 * seconds['q3']:.2f}",
        f"{relative['median']:.3f}",
        f"{relative['q1']:.3f}-{relative['q3']:.3f}",
        f"{rollout['trained_passes']:g}",
        f"{rollout['extra_passes']:g}",
        "-" if steps is None else f"{steps:.2f}",
        "-" if peak is None else f"{peak / 2**20:.2f}",
        "-" if peak is None else f"{rollout['peak_over_clean']:.3f}",
    ]


def format_table(record: Record) -> str:
    """Aligned columns, one line for each kind of update, and under it the comparisons."""
    rows = [list(COLUMNS), *map(table_row, record["rollouts"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    compared, run = record["comparisons"], record["run"]
    lines.append(f"parallel_fixed / clean: {compared['parallel_over_clean']['median']:.3f} of the time"
                 + ("" if compared["peak_parallel_over_clean"] is None else
                    f", {compared['peak_parallel_over_clean']:.3f} of the peak memory"))  # fmt: skip
    lines.append(f"serial_act / parallel_fixed: {compared['serial_over_parallel']['median']:.3f}; "
                 f"act_mask / parallel_fixed: {compared['mask_over_parallel']['median']:.3f}")  # fmt: skip
    lines.append(
        f"{run['device']}, {run['dtype']}, {run['threads']} threads, {run['batch_size']} puzzles, "
        + (f"all trajectories take {run['halt_max_steps']} steps" if record["equal_steps"] else
           "not the same number of steps: the times are not of the same work")
    )  # fmt: skip
    return "\n".join(lines)


def check_options(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Refuse what cannot be measured. Errors: `UserError`."""
    check_measurement(options)
    if options.num_trajectories < 2:
        raise UserError(f"--num-trajectories {options.num_trajectories}: expected at least 2, a clean one and another")
    for key in _OWN:
        if key in overrides:
            raise UserError(f"--set {key}={overrides[key]}: all kinds of update are measured; leave it out "
                            "(--num-trajectories K)")
    if options.init_from is not None and not options.init_from.expanduser().is_file():
        raise UserError(f"--init-from {options.init_from}: there is no such file; name weights such as RUN/final.pt")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", required=True, metavar="ID", help="file name of config/experiment")
    parser.add_argument("--num-trajectories", type=int, default=4, metavar="K", help="of each puzzle; default 4")
    parser.add_argument("--own-halting", action="store_true", help="trajectories halt where q_halt says so")
    parser.add_argument("--init-from", type=Path, metavar="FILE", help="weights to start from; default: drawn")
    add_preset_options(parser)
    options = parser.parse_args(argv)
    overrides = read_overrides(options)
    check_options(options, overrides)
    chosen = variants(options.num_trajectories)
    configs = [variant.compose(options.preset, overrides) for variant in chosen]
    shape = data_shape(configs[0], options.preset, options.shape)
    environment = describe_environment(configs)
    with tqdm(total=2 * len(chosen) + options.repeats, disable=None, leave=False) as progress:

        def note(text: str) -> None:
            progress.set_description(text)
            progress.update()

        measured = measure_variants(
            chosen, configs, shape, options.repeats, own_halting=options.own_halting,
            weights=None if options.init_from is None else str(options.init_from), note=note,
        )  # fmt: skip
    record = {
        "schema_version": SCHEMA_VERSION,
        "environment": environment,
        "preset": options.preset,
        "overrides": overrides,
        "repeats": options.repeats,
        "own_halting": options.own_halting,
        "init_from": None if options.init_from is None else str(options.init_from),
        "equal_steps": is_equally_long(measured["rollouts"], measured["run"]["halt_max_steps"]),
        **measured,
    }
    print(format_table(record))
    if options.json is not None:
        write_record(options.json, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
