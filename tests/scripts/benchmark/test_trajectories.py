"""The benchmark of K trajectories: what is counted, what is refused, what is written. No assertion on time."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from errors import UserError
from scripts.benchmark import trajectories as benchmark_trajectories
from scripts.benchmark.setup import compose_preset, data_shape
from scripts.benchmark.trajectories import kinds, measure_times
from scripts.record_sources import gathered
from tests.helpers import ROOT

TINY = {"device": "cpu", "global_batch_size": "2", "threads": "1", "arch.hidden_size": "16", "arch.num_heads": "2"}


@pytest.mark.parametrize("preset", ["smoke", "hrm_sudoku_6x6_cpu"])
def test_all_kinds_are_compared_at_equal_steps(preset: str) -> None:
    """Weights whose halting values differ from row to row would halt some of HRM's at once."""
    config = compose_preset(preset, TINY)
    steps = config.arch.halt_max_steps
    results = measure_times(config, data_shape(config, preset), 3, 2, halting=False)
    assert list(results) == list(kinds(3))
    learns_continue = not config.arch.no_ACT_continue
    for name, record in results.items():
        count = 1 if name in ("baseline_ce", "single_perturbed_ce") else 3
        assert record["passes"]["trained"] == 2 * count * steps
        assert record["passes"]["extra"] == (2 * count if learns_continue else 0)
        assert record["seconds"]["count"] == record["over_baseline"]["count"] == 2
    assert results["baseline_ce"]["over_baseline"]["median"] == 1.0


@pytest.fixture
def asked_processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Commands of the processes that measure memory; this process does what each is told to."""
    asked: list[list[str]] = []

    def run_here(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        code: object = 0
        try:
            benchmark_trajectories.main(command[2:])
        except SystemExit as leaving:
            code = leaving.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(command, code, *capsys.readouterr())

    monkeypatch.setattr(benchmark_trajectories, "subprocess", SimpleNamespace(run=run_here))
    return asked


def test_the_whole_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    asked_processes: list[list[str]],
) -> None:
    # One MiB more at each look: the growth of every kind is known.
    sizes = itertools.count(0, 1 << 20)
    monkeypatch.setattr(benchmark_trajectories, "peak_memory", lambda: {"rss_bytes": next(sizes)})
    file = tmp_path / "trajectories.json"
    options = [word for key, value in TINY.items() if "." in key or key == "threads" for word in (f"{key}={value}",)]
    words = [
        "--preset", "smoke", "--batch-size", "2", "--device", "cpu", "--num-trajectories", "2", "--repeats", "1",
        "--json", str(file), "--set", *options,
    ]  # fmt: skip
    benchmark_trajectories.main(words)
    program = [sys.executable, str(ROOT / "scripts" / "benchmark" / "trajectories.py")]
    assert asked_processes == [[*program, *words, "--memory-of", kind] for kind in kinds(2)]
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["update", *kinds(2)]
    record = json.loads(file.read_text())
    assert record["num_trajectories"] == 2 and record["batch_size"] == 2 and not record["halting"]
    assert record["environment"]["commit"] and list(tmp_path.iterdir()) == [file]
    found = gathered([file])
    assert found["seeds"] == [0] and found["dataset_hashes"] == ["synthetic"]
    numbers, what = {number.name: number.value for number in found["numbers"]}, "smoke (2 puzzles, K=2), parallel_fixed"
    kind = record["results"]["parallel_fixed"]
    assert found["numbers"][0].name == f"{what}: time over the clean unroll's (quartiles)"
    assert found["numbers"][0].value == pytest.approx(kind["over_baseline"]["median"], rel=1e-5)
    assert numbers[f"{what}: update (quartiles)"] == pytest.approx(1e3 * kind["seconds"]["median"], rel=1e-5)
    assert numbers[f"{what}: passes"] == kind["passes"]["trained"]
    for result in record["results"].values():
        assert result["peak_memory"] == {"kind": "resident_growth", "bytes": 1 << 20}
    assert numbers[f"{what}: peak memory"] == numbers[f"{what}: peak memory over the clean unroll's"] == 1


def test_memory_that_is_used_is_seen() -> None:
    """A larger batch takes more, by the measure that is taken in a process of its own."""
    sizes = []
    for size in (2, 128):
        argv = ["--preset", "smoke", "--device", "cpu", "--batch-size", str(size), "--set", "arch.hidden_size=64"]
        sizes.append(benchmark_trajectories.memory_in_a_process_of_its_own(argv, "parallel_fixed")["bytes"])
    hidden = 128 * 4 * 17 * 64 * 4  # one activation of all trajectories in float32
    assert sizes[1] - sizes[0] > 2 * hidden


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--num-trajectories", "1"], "expected at least 2"),
        (["--repeats", "0"], "--repeats 0"),
        (["--set", "arch.hidden_sise=3"], "arch.hidden_size"),
    ],
)
def test_mistakes(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        benchmark_trajectories.main(["--preset", "smoke", *argv])
    assert ending.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.usefixtures("asked_processes")
def test_a_failed_process_is_one_line() -> None:
    """With the last line that it said."""
    words = "peak memory of baseline_ce could not be measured: error: .*no_such_preset"
    with pytest.raises(UserError, match=words) as caught:
        benchmark_trajectories.memory_in_a_process_of_its_own(["--preset", "no_such_preset"], "baseline_ce")
    assert len(str(caught.value).splitlines()) == 1
