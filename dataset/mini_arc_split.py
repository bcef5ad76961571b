"""Which rules of mini-ARC are trained, and that no other one is a trained rule in disguise."""

from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from dataset import dihedral
from dataset.arc_tokens import NUM_COLOURS, Grids, GridViews
from dataset.mini_arc import Rules, Tier
from dataset.mini_arc_pairs import GridSizes, draw_inputs
from dataset.stream import stream

HELD_OUT_SHARE = 0.25
COMPOSITIONS = "held_out_compositions"
_SPLIT, _PROBE = 0x4D53504C, 0x4D505242  # streams apart from those of pairs
_PROBES = 64
_SAME_BELOW = 0.25  # two rules are one function where they differ on fewer of the inputs of either


@dataclass(frozen=True)
class RuleSplit:
    """Numbers of a tier's rules. held_out: by the name of the folder that they get."""

    trained: np.ndarray
    held_out: dict[str, np.ndarray]


def split_rules(tier: Tier, by_cycle_types: bool, seed: int) -> RuleSplit:
    """A quarter of the rules aside, any of them or all of some cycle types; compositions before that.

    Recolouring keeps the cycle type of a permutation: so no view of a trained rule has one that is held out.
    """
    rules = tier.rules()
    compositions = tier.is_held_out_composition(rules)
    rest = np.flatnonzero(~compositions)
    rng = stream(seed, _SPLIT, 0, 0)
    if by_cycle_types:
        name, aside = "held_out_cycle_types", np.array(_types_aside(rules[rest].cycle_types(), rng))
    else:
        name, aside = "held_out_rules", np.zeros(len(rest), bool)
        aside[rng.permutation(len(rest))[: round(len(rest) * HELD_OUT_SHARE)]] = True
    held_out = {name: rest[aside]}
    if compositions.any():
        held_out[COMPOSITIONS] = np.flatnonzero(compositions)
    return RuleSplit(rest[~aside], held_out)


def _types_aside(types: list[tuple[int, ...]], rng: np.random.Generator) -> list[bool]:
    """Of each rule whether its cycle type is aside: types of about the right number of rules, drawn among the best."""
    distinct = sorted(set(types))
    target = len(types) * HELD_OUT_SHARE
    choices = [chosen for count in range(1, len(distinct)) for chosen in combinations(distinct, count)]
    errors = [abs(sum(map(types.count, chosen)) - target) for chosen in choices]
    best = [chosen for chosen, error in zip(choices, errors, strict=True) if error == min(errors)]
    aside = best[rng.integers(len(best))]
    return [kind in aside for kind in types]


def all_views(num_colours: int) -> GridViews:
    """Every view that keeps black and the colours beyond `num_colours`."""
    beyond = range(num_colours + 1, NUM_COLOURS)
    colours = np.array([[0, *shown, *beyond] for shown in permutations(range(1, num_colours + 1))])
    symmetries = np.arange(dihedral.COUNT).repeat(len(colours))
    return GridViews(symmetries, np.tile(colours, (dihedral.COUNT, 1)))


def views_of(rules: Rules, num_colours: int) -> Rules:
    """All rules that these are seen as through some view, each once."""
    views = all_views(num_colours)
    seen = rules[np.arange(len(rules)).repeat(len(views.symmetries))].seen_through(
        GridViews(np.tile(views.symmetries, len(rules)), np.tile(views.colours, (len(rules), 1)))
    )
    return Rules(np.unique(seen.descriptors, axis=0))


def shared_functions(held_out: Rules, trained: Rules, tier: Tier) -> np.ndarray:
    """(N,) bool: rules that are the same function as one of `trained`.

    They are where outputs differ on less than a quarter of the inputs that the one is shown, and of those that the
    other is.
    """
    side = tier.smallest_side
    sizes = GridSizes(side + 1, side, side + 1, tier.num_colours)
    other_way = _differing(trained, held_out, sizes).T
    return np.asarray((np.maximum(_differing(held_out, trained, sizes), other_way) < _SAME_BELOW).any(axis=1))


def _differing(first: Rules, second: Rules, sizes: GridSizes) -> np.ndarray:
    """(N, M): the share of the inputs of each of N rules to which each of M others gives another output."""
    shapes, shape_of = np.unique(second.descriptors[:, :3], axis=0, return_inverse=True)
    unchanged = np.tile(np.arange(NUM_COLOURS), (len(shapes) * _PROBES, 1))
    without_colours = Rules(np.column_stack([shapes.repeat(_PROBES, axis=0), unchanged]))
    tiled = np.tile(np.arange(_PROBES), len(shapes))
    colours = second.colours[np.arange(len(second)), :, None]
    shares = np.zeros((len(first), len(second)))
    for op in np.unique(first.ops).tolist():
        same_op = np.flatnonzero(first.ops == op)
        inputs = draw_inputs(first[same_op[np.zeros(_PROBES, int)]], sizes, stream(0, _PROBE, 0, op))
        made = without_colours.apply(inputs[tiled]).cells.reshape(len(shapes), _PROBES, -1)
        others = np.take_along_axis(colours, made[shape_of.ravel()].reshape(len(second), -1, 1), axis=1)
        others = others.reshape(len(second), _PROBES, -1)
        for number in same_op:
            outputs = first[np.full(_PROBES, number)].apply(inputs).cells.reshape(_PROBES, -1)
            shares[number] = (others != outputs).any(axis=2).mean(axis=1)
    return shares


def changes(rules: Rules, inputs: Grids) -> np.ndarray:
    """(N,) bool: inputs that the op of their rule changes."""
    return np.asarray((rules.after_op(inputs).cells != inputs.cells).any(axis=(1, 2)))
