"""Facts of orbits by plain loops, records by brute force, the best small windows by other routes, its files."""

import csv
import json
import math
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from projects.collatz.bounds import bounds_at
from projects.collatz.hard_pool import TRAINING_SEEDS
from projects.collatz.report import orbits as collatz_orbits
from projects.collatz.report.orbit_facts import (
    CORRECTION,
    SOURCE_TABLE,
    SOURCE_VIOLATIONS,
    at_least_as_long,
    odd_step_counts,
    orbit_facts,
    record_starts,
)
from projects.collatz.report.orbits import closed_form_rows
from projects.collatz.report.small_windows import CAP, BestWindows, best_windows
from projects.collatz.samples import orbit_states
from projects.collatz.syracuse import TEST_STARTS
from scripts.record_sources import gathered


def full_orbit(number: int) -> list[int]:
    """The map with 3n + 1 and halvings as steps, down to 1."""
    numbers = [number]
    while numbers[-1] != 1:
        numbers.append(3 * numbers[-1] + 1 if numbers[-1] % 2 else numbers[-1] // 2)
    return numbers


def odd_orbit(number: int) -> list[int]:
    return [visited for visited in full_orbit(number) if visited % 2]


# -- facts


@pytest.mark.parametrize("start", [3, 7, *TEST_STARTS, 8400511])
def test_facts_by_plain_loops(start: int) -> None:
    facts, full, odd = orbit_facts(start, [1, 10, 20, 30]), full_orbit(start), odd_orbit(start)
    assert (facts.steps, facts.full_steps) == (len(odd) - 1, len(full) - 1)
    assert (facts.odd_max, facts.full_max) == (max(odd), max(full))
    assert facts.growth_steps == sum(after > before for before, after in zip(odd, odd[1:], strict=False))
    assert facts.halvings == sum(visited % 2 == 0 for visited in full[:-1])
    assert facts.mean_valuation == facts.halvings / facts.steps
    padded = odd + [1] * 40
    for lookahead, rising in facts.rising.items():
        assert rising == sum(padded[i + lookahead + 1] >= padded[i] for i in range(facts.steps))
    trained = {visited for seed in TRAINING_SEEDS for visited in full_orbit(seed)[:300] if visited % 2 and visited > 1}
    assert facts.trained_on == len(set(odd) & trained)


def test_one_has_no_facts() -> None:
    for start in (1, 4, 0, -3):
        with pytest.raises(ValueError):
            orbit_facts(start, [1])


def test_the_entry_of_27_mixes_two_maps_and_no_other_does() -> None:
    """Lengths count terms; ratios and all maxima but one are of the odd-only map."""
    for start, (terms, maximum, ratio) in SOURCE_TABLE.items():
        facts = orbit_facts(start, [])
        assert terms == facts.steps + 1 and ratio == round(facts.odd_ratio, 1)
        assert maximum == (facts.full_max if start == 27 else facts.odd_max)
    facts = orbit_facts(27, [])
    assert facts.odd_max == 3077 and facts.full_max == 9232 and f"{facts.full_ratio:.1f}" in CORRECTION
    # The totals that the source's log states for these runs.
    assert [sum(violations.values()) for violations in SOURCE_VIOLATIONS.values()] == [64, 58]
    assert all(tuple(violations) == TEST_STARTS for violations in SOURCE_VIOLATIONS.values())


def test_records_by_brute_force() -> None:
    counts = odd_step_counts(4000)
    plain = [len(odd_orbit(number)) - 1 for number in range(1, 4000, 2)]
    assert counts.tolist() == plain
    records, best = [], 0
    for number, steps in zip(range(1, 4000, 2), plain, strict=True):
        if steps > best:
            records.append(number)
            best = steps
    assert record_starts(counts) == records and {27, 703} <= set(records) and 111 not in records
    longer = at_least_as_long(counts, [3, 27, 111, 3999, 4001])
    assert longer == {3: 1, 27: 1, 111: sum(steps >= plain[55] for steps in plain[:56]), 3999: longer[3999], 4001: None}


def test_the_hard_starts_are_records() -> None:
    records = record_starts(odd_step_counts(1 << 20))
    assert {703, 26623, 626331} <= set(records)


@pytest.mark.parametrize("limit", [0, 1, (1 << 24) + 1])
def test_limits_of_records(limit: int) -> None:
    with pytest.raises(ValueError, match="expected 2 to"):
        odd_step_counts(limit)


# -- closed forms


def test_lookahead_30_as_published_and_growth_apart_from_decay() -> None:
    """Counts at lookahead 30 stand in the notes on the source; V_min can fail growth steps only, by its theorem."""
    states = orbit_states(8, 5)
    rows = {row["function"]: row for row in closed_form_rows(30, states)}
    assert rows["V_max"]["orbit_violations"] == 12 and rows["V_tmin_1.2"]["orbit_violations"] == 4
    assert rows["V_max_0.001"]["fresh_violations"] == 188 and rows["V_tmin_1.2"]["fresh_violations"] == 77
    for row in rows.values():
        assert row["growth_violations"] + row["decay_violations"] == row["violations"] <= row["steps"] == len(states)
        assert row["growth_steps"] + row["decay_steps"] == row["steps"] and row["low"] <= row["rate"] <= row["high"]
    assert rows["V_min"]["decay_violations"] == 0 < rows["V_min"]["violations"]
    assert rows["ln_n"]["growth_violations"] == rows["ln_n"]["growth_steps"] and rows["ln_n"]["decay_violations"] == 0


# -- the best V of small windows


def chance(window: tuple[int, ...]) -> float:
    return math.prod(2.0 ** -(k - 1 if k == CAP else k) for k in window)


def heights(lookahead: int, violated: set[tuple[int, ...]]) -> dict[tuple[int, ...], float] | None:
    """G such that log2 n + G falls on every window that is not violated; None where there is none."""
    windows = [window for window in product(range(1, CAP + 1), repeat=lookahead + 1) if window not in violated]
    heights_of = {window: 0.0 for window in product(range(1, CAP + 1), repeat=lookahead)}
    slack = 1e-6
    for _ in range(len(heights_of) + 1):
        still = True
        for window in windows:
            needed = heights_of[window[1:]] + math.log2(3) - window[0] + slack
            if heights_of[window[:-1]] < needed - 1e-12:
                heights_of[window[:-1]] = needed
                still = False
        if still:
            return heights_of
    return None


def test_lookahead_1_against_all_sets_of_windows() -> None:
    """All 512 of them: the cheapest for which some G exists."""
    windows = list(product(range(1, CAP + 1), repeat=2))
    for weight in (0.5, 1.0, 10.0):
        costs = {window: chance(window) * (weight if window[0] == 1 else 1.0) for window in windows}
        fitting = [
            sum(costs[window] for window in chosen)
            for mask in range(1 << len(windows))
            for chosen in [{window for place, window in enumerate(windows) if mask >> place & 1}]
            if heights(1, chosen) is not None
        ]
        best = best_windows(1, weight)
        assert weight * best.growth + best.decay == pytest.approx(min(fitting), abs=1e-12)


@pytest.mark.parametrize(("lookahead", "weight"), [(2, 1.0), (2, 10.0), (3, 1.0), (3, 10.0)])
def test_against_an_integer_program_on_heights(lookahead: int, weight: float) -> None:
    """A second formulation: heights G as unknowns, a violated window lifting its inequality by a large number."""
    windows = list(product(range(1, CAP + 1), repeat=lookahead + 1))
    places = {node: place for place, node in enumerate(product(range(1, CAP + 1), repeat=lookahead))}
    lift, slack, nodes = 40.0, 1e-4, len(places)
    matrix, right = np.zeros((len(windows), nodes + len(windows))), np.zeros(len(windows))
    for row, window in enumerate(windows):
        matrix[row, places[window[1:]]] += 1
        matrix[row, places[window[:-1]]] -= 1
        matrix[row, nodes + row] = -lift
        right[row] = window[0] - math.log2(3) - slack
    costs = [0.0] * nodes + [chance(window) * (weight if window[0] == 1 else 1.0) for window in windows]
    kinds = [0] * nodes + [1] * len(windows)
    limits = Bounds([-lift / 4] * nodes + [0] * len(windows), [lift / 4] * nodes + [1] * len(windows))
    optimum = milp(costs, constraints=LinearConstraint(matrix, -np.inf, right), integrality=kinds, bounds=limits)
    best = best_windows(lookahead, weight)
    assert optimum.success and weight * best.growth + best.decay == pytest.approx(optimum.fun, abs=1e-9)


@pytest.fixture(scope="module")
def weighted() -> list[BestWindows]:
    return [best_windows(lookahead, 10.0) for lookahead in (1, 2, 3, 4)]


def test_a_weight_of_ten_leaves_growth_only_what_is_forced(weighted: list[BestWindows]) -> None:
    """All other violations move to decay steps; the sum does not fall below what equal weights reach."""
    for best in weighted:
        assert best.growth == best.forced_growth == 2.0 ** -(best.lookahead + 1)
        ones = (1,) * (best.lookahead + 1)
        assert ones in best.violated and all(window == ones or window[0] > 1 for window in best.violated)
    for best in weighted[:3]:
        equal = [best_windows(best.lookahead, 1.0, prefer_growth=prefer) for prefer in (False, True)]
        assert equal[0].rate == equal[1].rate <= best.rate
        assert equal[0].growth <= equal[1].growth and best.growth <= equal[0].growth
        bounds = bounds_at(best.lookahead)
        assert bounds.lower_bound <= equal[0].rate <= bounds.rate_V_min


def test_the_set_belongs_to_a_function_that_falls_elsewhere(weighted: list[BestWindows]) -> None:
    """On real numbers of 400 bits: log2 n + G falls on every step whose window is not in the set."""
    random = Random(4)
    for best in weighted:
        values = heights(best.lookahead, set(best.violated))
        assert values is not None
        bad = 0
        for _ in range(400):
            number = random.getrandbits(400) | 1 << 399 | 1
            states, ks = [number], []
            for _ in range(best.lookahead + 1):
                tripled = 3 * states[-1] + 1
                ks.append((tripled & -tripled).bit_length() - 1)
                states.append(tripled >> ks[-1])
            window = tuple(min(k, CAP) for k in ks)
            if window in best.violated:
                bad += 1
                continue
            gain = math.log2(states[1]) - math.log2(states[0])
            assert gain + values[window[1:]] - values[window[:-1]] < 0
        assert bad / 400 == pytest.approx(best.rate, abs=4 * math.sqrt(best.rate / 400))


@pytest.mark.parametrize(("lookahead", "weight"), [(0, 1.0), (5, 1.0), (2, 0.0), (2, -1.0), (2, math.nan)])
def test_what_is_not_searched(lookahead: int, weight: float) -> None:
    with pytest.raises(ValueError, match="expected 1 to 4, above 0"):
        best_windows(lookahead, weight)


# -- the script


def test_the_files_and_their_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path), "--lookaheads", "5,20", "--starts", "2", "--small", "2"]
    collatz_orbits.main(words)
    printed = capsys.readouterr().out
    assert (tmp_path / "collatz_orbits.txt").read_text().strip() in printed
    report = json.loads((tmp_path / "collatz_orbits.json").read_text())
    assert report["command"] == f"python projects/collatz/report/orbits.py {' '.join(words)}"
    assert {row["start"]: row["at_least_as_long"] for row in report["orbits"]}[626331] == 1
    assert report["environment"].keys() >= {"commit", "dirty", "cpu"} and report["sample"]["starts"] == 2
    with (tmp_path / "collatz_orbits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["lookahead"], row["function"]) for row in rows if row["function"] == "V_max"] == [
        ("5", "V_max"),
        ("20", "V_max"),
    ]
    (row,) = (row for row in rows if row["function"] == "V_max" and row["lookahead"] == "20")
    assert row["orbit_violations"] == "33"
    found = gathered([tmp_path / "collatz_orbits.json"])
    numbers = {number.name: number for number in found["numbers"]}
    assert numbers["orbit of 626331: steps"].value == 189 and numbers["orbit of 626331: mean k"].value == 1.68783
    assert numbers["L=20 V_max: violated steps of five orbits"].numerator == 33
    best = "best V at L=2: violated steps"
    assert [numbers[best + words].value for words in (
        "", ", growth steps at 10:1", ", growth steps at 10:1, of growth", ", growth steps at 10:1, of decay"
    )] == [21.875, 21.875, 12.5, 9.375]  # fmt: skip
    fewest = min(number.value for name, number in numbers.items() if name.endswith("violated on-orbit steps"))
    assert found["numbers"][0].value == fewest
    assert found["findings"][-1].startswith("626331 has the most steps")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--lookaheads", "0"], "'0' is not a whole number from 1 to 1000"),
        (["--lookaheads", "ten"], "'ten' is not a whole number from 1 to 1000"),
        (["--lookaheads", "10,"], "'' is not a whole number"),
        (["--starts", "0"], "--starts 0: expected 1 to 100,000"),
        (["--small", "5"], "--small 5: expected 1 to 4"),
    ],
)
def test_mistakes(words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        collatz_orbits.main(["--out", str(tmp_path / "new"), *words])
    assert leaving.value.code == 2 and expected in capsys.readouterr().err and not (tmp_path / "new").exists()
