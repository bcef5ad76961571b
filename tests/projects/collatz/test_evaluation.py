"""Counting violations: by hand on few rows, and every row of the published baselines on the 50,000."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from projects.collatz import evaluation as collatz_evaluation
from projects.collatz.baselines import ClosedFormRequest, closed_form_report
from projects.collatz.bounds import bounds_at
from projects.collatz.build_eval import main as build_eval
from projects.collatz.closed_forms import CLOSED_FORMS, ClosedForm, LogN, Maximum, Minimum
from projects.collatz.eval_file import EvalRows, read_eval_file
from projects.collatz.evaluation import judge_orbits, judge_rows, rates
from projects.collatz.syracuse import TEST_STARTS, orbit
from projects.collatz.windows import Windows
from training.records.result_numbers import wilson_interval

# Seven starts whose orbits meet those of the training seeds late only, and the steps of each.
FRESH = {1723519: 207, 8400511: 256, 63728127: 357, 670617279: 370, 989345275647: 506, 319804831: 218, 8528817511: 268}
# Lookahead and function: pass, weighted, growth, growth-weighted in percent; violations along the five orbits (111, 27,
# 703, 26623, 626331); along the fresh orbits. None where nothing was published.
Row = tuple[tuple[float, float, float, float], tuple[int, ...] | int, int | None]
PUBLISHED: dict[tuple[int, str], Row] = {
    (10, "ln_n"): ((50.14, 45.36, 0, 0), (14, 24, 37, 69, 111), None),
    (20, "ln_n"): ((50.14, 45.36, 0, 0), (14, 24, 37, 69, 111), None),
    (20, "anchor_0.35"): ((50.12, 46.72, 24.07, 23.81), (13, 25, 35, 69, 112), None),
    (20, "anchor_ln2"): ((51.24, 50.66, 50.88, 50.35), (2, 11, 24, 52, 96), None),
    (10, "V_avg"): ((83.48, 77.90, 77.42, 71.77), (7, 24, 20, 50, 75), None),
    (10, "V_max"): ((94.36, 92.02, 93.53, 91.15), (2, 9, 8, 18, 27), 427),
    (10, "V_tmin_1.2"): ((95.93, 95.05, 99.01, 98.55), (1, 3, 3, 9, 16), 200),
    (10, "V_tmax_1"): ((96.19, 95.07, 95.09, 94.10), (2, 3, 4, 9, 15), 192),
    (20, "V_avg"): ((91.69, 87.99, 89.10, 85.22), (0, 15, 24, 27, 51), None),
    (20, "V_min"): ((98.26, 97.00, 96.51, 94.51), (0, 7, 6, 14, 20), 297),
    (20, "V_max"): ((98.13, 97.15, 98.08, 97.12), (0, 5, 4, 11, 13), 280),
    (20, "V_tmin_1"): ((98.67, 98.09, 99.20, 98.76), (0, 2, 2, 5, 5), 107),
    (20, "V_tmin_1.2"): ((98.66, 98.18, 99.80, 99.65), (0, 2, 1, 5, 6), 117),
    (20, "V_tmax_1"): ((98.88, 98.42, 98.46, 97.96), (0, 5, 3, 8, 5), 108),
    # The published V_max of these two lookaheads is that of gamma = 0.001, not of the limit (99.24 and 185 at 30).
    (30, "V_max_0.001"): ((99.23, 98.82, 99.18, 98.77), (0, 1, 3, 0, 8), 188),
    (30, "V_tmin_1.2"): ((99.45, 99.20, 99.95, 99.90), (0, 1, 1, 0, 2), 77),
    (50, "V_max_0.001"): ((99.89, 99.81, 99.86, 99.78), 0, 97),
    (50, "V_max"): ((99.89, 99.82, 99.87, 99.79), 0, 97),
    (100, "V_min"): ((100, 100, 100, 100), (0, 0, 0, 0, 3), 83),
    (100, "V_max"): ((100.00, 100.00, 100.00, 100.00), 0, 7),
}
# The same where every n divisible by 3 passes, as it does for V + C [3 divides n] with a large C.
PUBLISHED_WITH_3 = {
    (10, "V_tmin_1.2"): (97.26, 96.65, 99.31, 98.99),
    (10, "V_tmax_1"): (97.44, 96.68, 96.77, 96.10),
    (20, "V_tmin_1.2"): (99.12, 98.80, 99.88, 99.79),
    (20, "V_tmax_1"): (99.29, 99.00, 99.03, 98.70),
}
SHARES = ("pass", "weighted_pass", "growth_pass", "growth_weighted_pass")


@pytest.fixture(scope="session")
def eval_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collatz") / "collatz_eval_50k.csv"
    build_eval(["--rows", "50000", "--seed", "42", "--output-csv", str(path)])
    return path


def percent(entry: dict[str, Any]) -> tuple[float, ...]:
    return tuple(round(100 * entry[share], 2) for share in SHARES)


@pytest.mark.parametrize("lookahead", [10, 20, 30, 50, 100])
def test_every_published_row(lookahead: int, eval_csv: Path) -> None:
    run = ClosedFormRequest(lookahead, (*TEST_STARTS, *FRESH), eval_csv, None)
    report = json.loads(json.dumps(closed_form_report(run), allow_nan=False))
    rows = {name: row for (at, name), row in PUBLISHED.items() if at == lookahead}
    assert rows
    for name, (shares, along, fresh) in rows.items():
        entry = report[name]
        assert entry["rows"] == 50_000 and percent(entry) == shares, name
        orbits = {int(start): count for start, count in entry["orbits"].items()}
        five = tuple(orbits[start]["violations"] for start in TEST_STARTS)
        assert (five if isinstance(along, tuple) else sum(five)) == along, name
        assert {start: orbits[start]["steps"] for start in FRESH} == FRESH
        if fresh is not None:
            assert sum(orbits[start]["violations"] for start in FRESH) == fresh, name
    if lookahead == 100:
        assert (report["V_min"]["violations"], report["V_max"]["violations"]) == (0, 1)


@dataclass(frozen=True)
class PassesMultiplesOf3:
    """V + C [3 divides n]: T(n) is never divisible by 3, so such n always pass."""

    form: ClosedForm
    divisible: list[bool]

    @property
    def name(self) -> str:
        return self.form.name

    def violations(self, windows: Windows) -> np.ndarray:
        divisible = np.array(self.divisible[: len(windows)])
        del self.divisible[: len(windows)]
        return self.form.violations(windows) & ~divisible


@pytest.mark.parametrize("lookahead", [10, 20])
def test_what_seeing_n_modulo_3_is_worth(lookahead: int, eval_csv: Path) -> None:
    rows = read_eval_file(eval_csv)
    divisible = [number % 3 == 0 for number in rows.numbers]
    forms = [PassesMultiplesOf3(form, list(divisible)) for form in CLOSED_FORMS]
    plain, helped = judge_rows(CLOSED_FORMS, rows, lookahead), judge_rows(forms, rows, lookahead)
    for (at, name), shares in PUBLISHED_WITH_3.items():
        if at == lookahead:
            assert percent(helped[name]) == shares, name
    for name, entry in helped.items():
        assert entry["violations"] == entry["free_violations"] == plain[name]["free_violations"]
        assert entry["free_pass"] == plain[name]["free_pass"], "what the rows not divisible by 3 say stays"


def test_rates_by_hand() -> None:
    numbers = [3, 5, 7, 9, 11]
    growth = np.array([True, False, True, False, True])
    weights = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    free = np.array([number % 3 != 0 for number in numbers])
    violations = np.array([True, False, True, False, False])
    shares = rates(violations, growth, weights, free)
    assert (shares["rows"], shares["violations"], shares["pass"]) == (5, 2, 0.6)
    assert shares["pass_interval"] == list(wilson_interval(3, 5))
    assert shares["weighted_pass"] == 11 / 15
    assert (shares["growth_rows"], shares["growth_pass"], shares["growth_weighted_pass"]) == (3, 1 / 3, 5 / 9)
    assert (shares["free_rows"], shares["free_violations"], shares["free_pass"]) == (3, 1, 2 / 3)
    none = rates(violations, np.zeros(5, bool), weights, free)
    assert none["growth_rows"] == 0 and none["growth_pass"] is None and none["growth_weighted_pass"] is None


def test_rows_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [number for number in range(3, 2003, 2)]
    rows = EvalRows(numbers, np.array([n % 4 == 3 for n in numbers]), np.linspace(1, 2, len(numbers)), "")
    whole = judge_rows(CLOSED_FORMS, rows, 8)
    monkeypatch.setattr("projects.collatz.windows.BLOCK", 37)
    assert judge_rows(CLOSED_FORMS, rows, 8) == whole
    assert whole["ln_n"]["violations"] == whole["ln_n"]["growth_rows"] == 500


def test_orbits(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = (27, 703, 1, 2**100 - 1)
    counts = judge_orbits([LogN(), Minimum(), Maximum()], starts, 20)
    for start in starts:
        path, count = orbit(start), counts["ln_n"][start]
        assert (count.steps, count.growth_steps, count.odd_max) == (path.steps, path.growth_steps, path.odd_max)
        assert count.violations == path.growth_steps
        longer = path.states + [1] * 21
        assert counts["V_min"][start].violations == sum(
            min(longer[j + 1 : j + 22]) >= longer[j] for j in range(path.steps)
        )
        assert counts["V_max"][start].violations == sum(
            longer[j + 21] > max(longer[j : j + 21]) for j in range(path.steps)
        )
    monkeypatch.setattr(collatz_evaluation, "BLOCK", 17)
    assert judge_orbits([LogN(), Minimum(), Maximum()], starts, 20) == counts
    with pytest.raises(ValueError, match="found 28"):
        judge_orbits([LogN()], [28], 5)


def test_rates_on_random_numbers_are_those_of_theory() -> None:
    """Random 200-bit numbers have the rates of theory, within 4.5 standard deviations."""
    random, count, lookahead = Random(9), 20_000, 20
    numbers = [random.getrandbits(200) | 1 for _ in range(count)]
    rows = EvalRows(numbers, np.zeros(count, bool), np.ones(count), "")
    judged, bounds = judge_rows(CLOSED_FORMS, rows, lookahead), bounds_at(lookahead)
    theory = {"V_avg": bounds.rate_V_avg, "V_min": bounds.rate_V_min, "V_max": bounds.rate_V_min, "ln_n": 0.5}
    for name, rate in theory.items():
        deviation = math.sqrt(rate * (1 - rate) / count)
        assert abs(judged[name]["violations"] / count - rate) < 4.5 * deviation, name
