"""Closed forms: their theorems on integers, their values by a second route, and what residues alone decide."""

import math
from fractions import Fraction
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects.collatz.bounds import bounds_at, probability_of_rise, probability_of_staying_above
from projects.collatz.closed_forms import (
    CLOSED_FORMS,
    GAMMA,
    Anchor,
    Average,
    ClosedForm,
    LogN,
    Maximum,
    MaximumAt,
    Minimum,
    Tilted,
    margins,
)
from projects.collatz.syracuse import orbit
from projects.collatz.windows import Windows, orbit_windows, windows_of
from tests.projects.collatz.numbers_drawn import glide, naive_steps, odd_numbers

above_one = odd_numbers.filter(lambda n: n > 1)
lookaheads = st.integers(1, 30)


def window(number: int, lookahead: int) -> Windows:
    (only,) = windows_of([number], lookahead)
    return only


def violates(form: ClosedForm, number: int, lookahead: int) -> bool:
    return bool(form.violations(window(number, lookahead))[0])


# -- the theorems, with V itself in exact integers


@given(above_one, lookaheads)
def test_minimum_is_the_lexicographic_one(number: int, lookahead: int) -> None:
    """V = (smallest of n..T^L(n), its first place), compared lexicographically."""
    states, _ = naive_steps(number, lookahead + 1)

    def value(window: list[int]) -> tuple[int, int]:
        return min(window), window.index(min(window))

    here, there = value(states[:-1]), value(states[1:])
    assert violates(Minimum(), number, lookahead) == (there >= here) == (glide(number) > lookahead + 1)


@given(above_one, lookaheads)
def test_maximum_is_the_lexicographic_one(number: int, lookahead: int) -> None:
    """V = (largest of n..T^L(n), its last place): gamma j prefers the later of equals."""
    states, _ = naive_steps(number, lookahead + 1)

    def value(window: list[int]) -> tuple[int, int]:
        return max(window), max(place for place, state in enumerate(window) if state == max(window))

    here, there = value(states[:-1]), value(states[1:])
    assert violates(Maximum(), number, lookahead) == (there >= here)


@given(above_one, lookaheads)
def test_average_is_a_comparison_of_the_ends(number: int, lookahead: int) -> None:
    """The mean of logarithms falls iff the product of the states does."""
    states, _ = naive_steps(number, lookahead + 1)
    assert violates(Average(), number, lookahead) == (math.prod(states[1:]) >= math.prod(states[:-1]))


@given(above_one, lookaheads)
def test_ln_n_fails_on_growth(number: int, lookahead: int) -> None:
    assert violates(LogN(), number, lookahead) == (naive_steps(number, 1)[0][1] > number)


def test_margins_agree_with_the_exact_verdicts() -> None:
    """Real-valued with a tiny gamma, in float64: the same steps, wherever the margin is not lost in rounding."""
    random = Random(5)
    numbers = [random.getrandbits(random.randint(3, 200)) | 5 for _ in range(4000)]
    for lookahead in (1, 10, 25):
        (windows,) = windows_of(numbers, lookahead)
        for form in (LogN(), Average(), Minimum(), Maximum()):
            margin = margins(form, windows)
            clear = np.abs(margin) > GAMMA / 4
            assert clear.mean() > 0.999, form.name
            assert np.array_equal(form.violations(windows)[clear], (margin < 0)[clear]), form.name


# -- values by plain Python


def in_python(name: str, states: list[int], valuations: list[int]) -> float:
    logs = [math.log(state) for state in states]
    steps = len(valuations)
    slope = max(0.0, (logs[-1] - logs[0]) / steps)
    kind, _, number = name.rpartition("_")
    heights = [log - float(number) * slope * j for j, log in enumerate(logs)] if "_t" in name else []
    if name == "V_avg":
        return sum(logs) / len(logs)
    if kind == "V_max":
        return max(log + float(number) * j for j, log in enumerate(logs))
    if kind == "anchor":
        beta = math.log(2) if number == "ln2" else float(number)
        return logs[0] + beta * (steps * math.log(3) / math.log(2) - sum(valuations))
    if kind == "V_tmin":
        return logs[heights.index(min(heights))] + heights.index(min(heights)) / 1000
    if kind == "V_tmax":
        return logs[heights.index(max(heights))] + heights.index(max(heights)) / 1000
    raise AssertionError(name)


FLOATS: list[ClosedForm] = [
    Average(), MaximumAt(0.001), Anchor(0.35, "anchor_0.35"), Anchor(math.log(2), "anchor_ln2"),
    Tilted(np.argmin, 1.0), Tilted(np.argmin, 1.2), Tilted(np.argmax, 1.0), Tilted(np.argmin, 0.7),
]  # fmt: skip


@pytest.mark.parametrize("form", FLOATS, ids=lambda form: form.name)
def test_values_by_plain_python(form: ClosedForm) -> None:
    random = Random(6)
    for _ in range(300):
        number, lookahead = random.getrandbits(random.randint(3, 200)) | 5, random.randint(1, 30)
        states, valuations = naive_steps(number, lookahead + 1)
        here = in_python(form.name, states[:-1], valuations[:-1])
        there = in_python(form.name, states[1:], valuations[1:])
        windows = window(number, lookahead)
        assert form.values(windows.logs[:, :-1], windows.valuations[:, :-1])[0] == pytest.approx(here, abs=1e-11)
        assert margins(form, windows)[0] == pytest.approx(here - there, abs=1e-11)
        if not isinstance(form, Average):
            assert form.violations(windows)[0] == (here - there < 1e-6)


def test_a_margin_of_almost_nothing_is_a_violation() -> None:
    logs = np.array([[5.0, 5.0 - 9e-7, 3.0]])
    windows = Windows(logs, np.array([[2, 1, 0]]), np.array([[1, 1]]), np.array([5]))
    assert 0 < margins(Anchor(0.0, "flat"), windows)[0] < 1e-6
    assert Anchor(0.0, "flat").violations(windows).tolist() == [True]
    assert LogN().violations(windows).tolist() == [False], "that is decided on the integers"


def test_names_are_distinct() -> None:
    names = [form.name for form in CLOSED_FORMS]
    assert len(set(names)) == len(names)
    assert {"V_avg", "V_min", "V_max", "V_tmin_1", "V_tmin_1.2", "V_tmax_1"} < set(names)


def test_nobody_decreases_along_a_long_growth() -> None:
    """On 2^m - 1 any alpha ln n + G(window) fails at least m - 1 - L times: m - 1 steps of k = 1 in a row."""
    ones, lookahead = 60, 20
    path = orbit(2**ones - 1)
    rising = orbit_windows(path, lookahead).cut(slice(0, ones - 1 - lookahead))
    assert np.all(rising.valuations[:, :lookahead] == 1)
    # At c = 1 all places of such a window are equally high but for rounding, which no exact function of it could use.
    for form in set(CLOSED_FORMS) - {Tilted(np.argmin, 1.0), Tilted(np.argmax, 1.0)}:
        assert form.violations(rising).all(), form.name


# -- on how large a range nothing is violated, and along the five orbits


def test_the_lookahead_from_which_small_numbers_are_free_of_violations() -> None:
    """V_min at lookahead L has none below 2^10 iff L + 1 is at least the longest glide there, 51."""
    numbers = list(range(3, 2**10, 2))
    for lookahead, expected in ((50, 0), (49, 1)):
        (windows,) = windows_of(numbers, lookahead)
        assert min(1, Minimum().violations(windows).sum()) == expected


@pytest.mark.parametrize(("form", "lookahead"), [(Average(), 129), (Minimum(), 110), (Maximum(), 46)])
def test_the_lookahead_from_which_the_five_orbits_are_free(form: ClosedForm, lookahead: int) -> None:
    def total(at: int) -> int:
        return sum(int(form.violations(orbit_windows(orbit(n), at)).sum()) for n in (111, 27, 703, 26623, 626331))

    assert total(lookahead) == 0 < total(lookahead - 1)


# -- rates


def by_enumeration(steps: int) -> tuple[Fraction, Fraction]:
    """p_+ and P(D) of so many steps, over all sequences: k above 2 m makes both events impossible."""
    rise, stay = Fraction(0), Fraction(0)
    for valuations in product(range(1, 2 * steps + 1), repeat=steps):
        chance = Fraction(1, 2 ** sum(valuations))
        sums = np.cumsum(valuations).tolist()
        rise += chance * (2 ** sums[-1] < 3**steps)
        stay += chance * all(2**total < 3**j for j, total in enumerate(sums, 1))
    return rise, stay


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_rates_by_enumeration(steps: int) -> None:
    assert (probability_of_rise(steps), probability_of_staying_above(steps)) == by_enumeration(steps)


def test_rates_are_those_of_all_residues() -> None:
    """All odd residues modulo 2^B, B above every sum of valuations that matters: shares, not samples.

    Counted on n = r + 2^B t with a large t, so that +1 does not matter. A window whose first 4 valuations reach beyond
    B - 1 bits has fallen already, whatever follows.
    """
    bits, lookahead = 14, 3
    numbers = [residue + 2**200 for residue in range(1, 2**bits, 2)]
    (windows,) = windows_of(numbers, lookahead)
    total = len(numbers)
    assert Fraction(int(Average().violations(windows).sum()), total) == probability_of_rise(lookahead + 1)
    assert Fraction(int(Minimum().violations(windows).sum()), total) == probability_of_staying_above(lookahead + 1)
    assert Fraction(int(Maximum().violations(windows).sum()), total) == probability_of_staying_above(lookahead + 1)


# L: rate of V_avg, of V_min and V_max, lower bound, in percent
TABLE = {
    10: ("16.62", "5.718", "1.510"),
    20: ("8.138", "1.769", "0.388"),
    30: ("4.272", "0.663", "0.138"),
    50: ("0.916", "0.120", "0.018"),
    100: ("0.0561", "0.0033", "0.00056"),
}


@pytest.mark.parametrize("lookahead", TABLE)
def test_table_of_rates(lookahead: int) -> None:
    bounds = bounds_at(lookahead)
    for text, value in zip(TABLE[lookahead], (bounds.rate_V_avg, bounds.rate_V_min, bounds.lower_bound), strict=True):
        decimals = len(text.split(".")[1])
        assert f"{100 * value:.{decimals}f}" == text


def test_a_lookahead_of_0_has_no_bounds() -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        bounds_at(0)
