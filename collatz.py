"""A Lyapunov function V for Collatz orbits: trained, judged, beside closed forms. --help explains modes and flags."""

import sys
from collections.abc import Sequence

from errors import UserError, exit_on_user_error
from projects.collatz.baselines import ClosedFormRun, run_closed_forms
from projects.collatz.checkpoint import evaluate_checkpoint
from projects.collatz.flags import CheckpointRun, read_flags
from projects.collatz.plan import plan_lines
from projects.collatz.train_flags import in_flags
from training.start import train


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = read_flags(sys.argv[1:] if argv is None else argv)
    if isinstance(asked, ClosedFormRun):
        run_closed_forms(asked)
    elif isinstance(asked, CheckpointRun):
        evaluate_checkpoint(asked)
    else:
        try:
            if asked.dry_run:
                print("\n".join(plan_lines(asked.config)))
            else:
                train(asked.config)
        except UserError as error:
            raise in_flags(error) from error


if __name__ == "__main__":
    main()
