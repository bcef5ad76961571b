"""The command line of collatz.py: which of its three modes is asked for, and what its flags say to each."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.command_line import whole_number
from arguments import FlagParser
from errors import UserError
from projects.collatz.baselines import ClosedFormRequest
from projects.collatz.settings import MOST_LOOKAHEAD
from projects.collatz.syracuse import TEST_STARTS
from projects.collatz.train_flags import add_training_flags, in_flags, to_config
from training.settings.schema import TrainConfig

PROGRAM = "collatz.py"
# With more, 3^m of such a start would pass Python's limit for writing a decimal number.
MOST_DIGITS = 2500

DESCRIPTION = """\
A function V(n) that is to decrease along every step of the odd-only Collatz (Syracuse) map T(n) = (3n + 1) / 2^k.
V sees n and the valuations k_1..k_L of the next L steps, its lookahead. A step on which V does not decrease is a
violation. A sample without violations proves nothing about all n.

    python projects/collatz/build_eval.py --rows 50000 --seed 42 --output-csv collatz_eval_50k.csv
    python collatz.py --epochs 30000 --layers 256,128,64 --curriculum --ramp-len 15000 --start-seeds 0 --lookahead 20 \\
      --eval-csv collatz_eval_50k.csv --output-dir runs/faithful
    python collatz.py --preset orbit --lookahead 20 --eval-csv collatz_eval_50k.csv
    python collatz.py --evaluate runs/faithful/best.pt --eval-csv collatz_eval_50k.csv --json best.json
    python collatz.py --closed-forms --lookahead 20 --eval-csv collatz_eval_50k.csv --json closed_forms.json
    python collatz.py --closed-forms --lookahead 20 --orbits 27,703,8400511 --json orbits.json

Without --closed-forms or --evaluate a network is trained; the same command goes on where it was stopped.
--closed-forms judges functions that need no training, by exact integers: what a learned V has to beat."""

EPILOG = """\
presets
  faithful  the source experiment, its defects included as switches: --empty-pool, --legacy-lr-plateau,
            --decontaminate; one epoch is one update
  orbit     segments of orbits from starts of 200 bits and more, a saturating loss that weighs all steps alike, a
            network that corrects V_avg by what it sees in the window, cosine rate, average of weights
evaluation
  quick: the orbit of 27, and 1,000 random numbers of the training distribution. full: an on-orbit sample that chooses
  the best checkpoint, the orbits of 111, 27, 703, 26623 and 626331, the evaluation file. At the end, and by --evaluate,
  in float64 and beside the closed forms: another on-orbit sample (the headline), seven fresh orbits, numbers by size up
  to 2^256, words on which V cannot decrease all the time. evaluation.json holds all of it.
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


@dataclass(frozen=True)
class TrainingRequest:
    """A run to train, or only its plan to print."""

    config: TrainConfig
    dry_run: bool


@dataclass(frozen=True)
class CheckpointRequest:
    """`--evaluate`: weights to judge. `lookahead`: what the command says it is, None where it does not."""

    checkpoint: Path
    lookahead: int | None
    eval_csv: Path | None
    json: Path | None
    starts: tuple[int, ...]
    device: str


Request = TrainingRequest | CheckpointRequest | ClosedFormRequest


def build_parser() -> argparse.ArgumentParser:
    """All flags. Those that are not given are absent from what is parsed."""
    parser = FlagParser(
        PROGRAM,
        help_command=f"python {PROGRAM}",
        usage=f"python {PROGRAM} [flags]",
        description=DESCRIPTION,
        epilog=EPILOG,
        argument_default=argparse.SUPPRESS,
    )
    lookahead = whole_number(1, MOST_LOOKAHEAD)
    parser.add_argument("--lookahead", type=lookahead, metavar="L", help="steps that V sees (default 10)")
    parser.add_argument(
        "--eval-csv", type=Path, metavar="FILE", help="rows to judge, of projects/collatz/build_eval.py"
    )
    judge = parser.add_argument_group("closed forms and checkpoints")
    judge.add_argument("--closed-forms", action="store_true", help="judge functions in closed form; no training")
    judge.add_argument("--evaluate", type=Path, metavar="CKPT", help="judge weights, or a run folder's best.pt")
    judge.add_argument(
        "--orbits",
        type=_starts,
        metavar="N,N,...",
        help=f"odd starts of any size (default {','.join(map(str, TEST_STARTS))})",
    )
    judge.add_argument("--json", type=Path, metavar="FILE", help="write the report here")
    add_training_flags(parser)
    return parser


def read_flags(argv: Sequence[str]) -> Request:
    """What the flags ask for. Errors: `UserError`, in terms of flags."""
    given = vars(build_parser().parse_args(list(argv)))
    closed, checkpoint = given.pop("closed_forms", False), given.pop("evaluate", None)
    if closed and checkpoint is not None:
        raise UserError("--closed-forms and --evaluate: give one of them; --evaluate judges the closed forms too")
    judging = {"orbits", "json"}
    if not closed and checkpoint is None:
        _refuse(given, judging, "a training run", "give it with --closed-forms or --evaluate")
        try:
            return TrainingRequest(*to_config(given))
        except UserError as error:
            raise in_flags(error) from None
    mode = "--closed-forms" if closed else "--evaluate"
    taken = {"lookahead", "eval_csv", *judging} | (set() if closed else {"device"})
    _refuse(given, given.keys() - taken, mode, f"leave it out, or leave out {mode}")
    starts = tuple(given.get("orbits", TEST_STARTS))
    eval_csv, json = given.get("eval_csv"), given.get("json")
    if checkpoint is None:
        return ClosedFormRequest(given.get("lookahead", 10), starts, eval_csv, json)
    return CheckpointRequest(checkpoint, given.get("lookahead"), eval_csv, json, starts, given.get("device", "auto"))


def _refuse(given: dict[str, object], names: set[str], mode: str, mend: str) -> None:
    for name in sorted(names & given.keys()):
        raise UserError(f"--{name.replace('_', '-')} has no meaning for {mode}; {mend}")


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
