"""Train a checkpoint of HRM or TRM further on perturbed trajectories: --help explains objectives, noise and files."""

import sys
from collections.abc import Sequence

from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from training.run_plan import plan_lines
from training.settings.trajectory_flags import in_flags, read_flags
from training.start import train, under_an_older_name


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    config, only_plan = read_flags(sys.argv[1:] if argv is None else argv)
    try:
        if only_plan:
            say(*plan_lines(under_an_older_name(config)))
        else:
            train(config)
    except UserError as error:
        raise in_flags(error) from error


if __name__ == "__main__":
    main()
