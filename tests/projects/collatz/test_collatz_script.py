"""collatz.py from its command line: the table, the report, and mistakes in one line."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import collatz as script
from analysis import command_line
from files import file_sha256
from projects.collatz.bounds import bounds_at
from projects.collatz.build_eval import main as build_eval
from projects.collatz.closed_forms import CLOSED_FORMS
from projects.collatz.flags import MOST_DIGITS
from projects.collatz.syracuse import TEST_STARTS, orbit
from tests.helpers import refused_line

ROOT = Path(__file__).resolve().parents[3]
SHARES = ("pass", "weighted_pass", "growth_pass", "growth_weighted_pass")


@pytest.fixture(scope="module")
def eval_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collatz") / "eval.csv"
    build_eval(["--rows", "400", "--seed", "3", "--output-csv", str(path)])
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: object) -> None:
    script.main(["--closed-forms", *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    return refused_line(capsys, script.main, words)


def read(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


def cells(output: str) -> dict[str, list[str]]:
    """The table's lines by function."""
    names = {form.name for form in CLOSED_FORMS}
    return {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.split()[:1][0] in names}


def test_table_and_report_on_a_file(eval_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "closed_forms.json"
    run("--lookahead", 20, "--eval-csv", eval_csv, "--json", out)
    printed, report = capsys.readouterr().out, read(out)
    table = cells(printed)
    assert list(table) == [form.name for form in CLOSED_FORMS]
    for name, line in table.items():
        entry = report[name]
        assert entry["rows"] == 400
        assert line[:4] == [f"{100 * entry[share]:.2f}" for share in SHARES]
        assert line[4] == f"{100 * entry['free_pass']:.2f}"
        assert line[5] == f"{entry['violations']}/400"
        by_orbit = [str(count["violations"]) for count in entry["orbits"].values()]
        assert line[6] == str(sum(map(int, by_orbit))) and line[7] == "/".join(by_orbit)
        assert entry["orbits"].keys() == set(map(str, TEST_STARTS))
        assert entry["orbits"]["27"].keys() == {"steps", "growth_steps", "odd_max", "violations"}
    assert report["V_tmin_1.2"]["orbits"]["703"]["violations"] == 1, "as published"
    assert report["lookahead"] == 20 and report["bounds"] == asdict(bounds_at(20))
    assert report["eval_csv"] == {"file": "eval.csv", "sha256": file_sha256(eval_csv)}
    assert report["orbits_total"]["steps"] == 429 and report["orbits_total"]["violations"]["V_max"] == 33
    assert report["environment"].keys() >= {"argv", "commit", "dirty", "versions", "cpu"}
    assert "no function of ln n and the window below 0.3875 %" in " ".join(printed.split()) and str(out) in printed
    assert all(len(line) <= 100 for line in printed.splitlines() if str(out) not in line)


def test_orbits_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any starts, of any size, in their order; 1 has no step; the rates stay empty."""
    big = 2**1000 - 1
    run("--lookahead", 20, "--orbits", f"27,703, 8400511,1,{big}", "--json", "orbits.json")
    report = read(tmp_path / "orbits.json")
    assert list(report["V_max"]["orbits"]) == ["27", "703", "8400511", "1", str(big)]
    for form in CLOSED_FORMS:
        for start, entry in report[form.name]["orbits"].items():
            path = orbit(int(start))
            assert (entry["steps"], entry["growth_steps"]) == (path.steps, path.growth_steps)
            assert entry["odd_max"] == path.odd_max, "exactly, however many digits"
    assert [entry["violations"] for entry in report["V_max"]["orbits"].values()][:4] == [5, 4, 30, 0]
    assert all(report["V_avg"][name] is None for name in ("rows", "violations", *SHARES))
    assert report["eval_csv"] is None
    assert cells(capsys.readouterr().out)["V_max"][:6] == ["-"] * 6


def test_the_same_command_writes_the_same_report(eval_csv: Path, tmp_path: Path) -> None:
    reports = []
    for name in ("one.json", "two.json"):
        run("--eval-csv", eval_csv, "--lookahead", 7, "--json", name)
        report = read(tmp_path / name)
        del report["environment"]
        reports.append(report)
    assert reports[0] == reports[1]


BAD = {
    "training flag": (["--closed-forms", "--epochs", "3"], "--epochs has no meaning for --closed-forms; leave it out"),
    "judging flag": (["--epochs", "3", "--json", "o.json"], "--json has no meaning for a training run; give it with"),
    "both": (["--closed-forms", "--evaluate", "a.pt"], "--closed-forms and --evaluate: give one of them"),
    "no checkpoint": (["--evaluate", "none/best.pt"], "none/best.pt"),
    "unknown": (["--closed-forms", "--lokahead", "3"], "unknown flag '--lokahead', the nearest is --lookahead"),
    "shortened": (["--closed-forms", "--look", "3"], "unknown flag '--look', the nearest is --lookahead"),
    "lookahead 0": (["--closed-forms", "--lookahead", "0"], "'0' is not a whole number from 1 to 1000"),
    "lookahead -1": (["--closed-forms", "--lookahead", "-1"], "--lookahead"),
    "lookahead 1001": (["--closed-forms", "--lookahead", "1001"], "'1001' is not a whole number from 1"),
    "lookahead x": (["--closed-forms", "--lookahead", "ten"], "'ten' is not a whole number"),
    "even": (["--closed-forms", "--orbits", "27,28"], "28 is even; the map is on odd numbers above 0"),
    "zero": (["--closed-forms", "--orbits", "0"], "0 is even; the map is on odd numbers above 0"),
    "negative": (["--closed-forms", "--orbits=-27"], "'-27' is not a whole number"),
    "no start": (["--closed-forms", "--orbits", ""], "'' is not a whole number"),
    "gap": (["--closed-forms", "--orbits", "27,,703"], "'' is not a whole number"),
    "twice": (["--closed-forms", "--orbits", "27,703,027"], "027 is given twice"),
    "too long": (["--closed-forms", "--orbits", "7" * (MOST_DIGITS + 1)], f"at most {MOST_DIGITS} digits"),
    "no file": (
        ["--closed-forms", "--eval-csv", "none.csv"],
        "there is no such file; make one with: python",
    ),
    "no folder": (["--closed-forms", "--json", "none/out.json"], "there is no such folder"),
}


@pytest.mark.parametrize(("words", "expected"), BAD.values(), ids=BAD.keys())
def test_mistakes(words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *words)
    assert expected in line and len(line) < 400
    assert list(tmp_path.iterdir()) == []


def test_the_longest_start_that_is_taken_can_be_reported() -> None:
    """Its orbit's largest number may have log2 3 times its digits, as that of 2^m - 1 has."""
    bits = int(MOST_DIGITS / 0.30103) - 1
    assert len(str(2**bits - 1)) <= MOST_DIGITS and len(str(3**bits)) < 4300


def test_a_bad_row_ends_the_command_before_anything_is_written(
    eval_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = eval_csv.read_text().splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join([*lines, lines[5]]) + "\n")
    line = refused(capsys, "--closed-forms", "--eval-csv", other, "--json", "out.json")
    assert "other.csv, row 401 (line 402): n = " in line and "is also in row 5" in line
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]


def test_the_evaluation_file_is_never_overwritten(
    eval_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link.csv"
    link.symlink_to(eval_csv)
    before = eval_csv.read_bytes()
    line = refused(capsys, "--closed-forms", "--eval-csv", eval_csv, "--json", link)
    assert "is the file of --eval-csv and would be overwritten" in line
    assert eval_csv.read_bytes() == before and link.is_symlink()


def test_a_report_is_replaced_by_its_like_only(
    eval_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same command, on the same evaluation file; the place of the report may be typed otherwise."""
    typed = ["collatz.py", "--closed-forms", "--orbits", "27", "--eval-csv", str(eval_csv)]

    def closed_forms(*words: str, file: Path = eval_csv) -> str:
        monkeypatch.setattr(sys, "argv", [*typed, *words])
        return refused(capsys, "--closed-forms", "--orbits", "27", "--eval-csv", file, *words)

    monkeypatch.setattr(sys, "argv", [*typed, "--json", "out.json"])
    run("--orbits", "27", "--eval-csv", eval_csv, "--json", "out.json")
    before = (tmp_path / "out.json").read_bytes()
    assert "what another command measured" in closed_forms("--lookahead", "5", "--json", "out.json")
    other = tmp_path / "eval.csv"
    build_eval(["--rows", "50", "--seed", "9", "--output-csv", str(other)])
    assert "reports on another evaluation file" in closed_forms("--json", "out.json", file=other)
    assert (tmp_path / "out.json").read_bytes() == before
    monkeypatch.setattr(sys, "argv", [*typed, f"--json={tmp_path}/out.json"])
    run("--orbits", "27", "--eval-csv", eval_csv, "--json", "out.json")
    assert read(tmp_path / "out.json")["environment"]["argv"][-1].startswith("--json=")


def test_a_full_disk_keeps_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    old = '{"record": {}}'
    (tmp_path / "out.json").write_text(old)
    monkeypatch.setattr(command_line, "write_json_atomically", full)
    assert "No space left on device" in refused(capsys, "--closed-forms", "--orbits", "27", "--json", "out.json")
    assert (tmp_path / "out.json").read_text() == old


def test_as_a_command(tmp_path: Path) -> None:
    words = [str(ROOT / "collatz.py"), "--closed-forms", "--lookahead", "20", "--orbits", "27,703,8400511"]
    done = subprocess.run(
        [sys.executable, *words, "--json", "orbits.json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert read(tmp_path / "orbits.json")["V_max"]["orbits"]["8400511"]["steps"] == 256
    wrong = subprocess.run([sys.executable, words[0], "--orbits", "4"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "Traceback" not in wrong.stderr
