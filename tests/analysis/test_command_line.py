"""Where measurements may write."""

from pathlib import Path

import pytest

from analysis.rollouts import q_head_vs_stability
from analysis.spectra import lyapunov_spectrum
from tests.helpers import refused_line


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("all_config.yaml", "summary.json", "best.pt"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("script", [lyapunov_spectrum, q_head_vs_stability], ids=lambda script: script.__name__)
def test_no_folder_of_a_run_takes_results(script: object, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused_line(capsys, script.main, ["--checkpoint", run / "best.pt", "--out", run])  # type: ignore[attr-defined]
    assert f"{run} is the folder of a run, whose summary.json would be replaced; name another, such as {run}/" in line
    assert (run / "summary.json").read_text() == "summary.json"
