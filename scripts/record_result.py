"""Record a result in results/<id>.yaml, render the pages made of the records, or run a record again.

    python scripts/record_result.py --id ID --claim ... --expected ... --status reproduced --runs DIR [DIR ...]
    python scripts/record_result.py --id ID --claim ... --status differs --reports FILE [FILE ...]
    python scripts/record_result.py --render | --check
    python scripts/record_result.py --rerun ID [--to DIR]

A record copies the numbers that runs (summary.json) and scripts (their JSON reports) wrote, and is never changed: a
correction is a new record that --supersedes the old one. --check exits 1 when PROVENANCE.md, docs/results.md or the
table in README.md do not say what the records say. --rerun prints what it would run and what that took; with --to it
does so in a clone of this repository at DIR and says of every number whether it is equal, within the interval, or
differs (exit code 1 where the headline differs). Commands of old records are read with the paths of
results/_moved_paths.yaml.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from dataset.plain_data import read_yaml
from scripts.record_file import RESULTS, ROOT, STATUSES, Record, check_id, read_record, recording, write_record
from scripts.record_render import group_of, render, stale_pages
from scripts.record_rerun import absolute_paths, plan_lines, rerun
from scripts.record_sources import gathered, starts_elsewhere


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = FlagParser(description=__doc__)
    parser.add_argument("--id", help="new, unique name, e.g. sudoku6-trm-1; its beginning names its group")
    parser.add_argument("--claim", help="what the result is meant to show")
    parser.add_argument("--expected", default="", help="the number expected before, as its source states it")
    parser.add_argument("--source", default="", help="where the expectation comes from")
    parser.add_argument("--status", choices=STATUSES, help="what came out")
    parser.add_argument("--note", default="", help="what a reader must know beside the numbers")
    parser.add_argument("--supersedes", nargs="+", default=[], metavar="ID", help="records that this one corrects")
    parser.add_argument("--runs", nargs="+", type=Path, default=[], metavar="DIR", help="finished runs, one per seed")
    parser.add_argument("--reports", nargs="+", type=Path, default=[], metavar="FILE", help="JSON that scripts wrote")
    parser.add_argument("--data-commands", nargs="+", metavar="COMMAND", help="what makes the data; default: as known")
    parser.add_argument("--needs", nargs="+", metavar="COMMAND", help="what makes the earlier runs that are read")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--render", action="store_true", help="write the pages made of the records")
    action.add_argument("--check", action="store_true", help="exit 1 when a page is stale")
    action.add_argument("--rerun", metavar="ID", help="measure a recorded result again")
    parser.add_argument("--to", type=Path, metavar="DIR", help="of --rerun: a new clone, or one of an earlier --rerun")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def new_record(options: argparse.Namespace) -> Record:
    """What the options and the outputs say. Errors: `UserError`."""
    missing = [f"--{name}" for name in ("id", "claim", "status") if getattr(options, name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not given; python scripts/record_result.py --help tells of each")
    outputs = [*options.runs, *options.reports]
    if options.runs and options.reports:
        raise UserError("--runs and --reports are both given: make a record of each")
    if bool(outputs) == (options.status == "not-run"):
        raise UserError(
            f"--status {options.status} with {len(outputs)} outputs: a result has --runs DIR... or --reports FILE..., "
            "and what has none is --status not-run"
        )
    for folder in options.runs:
        if not os.path.isdir(folder):
            raise UserError(f"--runs {folder}: there is no such folder; name the checkpoint_path of a run")
    for name in options.supersedes:
        read_record(name, options.root / RESULTS.name)
    values = gathered(outputs) if outputs else {}
    if outputs:
        values["outputs"] = [path.as_posix() for path in map(partial(_from_root, options.root), outputs)]
        if apart := absolute_paths([*values["outputs"], *values["commands"], *values["needs"]]):
            say(f"warning: {', '.join(apart)} lies outside the repository, so that --rerun cannot make this again: "
                "train and measure below it, by relative paths", file=sys.stderr)  # fmt: skip
    if options.needs is not None:
        values["needs"] = options.needs
    for folder in options.runs if not values.get("needs") else ():
        if start := starts_elsewhere(folder):
            what = f"{folder} began from {start}, and nothing is known of what makes that"
            say(f"warning: {what}: give the commands with --needs", file=sys.stderr)
    values["data_commands"] = options.data_commands or known_data_commands(
        options.root, values.get("dataset_hashes", [])
    )
    return Record(
        id=options.id, claim=options.claim, expected=options.expected, source=options.source, status=options.status,
        note=options.note, supersedes=options.supersedes, **values,
    )  # fmt: skip


def _from_root(root: Path, path: Path) -> Path:
    """An absolute path below the repository as seen from its root; others as they are."""
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        return path.relative_to(root.absolute())
    return path


def known_data_commands(root: Path, hashes: Sequence[str]) -> list[str]:
    """By results/_data.yaml; a hash that is not in it is told on stderr."""
    path = root / RESULTS.name / "_data.yaml"
    known = read_yaml(path, "expected a mapping of hashes to commands") if path.is_file() else {}
    if not isinstance(known, dict) or not all(isinstance(text, str) for pair in known.items() for text in pair):
        raise UserError(f"{path}: expected a mapping of hashes, in quotes, to commands")
    unknown = [digest for digest in hashes if digest not in known and digest != "synthetic"]
    if unknown:
        say(f"warning: nothing is known of the data {', '.join(unknown)}: give the commands that make it with "
              f"--data-commands, or add it to {path}", file=sys.stderr)  # fmt: skip
    return list(dict.fromkeys(known[digest] for digest in hashes if digest in known))


@exit_on_user_error
def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    folder = options.root / RESULTS.name
    if options.rerun is not None:
        record = read_record(options.rerun, folder)
        if options.to is None:
            say(*plan_lines(record, options.root))
            return 0
        return rerun(record, options.to, options.root)
    if options.check:
        stale = list(stale_pages(options.root))
        for path in stale:
            say(f"{path} is stale: python scripts/record_result.py --render", file=sys.stderr)
        return bool(stale)
    with recording(folder):
        if not options.render:
            record = new_record(options)
            group_of(check_id(record.id))  # before anything is written
            say(f"written: {write_record(record, folder)}")
        for path in render(options.root):
            say(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
