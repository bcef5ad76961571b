r"""Build a mini-ARC data set in the official folder format: pairs of grids under generated rules, which are known.

    python dataset/build_mini_arc_dataset.py --tier P --canvas 4 --output-dir data/mini-arc-p
    python dataset/build_mini_arc_dataset.py --tier M --hold-out cycle-types --output-dir data/mini-arc-m-cycles

Every rule is a puzzle identifier. The test pairs are of the rules that are trained; rules that are held out lie in
OUTPUT/held_out_rules (or _cycle_types, _compositions), a data set of its own: the pairs in its train/ show its rules,
those in its test/ ask. The same options and seed give the same bytes, whatever --num-workers.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

import numpy as np
from tqdm import tqdm

from dataset.arc_tokens import VOCAB_SIZE, GridViews, grids_of, tokens_of, view_name
from dataset.build_command import command_of, natural, next_command, positive
from dataset.building_folder import building_folder
from dataset.mini_arc import COLUMNS, OP_NAMES, TIERS, Rules, Tier
from dataset.mini_arc_pairs import GridSizes, draw_pairs
from dataset.mini_arc_split import RuleSplit, all_views, changes, shared_functions, split_rules, views_of
from dataset.puzzle_folder import write_identifiers, write_puzzle_folder
from dataset.puzzle_metadata import PuzzleMetadata
from dataset.stream import stream
from dataset.worker_pool import map_ordered

BUILDER = "dataset/build_mini_arc_dataset.py"
BUILD_VERSION = 1
MAX_CANVAS = 30
_PAIRS, _VIEWS = {"train": 0x4D545241, "test": 0x4D544553}, 0x4D564945  # streams of one seed
MEANING = {
    "columns": list(COLUMNS),
    "op": list(OP_NAMES),
    "direction": "the symmetry that the op is turned by, numbered as symmetry",
    "symmetry": "of the output, numbered as in dataset/dihedral.py",
    "colour_C": "the colour that C is shown as, at last",
}


def parser() -> FlagParser:
    """The command line."""
    options = FlagParser(description=__doc__)
    add = options.add_argument
    add("--output-dir", metavar="DIR", help="default data/mini-arc-p, or as the tier is called")
    add("--overwrite", action="store_true", help="replace a data set that is already there")
    add("--seed", type=natural, default=0, help="of the rules held out, the pairs and the views (default 0)")
    add("--num-workers", type=positive, default=1, help="processes that draw pairs (default 1)")
    rules = options.add_argument_group("rules")
    add = rules.add_argument
    add("--tier", choices=sorted(TIERS), default="P", help="P: recolouring; M: five ops too; G: ops and symmetries")
    add(
        "--hold-out",
        choices=["rules", "cycle-types"],
        default="rules",
        help="a quarter of the rules, or all whose permutation of colours is of some cycle types: then no view of a "
        "trained rule is held out",
    )
    pairs = options.add_argument_group("pairs")
    add = pairs.add_argument
    add("--canvas", type=positive, default=4, metavar="N", help="its side (default 4)")
    add("--min-side", type=positive, metavar="N", help="of grids (default: the smallest of the tier)")
    add("--max-side", type=positive, metavar="N", help="of grids (default: that of the canvas)")
    add("--train-pairs", type=positive, default=48, metavar="N", help="of each rule (default 48)")
    add("--test-pairs", type=positive, default=40, metavar="N", help="of each rule (default 40)")
    add("--num-aug", type=natural, default=0, metavar="N", help="stored views of each pair, for votes (default 0)")
    add(
        "--augmentation",
        choices=["stored", "on-the-fly"],
        default="on-the-fly",
        help="on-the-fly: training draws fresh pairs of the same rules (default); stored: those of the folder",
    )
    return options


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    tier = TIERS[args.tier]
    sizes = _sizes(args, tier)
    others = len(all_views(tier.num_colours).symmetries) - 1
    if args.num_aug > others:
        raise UserError(f"--num-aug {args.num_aug}, but a pair of tier {args.tier} has {others} views; give fewer")
    output_dir = Path(args.output_dir or f"data/mini-arc-{args.tier.lower()}")
    with building_folder(output_dir, overwrite=args.overwrite) as folder:
        rules, split = tier.rules(), split_rules(tier, args.hold_out == "cycle-types", args.seed)
        notes = check_split(rules, split, tier)
        extra: dict[str, object] = {
            "task": "mini_arc",
            "augmentation": None,
            "descriptors": MEANING,
            "build": {
                "command": command_of(args, BUILDER),
                "seed": args.seed,
                "version": BUILD_VERSION,
                "notes": notes,
            },
        }
        drawn = {"kind": "mini_arc", "sides": [sizes.smallest, sizes.largest], "num_colours": sizes.num_colours}
        family = Family(rules, sizes, args.seed, args.num_aug)
        for part, numbers in {"": split.trained, **split.held_out}.items():
            for name, count in (("train", args.train_pairs), ("test", args.test_pairs)):
                fresh = name == "train" and args.augmentation == "on-the-fly"
                written = extra | ({"augmentation": drawn} if fresh else {})
                progress = tqdm(
                    map_ordered(partial(pairs_of_rule, family, name, count), numbers.tolist(), args.num_workers),
                    desc=f"{part} {name}".strip(), total=len(numbers), unit=" rules", disable=None,
                )  # fmt: skip
                _write_split(folder / part, name, list(progress), family, written)
            write_identifiers(folder / part, family.identifiers())
    _report(output_dir, split, args, notes)


def _sizes(args: argparse.Namespace, tier: Tier) -> GridSizes:
    """What grids are drawn. Errors: `UserError`."""
    canvas: int = args.canvas
    smallest = tier.smallest_side if args.min_side is None else args.min_side
    largest = canvas if args.max_side is None else args.max_side
    if not tier.smallest_side <= canvas <= MAX_CANVAS:
        raise UserError(
            f"--canvas {canvas}: tier {args.tier} has grids of at least {tier.smallest_side} rows and columns, and a "
            f"canvas has at most {MAX_CANVAS}; give --canvas {tier.smallest_side} to {MAX_CANVAS}"
        )
    if not tier.smallest_side <= smallest <= largest <= canvas:
        raise UserError(
            f"--min-side {smallest} and --max-side {largest}: expected {tier.smallest_side} <= min-side <= max-side <= "
            f"{canvas}, the canvas"
        )
    return GridSizes(canvas, smallest, largest, tier.num_colours)


def check_split(rules: Rules, split: RuleSplit, tier: Tier) -> list[str]:
    """What must be true of the rules that are held out, and what is to be known of them.

    Errors: `AssertionError` where one is a trained rule, or a view of one although whole classes are held out.
    """
    trained, notes = rules[split.trained], list[str]()
    views = views_of(trained, tier.num_colours)
    for part, numbers in split.held_out.items():
        held_out = rules[numbers]
        if shared_functions(held_out, trained, tier).any():
            raise AssertionError(f"{part}: a rule that is held out is the same function as a trained one")
        known = int(shared_functions(held_out, views, tier).sum())
        if known and part != "held_out_rules":
            raise AssertionError(f"{part}: {known} rules that are held out are views of trained ones")
        notes += [f"{part}: {known} of {len(numbers)} rules are views of trained ones"] if known else []
    return notes


@dataclass(frozen=True)
class Family:
    """All rules of a tier, and how their pairs are drawn."""

    rules: Rules
    sizes: GridSizes
    seed: int
    num_aug: int

    def views(self, number: int) -> GridViews:
        """Those of one rule, the rule itself first: different ones, in an order that the seed draws."""
        every = all_views(self.sizes.num_colours)  # the first changes nothing
        chosen = 1 + stream(self.seed, _VIEWS, 0, number).permutation(len(every.symmetries) - 1)[: self.num_aug]
        chosen = np.concatenate([[0], chosen])
        return GridViews(every.symmetries[chosen], every.colours[chosen])

    def identifiers(self) -> list[str]:
        """Names of all rules and their views; each rule's `1 + num_aug` stand together."""
        names = ["<blank>"]
        for number, name in enumerate(self.rules.names(self.sizes.num_colours)):
            views = self.views(number)
            names.append(name)
            shown = zip(views.symmetries[1:].tolist(), views.colours[1:], strict=True)
            names += [view_name(name, symmetry, colours) for symmetry, colours in shown]
        return names


@dataclass(frozen=True)
class RulePairs:
    """Pairs of one rule: inputs, labels (N, 1 + num_aug, S), a pair's views; identifiers, descriptors of the views."""

    inputs: np.ndarray
    labels: np.ndarray
    identifiers: np.ndarray
    descriptors: np.ndarray


def pairs_of_rule(family: Family, split: str, count: int, number: int) -> RulePairs:
    """Pairs that depend on (seed, split, number of the rule) only.

    Errors: `AssertionError` where the op changes less than half of them, `UserError` where there are too few.
    """
    rule, views = family.rules[np.full(count, number)], family.views(number)
    rng = stream(family.seed, _PAIRS[split], 0, number)
    drawn = draw_pairs(rule, family.sizes, rng, test=split == "test")
    pairs = [grids_of(tokens, family.sizes.canvas) for tokens in drawn]
    if OP_NAMES[int(rule.ops[0])] != "identity" and 2 * changes(rule, pairs[0]).sum() < count:
        raise AssertionError(f"the op {OP_NAMES[int(rule.ops[0])]} changes less than half of the pairs of its rule")
    images: list[list[np.ndarray]] = [[], []]
    for symmetry, colours in zip(views.symmetries, views.colours, strict=True):
        view = GridViews(np.full(count, symmetry), np.tile(colours, (count, 1)))
        for tokens, grids in zip(images, pairs, strict=True):
            tokens.append(tokens_of(view.apply(grids)))
    seen = family.rules[np.full(1 + family.num_aug, number)].seen_through(views)
    identifiers = 1 + number * (1 + family.num_aug) + np.arange(1 + family.num_aug)
    return RulePairs(np.stack(images[0], axis=1), np.stack(images[1], axis=1), identifiers, seen.descriptors)


def _write_split(folder: Path, split: str, pairs: list[RulePairs], family: Family, extra: dict[str, object]) -> None:
    """A group is a pair with its views; each is a puzzle of one example."""
    images = 1 + family.num_aug
    num_groups = sum(len(one.inputs) for one in pairs)
    num_examples = num_groups * images
    metadata = PuzzleMetadata(
        seq_len=family.sizes.canvas**2,
        vocab_size=VOCAB_SIZE,
        num_puzzle_identifiers=1 + len(family.rules) * images,
        total_groups=num_groups,
        total_puzzles=num_examples,
        extra=extra,
    )
    arrays = {
        "inputs": np.concatenate([one.inputs for one in pairs]).reshape(num_examples, -1),
        "labels": np.concatenate([one.labels for one in pairs]).reshape(num_examples, -1),
        "puzzle_identifiers": np.concatenate([np.tile(one.identifiers, len(one.inputs)) for one in pairs]),
        "puzzle_indices": np.arange(num_examples + 1),
        "group_indices": np.arange(num_groups + 1) * images,
        "descriptors": np.concatenate([np.tile(one.descriptors, (len(one.inputs), 1)) for one in pairs]),
    }
    write_puzzle_folder(folder, split, metadata=metadata, arrays=arrays)


def _report(output_dir: Path, split: RuleSplit, args: argparse.Namespace, notes: list[str]) -> None:
    for note in notes:
        say(f"note: {note}")
    views = f" x {1 + args.num_aug} views" if args.num_aug else ""
    pairs = f"{args.train_pairs} pairs to train on and {args.test_pairs} to test"
    say(f"trained: {len(split.trained)} rules, {pairs}{views}")
    for part, numbers in split.held_out.items():
        say(f"{part}: {len(numbers)} rules that are never trained, as many pairs each")
    say(f"training pairs: {'drawn on the fly' if args.augmentation == 'on-the-fly' else 'those stored'}")
    say(f"written to {output_dir}")
    say(f"next: {next_command(output_dir)}")


if __name__ == "__main__":
    main()
