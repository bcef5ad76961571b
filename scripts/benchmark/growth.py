"""Step time and its floor against batch size, sequence length, width and cycles, each varied alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from analysis.figures.figure_files import BLUE, GREEN, ORANGE, PURPLE, RED, STYLE, Figure, matplotlib, plt, save_picture
from scripts.benchmark.measures import WARM_UP_STEPS, Note, Record, describe, measure_training, training_step
from scripts.benchmark.setup import DataShape, compose_preset, synthetic_run
from training.devices import resolve_device
from training.settings.schema import TrainConfig

FACTORS = (1, 2, 4, 8)
AXES = {
    "batch_size": "batch size (rows)",
    "seq_len": "sequence length S (tokens)",
    "hidden_size": "width D",
    "cycles": "H_cycles x L_cycles",
}
COLORS = (BLUE, ORANGE, GREEN, RED, PURPLE)
_STEP, _FLOOR = "{}: step", "{}: its products alone"


@dataclass(frozen=True)
class GrowthPoint:
    """The sizes at which a step is measured."""

    batch_size: int
    seq_len: int
    hidden_size: int
    H_cycles: int
    L_cycles: int

    @property
    def cycles(self) -> int:
        """Updates of z_L per supervision step."""
        return self.H_cycles * self.L_cycles


# The options that set them; the length is that of the data.
_OPTIONS = {"batch_size": "global_batch_size", "hidden_size": "arch.hidden_size", "H_cycles": "arch.H_cycles",
            "L_cycles": "arch.L_cycles"}  # fmt: skip
# Small enough for minutes, and on a GPU not so small that the launches of kernels are all there is to see.
_BASE = {"cpu": GrowthPoint(2, 32, 64, 1, 1), "cuda": GrowthPoint(32, 64, 128, 1, 1)}


def base_point(config: TrainConfig, overrides: Mapping[str, str], shape: DataShape) -> GrowthPoint:
    """The smallest point: what `overrides` say, else a small one for the device, nowhere above the preset's own."""
    small, arch = _BASE.get(resolve_device(config.device).type, _BASE["cpu"]), config.arch
    own = GrowthPoint(config.global_batch_size, shape.seq_len, arch.hidden_size, arch.H_cycles, arch.L_cycles)
    free = [name for name in asdict(own) if _OPTIONS.get(name) not in overrides]
    return replace(own, **{name: min(getattr(own, name), getattr(small, name)) for name in free})


def points_along(base: GrowthPoint) -> dict[str, list[GrowthPoint]]:
    """Per axis the base and points of 2, 4 and 8 times its value; cycles grow by L_cycles, then H_cycles, in turn."""
    lengthened = [(1, 1), (1, 2), (2, 2), (2, 4)]
    return {
        "batch_size": [replace(base, batch_size=base.batch_size * factor) for factor in FACTORS],
        "seq_len": [replace(base, seq_len=base.seq_len * factor) for factor in FACTORS],
        "hidden_size": [replace(base, hidden_size=base.hidden_size * factor) for factor in FACTORS],
        "cycles": [
            replace(base, H_cycles=base.H_cycles * by_H, L_cycles=base.L_cycles * by_L) for by_H, by_L in lengthened
        ],
    }


def all_points(base: GrowthPoint) -> list[GrowthPoint]:
    """All points once."""
    return list(dict.fromkeys(point for points in points_along(base).values() for point in points))


def measure_point(
    preset: str, overrides: Mapping[str, str], shape: DataShape, point: GrowthPoint, repeats: int
) -> Record:
    """One training step at a point: what was run, median seconds and quartiles, floor, ratio, FLOPs."""
    sizes = {option: str(getattr(point, name)) for name, option in _OPTIONS.items()}
    config = compose_preset(preset, {**overrides, **sizes, "augment": "stored"})
    with synthetic_run(config, replace(shape, seq_len=point.seq_len, augmentation=None)) as run:
        training_step(run, warm_up=WARM_UP_STEPS)
        training = measure_training(run, repeats)
        seconds = training["seconds"]
        return (
            describe(run)
            | {"seconds": seconds["median"], "q1": seconds["q1"], "q3": seconds["q3"]}
            | {name: training[name] for name in ("floor_seconds", "ratio", "flops")}
        )


def measure_growth(
    preset: str,
    overrides: Mapping[str, str],
    shape: DataShape,
    base: GrowthPoint,
    repeats: int,
    note: Note = lambda text: None,
) -> list[Record]:
    """One row per axis and point; the base is measured once and stands in every axis. Errors: `UserError`."""
    measured = {}
    for point in all_points(base):
        note(f"B {point.batch_size}, S {point.seq_len}, D {point.hidden_size}, {point.H_cycles} x {point.L_cycles}")
        measured[point] = measure_point(preset, overrides, shape, point, repeats)
    return [
        {"preset": preset, "axis": axis, "value": getattr(point, axis), **measured[point]}
        for axis, points in points_along(base).items()
        for point in points
    ]


def draw(rows: Sequence[Record]) -> Figure:
    """Four panels, one per axis, both scales logarithmic: measured steps with quartiles, and their floors dashed."""
    presets = list(dict.fromkeys(row["preset"] for row in rows))
    with matplotlib.rc_context(STYLE):
        figure, panels = plt.subplots(2, 2, figsize=(8.4, 6.4), sharey=True, constrained_layout=True)
        for axes, (axis, label) in zip(panels.flat, AXES.items(), strict=True):
            for index, preset in enumerate(presets):
                mine = [row for row in rows if row["preset"] == preset and row["axis"] == axis]
                _draw_preset(axes, mine, preset, COLORS[index % len(COLORS)])
            _label(axes, sorted({row["value"] for row in rows if row["axis"] == axis}), label)
        for axes in panels[:, 0]:
            axes.set_ylabel("seconds per update")
        handles = dict(zip(*reversed(panels.flat[0].get_legend_handles_labels()), strict=True))
        # Filled column by column: steps to the left, their floors to the right.
        labels = [text.format(preset) for text in (_STEP, _FLOOR) for preset in presets]
        figure.legend([handles[label] for label in labels], labels, loc="outside upper center", ncols=2, fontsize=9)
    return figure


def _draw_preset(axes: Any, rows: Sequence[Record], preset: str, color: str) -> None:
    values = [row["value"] for row in rows]
    median = [row["seconds"] for row in rows]
    spread = [[row["seconds"] - row["q1"] for row in rows], [row["q3"] - row["seconds"] for row in rows]]
    axes.errorbar(values, median, spread, color=color, marker="o", markersize=4, capsize=2, label=_STEP.format(preset))
    floors, look = [row["floor_seconds"] for row in rows], {"linestyle": "--", "linewidth": 1.2, "marker": "s"}
    axes.plot(values, floors, color=color, markersize=3, label=_FLOOR.format(preset), **look)


def _label(axes: Any, values: Sequence[int], label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_xticks(values)
    axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())


def caption(rows: Sequence[Record], environment: Record, repeats: int) -> str:
    """What is shown, where and how it was measured."""
    first = rows[0]
    lines = [
        "Time of one whole update (forward, backward, gradient norm, optimizers, average) and, dashed, of its matrix "
        "products alone, against one size at a time; bars: quartiles.",
        f"{repeats} updates per point after {WARM_UP_STEPS} that do not count; {first['device']}, "
        f"{environment['gpu'] or environment['cpu']}, {first['threads']} threads, {first['dtype']}"
        f"{', compiled' if first['compiled'] else ''}.",
    ]
    for preset in dict.fromkeys(row["preset"] for row in rows):
        base = next(row for row in rows if row["preset"] == preset)
        lines.append(
            f"{preset}: what is not varied is batch {base['batch_size']}, S {base['seq_len']} (of which the network "
            f"sees {base['total_len']} with its prefix), D {base['hidden_size']}, {base['H_cycles']} x "
            f"{base['L_cycles']} cycles."
        )
    lines.append(f"Commit {environment['commit'] or 'unknown'}{'+dirty' if environment['dirty'] else ''}.")
    lines.append(f"Made by: python {' '.join(environment['argv'])}")
    return "\n".join(lines)


def save_growth(rows: Sequence[Record], environment: Record, repeats: int, folder: Path) -> str:
    """growth.csv, .json, the picture in three formats and its caption, returned in words. Errors: `UserError`."""
    return save_picture(
        draw(rows),
        folder / "growth",
        caption=caption(rows, environment, repeats),
        rows=rows,
        numbers={"environment": environment, "repeats": repeats, "rows": list(rows)},
    )
