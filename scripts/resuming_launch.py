r"""Start a training on several processes, and again from its newest state whenever one of them is lost.

    python scripts/resuming_launch.py --nproc-per-node 2 --run-folder runs/trm_maze -- \
        pretrain.py +experiment=trm_maze checkpoint_path=runs/trm_maze

What follows -- is what `torchrun` would start: the same command goes on where its run folder holds a state. A mistake
in it ends this program at once (exit code 2), and so does a stop by Ctrl-C or SIGTERM. A process that is killed or
fails starts all of them anew, until that has happened --fruitless times without a newer state in the run folder.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from training.storage.run_folder import RunFolder

USER_ERROR = 2


def launched(words: Sequence[str], nproc_per_node: int) -> int:
    """Run `python WORDS` on so many processes of this machine; 0, or the exit code of the first that failed.

    Negative: the signal that ended it.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc_per_node,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-u", *words)
    except ChildFailedError as error:
        first = error.get_first_failure()[1]
        # One that waited for a process that had a mistake to tell ends with the same code, or is ended for it.
        codes = {failure.exitcode for failure in error.failures.values()}
        return USER_ERROR if USER_ERROR in codes else int(first.exitcode) or 1
    return 0


def saved_at(folder: RunFolder) -> int:
    """When the newest state was written, in nanoseconds; 0 without one."""
    return folder.latest_state.stat().st_mtime_ns if folder.latest_state.exists() else 0


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument(
        "--nproc-per-node", type=int, default=2, metavar="N", help="processes, one GPU each (default 2)"
    )
    parser.add_argument("--run-folder", type=Path, required=True, metavar="DIR", help="where the training keeps states")
    parser.add_argument(
        "--fruitless", type=int, default=3, metavar="N", help="restarts without a newer state in a row (default 3)"
    )
    parser.add_argument("command", nargs="+", metavar="-- WORD", help="script and options, without python")
    options = parser.parse_args(argv)
    if options.nproc_per_node < 1 or options.fruitless < 0:
        raise UserError("found a number that is too small; give --nproc-per-node from 1, --fruitless from 0")
    folder, tried = RunFolder(options.run_folder), 0
    while True:
        before = saved_at(folder)
        try:
            code = launched(options.command, options.nproc_per_node)
        except SignalException as stop:
            say(f"stopped by {stop.sigval.name}; the same command goes on", file=sys.stderr)
            sys.exit(128 + stop.sigval.value)
        if code == 0:
            return
        if code == USER_ERROR:
            sys.exit(USER_ERROR)  # it has been told
        tried = 0 if saved_at(folder) > before else tried + 1
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        if tried > options.fruitless:
            raise UserError(
                f"a process {how}, {tried} times without a newer state in {options.run_folder}; see above, and give "
                "the same command again once that is mended"
            )
        say(f"a process {how}; all start again from the newest state of {options.run_folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
