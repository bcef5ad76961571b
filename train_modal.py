"""Start collatz.py on a rented GPU (https://modal.com), or print what would be started there.

    modal run --detach train_modal.py --args "--epochs 100000 --layers 2048,1024,512 --curriculum --lookahead 20"
    python train_modal.py --args "--epochs 100000 --lookahead 20"        # prints the commands; needs no account

Needs `pip install modal` and `modal setup` once; nothing else here does. The evaluation file of 50,000 rows is built
where none is named, and the run folder lies on the volume `collatz-runs`, named after its flags: the same command goes
on where the time limit stopped it. Fetch it with `modal volume get collatz-runs NAME`.
"""

import argparse
import hashlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from arguments import FlagParser

try:
    import modal
except ImportError:
    modal: Any = None  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parent
SUITE, RUNS = "/suite", "/runs"  # on the rented machine
GPU, LIMIT_HOURS = "T4", 4.0
# Less than the limit: the run saves its state and stops by itself.
TRAIN_HOURS = 3.8
EVAL_CSV = "collatz_eval_50k.csv"
_LEFT_HERE = [".git", ".venv", "**/__pycache__", "runs", "checkpoints", "data", "logs", "*.csv"]


def remote_commands(args: str) -> list[list[str]]:
    """What follows `python` there, one command after the other. Errors: `UserError` for flags that cannot be read."""
    try:
        flags = shlex.split(args)
    except ValueError as error:
        raise UserError(
            f"--args {args[:80]!r} cannot be cut into words ({error}), expected flags as in a shell"
        ) from None
    if {"--closed-forms", "--evaluate"} & set(_names(flags)):
        raise UserError("--args: found --closed-forms or --evaluate, which take seconds here; expected a training run")
    commands = []
    if "--eval-csv" not in _names(flags):
        path = f"{RUNS}/{EVAL_CSV}"
        build = ["projects/collatz/build_eval.py", "--rows", "50000", "--seed", "42", "--output-csv", path]
        commands.append(build)
        flags += ["--eval-csv", path]
    if "--output-dir" not in _names(flags):
        flags += ["--output-dir", f"{RUNS}/{run_name(args)}"]
    if "--max-hours" not in _names(flags):
        flags += ["--max-hours", f"{TRAIN_HOURS:g}"]
    return [*commands, ["collatz.py", *flags]]


def run_name(args: str) -> str:
    """The folder of a run, by its flags as words."""
    return f"collatz-{hashlib.sha256(shlex.join(shlex.split(args)).encode()).hexdigest()[:8]}"


def _names(flags: Sequence[str]) -> list[str]:
    return [flag.partition("=")[0] for flag in flags if flag.startswith("--")]


def run_there(args: str) -> None:
    """On the rented machine: one command after the other, in the suite's folder. Errors: of the first that fails."""
    for command in remote_commands(args):
        subprocess.run([sys.executable, *command], cwd=SUITE, check=True)


if modal is not None:
    app = modal.App("collatz")
    volume = modal.Volume.from_name("collatz-runs", create_if_missing=True)
    image = (
        modal.Image.debian_slim(python_version="3.11")
        .pip_install_from_requirements(str(ROOT / "requirements.txt"))
        # This file is imported there from elsewhere, and finds the suite by this.
        .env({"PYTHONPATH": SUITE})
        .add_local_dir(str(ROOT), remote_path=SUITE, ignore=_LEFT_HERE)
    )

    @app.function(image=image, gpu=GPU, timeout=int(3600 * LIMIT_HOURS), volumes={RUNS: volume})
    def train(args: str) -> None:
        """One run there; what it leaves is kept however it ends."""
        try:
            run_there(args)
        finally:
            volume.commit()

    @app.local_entrypoint()
    def main(args: str) -> None:
        """What `modal run` starts here."""
        for command in _checked(args):
            say(f"there: python {shlex.join(command)}")
        train.remote(args)


@exit_on_user_error
def _checked(args: str) -> list[list[str]]:
    return remote_commands(args)


@exit_on_user_error
def show(argv: Sequence[str] | None = None) -> None:
    """Print the commands."""
    parser = FlagParser("train_modal.py", help_command="python train_modal.py", description=__doc__)
    parser.add_argument("--args", required=True, metavar="FLAGS", help="flags of collatz.py, as one word")
    given: argparse.Namespace = parser.parse_args(argv)
    for command in remote_commands(given.args):
        say(f"python {shlex.join(command)}")
    say(f"start it with: modal run --detach train_modal.py --args {shlex.quote(given.args)}", file=sys.stderr)


if __name__ == "__main__":
    show()
