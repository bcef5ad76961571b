"""Numbers for records: rates with their interval, estimates, what is written of them."""

import math

import pytest
from scipy.special import ndtri
from scipy.stats import binomtest

from training.records.result_numbers import (
    Z_95,
    Number,
    command_of,
    commit_of,
    dataset_hashes,
    estimate,
    machine_of,
    quartiles,
    rate,
    record_entry,
    wilson_interval,
)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The textbook formula, as a second route."""
    z = 1.959963984540054
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - half, middle + half


@pytest.mark.parametrize(("successes", "n"), [(740, 1000), (0, 64), (64, 64), (1, 3), (24930, 50000)])
def test_a_rate_and_its_interval(successes: int, n: int) -> None:
    number = rate("a", successes, n, "final")
    low, high = wilson(successes, n)
    assert (number.value, number.of, number.unit, number.moment) == (100 * successes / n, n, "%", "final")
    assert [number.low, number.high] == pytest.approx([100 * low, 100 * high], abs=1e-10)
    assert number.numerator == successes and Number(**number.plain()).numerator == successes


def test_what_is_written_has_six_digits_and_nothing_unknown() -> None:
    number = Number("a", 100 / 3, None, 1474062000.44, n=5)
    assert number.plain() == {"name": "a", "value": 33.3333, "high": 1474062000.4, "n": 5}
    assert Number("a", 8.19e-7).plain()["value"] == 8.19e-7 and Number("a", 0.0).plain()["value"] == 0
    assert isinstance(Number("a", 97.0).plain()["value"], int) and Number("a", 123456789).plain()["value"] == 123456789


def test_estimates() -> None:
    found = {"mean": 0.5, "low": 0.25, "high": None, "n": 3}
    assert estimate("a", found, 100, "%", moment="peak") == [Number("a", 50, 25, None, n=3, unit="%", moment="peak")]
    assert estimate("a", {"value": 0.5}) == [Number("a", 0.5)]
    assert estimate("a", None) == estimate("a", {"value": None, "reason": "no failure"}) == []
    times = {"median": 0.25, "q1": 0.125, "q3": 0.5, "count": 9}
    assert quartiles("a", times, 1e3, "ms") == Number("a (quartiles)", 250, 125, 500, n=9, unit="ms")


def test_an_entry_has_short_hashes_each_once() -> None:
    entry = record_entry(
        [Number("a", 1)], config_hashes=["12" * 32, None, "12" * 32], datasets=["synthetic"], seeds=[1, None, 1, 0]
    )["record"]
    assert entry["config_hashes"] == ["121212121212"] and entry["dataset_hashes"] == ["synthetic"]
    assert entry["seeds"] == [1, 0] and entry["numbers"] == [{"name": "a", "value": 1}]


def test_where_a_result_comes_from() -> None:
    session = {"git": {"commit": "ab" * 20, "dirty": True}, "cpu": "A CPU", "num_threads": 1, "argv": ["x.py", "a b"]}
    assert commit_of(session) == "abababababab+dirty" and commit_of({"commit": "cd" * 20}) == "cdcdcdcdcdcd"
    assert commit_of({}) == commit_of({"git": 3}) == "unknown"
    assert machine_of(session) == "1× A CPU (1 thread)"
    assert machine_of(session | {"gpu": "A GPU", "num_threads": 2, "world_size": 4}) == "4× A GPU (2 threads)"
    assert command_of({}) == "", "runs of other programs"
    assert command_of(session) == "python x.py 'a b'"
    assert command_of(session | {"world_size": 2}) == "torchrun --nproc-per-node 2 x.py 'a b'"
    assert dataset_hashes({"a": ["12" * 32, 5, None], "b": {"path": "data", "c": "34" * 20}}) == ["12" * 32, "34" * 20]


def test_intervals_have_the_bits_of_scipy() -> None:
    """Which is not imported for them."""
    assert Z_95 == ndtri(0.975)
    for total in (1, 2, 3, 7, 64, 1000):
        for successes in {0, 1, total // 3, total // 2, total - 1, total}:
            interval = binomtest(successes, total).proportion_ci(0.95, method="wilson")
            assert wilson_interval(successes, total) == (interval.low, interval.high)
    with pytest.raises(ValueError):
        wilson_interval(3, 2)
