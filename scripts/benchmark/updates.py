"""How fast training and evaluation are here, beside the time that their matrix products alone take in the same process.

    python scripts/benchmark/updates.py --preset trm_sudoku_att --batch-size 8 --dtype bfloat16
    python scripts/benchmark/updates.py --preset quickstart --preset trm_sudoku_att --json speed.json --floor 0.5
    python scripts/benchmark/updates.py --preset quickstart --preset trm_sudoku_att --growth --output-dir runs/growth

A preset is a file of config/experiment; its steps are made by the code that training calls, on synthetic tokens of its
data's shape. `ratio` is the products' time over the step's: 1 would be nothing but products. `--floor R` exits 1 where
a ratio is below R. What each number means and how to read it: docs/speed.md.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from tqdm import tqdm

from analysis.command_line import (
    benchmark_entry,
    check_at_least,
    check_json_target,
    environment,
    save_json_target,
)
from analysis.figures.made_of import results_folder
from long_work import progress_bar
from scripts.benchmark import growth as benchmark_growth
from scripts.benchmark.measures import PHASES, Note, Record, measure_preset
from scripts.benchmark.setup import SEED, SHAPES, DataShape, compose_preset, data_shape
from training.devices import resolve_device
from training.evaluation.summary_table import aligned
from training.records.result_numbers import Number, quartiles
from training.settings.schema import TrainConfig

SCHEMA_VERSION = 1
Preset = tuple[TrainConfig, DataShape]
COLUMNS = (
    "preset", "device", "dtype", "rows", "step ms", "quartiles", "rows/s", "floor ms", "ratio", "GFLOP/s",
    "eval ms", "eval rows/s", "ratio", "loader", "peak MiB",
)  # fmt: skip


def add_setup_options(parser: argparse.ArgumentParser, timed: str, repeats: int = 7) -> None:
    """What all benchmarks let one choose, beside the preset; `timed`: what --repeats counts, by default `repeats`."""
    parser.add_argument("--batch-size", type=int, metavar="B", help="rows; default: the preset's, on a CPU at most 8")
    parser.add_argument("--dtype", choices=["auto", "float64", "float32", "bfloat16"], help="default: the preset's")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, mps, cuda or cuda:N; default: the preset's")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="compile the stacks; default: on CUDA only"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="further options of the preset"
    )
    parser.add_argument("--shape", choices=list(SHAPES), help="shape of the data where no folder and no name tells it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole record here")
    parser.add_argument("--repeats", type=int, default=repeats, metavar="N", help=f"timed {timed}; default {repeats}")


def read_overrides(options: argparse.Namespace) -> dict[str, str]:
    """The flags and `--set` as one mapping of option to value. Errors: `UserError`."""
    flags = {
        "global_batch_size": ("--batch-size", options.batch_size),
        "dtype": ("--dtype", options.dtype),
        "device": ("--device", options.device),
        "compile": ("--compile", options.compile),
    }
    overrides = {key: str(value) for key, (_, value) in flags.items() if value is not None}
    for text in options.set:
        key, equals, value = text.partition("=")
        key = key.lstrip("+")
        if not equals or not key:
            raise UserError(f"--set {text}: expected key=value such as arch.hidden_size=256")
        if key == "experiment":
            raise UserError(f"--set {text}: expected another option; name the preset with --preset")
        if key in overrides:
            flag = flags[key][0] if key in flags else "--set"
            raise UserError(f"--set {text}: {key} is given twice ({flag}); leave one out")
        overrides[key] = value
    return overrides


def choices(options: argparse.Namespace, overrides: Mapping[str, str]) -> Record:
    """By flag, what makes another measurement of it."""
    settings = [f"{key}={value}" for key, value in overrides.items()]
    return {"--preset": options.preset, "--set": settings, "--shape": options.shape, "--repeats": options.repeats}


def describe_environment(configs: Iterable[TrainConfig]) -> Record:
    """The command, commit, versions, hardware, threads and seed of a measurement; `gpu` is null where none is used."""
    devices = [resolve_device(config.device) for config in configs]
    on_cuda = [device for device in devices if device.type == "cuda"]
    return environment("cpu_count", "gpu", device=[*on_cuda, *devices][0]) | {"seed": SEED}


def start_of_record(config: TrainConfig, overrides: dict[str, str], options: argparse.Namespace) -> Record:
    """What the record of a benchmark of one preset begins with."""
    return {
        "schema_version": SCHEMA_VERSION,
        "environment": describe_environment([config]),
        "preset": options.preset,
        "overrides": overrides,
        "batch_size": config.global_batch_size,
        "repeats": options.repeats,
    }


def table_row(record: Record) -> list[str]:
    """One line of the table, in the order of `COLUMNS`."""
    training, evaluation = record["training"], record["evaluation"]
    seconds, peak = training["seconds"], record["peak_memory"]["bytes"]
    return [
        record["preset"],
        record["device"] + (" compiled" if record["compiled"] else ""),
        record["dtype"],
        str(record["batch_size"]),
        f"{1e3 * seconds['median']:.2f}",
        f"{1e3 * seconds['q1']:.2f}-{1e3 * seconds['q3']:.2f}",
        f"{training['rows_per_second']:.2f}",
        f"{1e3 * training['floor_seconds']:.2f}",
        f"{training['ratio']:.3f}",
        f"{training['flops_per_second'] / 1e9:.1f}",
        f"{1e3 * evaluation['seconds']['median']:.2f}",
        f"{evaluation['rows_per_second']:.2f}",
        f"{evaluation['ratio']:.3f}",
        f"{record['loader']['share']:.2%}",
        "-" if peak is None else f"{peak / 2**20:.0f}",
    ]


def format_table(records: Sequence[Record]) -> str:
    """Aligned columns, one line a preset, and under it what torch's counter made of its operations."""
    lines = aligned([COLUMNS, *map(table_row, records)], left=0)
    for record in records:
        for kind in ("training", "evaluation"):
            counter = record[kind]["flop_counter"]
            lines.append(
                f"{record['preset']}, {kind}: {record[kind]['flops'] / 1e9:.5g} GFLOP in closed form, counted "
                f"{counter['counter'] / 1e9:.5g} ({counter['explanation']})"
            )
        if record["syncs_per_step"] is not None:
            lines.append(f"{record['preset']}: the host waits for the device {record['syncs_per_step']} times a step")
    return "\n".join(lines)


def numbers(records: Sequence[Record]) -> list[Number]:
    """For the records of results: steps of each preset beside their floor."""
    measured = []
    for record in records:
        compiled, peak = ", compiled" if record["compiled"] else "", record["peak_memory"]["bytes"]
        what = f"{record['preset']} ({record['batch_size']} rows, {record['dtype']}{compiled})"
        for kind, words in (("training", "update"), ("evaluation", "evaluation step")):
            step, name = record[kind], f"{what}: {words}"
            measured += [
                quartiles(name, step["seconds"], 1e3, "ms"),
                Number(f"{name}, floor over time", step["ratio"]),
                Number(f"{name}, floor", 1e3 * step["floor_seconds"], unit="ms"),
                Number(f"{name}, speed", step["flops_per_second"] / 1e9, unit="GFLOP/s"),
            ]
        measured.append(Number(f"{what}: loader's share", 100 * record["loader"]["share"], unit="%"))
        measured += [] if peak is None else [Number(f"{what}: peak memory", peak / 2**20, unit="MiB")]
    return measured


def below_floor(records: Sequence[Record], floor: float) -> list[str]:
    """One line for each ratio below `floor`."""
    return [
        f"{record['preset']}: {kind} ratio {record[kind]['ratio']:.4f} is below --floor {floor:g}"
        for record in records
        for kind in ("training", "evaluation")
        if record[kind]["ratio"] < floor
    ]


def telling(progress: tqdm, preset: str) -> Note:
    """What moves the progress bar on and says what of the preset is measured."""

    def note(text: str) -> None:
        progress.set_description(f"{preset}: {text}")
        progress.update()

    return note


def measure(options: argparse.Namespace, overrides: dict[str, str], presets: Mapping[str, Preset]) -> int:
    """Measure the presets, print the table, write the record; returns the exit code."""
    described = describe_environment(config for config, _ in presets.values())
    records: list[Record] = []
    with progress_bar(total=len(presets) * PHASES, leave=False) as progress:
        for preset, (config, shape) in presets.items():
            note = telling(progress, preset)
            record = measure_preset(config, shape, options.repeats, note, first=not records)
            records.append({"preset": preset, "overrides": overrides, **record})
    say(*format_table(records).split("\n"))
    record = {
        "schema_version": SCHEMA_VERSION,
        "environment": described,
        "repeats": options.repeats,
        "floor": options.floor,
        "results": records,
    }
    save_json_target(options.json, record | benchmark_entry(numbers(records), described))
    too_slow = below_floor(records, options.floor)
    if too_slow:
        say(*too_slow, file=sys.stderr)
    return 1 if too_slow else 0


def measure_growth(options: argparse.Namespace, overrides: dict[str, str], presets: Mapping[str, Preset]) -> int:
    """Measure how the presets' steps grow and write the files; returns the exit code."""
    bases = {
        preset: benchmark_growth.base_point(config, overrides, shape) for preset, (config, shape) in presets.items()
    }
    folder = results_folder(
        options.output_dir, ["growth"], [], choices(options, overrides), flag="--output-dir", script=__file__
    )
    described = describe_environment(config for config, _ in presets.values())
    rows: list[Record] = []
    total = sum(len(benchmark_growth.all_points(base)) for base in bases.values())
    with progress_bar(total=total, leave=False) as progress:
        for preset, base in bases.items():
            note, (_, shape) = telling(progress, preset), presets[preset]
            rows += benchmark_growth.measure_growth(preset, overrides, shape, base, options.repeats, note)
    say(f"written: {benchmark_growth.save_growth(rows, described, options.repeats, folder)}")
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Refuse combinations that mean nothing. Errors: `UserError`."""
    check_at_least(options, repeats=1)
    if not (math.isfinite(options.floor) and options.floor >= 0):
        raise UserError(f"--floor {options.floor:g}: expected a ratio of at least 0, such as 0.5")
    if len(set(options.preset)) != len(options.preset):
        raise UserError("--preset names the same preset twice; leave one out")
    if options.growth and options.output_dir is None:
        raise UserError("--growth writes files: add --output-dir DIR")
    if options.growth and (options.json is not None or options.floor):
        raise UserError("--growth goes without --json and --floor: its record is growth.json in --output-dir")
    if not options.growth and options.output_dir is not None:
        raise UserError("--output-dir belongs to --growth; the record of a measurement is named with --json FILE")
    check_json_target(options.json)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--preset", action="append", required=True, metavar="ID", help="file name of config/experiment")
    add_setup_options(parser, "updates, on CUDA eights")
    parser.add_argument("--floor", type=float, default=0.0, metavar="R", help="exit 1 where a ratio is below R")
    parser.add_argument("--growth", action="store_true", help="step time against batch, length, width and cycles")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="where --growth writes its files")
    options = parser.parse_args(argv)
    check_options(options)
    overrides = read_overrides(options)
    # All are composed first: a mistake in the last costs no minutes.
    configs = {preset: compose_preset(preset, overrides) for preset in options.preset}
    presets = {preset: (config, data_shape(config, preset, options.shape)) for preset, config in configs.items()}
    return (measure_growth if options.growth else measure)(options, overrides, presets)


if __name__ == "__main__":
    sys.exit(main())
