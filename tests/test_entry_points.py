"""Every runnable file starts with --help, as a file and with -m, from another folder than the suite's."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from errors import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("analysis", "dataset", "dynamics", "models", "projects", "scripts", "training")
MODULES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SCRIPTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("*.py"))
RUNNABLE = [path for path in SCRIPTS + MODULES if '__name__ == "__main__"' in (ROOT / path).read_text(encoding="utf-8")]

# It says what is missing, and needs nothing for it.
NEED_NOTHING = {Path("scripts/check_requirements.py")}

# Starting Python and importing torch takes seconds each time. This process imports what others wrote once, and
# forks for each file; the child then starts the file as `python FILE --help` or `python -m MODULE --help` would.
# Nothing of the suite is imported before the fork.
FORKER = r"""
import importlib, os, runpy, sys
for name in os.environ["PRELOADED"].split():
    importlib.import_module(name)
before = set(sys.modules)
del sys.path[0]
for line in sys.stdin:
    kind, name, word, output = line.rstrip("\n").split("\t")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = [name, word]
        sys.path.insert(0, os.path.dirname(name) if kind == "file" else os.getcwd())
        code = 0
        try:
            if kind == "file":
                runpy.run_path(name, run_name="__main__")
            elif kind == "import":
                sys.path.insert(1, os.environ["SUITE"])
                importlib.import_module(name)
            else:
                sys.path.insert(1, os.environ["SUITE"])
                runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        with open(output + ".imported", "w") as imported:
            imported.write("\n".join(set(sys.modules) - before))
        os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
"""


PRELOADED = (
    "torch numpy yaml hydra omegaconf tqdm scipy.stats matplotlib.pyplot einops safetensors.torch torch.distributed"
)


def environment() -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return own | {"OMP_NUM_THREADS": "1", "SUITE": str(ROOT), "MPLBACKEND": "Agg", "PRELOADED": PRELOADED}


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


def started(jobs: list[tuple[str, str]], word: str, tmp_path: Path, **variables: str) -> list[tuple[int, str]]:
    """Exit code and output of each file or module with one argument, from a folder in which nothing may be left.

    What a job has imported besides is in `N.txt.imported`, one name a line. variables: of the environment.
    """
    outputs = [tmp_path / f"{index}.txt" for index in range(len(jobs))]
    lines = [f"{kind}\t{name}\t{word}\t{output}\n" for (kind, name), output in zip(jobs, outputs, strict=True)]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", FORKER],
        input="".join(lines),
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env=environment() | variables,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert list(elsewhere.iterdir()) == []
    return [(int(status), output.read_text()) for status, output in zip(done.stdout.split(), outputs, strict=True)]


def imported_by(index: int, folder: Path) -> set[str]:
    return set((folder / f"{index}.txt.imported").read_text().split())


def test_help_as_file_and_as_module(tmp_path: Path) -> None:
    """Twice: made, and then known, which gives the same and needs no torch."""
    jobs = [("file", str(ROOT / file)) for file in RUNNABLE] + [("module", module_name(file)) for file in RUNNABLE]
    kept = {"PYTHONPYCACHEPREFIX": str(tmp_path / "kept")}
    made = started(jobs, "--help", tmp_path / "made", **kept)
    for file, (status, output) in zip(RUNNABLE * 2, made, strict=True):
        check(file, status, output)
    assert "training.start" in imported_by(RUNNABLE.index(Path("pretrain.py")), tmp_path / "made")
    known = started(jobs, "--help", tmp_path / "known", **kept, PRELOADED="")
    for index, (job, first, second) in enumerate(zip(jobs, made, known, strict=True)):
        assert first == second, job
        assert not imported_by(index, tmp_path / "known") & {"torch", "numpy", "hydra", "matplotlib"}, job


def test_no_script_imports_scipy_or_matplotlib_before_it_is_used(tmp_path: Path) -> None:
    """`scipy.stats` takes as long as all of the suite and what else it imports, `matplotlib.pyplot` half of torch."""
    late = {"scipy", "matplotlib"}
    jobs = [("import", module_name(file)) for file in RUNNABLE]
    preloaded = " ".join(name for name in PRELOADED.split() if name.partition(".")[0] not in late)
    statuses = started(jobs, "", tmp_path, PRELOADED=preloaded)
    assert [status for status, _ in statuses] == [0] * len(jobs), statuses
    early = {name: late & imported_by(index, tmp_path) for index, (_, name) in enumerate(jobs)}
    assert {name for name, modules in early.items() if modules} <= {"scripts.benchmark.lyapunov"}, early


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
            capture_output=True, text=True, cwd=tmp_path, env=environment() | {"MPLBACKEND": "no_such_backend"},
        )  # fmt: skip
        check(Path(script), done.returncode, done.stdout + done.stderr)
    checks = [line for file in MODULES for line in asserts_of_text(file)]
    assert not checks, f"`python -O` passes these over; raise them: {checks}"


def asserts_of_text(file: Path) -> list[str]:
    """Asserts with a message: they tell someone of a fault, where those without one tell mypy what is known."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return [f"{file}:{node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.Assert) and node.msg]


@pytest.mark.parametrize("word", ["--no-such-flag", "--no-such-flag=1", "no_such_key=1"])
def test_a_mistake_is_one_line(word: str, tmp_path: Path) -> None:
    """Whatever the script takes, flags or `key=value`: exit code 2, and a line that says where the right ones are."""
    jobs = [("file", str(ROOT / file)) for file in RUNNABLE if file not in NEED_NOTHING]
    for (_, name), (status, output) in zip(jobs, started(jobs, word, tmp_path), strict=True):
        assert status == 2, f"{name}: exit code {status}\n{output}"
        assert output.startswith("error: ") and output.count("\n") == 1, f"{name}: {output}"


@pytest.mark.slow
@pytest.mark.parametrize("file", RUNNABLE, ids=str)
def test_help_in_processes_of_their_own(file: Path, tmp_path: Path) -> None:
    as_module = environment() | {"PYTHONPATH": str(ROOT)}
    for words, env in (([str(ROOT / file)], environment()), (["-m", module_name(file)], as_module)):
        done = subprocess.run(
            [sys.executable, *words, "--help"], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120
        )
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
    asked_for = {"wandb", "huggingface_hub", "modal"}
    assert imported - asked_for - ours - sys.stdlib_module_names == set(PACKAGES)
