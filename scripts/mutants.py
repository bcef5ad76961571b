"""Change modules in small ways, one at a time, and see whether their tests notice.

    python scripts/mutants.py --json runs/mutants.json                    150 changes of the numerical parts
    python scripts/mutants.py dynamics --count 30 --json runs/some.json   of one folder

Needs Linux and requirements-mutants.txt. The tests of a module are that of its name and those beside it that import it;
where there are none, whatever tests import it, or else import a module that does. Everything happens in a copy of the
tree. Started again, the command goes on where it was stopped, and tries those that survived once more where their tests
have changed since: the shares of both times are printed with 95 % Wilson intervals, and the survivors as a table.
"""

import ast
import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arguments import FlagParser
from errors import UserError, exit_on_user_error, require_packages, say

require_packages()

from analysis.command_line import check_at_least, check_json_target, environment, save_json_target
from dataset.plain_data import read_json_object
from files import bounded_text, file_sha256, open_new
from long_work import progress_bar
from scripts.mutant_places import LEFT_OUT, Mutant, mutated, sampled
from tests.python_server import OTHERS, PythonServer
from training.evaluation.summary_table import aligned
from training.records.result_numbers import HASH_CHARACTERS, Number, rate, record_entry

ROOT = Path(__file__).resolve().parents[1]
AREAS = (
    *("dynamics", "analysis/spectra", "analysis/endings", "analysis/samples"),
    *("training/evaluation", "training/objectives"),
)
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", "--hypothesis-seed=0")
HANGS = 1200.0  # seconds after which a trial that waits for something is given up
LATE = "took too long"
KILLED, SURVIVED, NOT_RUN = "killed", "survived", "not run"


def modules_of(areas: Sequence[str]) -> list[str]:
    """Paths from the root; figures are looked at, not tested. Errors: `UserError` for what is no folder or module."""
    found: set[str] = set()
    for area in areas:
        place = ROOT / area
        files = [place] if place.suffix == ".py" and place.is_file() else sorted(place.glob("*.py"))
        if not files or not place.resolve().is_relative_to(ROOT):
            raise UserError(f"{area}: expected a folder with modules, or a module, of {ROOT}")
        found |= {file.resolve().relative_to(ROOT).as_posix() for file in files}
    return sorted(name for name in found if not name.endswith(("__init__.py", "_figures.py")))


def imports(file: Path) -> set[str]:
    """Dotted names that the file imports; `from a import b` may be either."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(bounded_text(file))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
    return names


def tests_of(modules: Sequence[str]) -> dict[str, list[str]]:
    """The test files of each module, the one of its name first."""
    tests = {file: imports(file) for file in sorted((ROOT / "tests").rglob("test_*.py"))}
    folders = ("analysis", "dynamics", "training")
    others = (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))
    sources = {file: imports(file) for file in [*sorted(ROOT.glob("*.py")), *others]}

    def first_hand(module: Path) -> list[Path]:
        dotted = ".".join(module.relative_to(ROOT).with_suffix("").parts)
        importing = [file for file, names in tests.items() if dotted in names]
        mirror = ROOT / "tests" / module.relative_to(ROOT).with_name(f"test_{module.name}")
        near = [file for file in importing if file.parent == mirror.parent and file != mirror]
        return [mirror, *near] if mirror in tests else near or importing

    chosen: dict[str, list[str]] = {}
    for name in modules:
        dotted = ".".join(Path(name).with_suffix("").parts)
        users = [file for file, names in sources.items() if dotted in names]
        files = first_hand(ROOT / name) or list(dict.fromkeys(test for user in users for test in first_hand(user)))
        chosen[name] = [file.relative_to(ROOT).as_posix() for file in files]
    return chosen


def digest(files: Iterable[str]) -> str:
    return hashlib.sha256("".join(file_sha256(ROOT / file) for file in files).encode()).hexdigest()


class Bench:
    """A copy of the tracked files, in which one module at a time is changed and its tests are run.

    What a trial may take is counted in seconds of CPU, which do not depend on what else the machine does.
    """

    def __init__(self, copy: Path, server: PythonServer, seconds: int) -> None:
        self.copy, self.server, self.moment = copy, server, 0
        if not hasattr(resource, "prlimit"):
            raise UserError(f"{sys.platform} cannot limit what another process takes: run this on Linux")
        # The trials inherit it; at the second limit they are killed, which the one who waits could not tell.
        resource.prlimit(server.process_id, resource.RLIMIT_CPU, (seconds, seconds + 10))
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
        if listed.returncode:
            raise UserError(f"{ROOT} is no git repository: {listed.stderr.strip()}; clone the suite")
        files = [Path(name) for name in listed.stdout.split("\0") if name]
        tracked = {*files, *(folder for file in files for folder in file.parents)}

        def untracked(folder: str, names: list[str]) -> list[str]:
            return [name for name in names if (Path(folder) / name).relative_to(ROOT) not in tracked]

        shutil.copytree(ROOT, copy, ignore=untracked, dirs_exist_ok=True)

    def run(self, tests: Sequence[str]) -> tuple[int | None, str]:
        """pytest's exit code, None where it takes too long; and the test that failed, or what is said at the end."""
        words = [str(self.server.python), "-m", "pytest", *PYTEST, *tests]
        variables = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        try:  # the server ends what the one who waits for it has left
            done = subprocess.run(words, cwd=self.copy, env=variables, capture_output=True, text=True, timeout=HANGS)
        except subprocess.TimeoutExpired:
            return None, LATE
        if done.returncode == -signal.SIGXCPU:
            return None, LATE
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
        return done.returncode, failed[1] if failed else (done.stdout.strip().splitlines() or ["no output"])[-1]

    def try_out(self, mutant: Mutant, tests: Sequence[str]) -> tuple[int | None, str]:
        file, source = self.copy / mutant.module, bounded_text(ROOT / mutant.module)
        try:
            self._write(file, mutated(source, mutant.operator, mutant.occurrence))
            return self.run(tests)
        finally:
            self._write(file, source)

    def _write(self, file: Path, text: str) -> None:
        file.unlink()
        with open_new(file) as opened:
            opened.write(text.encode())
        self.moment += 2
        os.utime(file, (self.moment, self.moment))  # else a second text of equal length would be the same to Python


def begun(options: Any, modules: Sequence[str]) -> dict[str, Any]:
    """The report without a trial, or the one that is there. Errors: `UserError` where its modules have changed."""
    sources = {name: digest([name]) for name in modules}
    if options.json.exists():
        report = read_json_object(options.json)
        changed = [name for name in report["sources"] if sources.get(name) != report["sources"][name]]
        if changed:
            raise UserError(f"{options.json} is about other code: {changed[0]} has changed; name another, or remove it")
        return report
    mutants, places = sampled(ROOT, modules, options.count, options.seed)
    trials = [asdict(mutant) | {"trials": []} for mutant in mutants]
    return {"places": places, "left_out": LEFT_OUT, "sources": sources, "in_time": {}, "mutants": trials}


def due(entry: Mapping[str, Any], tests: str) -> bool:
    """Whether a mutant has not been tried, or survived tests that were other ones."""
    trials = entry["trials"]
    return not trials or (trials[-1]["outcome"] == SURVIVED and trials[-1]["tests"] != tests)


def measure(report: dict[str, Any], options: Any, described: Mapping[str, Any]) -> None:
    """Try what is due, in the order of the sample, a save after each.

    A module of which nothing survives is tried unchanged too: its tests must pass then, within the same time.
    """
    tests = tests_of(sorted(report["sources"]))
    digests = {name: digest(files) for name, files in tests.items()}
    report["tests"] = tests
    waiting = [entry for entry in report["mutants"] if due(entry, digests[entry["module"]])]
    with tempfile.TemporaryDirectory() as place, PythonServer((*OTHERS, "pytest", "hypothesis")) as server:
        bench = Bench(Path(place), server, options.cpu_seconds)

        def in_time(name: str) -> bool:
            """Whether the tests pass unchanged in time. Errors: `UserError` where they fail."""
            if name not in report["in_time"]:
                code, said = bench.run(tests[name]) if tests[name] else (None, "")
                if code:
                    raise UserError(f"the tests of {name} fail as it is ({said}): mend them first")
                report["in_time"][name] = code == 0
            return bool(report["in_time"][name])

        for entry in progress_bar(waiting, unit=" mutants"):
            name, start = entry["module"], time.monotonic()
            outcome, said = NOT_RUN, ""
            if tests[name] and report["in_time"].get(name, True):
                fields = {key: value for key, value in entry.items() if key != "trials"}
                code, said = bench.try_out(Mutant(**fields), tests[name])
                if code == 0:
                    outcome = SURVIVED
                    report["in_time"][name] = True
                elif code is not None or in_time(name):
                    outcome = KILLED
            trial = {"outcome": outcome, "by": said if outcome == KILLED else "", "tests": digests[name]}
            entry["trials"].append(
                trial | {"commit": described["commit"], "seconds": round(time.monotonic() - start, 1)}
            )
            save(report, options, described)
        for name in sorted({entry["module"] for entry in report["mutants"]}):
            in_time(name)
    save(report, options, described)


def save(report: dict[str, Any], options: Any, described: Mapping[str, Any]) -> None:
    """Write the report with the record of what was tried so far."""
    trials = [trial for entry in report["mutants"] for trial in entry["trials"]]
    commits = [(trial["commit"] or "unknown")[:HASH_CHARACTERS] for trial in trials]
    seconds = sum(trial["seconds"] for trial in trials)
    entry = record_entry(
        numbers(report),
        origin=described,
        commits=commits,
        datasets=["synthetic"],
        seeds=[options.seed],
        seconds=seconds,
    )
    save_json_target(options.json, report | entry)


def numbers(report: Mapping[str, Any]) -> list[Number]:
    """Shares killed at the first trial and at the last, of all and of each folder."""
    tried = [entry for entry in report["mutants"] if entry["trials"] and entry["trials"][0]["outcome"] != NOT_RUN]
    folders = sorted({os.path.dirname(entry["module"]) for entry in tried})
    found = []
    for name in ["", *folders]:
        chosen = [entry["trials"] for entry in tried if entry["module"].startswith(name)]
        for moment, which in (("initial", 0), ("final", -1)):
            killed = sum(trials[which]["outcome"] == KILLED for trials in chosen)
            if chosen:
                found.append(rate(f"mutants killed{name and f' in {name}'}", killed, len(chosen), moment))
    return found


def survivors(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Place, text and changed text of each that no test has noticed."""
    left = [entry for entry in report["mutants"] if entry["trials"] and entry["trials"][-1]["outcome"] == SURVIVED]
    left.sort(key=lambda entry: (entry["module"], entry["line"]))
    return [(f"{entry['module']}:{entry['line']}", entry["before"], entry["after"]) for entry in left]


@exit_on_user_error
def main(arguments: Sequence[str] | None = None) -> None:
    parser = FlagParser(description=__doc__)
    parser.add_argument("areas", nargs="*", default=AREAS, metavar="MODULE", help="folders or modules (default: six)")
    parser.add_argument("--count", type=int, default=150, help="how many changes are tried (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default %(default)s)")
    limit = "what the tests of a module may take; those that take longer unchanged are not run (default %(default)s)"
    parser.add_argument("--cpu-seconds", type=int, default=60, help=limit)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="the trials; goes on with one that is")
    options = parser.parse_args(arguments)
    check_at_least(options, count=1, cpu_seconds=1)
    check_json_target(options.json)
    described = environment() | {"seed": options.seed}
    report = begun(options, modules_of(options.areas)) | {"environment": described}
    measure(report, options, described)
    shares = numbers(report)
    table = [(n.name, n.moment or "", f"{n.numerator} of {n.of}", f"{n.value:.1f} %", f"[{n.low:.1f}, {n.high:.1f}]")
             for n in shares]  # fmt: skip
    say(*aligned(table), "", *aligned([("survives", "written", "changed to"), *survivors(report)], left=3))


if __name__ == "__main__":
    main()
