r"""Build a maze data set in the official folder format: from CSV files, mazes as text, or a generator.

    python dataset/build_maze_dataset.py                               the published 30x30 mazes, fetched
    python dataset/build_maze_dataset.py --aug                         likewise, with the 8 images of each train maze
    python dataset/build_maze_dataset.py --generate 10 --num-train 2000 --output-dir data/maze-10x10
    python dataset/build_maze_dataset.py --input-file mazes.txt --output-dir data/my-mazes

A maze has walls (#), free cells (a space), one start (S) and one goal (G); an answer marks the free cells of a shortest
path (o). The same options and seed give the same bytes, whatever --num-workers.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np

from dataset import build_command, dihedral
from dataset.build_command import natural, next_command, positive
from dataset.building_folder import building_folder
from dataset.maze import VOCAB_SIZE, Mazes
from dataset.maze_collect import Collected, collect_files, collect_generated
from dataset.maze_generator import Request
from dataset.published_files import fetch_published, published_files, refuse_shared_names, resolve_input
from dataset.puzzle_csv import is_csv
from dataset.puzzle_folder import write_identifiers, write_puzzle_folder
from dataset.puzzle_metadata import PuzzleMetadata
from files import file_sha256

BUILDER = "dataset/build_maze_dataset.py"
BUILD_VERSION = 1
PUBLISHED_REPO = "sapientinc/maze-30x30-hard-1k"
# What to build where the published set cannot be fetched.
_WITHOUT_NETWORK = "make mazes of that kind with --generate 30"
_LONG_PATHS = {30: 110}  # steps of the shortest path from which on the published mazes of that side are
_DEFAULT_DENSITY = 0.36  # long paths are found most often there
_ONLY_GENERATED = ("min_path", "wall_density", "unique")
_MOST_PATHS = 2**63 - 1024  # the largest float below 2**63


def _side(text: str) -> int:
    """`10`, or `10x10`."""
    sides = text.lower().split("x")
    if len(sides) > 2 or len(set(sides)) != 1 or not (sides[0].isascii() and sides[0].isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not the side of a square, such as 10")
    if not 2 <= int(sides[0][:9]) <= 200:
        raise argparse.ArgumentTypeError(f"{text!r} is out of range, expected a side from 2 to 200")
    return int(sides[0])


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1")
    return value


def parser() -> FlagParser:
    """The command line; names and defaults of the official options are the official ones."""
    options = FlagParser(description=__doc__)
    add = options.add_argument
    add("--output-dir", metavar="DIR", help="default data/maze-30x30-hard-1k, or named after the source")
    add("--overwrite", action="store_true", help="replace a data set that is already there")
    add("--seed", type=natural, default=0, help="of the choice and of the generator (default 0)")
    add("--num-workers", type=positive, default=1, help="processes for generating (default 1)")

    source = options.add_argument_group("source (default: the published set, fetched)")
    add = source.add_argument
    add("--source-repo", metavar="NAME", help=f"Hugging Face data set (default {PUBLISHED_REPO})")
    add("--input-dir", metavar="DIR", help="folder with train.csv and test.csv placed by hand")
    add(
        "--input-file",
        metavar="FILE",
        nargs="+",
        help="CSV files (test.csv is the test set), or text files of mazes without answers; .gz is unpacked",
    )
    add("--generate", type=_side, metavar="N", help="make mazes of N x N cells with random walls")
    add("--min-path", type=positive, metavar="L", help="of generated mazes: steps of the shortest path, at least "
        "(default: 110 with a side of 30, else the side)")  # fmt: skip
    add(
        "--wall-density",
        type=_share,
        metavar="P",
        help=f"of generated mazes: odds of a wall (default {_DEFAULT_DENSITY})",
    )
    add(
        "--unique",
        action="store_true",
        help="of generated mazes: exactly one shortest path; the cells of others become walls",
    )

    choice = options.add_argument_group("choice")
    add = choice.add_argument
    add(
        *("--subsample-size", "--num-train"),
        dest="num_train",
        type=positive,
        metavar="N",
        help="mazes to train on (default: all of a file, 1000 generated)",
    )
    add("--test-size", type=positive, metavar="N", help="mazes to test on (default: all of test.csv; 1000 or a fifth)")

    augment = options.add_argument_group("augmentation")
    add = augment.add_argument
    add(
        "--aug",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="store the 8 turned and mirrored images of each train maze (default: not)",
    )
    add(
        "--augmentation",
        choices=["stored", "on-the-fly"],
        help="stored: the images of --aug and nothing else (default for CSV files and with --aug); "
        "on-the-fly: drawn while training (default for text files and generated mazes)",
    )
    return options


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    _check_combination(args)
    output_dir = Path(args.output_dir or _default_output(args))
    with building_folder(output_dir, overwrite=args.overwrite) as folder:
        collected, files = _collect(args)
        on_the_fly = _on_the_fly(args)
        extra: dict[str, object] = {
            "task": "maze",
            "rating": "path_steps",
            "augmentation": {"kind": "maze"} if on_the_fly else None,
            "build": {
                "command": command_of(args),
                "seed": args.seed,
                "version": BUILD_VERSION,
                "sources": {path.name: file_sha256(path) for path in files},
                "notes": list(collected.notes),
            },
        }
        for split, mazes, aug in (("train", collected.train, args.aug), ("test", collected.test, False)):
            _write_split(folder, split, mazes, aug, extra)
        write_identifiers(folder)
    _report(output_dir, collected, args.aug, on_the_fly)


def _check_combination(args: argparse.Namespace) -> None:
    flags = ("--generate", "--input-dir", "--input-file", "--source-repo")
    sources = [flag for flag in flags if getattr(args, flag[2:].replace("-", "_")) is not None]
    if len(sources) > 1:
        raise UserError(f"{sources[0]} and {sources[1]} name two sources; give one of them")
    for name in _ONLY_GENERATED if args.generate is None else ():
        if getattr(args, name):
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is for generated mazes; add --generate 30, or leave it out")
    if args.augmentation == "on-the-fly" and args.aug:
        raise UserError("--augmentation on-the-fly stores no images, and --aug asks for them; give one of them")


def _default_output(args: argparse.Namespace) -> str:
    if args.generate:
        return f"data/maze-{args.generate}x{args.generate}"
    if args.input_file and not is_csv(Path(args.input_file[0])):
        return f"data/maze-{Path(args.input_file[0]).name.split('.')[0]}"
    return "data/maze-30x30-hard-1k"


def _on_the_fly(args: argparse.Namespace) -> bool:
    if args.augmentation is not None:
        return bool(args.augmentation == "on-the-fly")
    raw = bool(args.generate) or bool(args.input_file and not is_csv(Path(args.input_file[0])))
    return raw and not args.aug


def _collect(args: argparse.Namespace) -> tuple[Collected, list[Path]]:
    """The mazes, and the files they came from."""
    sizes = {"num_train": args.num_train, "test_size": args.test_size}
    if args.generate:
        request = Request(
            side=args.generate,
            seed=args.seed,
            min_path=args.min_path or _LONG_PATHS.get(args.generate, args.generate),
            wall_density=_DEFAULT_DENSITY if args.wall_density is None else args.wall_density,
            unique=args.unique,
        )
        return collect_generated(request, num_workers=args.num_workers, **sizes), []
    if args.input_file:
        files = [resolve_input(name) for name in args.input_file]
        if len({path.resolve() for path in files}) < len(files):
            raise UserError("--input-file names a file twice; name each once")
        refuse_shared_names(files)
        test_files = [path for path in files if path.name.lower() in ("test.csv", "test.csv.gz")]
        train_files = [path for path in files if path not in test_files]
        if not train_files:
            raise UserError(
                f"{files[0]}: is a test set, and no file to train on is given; add train.csv to --input-file"
            )
    else:
        if args.input_dir is not None:
            train, test = published_files(Path(args.input_dir))
        else:
            train, test = fetch_published(args.source_repo or PUBLISHED_REPO, _WITHOUT_NETWORK)
        train_files, test_files = [train], [test]
    return collect_files(train_files, test_files, seed=args.seed, **sizes), [*train_files, *test_files]


def command_of(args: argparse.Namespace) -> str:
    """As `dataset.build_command.command_of`."""
    return build_command.command_of(args, BUILDER, PUBLISHED_REPO)


def _write_split(folder: Path, split: str, mazes: Mazes, aug: bool, extra: dict[str, object]) -> None:
    sources = dihedral.sources(mazes.side)[: dihedral.COUNT if aug else 1]
    num_groups, images = len(mazes.inputs), len(sources)
    num_examples = num_groups * images
    metadata = PuzzleMetadata(
        seq_len=mazes.side**2,
        vocab_size=VOCAB_SIZE,
        total_groups=num_groups,
        total_puzzles=num_groups,  # the official builder stores the number of groups here
        extra=extra,
    )
    arrays = {
        "inputs": mazes.inputs[:, sources].reshape(num_examples, -1),
        "labels": mazes.labels[:, sources].reshape(num_examples, -1),
        "puzzle_identifiers": np.zeros(num_examples, np.int32),
        "puzzle_indices": np.arange(num_examples + 1, dtype=np.int32),
        "group_indices": np.arange(num_groups + 1, dtype=np.int32) * images,
        "ratings": np.repeat(mazes.steps, images),
        # Exact up to 2**53, and no larger than 64 bits hold.
        "answer_counts": np.repeat(np.minimum(mazes.paths, _MOST_PATHS).astype(np.int64), images),
    }
    write_puzzle_folder(folder, split, metadata=metadata, arrays=arrays)


def _report(output_dir: Path, collected: Collected, aug: bool, on_the_fly: bool) -> None:
    for note in collected.notes:
        say(f"note: {note}")
    for split, mazes in (("train", collected.train), ("test", collected.test)):
        steps, paths = (
            "/".join(f"{value:.4g}" for value in np.percentile(values, [0, 25, 50, 75, 100], method="nearest"))
            for values in (mazes.steps, mazes.paths)
        )
        copies = f" x {dihedral.COUNT} stored images" if split == "train" and aug else ""
        say(
            f"{split}: {len(mazes.steps):,} mazes of {mazes.side}x{mazes.side}{copies}; of each min/quartiles/max: "
            f"steps of a shortest path {steps}, number of shortest paths {paths}"
        )
    say(f"augmentation: {'drawn on the fly' if on_the_fly else 'stored images only'}")
    say(f"written to {output_dir}")
    say(f"next: {next_command(output_dir)}")


if __name__ == "__main__":
    main()
