"""Every runnable file starts with --help, as a file and with -m, from another folder than the suite's."""

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from errors import PACKAGES
from tests.python_server import OTHERS, PythonServer

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("analysis", "dataset", "dynamics", "models", "projects", "scripts", "training")
MODULES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SCRIPTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("*.py"))
RUNNABLE = [path for path in SCRIPTS + MODULES if '__name__ == "__main__"' in (ROOT / path).read_text(encoding="utf-8")]

# It says what is missing, and needs nothing for it.
NEED_NOTHING = {Path("scripts/check_requirements.py")}


def environment(**variables: str) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return own | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"} | variables


def module_name(file: Path) -> str:
    return ".".join(file.with_suffix("").parts)


def check(file: Path, status: int, output: str) -> None:
    assert status == 0, f"{file}: exit code {status}\n{output}"
    assert "Traceback" not in output and r"\n" not in output
    # What it is for, and how it is called.
    assert file.stem in output and len(output.splitlines()) >= 4, output


def test_there_are_entry_points() -> None:
    names = {str(path) for path in RUNNABLE}
    known = {
        "pretrain.py",
        "evaluate.py",
        "predict.py",
        "analysis/arms/training_curve.py",
        "analysis/rollouts/step_by_step.py",
    }
    assert known | {"dataset/build_sudoku_dataset.py", "scripts/check_parity.py", "scripts/record_result.py"} <= names


def test_no_module_shares_its_name_with_a_script_or_a_standard_module() -> None:
    """The folder of a started file comes first in the import path: a module there would hide the other."""
    taken = {path.stem for path in SCRIPTS} | sys.stdlib_module_names
    assert not {str(path) for path in MODULES if path.stem in taken and path.stem != "__init__"}


def test_every_folder_with_modules_is_a_package() -> None:
    """Without it a package of that name from the index would be imported instead."""
    folders = {folder for path in MODULES for folder in path.parents if folder != Path(".")}
    assert not [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()]


def started(
    server: PythonServer, commands: Sequence[Sequence[str]], tmp_path: Path, **variables: str
) -> list[tuple[int, str]]:
    """Exit code and output of each `python COMMAND`, from a folder in which nothing may be left.

    What a command has imported besides is in `N.txt.imported`, one name a line. variables: of the environment.
    """
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(parents=True)
    done = []
    for index, words in enumerate(commands):
        output = tmp_path / f"{index}.txt"
        status = server.run(words, output, elsewhere, environment(PYTHONPATH=str(ROOT), **variables))
        done.append((status, output.read_text()))
    assert list(elsewhere.iterdir()) == []
    return done


def imported_by(index: int, folder: Path) -> set[str]:
    return set((folder / f"{index}.txt.imported").read_text().split())


def test_help_as_file_and_as_module(tmp_path: Path) -> None:
    """Made, and then known, which gives the same and needs no torch.

    `scipy.stats` takes as long to import as all of the suite and what else it imports, `matplotlib.pyplot` half as long
    as torch: they are imported where something is computed or drawn by them first.
    """
    as_files = [[str(ROOT / file), "--help"] for file in RUNNABLE]
    as_modules = [["-m", module_name(file), "--help"] for file in RUNNABLE]
    kept = {"PYTHONPYCACHEPREFIX": str(tmp_path / "kept")}
    late = {"scipy", "matplotlib"}
    with PythonServer([name for name in OTHERS if name.partition(".")[0] not in late]) as server:
        made = started(server, as_files, tmp_path / "made", **kept)
    for file, (status, output) in zip(RUNNABLE, made, strict=True):
        check(file, status, output)
    imported = {str(file): imported_by(index, tmp_path / "made") for index, file in enumerate(RUNNABLE)}
    assert "training.start" in imported["pretrain.py"]
    assert {file for file, modules in imported.items() if late & modules} == set()
    with PythonServer([]) as server:
        known = started(server, as_files + as_modules, tmp_path / "known", **kept)
    for index, (words, first, second) in enumerate(zip(as_files + as_modules, made * 2, known, strict=True)):
        assert first == second, words
        assert not imported_by(index, tmp_path / "known") & {"torch", "numpy", "hydra", "matplotlib"}, words


@pytest.mark.parametrize("name", ["matplotlib", "scipy"])
def test_a_package_that_is_used_late_is_missed_early(name: str, tmp_path: Path) -> None:
    """Before hours of work whose picture could not be drawn."""
    script = str(ROOT / "analysis/spectra/lyapunov_spectrum.py")
    code = f"import runpy, sys; sys.modules[{name!r}] = None; runpy.run_path({script!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=60
    )
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and f"lacks {name};" in line


def test_variables_of_python_and_matplotlib_change_nothing(tmp_path: Path) -> None:
    """Without docstrings (`-OO`), which are the words of --help; and with a backend that no figure needs."""
    for script in ("pretrain.py", "analysis/arms/training_curve.py"):
        done = subprocess.run(
            [sys.executable, "-OO", str(ROOT / script), "--help"],
            capture_output=True, text=True, cwd=tmp_path, env=environment(MPLBACKEND="no_such_backend"),
        )  # fmt: skip
        check(Path(script), done.returncode, done.stdout + done.stderr)
    checks = [line for file in MODULES for line in asserts_of_text(file)]
    assert not checks, f"`python -O` passes these over; raise them: {checks}"


def asserts_of_text(file: Path) -> list[str]:
    """Asserts with a message: they tell someone of a fault, where those without one tell mypy what is known."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return [f"{file}:{node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.Assert) and node.msg]


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    """Whatever the script takes, flags or `key=value`: exit code 2, and a line that says where the right ones are."""
    mistakes = ("--no-such-flag", "--no-such-flag=1", "no_such_key=1")
    commands = [[str(ROOT / file), word] for file in RUNNABLE if file not in NEED_NOTHING for word in mistakes]
    suite = [module_name(path) for path in MODULES if path.stem != "__init__"]
    with PythonServer([*OTHERS, *suite], PYTHONPATH=str(ROOT)) as server:
        done = started(server, commands, tmp_path / "mistakes")
    for words, (status, output) in zip(commands, done, strict=True):
        assert status == 2, f"{words}: exit code {status}\n{output}"
        assert output.startswith("error: ") and output.count("\n") == 1, f"{words}: {output}"


@pytest.mark.slow
@pytest.mark.parametrize(("as_module", "file"), [(index % 2, file) for index, file in enumerate(RUNNABLE)], ids=str)
def test_help_in_a_process_of_its_own(as_module: int, file: Path, tmp_path: Path) -> None:
    """Nothing imported before; every second one as a module: both ways in one process each are tested above."""
    words, variables = ["-m", module_name(file)] if as_module else [str(ROOT / file)], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words, "--help"], capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env=environment(**variables if as_module else {}),
    )  # fmt: skip
    check(file, done.returncode, done.stdout + done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", RUNNABLE, ids=str)
def test_missing_packages_are_answered_in_one_line(file: Path, tmp_path: Path) -> None:
    """`-S`: a Python without site-packages, as someone has who did not activate the environment."""
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / file), "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=60,
    )
    if file in NEED_NOTHING:
        assert done.returncode == 0 and not done.stderr
        return
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and f"lacks {', '.join(PACKAGES)};" in line
    assert "source .venv/bin/activate" in line and "bash scripts/quickstart.sh" in line


def test_packages_are_those_that_modules_import() -> None:
    """Anywhere but for those that are asked for where they are used."""
    imported: set[str] = set()
    for path in MODULES + SCRIPTS:
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    ours = {path.stem for path in SCRIPTS} | set(FOLDERS) | {"tests"}
    asked_for = {"wandb", "huggingface_hub", "modal", "cosmic_ray"}
    assert imported - asked_for - ours - sys.stdlib_module_names == set(PACKAGES)
