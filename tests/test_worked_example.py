"""The worked example of docs/adding_an_experiment.md, word for word, in a copy of the suite."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.python_server import PythonServer

PAGE = ROOT / "docs" / "adding_an_experiment.md"
ROOMS = ("training/terms/", "training/hooks/", "dataset/steps/", "training/inference/")
FILE = re.compile(r"`([\w/]+\.(?:py|yaml))`:\n```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A line of the page. refused: what its one line of refusal holds; says: what it prints; None = either may be."""

    words: list[str]
    refused: str | None
    says: str | None


def files() -> dict[str, str]:
    return dict(FILE.findall(PAGE.read_text(encoding="utf-8")))


def commands() -> list[Command]:
    found = []
    for block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        for line in block.splitlines():
            text, _, comment = line.partition("  # ")
            kind, _, words = comment.partition(": ")
            found.append(
                Command(shlex.split(text), words if kind == "refused" else None, words if kind == "says" else None)
            )
    return found


def test_each_idea_is_a_file_a_run_and_a_test() -> None:
    ideas = [name for name in files() if name.startswith(ROOMS)]
    assert [next(room for room in ROOMS if name.startswith(room)) for name in ideas] == list(ROOMS)
    for name in ideas:
        idea = Path(name).stem
        others = {f"config/experiment/{idea}.yaml", f"tests/{Path(name).parent}/test_{idea}.py"}
        assert {other for other in files() if Path(other).stem.removeprefix("test_") == idea} == {name, *others}
    assert len(files()) == 12 and sum(command.refused is not None for command in commands()) == 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_as_the_page_says(python_server: PythonServer, tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    left = shutil.ignore_patterns(".git", ".venv", "runs", "data", "checkpoints", "__pycache__", "*_cache")
    shutil.copytree(ROOT, suite, ignore=left)
    for name, text in files().items():
        assert not (suite / name).exists(), "the page makes a file that is there"
        (suite / name).write_text(text, encoding="utf-8")
    author = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "the worked example"]):
        subprocess.run(["git", *words], cwd=suite, check=True)
    path = f"{python_server.python.parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path}
    for command in commands():
        done = subprocess.run(command.words, cwd=suite, env=env, capture_output=True, text=True, timeout=600)
        shown = f"{shlex.join(command.words)}\n{done.stdout}\n{done.stderr}"
        if command.refused is not None:
            assert done.returncode == 2 and command.refused in done.stderr, shown
            assert len(done.stderr.strip().splitlines()) == 1, shown
        else:
            assert done.returncode == 0, shown
            assert command.says is None or command.says in done.stdout + done.stderr, shown
