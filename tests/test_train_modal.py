"""The remote launcher, without an account: what it would start, and with a stand-in for the library."""

import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import train_modal as script
from errors import UserError
from projects.collatz.flags import TrainingRequest, read_flags
from tests.helpers import ROOT

ARGS = "--epochs 100000 --layers 2048,1024,1024,512,512,512,256,128,64 --curriculum --ramp-len 50000 --start-seeds 0"


def test_commands_of_a_source_run() -> None:
    build, train = script.remote_commands(ARGS)
    assert build == ["projects/collatz/build_eval.py", "--rows", "50000", "--seed", "42", "--output-csv",
                     "/runs/collatz_eval_50k.csv"]  # fmt: skip
    assert train[0] == "collatz.py" and train[1 : len(shlex.split(ARGS)) + 1] == shlex.split(ARGS)
    asked = read_flags(train[1:])
    assert isinstance(asked, TrainingRequest) and asked.config.collatz.eval_csv == "/runs/collatz_eval_50k.csv"
    assert asked.config.checkpoint_path == f"/runs/{script.run_name(ARGS)}"
    assert asked.config.max_hours is not None and asked.config.max_hours < script.LIMIT_HOURS


def test_the_same_flags_find_the_same_folder() -> None:
    assert script.run_name(ARGS) == script.run_name(ARGS.replace(" ", "  "))
    assert script.run_name(ARGS) != script.run_name(f"{ARGS} --use-t4")


def test_what_is_given_is_left_alone() -> None:
    (train,) = script.remote_commands(f"{ARGS} --eval-csv=/runs/mine.csv --output-dir /runs/here --max-hours 1")
    assert train == ["collatz.py", *shlex.split(ARGS), "--eval-csv=/runs/mine.csv", "--output-dir", "/runs/here",
                     "--max-hours", "1"]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--layers '8", "cannot be cut into words"),
        ("--closed-forms", "expected a training run"),
        ("--evaluate=a.pt", "expected a training run"),
    ],
)
def test_mistakes(args: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        script.remote_commands(args)


def test_without_the_library_it_prints_the_commands(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['modal'] = None; import runpy; "
         f"sys.argv = ['train_modal.py', '--args', {ARGS!r}]; sys.path.insert(0, {str(ROOT)!r}); "
         f"runpy.run_path({str(ROOT / 'train_modal.py')!r}, run_name='__main__')"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"python {shlex.join(each)}" for each in script.remote_commands(ARGS)]
    assert done.stderr.startswith("start it with: modal run --detach train_modal.py --args ")


class Library(ModuleType):
    """Records what it is asked for; a remote call runs here."""

    def __init__(self) -> None:
        super().__init__("modal")
        self.calls: list[tuple[str, Any]] = []
        library = self

        class App:
            def __init__(self, name: str) -> None:
                library.calls.append(("app", name))

            def function(self, **options: Any) -> Any:
                library.calls.append(("function", options))

                def decorate(fn: Any) -> Any:
                    fn.remote = fn
                    return fn

                return decorate

            def local_entrypoint(self) -> Any:
                return lambda fn: fn

        class Image:
            def __getattr__(self, name: str) -> Any:
                def note(*words: Any, **options: Any) -> "Image":
                    library.calls.append((name, (words, options)))
                    return self

                return note

        class Volume:
            @staticmethod
            def from_name(name: str, **options: Any) -> "Volume":
                return Volume()

            def commit(self) -> None:
                library.calls.append(("commit", None))

        self.App, self.Volume, self.Image = App, Volume, Image()


@pytest.mark.parametrize("code", [0, 2])
def test_with_the_library(code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`modal run` calls main; the remote function runs both commands in the suite's folder and keeps the volume."""
    library = Library()
    monkeypatch.setitem(sys.modules, "modal", library)
    names = runpy.run_path(str(ROOT / "train_modal.py"))
    started = []

    def run(command: list[str], *, cwd: str, check: bool) -> None:
        started.append((command[1:], cwd))
        if check and code:
            raise subprocess.CalledProcessError(code, command)

    monkeypatch.setattr(subprocess, "run", run)
    if code:
        with pytest.raises(subprocess.CalledProcessError):
            names["main"](args=ARGS)
    else:
        names["main"](args=ARGS)
        assert [each for each, _ in started] == script.remote_commands(ARGS)
        assert capsys.readouterr().out.count("there: python ") == 2
    assert all(cwd == "/suite" for _, cwd in started)
    options = dict(library.calls)["function"]
    assert options["gpu"] == "T4" and options["timeout"] == 4 * 3600 and "/runs" in options["volumes"]
    assert library.calls[-1] == ("commit", None), "what the run left is kept however it ends"
    (folder,), more = dict(library.calls)["add_local_dir"]
    assert Path(folder) == ROOT and more["remote_path"] == "/suite" and ".venv" in more["ignore"]


def test_a_mistake_here_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "modal", Library())
    names = runpy.run_path(str(ROOT / "train_modal.py"))
    with pytest.raises(SystemExit) as leaving:
        names["main"](args="--layers '8")
    assert leaving.value.code == 2 and capsys.readouterr().err.count("\n") == 1
