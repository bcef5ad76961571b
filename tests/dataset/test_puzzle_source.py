from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset.eval_batches import Batch, EvalBatches, row_hashes, test_rows, validation_rows
from dataset.puzzle_folder import open_puzzle_set
from dataset.puzzle_source import PuzzleSource, merge_metadata
from dataset.source import START, Position
from dataset.sudoku import random_symmetries
from dataset.tasks.base import PuzzleTask
from errors import UserError
from tests.dataset.folders import edit_metadata, make_folder, row_numbers
from training.distributed import World

MIXED_GROUPS, MIXED_PUZZLES = [2, 1, 3, 1], [3, 1, 4, 2, 5, 1, 2]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Groups of several puzzles of several examples, as ARC has them."""
    make_folder(
        tmp_path / "mixed",
        puzzles_per_group=MIXED_GROUPS,
        examples_per_puzzle=MIXED_PUZZLES,
        num_identifiers=8,
    )
    return tmp_path / "mixed"


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """Ten groups of one puzzle with one example, augmented on the fly."""
    make_folder(tmp_path / "single", puzzles_per_group=[1] * 10, examples_per_puzzle=[1] * 10, on_the_fly=True)
    return tmp_path / "single"


def source(root: Path, batch: int, epochs: int, **options: object) -> PuzzleSource:
    return PuzzleSource(
        [open_puzzle_set(root, "train")],
        **{"seed": 0, "global_batch_size": batch, "epochs_per_iteration": epochs, **options},  # type: ignore[arg-type]
    )


def walk(data: PuzzleSource, steps: int, position: Position = START) -> list[tuple[Position, Batch]]:
    """(position, batch) of consecutive calls."""
    seen = []
    for _ in range(steps):
        batch, following = data.next(position)
        seen.append((position, batch))
        position = following
    return seen


def iteration(data: PuzzleSource, index: int) -> list[Batch]:
    """All batches of one iteration."""
    position, batches = {"iteration": index, "batch": 0, "cursor": 0}, []
    while position["iteration"] == index:
        batch, position = data.next(position)
        batches.append(batch)
    assert position == {"iteration": index + 1, "batch": 0, "cursor": 0}
    return batches


def rows_of(batches: list[Batch]) -> list[int]:
    return [int(row) for batch in batches for row in row_numbers(batch["inputs"].numpy())]


def same(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("kind", ["mixed", "single"])
def test_batches_are_a_function_of_seed_and_position(kind: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(kind)
    seen = walk(source(root, 6, 4), 25)
    assert len({position["iteration"] for position, _ in seen}) > 2
    for step in reversed(range(len(seen))):
        position, batch = seen[step]
        assert same(source(root, 6, 4).next(dict(position))[0], batch)
    # One source, asked in any order, answers as a new one does.
    data = source(root, 6, 4)
    for step in np.random.default_rng(0).integers(0, len(seen), 60):
        position, batch = seen[step]
        assert same(data.next(position)[0], batch)
    other = walk(source(root, 6, 4, seed=1), 25)
    assert not all(same(a[1], b[1]) for a, b in zip(seen, other, strict=True))


def test_blocks_of_epochs_do_not_show(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders made one epoch at a time, of which one is kept, still give every group once per epoch."""
    monkeypatch.setattr("dataset.puzzle_source.BLOCK_GROUPS", 1)
    monkeypatch.setattr("dataset.puzzle_source.BLOCKS_KEPT", 1)
    rows = rows_of(iteration(source(single, 6, 30, augment="none"), 0))
    for epoch in range(30):
        assert sorted(rows[10 * epoch : 10 * epoch + 10]) == list(range(10))


def test_shapes_and_dtypes(mixed: Path) -> None:
    batch, _ = source(mixed, 6, 4).next(START)
    assert {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in batch.items()} == {
        "inputs": ((6, 16), torch.int32),
        "labels": ((6, 16), torch.int32),
        "puzzle_identifiers": ((6,), torch.int32),
    }


def test_each_epoch_covers_each_group_once(single: Path) -> None:
    data = source(single, 5, 7, augment="none")
    for index in range(3):
        rows = rows_of(iteration(data, index))
        assert len(rows) == 70
        epochs = np.array(rows).reshape(7, 10)
        assert (np.sort(epochs, axis=1) == np.arange(10)).all()
        assert len(np.unique(epochs, axis=0)) == 7


def test_last_partial_batch_is_dropped(single: Path) -> None:
    data = source(single, 8, 3, augment="none")
    assert [len(iteration(data, index)) for index in range(4)] == [
        3,
        3,
        3,
        3,
    ] and data.num_batches_estimate == 3
    data = source(single, 7, 3, augment="none")
    rows = rows_of(iteration(data, 0))
    assert len(rows) == 28 and max(Counter(rows).values()) == 3


@pytest.mark.parametrize(("groups", "epochs", "batch"), [(1000, 5000, 768), (1000, 100, 768), (37, 11, 20), (5, 3, 15)])
def test_batch_count_is_the_official_one(tmp_path: Path, groups: int, epochs: int, batch: int) -> None:
    """One example per puzzle: floor(groups · epochs / batch) per iteration; 6510 in the Sudoku recipe."""
    make_folder(tmp_path, puzzles_per_group=[1] * groups, examples_per_puzzle=[1] * groups)
    data = source(tmp_path, batch, epochs)
    expected = groups * epochs // batch
    if (groups, epochs) == (1000, 5000):
        assert expected == 6510
    assert data.num_batches_estimate == expected
    position = {"iteration": 0, "batch": expected - 2, "cursor": (expected - 2) * batch}
    if expected >= 2:
        position = data.next(position)[1]
        assert position == {"iteration": 0, "batch": expected - 1, "cursor": (expected - 1) * batch}
        position = data.next(position)[1]
        assert position == {"iteration": 1, "batch": 0, "cursor": 0}
    else:
        assert data.next(START)[1]["iteration"] == 1


def test_one_puzzle_per_group_with_all_its_examples(mixed: Path) -> None:
    """Against a plain re-reading of the batches: runs of one puzzle, whole except where a batch ends."""
    puzzle_set = open_puzzle_set(mixed, "train")
    group_of = np.searchsorted(puzzle_set.group_indices, np.arange(7), side="right") - 1
    data = source(mixed, 9, 12)
    chosen: Counter[int] = Counter()
    for index in range(30):
        groups = []
        for batch in iteration(data, index):
            rows = row_numbers(batch["inputs"].numpy())
            puzzles = puzzle_set.puzzle_of(rows)
            assert np.array_equal(batch["puzzle_identifiers"], puzzle_set.puzzle_identifiers[puzzles])
            assert np.array_equal(batch["labels"], puzzle_set.labels[rows])
            cuts = np.flatnonzero(np.diff(puzzles)) + 1
            runs = np.split(rows, cuts)
            for place, run in enumerate(runs):
                puzzle = int(puzzles[np.flatnonzero(rows == run[0])[0]])
                whole = set(range(puzzle_set.puzzle_indices[puzzle], puzzle_set.puzzle_indices[puzzle + 1]))
                # The same puzzle may come again at once, at the turn of an epoch.
                times, rest = divmod(len(run), len(whole))
                last = place == len(runs) - 1
                assert rest == 0 or last, "a puzzle was cut inside a batch"
                assert set(run.tolist()) <= whole and max(Counter(run.tolist()).values()) <= times + (rest > 0)
                groups += [int(group_of[puzzle])] * (times + (rest > 0))
                chosen[puzzle] += times + (rest > 0)
        for start in range(0, len(groups) - 3, 4):
            assert sorted(groups[start : start + 4]) == [0, 1, 2, 3], "an epoch is a permutation of the groups"
    # Within a group each puzzle is equally likely.
    for first, last in zip(puzzle_set.group_indices[:-1], puzzle_set.group_indices[1:], strict=True):
        counts = np.array([chosen[puzzle] for puzzle in range(first, last)])
        share = counts / counts.sum()
        assert (abs(share - 1 / len(counts)) < 4.5 * np.sqrt(0.25 / counts.sum())).all()


def test_overflowing_puzzle_gives_a_random_part(tmp_path: Path) -> None:
    make_folder(tmp_path, puzzles_per_group=[1], examples_per_puzzle=[10])
    data = source(tmp_path, 3, 2)
    parts = [rows_of(batches) for batches in (iteration(data, index) for index in range(60))]
    # Two epochs of one group: the first batch overflows, the second too.
    assert all(len(part) == 6 and len(set(part[:3])) == 3 for part in parts)
    assert set(sum(parts, [])) == set(range(10))


def test_iterations_that_cannot_fill_a_batch_are_passed_over(tmp_path: Path) -> None:
    """A group of a small and a large puzzle: only the large one fills the batch."""
    make_folder(tmp_path, puzzles_per_group=[2], examples_per_puzzle=[1, 6])
    data = source(tmp_path, 4, 1)
    position, visited = START, []
    for _ in range(20):
        batch, position = data.next(position)
        assert (row_numbers(batch["inputs"].numpy()) >= 1).all()
        visited.append(position["iteration"])
    assert visited == sorted(set(visited)) and visited[-1] > 20


@pytest.mark.parametrize("augment", ["auto", "stored", "none"])
def test_too_few_rows_for_one_batch(single: Path, augment: str) -> None:
    with pytest.raises(UserError, match="10 groups x 2 epochs per iteration give at most 20 rows") as caught:
        source(single, 21, 2, augment=augment)
    assert "smaller global_batch_size" in str(caught.value) and "larger eval_interval" in str(caught.value)
    assert len(iteration(source(single, 20, 2, augment=augment), 0)) == 1


def test_ignored_labels(tmp_path: Path, mixed: Path) -> None:
    edit_metadata(mixed / "train", ignore_label_id=2)
    batch, _ = source(mixed, 9, 4).next(START)
    assert (batch["labels"] == -100).any() and not (batch["labels"] == 2).any()
    stored = open_puzzle_set(mixed, "train").labels[row_numbers(batch["inputs"].numpy())].astype(np.int32)
    assert np.array_equal(batch["labels"], np.where(stored == 2, -100, stored))
    edit_metadata(mixed / "train", ignore_label_id=None)
    again, _ = source(mixed, 9, 4).next(START)
    assert np.array_equal(again["labels"], stored)


def test_augmentation_choices(single: Path, mixed: Path) -> None:
    auto, drawn = source(single, 10, 1), source(single, 10, 1, augment="on_the_fly")
    stored, none = source(single, 10, 1, augment="stored"), source(single, 10, 1, augment="none")
    for position, batch in walk(auto, 3):
        assert same(batch, drawn.next(position)[0]) and not same(batch, stored.next(position)[0])
        assert same(stored.next(position)[0], none.next(position)[0])
        assert sorted(rows_of([stored.next(position)[0]])) == list(range(10))
        # The draw of puzzles does not depend on whether they are augmented: blanks are only moved.
        blanks = [(data.next(position)[0]["inputs"] == 1).sum(dim=1) for data in (auto, stored)]
        assert torch.equal(*blanks)
    first, second = (batch for _, batch in walk(auto, 2))
    assert not set(map(bytes, first["inputs"].numpy())) & set(map(bytes, second["inputs"].numpy()))
    with pytest.raises(UserError, match="augment=stored"):
        source(mixed, 5, 5, augment="on_the_fly")
    with pytest.raises(UserError, match="expected one of auto"):
        source(mixed, 5, 5, augment="yes")


def test_without_augmentation_only_originals(mixed: Path) -> None:
    puzzle_set = open_puzzle_set(mixed, "train")
    batches = [batch for index in range(20) for batch in iteration(source(mixed, 5, 5, augment="none"), index)]
    puzzles = set(puzzle_set.puzzle_of(np.array(rows_of(batches))).tolist())
    assert puzzles == set(puzzle_set.group_indices[:-1].tolist())


def test_excluded_rows_never_come(mixed: Path) -> None:
    exclude = np.zeros(18, dtype=bool)
    exclude[[0, 1, 2, 5, 16, 17]] = True  # all of puzzle 0, part of puzzle 2, all of group 3
    data = source(mixed, 5, 40, exclude=exclude)
    assert data.total_groups == 3
    rows = set(rows_of(iteration(data, 0)))
    assert rows == set(np.flatnonzero(~exclude).tolist())
    with pytest.raises(UserError, match="no example is left"):
        source(mixed, 5, 5, exclude=np.ones(18, dtype=bool))


def test_several_data_sets(single: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "more", puzzles_per_group=[2, 1], examples_per_puzzle=[1, 2, 1], seed=9)
    sets = [open_puzzle_set(single, "train"), open_puzzle_set(tmp_path / "more", "train")]
    data = PuzzleSource(sets, seed=0, global_batch_size=6, epochs_per_iteration=50, augment="stored")
    assert data.total_groups == 12 and data.mean_examples == pytest.approx(14 / 13)
    known = {bytes(row) for part in sets for row in np.asarray(part.inputs)}
    seen = {bytes(row) for batch in iteration(data, 0) for row in batch["inputs"].numpy().astype(np.uint8)}
    assert seen == known
    auto = PuzzleSource(sets, seed=0, global_batch_size=6, epochs_per_iteration=50)
    drawn = {bytes(row) for batch in iteration(auto, 0) for row in batch["inputs"].numpy().astype(np.uint8)}
    assert {bytes(row) for row in np.asarray(sets[1].inputs)} <= drawn, "only sets that name a symmetry are augmented"
    assert len(drawn) > len(known)


def test_data_sets_that_do_not_fit(single: Path, mixed: Path, tmp_path: Path) -> None:
    sets = [open_puzzle_set(single, "train"), open_puzzle_set(mixed, "train")]
    with pytest.raises(UserError, match="num_puzzle_identifiers is 8"):
        merge_metadata(sets)
    make_folder(tmp_path / "6x6", puzzles_per_group=[1], examples_per_puzzle=[1], box=(2, 3))
    with pytest.raises(UserError, match="seq_len is 36"):
        merge_metadata([sets[0], open_puzzle_set(tmp_path / "6x6", "train")])
    with pytest.raises(UserError, match="data_paths"):
        merge_metadata([])


def test_slices_partition_the_global_batch(mixed: Path) -> None:
    batch, _ = source(mixed, 12, 4).next(START)
    for world_size in (1, 2, 3, 4):
        shares = [World(rank, world_size).slots(12) for rank in range(world_size)]
        assert same({key: torch.cat([leaf[share] for share in shares]) for key, leaf in batch.items()}, batch)


@pytest.mark.parametrize(
    "position",
    [
        {"iteration": 0, "batch": 0},
        {"iteration": -1, "batch": 0, "cursor": 0},
        {"iteration": 0, "batch": 0, "cursor": 0, "more": 1},
        {"iteration": 0.0, "batch": 0, "cursor": 0},
        {"iteration": 0, "batch": 2, "cursor": 7},
    ],
)
def test_foreign_positions(single: Path, position: Position) -> None:
    with pytest.raises(UserError, match="position"):
        source(single, 5, 5).next(position)


def test_state_and_fingerprint(single: Path) -> None:
    data = source(single, 5, 5)
    assert data.state_dict() == {}
    data.load_state_dict({})
    with pytest.raises(ValueError, match="expected"):
        data.load_state_dict({"buffer": 1})
    base = data.fingerprint()
    assert base == source(single, 5, 5).fingerprint()
    variants = [
        source(single, 5, 5, seed=1),
        source(single, 6, 5),
        source(single, 5, 6),
        source(single, 5, 5, augment="none"),
        source(single, 5, 5, augment="stored"),
        source(single, 5, 5, exclude=np.arange(10) == 3),
    ]
    prints = [base, *(variant.fingerprint() for variant in variants)]
    assert all(a != b for i, a in enumerate(prints) for b in prints[:i])


def test_huge_and_negative_seeds(single: Path) -> None:
    batches = [source(single, 5, 5, seed=seed).next(START)[0] for seed in (0, -1, 2**63, 2**64 - 2)]
    assert not any(same(a, b) for i, a in enumerate(batches) for b in batches[:i])


# evaluation


def test_eval_batches_cover_the_rows_in_order(mixed: Path) -> None:
    puzzle_set = open_puzzle_set(mixed, "train")
    rows = np.array([3, 0, 17, 9, 4, 5, 6])
    data = EvalBatches(puzzle_set, rows, 3)
    batches = list(data)
    assert len(batches) == len(data) == 3 and all(batch["inputs"].shape == (3, 16) for batch in batches)
    assert all(same(a, b) for a, b in zip(batches, data, strict=True)), "a second pass gives the same"
    joined = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    assert joined["row"].tolist() == [*rows.tolist(), -1, -1] and joined["row"].dtype == torch.int64
    assert row_numbers(joined["inputs"].numpy()[:7]).tolist() == rows.tolist()
    assert np.array_equal(joined["labels"][:7], puzzle_set.labels[rows])
    assert joined["puzzle_identifiers"].tolist() == [1, 0, 6, 3, 2, 2, 2, 0, 0]
    assert (joined["inputs"][7:] == 0).all() and (joined["labels"][7:] == -100).all()
    assert {tensor.dtype for key, tensor in joined.items() if key != "row"} == {torch.int32}


def test_eval_batches_of_nothing_and_of_wrong_rows(mixed: Path) -> None:
    puzzle_set = open_puzzle_set(mixed, "train")
    assert list(EvalBatches(puzzle_set, np.array([], dtype=np.int64), 4)) == []
    for rows, size in (([18], 4), ([-1], 4), ([0], 0)):
        with pytest.raises(ValueError):
            EvalBatches(puzzle_set, np.array(rows), size)


@pytest.mark.parametrize(("size", "expected"), [(1024, 60), (25, 25), (1, 1), (0, 0)])
def test_validation_and_test_rows_partition(tmp_path: Path, size: int, expected: int) -> None:
    """A fifth of a small set at most; together they are everything, once."""
    puzzle_set = make_folder(tmp_path, split="test", puzzles_per_group=[1] * 300, examples_per_puzzle=[1] * 300)
    chosen, rest = validation_rows(puzzle_set, size), test_rows(puzzle_set, size)
    assert chosen.shape == (expected,) and np.array_equal(chosen, np.unique(chosen))
    assert np.array_equal(np.sort(np.concatenate([chosen, rest])), np.arange(300))
    # Nested: a smaller validation set is part of a larger one.
    assert set(chosen) <= set(validation_rows(puzzle_set, 10_000))


def test_validation_rows_follow_content_not_order_or_dtype(tmp_path: Path) -> None:
    puzzle_set = make_folder(tmp_path, split="test", puzzles_per_group=[1] * 300, examples_per_puzzle=[1] * 300)
    content = {bytes(np.asarray(puzzle_set.inputs)[row]) for row in validation_rows(puzzle_set, 40)}
    order = np.random.default_rng(3).permutation(300)
    for name in ("inputs", "labels"):
        path = tmp_path / "test" / f"all__{name}.npy"
        np.save(path, np.load(path, allow_pickle=False)[order].astype(np.int64))
    edit_metadata(tmp_path / "test", sha256=...)
    shuffled = open_puzzle_set(tmp_path, "test")
    rows = validation_rows(shuffled, 40)
    assert {bytes(row.astype(np.uint8)) for row in np.asarray(shuffled.inputs)[rows]} == content
    assert not np.array_equal(rows, validation_rows(puzzle_set, 40))
    # Spread over the whole set rather than over its beginning.
    assert rows.min() < 60 and rows.max() > 240


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=60),
    st.lists(st.integers(1, 6), min_size=60, max_size=60),
    st.sampled_from(["example", "group"]),
    st.integers(0, 30),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equal_rows_are_never_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    contents: list[int],
    sizes: list[int],
    unit: str,
    size: int,
) -> None:
    """Rows with few contents, in groups of 1 to 6 rows of which each is a puzzle: whole units, the smallest hashes."""
    monkeypatch.setattr(PuzzleTask, "validation_unit", unit)
    count = len(contents)
    groups = np.split(np.arange(count), np.cumsum(sizes)[np.cumsum(sizes) < count])
    root = tmp_path_factory.mktemp("data")
    make_folder(root, split="test", puzzles_per_group=list(map(len, groups)), examples_per_puzzle=[1] * count)
    for name in ("inputs", "labels"):
        path = root / "test" / f"all__{name}.npy"
        np.save(path, np.load(path, allow_pickle=False)[[content % count for content in contents]])
    edit_metadata(root / "test", sha256=...)
    puzzle_set = open_puzzle_set(root, "test")
    chosen, rest = validation_rows(puzzle_set, size), test_rows(puzzle_set, size)
    assert np.array_equal(np.sort(np.concatenate([chosen, rest])), np.arange(count))
    assert len(chosen) <= min(size, count // 5)
    hashes = row_hashes(puzzle_set)
    assert not set(hashes[chosen]) & set(hashes[rest])
    if unit == "group":
        assert all(np.isin(rows, chosen).all() or np.isin(rows, rest).all() for rows in groups)
        assert set(chosen) <= set(validation_rows(puzzle_set, size + 1))
    else:
        # As many of the smallest hashes as fit, and no fewer.
        distinct, rows_of = np.unique(hashes, return_counts=True)
        fitting = int((np.cumsum(rows_of) <= min(size, count // 5)).sum())
        assert set(hashes[chosen]) == set(distinct[:fitting])


def test_groups_that_share_a_row_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 groups of 5 rows; groups 2k and 2k + 1 have one row in common: 20 pairs of which 4 make a fifth."""
    monkeypatch.setattr(PuzzleTask, "validation_unit", "group")
    make_folder(tmp_path, split="test", puzzles_per_group=[5] * 40, examples_per_puzzle=[1] * 200)
    copied = np.arange(200)
    copied[7::10] = copied[1::10]
    for name in ("inputs", "labels"):
        path = tmp_path / "test" / f"all__{name}.npy"
        np.save(path, np.load(path, allow_pickle=False)[copied])
    edit_metadata(tmp_path / "test", sha256=...)
    chosen = validation_rows(open_puzzle_set(tmp_path, "test"))
    assert len(chosen) == 40 and len(set(chosen // 10)) == 4


def test_rows_equal_up_to_symmetry_and_answers_to_one_question_stay_together(tmp_path: Path) -> None:
    """Rows 2k and 2k + 1 are a puzzle and its image; rows from 200 on repeat questions with another label."""
    puzzle_set = make_folder(tmp_path, split="test", puzzles_per_group=[1] * 300, examples_per_puzzle=[1] * 300)
    arrays = {name: np.array(getattr(puzzle_set, name)) for name in ("inputs", "labels")}
    images = random_symmetries(100, (2, 2), np.random.default_rng(0)).on_tokens()
    for name, array in arrays.items():
        array[1:200:2] = images.apply(array[0:200:2])
        if name == "inputs":
            array[200:] = array[0:200:2]
        np.save(tmp_path / "test" / f"all__{name}.npy", array)
    edit_metadata(tmp_path / "test", sha256=...)
    puzzle_set = open_puzzle_set(tmp_path, "test")
    chosen = validation_rows(puzzle_set)
    assert len(chosen) == 60
    together = np.concatenate([np.arange(200) // 2, np.arange(100)])
    assert set(np.flatnonzero(np.isin(together, together[chosen]))) == set(chosen)
