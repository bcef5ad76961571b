"""The shell scripts: refusals in one line, pins, and the quickstart from end to end (shortened)."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.check_requirements import pins, unmet
from tests.python_server import PythonServer

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))


def bash(*words: str, cwd: Path = ROOT, **extra: str) -> subprocess.CompletedProcess[str]:
    names = [key for key in os.environ if key not in ("PYTHON", "NO_VENV") and not key.startswith("QUICKSTART_")]
    own = {key: os.environ[key] for key in names}
    return subprocess.run(["bash", *words], capture_output=True, text=True, cwd=cwd, env=own | extra, timeout=1200)


def copy_of_scripts(folder: Path) -> Path:
    """The scripts in a suite without .venv and without anything else."""
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def fake_python(folder: Path, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_syntax(script: Path) -> None:
    assert bash("-n", str(script)).returncode == 0
    if script.name != "environment.sh":  # it is sourced
        assert script.read_text().startswith("#!/usr/bin/env bash\n")
    text = script.read_text()
    assert "http" not in text and "index-url" not in text


def test_ci_entry_is_executable_and_runs_everything() -> None:
    entry = ROOT / ".ci" / "run"
    assert entry.stat().st_mode & stat.S_IXUSR
    assert "scripts/test.sh" in entry.read_text() and "--all" in entry.read_text()


@pytest.mark.parametrize("name", ["quickstart.sh", "test.sh"])
def test_help(name: str, tmp_path: Path) -> None:
    done = bash(str(ROOT / "scripts" / name), "--help", cwd=tmp_path)
    assert done.returncode == 0 and f"bash scripts/{name}" in done.stdout and "#" not in done.stdout


@pytest.mark.parametrize("words", [["ten"], ["0"], ["-5"], ["1.5"], ["10", "20"]])
def test_quickstart_arguments(words: list[str], tmp_path: Path) -> None:
    refused(bash(str(ROOT / "scripts" / "quickstart.sh"), *words, cwd=tmp_path))


@pytest.mark.parametrize("name", ["quickstart.sh", "test.sh"])
def test_python_is_checked_first(name: str, tmp_path: Path) -> None:
    suite = copy_of_scripts(tmp_path / "suite")
    script = str(suite / "scripts" / name)
    assert "no such program" in refused(bash(script, PYTHON="no-such-python"))
    old = fake_python(tmp_path / "old", '[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1')
    message = refused(bash(script, PYTHON=str(old)))
    assert "is Python 3.9.2; Python 3.11 or newer is needed" in message
    # A Python as Debian ships it, without ensurepip.
    bare = fake_python(tmp_path / "bare", f'case "$2" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"')
    assert "lacks venv (Debian, Ubuntu: apt install python3-venv)" in refused(bash(script, PYTHON=str(bare)))
    assert not (suite / ".venv").exists()


def test_what_is_in_the_way_is_kept(tmp_path: Path) -> None:
    suite = copy_of_scripts(tmp_path / "suite")
    (suite / ".venv").mkdir()
    (suite / ".venv" / "precious").write_text("mine")
    assert "is no virtual environment" in refused(bash(str(suite / "scripts" / "test.sh"), PYTHON=sys.executable))
    assert (suite / ".venv" / "precious").read_text() == "mine"


def test_no_venv_names_what_is_missing(tmp_path: Path) -> None:
    suite = copy_of_scripts(tmp_path / "suite")
    (suite / "requirements.txt").write_text("surely-not-installed==1.0\npip==0.0\n")
    done = bash(str(suite / "scripts" / "quickstart.sh"), PYTHON=sys.executable, NO_VENV="1")
    message = refused(done)
    assert "surely-not-installed==1.0 (not installed)" in message and "pip" not in message.split("lacks")[1]


def test_pins(tmp_path: Path) -> None:
    runtime = dict(pins(ROOT / "requirements.txt"))
    assert {"torch", "numpy", "hydra-core", "omegaconf", "matplotlib"} <= runtime.keys()
    development = dict(pins(ROOT / "requirements-dev.txt"))
    assert runtime.items() < development.items() and {"pytest", "ruff", "mypy"} <= development.keys()
    from importlib.metadata import version

    file = tmp_path / "r.txt"
    here = version("pytest")
    file.write_text(f"# comment\n\npytest=={here}  # reason\nnumpy==0.0.1\nno-such-package==1\n")
    assert unmet(file) == [f"numpy==0.0.1 (found {version('numpy')})", "no-such-package==1 (not installed)"]
    assert unmet(file, any_version=True) == ["no-such-package==1 (not installed)"]
    file.write_text("numpy>=1\n")
    with pytest.raises(ValueError, match="is no pin"):
        pins(file)


def test_quickstart_makes_as_many_puzzles_as_its_records_have(tmp_path: Path) -> None:
    """On a CPU, where nobody asks for others: the words of the builder. Nothing is built, nor torch imported."""
    body = (
        f'case "$*" in *build_sudoku*) echo "$@"; exit 1 ;; *"import torch"*) exit ;; esac\nexec {sys.executable} "$@"'
    )
    places = {"QUICKSTART_DATA": str(tmp_path / "data"), "QUICKSTART_RUN": str(tmp_path / "run")}
    env = places | {"PYTHON": str(fake_python(tmp_path / "fake", body)), "NO_VENV": "1", "QUICKSTART_DEVICE": "cpu"}
    done = bash(str(ROOT / "scripts" / "quickstart.sh"), cwd=tmp_path, **env)
    assert done.returncode == 1
    assert done.stdout.endswith(" --generate 6x6 --num-train 2560 --test-size 1000\n"), done.stdout + done.stderr
    message = refused(bash(str(ROOT / "scripts" / "quickstart.sh"), QUICKSTART_TEST_PUZZLES="few"))
    assert "QUICKSTART_TEST_PUZZLES is 'few'" in message


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_quickstart_runs_and_goes_on(python_server: PythonServer, tmp_path: Path) -> None:
    places = {
        "PYTHON": str(python_server.python),
        "NO_VENV": "1",
        "QUICKSTART_DATA": str(tmp_path / "data"),
        "QUICKSTART_RUN": str(tmp_path / "a run"),
        "QUICKSTART_DEVICE": "cpu",
        "QUICKSTART_TEST_PUZZLES": "100",
        "QUICKSTART_LYAPUNOV": "16",
        "OMP_NUM_THREADS": "1",
    }
    script = str(ROOT / "scripts" / "quickstart.sh")
    first = bash(script, "10", cwd=tmp_path, **places)
    assert first.returncode == 0, first.stdout + first.stderr
    for words in (
        "exact_accuracy ",
        " puzzles that it never saw are solved",
        "predict.py checkpoint=",
        "+experiment=trm_sudoku_mlp",
    ):
        assert words in first.stdout
    run = tmp_path / "a run"
    for name in ("best.pt", "evaluation_best.json", "figures/training_curve.png", "figures/step_by_step.png"):
        assert (run / name).stat().st_size > 0
    measured = json.loads((run / "lyapunov" / "summary.json").read_text())["runs"][0]
    assert measured["n"] == 16 and (run / "lyapunov" / "lambda1_success_failure.png").stat().st_size > 0
    record = json.loads((run / "evaluation_best.json").read_text())
    assert [result["exact_accuracy"]["denominator"] for result in record["results"]] == [80, 20]
    assert json.loads((run / "summary.json").read_text())["steps"] == 10
    own = {run / "lyapunov" / "my_notes.md": "mine", run / "lyapunov" / "lambda1_success_failure.txt": "edited"}
    for path, text in own.items():
        path.write_text(text)
    again = bash(script, QUICKSTART_UPDATES="20", cwd=tmp_path, **places)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "already built" in again.stdout and "going on from" in again.stdout
    assert json.loads((run / "summary.json").read_text())["steps"] == 20
    (moved,) = run.glob("earlier_*/lyapunov")
    assert f"of the weights of before, with all that lay beside it: {moved}" in again.stdout
    assert {path.name: (moved / path.name).read_text() for path in own} == {path.name: own[path] for path in own}
    assert (moved / "spectrum.npz").is_file() and (moved / "summary.json").is_file()
    later = json.loads((run / "lyapunov" / "summary.json").read_text())["runs"][0]
    assert later["settings"]["weights_sha256"] == hashlib.sha256((run / "best.pt").read_bytes()).hexdigest()
