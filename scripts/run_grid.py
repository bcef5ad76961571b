"""Run all runs of a grid, some at a time, each after those that it needs. Stopped, the same command goes on.

    python scripts/run_grid.py step9_sigma_sweep --dry-run
    python scripts/run_grid.py config/grid/step9_sigma_sweep.yaml --jobs 2
    python scripts/run_grid.py step9_sigma_sweep --out runs/again --only 'sigma_1e-*' --max-hours 8
    python scripts/run_grid.py step9_cpu_twins --set data=data/mine --foreground --only 'step9_H*' -- --seed 1

A grid is a file of config/grid, and may start any scripts of the suite. A run is finished when its folder,
OUT/NAME, holds summary.json, and is not started again; a half one is started by its same command and goes on by
itself. What runs print goes to OUT/logs/NAME.log; OUT/grid.json keeps commands, durations and the number of threads.
Each run has CORES / JOBS threads, and the same ones when another launch goes on, so that it ends with the same bits.

--set NAME=TEXT replaces a text of the grid's `common`; what follows -- is the text `flags` of a grid that has one.
--foreground runs one after the other in this terminal, with no log, record or choice of threads.
--dry-run --plans says of each run also what it would do and cost; a --dry-run after -- asks for both.

Ctrl-C and SIGTERM are passed on to the runs, which save their state; a second Ctrl-C aborts them.
Exit code: 0 all finished, 1 a run failed, 2 a mistake in the command or the grid, 3 stopped before the end.
"""

import argparse
import contextlib
import fnmatch
import math
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from arguments import nearest_key
from scripts.built_data import BUILDERS, built_otherwise
from scripts.grid_file import LOGS, ROOT, Grid, GridRun, find_grid, read_grid
from scripts.grid_launcher import Launcher, is_running, log_of
from scripts.grid_plan import GridPlan, planning
from scripts.grid_record import GridRecord, in_words
from training.interrupt import InterruptHandler
from training.storage.run_folder import RunFolder, sweep_temporaries

FAILED, STOPPED = 1, 3


def match(grid: Grid, patterns: Sequence[str]) -> list[str]:
    """The names that the patterns match, in the order of the patterns. Errors: `UserError` when one matches none."""
    names: dict[str, None] = {}
    for pattern in patterns:
        matching = fnmatch.filter(grid.by_name, pattern)
        if not matching:
            raise UserError(
                f"--only {pattern}: {grid.source} has no such run, the nearest is "
                f"'{nearest_key(pattern, grid.by_name)}'; --dry-run lists all"
            )
        names |= dict.fromkeys(matching)
    return list(names)


def select(grid: Grid, names: Sequence[str]) -> list[GridRun]:
    """The runs of these names in this order, each after what it needs. What is finished needs nothing any more."""
    selected: dict[str, GridRun] = {}
    for name in names:
        ahead = [grid.by_name[name]]
        while ahead:
            run = ahead[-1]
            missing = [] if run.is_finished else [need for need in run.needs if need not in selected]
            if missing:
                ahead.append(grid.by_name[missing[0]])
            else:
                selected[ahead.pop().name] = run
    return list(selected.values())


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_threads(grid: Grid, jobs: int, record: GridRecord) -> int:
    """Threads of each run: those of earlier launches, else the grid's, else the cores shared out.

    Errors: `UserError` when the grid asks for others than its runs were started with: they would end with other bits.
    """
    wanted = grid.threads or max(1, cores() // jobs)
    if record.threads is None or record.threads == wanted:
        return wanted
    if grid.threads is not None:
        raise UserError(
            f"{grid.source}: threads: found {grid.threads}, but the runs of {grid.out} have "
            f"{record.threads}: restore that, or name another --out"
        )
    say(f"each run has {record.threads} threads, as in earlier launches (here it would be {wanted})")
    return record.threads


def describe(grid: Grid, selected: Sequence[GridRun], record: GridRecord, plans: GridPlan | None = None) -> None:
    """Print the plan: a line for each run with its state, its command, and what it would do and cost."""
    states = {run.name: "finished" if run.is_finished else "new" for run in grid.runs}
    for run in selected:
        state = states[run.name]
        if state == "new" and is_running(log_of(grid, run)):
            state = "running"
        elif state == "new" and record.seconds(run.name):
            state = f"goes on after {in_words(record.seconds(run.name))}"
        missing = [name for name in run.needs if states[name] != "finished"]
        after = f", after {', '.join(missing)}" if missing and state != "finished" else ""
        say(f"{run.name} ({run.kind}): {state}{after}")
        say(f"    python {shlex.join(run.command)}", flush=plans is not None)
        if plans is not None and state != "finished":
            say(*(f"    {line}" for line in plans.lines(run)), "", flush=True)
    done = sum(states[run.name] == "finished" for run in selected)
    say(f"{len(selected)} runs, {done} of them finished; in {grid.out}")


def launch(grid: Grid, selected: list[GridRun], options: argparse.Namespace, again: str) -> int:
    """Run them, holding the output folder; returns the exit code."""
    with contextlib.ExitStack() as held:
        folder = RunFolder(grid.out)
        try:
            folder.create()
            held.enter_context(folder.lock())
        except UserError as error:
            words = str(error).replace("another run", "another launcher")
            raise UserError(words.replace("checkpoint_path=", "--out ").replace("checkpoint_path", "--out")) from None
        sweep_temporaries(grid.out)
        record = GridRecord(grid.out)
        threads = choose_threads(grid, options.jobs, record)
        record.threads = threads
        record.write()
        warn_of_others(selected, record)
        launcher = Launcher(grid, selected, jobs=options.jobs, threads=threads, record=record)
        plan = f"{len(selected)} runs, {launcher.count('finished')} of them finished; {options.jobs} at a time"
        say(f"{grid.source}: {plan}, {threads} threads each; logs in {grid.out / LOGS}", flush=True)
        with InterruptHandler() as interrupt:
            try:
                launcher.run(interrupt, None if options.max_hours is None else 3600 * options.max_hours)
            except KeyboardInterrupt:
                say("aborted", file=sys.stderr)
    return print_outcome(launcher, again)


def warn_of_others(selected: Sequence[GridRun], record: GridRecord) -> None:
    """Name finished runs that are not what the grid would have made: of another command, or gone on since."""
    for run in selected:
        found = []
        if run.is_finished and record.changed_command(run):
            found.append("was finished by another command than the grid has now")
        if (since := record.gone_on(run)) is not None:
            found.append(f"is not as the grid finished it ({since})")
        for words in found:
            say(f"warning: {run.name} {words}: move {run.finished_file.parent} away to run it again", file=sys.stderr)


def warn_of_outdated(grid: Grid, selected: Sequence[GridRun], record: GridRecord) -> None:
    """Name finished runs that started from what is no more."""
    for name, need in record.outdated(selected, grid.by_name).items():
        say(
            f"warning: {name} was finished before {need} was made again or went on, from which it starts: move "
            f"{grid.by_name[name].finished_file.parent} away to run it again",
            file=sys.stderr,
        )


def print_outcome(launcher: Launcher, again: str) -> int:
    """Say how it ended and how to go on; returns the exit code."""
    names = {
        state: [run.name for run in launcher.selected if launcher.states[run.name] == state]
        for state in ("failed", "skipped")
    }
    for state, run_names in names.items():
        if run_names:
            say(f"{state}: {', '.join(run_names)}", file=sys.stderr)
    warn_of_outdated(launcher.grid, launcher.selected, launcher.record)
    done, total = launcher.count("finished"), len(launcher.selected)
    if done == total:
        say(f"all {total} runs are finished: {launcher.grid.out}")
        return 0
    reason = f"stopped ({launcher.stop_reason})" if launcher.stop_reason else "ended"
    say(f"{reason} with {done} of {total} runs finished; the same command goes on: {again}")
    return FAILED if names["failed"] else STOPPED


def run_in_foreground(runs: Sequence[GridRun], again: str) -> int:
    """Run them one after the other in this terminal, until one fails or a signal comes; returns the exit code."""
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGTERM and process is not None:  # a Ctrl-C reaches the run by itself
            process.send_signal(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for run in runs:
            say("", f"== {run.name}", flush=True)
            process = subprocess.Popen([sys.executable, *run.command], cwd=ROOT)
            code = process.wait()
            if received:
                say(f"stopped ({signal.Signals(received[0]).name}); the same command goes on: {again}")
                return STOPPED
            if code:
                return code if code > 0 else FAILED
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    parser = FlagParser(description=__doc__)
    parser.add_argument("grid", metavar="GRID", help="a grid file, or the name of one in config/grid")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at a time; default 2")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the runs; default: the grid's own")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these runs and what they need; * stands for any characters"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=TEXT", help="in place of texts of the grid's common"
    )
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="one after the other in this terminal; those of --only also when finished; the first that fails ends it",
    )
    parser.add_argument("--max-hours", type=float, metavar="H", help="stop after so long, as SIGTERM does")
    parser.add_argument("--dry-run", action="store_true", help="print runs, states and commands; write nothing")
    parser.add_argument("--plans", action="store_true", help="with --dry-run: what each run would do and cost too")
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    texts = dict(map(_read_setting, options.set))
    if end < len(words):
        flags = [word for word in words[end + 1 :] if word != "--dry-run"]
        if len(flags) < len(words) - end - 1:
            options.dry_run = options.plans = True
        texts["flags"] = shlex.join(flags).replace("{", "{{").replace("}", "}}")
    if options.plans and not options.dry_run:
        raise UserError("--plans: expected with --dry-run; a launch starts the runs themselves")
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: expected a whole number from 1")
    if options.max_hours is not None and not (math.isfinite(options.max_hours) and options.max_hours > 0):
        raise UserError(f"--max-hours {options.max_hours:g}: expected hours above 0, such as 8 or 0.5")
    out = None
    if options.out is not None:
        # Runs are started in the suite's folder. A path below it stays short, wherever the command was given.
        out = Path(os.path.expanduser(options.out)).absolute()
        out = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    grid = read_grid(find_grid(options.grid), out, texts)
    named = [] if options.only is None else match(grid, options.only)
    selected = select(grid, named if options.only is not None else list(grid.by_name))
    for run in selected:
        if run.is_finished and run.command[0] in BUILDERS:
            otherwise = built_otherwise(run.finished_file.parents[1], run.command[0], run.command[1:])
            if otherwise is not None:
                say(f"warning: {otherwise}", file=sys.stderr)
    if options.dry_run:
        with planning(grid) if options.plans else contextlib.nullcontext() as plans:
            record = GridRecord(grid.out)
            describe(grid, selected, record, plans)
        warn_of_others(selected, record)
        warn_of_outdated(grid, selected, record)
        return 0
    again = shlex.join(["python", "scripts/run_grid.py", *words])
    if options.foreground:
        return run_in_foreground([run for run in selected if run.name in named or not run.is_finished], again)
    return launch(grid, selected, options, again)


def _read_setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: expected NAME=TEXT")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
