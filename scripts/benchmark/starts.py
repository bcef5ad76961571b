"""CPU seconds until an entry script begins, and of its --help, beside `import torch` in the same turns.

    python scripts/benchmark/starts.py --json starts.json
    python scripts/benchmark/starts.py --script pretrain.py --script evaluate.py --repeats 9

Each is a process of its own, user and system time together: what a busy machine changes least. The first --help makes
its text and the first import writes bytecode where that is wanted; neither counts. docs/speed.md says more.
"""

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from analysis.command_line import benchmark_entry, check_at_least, check_json_target, environment, save_json_target
from analysis.timing import Timing
from long_work import progress_bar
from training.evaluation.summary_table import aligned
from training.records.result_numbers import Number, quartiles

SCHEMA_VERSION = 1
SEED = 0  # of the order within a turn
SCRIPTS = (
    *("pretrain.py", "evaluate.py", "predict.py", "step9_trajectory_perturb_train.py", "collatz.py"),
    *("scripts/record_result.py", "analysis/arms/peak_vs_final.py", "analysis/spectra/lyapunov_spectrum.py"),
)
Command = tuple[str, str]  # script, or torch; "help" or "import"
TORCH: Command = ("torch", "import")


def words_of(command: Command) -> list[str]:
    """The command line of a process."""
    name, kind = command
    if kind == "help":
        return [sys.executable, str(ROOT / name), "--help"]
    module = name.removesuffix(".py").replace("/", ".")
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}"]


def cpu_seconds(command: Command) -> float:
    """User and system seconds of one process. Errors: `UserError` with its last line where it fails."""
    before = os.times()
    done = subprocess.run(words_of(command), capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"{' '.join(command)} ended with exit code {done.returncode}: {last}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(scripts: Sequence[str], repeats: int) -> dict[str, dict[str, Any]]:
    """By script, and for torch: seconds of `help` and of `import`, and the import over that of torch of its turn."""
    commands = [TORCH, *((script, kind) for script in scripts for kind in ("help", "import"))]
    order = random.Random(SEED)
    turns: dict[Command, list[float]] = {command: [] for command in commands}
    with progress_bar(total=(repeats + 1) * len(commands), desc="starts", leave=False) as progress:
        for turn in range(repeats + 1):
            for command in order.sample(commands, len(commands)):
                seconds = cpu_seconds(command)
                if turn:
                    turns[command].append(seconds)
                progress.update()
    torch = turns[TORCH]
    record: dict[str, dict[str, Any]] = {"torch": {"import": asdict(Timing.of(torch))}}
    for script in scripts:
        imported = turns[script, "import"]
        record[script] = {
            "help": asdict(Timing.of(turns[script, "help"])),
            "import": asdict(Timing.of(imported)),
            "over_torch": asdict(Timing.of([a / b for a, b in zip(imported, torch, strict=True)])),
        }
    return record


def numbers(results: dict[str, dict[str, Any]]) -> list[Number]:
    """For the records of results: each script's import over torch's, then the seconds."""
    scripts = {name: result for name, result in results.items() if name != "torch"}
    return [
        *(
            quartiles(f"{name}: import over torch's", found["over_torch"], 1, "times")
            for name, found in scripts.items()
        ),
        *(quartiles(f"{name}: import", found["import"], 1, "s of CPU") for name, found in results.items()),
        *(quartiles(f"{name}: --help", found["help"], 1, "s of CPU") for name, found in scripts.items()),
    ]


def format_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each script: medians."""

    def cell(found: dict[str, Any], name: str) -> str:
        return f"{found[name]['median']:.2f}" if name in found else ""

    header = ("script", "", "--help s", "import s", "over torch")
    columns = ("help", "import", "over_torch")
    return aligned([header, *((name, "", *(cell(found, key) for key in columns)) for name, found in results.items())])


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--script", action="append", metavar="FILE", help="from the root; default: eight of them")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="counted turns; default 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole record here")
    options = parser.parse_args(argv)
    check_at_least(options, repeats=1)
    scripts = tuple(dict.fromkeys(options.script or SCRIPTS))
    for script in scripts:
        if not (script.endswith(".py") and (ROOT / script).is_file()):
            raise UserError(f"--script {script}: there is no such script; expected a file such as {SCRIPTS[0]}")
    check_json_target(options.json)
    described = environment("cpu_count") | {"seed": SEED}
    results = measure(scripts, options.repeats)
    say(*format_table(results))
    report = {
        "schema_version": SCHEMA_VERSION,
        "environment": described,
        "repeats": options.repeats,
        "results": results,
    }
    save_json_target(options.json, report | benchmark_entry(numbers(results), described))


if __name__ == "__main__":
    main()
