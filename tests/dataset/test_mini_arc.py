"""Rules of mini-ARC: what ops do, that views are rules, and that what is held out is nothing that is trained."""

from itertools import permutations

import numpy as np
import pytest

from dataset import dihedral
from dataset.arc_tokens import NUM_COLOURS, Grids, GridViews, tokens_of
from dataset.mini_arc import OP_NAMES, OPS, TIERS, Rules, fault
from dataset.mini_arc_pairs import GridSizes, class_keys, draw_inputs, draw_pairs, of_test
from dataset.mini_arc_split import COMPOSITIONS, all_views, changes, shared_functions, split_rules, views_of
from errors import UserError
from tests.dataset.test_arc_tokens import assert_equal, grids, rows_of


def rule(op: str, direction: int = 0, symmetry: int = 0, colours: tuple[int, ...] = ()) -> Rules:
    shown = [0, *colours, *range(len(colours) + 1, NUM_COLOURS)]
    return Rules(np.array([[OP_NAMES.index(op), direction, symmetry, *shown]]))


def made(one: Rules, grid: list[list[int]]) -> list[list[int]]:
    return rows_of(one.apply(grids(grid, side=5)))[0]


def sizes_of(tier: str, canvas: int = 4) -> GridSizes:
    return GridSizes(canvas, TIERS[tier].smallest_side, canvas, TIERS[tier].num_colours)


GRID = [[1, 0, 2, 0], [0, 3, 0, 0], [1, 0, 0, 4]]


@pytest.mark.parametrize(
    ("one", "grid", "expected"),
    [
        (rule("identity"), GRID, GRID),
        (rule("gravity"), GRID, [[0, 0, 0, 0], [1, 0, 0, 0], [1, 3, 2, 4]]),
        (rule("gravity", direction=5), GRID, [[1, 3, 2, 4], [1, 0, 0, 0], [0, 0, 0, 0]]),
        (rule("gravity", direction=1), GRID, [[0, 0, 1, 2], [0, 0, 0, 3], [0, 0, 1, 4]]),
        (rule("shift"), GRID, [[0, 1, 0, 2], [0, 0, 3, 0], [4, 1, 0, 0]]),
        (rule("shift", direction=4), GRID, [[0, 2, 0, 1], [3, 0, 0, 0], [0, 0, 4, 1]]),
        (rule("hollow"), [[2] * 4] * 4, [[2, 2, 2, 2], [2, 0, 0, 2], [2, 0, 0, 2], [2, 2, 2, 2]]),
        (rule("largest"), [[1, 1, 0], [2, 1, 1], [2, 0, 1]], [[1, 1, 0], [0, 1, 1], [0, 0, 1]]),
        (rule("identity", symmetry=6, colours=(3, 1, 2)), [[1, 0], [2, 3], [0, 1]], [[3, 1, 0], [0, 2, 3]]),
        (rule("gravity", symmetry=4, colours=(2, 1)), [[1, 0], [0, 2]], [[0, 0], [1, 2]]),
    ],
)
def test_what_rules_make(one: Rules, grid: list[list[int]], expected: list[list[int]]) -> None:
    assert made(one, grid) == expected


def test_components_of_one_colour_do_not_touch_across_grids_or_corners() -> None:
    """Of a batch: of three cells in a row against two that only touch at a corner, and of equal grids in a stack."""
    corner = [[1, 0, 0], [0, 1, 0], [2, 2, 0]]
    batch = grids(corner, corner, side=3)
    both = Rules(rule("largest").descriptors.repeat(2, axis=0))
    assert rows_of(both.apply(batch)) == [[[0, 0, 0], [0, 0, 0], [2, 2, 0]]] * 2


@pytest.mark.parametrize("tier", sorted(TIERS))
def test_views_of_a_rule_are_rules(tier: str) -> None:
    """The view of a pair obeys the descriptors of the view, for every view of every rule of one permutation."""
    rules = TIERS[tier].rules()[:: 7 if tier == "P" else 5]
    views = all_views(TIERS[tier].num_colours)
    pairs = np.arange(len(rules)).repeat(len(views.symmetries))
    seen_by = GridViews(np.tile(views.symmetries, len(rules)), np.tile(views.colours, (len(rules), 1)))
    inputs = draw_inputs(rules[pairs], sizes_of(tier, 5), np.random.default_rng(0))
    seen = rules[pairs].seen_through(seen_by)
    assert fault(seen.descriptors) == ""
    assert_equal(seen.apply(seen_by.apply(inputs)), seen_by.apply(rules[pairs].apply(inputs)))
    assert seen.cycle_types() == rules[pairs].cycle_types()


def test_an_op_keeps_what_it_says_and_nothing_else() -> None:
    for number, (name, op) in enumerate(OPS.items()):
        one = Rules(rule(name).descriptors.repeat(50, axis=0))
        inputs = draw_inputs(one, sizes_of("M", 5), np.random.default_rng(number))
        kept = []
        for symmetry in range(dihedral.COUNT):
            other = one.descriptors.copy()
            other[:, 1] = symmetry
            if np.array_equal(Rules(other).apply(inputs).cells, one.apply(inputs).cells):
                kept.append(symmetry)
        assert tuple(kept) == op.keeps, name


@pytest.mark.parametrize(
    ("tier", "count", "trained", "held_out"),
    [("P", 120, 90, [30]), ("M", 120, 90, [30]), ("G", 96, 63, [21, 12])],
)
def test_sizes_of_splits(tier: str, count: int, trained: int, held_out: list[int]) -> None:
    rules, split = TIERS[tier].rules(), split_rules(TIERS[tier], False, seed=3)
    assert len(rules) == count == len(set(rules.names(TIERS[tier].num_colours)))
    assert len(split.trained) == trained and [len(part) for part in split.held_out.values()] == held_out
    everything = np.concatenate([split.trained, *split.held_out.values()])
    assert np.array_equal(np.sort(everything), np.arange(count))


@pytest.mark.parametrize("tier", sorted(TIERS))
@pytest.mark.parametrize("seed", range(3))
def test_no_view_makes_a_trained_rule_one_of_another_cycle_type(tier: str, seed: int) -> None:
    rules, split = TIERS[tier].rules(), split_rules(TIERS[tier], True, seed)
    trained = rules[split.trained]
    held_out = rules[split.held_out["held_out_cycle_types"]]
    assert set(trained.cycle_types()).isdisjoint(held_out.cycle_types())
    share = len(held_out) / (len(trained) + len(held_out))
    assert 0.15 < share < 0.35
    views = views_of(trained, TIERS[tier].num_colours)
    assert not shared_functions(held_out, views, TIERS[tier]).any()


def test_compositions_are_new_and_their_parts_are_not() -> None:
    tier = TIERS["G"]
    rules, split = tier.rules(), split_rules(tier, False, seed=0)
    pairs = {(op, symmetry) for op, symmetry in rules[split.trained].descriptors[:, [0, 2]].tolist()}
    held_out = {(op, symmetry) for op, symmetry in rules[split.held_out[COMPOSITIONS]].descriptors[:, [0, 2]].tolist()}
    assert len(held_out) == len(tier.held_out) and pairs.isdisjoint(held_out)
    assert {op for op, _ in held_out} <= {op for op, _ in pairs}
    assert {symmetry for _, symmetry in held_out} <= {symmetry for _, symmetry in pairs}
    views = views_of(rules[split.trained], tier.num_colours)
    assert not shared_functions(rules[split.held_out[COMPOSITIONS]], views, tier).any()


def test_equal_functions_are_found() -> None:
    """Rules of other descriptors that do the same, as what a symmetry and its inverse make of a full turn."""
    tier = TIERS["M"]
    trained = tier.rules()
    turned_blobs = Rules(trained.descriptors + np.array([0, 3, 0, *[0] * NUM_COLOURS]))
    equivariant = np.isin(trained.ops, [OP_NAMES.index(name) for name in ("identity", "hollow", "largest")])
    assert np.array_equal(shared_functions(turned_blobs, trained, tier), equivariant)
    # All views of a rule that is held out, when all its views are trained.
    one = trained[np.array([50])]
    assert shared_functions(one, views_of(one, tier.num_colours), tier).all()


@pytest.mark.parametrize("tier", sorted(TIERS))
def test_inputs_are_of_one_split_and_changed_by_their_op(tier: str) -> None:
    rules = TIERS[tier].rules()
    many = rules[np.arange(len(rules)).repeat(8)]
    keys = {}
    for test in (False, True):
        sizes = sizes_of(tier, 5)
        inputs = draw_inputs(many, sizes, np.random.default_rng(0), test=test)
        assert inputs.heights.min() == inputs.widths.min() == sizes.smallest
        assert inputs.heights.max() == inputs.widths.max() == sizes.largest
        assert inputs.cells.max() <= sizes.num_colours and not inputs.cells[~inputs.inside].any()
        keys[test] = class_keys(tokens_of(inputs), 5)
        assert (of_test(keys[test]) == test).all()
        changed = changes(many, inputs)
        for number, name in enumerate(OP_NAMES):
            mine = many.ops == number
            assert not mine.any() or (changed[mine].mean() > 0.9) == (name != "identity")
        outputs = many.apply(inputs)
        again = draw_pairs(many, sizes, np.random.default_rng(0), test=test)
        assert np.array_equal(again[0], tokens_of(inputs)) and np.array_equal(again[1], tokens_of(outputs))
    assert not np.isin(keys[False], keys[True]).any()


def test_objects_have_one_largest_component() -> None:
    """Counted by flood fill, the slow way."""
    many = Rules(rule("largest").descriptors.repeat(60, axis=0))
    inputs = draw_inputs(many, sizes_of("M", 6), np.random.default_rng(0))
    for cells in inputs.cells:
        left, sizes = {(r, c) for r, c in zip(*np.nonzero(cells), strict=True)}, []
        while left:
            stack, size = [left.pop()], 0
            while stack:
                r, c = stack.pop()
                size += 1
                near = {(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)} & left
                near = {place for place in near if cells[place] == cells[r, c]}
                left -= near
                stack += near
            sizes.append(size)
        assert len(sizes) > 1 and sizes.count(max(sizes)) == 1


def test_too_few_grids_are_said() -> None:
    """A 3x3 grid under a 3x3 block is one class, which one of the splits lacks."""
    lacking = 0
    for test in (False, True):
        try:
            draw_inputs(rule("hollow"), GridSizes(3, 3, 3, 4), np.random.default_rng(0), test=test)
        except UserError as error:
            lacking += 1
            assert "too few different ones for the op hollow; give a larger --canvas" in str(error)
    assert lacking == 1


def test_descriptors_that_are_none() -> None:
    good = TIERS["M"].rules().descriptors
    assert fault(good) == ""
    for column, value in ((0, len(OPS)), (0, -1), (1, 8), (2, 8), (3, 1), (4, 10), (5, good[0, 4])):
        bad = good.copy()
        bad[0, column] = value
        assert fault(bad), (column, value)
    assert "12 columns" in fault(good[:, :-1])


def test_permutations_are_all_there() -> None:
    shown = {tuple(colours[1:5]) for colours in TIERS["M"].rules().colours.tolist()}
    assert shown == set(permutations(range(1, 5)))
    assert isinstance(TIERS["M"].rules().apply(grids(*[[[1]]] * 120, side=1)), Grids)
