"""How many exact steps of the Syracuse map a second are made here, in one process and one thread.

    python projects/collatz/benchmark.py --json collatz_speed.json
    python projects/collatz/benchmark.py --goals          # exits 1 where a rate is below its goal

`words` is the 64-bit path, `limbs` the path for any size, at several bit lengths of the start; `python` are the
Python integers both are checked against. `windows` makes lookahead windows (states in order, logarithms, valuations)
of 128-bit numbers, `labels` whole orbits of the evaluation file's numbers. A rate counts true odd steps n -> T(n); a
sample of the results is compared with Python's before anything is timed. Loaders: what a batch of training costs
beside the forward and backward pass it is made for, at the sizes of the grids.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np
import torch

from analysis.command_line import (
    benchmark_entry,
    check_at_least,
    check_json_target,
    environment,
    save_json_target,
)
from analysis.timing import Timing, timed
from dataset.source import START
from long_work import progress_bar
from projects.collatz import limbs as collatz_limbs
from projects.collatz import words as collatz_words
from projects.collatz.eval_file import draw_numbers
from projects.collatz.labels import labels_of
from projects.collatz.setup import build_objective, build_source, build_value
from projects.collatz.syracuse import orbit, syracuse
from projects.collatz.train_flags import to_config
from projects.collatz.windows import windows_of
from training.objectives.base import UpdateContext
from training.records.result_numbers import Number, quartiles

SCHEMA_VERSION = 2
SEED = 0
STEPS = 20
ROWS = {"words": 1 << 18, "limbs": 1 << 16, "python": 1 << 12, "windows": 1 << 14, "labels": 1 << 13}
# Exact steps a second that the suite asks for. From 48 bits every number still fits into a word after 20 steps; most of
# 64 bits do not, and go by limbs.
GOALS = {"words, 48 bits": 200e6, "limbs, 64 bits": 200e6, "limbs, 128 bits": 20e6}
_CHECKED = 64

# Batches of a timed call: whole blocks of both sources, which prepare 8 and 64 at once. A smaller --scale cuts blocks,
# and what it says of loaders is not their mean.
BATCHES = 64
LOADERS: dict[str, dict[str, Any]] = {
    "faithful, lookahead 10": {"layers": [256, 128, 64], "lookahead": 10},
    "faithful, lookahead 20": {"layers": [256, 128, 64], "lookahead": 20},
    "orbit, lookahead 20": {"preset": "orbit"},
}

Case = tuple[str, int, int, Callable[[], object]]


def odd_numbers(count: int, bits: int, seed: int) -> list[int]:
    """Random odd numbers of exactly so many bits."""
    random = Random(seed)
    return [random.getrandbits(bits) | 1 << (bits - 1) | 1 for _ in range(count)]


def cases(scale: float) -> list[Case]:
    """Name, rows, odd steps of one call, and the call. Every result is checked here first.

    `scale` is the share of the usual number of rows. Errors: `AssertionError` for a wrong number.
    """
    rows = {name: max(_CHECKED, int(scale * count)) for name, count in ROWS.items()}
    prepared: list[Case] = []

    numbers = odd_numbers(rows["words"], 48, SEED)
    words = np.array(numbers, np.uint64)
    check(numbers, collatz_words.advance(words, STEPS)[:_CHECKED].tolist())
    prepared.append(("words, 48 bits", len(numbers), STEPS * len(numbers), lambda: collatz_words.advance(words, STEPS)))

    for bits in (64, 128, 256, 1024):
        numbers = odd_numbers(rows["limbs"], bits, SEED)
        limbs = collatz_limbs.to_limbs(numbers)
        check(numbers, collatz_limbs.from_limbs(collatz_limbs.advance(limbs, STEPS)[:, :_CHECKED]))

        def by_limbs(limbs: np.ndarray = limbs) -> object:
            return collatz_limbs.advance(limbs, STEPS)

        prepared.append((f"limbs, {bits} bits", len(numbers), STEPS * len(numbers), by_limbs))

    plain = odd_numbers(rows["python"], 128, SEED)
    prepared.append(("python, 128 bits", len(plain), STEPS * len(plain), lambda: [after(n, STEPS) for n in plain]))

    seen = odd_numbers(rows["windows"], 128, SEED)
    prepared.append(
        (f"windows, 128 bits, lookahead {STEPS}", len(seen), (STEPS + 1) * len(seen),
         lambda: list(windows_of(seen, STEPS)))
    )  # fmt: skip

    drawn = draw_numbers(rows["labels"], SEED)
    orbits = [orbit(number) for number in drawn]
    if [whole.full_max for whole in orbits] != [label.full_max for label in labels_of(drawn)]:
        raise AssertionError("the labels name another greatest number than the whole orbits")
    steps = sum(whole.steps for whole in orbits)
    prepared.append(("labels, 2 to 128 bits", len(drawn), steps, lambda: list(labels_of(drawn))))
    return prepared


def after(number: int, steps: int) -> int:
    """T^steps of a Python integer."""
    for _ in range(steps):
        number, _ = syracuse(number)
    return number


def check(numbers: Sequence[int], results: Sequence[int]) -> None:
    """Errors: `AssertionError` where a result is not T^`STEPS` of its number."""
    for number, result in zip(numbers, results, strict=False):
        if after(number, STEPS) != result:  # raised, not asserted: `python -O` checks it too
            raise AssertionError(f"T^{STEPS}({number}) is not {result}")


def measure(repeats: int, scale: float) -> list[dict[str, Any]]:
    """One record for each case: rows, steps of a call, seconds of a call, steps a second at the median, goal."""
    device = torch.device("cpu")
    records = []
    for name, rows, steps, call in progress_bar(cases(scale), leave=False):
        timed(call, 1, device)  # caches and pages
        seconds: Timing = timed(call, repeats, device)
        records.append({
            "name": name, "rows": rows, "steps": steps, "seconds": asdict(seconds),
            "steps_per_second": steps / seconds.median, "goal": GOALS.get(name),
        })  # fmt: skip
    return records


def measure_loader(name: str, flags: dict[str, Any], repeats: int, batches: int) -> dict[str, Any]:
    """Seconds of a batch, and of the forward and backward pass over one."""
    device = torch.device("cpu")
    config, _ = to_config(flags)
    source, objective = build_source(config), build_objective(config)
    network: Any = build_value(config, device)  # objectives are typed for recursive models
    batch, position = source.next(dict(START))
    rows = config.global_batch_size
    context = UpdateContext(step=0, seed=SEED, slots=slice(0, rows), num_slots=rows)

    def load() -> None:
        nonlocal position
        _, position = source.next(position)

    def update() -> None:
        for output in objective.outputs(network, batch, context):
            output.loss_sum.backward()
        network.zero_grad()

    timed(update, 1, device)
    loading, updating = timed(load, repeats, device, batches), timed(update, repeats, device)
    return {
        "name": name, "rows": rows, "load_seconds": asdict(loading), "update_seconds": asdict(updating),
        "share": loading.median / (loading.median + updating.median),
    }  # fmt: skip


def format_loaders(records: Sequence[dict[str, Any]]) -> str:
    """One line for each loader."""
    return "\n".join(
        f"batch of {record['name']}: {1e3 * record['load_seconds']['median']:.2f} ms, "
        f"{100 * record['share']:.0f} % of it and its update ({1e3 * record['update_seconds']['median']:.1f} ms)"
        for record in records
    )


def numbers(rates: Sequence[dict[str, Any]], loaders: Sequence[dict[str, Any]]) -> list[Number]:
    """For the records of results: exact steps a second, and what a batch costs beside its update."""
    measured = []
    for case in rates:
        seconds, millions = case["seconds"], case["steps"] / 1e6
        low, high = (millions / seconds[name] if seconds[name] else None for name in ("q3", "q1"))
        goal = "" if case["goal"] is None else f", goal {case['goal'] / 1e6:.0f}"
        name = f"{case['name']}{goal} (quartiles)"
        measured.append(
            Number(name, case["steps_per_second"] / 1e6, low, high, n=seconds["count"], unit="million steps/s")
        )
    for loader in loaders:
        name = f"batch of {loader['name']}"
        measured += [
            quartiles(name, loader["load_seconds"], 1e3, "ms"),
            quartiles(f"{name}, its update", loader["update_seconds"], 1e3, "ms"),
            Number(f"{name}, share of it and its update", 100 * loader["share"], unit="%"),
        ]
    return measured


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """One line for each case; quartiles of the rate come from those of the time."""
    lines = [f"{'':34}{'rows':>8}{'M steps/s':>11}{'quartiles':>18}{'goal':>7}"]
    for record in records:
        seconds, steps = record["seconds"], record["steps"] / 1e6
        quartiles = f"{steps / seconds['q3']:.1f}-{steps / seconds['q1']:.1f}"
        goal = "" if record["goal"] is None else f"{record['goal'] / 1e6:.0f}"
        rate = record["steps_per_second"] / 1e6
        lines.append(f"{record['name']:34}{record['rows']:>8}{rate:>11.1f}{quartiles:>18}{goal:>7}")
    return "\n".join(lines)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="timed calls of each (default 7)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="share of the usual rows (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole record here")
    parser.add_argument("--goals", action="store_true", help="exit 1 where a rate is below its goal")
    options = parser.parse_args(argv)
    check_at_least(options, repeats=1)
    if not 0 < options.scale <= 16:
        raise UserError(f"--scale {options.scale:g}: expected a number above 0 and at most 16")
    check_json_target(options.json)
    described = environment("cpu_count") | {"seed": SEED}
    records = measure(options.repeats, options.scale)
    say(*format_table(records).split("\n"))
    batches = max(1, round(options.scale * BATCHES))
    loaders = [measure_loader(name, flags, options.repeats, batches) for name, flags in LOADERS.items()]
    say(*format_loaders(loaders).split("\n"))
    report = {"schema_version": SCHEMA_VERSION, "environment": described, "rates": records, "loaders": loaders}
    save_json_target(options.json, report | benchmark_entry(numbers(records, loaders), described))
    slow = [record["name"] for record in records if record["steps_per_second"] < (record["goal"] or 0)]
    if slow and options.goals:
        say(f"below their goal: {'; '.join(slow)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
