"""Ctrl-C, pressed twice too, ends a script with one line and exit code 130."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_twice_during_an_evaluation(pause: float, sudoku6_folder: Path, tmp_path: Path) -> None:
    """The second one comes while Python takes itself down, where it was a traceback, or an end by the signal."""
    words = [f"data_paths_test=[{sudoku6_folder}]", f"output={tmp_path}/x.json", "eval.max_steps=100000", "device=cpu"]
    script = [sys.executable, str(ROOT / "evaluate.py"), f"checkpoint={ROOT}/models/pretrained/sudoku6/best.pt"]
    process = subprocess.Popen([*script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert any(" supervision steps each: " in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()  # where signals are ignored, as in the background of a shell, it would run for hours
    assert process.returncode == 130 and said == "\ninterrupted\n"
    assert not (tmp_path / "x.json").exists()


def test_where_nothing_catches_it() -> None:
    """As while the packages are imported."""
    source = "import errors, os, signal, sys; errors.require_packages(); os.kill(os.getpid(), signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")
