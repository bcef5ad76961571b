"""A Lyapunov function V for Collatz orbits: closed forms and their evaluation. --help explains functions and flags."""

import sys
from collections.abc import Sequence

from errors import exit_on_user_error
from training.collatz_baselines import run_closed_forms
from training.collatz_flags import read_flags


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    run_closed_forms(read_flags(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
