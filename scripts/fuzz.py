"""Feed damaged and hostile input to every reader; each must read it correctly or refuse it in one line.

    python scripts/fuzz.py --cases 20000 --seed 1
    python scripts/fuzz.py --target states --seed 1 --index 17        one case again, in full

Prints a table of the targets and exits with 1 when a case fails; the failing inputs are saved, each with the
command that repeats it.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()


from analysis.command_line import check_at_least
from long_work import progress_bar
from tests.fuzz.engine import Report, Target, bounded_memory, run_case, save_input, shares
from tests.fuzz.registry import all_targets
from training.evaluation.summary_table import aligned
from training.storage.atomic_file import write_json_atomically

SHOWN = 10  # failures printed in full


def chosen(names: list[str] | None) -> list[Target]:
    """The targets of these names, all without a name."""
    targets = all_targets()
    known = [target.name for target in targets]
    for name in names or []:
        if name not in known:
            raise UserError(f"--target {name}: unknown, expected one of {', '.join(known)}")
    return [target for target in targets if not names or target.name in names]


def fuzz(targets: list[Target], cases: int, seed: int, save: Path) -> list[Report]:
    """Run `cases` cases, shared among the targets; failing inputs are kept in `save`."""
    counts = shares(targets, cases)
    reports = []
    with (
        tempfile.TemporaryDirectory() as place,
        progress_bar(total=sum(counts.values()), unit=" cases") as bar,
    ):
        for target in targets:
            bar.set_description(target.name)
            target.prepare()
            report = Report(target.name)
            with bounded_memory():
                for index in range(counts[target.name]):
                    folder = Path(place) / "case"
                    outcome = run_case(target, seed, index, folder)
                    report.add(outcome)
                    if outcome.kind == "failure":
                        kept = save_input(folder, save, outcome)
                        if len(report.failures) <= SHOWN:
                            bar.write(f"{outcome.command}\n  saved in {kept}\n  {outcome.detail}\n", file=sys.stderr)
                    bar.update()
            reports.append(report)
    return reports


def table(reports: list[Report]) -> str:
    """Columns target, cases, read, refused, failures, with a last line of sums."""
    sums = ("all", *(sum(column) for column in zip(*map(_counts, reports), strict=True)))
    rows = [
        ("target", "cases", "read", "refused", "failures"),
        *((r.target, *_counts(r)) for r in reports),
        sums,
    ]
    return "\n".join(aligned([list(map(str, row)) for row in rows], left=1))


def _counts(report: Report) -> tuple[int, int, int, int]:
    return report.cases, report.read, report.refused, len(report.failures)


def summary(reports: list[Report], seed: int, seconds: float) -> dict[str, Any]:
    """The figures as JSON."""
    names = ("cases", "read", "refused", "failures")
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "targets": {report.target: dict(zip(names, _counts(report), strict=True)) for report in reports},
        "failures": [
            {"command": each.command, "changes": list(each.changes), "detail": each.detail}
            for report in reports
            for each in report.failures
        ],
    }


@exit_on_user_error
def main(arguments: list[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="over all targets (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--target", action="append", metavar="NAME", help="this one only; may be repeated")
    parser.add_argument("--index", type=int, help="run this one case of --target and show what becomes of it")
    parser.add_argument("--save", type=Path, default=Path("fuzz-failures"), help="default %(default)s/")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures")
    options = parser.parse_args(arguments)
    targets = chosen(options.target)
    check_at_least(options, cases=1)
    if options.index is not None:
        if len(targets) != 1:
            raise UserError("--index needs one --target NAME")
        sys.exit(show(targets[0], options.seed, options.index, options.save))
    start = time.monotonic()
    reports = fuzz(targets, options.cases, options.seed, options.save)
    say(*table(reports).split("\n"))
    if options.out is not None:
        figures = summary(reports, options.seed, time.monotonic() - start)
        write_json_atomically(options.out, figures)
    sys.exit(1 if any(report.failures for report in reports) else 0)


def show(target: Target, seed: int, index: int, save: Path) -> int:
    """Run one case, keep its input and print the outcome; the exit code."""
    target.prepare()
    with tempfile.TemporaryDirectory() as place, bounded_memory():
        folder = Path(place) / "case"
        outcome = run_case(target, seed, index, folder)
        kept = save_input(folder, save, outcome)
    lines = [
        f"{outcome.kind} after {outcome.seconds:.3f} s: {outcome.detail}",
        *outcome.changes,
        f"input: {kept}",
    ]
    say(*lines)
    return 1 if outcome.kind == "failure" else 0


if __name__ == "__main__":
    main()
