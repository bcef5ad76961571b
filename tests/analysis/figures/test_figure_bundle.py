"""The bundle: every number of its words is one of the results, it repeats itself, and says what it lacks."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.figures import make_figure_bundle
from analysis.figures.bundle_letter import answer, email
from analysis.figures.bundle_sources import FIG3, FIG4, find_sources
from analysis.figures.bundle_text import FIG1, FIG2, captions
from analysis.figures.made_of import results_folder
from analysis.spectra import spectrum_over_runs
from analysis.spectra.spectrum_files import spectrum_store
from analysis.spectra.spectrum_summary import write_summary
from analysis.spectra.spectrum_table import SpectrumTable
from errors import UserError


def table(label: str, model: str, seed: int, *, objective: str = "act_streaming", shift: float = 0.25) -> SpectrumTable:
    """40 puzzles, 6 steps, 3 exponents; a third fails, with a leading exponent larger by `shift` on average."""
    rng = np.random.default_rng(seed)
    n, steps, k = 40, 6, 3
    failed = np.arange(n) % 3 == 0
    growth = rng.normal(size=(n, steps, k)) * 0.3 - np.arange(k) + shift * failed[:, None, None]
    exact = np.repeat(~failed[:, None], steps, axis=1)
    positive = rng.uniform(0.1, 1, size=(n, steps))
    arrays: dict[str, Any] = {
        "row": np.arange(n), "step_growth": growth, "sub_update_growth": growth, "svd_exponents": growth.mean(axis=1),
        "condition_log": np.ones(n), "first_nonfinite": -np.ones(n), "flag_rank_lost": np.zeros(n, bool),
        "exact": exact, "q_halt": -positive, "drift": positive, "norm": positive, "margin": positive,
        "entropy": positive, "changed": np.ones((n, steps), int), "residual": positive[:, 0],
        "givens": np.arange(n) % 7, "rating": np.full(n, -1),
    }  # fmt: skip
    settings = {"model": model, "objective": objective, "sub_updates_per_step": 6, "train_seed": seed, "seed": 0,
                "weights_sha256": label}  # fmt: skip
    return SpectrumTable(label, arrays, settings)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, tables: list[SpectrumTable]) -> dict[str, Any]:
    """As analysis/spectra/lyapunov_spectrum.py leaves a folder, in the place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    for table in tables:
        run_folder = folder if len(tables) == 1 else folder / table.label
        store = spectrum_store(run_folder, table.settings)
        store.add(table.arrays)
        store.finish(table.arrays["row"])
    origin = {
        "command": "python analysis/spectra/lyapunov_spectrum.py ...",
        "git": {"commit": "c0ffee", "dirty": False},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectrum_over_runs, "DRAWS_OVER_RUNS", 100)  # these take most of the time
        return write_summary(folder, tables, burn_in=2, draws=200, seed=0, origin=origin)


def test_a_matched_sample_is_said_to_be_one(tmp_path: Path) -> None:
    """Of the file those rows that are of the sample now; letter and captions say what was measured of how many."""
    whole = table("a", "TRM-att", 0)
    described = {"kind": "case-control", "pool": 900, "failed": 90, "strata": 4}
    of_sample = np.arange(len(whole)) % 8 != 3
    arrays = {name: array[of_sample] for name, array in whole.arrays.items()}
    sampled = SpectrumTable("a", arrays, whole.settings | {"sample": described})
    write(tmp_path / "cc", [sampled])
    for path in (tmp_path / "cc").glob("*.npz"):
        path.unlink()
    store = spectrum_store(tmp_path / "cc", whole.settings)
    store.add(whole.arrays)
    store.finish(arrays["row"], np.full(len(sampled), 2.0))
    sources = find_sources([tmp_path / "cc"])
    (read,) = sources.spectra[0].tables
    assert np.array_equal(read.arrays["row"], arrays["row"])
    failed = int(sampled.failed.sum())
    words = f"810 of 900 puzzles, of which {failed} failed and {len(sampled) - failed} solved ones, equally hard, were"
    assert words in email(sources, [FIG1, FIG2])
    assert words.replace("puzzles", "solved") in captions(sources, [FIG1])


def test_a_network_beside_another_way_of_training_it_is_spoken_of(results: Path) -> None:
    """Measured together, as docs/dynamics.md does; figures show the plain one where another plain one stands beside."""
    both = find_sources([results / "multi"])
    letter = email(both, [FIG1, FIG2])
    assert "in 1 of 1 network" in letter and "TRM-att solves" in letter and "no network has both" not in letter
    assert "TRM-att multi solves" not in letter
    assert [table.model for table in both.compared[0].tables] == ["TRM-att", "TRM-att multi"]
    beside = find_sources([results / "multi", results / "hrm"])
    assert [table.model for result in beside.compared for table in result.tables] == ["HRM", "TRM-att"]
    assert "in 2 of 2 networks" in email(beside, [FIG1])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write(folder / "trm", [table("a", "TRM-att", 0), table("b", "TRM-att", 1)])
    write(folder / "hrm", [table("c", "HRM", 2)])
    write(folder / "multi", [table("a", "TRM-att", 0), table("d", "TRM-att", 0, objective="multi", shift=0.05)])
    (folder / "empty").mkdir()
    return folder


def test_without_figures_three_and_four(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle_20261125"
    names = [str(results / name) for name in ("trm", "hrm", "multi")]
    make_figure_bundle.main(["--runs", *names, "--out", str(out)])
    assert f"left out: {FIG3}, {FIG4}" in capsys.readouterr().out
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    figures = [f"figures/{name}.{suffix}" for name in (FIG1, FIG2) for suffix in ("csv", "json", "png", "svg")]
    notes = [".made_of.json", ".written.json", "figures/.made_of.json"]
    assert files == sorted([*figures, *notes, "README.md", "email_draft.md", "figure_captions.md"])
    readme, letter = (out / "README.md").read_text(), (out / "email_draft.md").read_text()
    assert "Prepared on 2026-11-25." in readme and f"`{FIG3}`: no result of analysis/arms/peak_vs_final.py" in readme
    assert "(Fig. 1)" in letter and "(Fig. 2" in letter and "(Fig. 3)" not in letter and "(Fig. 4)" not in letter

    summary = json.loads((results / "trm" / "summary.json").read_text())
    over_runs = summary["models"]["TRM-att"]["lambda1"]
    for name in ("median_solved", "median_failed"):
        assert f"{over_runs[name]['mean']['value'] / 6:.3f} [" in letter
    assert f"AUROC of {over_runs['auroc']['mean']['value']:.3f}" in letter
    assert "TRM-att solves 52 of 80 puzzles in 2 runs;" in letter and "HRM solves 26 of 40 puzzles;" in letter
    hrm = json.loads((results / "hrm" / "summary.json").read_text())["runs"][0]["lambda1"]["auroc"]
    assert f"{hrm['value']:.3f} [{hrm['low']:.3f}, {hrm['high']:.3f}]" in letter
    assert "larger leading exponent (Fig. 1)? Yes, in 2 of 2 networks." in letter
    assert "Dear [name]," in letter and "[your name]" in letter and "Figs. 1 and 2 are attached" in letter
    assert "perturbed" not in letter and "they say what was looked for" in readme

    numbers = json.loads((out / "figures" / f"{FIG1}.json").read_text())
    (first, *_) = numbers["measurements"]
    assert first["commit"] == "c0ffee" and [run["train_seed"] for run in first["runs"]] == [0, 1]
    assert sum(run["failed"] for run in first["runs"]) == 28
    drawn = (out / "figures" / f"{FIG1}.csv").read_text().splitlines()
    assert len(drawn) == 1 + 120  # plainly pretrained networks only; the others are in the table of differences
    captions = (out / "figure_captions.md").read_text()
    assert "| TRM-att multi | TRM-att | lambda1_median_failed | -" in captions

    before = contents(out)
    make_figure_bundle.main(["--runs", *names, "--out", str(out)])
    assert contents(out) == before


@pytest.mark.parametrize("controls", [[], ["TRM batch 64", "TRM updates=1200"]])
def test_figures_that_others_drew(
    results: Path, tmp_path: Path, controls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    peak, rollouts = tmp_path / "peak", tmp_path / "ptrm"
    difference = {"arm": "TRM multi4", "baseline": "TRM", "moment": "best",
                  "start": "the initial state",
                  "interval": {"mean": -0.0123, "low": -0.03, "high": 0.0054, "n": 5}}  # fmt: skip
    final = difference | {"moment": "final", "interval": {"mean": 0.5, "low": None, "high": None, "n": 1}}
    arms = [{"label": label} for label in ("TRM", "TRM multi4", *controls)]
    numbers = {
        FIG3: (peak, f"{FIG3}.json", {"arms": arms, "differences": [difference, final]}),
        FIG4: (rollouts, "summary.json", {
            "correlation_of_q_and_growth": [{"within": {"value": -0.345, "interval95": [-0.5, -0.1]}}],
            "solved_partly": 17, "puzzles": 99, "steps": [16],
        }),
    }  # fmt: skip
    for name, (folder, file, content) in numbers.items():
        folder.mkdir()
        for suffix in ("png", "svg", "csv", "txt"):
            (folder / f"{name}.{suffix}").write_text(f"{name} {suffix}")
        (folder / file).write_text(json.dumps(content))
    out = tmp_path / "bundle_20261125"
    make_figure_bundle.main(["--runs", str(results / "trm"), str(peak), str(rollouts), "--out", str(out)])
    letter = (out / "email_draft.md").read_text()
    gaps = (
        "-1.23 points [-3.00, 0.54] (5 seeds) with the best weights and +50.00 points (1 seed) with the final weights."
    )
    assert gaps in letter
    captions = (out / "figure_captions.md").read_text()
    named = "Beside them stand TRM batch 64 and TRM updates=1200." in letter
    assert named == ("compare with TRM batch 64, TRM updates=1200." in captions) == bool(controls)
    assert ("control" in letter, "no control of equal compute" in captions) == (False, not controls)
    # What need not be attached is in no letter; its paragraph stands under its caption.
    assert "Fig. 4" not in letter and "17 of 99" not in letter and "Figs. 1, 2 and 3 are attached" in letter
    assert "(17 of 99), is -0.34 [-0.50, -0.10]" in captions
    for name in (FIG3, FIG4):
        assert (out / "figures" / f"{name}.png").read_text() == f"{name} png"
        assert f"{name} txt" in (out / "figure_captions.md").read_text()
    assert json.loads((out / "figures" / f"{FIG4}.json").read_text())["puzzles"] == 99

    # Beside its picture lies the summary of another analysis.
    (rollouts / "summary.json").write_text(json.dumps({"models": {}, "runs": []}))
    with pytest.raises(SystemExit) as caught:
        make_figure_bundle.main(["--runs", str(rollouts), "--out", str(tmp_path / "bundle_20261126")])
    assert caught.value.code == 2

    # A bundle of other results is refused; where its words are removed, what is missing then disappears, and is named.
    before = contents(out)
    with pytest.raises(SystemExit):
        make_figure_bundle.main(["--runs", str(peak), "--out", str(out)])
    error = capsys.readouterr().err
    assert f"now ../peak (seen from its folder): name another --out, or remove what is there: rm {out}" in error
    assert contents(out) == before
    for word in shlex.split(error.rpartition(": rm ")[2]):
        Path(word).unlink()
    make_figure_bundle.main(["--runs", str(peak), "--out", str(out)])
    left = {path.name.partition(".")[0] for path in (out / "figures").iterdir()} - {""}
    assert left == {FIG3}
    said, gone = capsys.readouterr().err, {path for path in before if path.name.startswith((FIG1, FIG2, FIG4))}
    assert len(gone) == 12 and all(f"warning: {path} is removed: it no longer belongs" in said for path in gone)
    # Its figures are as safe from the script that draws one of them.
    with pytest.raises(UserError, match=rf"{FIG3}.csv was made of ../../peak, now ../../a, ../../b .*another --out"):
        results_folder(out / "figures", ["peak_vs_final", FIG3], [tmp_path / "a", tmp_path / "b"])
    (peak / f"{FIG3}.svg").unlink()
    with pytest.raises(SystemExit):
        make_figure_bundle.main(["--runs", str(peak), "--out", str(out)])


def test_what_a_person_edits_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, results_of_two = tmp_path / "bundle_20261125", tmp_path / "results"
    write(results_of_two / "trm", [table("a", "TRM-att", 0), table("b", "TRM-att", 1)])
    write(results_of_two / "hrm", [table("c", "HRM", 2)])

    def make(*names: str) -> str:
        make_figure_bundle.main(["--runs", *(str(results_of_two / name) for name in names), "--out", str(out)])
        return capsys.readouterr().err

    assert make("trm", "hrm") == ""
    letter, drawing = out / "email_draft.md", out / "figures" / f"{FIG1}.svg"
    generated = letter.read_text()
    letter.write_text("Dear colleague,")
    drawing.write_text("<svg>mine</svg>")
    # The same results: nothing new is to be said.
    assert make("trm", "hrm").count("edited and stays; there is nothing new for it") == 2
    assert not list(out.rglob("*_new*"))
    # New numbers of the same results stand beside what was edited, and are renewed there until they are edited too.
    write(results_of_two / "trm", [table("a", "TRM-att", 0), table("e", "TRM-att", 3)])
    for _ in range(2):
        said = make("trm", "hrm")
        assert f"{letter} was edited and stays; the new one is email_draft_new.md" in said
        assert letter.read_text() == "Dear colleague," and drawing.read_text() == "<svg>mine</svg>"
        new = letter.with_name("email_draft_new.md")
        assert new.read_text() not in (generated, "Dear colleague,") and "(Fig. 1)" in new.read_text()
        assert {path.name for path in out.rglob("*_new*")} == {new.name, f"{FIG1}_new.svg"}
    new.write_text("mine too")
    write(results_of_two / "hrm", [table("f", "HRM", 4)])
    make("trm", "hrm")
    assert new.read_text() == "mine too" and "(Fig. 1)" in letter.with_name("email_draft_new2.md").read_text()


def test_a_bundle_of_which_it_is_not_known_what_was_edited_stays(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle_20261125"
    out.mkdir()
    for content in ("", "no JSON"):
        (out / "email_draft.md").write_text("mine")
        if content:
            (out / ".written.json").write_text(content)
        make_figure_bundle.main(["--runs", str(results / "hrm"), "--out", str(out)])
        assert (out / "email_draft.md").read_text() == "mine"


@pytest.mark.parametrize("name", ["bundle", "bundle_2026", "bundle_20261341", "20261125"])
def test_the_name_holds_a_date(results: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        make_figure_bundle.main(["--runs", str(results / "hrm"), "--out", str(tmp_path / name)])
    assert caught.value.code == 2 and "ends with a date" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("yes", "of", "words"),
    [(2, 2, "Yes, in 2 of 2 networks"), (0, 1, "No, in 0 of 1 network"), (1, 3, "Partly, in 1 of 3 networks")],
)
def test_a_question_is_answered_by_counting(yes: int, of: int, words: str) -> None:
    assert answer(yes, of) == words


def test_networks_with_one_outcome_answer_nothing(tmp_path: Path) -> None:
    alone = table("c", "HRM", 2)
    alone.arrays["exact"][:] = True
    write(tmp_path / "hrm", [alone])
    make_figure_bundle.main(["--runs", str(tmp_path / "hrm"), "--out", str(tmp_path / "bundle_20261125")])
    letter = (tmp_path / "bundle_20261125" / "email_draft.md").read_text()
    assert letter.count("That cannot be said yet, as no network has both outcomes.") == 2
    assert "HRM solves 40 of 40 puzzles, so there is nothing to tell apart." in letter


def test_folders_that_hold_nothing_are_named(results: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        make_figure_bundle.main(["--runs", str(results / "empty"), "--out", str(tmp_path / "bundle_20261125")])
    assert not (tmp_path / "bundle_20261125").exists()


@pytest.mark.parametrize(("names", "copied"), [(["hrm"], "hrm"), (["hrm", "multi"], "multi"), (["trm"], "one")])
def test_a_measurement_given_twice_is_refused(results: Path, tmp_path: Path, names: list[str], copied: str) -> None:
    """A copy of a folder, also of one that no figure shows, and a network of one in a folder of its own."""
    if copied == "one":
        write(tmp_path / "one", [table("b", "TRM-att", 1)])
    else:
        shutil.copytree(results / copied, tmp_path / copied)
    with pytest.raises(UserError, match=rf"{tmp_path / copied} holds the same as .* and would count twice: name one"):
        find_sources([*(results / name for name in names), tmp_path / copied])


def test_the_rows_of_the_summary_are_drawn(results: Path) -> None:
    (only,) = find_sources([results / "hrm"]).spectra
    assert [len(table) for table in only.tables] == [40] and re.fullmatch("c", only.tables[0].label)
