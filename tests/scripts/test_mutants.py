"""Mutants: what is changed, which tests are run, what comes of each, and that a second start goes on."""

import json
import resource
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import mutants
from scripts.mutant_places import Mutant, _without_behaviour, sampled

SOURCE = """\
import functools

__all__ = ["near", "half"[100:]]


@functools.lru_cache(101)
def near(a: "float | int", b: float | None = 102) -> float | int:
    assert a != 103
    if a < 104:
        raise ValueError(f"µ {a + 105}", 106)
    return list(zip([a], [107], strict=108))[109]


if __name__ == "__main__":
    near(110)
"""
CODE = "def rises(a, b):\n    return a < b\n\n\ndef half(number):\n    return number / 2\n"
TEST = "from area.growth import rises\n\n\ndef test_rises():\n    assert rises(1, 2) and not rises(2, 1)\n"
KILLED = Mutant("area/growth.py", "Less", 0, 2, "return a < b", "return a > b")
ENDLESS = replace(KILLED, operator="Endless", after="while True: pass")
SURVIVES = Mutant("area/growth.py", "Half", 0, 6, "return number / 2", "return number * 2")


def test_what_has_no_behaviour_is_no_place() -> None:
    spans, lines = list(_without_behaviour(SOURCE)), SOURCE.splitlines()
    found = {}
    for number in range(100, 111):
        line = next(index for index, text in enumerate(lines, 1) if str(number) in text)
        place = (line, lines[line - 1].index(str(number)))
        found[number] = not any(first <= place < last for first, last in spans)
    assert [number for number, behaves in found.items() if behaves] == [102, 104, 107, 109]


def test_sample(tmp_path: Path) -> None:
    pytest.importorskip("cosmic_ray")
    (tmp_path / "one.py").write_text(SOURCE)
    few, places = sampled(tmp_path, ["one.py"], 3, seed=1)
    all_of_it, again = sampled(tmp_path, ["one.py"], 100, seed=1)
    assert all_of_it[:3] == few and places == again == len(all_of_it)
    assert sorted((each.operator.partition("_")[0], each.line) for each in all_of_it) == [
        *(("AddNot", 9), ("NumberReplacer", 7), ("NumberReplacer", 9), ("NumberReplacer", 11)),
        *(("NumberReplacer", 11), ("ReplaceComparisonOperator", 9)),
    ]
    assert all(each.before == SOURCE.splitlines()[each.line - 1].strip() != each.after for each in all_of_it)


needs_limits = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="trials are limited on Linux only")


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one module with a test of half of it, and three mutants."""
    root = tmp_path / "suite"
    texts = {"area/__init__.py": "", "area/growth.py": CODE, "area/untested.py": CODE}
    texts |= {"tests/__init__.py": "", "tests/area/__init__.py": "", "tests/area/test_growth.py": TEST}
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["slow", "gpu"]\n')
    subprocess.run("git init -q && git add -A", shell=True, cwd=root, check=True)

    def mutated(source: str, operator: str, occurrence: int) -> str:
        mutant = {each.operator: each for each in (KILLED, ENDLESS, SURVIVES)}[operator]
        return source.replace(mutant.before, mutant.after)

    found = [SURVIVES, KILLED, ENDLESS, replace(KILLED, module="area/untested.py")]
    monkeypatch.setattr(mutants, "ROOT", root)
    monkeypatch.setattr(mutants, "OTHERS", ())
    monkeypatch.setattr(mutants, "sampled", lambda root, modules, count, seed: (found[:count], 9))
    monkeypatch.setattr(mutants, "mutated", mutated)
    return root


@needs_limits
def test_killed_before_and_after_a_test_is_added(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = suite.parent / "mutants.json"

    def measured() -> dict[str, list[list[str]]]:
        mutants.main(["area", "--json", str(file), "--cpu-seconds", "3"])
        entries = json.loads(file.read_text())["mutants"]
        names = [f"{entry['operator']} {Path(entry['module']).stem}" for entry in entries]
        return dict(zip(names, ([trial["outcome"] for trial in entry["trials"]] for entry in entries), strict=True))

    expected = {
        "Half growth": ["survived"],
        "Less growth": ["killed"],
        "Endless growth": ["killed"],
        "Less untested": ["not run"],
    }
    assert measured() == expected
    said = capsys.readouterr().out
    assert "2 of 3" in said and "area/growth.py:6  return number / 2  return number * 2" in said
    report = json.loads(file.read_text())
    by = {entry["operator"]: entry["trials"][0]["by"] for entry in report["mutants"][:3]}
    assert by == {"Half": "", "Less": "tests/area/test_growth.py::test_rises", "Endless": "took too long"}
    assert (suite / "area/growth.py").read_text() == CODE

    assert measured() == expected  # nothing is due
    added = "\n\ndef test_half():\n    assert half(4) == 2\n"
    (suite / "tests/area/test_growth.py").write_text(TEST.replace("rises\n", "half, rises\n", 1) + added)
    assert measured() == expected | {"Half growth": ["survived", "killed"]}
    shares = {number["moment"]: number for number in json.loads(file.read_text())["record"]["numbers"][:2]}
    assert [round(shares[moment]["value"] * 3 / 100) for moment in ("initial", "final")] == [2, 3]

    (suite / "area/growth.py").write_text(CODE + "\n")
    with pytest.raises(SystemExit) as ended:
        measured()
    assert ended.value.code == 2
    assert "area/growth.py has changed" in capsys.readouterr().err


@needs_limits
def test_a_failing_suite_measures_nothing(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (suite / "tests/area/test_growth.py").write_text(TEST.replace("and not", "and"))
    with pytest.raises(SystemExit) as ended:
        mutants.main(["area", "--json", str(suite.parent / "mutants.json"), "--count", "1"])
    assert ended.value.code == 2
    assert (
        "the tests of area/growth.py fail as it is (tests/area/test_growth.py::test_rises)" in capsys.readouterr().err
    )


def test_tests_of_a_module() -> None:
    """The test of its name first; then those beside it; else whoever imports it, or a module that does."""
    files = mutants.tests_of(["dynamics/lyapunov.py", "dynamics/tangents.py", "dynamics/propagation.py"])
    assert files["dynamics/lyapunov.py"][:2] == ["tests/dynamics/test_lyapunov.py", "tests/dynamics/test_contract.py"]
    assert all(name.startswith("tests/dynamics/") for name in files["dynamics/lyapunov.py"])
    assert "tests/dynamics/test_traps.py" in files["dynamics/tangents.py"]
    assert set(files["dynamics/lyapunov.py"]) <= set(files["dynamics/propagation.py"])
    modules = mutants.modules_of(mutants.AREAS)
    assert "training/objectives/base.py" in modules and not [name for name in modules if "__init__" in name]


@pytest.mark.parametrize("words", [["no_such"], ["--count", "0"], ["../"]])
def test_bad_input_is_one_line(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        mutants.main([*words, "--json", str(tmp_path / "mutants.json")])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_another_system_is_refused_in_one_line(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(resource, "prlimit", raising=False)
    with pytest.raises(SystemExit):
        mutants.main(["area", "--json", str(suite.parent / "mutants.json")])
    assert "run this on Linux" in capsys.readouterr().err
