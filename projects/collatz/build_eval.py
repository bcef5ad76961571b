"""Build the evaluation file of the Collatz network: odd numbers of 2 to 128 bits, their step and their orbit, exactly.

    python projects/collatz/build_eval.py --rows 50000 --seed 42 --output-csv collatz_eval_50k.csv

Columns n,t1,is_growth,sigma_n,max_n,w_expansion, lines ending with CR LF. The same rows and seed give the same bytes; a
file that holds other bytes is never overwritten.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from errors import UserError, exit_on_user_error, require_packages, say, writing
from files import bounded_bytes, regular_size

require_packages()


from analysis.command_line import whole_number
from arguments import FlagParser
from long_work import progress_bar
from projects.collatz.eval_file import csv_lines, draw_numbers
from projects.collatz.labels import labels_of
from training.storage.atomic_file import write_bytes_atomically
from training.storage.result_target import check_result_target

MOST_ROWS = 5_000_000


def parser() -> argparse.ArgumentParser:
    """The command line. A mistake raises `UserError`."""
    command = "python projects/collatz/build_eval.py"
    options = FlagParser("build_eval.py", help_command=command, description=__doc__)
    options.add_argument(
        "--rows", type=whole_number(1, MOST_ROWS), default=50_000, metavar="N", help="numbers (default 50000)"
    )
    options.add_argument(
        "--seed", type=whole_number(0, 2**63 - 1), default=42, metavar="S", help="of the draws (default 42)"
    )
    options.add_argument("--output-csv", type=Path, required=True, metavar="FILE", help="where to write")
    return options


def _write_new_file(path: Path, data: bytes) -> bool:
    """Write a file whole or not at all. False, having written nothing, where it already holds these bytes.

    Errors: `UserError` where it holds others, or cannot be written; the old file is as it was.
    """
    with writing(f"--output-csv {path}", "name another"):
        if not path.exists():
            write_bytes_atomically(path.absolute(), data)
            return True
        if regular_size(path) == len(data) and bounded_bytes(path, len(data)) == data:
            return False
    raise UserError(
        f"--output-csv {path}: another file is there and is not overwritten; remove it yourself or name another"
    )


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    options = parser().parse_args(argv)
    path = options.output_csv
    check_result_target("--output-csv ", path, None)
    numbers = draw_numbers(options.rows, options.seed)
    labels = progress_bar(labels_of(numbers), total=len(numbers), desc="orbits", unit=" rows", leave=False)
    data = "".join(f"{line}\r\n" for line in csv_lines(numbers, labels)).encode()
    written = _write_new_file(path, data)
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    state = "written to" if written else "the same bytes were already in"
    say(f"{options.rows:,} rows of seed {options.seed}, md5 {digest}: {state} {path}")
    say(f"next: python collatz.py --closed-forms --lookahead 20 --eval-csv {path}")


if __name__ == "__main__":
    main()
