"""The benchmark of the Syracuse map: what it counts, checks and writes. No test asserts a time."""

import json
from pathlib import Path
from typing import Any

import pytest

from projects.collatz import benchmark as benchmark_collatz
from projects.collatz import limbs as collatz_limbs
from projects.collatz.benchmark import GOALS, LOADERS, STEPS, cases, format_loaders, format_table, main

TINY = ["--repeats", "2", "--scale", "0.001"]


@pytest.fixture
def no_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call takes half a second, by the clock."""

    def timed(call: Any, repeats: int, device: Any, calls: int = 1) -> benchmark_collatz.Timing:
        call()
        return benchmark_collatz.Timing.of([0.5] * repeats)

    monkeypatch.setattr(benchmark_collatz, "timed", timed)


def test_the_record(tmp_path: Path, no_seconds: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speed.json"
    assert main([*TINY, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["environment"].keys() >= {"argv", "commit", "dirty", "cpu", "num_threads", "seed"}
    rates = {timed["name"]: timed for timed in record["rates"]}
    assert GOALS.keys() < rates.keys()
    for timed in rates.values():
        assert timed["steps_per_second"] == timed["steps"] / 0.5 and timed["seconds"]["count"] == 2
        assert timed["goal"] == GOALS.get(timed["name"])
    words = rates["words, 48 bits"]
    assert words["steps"] == STEPS * words["rows"] and words["rows"] == 262
    loaders = {timed["name"]: timed for timed in record["loaders"]}
    assert loaders.keys() == LOADERS.keys()
    for timed in loaders.values():
        # The clock gives half a second to the update, and to one batch: a scale of 0.001 leaves one a call.
        assert timed["update_seconds"]["median"] == timed["load_seconds"]["median"] == 0.5 and timed["share"] == 0.5
    assert loaders["orbit, lookahead 20"]["rows"] == 32 and loaders["faithful, lookahead 10"]["rows"] == 1024
    printed = capsys.readouterr().out
    assert printed == format_table(record["rates"]) + "\n" + format_loaders(record["loaders"]) + "\n"
    assert "batch of orbit, lookahead 20: 500.00 ms, 50 % of it and its update (500.0 ms)" in printed


def test_goals(no_seconds: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With half a second for few rows all are missed; without --goals that is no failure."""
    assert main([*TINY, "--goals"]) == 1
    assert capsys.readouterr().err == "below their goal: words, 48 bits; limbs, 64 bits; limbs, 128 bits\n"
    monkeypatch.setattr(benchmark_collatz, "GOALS", dict.fromkeys(GOALS, 1.0))
    assert main([*TINY, "--goals"]) == 0


def test_a_wrong_number_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = collatz_limbs.advance

    def wrong(limbs: Any, steps: int) -> Any:
        result = original(limbs, steps)
        result[0, 3] ^= 2
        return result

    monkeypatch.setattr(collatz_limbs, "advance", wrong)
    with pytest.raises(AssertionError, match=r"T\^20\(\d+\) is not"):
        cases(0.001)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--repeats", "0"], "--repeats 0: expected at least 1"),
        (["--scale", "0"], "--scale 0: expected a number above 0"),
        (["--scale", "nan"], "--scale nan: expected a number above 0"),
        (["--json", "none/speed.json"], "there is no such folder"),
    ],
)
def test_bad_options(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        main(words)
    lines = capsys.readouterr().err.splitlines()
    assert leaving.value.code == 2 and len(lines) == 1 and expected in lines[0]
