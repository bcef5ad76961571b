"""A project is found by its folder: without it everything else works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT
from training.projects import offered


def test_the_core_trains_without_a_project_s_folder(tmp_path: Path) -> None:
    assert offered() == ["collatz"]
    suite = tmp_path / "suite"
    # Copied with their times, so that what is compiled already is not compiled again.
    hidden = shutil.ignore_patterns(".git", ".venv", "runs", "data", "checkpoints", "tests", "collatz")
    shutil.copytree(ROOT, suite, ignore=hidden)
    (suite / "projects" / "collatz" / "__pycache__").mkdir(parents=True)  # what a change of branch leaves
    env = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], cwd=suite, env=env, capture_output=True, text=True, timeout=240)

    data = ["--output-dir", "data/smoke", "--generate", "4x4", "--num-train", "16", "--test-size", "12"]
    assert run("dataset/build_sudoku_dataset.py", *data).returncode == 0
    done = run("pretrain.py", "+experiment=smoke", "data_paths=[data/smoke]", "max_steps=2", "checkpoint_path=run")
    assert done.returncode == 0, done.stderr
    assert (suite / "run" / "final.pt").is_file()
    assert "collatz" not in (suite / "run" / "all_config.yaml").read_text()
    refused = run("pretrain.py", "+experiment=smoke", "+collatz.preset=orbit")
    assert refused.returncode == 2 and "unknown option 'collatz.preset'" in refused.stderr
