r"""Build a Sudoku data set in the official folder format: from CSV files, raw lists, or a generator.

    python dataset/build_sudoku_dataset.py --output-dir data/sudoku-extreme-1k-aug-1000 \
        --subsample-size 1000 --num-aug 1000
    python dataset/build_sudoku_dataset.py --output-dir data/sudoku-17clue \
        --input-file dataset/raw/royle_17clue.txt.gz
    python dataset/build_sudoku_dataset.py --generate 6x6 --num-train 2500 --output-dir data/sudoku-6x6

Without --input-file, --input-dir or --generate the published set is fetched. The same options and seed give
the same bytes, whatever --num-workers.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np
from tqdm import tqdm

from dataset import build_command
from dataset.build_command import natural, next_command, positive
from dataset.building_folder import building_folder
from dataset.published_files import fetch_published, published_files, refuse_shared_names, resolve_input
from dataset.puzzle_csv import is_csv
from dataset.puzzle_folder import write_identifiers, write_puzzle_folder
from dataset.puzzle_metadata import PuzzleMetadata
from dataset.sudoku import BOXES, Box, Puzzles, random_symmetries, side, tokens_from_boards
from dataset.sudoku_collect import Collected, collect_lists
from dataset.sudoku_collect_generated import SPLITS, collect_generated
from dataset.sudoku_collect_published import collect_published
from dataset.sudoku_sources import PUBLISHED_REPO
from files import file_sha256

BUILDER = "dataset/build_sudoku_dataset.py"
BUILD_VERSION = 2  # 2: training puzzles have a stream of their own
_AUGMENT_STREAM = 0x415547  # keeps these draws apart from others made with the same seed
# What to build where the published set cannot be fetched.
_WITHOUT_NETWORK = "build from the shipped puzzles: --input-file dataset/raw/royle_17clue.txt.gz, or --generate 6x6"


def parser() -> FlagParser:
    """The command line; names and defaults of the official options are the official ones."""
    options = FlagParser(description=__doc__)
    add = options.add_argument
    add("--output-dir", metavar="DIR", help="default data/sudoku-extreme-full, or named after the source")
    add("--overwrite", action="store_true", help="replace a data set that is already there")
    add("--seed", type=natural, default=0, help="of the choice, the generator, the augmentation (default 0)")
    add("--num-workers", type=positive, default=1, help="processes for solving and generating (default 1)")

    source = options.add_argument_group("source (default: the published set, fetched)")
    add = source.add_argument
    add("--source-repo", metavar="NAME", help=f"Hugging Face data set (default {PUBLISHED_REPO})")
    add("--input-dir", metavar="DIR", help="folder with train.csv and test.csv placed by hand")
    add(
        "--input-file",
        metavar="FILE",
        nargs="+",
        help="CSV files (test.csv is the test set) or lists of 81 characters; .gz is unpacked",
    )
    add("--generate", choices=sorted(BOXES), help="make puzzles with one solution")
    add("--num-clues", type=positive, metavar="N", help="of generated puzzles (default: minimal puzzles)")

    choice = options.add_argument_group("choice")
    add = choice.add_argument
    add(
        *("--subsample-size", "--num-train", "--num-puzzles"),
        dest="num_train",
        type=positive,
        metavar="N",
        help="puzzles to train on (default: all of a file, 1000 generated)",
    )
    add(
        "--test-size",
        type=positive,
        metavar="N",
        help="puzzles to test on (default: all of test.csv; 1000 or a fifth)",
    )
    add("--min-difficulty", type=natural, metavar="R", help="leave out puzzles with a smaller rating")
    add(
        "--rating",
        choices=["published", "search"],
        help="of CSV files: keep the published rating (default), or solve and count search nodes",
    )

    add(
        "--split-by",
        choices=SPLITS,
        help="of generated puzzles: no puzzle on both sides up to symmetry (default), or no solution either",
    )

    augment = options.add_argument_group("augmentation")
    add = augment.add_argument
    add("--num-aug", type=natural, default=0, metavar="N", help="stored copies per train puzzle (default 0)")
    add(
        "--augmentation",
        choices=["stored", "on-the-fly"],
        help="stored: the copies of --num-aug and nothing else (default for CSV files and with --num-aug); "
        "on-the-fly: drawn while training (default for lists and generated puzzles)",
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
            "task": "sudoku",
            "rating": collected.rating,
            "augmentation": {"kind": "sudoku", "box": list(collected.box)} if on_the_fly else None,
            "build": {
                "command": command_of(args),
                "seed": args.seed,
                "version": BUILD_VERSION,
                "sources": {path.name: file_sha256(path) for path in files},
                "notes": list(collected.notes),
            },
        }
        for split, part, num_aug in (("train", collected.train, args.num_aug), ("test", collected.test, 0)):
            _write_split(folder, split, part, collected.box, num_aug, args.seed, extra)
        write_identifiers(folder)
    _report(output_dir, collected, args.num_aug, on_the_fly)


def _check_combination(args: argparse.Namespace) -> None:
    flags = ("--generate", "--input-dir", "--input-file", "--source-repo")
    sources = [flag for flag in flags if getattr(args, flag[2:].replace("-", "_")) is not None]
    if len(sources) > 1:
        raise UserError(f"{sources[0]} and {sources[1]} name two sources; give one of them")
    if args.num_clues is not None and not args.generate:
        raise UserError("--num-clues is for generated puzzles; add --generate 6x6, or leave it out")
    if args.split_by is not None and not args.generate:
        raise UserError("--split-by is for generated puzzles; add --generate 6x6, or leave it out")
    if args.augmentation == "on-the-fly" and args.num_aug:
        raise UserError(
            f"--augmentation on-the-fly stores no copies, but --num-aug is {args.num_aug}; give one of them"
        )


def _default_output(args: argparse.Namespace) -> str:
    if args.generate:
        return f"data/sudoku-{args.generate}"
    if args.input_file and not is_csv(Path(args.input_file[0])):
        return f"data/sudoku-{Path(args.input_file[0]).name.split('.')[0]}"
    return "data/sudoku-extreme-full"


def _on_the_fly(args: argparse.Namespace) -> bool:
    if args.augmentation is not None:
        return bool(args.augmentation == "on-the-fly")
    raw = bool(args.generate) or bool(args.input_file and not is_csv(Path(args.input_file[0])))
    return raw and not args.num_aug


def _collect(args: argparse.Namespace) -> tuple[Collected, list[Path]]:
    """The puzzles, and the files they came from."""
    common = {
        "seed": args.seed,
        "num_train": args.num_train,
        "test_size": args.test_size,
        "min_difficulty": args.min_difficulty,
        "num_workers": args.num_workers,
    }
    if args.input_file:
        files = [resolve_input(name) for name in args.input_file]
        if len({path.resolve() for path in files}) < len(files):
            raise UserError("--input-file names a file twice; name each once")
        refuse_shared_names(files)
        kinds = {is_csv(path) for path in files}
        if len(kinds) > 1:
            raise UserError("--input-file names CSV files and lists; build one data set from each kind")
        if not kinds.pop():
            if args.rating == "published":
                raise UserError("lists carry no published rating; leave --rating out")
            return collect_lists(files, **common), files
        test_files = [path for path in files if path.name.lower() in ("test.csv", "test.csv.gz")]
        train_files = [path for path in files if path not in test_files]
        if not train_files:
            raise UserError(
                f"{files[0]}: is a test set, and no file to train on is given; add train.csv to --input-file"
            )
    elif args.generate:
        if args.rating == "published":
            raise UserError("generated puzzles carry no published rating; leave --rating out")
        return collect_generated(args.generate, num_clues=args.num_clues, split_by=args.split_by, **common), []
    else:
        if args.input_dir is not None:
            train, test = published_files(Path(args.input_dir))
        else:
            train, test = fetch_published(args.source_repo or PUBLISHED_REPO, _WITHOUT_NETWORK)
        train_files, test_files = [train], [test]
    collected = collect_published(train_files, test_files, rating=args.rating, **common)
    return collected, [*train_files, *test_files]


def command_of(args: argparse.Namespace) -> str:
    """As `dataset.build_command.command_of`."""
    return build_command.command_of(args, BUILDER, PUBLISHED_REPO)


def _write_split(
    folder: Path, split: str, puzzles: Puzzles, box: Box, num_aug: int, seed: int, extra: dict[str, object]
) -> None:
    boards, solutions = augmented_copies(puzzles.boards, puzzles.solutions, box, num_aug, seed)
    num_groups, num_examples = len(puzzles.boards), len(boards)
    metadata = PuzzleMetadata(
        seq_len=side(box) ** 2,
        vocab_size=side(box) + 2,
        total_groups=num_groups,
        total_puzzles=num_groups,  # the official Sudoku builder stores the number of groups here
        extra=extra,
    )
    arrays = {
        "inputs": tokens_from_boards(boards),
        "labels": tokens_from_boards(solutions),
        "puzzle_identifiers": np.zeros(num_examples, np.int32),
        "puzzle_indices": np.arange(num_examples + 1, dtype=np.int32),
        "group_indices": np.arange(num_groups + 1, dtype=np.int32) * (1 + num_aug),
        # A copy carries the rating of its base puzzle.
        "ratings": np.repeat(puzzles.ratings, 1 + num_aug),
    }
    write_puzzle_folder(folder, split, metadata=metadata, arrays=arrays)


def augmented_copies(
    boards: np.ndarray, solutions: np.ndarray, box: Box, num_aug: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N * (1 + num_aug), n*n) boards and solutions: each puzzle, then its copies under random symmetries.

    The copies of puzzle i depend on (seed, i) only. Repeated copies are not sought out, as officially.
    """
    if num_aug == 0:
        return boards, solutions
    count, cells = boards.shape
    out_boards = np.empty((count, 1 + num_aug, cells), np.uint8)
    out_solutions = np.empty_like(out_boards)
    out_boards[:, 0], out_solutions[:, 0] = boards, solutions
    for i in tqdm(range(count), desc="augmenting", unit=" puzzles", disable=None):
        symmetries = random_symmetries(num_aug, box, np.random.default_rng([_AUGMENT_STREAM, seed, i]))
        out_boards[i, 1:] = symmetries.apply(boards[i])
        out_solutions[i, 1:] = symmetries.apply(solutions[i])
    return out_boards.reshape(-1, cells), out_solutions.reshape(-1, cells)


def _report(output_dir: Path, collected: Collected, num_aug: int, on_the_fly: bool) -> None:
    for note in collected.notes:
        say(f"note: {note}")
    kind = {"search_nodes": "search nodes", "published": "as published"}[collected.rating]
    for split, puzzles in (("train", collected.train), ("test", collected.test)):
        quartiles = np.percentile(puzzles.ratings, [0, 25, 50, 75, 100], method="nearest")
        clues = (puzzles.boards != 0).sum(axis=1)
        copies = f" x {1 + num_aug:,} stored copies" if split == "train" and num_aug else ""
        say(
            f"{split}: {len(puzzles.ratings):,} puzzles{copies}, {clues.min()} to {clues.max()} clues; "
            f"rating ({kind}) min/quartiles/max {'/'.join(str(int(q)) for q in quartiles)}"
        )
    say(f"augmentation: {'drawn on the fly' if on_the_fly else 'stored copies only'}")
    say(f"written to {output_dir}")
    say(f"next: {next_command(output_dir)}")


if __name__ == "__main__":
    main()
