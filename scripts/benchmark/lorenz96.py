"""Spectra of Lorenz-96 beside a plain numpy loop with the same Jacobian: CPU seconds of one thread, in turns.

    python scripts/benchmark/lorenz96.py
    python scripts/benchmark/lorenz96.py --batch-size 1 --qr-interval 10 --json FILE

dx_i/dt = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F, 40 variables, F = 8, Runge-Kutta steps of 0.01. In a turn each batch
is measured three ways, in random order: `jacobian`, the engine with the analytic Jacobian; `forward_ad`, the engine
without; `numpy`, one state after the other, four slopes, four Jacobians and `numpy.linalg.qr`, as libraries for small
systems do it. Their first growth rates must agree, else nothing is reported.
Source: E. N. Lorenz and K. A. Emanuel 1998 (J. Atmos. Sci. 55, 399), "Optimal sites for supplementary weather
observations".
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analysis.command_line import benchmark_entry, check_at_least, check_json_target, environment, save_json_target
from analysis.timing import Timing
from dynamics.known_tangents import RungeKuttaStep
from dynamics.lyapunov import lyapunov_spectrum
from scripts.benchmark.against_plain import in_turns
from training.evaluation.summary_table import aligned
from training.records.result_numbers import Number, quartiles

SCHEMA_VERSION = 1
SEED = 0  # of the starts
SIZE, FORCING, TIME_STEP = 40, 8.0, 0.01
_SPIN_UP = 500  # steps from a random start to the attractor
_AGREEMENT = 1e-6  # of growth rates per step over the first unit of time, in which rounding stays small

Array = np.ndarray[Any, np.dtype[np.float64]]

_HERE = np.arange(SIZE)
_AHEAD, _BEHIND, _TWO_BEHIND = ((_HERE + shift) % SIZE for shift in (1, -1, -2))


def velocity_of_one(x: Array) -> Array:
    """dx/dt of one state (n,)."""
    slope: Array = (x[_AHEAD] - x[_TWO_BEHIND]) * x[_BEHIND] - x + FORCING
    return slope


def jacobian_of_one(x: Array) -> Array:
    """(n, n)."""
    matrix = -np.eye(SIZE)
    matrix[_HERE, _AHEAD] = x[_BEHIND]
    matrix[_HERE, _TWO_BEHIND] = -x[_BEHIND]
    matrix[_HERE, _BEHIND] = x[_AHEAD] - x[_TWO_BEHIND]
    return matrix


# Calls are what a small state costs, so the entries of the Jacobian come from one product with 0 and 1: columns of
# x_{i-1}, -x_{i-1} and x_{i+1} - x_{i-2}, and their places in the flattened matrix.
_PLACES = torch.from_numpy(np.concatenate([_HERE * SIZE + column for column in (_AHEAD, _TWO_BEHIND, _BEHIND)]))
_ENTRIES = torch.zeros(SIZE, 3 * SIZE, dtype=torch.float64)
_ENTRIES[_BEHIND, _HERE], _ENTRIES[_BEHIND, SIZE + _HERE] = 1.0, -1.0
_ENTRIES[_AHEAD, 2 * SIZE + _HERE], _ENTRIES[_TWO_BEHIND, 2 * SIZE + _HERE] = 1.0, -1.0
_MINUS_IDENTITY = -torch.eye(SIZE, dtype=torch.float64).flatten()
# Likewise the three parts of the velocity: x_{i+1} - x_{i-2}, x_{i-1} and F - x_i.
_PARTS = torch.cat((_ENTRIES[:, 2 * SIZE :], _ENTRIES[:, :SIZE], _MINUS_IDENTITY.view(SIZE, SIZE)), dim=1).T
_CONSTANT = torch.cat((torch.zeros(2 * SIZE), torch.full((SIZE,), FORCING))).double()


def velocity(x: Tensor) -> Tensor:
    """dx/dt of states (B, n)."""
    difference, behind, rest = F.linear(x, _PARTS, _CONSTANT).chunk(3, dim=1)
    return torch.addcmul(rest, difference, behind)


def jacobian(x: Tensor) -> Tensor:
    """(B, n, n)."""
    constant = _MINUS_IDENTITY.expand(x.shape[0], -1)
    return constant.index_copy(1, _PLACES, torch.mm(x, _ENTRIES)).view(-1, SIZE, SIZE)


def numpy_loop(x: Array, num_exponents: int, num_steps: int, qr_interval: int) -> Array:
    """Growth rates (k,), nats per step, of one state (n,) and the first k axes, state and tangents together."""
    V, growth, h = np.eye(SIZE, num_exponents), np.zeros(num_exponents), TIME_STEP
    for step in range(num_steps):
        slopes, moved = [velocity_of_one(x)], [jacobian_of_one(x) @ V]
        for reach in (h / 2, h / 2, h):
            point = x + reach * slopes[-1]
            moved.append(jacobian_of_one(point) @ (V + reach * moved[-1]))
            slopes.append(velocity_of_one(point))
        x = x + h / 6 * (slopes[0] + 2 * slopes[1] + 2 * slopes[2] + slopes[3])
        V = V + h / 6 * (moved[0] + 2 * moved[1] + 2 * moved[2] + moved[3])
        if (step + 1) % qr_interval == 0:
            V, R = np.linalg.qr(V)
            growth += np.log(np.abs(np.diag(R)))
    return growth / num_steps


def states(batch_size: int) -> Tensor:
    """(B, n) float64 on the attractor, the same at each call."""
    draws = torch.Generator().manual_seed(SEED)
    x = FORCING + torch.randn(batch_size, SIZE, dtype=torch.float64, generator=draws)
    step = RungeKuttaStep(velocity, TIME_STEP, jacobian)
    for _ in range(_SPIN_UP):
        x = step(x)
    return x


def measure(batch_size: int, k: int, num_steps: int, qr_interval: int, repeats: int) -> dict[str, Any]:
    """Seconds per step and example of the three ways, and those of the engine over numpy's."""
    start = states(batch_size)
    axes = torch.eye(SIZE, k, dtype=torch.float64).expand(batch_size, -1, -1)
    step = RungeKuttaStep(velocity, TIME_STEP, jacobian)

    def engine(advance: Callable[[Tensor], Tensor], steps: int) -> Tensor:
        return lyapunov_spectrum(
            advance, start, num_exponents=k, num_steps=steps, qr_interval=qr_interval, initial_tangents=axes
        ).exponents

    def numpy(steps: int) -> Tensor:
        found = [numpy_loop(one.numpy(), k, steps, qr_interval) for one in start]
        return torch.from_numpy(np.stack(found))

    # Forward AD takes many times longer: a part of the steps says as much.
    ways: dict[str, tuple[Callable[[int], Tensor], int]] = {
        "jacobian": (lambda steps: engine(step, steps), num_steps),
        "forward_ad": (lambda steps: engine(lambda z: step(z), steps), max(num_steps // 10, qr_interval)),
        "numpy": (numpy, num_steps),
    }
    first = -(-100 // qr_interval) * qr_interval
    found = {name: way(first) for name, (way, _) in ways.items()}
    apart = max(float((rates - found["numpy"]).abs().max()) for rates in found.values())
    if not apart < _AGREEMENT:
        raise UserError(f"growth rates differ by {apart:.3g} nats per step, expected less than {_AGREEMENT:g}")
    whole = {name: (way, steps // qr_interval * qr_interval) for name, (way, steps) in ways.items()}
    turns = in_turns({name: partial(way, steps) for name, (way, steps) in whole.items()}, repeats)
    each = {name: [one / whole[name][1] / batch_size for one in seconds] for name, seconds in turns.items()}
    medians = {name: float(np.median(seconds)) for name, seconds in each.items()}
    return {
        "batch_size": batch_size,
        "seconds": {name: asdict(Timing.of(seconds)) for name, seconds in each.items()},
        "over_numpy": medians["jacobian"] / medians["numpy"],
        "forward_ad_over_jacobian": medians["forward_ad"] / medians["jacobian"],
        "largest_difference": apart,
    }


def numbers(results: Sequence[dict[str, Any]]) -> list[Number]:
    """For the records of results: the ratios, then the seconds."""
    measured = []
    for result in results:
        what = f"Lorenz-96, {result['batch_size']} states"
        measured += [
            Number(f"{what}: engine with the Jacobian over the numpy loop", result["over_numpy"], unit="times"),
            Number(f"{what}: forward AD over the Jacobian", result["forward_ad_over_jacobian"], unit="times"),
            *(
                quartiles(f"{what}: {name}, a step of one state", times, 1e6, "µs of CPU")
                for name, times in result["seconds"].items()
            ),
        ]
    return measured


def format_table(results: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each batch: microseconds of a step of one state."""
    header = ("states", "", "jacobian us", "forward AD us", "numpy us", "jacobian/numpy")
    rows = [
        (
            str(result["batch_size"]),
            "",
            *(f"{1e6 * result['seconds'][name]['median']:.1f}" for name in ("jacobian", "forward_ad", "numpy")),
            f"{result['over_numpy']:.3f}",
        )
        for result in results
    ]
    return aligned([header, *rows])


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8, 64], metavar="B", help="default 1 8 64")
    parser.add_argument("--num-exponents", type=int, default=8, metavar="K", help="1 to 40; default 8")
    parser.add_argument("--num-steps", type=int, default=2000, metavar="N", help="of each measurement; default 2000")
    parser.add_argument("--qr-interval", type=int, default=5, metavar="N", help="steps between two QRs; default 5")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns; default 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole record here")
    options = parser.parse_args(argv)
    check_at_least(options, num_exponents=1, num_steps=1, qr_interval=1, repeats=1)
    if min(options.batch_size) < 1:
        raise UserError(f"--batch-size {min(options.batch_size)}: expected at least 1")
    if options.num_exponents > SIZE:
        raise UserError(f"--num-exponents {options.num_exponents}: the state has {SIZE} components")
    if options.num_steps % options.qr_interval:
        raise UserError(f"--num-steps {options.num_steps} is no multiple of --qr-interval {options.qr_interval}")
    check_json_target(options.json)
    torch.set_num_threads(1)
    described = environment("cpu_count") | {"seed": SEED}
    results = [
        measure(batch_size, options.num_exponents, options.num_steps, options.qr_interval, options.repeats)
        for batch_size in options.batch_size
    ]
    say(*format_table(results))
    report = {
        "schema_version": SCHEMA_VERSION,
        "environment": described,
        "num_exponents": options.num_exponents,
        "num_steps": options.num_steps,
        "qr_interval": options.qr_interval,
        "results": results,
    }
    save_json_target(options.json, report | benchmark_entry(numbers(results), described))


if __name__ == "__main__":
    main()
