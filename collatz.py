"""A Lyapunov function V for Collatz orbits: trained, judged, beside closed forms. --help explains modes and flags."""

import sys
from collections.abc import Sequence

from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from projects.collatz.baselines import ClosedFormRequest, run_closed_forms
from projects.collatz.checkpoint import evaluate_checkpoint
from projects.collatz.flags import CheckpointRequest, read_flags
from projects.collatz.plan import plan_lines
from projects.collatz.train_flags import in_flags
from training.start import train, under_an_older_name


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    request = read_flags(sys.argv[1:] if argv is None else argv)
    if isinstance(request, ClosedFormRequest):
        run_closed_forms(request)
    elif isinstance(request, CheckpointRequest):
        evaluate_checkpoint(request)
    else:
        try:
            if request.dry_run:
                say(*plan_lines(under_an_older_name(request.config)))
            else:
                train(request.config)
        except UserError as error:
            raise in_flags(error) from error


if __name__ == "__main__":
    main()
