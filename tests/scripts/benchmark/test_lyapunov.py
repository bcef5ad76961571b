"""The benchmark of Lyapunov spectra: what its numbers are of, and that a straight line is told from a curve."""

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.benchmark import lyapunov as benchmark_lyapunov
from scripts.benchmark.lyapunov import straight_line

PRESET = ["--preset", "trm_att_sudoku_6x6_cpu", "--shape", "sudoku4x4", "--batch-size", "2", "--repeats", "1",
          "--device", "cpu", "--set", "arch.hidden_size=16", "arch.num_heads=2"]  # fmt: skip


def test_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark_lyapunov.main([*PRESET, "--num-exponents", "3", "--json", str(tmp_path / "record.json"),
                             "--set", "arch.mlp_t=True", "arch.pos_encodings=none"])  # fmt: skip
    result = json.loads((tmp_path / "record.json").read_text())["result"]
    assert result["sub_updates"] == 6 and result["state_size"] == 2 * 17 * 16
    assert result["flops_ratio"] == 4  # token mixing is linear maps alone: one product each for state and tangents
    assert result["over_floor"] == pytest.approx(result["seconds"]["engine"]["median"] / result["floor_seconds"])
    assert "operations / state's (k + 2 = 5)" in capsys.readouterr().out


def test_growth_is_drawn(tmp_path: Path) -> None:
    benchmark_lyapunov.main([*PRESET, "--num-exponents", "2", "--growth", "--output-dir", str(tmp_path)])
    assert (tmp_path / "lyapunov_cost.png").stat().st_size > 0
    lines = (tmp_path / "lyapunov_cost.csv").read_text().splitlines()
    assert len(lines) == 1 + len(benchmark_lyapunov.GROWTH_K) + len(benchmark_lyapunov.GROWTH_STEPS)


def test_straight_line() -> None:
    x = [1, 2, 4, 8]
    line = straight_line(x, [3 + 2 * value for value in x])
    assert line["slope"] == pytest.approx(2) and line["intercept"] == pytest.approx(3)
    assert line["r_squared"] == pytest.approx(1)
    assert straight_line(x, list(np.square(x) ** 2))["r_squared"] < 0.9


@pytest.mark.parametrize(
    ("options", "says"), [(["--num-exponents", "0"], "at least 1"), (["--growth"], "--output-dir DIR")]
)
def test_refusals(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        benchmark_lyapunov.main([*PRESET, *options])
    assert caught.value.code == 2 and says in capsys.readouterr().err
