"""Gradient flossing on the task that it was shown on: delayed XOR and copy, with its controls.

    python projects/flossing_toy/gradient_flossing_toy.py --out out/flossing
    python projects/flossing_toy/gradient_flossing_toy.py --out out --seeds 0,1 --delays 10,30 --tasks xor --arms none

A cell is one training: task, delay, arm, seed. Finished ones are kept as --out/cells/<cell>.json and never made again;
the same command goes on after any stop, and several processes may work on one --out at the same time. When none is left
(or with --report at once) the report of all finished cells that the flags name is written to --out: the table and the
claims as flossing_toy.txt, .json and .csv, and the figures flossing_spectra, flossing_accuracy and flossing_curves as
.png and .svg with their numbers as .csv and .json and captions as .txt.

Arms: none (no flossing; gradients are clipped, as in all arms but one: this is the control "clipping only"), pre,
inter, pre_inter; controls: shuffled and shuffled_inter (as many flossing updates as pre and pre_inter, towards the
network's own first exponents in another order), orthogonal (J at the start, no flossing), unclipped (neither flossing
nor clipping).

Source: Engelken 2023 (arXiv:2312.17306), settings of github.com/RainerEngelken/GradientFlossing.
"""

import argparse
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import torch

from analysis.arms.seed_pairs import INTERVAL
from analysis.command_line import whole_numbers
from analysis.figures.figure_files import Figure, make_folder, save_caption, save_csv, save_json, save_picture
from analysis.figures.made_of import let_go, results_folder
from arguments import FlagParser
from long_work import progress_bar
from options import settings_of
from projects.flossing_toy.cells import CellFolder, FinishedCell, all_cells
from projects.flossing_toy.delayed_bits import TASKS, first_scored
from projects.flossing_toy.figures import curves, draw_accuracies, draw_curves, draw_spectra, spectra
from projects.flossing_toy.summary import accuracies, claims, summary, tables
from projects.flossing_toy.toy_training import ARMS, Cell, NonFiniteToyError, ToySettings, planned_updates, run_cell
from training.devices import keep_freed_memory
from training.evaluation.summary_table import aligned
from training.records.provenance import collect_provenance
from training.records.result_numbers import Number, commit_of, estimate, machine_of, record_entry
from training.settings.checks import check_ranges
from training.settings.flags import in_flags

_MOST = 10**9 - 1  # of a seed or delay
# Names of all that is written beside the cells, without endings.
WRITTEN = ("flossing_toy", "flossing_spectra", "flossing_accuracy", "flossing_curves")
DEFAULT_ARMS = "none,pre,pre_inter,shuffled,orthogonal,unclipped"


def _names(option: str, text: str, known: Collection[str]) -> list[str]:
    names = list(dict.fromkeys(filter(None, text.split(","))))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(f"{option}: found {', '.join(unknown) or 'nothing'}, expected some of {', '.join(known)}")
    return names


def build_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        "gradient_flossing_toy.py",
        help_command="python projects/flossing_toy/gradient_flossing_toy.py",
        description=__doc__,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="cells and report")
    listed: dict[str, Any] = {"metavar": "LIST", "help": "default: %(default)s"}
    parser.add_argument("--seeds", type=whole_numbers(0, _MOST), default="0,1,2,3,4", **listed)
    parser.add_argument("--delays", type=whole_numbers(1, _MOST), default="10,30,50,70", **listed)
    parser.add_argument("--tasks", default="xor,copy", **listed)
    parser.add_argument("--arms", default=DEFAULT_ARMS, **listed)
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every N-th cell only, from the I-th on")
    parser.add_argument("--report", action="store_true", help="train nothing")
    sizes = parser.add_argument_group("settings of all cells (defaults: the source's)")
    for setting in settings_of(ToySettings):
        if setting.key != "gain":
            kind = int if setting.kind is int else float
            words = setting.help + ("" if setting.default is None else "; default: %(default)s")
            sizes.add_argument(_flag(setting.key), type=kind, default=setting.default, metavar="N", help=words)
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def toy_settings(options: argparse.Namespace) -> ToySettings:
    """Errors: `UserError` for a setting out of its range."""
    given = {field.name: getattr(options, field.name) for field in fields(ToySettings) if field.name in options}
    settings = ToySettings(**given)
    try:
        check_ranges(settings)
    except UserError as error:
        raise in_flags(error, {name: _flag(name) for name in given}) from None
    if settings.num_exponents > settings.num_units:
        raise UserError(
            f"--num-exponents: found {settings.num_exponents}, expected at most --num-units {settings.num_units}"
        )
    if settings.transient >= settings.window:
        raise UserError(f"--transient: found {settings.transient}, expected less than --window {settings.window}")
    return settings


def chosen_cells(options: argparse.Namespace, settings: ToySettings) -> list[Cell]:
    """The cells that the flags name. Errors: `UserError`."""
    tasks, arms = _names("--tasks", options.tasks, TASKS), _names("--arms", options.arms, ARMS)
    delays, seeds = list(dict.fromkeys(options.delays)), list(dict.fromkeys(options.seeds))
    for task in tasks:
        needed = first_scored(task, max(delays))
        if needed >= settings.num_steps:
            raise UserError(
                f"--delays: {task} with {max(delays)} scores nothing in {settings.num_steps} steps; use "
                f"--num-steps {2 * needed}"
            )
    return all_cells(tasks, delays, arms, seeds)


def part_of(cells: Sequence[Cell], text: str) -> list[Cell]:
    """Every N-th cell. Errors: `UserError`."""
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part: found {text!r}, expected I/N with I from 1 to N, as 1/2")
    return list(cells[int(match[1]) - 1 :: int(match[2])])


def train_cells(folder: CellFolder, cells: Sequence[Cell]) -> list[Cell]:
    """Train what is neither finished nor another process's; returns the cells that another process works on.

    Errors: `UserError`; `NonFiniteToyError` becomes one.
    """
    settings, elsewhere = folder.settings, []
    here = collect_provenance({})
    made_by = {"commit": commit_of(here), "machine": machine_of(here), "torch": torch.__version__}
    todo = [cell for cell in cells if folder.read(cell) is None]
    total = sum(planned_updates(settings, cell) for cell in todo)
    with progress_bar(total=total, desc="cells", unit="update", smoothing=0.02) as progress:
        for number, cell in enumerate(todo, start=1):
            progress.set_postfix_str(f"{number}/{len(todo)} {cell.name}")
            before = progress.n
            with folder.claim(cell) as mine:
                if mine:
                    try:
                        result = run_cell(settings, cell, progress.update)
                    except NonFiniteToyError as error:
                        raise UserError(f"{error}; use a smaller --lr, or --floss-clip 1") from error
                    folder.save(cell, result | {"made_by": made_by})
                elif not folder.file(cell).exists():
                    elsewhere.append(cell)
            # A cell that ended early, or that another process made, is done with all the same.
            progress.update(planned_updates(settings, cell) - (progress.n - before))
    return elsewhere


def numbers(report: Mapping[str, Any]) -> list[Number]:
    """For the records of results, of what flossing_toy.json holds: accuracy by task, delay and arm, flossed first."""
    measured = []
    for accuracy in sorted(report["accuracy"], key=lambda accuracy: accuracy["arm"] != "pre_inter"):
        name = f"{accuracy['task']}, delay {accuracy['delay']}, {accuracy['arm']}: accuracy"
        measured += estimate(name, accuracy["interval"], 100, "%", moment="final")
    return [*measured, Number("trainings", report["cells"]), Number("trainings not run", report["missing_cells"])]


def claim(out: Path, cells: Sequence[Cell]) -> None:
    """Hold the folder, once others have let it go. Errors: `UserError` where a report of cells is there that are not
    among these."""
    chosen = ("task", "delay", "arm", "seed")
    asked = {f"--{name}s": sorted({str(getattr(cell, name)) for cell in cells}) for name in chosen}
    results_folder(out, WRITTEN, [], asked, grow=asked, wait=True, script=__file__)


def write_results(out: Path, cells: Sequence[FinishedCell], missing: int, command: str) -> list[str]:
    """Write everything; returns the lines of the table and the claims. Errors: `UserError`."""
    folder = make_folder(out)
    settings = cells[0].result["settings"]
    results: dict[str, Any] = {
        "toy": "gradient flossing",
        "command": command,
        "commits": list(dict.fromkeys(finished.result["made_by"]["commit"] for finished in cells)),
        "machines": list(dict.fromkeys(finished.result["made_by"]["machine"] for finished in cells)),
        "seeds": sorted({finished.cell.seed for finished in cells}),
        "cells": len(cells),
        "missing_cells": missing,
        "seconds": sum(finished.seconds for finished in cells),
        "interval": INTERVAL,
        "settings_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "settings": settings,
    } | summary(cells)
    lines = aligned(tables(cells), left=3)
    lines += [f"{_verdict(claim.holds)}: {claim.words}: {claim.found}" for claim in claims(cells)]
    entry = record_entry(
        numbers(results),
        commands=[command],
        config_hashes=[results["settings_sha256"]],
        commits=results["commits"],
        datasets=["synthetic"],
        seeds=results["seeds"],
        hardware=results["machines"],
        seconds=results["seconds"],
        findings=[f"{_verdict(claim['holds'])} ({claim['name']}): {claim['found']}" for claim in results["claims"]],
    )
    save_json(results | entry, folder / "flossing_toy.json")
    save_csv([_flat(finished) for finished in cells], folder / "flossing_toy.csv")
    save_caption("\n".join([*lines, f"Report: {command}"]), folder / "flossing_toy.txt")
    seeds = ", ".join(map(str, results["seeds"]))
    base = (
        f"Rate network of {settings['num_units']} units, {settings['epochs']} epochs at most of batches of "
        f"{settings['batch_size']} sequences of {settings['num_steps']} steps; seeds {seeds}; {len(cells)} trainings"
        f"{f' ({missing} of those asked for are missing)' if missing else ''}; commits "
        f"{', '.join(results['commits'])}.\nFigure: {command}"
    )
    rows = spectra(cells)
    words = (
        f"Lyapunov exponents before training over {settings['window'] - settings['transient']} steps, mean over "
        f"{settings['measured_sequences']} sequences that were not flossed on; thin lines: seeds, thick: their mean. "
        f"Flossing: {settings['floss_updates']} updates. {base}"
    )
    _save(folder / "flossing_spectra", draw_spectra(rows), rows, words)
    points = [
        {"task": point.task, "delay": point.delay, "arm": point.arm} | asdict(point.interval)
        for point in accuracies(cells)
    ]
    words = (
        f"Accuracy at the end of training on {settings['eval_batches'] * settings['batch_size']} new sequences against "
        f"the delay; lines: mean over seeds, bars: {INTERVAL.split(' (')[0]}, dots: seeds, dotted: chance. Arms stand "
        f"beside each other at each delay. {base}"
    )
    _save(folder / "flossing_accuracy", draw_accuracies(cells), points, words)
    words = (
        f"Accuracy on fresh batches while training, means of {settings['block']} epochs; thin lines: seeds, thick: "
        f"their mean, to which a training that ended early goes on contributing its last value. Flossing updates are "
        f"not counted as epochs. {base}"
    )
    _save(folder / "flossing_curves", draw_curves(cells), curves(cells), words)
    return lines


def _save(stem: Path, figure: Figure, rows: Sequence[dict[str, Any]], caption: str) -> None:
    save_picture(figure, stem, caption=caption, rows=rows, numbers={"rows": list(rows)}, formats=("png", "svg"))


def _verdict(holds: bool | None) -> str:
    return "open" if holds is None else "holds" if holds else "fails"


def _flat(finished: FinishedCell) -> dict[str, Any]:
    result, cell = finished.result, finished.cell
    final, curve = result["final"], result["curve"]
    return {
        **asdict(cell), "accuracy": final["accuracy"], "loss": final["loss"], "bits": final["bits"],
        "epochs": curve["last_epoch"][-1],
        "epochs_to_95": finished.epochs_to(0.95),
        "flossing_updates": sum(len(episode["losses"]) for episode in result["episodes"]),
        "first_grad_norm": curve["grad_norm"][0], "last_grad_norm": curve["grad_norm"][-1],
        "seconds": finished.seconds,
    }  # fmt: skip


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = build_parser().parse_args(arguments)
    settings = toy_settings(options)
    cells = chosen_cells(options, settings)
    mine = part_of(cells, options.part)
    # One thread: matrices this small lose time in more, and a cell's bits do not depend on the machine's cores.
    torch.set_num_threads(1)
    keep_freed_memory(torch.device("cpu"))
    claim(options.out, cells)
    let_go(options.out)  # others train there too
    folder = CellFolder(options.out, settings)
    elsewhere = [] if options.report else train_cells(folder, mine)
    if elsewhere:
        say(f"{len(elsewhere)} cells are being trained by another process")
    claim(options.out, cells)  # another process may have reported while this one trained
    finished = [finished_cell for finished_cell in map(folder.read, cells) if finished_cell is not None]
    if not finished:
        others = len(list(folder.path.glob("*.json")))
        there = f", but {others} of others: give the flags that they were made with, or" if others else ";"
        raise UserError(f"{options.out} holds no finished cell of these{there} leave out --report to train them")
    missing = len(cells) - len(finished)
    lines = write_results(
        options.out, finished, missing, "python projects/flossing_toy/gradient_flossing_toy.py " + shlex.join(arguments)
    )
    say(*lines)
    left = f"; {missing} of {len(cells)} cells are not finished, the same command goes on" if missing else ""
    say(f"written: {options.out}/flossing_toy.txt and the figures beside it{left}")


if __name__ == "__main__":
    main()
