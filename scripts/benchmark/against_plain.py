"""An update and an evaluation of the suite beside the same network written out plainly, in CPU seconds of one process.

    python scripts/benchmark/against_plain.py --preset quickstart
    python scripts/benchmark/against_plain.py --preset trm_sudoku_mlp --dtype float32 --restarts 5 --json FILE
    python scripts/benchmark/against_plain.py --preset quickstart --compile

The yardstick is `scripts/benchmark/plain_network.py`: the official formulas, no tricks. Both take turns in random order
on the same puzzles; what counts is the ratio of their medians, ours over plain, below 1 where the suite is faster. A
process that starts anew lays its memory out anew: --restarts processes are measured, one after the other.
"""

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np
import torch

from analysis.command_line import benchmark_entry, check_at_least, check_json_target, save_json_target
from long_work import progress_bar
from models.act import act_step, initial_carry
from models.recursive_model import RecursiveModel
from scripts.benchmark.measures import Record, describe, training_step
from scripts.benchmark.plain_network import largest_difference, plain_copy, plain_update
from scripts.benchmark.setup import DataShape, compose_preset, data_shape, synthetic_run
from scripts.benchmark.updates import add_setup_options, read_overrides, start_of_record
from training.evaluation.summary_table import aligned
from training.records.result_numbers import Number

OURS, PLAIN = "suite", "plain"
# What rounding may leave between the two after a supervision step, by dtype; anything larger is another network.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-3, torch.bfloat16: 0.3}
_WARM_UP = 2


def cpu_seconds(action: Callable[[], object]) -> float:
    """Of one call, all threads of this process together: another process's load hardly counts."""
    start = time.process_time()
    action()
    return time.process_time() - start


def in_turns(actions: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """CPU seconds of each action, turn by turn, in an order that is drawn anew for each."""
    order, draws = list(actions), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(_WARM_UP + turns):
        draws.shuffle(order)
        for name in order:
            taken = cpu_seconds(actions[name])
            if turn >= _WARM_UP:
                seconds[name].append(taken)
    return seconds


def measure_once(preset: str, overrides: Mapping[str, str], shape: DataShape, turns: int) -> Record:
    """Medians of one process. Errors: `UserError` when the two networks do not agree."""
    config = compose_preset(preset, overrides)
    with synthetic_run(config, shape) as run:
        model = run.model
        try:
            plain = plain_copy(model)
        except TypeError as error:
            raise UserError(f"{error}; name a preset of one") from error
        batch, _ = run.source.next(run.progress.position)
        apart, most = largest_difference(model, plain, batch), TOLERANCES[model.config.dtype]
        if apart > most:
            raise UserError(
                f"the plain network answers otherwise: logits differ by {apart:.2g}, at most {most:g} expected"
            )

        def evaluation(network: RecursiveModel) -> Callable[[], object]:
            def unroll() -> None:
                with torch.inference_mode():
                    carry = initial_carry(network, batch)
                    for _ in range(network.config.halt_max_steps):
                        carry, _ = act_step(network, carry, batch, training=False)

            return unroll

        evaluated = in_turns({OURS: evaluation(model), PLAIN: evaluation(plain)}, turns)
        trained = in_turns({OURS: training_step(run), PLAIN: plain_update(plain, config, batch)}, turns)
        return {
            **describe(run),
            "largest_difference": apart,
            "training": {name: float(np.median(seconds)) for name, seconds in trained.items()},
            "evaluation": {name: float(np.median(seconds)) for name, seconds in evaluated.items()},
        }


def measure(preset: str, overrides: Mapping[str, str], shape: DataShape, turns: int, restarts: int) -> list[Record]:
    """`measure_once` in a new process each time."""
    measured = []
    with progress_bar(total=restarts, leave=False) as progress:
        for _ in range(restarts):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                measured.append(pool.submit(measure_once, preset, overrides, shape, turns).result())
            progress.update()
    return measured


def ratios(measured: Sequence[Record], kind: str) -> list[float]:
    """Suite over plain, of each restart."""
    return [record[kind][OURS] / record[kind][PLAIN] for record in measured]


KINDS = {"training": "update", "evaluation": "evaluation"}


def format_table(measured: Sequence[Record]) -> list[str]:
    """One line a kind: medians over restarts, and the ratio with its range."""
    rows = [["", "suite ms", "plain ms", "suite / plain", "smallest", "largest"]]
    for kind, words in KINDS.items():
        seconds = [1e3 * float(np.median([record[kind][name] for record in measured])) for name in (OURS, PLAIN)]
        of_restarts = ratios(measured, kind)
        rows.append([
            words, *(f"{value:.2f}" for value in seconds), f"{np.median(of_restarts):.3f}", f"{min(of_restarts):.3f}",
            f"{max(of_restarts):.3f}",
        ])  # fmt: skip
    return aligned(rows, left=0)


def numbers(preset: str, measured: Sequence[Record]) -> list[Number]:
    """For the records of results."""
    first = measured[0]
    compiled = ", compiled" if first["compiled"] else ""
    what = f"{preset} ({first['batch_size']} rows, {first['dtype']}{compiled})"
    result = []
    for kind, words in KINDS.items():
        of_restarts = ratios(measured, kind)
        name = f"{what}: {words}, CPU seconds over those of the plain network (smallest and largest of restarts)"
        result.append(
            Number(name, float(np.median(of_restarts)), min(of_restarts), max(of_restarts), n=len(of_restarts))
        )
        result += [
            Number(f"{what}: {words}, {side}", 1e3 * float(np.median([record[kind][side] for record in measured])),
                   n=len(measured), unit="ms")
            for side in (OURS, PLAIN)
        ]  # fmt: skip
    return result


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--preset", required=True, metavar="ID", help="file name of config/experiment")
    add_setup_options(parser, "turns of each process", repeats=15)
    parser.add_argument(
        "--restarts", type=int, default=5, metavar="N", help="processes, one after the other; default 5"
    )
    options = parser.parse_args(argv)
    check_at_least(options, repeats=1, restarts=1)
    check_json_target(options.json)
    overrides = read_overrides(options)
    if overrides.get("device", "cpu") != "cpu":
        raise UserError(f"--device {overrides['device']}: the clock here is one of CPU seconds; leave it out")
    # Threads of two processes on few cores measure each other; a setting given by name wins.
    given = {"device": "cpu", "compile": "False", "threads": "1", **overrides}
    config = compose_preset(options.preset, given)
    shape = data_shape(config, options.preset, options.shape)
    measured = measure(options.preset, given, shape, options.repeats, options.restarts)
    say(*format_table(measured))
    record = start_of_record(config, overrides, options) | {"restarts": options.restarts, "results": measured}
    save_json_target(options.json, record | benchmark_entry(numbers(options.preset, measured), record["environment"]))


if __name__ == "__main__":
    main()
