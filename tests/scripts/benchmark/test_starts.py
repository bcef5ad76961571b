"""The benchmark of starts: what is run, what is written, what is refused. No assertion on time."""

import json
from pathlib import Path

import pytest

from errors import UserError
from scripts.benchmark import starts
from scripts.record_sources import gathered


def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, script = tmp_path / "starts.json", "dataset/build_sudoku_dataset.py"
    starts.main(["--script", script, "--repeats", "1", "--json", str(file)])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["script", "torch", script]
    found = json.loads(file.read_text())["results"][script]
    assert found["help"]["count"] == found["import"]["count"] == 1 and found["import"]["median"] > 0
    first = gathered([file])["numbers"][0]
    assert first.name == f"{script}: import over torch's (quartiles)"
    assert first.value == pytest.approx(found["over_torch"]["median"], rel=1e-5)


@pytest.mark.parametrize("script", ["none.py", "README.md", "../x.py"])
def test_a_script_that_is_not_there_is_refused(script: str) -> None:
    with pytest.raises(SystemExit) as leaving:
        starts.main(["--script", script])
    assert leaving.value.code == 2


def test_a_script_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "words_of", lambda command: ["false"])
    with pytest.raises(UserError, match="torch import ended with exit code 1"):
        starts.cpu_seconds(starts.TORCH)


def test_the_scripts_are_there() -> None:
    assert all((starts.ROOT / script).is_file() for script in starts.SCRIPTS)
