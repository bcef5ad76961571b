"""The script on two tiny runs: what it writes, that it goes on, that it repeats itself, what it refuses."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis.samples import case_control
from analysis.samples.measured_rows import remove_parts
from analysis.spectra import lyapunov_spectrum, spectrum_over_runs
from analysis.spectra.spectrum_files import read_arrays
from tests.helpers import changed_flags, refused_line, train_here

OPTIONS = ["--num-puzzles", "10", "--num-steps", "4", "--num-exponents", "3", "--batch-size", "4", "--draws", "200",
           "--extended-steps", "8", "--replicate", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(sudoku6_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train_here("trm_att", sudoku6_folder, folder / f"seed{seed}", ["max_steps=2", f"seed={seed}"])
    return [folder / f"seed{seed}" / "best.pt" for seed in (0, 1)]


@pytest.fixture(autouse=True)
def few_draws_over_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum_over_runs, "DRAWS_OVER_RUNS", 100)


def run(checkpoints: list[Path], out: Path, *options: str) -> None:
    names = [str(path) for path in checkpoints]
    lyapunov_spectrum.main(["--checkpoint", *names, "--out", str(out), *changed_flags(OPTIONS, options)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_run(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(runs[:1], tmp_path / "a")
    arrays = read_arrays(tmp_path / "a" / "spectrum.npz")
    assert arrays["step_growth"].shape == (10, 4, 3) and arrays["extended_growth"].shape == (10, 4)
    with (tmp_path / "a" / "spectrum.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = arrays["step_growth"][:, 1:].mean(axis=1)
    np.testing.assert_allclose([float(row["lambda_2"]) for row in rows], expected[:, 1], rtol=1e-8)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    (only,) = summary["runs"]
    assert only["burn_in"] == 1 and only["model"] == "TRM-att" and only["n"] == 10
    assert only["exact_accuracy"]["denominator"] == 10
    assert only["long_rollout"]["num_steps"] == 8 and only["beyond_baselines"]["nested"]["all"]["num_baselines"] == 7
    leading = np.median(expected[:, 0])
    assert only["lambda1"]["median_failed"]["value"] == pytest.approx(leading)  # an untrained run solves nothing
    assert only["lambda1"]["auroc"] == {"value": None, "low": None, "high": None, "reason": "all 10 puzzles failed"}
    for name in ("lambda1_success_failure", "spectrum_shift", "long_rollout"):
        for suffix in ("png", "pdf", "svg", "csv", "txt"):
            assert (tmp_path / "a" / f"{name}.{suffix}").stat().st_size > 0

    before = contents(tmp_path / "a")
    run(runs[:1], tmp_path / "a")  # nothing is measured again, and all of it is written alike
    after = contents(tmp_path / "a")
    assert {name for name in before if before[name] != after.get(name)} <= {"summary.json", ".written.json"}

    run(runs[:1], tmp_path / "a", "--num-puzzles", "12")  # the later option wins: two rows more
    longer = read_arrays(tmp_path / "a" / "spectrum.npz")
    assert len(longer["row"]) == 12
    np.testing.assert_array_equal(longer["step_growth"][:8], arrays["step_growth"][:8])
    assert "spectrum_shift.csv was made with --num-puzzles 10, now 12: it is made anew" in capsys.readouterr().err
    before = contents(tmp_path / "a")
    for options in (
        ["--num-puzzles", "6"],
        ["--num-puzzles", "12", "--draws", "300"],
        ["--num-puzzles", "12", "--extended-steps", "0"],
    ):
        words = ["--checkpoint", runs[0], "--out", tmp_path / "a", *changed_flags(OPTIONS, options)]
        error = refused_line(capsys, lyapunov_spectrum.main, words)
        assert f", now {options[-1]}: name another --out, or remove what is there: rm {tmp_path}" in error
    assert contents(tmp_path / "a") == before


def test_a_case_control_sample(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates are of the pool, spectra of the sample; the answers of all are kept. Of one outcome that is said."""
    words = ["--checkpoint", runs[0], "--out", tmp_path / "x", *changed_flags(OPTIONS, ("--sample", "case-control"))]
    assert "expected at least 2" in refused_line(
        capsys, lyapunov_spectrum.main, [*changed_flags(words, ("--num-puzzles", "1"))]
    )
    run(runs[:1], tmp_path / "b", "--sample", "case-control")
    assert "all of 32 test puzzles failed: there is nothing" in capsys.readouterr().err
    assert (tmp_path / "b" / "answered.npz").is_file()
    (only,) = json.loads((tmp_path / "b" / "summary.json").read_text())["runs"]
    assert (
        only["n"] == 10
        and only["lambda1"]["reason"] == "all 10 puzzles failed"
        and only["exact_accuracy"]["value"] == 0
    )

    def every_fourth(network: object, rows: np.ndarray, *rest: object) -> dict[str, np.ndarray]:
        failed = np.arange(len(rows)) % 4 == 0
        return {"failed": failed, "drift": np.where(failed, 0.5, 1e-5)[:, None]}

    monkeypatch.setattr(case_control, "answered", every_fourth)
    run(runs[:1], tmp_path / "a", "--sample", "case-control")
    (only,) = json.loads((tmp_path / "a" / "summary.json").read_text())["runs"]
    assert {name: only["sample"][name] for name in ("kind", "pool", "failed")} == {
        "kind": "case-control", "pool": 32, "failed": 8,
    }  # fmt: skip
    settled = only["settled_by_correct"]["correct_given_settled"]
    assert (settled["numerator"], settled["denominator"]) == (24, 24), (
        "of the pool, not of a sample that is half failed"
    )
    assert only["long_rollout"]["exact_count_by_step"] is None
    assert (only["exact_accuracy"]["numerator"], only["exact_accuracy"]["denominator"]) == (24, 32)
    arrays = read_arrays(tmp_path / "a" / "spectrum.npz")
    assert arrays["weight"].sum() == pytest.approx(32)
    with (tmp_path / "a" / "spectrum.csv").open() as file:
        assert sum(float(line["weight"]) for line in csv.DictReader(file)) == pytest.approx(32)
    assert len(arrays["row"]) == only["n"] and 5 < only["n"] <= 10, "of a stratum with few solved puzzles all"
    caption = (tmp_path / "a" / "lambda1_success_failure.txt").read_text()
    assert f"24 of 32 solved, of which 0, and {only['n']} failed ones, were measured" in caption, "it solves nothing"


def test_two_runs(runs: list[Path], tmp_path: Path) -> None:
    run(runs, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [entry["label"] for entry in summary["runs"]] == ["seed0_best", "seed1_best"]
    joint = summary["models"]["TRM-att"]
    assert joint["lambda1"]["median_failed"]["same_puzzles"] and joint["lambda1"]["median_failed"]["runs"] == 2
    both = [entry["lambda1"]["median_failed"]["value"] for entry in summary["runs"]]
    assert joint["lambda1"]["median_failed"]["mean"]["value"] == pytest.approx(np.mean(both))
    assert (tmp_path / "seed1_best" / "spectrum.csv").exists() and not (tmp_path / "spectrum.csv").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--num-exponents", "0"], "--num-exponents 0: expected at least 1"),
        (["--burn-in", "4"], "--burn-in 4: expected 0 to 3"),
        (["--extended-steps", "3"], "--extended-steps 3: expected 0 or more than --num-steps 4"),
        (["--qr-interval", "5"], "does not divide the"),
        (["--num-exponents", "99999"], "num_exponents=99999: the state has"),
        (["--data-path", "nowhere"], "nowhere"),
    ],
)
def test_refusals(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    words = ["--checkpoint", runs[0], "--out", tmp_path / "x", *changed_flags(OPTIONS, options)]
    assert says in refused_line(capsys, lyapunov_spectrum.main, words)


def test_two_runs_of_one_name_are_refused(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run([runs[0], runs[0]], tmp_path)
    assert "two checkpoints are called seed0_best" in capsys.readouterr().err
    copied = tmp_path / "copied"
    shutil.copytree(runs[0].parent, copied)
    words = ["--checkpoint", runs[0], copied / "best.pt", "--out", tmp_path / "x"]
    assert f"best.pt holds the same as {runs[0]} and would count" in refused_line(capsys, lyapunov_spectrum.main, words)


def test_a_measurement_of_other_networks_is_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One network, then two, and two, then others: neither replaces what is there."""
    quick = ["--num-steps", "2", "--burn-in", "0", "--extended-steps", "0", "--num-puzzles", "4"]
    finals = [path.with_name("final.pt") for path in runs]
    for first, others in ((runs[:1], [runs, finals]), (runs, [finals, runs[:1]])):
        out = tmp_path / str(len(first))
        run(first, out, *quick)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for other in others:
            words = ["--checkpoint", *other, "--out", out, *changed_flags(OPTIONS, quick)]
            assert "name another" in refused_line(capsys, lyapunov_spectrum.main, words)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    words = ["--checkpoint", runs[0], "--out", runs[0].parent, *changed_flags(OPTIONS, quick)]
    assert "is the folder of a run, whose summary.json would be replaced" in refused_line(
        capsys, lyapunov_spectrum.main, words
    )


def test_a_folder_of_parts_with_something_else_in_it_stays(tmp_path: Path) -> None:
    for name in ("rows_00000000.npz", "my_notes.md"):
        (tmp_path / name).write_text("")
    remove_parts(tmp_path, "rows_*.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["my_notes.md"]
    (tmp_path / "my_notes.md").unlink()
    remove_parts(tmp_path, "rows_*.npz")
    assert not tmp_path.exists()
