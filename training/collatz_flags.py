"""The flags of collatz.py and what they mean. A mistake is one line (`UserError`)."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dataset.collatz_map import TEST_STARTS
from errors import UserError
from training.collatz_baselines import ClosedFormRun

PROGRAM = "collatz.py"
MOST_LOOKAHEAD = 1000
# With more, 3^m of such a start would pass Python's limit for writing a decimal number.
MOST_DIGITS = 2500

DESCRIPTION = """\
A function V(n) that is to decrease along every step of the odd-only Collatz (Syracuse) map T(n) = (3n + 1) / 2^k.
V sees n and the valuations k_1..k_L of the next L steps, its lookahead. A step on which V does not decrease is a
violation.

    python dataset/build_collatz_eval.py --rows 50000 --seed 42 --output-csv collatz_eval_50k.csv
    python collatz.py --closed-forms --lookahead 20 --eval-csv collatz_eval_50k.csv --json closed_forms.json
    python collatz.py --closed-forms --lookahead 20 --orbits 27,703,8400511 --json orbits.json

--closed-forms judges functions that need no training, by exact integers: what a learned V has to beat."""

EPILOG = """\
functions, with S_j = ln T^j(n) for j = 0..L
  ln_n           ln n
  anchor_B       ln n + B (L log2 3 - k_1 - ... - k_L), B = 0.35 or ln 2
  V_avg          mean of S_j; violated iff T^(L+1)(n) >= n
  V_min, V_max   min and max of S_j + g j for g -> 0+; violated iff T^j(n) >= n for all j = 1..L+1, and iff
                 T^(L+1)(n) is above all of n..T^L(n)
  V_max_0.001    the same maximum at g = 0.001
  V_tmin_c       S_a + a/1000, a the first argmin of S_j - c m j, m = max(0, (S_L - S_0) / L)
  V_tmax_c       the same with the first argmax
  ln_n, V_avg, V_min and V_max are decided on integers. Of the others a margin V(n) - V(T(n)) below 1e-6 is a violation.
table and report
  pass, weighted_pass (by w_expansion), growth_pass and growth_weighted_pass (steps with T(n) > n): shares in the
  report, percentages in the table. n%3!=0 (free_pass): rows with n not divisible by 3; T(n) never is, so a
  function that sees n mod 3 passes the others for nothing. orbits: violations along all steps of a start down to 1."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; python {PROGRAM} --help lists the flags")


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = _Parser(
        PROGRAM,
        usage=f"python {PROGRAM} --closed-forms [flags]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--lookahead", type=_lookahead, default=10, metavar="L", help="steps that V sees (default 10)")
    parser.add_argument("--eval-csv", type=Path, metavar="FILE", help="rows to judge, of dataset/build_collatz_eval.py")
    judge = parser.add_argument_group("closed forms")
    judge.add_argument("--closed-forms", action="store_true", help="judge functions in closed form; no training")
    judge.add_argument(
        "--orbits", type=_starts, default=TEST_STARTS, metavar="N,N,...",
        help=f"odd starts of any size (default {','.join(map(str, TEST_STARTS))})",
    )  # fmt: skip
    judge.add_argument("--json", type=Path, metavar="FILE", help="write the report here")
    return parser


def read_flags(argv: Sequence[str]) -> ClosedFormRun:
    """What the flags ask for. Errors: `UserError`."""
    flags = build_parser().parse_args(list(argv))
    if not flags.closed_forms:
        raise UserError(f"nothing to do without --closed-forms; python {PROGRAM} --help lists the flags")
    return ClosedFormRun(flags.lookahead, tuple(flags.orbits), flags.eval_csv, flags.json)


def _lookahead(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= MOST_LOOKAHEAD):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1 to {MOST_LOOKAHEAD}")
    return int(text)


def _starts(text: str) -> tuple[int, ...]:
    starts: dict[int, None] = {}
    for word in text.split(","):
        digits = word.strip()
        shown = digits if len(digits) <= 40 else f"{digits[:40]}... ({len(digits)} characters)"
        if not (digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS):
            raise argparse.ArgumentTypeError(
                f"{shown!r} is not a whole number of at most {MOST_DIGITS} digits, such as in 27,703"
            )
        number = int(digits)
        if number % 2 == 0:
            raise argparse.ArgumentTypeError(f"{shown} is even; the map is on odd numbers above 0")
        if number in starts:
            raise argparse.ArgumentTypeError(f"{shown} is given twice")
        starts[number] = None
    return tuple(starts)
