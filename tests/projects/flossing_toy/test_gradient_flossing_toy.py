"""The flossing toy's script: cells that survive stops, several processes on one folder, and what the report says."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from projects.flossing_toy import gradient_flossing_toy
from projects.flossing_toy.cells import CellFolder, FinishedCell, all_cells
from projects.flossing_toy.figures import LOOKS, NAMES
from projects.flossing_toy.summary import accuracies, claims, flossing_effects
from projects.flossing_toy.toy_training import ARMS, Cell, ToySettings
from scripts.record_sources import gathered
from tests.helpers import ROOT, wait_until

SIZES = """--num-units 14 --num-steps 16 --batch-size 4 --epochs 20 --num-exponents 10 --window 10 --transient 3
    --floss-updates 8 --inter-every 6 --block 5 --eval-batches 2 --measured-sequences 2""".split()
CHOICE = "--seeds 0,1 --delays 2,3 --tasks xor --arms none,pre,pre_inter".split()


def cells_of(folder: Path) -> dict[str, Any]:
    cells = {path.name: json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))}
    return {name: {key: entry for key, entry in value.items() if key != "seconds"} for name, value in cells.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flossing") / "whole"
    gradient_flossing_toy.main(["--out", str(folder), *CHOICE, *SIZES])
    return folder


def test_files_and_numbers(whole: Path) -> None:
    assert len(cells_of(whole)) == 12
    for stem in ("flossing_spectra", "flossing_accuracy", "flossing_curves"):
        assert all((whole / f"{stem}.{kind}").stat().st_size > 0 for kind in ("png", "svg", "csv", "json", "txt"))
        assert "seeds 0, 1" in (whole / f"{stem}.txt").read_text()
    report = json.loads((whole / "flossing_toy.json").read_text())
    assert report["cells"] == 12 and report["missing_cells"] == 0 and report["seeds"] == [0, 1]
    assert [one["name"] for one in report["claims"]][:2] == ["spectrum", "condition"]
    rows = list(csv.DictReader((whole / "flossing_toy.csv").open()))
    by_name = {f"{row['task']}_d{row['delay']}_{row['arm']}_s{row['seed']}.json": row for row in rows}
    for name, cell in cells_of(whole).items():
        assert float(by_name[name]["accuracy"]) == cell["final"]["accuracy"]
        assert int(by_name[name]["flossing_updates"]) == 8 * len(cell["episodes"])
    means = {(one["task"], one["delay"], one["arm"]): one["interval"]["mean"] for one in report["accuracy"]}
    pair = [cells_of(whole)[f"xor_d3_pre_s{seed}.json"]["final"]["accuracy"] for seed in (0, 1)]
    assert means["xor", 3, "pre"] == pytest.approx(sum(pair) / 2, abs=1e-15)
    spectra = list(csv.DictReader((whole / "flossing_spectra.csv").open()))
    assert len(spectra) == 2 * 2 * 10, "two seeds, before and after, ten ranks"


def test_the_recorder_reads_the_report(whole: Path) -> None:
    record = gathered([whole / "flossing_toy.json"])
    report = json.loads((whole / "flossing_toy.json").read_text())
    assert record["commands"] == [report["command"]] and record["seeds"] == [0, 1]
    assert record["dataset_hashes"] == ["synthetic"] and record["seconds"] == round(report["seconds"], 1)
    assert any(re.match(r"(holds|fails) \(condition\): log10 from ", text) for text in record["findings"])
    (one,) = (entry for entry in report["accuracy"] if (entry["delay"], entry["arm"]) == (3, "pre"))
    (number,) = (number for number in record["numbers"] if number.name == "xor, delay 3, pre: accuracy")
    assert number.value == pytest.approx(100 * one["interval"]["mean"], rel=1e-5) and number.n == 2
    assert record["numbers"][0].name == "xor, delay 2, pre_inter: accuracy"
    assert {number.name: number.value for number in record["numbers"]}["trainings"] == 12


def test_the_same_command_makes_nothing_again(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "cells").glob("*.json")}
    gradient_flossing_toy.main(["--out", str(whole), *CHOICE, *SIZES])
    assert {path: path.stat().st_mtime_ns for path in (whole / "cells").glob("*.json")} == before


def test_killed_inside_a_cell_and_started_again(whole: Path, tmp_path: Path) -> None:
    """SIGKILL while a cell is being written, then what a half-made one leaves: the same bits as undisturbed."""
    command = [
        sys.executable,
        str(ROOT / "projects" / "flossing_toy" / "gradient_flossing_toy.py"),
        "--out",
        str(tmp_path),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "RRS_TEST_SLEEP_IN_SAVE": "60"}
    process = subprocess.Popen([*command, *CHOICE, *SIZES], env=env, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: list((tmp_path / "cells").glob(".*.json.*.tmp")))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert cells_of(tmp_path) == {}
    gradient_flossing_toy.main(["--out", str(tmp_path), *CHOICE, *SIZES])
    assert cells_of(tmp_path) == cells_of(whole)
    assert not list((tmp_path / "cells").glob(".*.tmp"))


def test_two_parts_make_the_whole(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process trains its part while the other does: the folder is held only where the report is written."""
    train, others = gradient_flossing_toy.train_cells, list[subprocess.CompletedProcess[str]]()

    def beside_another(folder: CellFolder, cells: Sequence[Cell]) -> list[Cell]:
        command = [sys.executable, gradient_flossing_toy.__file__, "--out", str(tmp_path), "--part", "2/2"]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        others.append(subprocess.run([*command, *CHOICE, *SIZES], env=env, capture_output=True, text=True))
        return train(folder, cells)

    monkeypatch.setattr(gradient_flossing_toy, "train_cells", beside_another)
    gradient_flossing_toy.main(["--out", str(tmp_path), "--part", "1/2", *CHOICE, *SIZES])
    (other,) = others
    assert other.returncode == 0 and "6 of 12 cells are not finished" in other.stdout, other.stderr
    assert cells_of(tmp_path) == cells_of(whole)
    assert json.loads((tmp_path / "flossing_toy.json").read_text())["missing_cells"] == 0


def test_a_cell_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    folder, cell = CellFolder(tmp_path, ToySettings()), Cell("xor", 2, "none", 0)
    with folder.claim(cell) as first, folder.claim(cell) as second:
        assert first and not second
    with folder.claim(cell) as again:
        assert again
        folder.save(cell, {})
    with folder.claim(cell) as finished:
        assert not finished


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        gradient_flossing_toy.main(list(words))
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_other_settings_and_damaged_cells_are_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(capsys, "--out", str(whole), *CHOICE, *SIZES, "--lr", "0.5")
    assert "lr 0.001 -> 0.5" in error and "another --out" in error
    damaged = tmp_path / "cells" / "xor_d2_none_s0.json"
    damaged.parent.mkdir()
    for content in ("{", "{}", '{"cell": 1}'):
        damaged.write_text(content)
        error = refusal(capsys, "--out", str(tmp_path), *CHOICE, *SIZES)
        assert str(damaged) in error and "remove it" in error
        assert damaged.read_text() == content


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--arms", "none,flossed"], "--arms: found flossed, expected some of none, pre"),
        (["--tasks", ""], "--tasks: found nothing"),
        (["--delays", "10,x"], "argument --delays: 'x' is not a whole number from 1"),
        (["--delays", "0"], "'0' is not a whole number from 1"),
        (["--delays", "150"], "use --num-steps 600"),
        (["--part", "3/2"], "--part: found '3/2'"),
        (["--num-exponents", "90"], "at most --num-units 80"),
        (["--transient", "55"], "less than --window 55"),
        (["--lr", "nan"], "--lr: found nan"),
        (["--epoch", "5"], "--help lists the flags"),
        (["--report"], "holds no finished cell"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, "--out", str(tmp_path / "out"), *words)


def test_a_report_of_fewer_cells_replaces_no_other(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    before = (tmp_path / "out" / "flossing_toy.json").read_bytes()
    rest = [*CHOICE[2:], *SIZES, "--report"]
    said = refusal(capsys, "--out", str(tmp_path / "out"), "--seeds", "0", *rest)
    assert "was made with --seeds 0 1, now 0: name another --out" in said
    (tmp_path / "cells").symlink_to(whole / "cells")
    assert "no finished cell of these, but 12 of others" in refusal(
        capsys, "--out", str(tmp_path), "--seeds", "7", *rest
    )
    assert (tmp_path / "out" / "flossing_toy.json").read_bytes() == before


def test_every_arm_has_a_look_and_a_name() -> None:
    assert LOOKS.keys() == NAMES.keys() == ARMS.keys()
    looks = [(look["color"], look["marker"], look.get("linestyle")) for look in LOOKS.values()]
    assert len(set(looks)) == len(looks)


# -- the claims, on cells made up


def measured(when: str, exponent: float, mean_square: float, conditions: list[float]) -> dict[str, Any]:
    spectrum = {"exponents": [exponent] * 75, "mean_square": mean_square, "log10_condition": conditions}
    return {"when": when, "epochs": 0} | spectrum


def made_up(arm: str, seed: int, *, accuracy: float, reached: int | None, flat: float = 0.01) -> FinishedCell:
    measures = [measured("at the start", -0.3, 1.0, [50, 54])]
    if ARMS[arm].before:
        measures.append(measured("after flossing", -flat, flat, [5, 5]))
    values = [1.0 if reached is not None and epoch >= reached else 0.5 for epoch in range(10, 2001, 10)]
    result = {
        "measures": measures, "episodes": [{"grad_norms": [1.0, 3.0, 2.0]}] if ARMS[arm].before else [],
        "curve": {"last_epoch": list(range(10, 2001, 10)), "accuracy": values}, "final": {"accuracy": accuracy},
        "settings": {"block": 10}, "seconds": {},
    }  # fmt: skip
    return FinishedCell(Cell("xor", 10, arm, seed), result)


def verdicts(cells: list[FinishedCell]) -> list[bool | None]:
    return [one.holds for one in claims(cells)]


def test_claims() -> None:
    cells = [made_up("none", 0, accuracy=0.6, reached=1000), made_up("none", 1, accuracy=0.5, reached=None)]
    flossed = [made_up("pre", seed, accuracy=0.9, reached=500) for seed in (0, 1)]
    both = [made_up("pre_inter", seed, accuracy=0.9, reached=400) for seed in (0, 1)]
    assert verdicts([*cells, *flossed, *both]) == [True, True, True, True]
    assert verdicts(cells) == [None, None, None, None]
    late = [flossed[0], made_up("pre", 1, accuracy=0.9, reached=None)]
    assert verdicts([*cells, *late, *both]) == [True, True, False, True]
    worse = [made_up("pre_inter", seed, accuracy=0.8, reached=400) for seed in (0, 1)]
    assert verdicts([*cells, *flossed, *worse]) == [True, True, True, False]
    steep = [flossed[0], made_up("pre", 1, accuracy=0.9, reached=500, flat=0.06)]
    assert verdicts([*cells, *steep, *both]) == [False, True, True, True]
    effect = flossing_effects(flossed)[0]
    assert effect.ratio == 100 and effect.log10_condition == (52, 5) and effect.largest_grad_norm == 3
    interval = accuracies(cells)[0].interval
    # t with one degree of freedom: 12.706 standard errors, which is more than there are accuracies.
    assert interval.mean == pytest.approx(0.55) and interval.bounds == (0, 1)
    closer = [made_up("none", 0, accuracy=0.56, reached=None), made_up("none", 1, accuracy=0.54, reached=None)]
    bounds = accuracies(closer)[0].interval.bounds
    assert bounds == pytest.approx((0.55 - 12.706 * 0.01, 0.55 + 12.706 * 0.01), abs=1e-4)


def test_cells_come_seed_by_seed() -> None:
    cells = all_cells(["xor", "copy"], [30, 10], ["none", "pre"], [0, 1])
    assert len(cells) == len(set(cells)) == 16
    assert [cell.seed for cell in cells] == [0] * 8 + [1] * 8
    assert [cell.delay for cell in cells][:8] == [10] * 4 + [30] * 4
