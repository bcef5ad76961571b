"""Training data of the Collatz network against Python integers: walks, the hard pool, curriculum, mining, segments."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import UserError
from projects.collatz.hard_pool import MOST_MINED, RECORDS, TRAINING_SEEDS, HardPool, active_seeds, draw, elements
from projects.collatz.kept_out import kept_out
from projects.collatz.limbs import from_limbs, to_limbs
from projects.collatz.pairs import PairSource
from projects.collatz.samples import FRESH_STARTS
from projects.collatz.segments import SEGMENTS_PER_START, SegmentSource
from projects.collatz.settings import CollatzConfig
from projects.collatz.syracuse import TEST_STARTS, orbit
from projects.collatz.walk import walk
from projects.collatz.windows import next_residues
from tests.projects.collatz.numbers_drawn import EDGES, naive_steps, odd_numbers

OUT = kept_out()
PAIRS = CollatzConfig(lookahead=5, curriculum=True, start_seeds=0, ramp_len=490, mine_count=7)
SEGMENTS = CollatzConfig(lookahead=6, segment_steps=8)


def at(epoch: int) -> dict[str, int]:
    return {"iteration": epoch, "batch": 0, "cursor": 0}


def numbers_of(batch: dict[str, torch.Tensor]) -> list[float]:
    return batch["logs"][:, 0].exp().tolist()


# -- walks


@given(numbers=st.lists(odd_numbers, min_size=1, max_size=8), states=st.integers(1, 9), lookahead=st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_a_walk_is_what_python_integers_say(numbers: list[int], states: int, lookahead: int) -> None:
    for window_logs in (False, True):
        walked = walk(to_limbs(numbers), states, lookahead, OUT, window_logs=window_logs)
        num_logs = states + lookahead if window_logs else states
        for row, number in enumerate(numbers):
            visited, valuations = naive_steps(number, states + lookahead)
            assert walked.logs[row].tolist() == [math.log(state) for state in visited[:num_logs]]
            assert walked.residues[row].tolist() == [state % 81 for state in visited[:states]]
            assert walked.valuations[row].tolist() == valuations[: states - 1 + lookahead]
            assert walked.at_one[row].tolist() == [state == 1 for state in visited[:states]]
            assert walked.on_test_orbit[row].tolist() == [state in TESTED for state in visited[:states]]


TESTED = {state for start in (*TEST_STARTS, *FRESH_STARTS) for state in orbit(start).states}


def test_edges_are_walked_exactly() -> None:
    walked = walk(to_limbs(EDGES), 3, 30, OUT, window_logs=False)
    for row, number in enumerate(EDGES):
        visited, valuations = naive_steps(number, 32)
        assert walked.valuations[row].tolist() == valuations
        assert walked.residues[row].tolist() == [state % 81 for state in visited[:3]]
        assert walked.on_test_orbit[row].tolist() == [state in TESTED for state in visited[:3]]


@given(number=odd_numbers)
@settings(max_examples=200, deadline=None)
def test_residues_follow_from_residues(number: int) -> None:
    (_, after), (k,) = naive_steps(number, 1)
    assert next_residues(np.array([number % 81]), np.array([k])).tolist() == [after % 81]


# -- the hard pool


def test_seeds_are_those_of_the_source_without_the_test_starts() -> None:
    assert len(RECORDS) == 54 and len(TRAINING_SEEDS) == 49 and list(RECORDS) == sorted(RECORDS)
    assert not set(TRAINING_SEEDS) & set(TEST_STARTS)


def test_curriculum_of_the_source() -> None:
    """Ramp 50,000 from 0: published counts, and the updates at which three seeds join."""

    def active(epoch: int) -> int:
        return active_seeds(epoch, curriculum=True, start_seeds=0, ramp_len=50_000)

    assert [active(epoch) for epoch in (0, 5000, 10_000, 25_000, 50_000, 90_000)] == [0, 4, 9, 24, 49, 49]
    assert active(1020) == 0 and active(1021) == 1
    for seed, joins in ((54, 4082), (2463, 29_592), (52_527, 39_796)):
        place = TRAINING_SEEDS.index(seed)
        assert active(joins) == place + 1 and active(joins - 1) == place
    assert active_seeds(0, curriculum=False, start_seeds=0, ramp_len=50_000) == 49
    assert active_seeds(12_500, curriculum=True, start_seeds=30, ramp_len=25_000) == 39


def test_elements_are_odd_and_above_1() -> None:
    assert elements(54) == orbit(27).states[:-1], "an even start is only the beginning of its orbit"
    assert elements(31) == orbit(31).states[:-1]
    long = elements(2**600 - 1)
    assert len(long) == 300 and long == orbit(2**600 - 1).states[:300]


def test_draws_are_uniform_over_entries_and_then_over_elements() -> None:
    pool = HardPool(OUT, decontaminate=False, successors=1)
    pool.add([2**100 + 1])
    entries = pool.entries(2)
    assert entries is not None and entries.mined.tolist() == [False, False, True]
    count = 60_000
    drawn = Counter(from_limbs(draw(entries, count, np.random.default_rng(0), 2)))
    itself = drawn[2**100 + 1] / count
    assert itself == pytest.approx((0.3 + 0.7 / len(elements(2**100 + 1))) / 3, abs=0.01)
    for number in (41, 31, 5):  # on the second orbit, and two on both
        expected = sum((number in elements(seed)) / len(elements(seed)) for seed in (31, 41)) / 3
        assert drawn[number] / count == pytest.approx(expected, abs=0.002)
    assert set(drawn) <= {*elements(31), *elements(41), *elements(2**100 + 1)}


def test_mined_numbers_join_once_and_the_oldest_leave() -> None:
    pool = HardPool(OUT, decontaminate=False, successors=1)
    assert pool.entries(0) is None
    pool.add([101, 103, 101])
    assert pool.mined == [101, 103]
    pool.add([103, 105])
    assert pool.mined == [101, 103, 105]
    pool.add(range(10_001, 10_001 + 2 * MOST_MINED, 2))
    assert len(pool.mined) == MOST_MINED and pool.mined[0] == 10_001 and 105 not in pool.mined
    entries = pool.entries(0)
    assert entries is not None and len(entries.mined) == MOST_MINED and entries.mined.all()


@pytest.mark.parametrize("successors", [1, 4, 8])
def test_a_decontaminated_pool_has_no_state_of_a_test_orbit(successors: int) -> None:
    pool = HardPool(OUT, decontaminate=True, successors=successors)
    pool.add([27, 2**90 + 1])
    entries = pool.entries(49)
    assert entries is not None and pool.reserved() is None
    numbers = set(from_limbs(entries.limbs))
    assert numbers and all(not TESTED & set(naive_steps(number, successors)[0]) for number in numbers)
    whole = {number for seed in TRAINING_SEEDS for number in elements(seed)} | set(elements(2**90 + 1))
    clean = {number for number in whole if not TESTED & set(naive_steps(number, successors)[0])}
    cut = set(elements(2**90 + 1)[-successors:])  # their successors were not looked at, or lead to 1
    assert clean - cut <= numbers <= clean


# -- pairs


def test_batches_are_a_function_of_seed_and_position() -> None:
    """Whatever was prepared before them, and in whichever order."""
    one, two = PairSource(PAIRS, 64, 3, OUT), PairSource(PAIRS, 64, 3, OUT)
    straight, position = [], at(0)
    for _ in range(20):
        batch, position = one.next(position)
        straight.append(batch)
    for epoch in (13, 2, 19, 7):
        batch, following = two.next(at(epoch))
        assert following == at(epoch + 1)
        assert all(torch.equal(batch[name], straight[epoch][name]) for name in batch)
    other, _ = PairSource(PAIRS, 64, 4, OUT).next(at(0))
    assert not torch.equal(other["logs"], straight[0]["logs"])


def test_random_rows_have_every_size_alike() -> None:
    source = PairSource(replace(PAIRS, hard_ratio=0.0), 4096, 0, OUT)
    limbs, hard = source._draw(0, 40_000, 0.0, 11)
    sizes = Counter(number.bit_length() for number in from_limbs(limbs))
    assert not hard.any() and set(sizes) == set(range(3, 126))
    mean = 40_000 / 123
    assert all(abs(count - mean) < 6 * math.sqrt(mean) for count in sizes.values())
    high = [number for number in from_limbs(limbs) if number.bit_length() == 100]
    assert all(number % 2 for number in from_limbs(limbs))
    assert 0.4 < sum(number >> 98 & 1 for number in high) / len(high) < 0.6, "uniform within a size"


def test_hard_rows_come_from_the_seeds_that_are_in() -> None:
    source = PairSource(PAIRS, 64, 0, OUT)
    for epoch, active in ((0, 0), (5, 0), (11, 1), (101, 10)):
        limbs, hard = source._draw(epoch, 64, 0.25, 11)
        drawn = {number for number, is_hard in zip(from_limbs(limbs), hard.tolist(), strict=True) if is_hard}
        allowed = {n for seed in TRAINING_SEEDS[:active] or (27,) for n in elements(seed)}
        assert hard.sum() == 16 and drawn <= allowed
    random = PairSource(replace(PAIRS, empty_pool="random"), 64, 0, OUT)
    limbs, hard = random._draw(0, 64, 0.25, 11)
    assert not hard.any() and limbs.shape[1] == 64


def narrowest(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """A stand-in for a network: the smaller the number, the worse its margin."""
    return batch["logs"][:, 0]


def test_mining_takes_the_smallest_margins_at_its_epochs() -> None:
    seen: list[torch.Tensor] = []

    def feedback(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append(narrowest(batch))
        return seen[-1]

    source = PairSource(replace(PAIRS, mine_negatives=True, mine_interval=6, mine_start_epoch=12), 64, 0, OUT, feedback)
    position, counts = at(0), []
    for _ in range(25):
        _, position = source.next(position)
        counts.append(len(seen))
    mining = [epoch for epoch in range(1, 25) if counts[epoch] > counts[epoch - 1]]
    assert mining == [12, 18, 24], "not at 0, not before mine_start_epoch"
    assert all(len(margins) == 5000 for margins in seen)
    source = PairSource(replace(PAIRS, mine_negatives=True, mine_interval=6), 64, 0, OUT, feedback)
    source.next(at(6))
    smallest = sorted(set(np.sort(seen[-1].numpy())[:7].tolist()))
    assert sorted(math.log(number) for number in source.pool.mined) == smallest


def test_a_source_that_mined_comes_back_from_its_state() -> None:
    settings = replace(PAIRS, mine_negatives=True, mine_interval=6)
    whole, position = PairSource(settings, 64, 0, OUT, narrowest), at(0)
    batches = []
    for epoch in range(20):
        if epoch == 9:
            state = whole.state_dict()
        batch, position = whole.next(position)
        batches.append(batch)
    resumed = PairSource(settings, 64, 0, OUT, narrowest)
    resumed.load_state_dict(state)
    for epoch in range(9, 20):
        batch, _ = resumed.next(at(epoch))
        assert all(torch.equal(batch[name], batches[epoch][name]) for name in batch)
    assert resumed.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"mined": ["4"], "mined_at": None},
        {"mined": [27], "mined_at": None},
        {"mined": ["27"], "mined_at": "6"},
        {"mined": "27", "mined_at": None},
    ],
)
def test_a_foreign_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(UserError, match="holds no list of mined odd numbers"):
        PairSource(PAIRS, 64, 0, OUT).load_state_dict(state)


def test_rows_on_test_orbits_are_counted_and_with_the_switch_not_kept() -> None:
    for decontaminate in (False, True):
        source = PairSource(replace(PAIRS, use_t4=True, decontaminate=decontaminate), 64, 0, OUT)
        for epoch in range(8):
            batch, _ = source.next(at(7 - epoch))
            assert source.drawn == 64 * (epoch + 1), "counted as batches are given, not as they are prepared"
        assert 0 < source.overlap < source.drawn
        small = batch["logs"][:, 0] < math.log(2**50)
        for number, kept in zip(
            batch["logs"][small, 0].exp().round().long().tolist(), batch["kept"][small].tolist(), strict=True
        ):
            tested = bool(TESTED & set(naive_steps(number, 4)[0]))
            assert kept == (not tested or not decontaminate)


# -- segments


def test_segments_are_consecutive_states_of_random_orbits() -> None:
    """All segments of a block, put in order again, are the orbits of its starts."""
    source = SegmentSource(SEGMENTS, 4, 5, OUT)
    starts = source.starts(0)
    assert len(starts) == 128 and all(n % 2 and 200 <= n.bit_length() <= 256 for n in starts)
    expected = {}
    for start in starts:
        visited, valuations = naive_steps(start, 8 * SEGMENTS_PER_START + 6)
        for segment in range(SEGMENTS_PER_START):
            states = visited[8 * segment : 8 * segment + 15]
            key = (*map(math.log, states), *(state % 81 for state in states[:9]))
            expected[key] = (valuations[8 * segment : 8 * segment + 14], [state != 1 for state in states[:8]])
    position, seen = at(0), 0
    while position["iteration"] < 128 * SEGMENTS_PER_START // 4:
        batch, position = source.next(position)
        for row in range(4):
            key = (*batch["logs"][row].tolist(), *batch["residues"][row].tolist())
            assert (batch["valuations"][row].tolist(), batch["kept"][row].tolist()) == expected[key]
            seen += 1
    assert seen == len(expected) == 128 * SEGMENTS_PER_START
    again, _ = SegmentSource(SEGMENTS, 4, 5, OUT).next(at(77))
    batch, _ = source.next(at(77))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert not set(source.starts(1)) & set(starts)


def test_segments_with_a_test_state_or_an_end_are_not_kept() -> None:
    short = replace(SEGMENTS, fewest_bits=12, most_bits=20, decontaminate=True)
    source = SegmentSource(short, 4, 0, OUT)
    position, kept, dropped = at(0), 0, 0
    for _ in range(40):
        batch, position = source.next(position)
        states = batch["logs"].exp().round().long()
        for row in range(4):
            for step in range(8):
                here, there = states[row, step].item(), states[row, step + 1].item()
                good = here not in TESTED and there not in TESTED
                assert batch["kept"][row, step].item() == good
                kept, dropped = kept + good, dropped + (not good)
    assert kept and dropped and 0 < source.overlap < source.drawn


@pytest.mark.parametrize("kind", [PairSource, SegmentSource])
def test_overlap_is_that_of_the_run_however_often_it_started(kind: Any) -> None:
    settings = PAIRS if kind is PairSource else replace(SEGMENTS, fewest_bits=12, most_bits=20)
    whole, position = kind(settings, 16, 0, OUT), at(0)
    for _ in range(15):
        _, position = whole.next(position)
    state, position = {}, at(0)
    for starts in (3, 5, 7):  # each by a process of its own, which prepared more than it gave
        source = kind(settings, 16, 0, OUT)
        source.load_state_dict(state or source.state_dict())
        for _ in range(starts):
            _, position = source.next(position)
        state = source.state_dict()
    assert state == whole.state_dict() and 0 < state["overlap"] < state["drawn"]
    older = {key: value for key, value in state.items() if key not in ("overlap", "drawn")}
    source.load_state_dict(older)
    assert (source.overlap, source.drawn) == (0, 0), "a state of before they were counted"
    for wrong in ({"overlap": -1}, {"overlap": 2, "drawn": 1}, {"drawn": 1.5}):
        with pytest.raises((UserError, ValueError), match="no counts"):
            source.load_state_dict(older | wrong)


def test_segments_keep_counts_only() -> None:
    source = SegmentSource(SEGMENTS, 4, 0, OUT)
    assert source.state_dict() == {"overlap": 0, "drawn": 0}
    source.load_state_dict({})
    with pytest.raises(ValueError, match="keep none"):
        source.load_state_dict({"mined": []})
