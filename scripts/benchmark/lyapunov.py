"""What Lyapunov spectra cost beside the trajectory itself, the products they cannot avoid, and a loop of single JVPs.

    python scripts/benchmark/lyapunov.py --preset trm_att_sudoku_6x6_cpu
    python scripts/benchmark/lyapunov.py --preset trm_sudoku_att --batch-size 1 --num-exponents 8 --json FILE
    python scripts/benchmark/lyapunov.py --preset trm_att_sudoku_6x6_cpu --growth --output-dir runs/growth

One supervision step is timed, float32, one process, in turns: the state alone; state and k tangents with a QR after
every sub-update, as `dynamics.lyapunov` does it; k single JVPs one after the other with Householder's QR; the QRs
alone. The floor is that of (k + 2) times the products of the state alone. docs/speed.md says what each number means.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from analysis.command_line import benchmark_entry, check_at_least, check_json_target, save_json_target
from analysis.figures.figure_files import BLUE, GREY, ORANGE, STYLE, Figure, matplotlib, plt, save_picture
from analysis.figures.made_of import results_folder
from analysis.timing import Timing, seconds_of, timed
from dynamics.orthonormal import orthonormalise
from dynamics.propagation import TangentFlow
from dynamics.tangents import exact_arithmetic, push_tangents
from long_work import progress_bar
from models.recursion_maps import RecursionMaps
from scripts.benchmark.measures import Record, beside_floor
from scripts.benchmark.setup import DataShape, compose_preset, data_shape, synthetic_run
from scripts.benchmark.updates import add_setup_options, choices, read_overrides, start_of_record
from training.evaluation.summary_table import aligned
from training.records.result_numbers import Number, quartiles
from training.settings.schema import TrainConfig

GROWTH_K = (1, 2, 4, 8, 16)
GROWTH_STEPS = (1, 2, 4, 8)


@contextmanager
def maps_of(config: TrainConfig, shape: DataShape) -> Iterator[RecursionMaps]:
    """The maps of a batch of synthetic puzzles."""
    with synthetic_run(config, shape) as run:
        batch, _ = run.source.next(run.progress.position)
        yield RecursionMaps(run.model.eval(), {key: leaf.to(run.device) for key, leaf in batch.items()})


def step_of_state(maps: RecursionMaps) -> Callable[[], object]:
    """A call makes one supervision step of the state alone, by the same kernels."""
    state = [maps.initial_state]

    def step() -> None:
        with exact_arithmetic():
            state[0] = maps.step(state[0])

    return step


def step_of_tangents(maps: RecursionMaps, k: int) -> tuple[Callable[[], object], TangentFlow]:
    """A call makes one supervision step of state and tangents with a QR after every sub-update."""
    flow = TangentFlow(maps.sub_updates, maps.initial_state, k, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        for _ in flow.maps:
            flow.advance(1)

    step()  # the first application of every map is watched
    return step, flow


def step_of_single_jvps(maps: RecursionMaps, k: int) -> Callable[[], object]:
    """The same by k calls of `torch.func.jvp` and LAPACK's QR: what one would write first."""
    _, flow = step_of_tangents(maps, k)
    layout, state = flow.layout, [flow.state]
    tangents = [layout.join_tangents(flow.tangents)]

    def step() -> None:
        with exact_arithmetic():
            for one in maps.sub_updates:
                pushed = []
                for column in tangents[0].unbind(2):
                    direction = layout.state(layout.unflatten(column))
                    after, moved, *_ = torch.func.jvp(one, (layout.state(layout.leaves(state[0])),), (direction,))
                    pushed.append(layout.flatten(layout.leaves(moved)))
                state[0] = after
                tangents[0] = torch.linalg.qr(torch.stack(pushed, dim=2))[0]

    return step


def counted_flops(maps: RecursionMaps, flow: TangentFlow) -> tuple[int, int]:
    """Operations of one step: of the state alone, and of state and tangents without QR; as torch counts them."""
    with FlopCounterMode(display=False) as alone, exact_arithmetic():
        maps.step(maps.initial_state)
    leaves, tangents = flow.leaves, flow.tangents
    with FlopCounterMode(display=False) as together, exact_arithmetic():
        for one in maps.sub_updates:
            leaves, tangents = push_tangents(one, flow.layout, leaves, tangents)
    return alone.get_total_flops(), together.get_total_flops()


def measure(config: TrainConfig, shape: DataShape, k: int, repeats: int) -> Record:
    """Times of one supervision step in turns, and its operations."""
    with maps_of(config, shape) as maps:
        device = maps.initial_state.z_H.device
        dtype = maps.model.config.dtype
        engine, flow = step_of_tangents(maps, k)
        blocks = [torch.randn_like(leaf) for leaf in flow.tangents]

        def factorise() -> None:
            for _ in flow.maps:
                orthonormalise(blocks)

        state, single_jvps = step_of_state(maps), step_of_single_jvps(maps, k)
        actions = {"state": state, "engine": engine, "single_jvps": single_jvps, "qr": factorise}
        for action in actions.values():
            action()
        products = maps.model.step_products(maps.model.config, config.global_batch_size * (k + 2), training=False)
        with progress_bar(total=repeats, desc=f"k={k}", leave=False) as progress:

            def turn() -> list[float]:
                progress.update()
                return [seconds_of(action, device) for action in actions.values()]

            turns, floors = beside_floor(products, dtype, device, turn, repeats, repeats)
        seconds = dict(zip(actions, zip(*turns, strict=True), strict=True))
        floor = float(np.median(floors["floor_passes_seconds"]))
        alone, together = counted_flops(maps, flow)
        median = {name: float(np.median(values)) for name, values in seconds.items()}
        return {
            "num_exponents": k,
            "state_size": flow.layout.size,
            "sub_updates": len(maps.sub_updates),
            "seconds": {name: asdict(Timing.of(values)) for name, values in seconds.items()},
            "floor_seconds": floor,
            "over_floor": median["engine"] / floor,
            "over_state": median["engine"] / median["state"],
            "single_jvps_over_engine": float(np.median(np.divide(seconds["single_jvps"], seconds["engine"]))),
            "qr_share": median["qr"] / median["engine"],
            "flops_state": alone,
            "flops_engine": together,
            "flops_ratio": together / alone,
        }


def measure_growth(config: TrainConfig, shape: DataShape, k: int, repeats: int) -> Record:
    """Seconds against k at one step and against steps at k, with the straight line through them."""
    with maps_of(config, shape) as maps:
        device = maps.initial_state.z_H.device
        by_k, by_steps = [], []
        for count in progress_bar(GROWTH_K, desc="k", leave=False):
            step, _ = step_of_tangents(maps, count)
            step()
            by_k.append(timed(step, repeats, device).median)
        step, _ = step_of_tangents(maps, k)
        for steps in progress_bar(GROWTH_STEPS, desc="steps", leave=False):
            by_steps.append(steps * timed(step, repeats, device, calls=steps).median)
        return {
            "k": {"values": list(GROWTH_K), "seconds": by_k, **straight_line(GROWTH_K, by_k)},
            "steps": {"values": list(GROWTH_STEPS), "seconds": by_steps, **straight_line(GROWTH_STEPS, by_steps)},
        }


def straight_line(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Least squares: slope, intercept, and the share of variance that the line explains."""
    slope, intercept = np.polyfit(x, y, 1)
    left = np.var(np.array(y) - slope * np.array(x) - intercept)
    return {"slope": float(slope), "intercept": float(intercept), "r_squared": float(1 - left / np.var(y))}


def draw_growth(record: Record) -> Figure:
    """Seconds against k and against steps, with their lines."""
    with matplotlib.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), constrained_layout=True)
        for axes, name, words, colour in zip(
            panels, ("k", "steps"), ("exponents k", "supervision steps T"), (BLUE, ORANGE), strict=True
        ):
            axis = record[name]
            x = np.array(axis["values"])
            axes.plot(x, axis["seconds"], color=colour, marker="o", linestyle="none", label="measured")
            line = axis["slope"] * x + axis["intercept"]
            axes.plot(x, line, color=GREY, linewidth=1, label=f"straight line, $R^2$ = {axis['r_squared']:.4f}")
            axes.set_xlabel(words)
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=9)
        panels[0].set_ylabel("seconds")
    return figure


def numbers(report: Record) -> list[Number]:
    """For the records of results: the engine over its floor, then everything else."""
    result = report["result"]
    what = f"{report['preset']} ({report['batch_size']} puzzles, k={result['num_exponents']})"
    measured = [
        Number(f"{what}: engine over the floor of k + 2 states", result["over_floor"], unit="times"),
        Number(f"{what}: operations over the state's", result["flops_ratio"], unit="times"),
        Number(f"{what}: single JVPs over the engine", result["single_jvps_over_engine"], unit="times"),
        Number(f"{what}: QR's share of the engine", 100 * result["qr_share"], unit="%"),
        *(quartiles(f"{what}: {name}", times, 1e3, "ms") for name, times in result["seconds"].items()),
    ]
    for name, line in (report["growth"] or {}).items():
        measured.append(Number(f"{what}: time against {name}, R^2 of a straight line", line["r_squared"]))
    return measured


def format_table(record: Record) -> str:
    """One line a quantity."""
    seconds = record["seconds"]
    rows = [(name, f"{1e3 * seconds[name]['median']:.2f} ms") for name in seconds]
    rows += [
        ("floor of (k + 2) x the state's products", f"{1e3 * record['floor_seconds']:.2f} ms"),
        ("engine / floor", f"{record['over_floor']:.3f}"),
        ("engine / state alone", f"{record['over_state']:.2f}"),
        ("single JVPs / engine", f"{record['single_jvps_over_engine']:.2f}"),
        ("QR / engine", f"{record['qr_share']:.3f}"),
        (f"operations / state's (k + 2 = {record['num_exponents'] + 2})", f"{record['flops_ratio']:.3f}"),
    ]
    return "\n".join(aligned(rows))


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--preset", required=True, metavar="ID", help="file name of config/experiment")
    parser.add_argument("--num-exponents", type=int, default=8, metavar="K", help="default 8")
    add_setup_options(parser, "steps of each kind")
    parser.add_argument("--growth", action="store_true", help="measure time against k and against steps as well")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="folder of the figure of --growth")
    options = parser.parse_args(argv)
    check_at_least(options, num_exponents=1, repeats=1)
    if options.growth and options.output_dir is None:
        raise UserError("--growth draws a figure: give its folder with --output-dir DIR")
    check_json_target(options.json)
    overrides = {"dtype": "float32", "state_dtype": "float32", "compile": "False", **read_overrides(options)}
    config = compose_preset(options.preset, overrides)
    shape = data_shape(config, options.preset, options.shape)
    result = measure(config, shape, options.num_exponents, options.repeats)
    say(*format_table(result).split("\n"))
    record = start_of_record(config, overrides, options) | {"result": result, "growth": None}
    if options.growth:
        asked = choices(options, overrides) | {"--num-exponents": options.num_exponents}
        folder = results_folder(options.output_dir, ["lyapunov_cost"], [], asked, flag="--output-dir", script=__file__)
        record["growth"] = growth = measure_growth(config, shape, options.num_exponents, options.repeats)
        files = save_picture(
            draw_growth(growth),
            folder / "lyapunov_cost",
            caption=f"Seconds of one supervision step of state and k tangents ({options.preset}, "
            f"{config.global_batch_size} puzzles, float32), against k, and of several steps at k = "
            f"{options.num_exponents}: medians of {options.repeats}.",
            rows=[
                {"axis": name, "value": value, "seconds": seconds}
                for name, axis in growth.items()
                for value, seconds in zip(axis["values"], axis["seconds"], strict=True)
            ],
        )
        say(f"written: {files}")
    save_json_target(options.json, record | benchmark_entry(numbers(record), record["environment"]))


if __name__ == "__main__":
    main()
